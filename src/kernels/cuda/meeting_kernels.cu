/* What ranks do with each other's parts, once they have them (meetings.c). Bound by memory: each
 * number is read once. */
#include "kernels/cuda/device.cuh"

enum { ELEMENT_THREADS = 256 };

/* The element of a thread; those behind the last do nothing. */
#define ELEMENT ((size_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x)

__global__ void sum_parts(const float *parts, uint32_t n_parts, size_t n, float *out)
{
    if (ELEMENT >= n)
        return;
    float sum = parts[ELEMENT];
    for (uint32_t p = 1; p < n_parts; p++)
        sum += parts[p * n + ELEMENT];
    out[ELEMENT] = sum;
}

extern "C" void gpu_sum_parts(struct gpu *gpu, const float *parts, uint32_t n_parts, size_t n,
                              float *out)
{
    LAUNCH(sum_parts, dim3(blocks_of(n, ELEMENT_THREADS)), dim3(ELEMENT_THREADS), gpu->stream,
           parts, n_parts, n, out);
    gpu_check(gpu, "sum of parts");
}

__global__ void place_columns(const float *part, size_t n, uint32_t n_columns, uint32_t begin,
                              uint32_t width, float *out)
{
    if (ELEMENT < n)
        out[ELEMENT / n_columns * width + begin + ELEMENT % n_columns] = part[ELEMENT];
}

extern "C" void gpu_place_columns(struct gpu *gpu, const float *part, uint32_t n_rows,
                                  uint32_t n_columns, uint32_t begin, uint32_t width, float *out)
{
    const size_t n = (size_t)n_rows * n_columns;
    LAUNCH(place_columns, dim3(blocks_of(n, ELEMENT_THREADS)), dim3(ELEMENT_THREADS), gpu->stream,
           part, n, n_columns, begin, width, out);
    gpu_check(gpu, "columns of a part");
}
