/* What kernels are written in: CUDA C++ when nvcc compiles them, the same names over the emulation
 * when a host compiler does (emulation.cuh). Kernels are launched with LAUNCH, and take memory of a
 * block with SHARED. What is more than 48 KiB is taken with SHARED_DYNAMIC, once in a kernel, and
 * its bytes said to LAUNCH_SHARED, behind gpu_allow_shared (device.cuh). */
#ifndef KERNELS_CUDA_PLATFORM_CUH
#define KERNELS_CUDA_PLATFORM_CUH

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define LAUNCH_SHARED(kernel, grid, block, bytes, stream, ...)                                     \
    kernel<<<grid, block, bytes, stream>>>(__VA_ARGS__)
#define SHARED(type, name, n)         __shared__ type name[n]
#define SHARED_DYNAMIC(type, name, n) extern __shared__ type name[]
#else
#include "kernels/cuda/emulation.cuh"
#endif

#define LAUNCH(kernel, grid, block, stream, ...)                                                   \
    LAUNCH_SHARED(kernel, grid, block, 0, stream, __VA_ARGS__)

#define WARP_LANES 32
#define ALL_LANES  0xffffffffu

#endif
