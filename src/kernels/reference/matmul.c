#include "kernels/reference/matmul.h"

#include "base/simd_level.h"

static const struct reference_kernels *const levels[SIMD_LEVELS] = {
    [SIMD_GENERIC] = &reference_kernels_generic,
#if defined(__x86_64__)
    [SIMD_AVX2] = &reference_kernels_avx2,
    [SIMD_AVX512] = &reference_kernels_avx512,
#endif
};

const struct reference_kernels *reference_kernels_best(void)
{
    return levels[simd_level_best()];
}
