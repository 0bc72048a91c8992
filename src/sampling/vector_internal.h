/* Passes over whole rows of logits that must be quick at a vocabulary of 262,144: 16 lanes of
 * GCC vectors, the same operations in the same order on every instruction set. */
#ifndef SAMPLING_VECTOR_INTERNAL_H
#define SAMPLING_VECTOR_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

enum { BLOCK = 64 }; /* logits per block of block_max, weights per partial sum */

/* Number of blocks of n elements. */
static inline uint32_t n_blocks(uint32_t n)
{
    return n / BLOCK + (n % BLOCK != 0);
}

/* The largest element; block_max [n_blocks(n)] may be NULL. False if the row holds a NaN or
 * +infinity, or nothing but -infinity. */
bool row_max(const float *x, uint32_t n, float *block_max, float *max);

/* out[i] = exp((x[i] - max) * scale), 0 below 2^-126; max is not below any x. Returns the sum,
 * added up in a fixed order in double precision. block_sum [n_blocks(n)] may be NULL; out may be
 * NULL or x. Relative error of an element: below 4e-7 for arguments down to -87. */
double row_exp(const float *x, uint32_t n, float max, float scale, float *out, double *block_sum);

#endif
