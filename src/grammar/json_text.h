/* Reads what stands between the quotes of a JSON string byte by byte, in any spelling, and gives
 * its code points: the checker's way to a string's value. Plain data: copy it to fork, compare its
 * fields to join.
 *
 * Surrogates must come in pairs: a lone \ud800 has no code point, and the text is refused there. */
#ifndef GRAMMAR_JSON_TEXT_H
#define GRAMMAR_JSON_TEXT_H

#include "grammar/string_set.h"

struct json_reader {
    uint8_t phase;    /* 0: between code points */
    uint8_t n_left;   /* bytes or digits that this phase still reads */
    uint16_t high;    /* a high surrogate that waits for its low one */
    uint32_t partial; /* bits read so far */
};

enum json_reader_result {
    JSON_READER_REFUSED, /* no JSON string goes on like this */
    JSON_READER_MORE,    /* inside a code point */
    JSON_READER_CODE,    /* *code_point is complete */
    JSON_READER_QUOTE,   /* the closing quote, between code points */
};

enum json_reader_result json_reader_step(struct json_reader *reader, uint8_t byte,
                                         uint32_t *code_point);

/* The same with a set of strings behind it. Dead ends are seen when a code point is complete. */
struct string_run {
    struct json_reader reader;
    uint32_t state, count;
};

static inline struct string_run string_run_begin(const struct string_set *set)
{
    return (struct string_run){.state = set->automaton->start};
}

/* JSON_READER_REFUSED also if no string of the set begins so, and at the quote if the string that
 * ends there is not of the set. */
enum json_reader_result string_run_step(const struct string_set *set, struct string_run *run,
                                        uint8_t byte);

#endif
