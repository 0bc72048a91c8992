/* Divides all code points into classes that a number of sets cannot tell apart: the symbols of an
 * automaton. */
#ifndef GRAMMAR_ALPHABET_INTERNAL_H
#define GRAMMAR_ALPHABET_INTERNAL_H

#include "grammar/automaton.h"

struct alphabet {
    struct class_range *ranges; /* as in struct automaton */
    uint32_t n_ranges, n_classes;
};

/* The coarsest classes of which every set is a union. Made in `arena`. */
serverd_status alphabet_make(struct grammar_budget *budget, struct arena *arena,
                             const struct charset *sets, size_t n_sets, struct alphabet *out,
                             serverd_error *err);

/* The classes of a set that the alphabet was made for, ascending; in `arena`. */
serverd_status alphabet_classes(const struct alphabet *alphabet, struct arena *arena,
                                struct charset set, uint32_t **out, uint32_t *n_out,
                                serverd_error *err);

/* The common refinement of two automata's classes: a_class and b_class say for each class of it
 * which class of a and of b it lies in. */
serverd_status alphabet_join(struct arena *arena, const struct automaton *a,
                             const struct automaton *b, struct alphabet *out, uint32_t **a_class,
                             uint32_t **b_class, serverd_error *err);

/* The range with a code point; NULL for a surrogate and beyond the last. */
const struct class_range *alphabet_find(const struct class_range *ranges, uint32_t n_ranges,
                                        uint32_t code_point);

#endif
