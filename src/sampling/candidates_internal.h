/* The steps from temperature to XTC (sampling_params.h): which tokens may be drawn, found without
 * sorting the vocabulary. top_n_sigma, top_k, top_p and min_p keep a head of one order, larger
 * logits first and lower ids first among equals; typical_p a head of another, XTC drops from the
 * head. Each looks at what those before it have left, and leaves a token or more. */
#ifndef SAMPLING_CANDIDATES_INTERNAL_H
#define SAMPLING_CANDIDATES_INTERNAL_H

#include "sampling/scratch_internal.h"
#include "serverd/delegate.h"

/* What is left: the list if `is_list`, else the whole row; its largest logit and the reciprocal of
 * the temperature, which are max and scale of the weights of vector_internal.h. */
struct candidates {
    bool is_list;
    bool has_weights; /* the list's are of this max and scale */
    float max, scale;
};

/* Whether any step leaves less than the row. hits_xtc: XTC's own random number says that it acts.
 */
bool candidates_are_limited(uint32_t n_vocab, const struct sampling_params *p, bool hits_xtc);

/* The steps as a delegate draws (delegate.h); false: it cannot, they are others or otherwise
 * ordered. */
bool candidates_describe(uint32_t n_vocab, const struct sampling_params *p, bool hits_xtc,
                         serverd_draw *draw);

/* Runs the steps on the row, whose largest logit is max. */
struct candidates candidates_choose(struct sampling_scratch *s, const struct sampling_params *p,
                                    float max, bool hits_xtc);

/* Fills the list with tokens that include the k first of the order, k >= 1, and mostly not many
 * more; with all that are above -infinity if these are fewer. */
void candidates_list_first(struct sampling_scratch *s, uint32_t k);

/* The row becomes what the list holds, all else -infinity. */
void candidates_to_row(struct sampling_scratch *s);

/* ---- for the steps alone (candidates.c, truncate.c) --------------------------------------- */

/* Ascending keys are descending values, then ascending places in the list, so no two are equal. */
uint64_t candidate_key(float value, uint32_t place);

/* The last key of the shortest head of the ascending order that weighs `target` or more; the
 * largest key if all weigh less. weight: by place in the list; NULL: 1 each. Reorders. */
uint64_t candidates_select(uint64_t *key, uint32_t n, const float *weight, double target);

/* Lists what is not below `floor` (finite). */
void candidates_list_from(struct sampling_scratch *s, float floor);

/* Weighs the list; the sum. */
double candidates_weigh(struct sampling_scratch *s, float max, float scale);

/* Keeps those of the list whose key is not 0. */
void candidates_keep_marked(struct sampling_scratch *s);

/* The steps that keep a head by logits. They look at the list if there is one, else at the row; the
 * list holds what is left afterwards. */
void candidates_keep_top_k(struct sampling_scratch *s, uint32_t k, struct candidates *c);
void candidates_keep_top_p(struct sampling_scratch *s, float top_p, struct candidates *c);
void candidates_keep_min_p(struct sampling_scratch *s, float min_p, struct candidates *c);

#endif
