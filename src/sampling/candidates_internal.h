/* top_k, top_p and min_p: which tokens may be drawn, found without sorting the vocabulary. Each of
 * the three keeps a head of one order, larger logits first and lower ids first among equals. */
#ifndef SAMPLING_CANDIDATES_INTERNAL_H
#define SAMPLING_CANDIDATES_INTERNAL_H

#include "sampling/scratch_internal.h"

/* Whether any of the three is on. */
bool candidates_are_limited(const struct sampling_scratch *s, const struct sampling_params *p);

/* Fills the list of candidates from the row; max and scale as the weights of vector_internal.h. */
void candidates_choose(struct sampling_scratch *s, const struct sampling_params *p, float max,
                       float scale);

/* Fills the list with tokens that include the k first of the order, k >= 1, and mostly not many
 * more; with all that are above -infinity if these are fewer. */
void candidates_list_first(struct sampling_scratch *s, uint32_t k);

#endif
