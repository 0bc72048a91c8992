/* The machine that a schema, regex or grammar is compiled into: tables alone, immutable. matcher.h
 * runs it over bytes, as a pushdown automaton.
 *
 *   code      instructions of grammars and tags: sequences, alternatives, calls, repetitions
 *   value     a JSON value: words, numbers, strings, and unions of arrays and of objects
 *   array     bounds, what each item is, and what must be contained
 *   object    known names and classes of other names, and what belongs to each
 *   text      a set of strings: the inside of a JSON string, a number, or plain bytes
 *
 * Everything in it can be completed: what nothing satisfies was taken out when it was built. Where
 * that depends on the run (counts, names that are used up), the matcher asks array_can_finish and
 * object_can_finish.
 *
 * A machine produces or checks. Producing: one spelling of everything, names in one order.
 * Checking: whatever JSON allows. */
#ifndef GRAMMAR_MACHINE_H
#define GRAMMAR_MACHINE_H

#include "base/arena.h"
#include "grammar/dfa.h"
#include "grammar/grammar.h"
#include "grammar/json_text.h"
#include "grammar/number_set.h"
#include "grammar/string_set.h"

#include <stdbool.h>
#include <stdint.h>

#define MACHINE_NOTHING UINT32_MAX /* instead of a value: there is none */
#define MACHINE_NEEDS   6u         /* conditions of the kind "some item", "some property" */

/* Producing: dfa; of JSON strings it has the spelling between the quotes. Checking: set; numbers
 * have neither. */
struct machine_text {
    const struct dfa *dfa;
    const struct string_set *set;
    const uint8_t *reach; /* producing: see text_reach.h; NULL: not known */
    bool is_plain;        /* else the inside of a JSON string */
    bool is_anything;
    bool is_inexhaustible; /* whatever was read of it, infinitely many texts begin so */
};

/* Up to draft-04 an integer is a matter of spelling: 1.0 is none. Known where instances are checked
 * only; what is produced is spelled in one way. */
enum number_spelling { SPELLED_ANYHOW, SPELLED_PLAIN, SPELLED_OTHERWISE };

struct number_part {
    struct number_set set;
    enum number_spelling spelling;
};

struct machine_value {
    uint32_t words;        /* 1 null, 2 false, 4 true */
    const uint32_t *texts; /* strings */
    uint32_t n_texts;
    uint32_t number;                   /* producing: a text; checking: 0; or MACHINE_NOTHING */
    const struct number_part *numbers; /* checking */
    uint32_t n_numbers;
    uint32_t first_array, n_arrays;
    uint32_t first_object, n_objects;
};

struct machine_count {
    uint32_t min, max, from;
};

struct machine_array {
    uint32_t min, max;
    uint32_t n_prefix, n_needs;
    struct machine_count need[MACHINE_NEEDS]; /* counts of items that are what is needed */
    const uint32_t *values; /* [n_prefix + 1][1 << n_needs]: by index (the last: all others) and by
                               the needs that the item meets */
    bool is_unique;
    /* With needs: whether an array of so many items and hits can be finished, a bit per state;
     * index and counts saturate at `steps` and `step[]` (array_state). */
    const uint8_t *can_finish;
    uint32_t steps, step[MACHINE_NEEDS];
};

struct machine_key {
    const char *bytes; /* checking: UTF-8; producing: as it is spelled in JSON */
    uint32_t n;
    uint32_t order; /* place in production */
    bool is_required, is_possible;
};

struct machine_class {
    uint32_t text;
};

struct machine_object {
    uint32_t min, max; /* properties */
    uint32_t n_keys, n_possible, n_required, n_classes, n_needs;
    const struct machine_key *keys;  /* ascending by bytes */
    const uint32_t *by_order;        /* [n_possible] keys */
    const uint32_t *required_before; /* [n_possible + 1] of the first so many in order */
    const struct machine_class *classes;
    const uint32_t *key_values;   /* [n_keys][1 << n_needs] */
    const uint32_t *class_values; /* [n_classes][1 << n_needs] */
};

enum machine_op {
    OP_TEXT,   /* a: text; then the next instruction */
    OP_VALUE,  /* a: value; then the next */
    OP_CALL,   /* a: instruction; then the next */
    OP_SPLIT,  /* here and at a */
    OP_JUMP,   /* a */
    OP_REPEAT, /* a: instruction of the body, which returns; min..max times; then the next */
    OP_RETURN,
};

struct machine_code {
    uint32_t op, a, min, max;
};

struct machine {
    bool produces;
    enum json_whitespace whitespace; /* of production */
    const struct machine_code *code; /* begins at 0 */
    uint32_t n_code;
    const struct machine_value *values;
    uint32_t n_values;
    const struct machine_array *arrays;
    uint32_t n_arrays;
    const struct machine_object *objects;
    uint32_t n_objects;
    const struct machine_text *texts;
    uint32_t n_texts;
    const struct automaton *number_texts; /* checking: how numbers are spelled */
};

/* Index in can_finish of an array of so many items with so many hits. */
static inline uint32_t array_state(const struct machine_array *array, uint32_t index,
                                   const uint32_t *hits)
{
    uint32_t state = index < array->steps ? index : array->steps;
    for (uint32_t i = 0; i < array->n_needs; i++)
        state =
            state * (array->step[i] + 1) + (hits[i] < array->step[i] ? hits[i] : array->step[i]);
    return state;
}

static inline bool array_can_finish(const struct machine_array *array, uint32_t index,
                                    const uint32_t *hits)
{
    if (!array->can_finish)
        return index <= array->max;
    uint32_t state = array_state(array, index, hits);
    return array->can_finish[state / 8] >> (state % 8) & 1;
}

#endif
