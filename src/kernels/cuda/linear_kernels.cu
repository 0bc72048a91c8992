/* Linear layers on tensor cores, for one row as for many: a row's sums are made in the same order
 * whatever rows are beside it, so its bits are its own. With few rows the time is that of reading
 * the weights, and a tile's unused rows cost nothing. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/mma.cuh"

/* ---- rows to fragments ----------------------------------------------------------------------- */

enum { CONVERT_THREADS = 128 };

/* Two elements of a row, of which those behind its end are zero. */
__device__ static __forceinline__ unsigned pair_at(const float *x, uint32_t n_rows, uint32_t k,
                                                   uint32_t row, uint32_t i)
{
    if (row >= n_rows)
        return 0;
    const float *at = x + (size_t)row * k + i;
    const unsigned low = i < k ? bf16_bits(at[0]) : 0, high = i + 1 < k ? bf16_bits(at[1]) : 0;
    return low | high << 16;
}

/* One lane of one tile for each thread. */
__global__ void rows_to_fragments(const float *__restrict__ x, uint32_t n_rows, uint32_t k,
                                  uint32_t n_k_tiles, uint4 *__restrict__ out)
{
    const size_t at = (size_t)blockIdx.x * CONVERT_THREADS + threadIdx.x;
    const size_t tile = at / WARP_LANES;
    const uint32_t lane = (uint32_t)(at % WARP_LANES);
    const uint32_t row = (uint32_t)(tile / n_k_tiles) * FRAGMENT_ROWS + lane / 4;
    const uint32_t i = (uint32_t)(tile % n_k_tiles) * 16 + lane % 4 * 2;
    if (row / FRAGMENT_ROWS * FRAGMENT_ROWS >= n_rows)
        return;
    uint4 fragment;
    fragment.x = pair_at(x, n_rows, k, row, i);
    fragment.y = pair_at(x, n_rows, k, row + 8, i);
    fragment.z = pair_at(x, n_rows, k, row, i + 8);
    fragment.w = pair_at(x, n_rows, k, row + 8, i + 8);
    out[at] = fragment;
}

extern "C" void gpu_rows_to_fragments(struct gpu *gpu, const float *x, uint32_t n_rows, uint32_t k,
                                      void *out)
{
    const size_t n_lanes = fragments_rows(n_rows, k) / 8;
    LAUNCH(rows_to_fragments, dim3(blocks_of(n_lanes, CONVERT_THREADS)), dim3(CONVERT_THREADS),
           gpu->stream, x, n_rows, k, (uint32_t)(fragments_round_up(k, FRAGMENT_K) / 16),
           (uint4 *)out);
    gpu_check(gpu, "rows_to_fragments");
}

/* ---- products -------------------------------------------------------------------------------- */

/* A block has 4 warps, which share the k of 4 tiles of columns in turns of 32; their sums are added
 * in order at the end. */
enum { N_WARPS = 4, N_COLUMN_TILES = 4, LINEAR_THREADS = N_WARPS * WARP_LANES };

template <int N_ROW_TILES> struct sums {
    float of[N_ROW_TILES][N_COLUMN_TILES][4];
};

/* The warp's share of k. */
template <int N_ROW_TILES>
__device__ static __forceinline__ void
multiply(const uint4 *__restrict__ x, const uint4 *__restrict__ w, uint32_t row_tile,
         uint32_t n_row_tiles, uint32_t column_tile, uint32_t n_column_tiles, uint32_t n_chunks,
         struct sums<N_ROW_TILES> *sums)
{
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    for (uint32_t chunk = warp; chunk < n_chunks; chunk += N_WARPS) {
        uint4 b[N_COLUMN_TILES] = {};
#pragma unroll
        for (int j = 0; j < N_COLUMN_TILES; j++)
            if (column_tile + j < n_column_tiles)
                b[j] = w[((size_t)(column_tile + j) * n_chunks + chunk) * WARP_LANES + lane];
#pragma unroll
        for (int i = 0; i < N_ROW_TILES; i++) {
            if (row_tile + i >= n_row_tiles)
                continue;
            const uint4 *a =
                x + ((size_t)(row_tile + i) * n_chunks + chunk) * 2 * WARP_LANES + lane;
            const uint4 first = a[0], second = a[WARP_LANES];
#pragma unroll
            for (int j = 0; j < N_COLUMN_TILES; j++) {
                mma(sums->of[i][j], first, b[j].x, b[j].y);
                mma(sums->of[i][j], second, b[j].z, b[j].w);
            }
        }
    }
}

template <int N_ROW_TILES>
__global__ void __launch_bounds__(LINEAR_THREADS, 3)
    linear(const uint4 *__restrict__ x, const uint4 *__restrict__ w, const float *__restrict__ bias,
           uint32_t n_rows, uint32_t n, uint32_t n_chunks, float *__restrict__ y)
{
    enum { N_SUMS = N_ROW_TILES * N_COLUMN_TILES * 4 };
    const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    const uint32_t row_tile = blockIdx.y * N_ROW_TILES, column_tile = blockIdx.x * N_COLUMN_TILES;
    SHARED(float, partial, (N_WARPS - 1) * N_SUMS * WARP_LANES);
    struct sums<N_ROW_TILES> sums = {
    };
    multiply<N_ROW_TILES>(x, w, row_tile, (n_rows + 15) / 16, column_tile, (n + 7) / 8, n_chunks,
                          &sums);
    if (warp > 0)
        for (int s = 0; s < N_SUMS; s++)
            partial[((warp - 1) * N_SUMS + s) * WARP_LANES + lane] = (&sums.of[0][0][0])[s];
    __syncthreads();
    if (warp > 0)
        return;
#pragma unroll
    for (int s = 0; s < N_SUMS; s++) {
        float sum = (&sums.of[0][0][0])[s];
        for (int other = 0; other < N_WARPS - 1; other++)
            sum += partial[(other * N_SUMS + s) * WARP_LANES + lane];
        const uint32_t row = (row_tile + s / (N_COLUMN_TILES * 4)) * 16 + lane / 4 + s % 4 / 2 * 8;
        const uint32_t column = (column_tile + s / 4 % N_COLUMN_TILES) * 8 + lane % 4 * 2 + s % 2;
        if (row < n_rows && column < n)
            y[(size_t)row * n + column] = bias ? sum + bias[column] : sum;
    }
}

template <int N_ROW_TILES>
static void launch(struct gpu *gpu, const void *x, const void *w, const float *bias,
                   uint32_t n_rows, uint32_t n, uint32_t k, float *y)
{
    const dim3 grid(blocks_of(n, N_COLUMN_TILES * FRAGMENT_COLUMNS),
                    blocks_of(n_rows, N_ROW_TILES * FRAGMENT_ROWS));
    LAUNCH(linear<N_ROW_TILES>, grid, dim3(LINEAR_THREADS), gpu->stream, (const uint4 *)x,
           (const uint4 *)w, bias, n_rows, n,
           (uint32_t)(fragments_round_up(k, FRAGMENT_K) / FRAGMENT_K), y);
    gpu_check(gpu, "linear");
}

extern "C" void gpu_linear(struct gpu *gpu, const void *x, const void *w, const float *bias,
                           uint32_t n_rows, uint32_t n, uint32_t k, float *y)
{
    if (n_rows <= FRAGMENT_ROWS)
        launch<1>(gpu, x, w, bias, n_rows, n, k, y);
    else if (n_rows <= 2 * FRAGMENT_ROWS)
        launch<2>(gpu, x, w, bias, n_rows, n, k, y);
    else
        launch<4>(gpu, x, w, bias, n_rows, n, k, y);
}
