/* Sums and maxima over a warp and over a block, in an order that is always the same. */
#ifndef KERNELS_CUDA_SUMS_CUH
#define KERNELS_CUDA_SUMS_CUH

#include "kernels/cuda/platform.cuh"

/* Every lane gets it. */
__device__ static __forceinline__ float warp_sum(float x)
{
    for (int step = WARP_LANES / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ static __forceinline__ float warp_max(float x)
{
    for (int step = WARP_LANES / 2; step > 0; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

/* Of a block of N_THREADS; every thread gets it. All threads come here. */
template <int N_THREADS> __device__ static float block_sum(float x)
{
    SHARED(float, of_warp, N_THREADS / WARP_LANES);
    x = warp_sum(x);
    __syncthreads(); /* the last use of of_warp is over */
    if (threadIdx.x % WARP_LANES == 0)
        of_warp[threadIdx.x / WARP_LANES] = x;
    __syncthreads();
    float sum = of_warp[0];
    for (int i = 1; i < N_THREADS / WARP_LANES; i++)
        sum += of_warp[i];
    return sum;
}

template <int N_THREADS> __device__ static float block_max(float x)
{
    SHARED(float, most_of_warp, N_THREADS / WARP_LANES);
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP_LANES == 0)
        most_of_warp[threadIdx.x / WARP_LANES] = x;
    __syncthreads();
    float most = most_of_warp[0];
    for (int i = 1; i < N_THREADS / WARP_LANES; i++)
        most = fmaxf(most, most_of_warp[i]);
    return most;
}

#endif
