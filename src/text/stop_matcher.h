/* Finds the first stop string in a choice's text as its bytes arrive, across token borders:
 * the earliest match, of several at one place the longest. One per choice, engine thread. */
#ifndef TEXT_STOP_MATCHER_H
#define TEXT_STOP_MATCHER_H

#include "serverd/status.h"

#include <stdbool.h>
#include <stdint.h>

struct stop_string {
    const char *bytes;
    uint32_t len; /* 1..LIMIT_STOP_BYTES */
};

struct stop_matcher;

/* The strings outlive the matcher. NULL: no memory. */
struct stop_matcher *stop_matcher_create(const struct stop_string *strings, uint32_t n);
void stop_matcher_destroy(struct stop_matcher *matcher);

/* Feed the bytes of one token. True if a stop string is complete: then *index is its number,
 * *begin and *end the byte offsets of the match in the whole text. */
bool stop_matcher_push(struct stop_matcher *matcher, const char *bytes, uint32_t len,
                       uint32_t *index, uint64_t *begin, uint64_t *end);

/* So many bytes of text are not searched: no match lies in them, nor across them. */
void stop_matcher_skip(struct stop_matcher *matcher, uint32_t len);

/* Bytes from the start that can no longer become part of a match. */
uint64_t stop_matcher_safe(const struct stop_matcher *matcher);

#endif
