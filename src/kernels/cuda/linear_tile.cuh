/* What the kernels of linear layers share, so that they give the same bits.
 *
 * The records of a column (fragments.h) are dealt to N_TURNS turns: record r to turn r % N_TURNS. A
 * turn's sum is a chain over its records in order; the result is the turns' sums, added in order,
 * scaled by the column's power of two, plus the bias, plus what else is added.
 *
 * Codes go through the tensor core as they are, small numbers that bf16 holds exactly; the sums of
 * a group are scaled, in f32. For 16 rows that is 4 multiplications where a lane has 8 weights;
 * scaling the weights would be 8, with conversions, and round them to bf16. Minima are multiplied
 * by the sum of the group's x, which a tile of ones makes, once for a warp's columns.
 *
 * That two kernels agree rests on this: of an element of mma's result it only matters which row,
 * column and sum it was given, not the lane, the warp or what else is in the tile. */
#ifndef KERNELS_CUDA_LINEAR_TILE_CUH
#define KERNELS_CUDA_LINEAR_TILE_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/weights.cuh"

enum { N_TURNS = 4 };

/* y [n_rows, n] = x w^T + bias + added, x and w in fragments. */
struct linear_call {
    const uint4 *x;
    uint32_t n_rows, k;
    struct gpu_linear_part part;
};

/* linear_long_kernels.cu: the same for many rows, in larger tiles; whether that is faster. */
bool linear_long_pays(const struct gpu *gpu, const struct linear_call &call);
void linear_long(struct gpu *gpu, enum fragment_form form, const struct linear_call &call);

/* Where a block's share of the operands lies. */
struct operands {
    const uint4 *x;
    const char *w;
    uint32_t n_rows, n_row_tiles, n_column_tiles; /* that there are from there on */
    uint32_t n_chunks;
    size_t x_stride; /* from one row tile to the next */
};

template <class W>
__device__ static __forceinline__ struct operands
operands_from(const uint4 *__restrict__ x, const char *__restrict__ w, uint32_t n_rows, uint32_t n,
              uint32_t k, uint32_t row_tile, uint32_t column_tile)
{
    struct operands from;
    from.x_stride = fragments_round_up(k, FRAGMENT_ROW_K) / 16 * WARP_LANES;
    from.n_chunks = (k + W::CHUNK - 1) / W::CHUNK;
    from.x = x + row_tile * from.x_stride;
    from.w = w + (size_t)column_tile * from.n_chunks * W::RECORD;
    from.n_rows = n_rows - row_tile * 16;
    from.n_row_tiles = (n_rows + 15) / 16 - row_tile;
    from.n_column_tiles = (n + 7) / 8 - column_tile;
    return from;
}

/* The group's pairs of a column tile by the rows' tile. */
template <class W>
__device__ static __forceinline__ void multiply_group(const uint4 *a, const unsigned pairs[][2],
                                                      const float *scale, const float *minimum,
                                                      const float *x_sums, float *sums)
{
    float of_group[4] = {};
#pragma unroll
    for (int t = 0; t < W::N_TILES; t++)
        mma(W::HAS_SCALES ? of_group : sums, a[t], pairs[t][0], pairs[t][1]);
#pragma unroll
    for (int s = 0; W::HAS_SCALES && s < 4; s++) {
        sums[s] = __fmaf_rn(of_group[s], scale[s % 2], sums[s]);
        if (W::HAS_MIN)
            sums[s] = __fmaf_rn(x_sums[s], minimum[s % 2], sums[s]);
    }
}

/* A result, of the sum of all turns; never one operation where it says two. powers: of the part's
 * columns, if there are scales. */
template <class W>
__device__ static __forceinline__ void write_sum(const struct gpu_linear_part &part,
                                                 const float *powers, uint32_t row, uint32_t column,
                                                 float sum)
{
    const size_t at = (size_t)row * part.n + column;
    if (W::HAS_SCALES)
        sum = __fmul_rn(sum, powers[column]);
    if (part.bias)
        sum = __fadd_rn(sum, part.bias[column]);
    part.y[at] = part.added ? __fadd_rn(sum, part.added[at]) : sum;
}

#endif
