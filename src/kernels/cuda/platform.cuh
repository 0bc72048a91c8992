/* What kernels are written in: CUDA C++ when nvcc compiles them, the same names over the emulation
 * when a host compiler does (emulation.cuh). Kernels are launched with LAUNCH, and take memory of a
 * block with SHARED. */
#ifndef KERNELS_CUDA_PLATFORM_CUH
#define KERNELS_CUDA_PLATFORM_CUH

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#define SHARED(type, name, n)                    __shared__ type name[n]
#else
#include "kernels/cuda/emulation.cuh"
#endif

#define WARP_LANES 32
#define ALL_LANES  0xffffffffu

#endif
