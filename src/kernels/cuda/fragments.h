/* How matrices lie for tensor cores: in fragments, so that each lane of a warp reads 16 bytes that
 * follow those of the lane before. The tile is mma.m16n8k16's (PTX ISA, "Matrix Fragments for
 * mma.m16n8k16 with floating point type"): with g = lane / 4 and t = lane % 4, lane has
 *
 *   of the weights, 8 columns by 16 k:   b0, b1: k = 2t, 2t + 1   b2, b3: the same + 8   column g
 *   of the rows, 16 rows by 16 k:        a0, a1: row g, k = 2t, 2t + 1   a2, a3: row g + 8
 *                                        a4 .. a7: the same, k + 8
 *   of the results, 16 rows by 8:        c0, c1: row g, column 2t, 2t + 1   c2, c3: row g + 8
 *
 * Elements are bf16. Weights: [columns / 8][k / 32][lane][8], of two tiles after each other; rows:
 * [rows / 16][k / 16][lane][8]. What is behind the matrix in its last tiles is zero. */
#ifndef KERNELS_CUDA_FRAGMENTS_H
#define KERNELS_CUDA_FRAGMENTS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define FRAGMENTS_INLINE static inline __host__ __device__
#else
#define FRAGMENTS_INLINE static inline
#endif

enum { FRAGMENT_COLUMNS = 8, FRAGMENT_ROWS = 16, FRAGMENT_K = 32 };

FRAGMENTS_INLINE size_t fragments_round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

/* Elements of all weights. */
FRAGMENTS_INLINE size_t fragments_weights(size_t n_columns, size_t k)
{
    return fragments_round_up(n_columns, FRAGMENT_COLUMNS) * fragments_round_up(k, FRAGMENT_K);
}

/* Elements of all rows. */
FRAGMENTS_INLINE size_t fragments_rows(size_t n_rows, size_t k)
{
    return fragments_round_up(n_rows, FRAGMENT_ROWS) * fragments_round_up(k, FRAGMENT_K);
}

/* Where element (column, i) of weights lies that have n_k of them in a column. */
FRAGMENTS_INLINE size_t fragments_weight_at(size_t column, size_t i, size_t n_k)
{
    const size_t n_chunks = fragments_round_up(n_k, FRAGMENT_K) / FRAGMENT_K;
    const size_t tile = column / 8 * n_chunks + i / 32, lane = column % 8 * 4 + i % 8 / 2;
    return (tile * 32 + lane) * 8 + i % 32 / 16 * 4 + i % 16 / 8 * 2 + i % 2;
}

#endif
