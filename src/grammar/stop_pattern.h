/* Stops by regular expressions. A pattern is one automaton over bytes; a scanner looks for its
 * first match in a choice's text as the bytes arrive, across token borders: the one that ends
 * first, of several that end at one place the one that begins first. ^ and $ hold at the ends of a
 * match, wherever it lies.
 *
 *     text      ... a b a b a b | next bytes
 *     threads         ^   ^   ^            one for each place where a match may have begun, at most
 *                                          one in each state of the automaton: of two the older
 *
 * So a byte takes no more steps than the patterns have states. */
#ifndef GRAMMAR_STOP_PATTERN_H
#define GRAMMAR_STOP_PATTERN_H

#include "base/arena.h"
#include "base/clock.h"
#include "grammar/dfa.h"
#include "serverd/status.h"

/* The automaton lies in `keep`. SERVERD_INVALID: no regular expression, or one that matches the
 * empty text; SERVERD_UNSUPPORTED: no automaton expresses it; SERVERD_TIMEOUT: more than
 * LIMIT_STOP_PATTERN_STATES, or LIMIT_STOP_PATTERN_MS. */
serverd_status stop_pattern_compile(const char *text, size_t n, const struct clock *clock,
                                    struct arena *keep, const struct dfa **out, serverd_error *err);

struct stop_scanner;

/* The patterns outlive the scanner. NULL: no memory. One thread. */
struct stop_scanner *stop_scanner_create(const struct dfa *const *patterns, uint32_t n);
void stop_scanner_destroy(struct stop_scanner *scanner);

/* As of a stop_matcher (text/stop_matcher.h): the bytes of one token; true if a match is complete:
 * the pattern's number, and where the match lies in the whole text. Bytes that are not searched;
 * and how many bytes can no longer become part of a match. */
bool stop_scanner_push(struct stop_scanner *scanner, const char *bytes, uint32_t len,
                       uint32_t *index, uint64_t *begin, uint64_t *end);
void stop_scanner_skip(struct stop_scanner *scanner, uint32_t len);
uint64_t stop_scanner_safe(const struct stop_scanner *scanner);

#endif
