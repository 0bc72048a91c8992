/* Minimisation of a complete deterministic automaton, whatever its symbols are. */
#ifndef GRAMMAR_MINIMISE_INTERNAL_H
#define GRAMMAR_MINIMISE_INTERNAL_H

#include "grammar/budget.h"

#include <stdbool.h>

/* State 0 is dead: not accepting, all its transitions lead to itself. Others may be dead too, or
 * unreachable. */
struct raw_automaton {
    uint32_t n_states, n_classes, start;
    const uint32_t *next;  /* [n_states][n_classes] */
    const uint8_t *labels; /* [n_states]; states of different labels are not merged; an odd label
                              accepts */
    bool is_minimal;       /* it is known to be, and all states are reachable and alive */
};

/* new_state[old]: breadth-first from the start, which is 1; 0 for all from which nothing is
 * accepted or that cannot be reached. *n_out counts state 0. Arrays in `scratch`. Hopcroft's
 * algorithm, O(transitions x log states). */
serverd_status minimise(struct grammar_budget *budget, struct arena *scratch,
                        const struct raw_automaton *raw, uint32_t **new_state, uint32_t *n_out,
                        serverd_error *err);

/* Classes whose columns are equal become one: new_class[old], numbered by their first old class;
 * *n_out of them. Only rows of states with new_state[state] != 0 are looked at. */
serverd_status merge_classes(struct grammar_budget *budget, struct arena *scratch,
                             const struct raw_automaton *raw, const uint32_t *new_state,
                             uint32_t **new_class, uint32_t *n_out, serverd_error *err);

#endif
