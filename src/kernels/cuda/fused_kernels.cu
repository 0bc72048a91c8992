/* Operations whose result is the rows of a linear layer and nothing else: it is written as these,
 * in bf16 and in fragments, instead of in f32 to be read and converted. The bits are those of both
 * steps after each other. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/row_math.cuh"

/* Elements i and i + 1, i even; what is behind the row's end is zero. */
__device__ static __forceinline__ void write_pair(uint16_t *out, uint32_t row, uint32_t i,
                                                  uint32_t k, float first, float second)
{
    *(unsigned *)(out + fragments_row_at(row, i, k)) =
        (i < k ? bf16_bits(first) : 0) | (i + 1 < k ? bf16_bits(second) : 0) << 16;
}

/* A block has a row; those behind the last, up to a whole tile, are zero. */
__global__ void norm_to_fragments(const float *x, const float *w, const float *b, uint32_t n_rows,
                                  uint32_t width, float eps, uint16_t *out)
{
    const uint32_t row = blockIdx.x, end = (uint32_t)fragments_round_up(width, FRAGMENT_ROW_K);
    const float *group = x + (size_t)row * width;
    const bool is_row = row < n_rows;
    struct normal normal = {0, 0};
    if (is_row)
        normal = find_normal(group, width, b != NULL, false, eps);
    for (uint32_t i = 2 * threadIdx.x; i < end; i += 2 * ROW_THREADS)
        write_pair(out, row, i, width, is_row && i < width ? normed(normal, group[i], w, b, i) : 0,
                   is_row && i + 1 < width ? normed(normal, group[i + 1], w, b, i + 1) : 0);
}

extern "C" void gpu_norm_to_fragments(struct gpu *gpu, const float *x, const float *w,
                                      const float *b, uint32_t n_rows, uint32_t width, float eps,
                                      void *out)
{
    LAUNCH(norm_to_fragments, dim3((unsigned)fragments_round_up(n_rows, FRAGMENT_ROWS)),
           dim3(ROW_THREADS), gpu->stream, x, w, b, n_rows, width, eps, (uint16_t *)out);
    gpu_check(gpu, "norm_to_fragments");
}

enum { PAIR_THREADS = 128 };

/* A thread has a pair of a row; rows as above. */
__global__ void activate_to_fragments(const float *a, const float *b, uint32_t n_rows,
                                      uint32_t width, uint32_t activation, uint16_t *out)
{
    const uint32_t row = blockIdx.x, i = 2 * (blockIdx.y * PAIR_THREADS + threadIdx.x);
    const size_t at = (size_t)row * width + i;
    const bool is_row = row < n_rows;
    if (i < fragments_round_up(width, FRAGMENT_ROW_K))
        write_pair(out, row, i, width, is_row && i < width ? activated_at(a, b, at, activation) : 0,
                   is_row && i + 1 < width ? activated_at(a, b, at + 1, activation) : 0);
}

extern "C" void gpu_activate_to_fragments(struct gpu *gpu, const float *a, const float *b,
                                          uint32_t n_rows, uint32_t width, uint32_t activation,
                                          void *out)
{
    const dim3 grid((unsigned)fragments_round_up(n_rows, FRAGMENT_ROWS),
                    blocks_of(fragments_round_up(width, FRAGMENT_ROW_K), 2 * PAIR_THREADS));
    LAUNCH(activate_to_fragments, grid, dim3(PAIR_THREADS), gpu->stream, a, b, n_rows, width,
           activation, (uint16_t *)out);
    gpu_check(gpu, "activate_to_fragments");
}
