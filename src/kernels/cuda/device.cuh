/* What the .cu files share of a device. */
#ifndef KERNELS_CUDA_DEVICE_CUH
#define KERNELS_CUDA_DEVICE_CUH

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/platform.cuh"

#include <stdio.h>

struct gpu {
    int ordinal;
    cudaStream_t stream;
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
#else
static inline void gpu_check(struct gpu *gpu, const char *where)
{
    (void)gpu, (void)where;
}
#endif

#endif
