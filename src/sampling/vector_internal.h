/* Passes over whole rows of logits that must be quick at a vocabulary of 262,144, once per
 * instruction-set level: the same operations in the same order everywhere, so the same bits.
 *
 * A row is a table of blocks, so that a block whose logits were adjusted stands in for the
 * original and the others need no copy:
 *
 *     block[0]     block[1]     block[2]           the last block is filled up with -infinity
 *        |            |            |
 *     [64 logits]  [64 adjusted] [64 logits] ... */
#ifndef SAMPLING_VECTOR_INTERNAL_H
#define SAMPLING_VECTOR_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

enum { BLOCK = 64, N_FLOORS = 8 };

/* Number of blocks of n elements. */
static inline uint32_t n_blocks(uint32_t n)
{
    return n / BLOCK + (n % BLOCK != 0);
}

/* Weights are w(z) = exp((z - max) * scale), 0 below exp(-87); max is not below any z, scale is
 * not negative (0: every logit above -infinity weighs 1). Their relative error is below 4e-7 for
 * arguments down to -87. Sums are added up in a fixed order, across blocks in double precision. */
struct row_passes {
    const char *name;

    /* The largest logit, and of each block: block_max [n]. False if the row holds NaN or
     * +infinity, or nothing but -infinity; block_max is written all the same. */
    bool (*max)(const float *const *block, uint32_t n, float *block_max, float *max);

    /* The weights' sum, and of each block: block_sum [n], may be NULL. weight [n * BLOCK], may be
     * NULL, gets them all. */
    double (*weigh)(const float *const *block, uint32_t n, float max, float scale, float *weight,
                    double *block_sum);

    /* sum[j] = the sum of the weights of logits >= floor[j], for N_FLOORS floors. */
    void (*weigh_above)(const float *const *block, uint32_t n, float max, float scale,
                        const float *floor, double *sum);
};

/* The best this machine has. */
const struct row_passes *row_passes_best(void);

/* All that were built and run here, best first; NULL after the last. For tests. */
const struct row_passes *row_passes_level(uint32_t i);

extern const struct row_passes row_passes_generic;
#if defined(__x86_64__)
extern const struct row_passes row_passes_avx2, row_passes_avx512;
#endif

#endif
