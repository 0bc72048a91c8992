/* Sets of strings as JSON Schema has them: an automaton and a length in code points. The length
 * stays outside of the automaton, so that maxLength 100000 costs nothing: {language, min, max} is
 * closed under intersection, and a complement is a union of at most three such sets. Only where a
 * question cannot be answered from shortest and longest lengths alone (a pattern whose lengths
 * have gaps, such as ^(ab)*$, between both bounds) is the length multiplied into the automaton,
 * under the budget: that is refused beyond about max_states / states of the pattern.
 *
 * A set that is made here is trimmed: bounds that the automaton implies are dropped (min 0, max
 * UINT32_MAX), an empty set has the empty automaton, and short lengths are folded in. */
#ifndef GRAMMAR_STRING_SET_H
#define GRAMMAR_STRING_SET_H

#include "grammar/automaton.h"

struct string_set {
    const struct automaton *automaton;
    uint32_t min, max; /* code points; UINT32_MAX: no bound */
};

/* Trims; min > max is the empty set. */
serverd_status string_set_make(struct grammar_budget *budget, const struct automaton *automaton,
                               uint32_t min, uint32_t max, struct string_set *out,
                               serverd_error *err);
serverd_status string_set_anything(struct grammar_budget *budget, struct string_set *out,
                                   serverd_error *err);

static inline bool string_set_is_empty(const struct string_set *set)
{
    return automaton_is_empty(set->automaton);
}

serverd_status string_set_intersect(struct grammar_budget *budget, const struct string_set *a,
                                    const struct string_set *b, struct string_set *out,
                                    serverd_error *err);
/* a without b, as n_out <= 3 disjoint sets, none of them empty. */
serverd_status string_set_subtract(struct grammar_budget *budget, const struct string_set *a,
                                   const struct string_set *b, struct string_set out[3],
                                   size_t *n_out, serverd_error *err);
/* Everything but a. */
serverd_status string_set_complement(struct grammar_budget *budget, const struct string_set *a,
                                     struct string_set out[3], size_t *n_out, serverd_error *err);
/* One set if the union is one: equal lengths, or equal automata with lengths that meet; else
 * *merged is false and *out is untouched. */
serverd_status string_set_union(struct grammar_budget *budget, const struct string_set *a,
                                const struct string_set *b, struct string_set *out, bool *merged,
                                serverd_error *err);

bool string_set_has(const struct string_set *set, const char *text, size_t n);

/* How many strings, at most `bound`. */
serverd_status string_set_count(struct grammar_budget *budget, const struct string_set *set,
                                uint64_t bound, uint64_t *out, serverd_error *err);

/* The length as a part of the automaton, whatever it costs within the budget. */
serverd_status string_set_fold(struct grammar_budget *budget, const struct string_set *set,
                               const struct automaton **out, serverd_error *err);

#endif
