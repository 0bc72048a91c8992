#include "base/simd_level.h"

enum simd_level simd_level_best(void)
{
#if defined(__x86_64__)
    /* __builtin_cpu_supports looks at what the operating system saves, too */
    if (!__builtin_cpu_supports("avx2"))
        return SIMD_GENERIC;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return SIMD_AVX512;
    return SIMD_AVX2;
#else
    return SIMD_GENERIC;
#endif
}
