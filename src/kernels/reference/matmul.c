#include "kernels/reference/matmul.h"

const struct reference_kernels *reference_kernels_best(void)
{
#if defined(__x86_64__)
    /* __builtin_cpu_supports looks at what the operating system saves, too */
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return &reference_kernels_avx512;
    if (__builtin_cpu_supports("avx2"))
        return &reference_kernels_avx2;
#endif
    return &reference_kernels_generic;
}
