/* Working memory of a draw: the row of logits as blocks (vector_internal.h), and the list of
 * candidates when few tokens are left. */
#ifndef SAMPLING_SCRATCH_INTERNAL_H
#define SAMPLING_SCRATCH_INTERNAL_H

#include "sampling/sample.h"
#include "sampling/vector_internal.h"

struct sampling_scratch {
    const struct row_passes *passes;
    uint32_t n_vocab, n_blocks;

    /* The row: block b is either the delegate's own or copy[b * BLOCK ...]. */
    const float **block; /* [n_blocks] */
    float *copy;         /* [n_blocks * BLOCK] */
    float *block_max;    /* [n_blocks], of the row as it is after row_take, row_measure */
    double *block_sum;   /* [n_blocks], of what is drawn from */

    /* The candidates by ascending id; z is filled up with -infinity to whole blocks. */
    uint32_t n;
    int32_t *id;              /* [n_blocks * BLOCK + 1] */
    float *z, *weight;        /* the same */
    uint64_t *key;            /* the same, for selections */
    const float **list_block; /* [n_blocks], of z */

    uint32_t *longest; /* [n_vocab], 0 between draws: DRY's repetitions by token */

    float nothing[BLOCK]; /* -infinity */
};

/* Begin with a row. False: NaN, +infinity or nothing finite. */
bool row_take(struct sampling_scratch *s, const float *logits, float *max);

/* A logit to be changed; its block is copied first. */
float *row_logit(struct sampling_scratch *s, int32_t id);

static inline float row_at(const struct sampling_scratch *s, int32_t id)
{
    return s->block[(uint32_t)id / BLOCK][(uint32_t)id % BLOCK];
}

/* All logits become -infinity. */
void row_clear(struct sampling_scratch *s);

/* Logits whose bit is 0 become -infinity; words: [n_blocks]. */
void row_mask(struct sampling_scratch *s, const uint64_t *words);

/* The maxima after changes. False: nothing finite is left. */
bool row_measure(struct sampling_scratch *s, float *max);

#endif
