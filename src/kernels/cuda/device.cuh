/* What the .cu files share of a device. */
#ifndef KERNELS_CUDA_DEVICE_CUH
#define KERNELS_CUDA_DEVICE_CUH

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/platform.cuh"

#include <stdio.h>

struct gpu {
    int ordinal;
    unsigned n_multiprocessors;
    size_t block_bytes; /* of memory, that a block can have */
    cudaStream_t stream;
    cudaEvent_t mark;
    int error;         /* the first cudaError since the last wait; 0: none */
    const char *where; /* what failed */
};

/* Like base/error.h's, which is C. */
static inline serverd_status set_error(serverd_error *err, serverd_status code, const char *what,
                                       const char *why)
{
    err->code = code;
    snprintf(err->text, sizeof err->text, "cuda: %s: %s", what, why);
    return code;
}

/* Blocks of `size` that n things take. */
static inline unsigned blocks_of(size_t n, size_t size)
{
    return (unsigned)((n + size - 1) / size);
}

#ifdef __CUDACC__
/* Behind each launch. */
static inline void gpu_check(struct gpu *gpu, const char *where)
{
    const cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess || gpu->error)
        return;
    gpu->error = error;
    gpu->where = where;
}
/* Before a launch of the kernel with so many bytes of memory for a block. */
template <typename Kernel> void gpu_allow_shared(struct gpu *gpu, Kernel *kernel, size_t bytes)
{
    (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    gpu_check(gpu, "memory of a block");
}
#else
template <typename Kernel> void gpu_allow_shared(struct gpu *, Kernel *, size_t)
{
}
static inline void gpu_check(struct gpu *gpu, const char *where)
{
    (void)gpu, (void)where;
}
#endif

#endif
