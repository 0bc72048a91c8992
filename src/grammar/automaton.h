/* Deterministic finite automata over code points: the working form of every regular language of
 * this room, before it is spelled out in bytes (spelling.h). Working on code points makes lengths
 * equal to steps, complements exact (relative to well-formed text) and tables small.
 *
 * Every automaton that a function here gives back is minimal and in one canonical form: states are
 * numbered breadth-first, state 0 is the dead one (nothing is accepted from it, and it alone),
 * the start is 1, or 0 if the language is empty. So equal languages have equal tables, "empty" is
 * `start == 0`, and a walk that is not in state 0 can always be completed.
 *
 * Made in the budget's arena, immutable, shared freely while that arena lives. */
#ifndef GRAMMAR_AUTOMATON_H
#define GRAMMAR_AUTOMATON_H

#include "grammar/charset.h"

#define AUTOMATON_DEAD 0u

/* first..last belong to class `symbol`. */
struct class_range {
    uint32_t first, last, symbol;
};

struct automaton {
    uint32_t n_states, n_classes, start;
    uint32_t n_ranges;
    const struct class_range *ranges; /* ascending; together all scalar values */
    const uint32_t *next;             /* [n_states][n_classes] */
    const uint8_t *accepts;           /* [n_states], 0 or 1 */
    /* Lengths of what is accepted from a state: the shortest, and the longest (UINT32_MAX: no
     * bound). Of state 0: UINT32_MAX and 0. */
    const uint32_t *shortest, *longest; /* [n_states] */
};

/* A step by one code point; a surrogate or anything beyond U+10FFFF leads to the dead state. */
uint32_t automaton_step(const struct automaton *a, uint32_t state, uint32_t code_point);

/* UTF-8 text; ill-formed text is in no language. */
bool automaton_accepts(const struct automaton *a, const char *text, size_t n);

/* Languages from nothing. */
serverd_status automaton_nothing(struct grammar_budget *budget, const struct automaton **out,
                                 serverd_error *err);
serverd_status automaton_anything(struct grammar_budget *budget, const struct automaton **out,
                                  serverd_error *err);
/* Texts of min..max code points of `set`; max UINT32_MAX: no bound. */
serverd_status automaton_repeat_set(struct grammar_budget *budget, struct charset set, uint32_t min,
                                    uint32_t max, const struct automaton **out, serverd_error *err);

struct text_piece {
    const char *bytes; /* UTF-8; SERVERD_INVALID if ill-formed */
    size_t n;
};

/* Exactly these texts, thousands of them; order and repetitions do not matter. */
serverd_status automaton_literals(struct grammar_budget *budget, const struct text_piece *texts,
                                  size_t n_texts, const struct automaton **out, serverd_error *err);

/* Boolean operations and concatenation of languages. */
serverd_status automaton_intersect(struct grammar_budget *budget, const struct automaton *a,
                                   const struct automaton *b, const struct automaton **out,
                                   serverd_error *err);
serverd_status automaton_union(struct grammar_budget *budget, const struct automaton *a,
                               const struct automaton *b, const struct automaton **out,
                               serverd_error *err);
serverd_status automaton_subtract(struct grammar_budget *budget, const struct automaton *a,
                                  const struct automaton *b, const struct automaton **out,
                                  serverd_error *err);
serverd_status automaton_complement(struct grammar_budget *budget, const struct automaton *a,
                                    const struct automaton **out, serverd_error *err);
serverd_status automaton_concat(struct grammar_budget *budget, const struct automaton *a,
                                const struct automaton *b, const struct automaton **out,
                                serverd_error *err);
/* min..max times, one behind the other; max UINT32_MAX: no bound. */
serverd_status automaton_repeat(struct grammar_budget *budget, const struct automaton *a,
                                uint32_t min, uint32_t max, const struct automaton **out,
                                serverd_error *err);

/* Questions; `automaton_is_empty` and `automaton_equal` cost nothing or a comparison. */
static inline bool automaton_is_empty(const struct automaton *a)
{
    return a->start == AUTOMATON_DEAD;
}

bool automaton_is_anything(const struct automaton *a);
bool automaton_equal(const struct automaton *a, const struct automaton *b);
serverd_status automaton_includes(struct grammar_budget *budget, const struct automaton *whole,
                                  const struct automaton *part, bool *out, serverd_error *err);
serverd_status automaton_are_disjoint(struct grammar_budget *budget, const struct automaton *a,
                                      const struct automaton *b, bool *out, serverd_error *err);

/* How many texts are accepted, at most `bound` (1: the language is a constant). */
uint64_t automaton_count(const struct automaton *a, uint64_t bound);

/* A shortest accepted text, the first of them in code point order, NUL-terminated in the budget's
 * arena; *n is its bytes. The language must not be empty. */
serverd_status automaton_example(struct grammar_budget *budget, const struct automaton *a,
                                 const char **out, size_t *n, serverd_error *err);

/* All texts of a finite language of at most `max_texts`, in code point order, in the budget's
 * arena. SERVERD_TIMEOUT if there are more. */
serverd_status automaton_enumerate(struct grammar_budget *budget, const struct automaton *a,
                                   size_t max_texts, struct text_piece **out, size_t *n_out,
                                   serverd_error *err);

#endif
