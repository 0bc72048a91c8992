#include "sampling/vector_internal.h"

#include "base/simd_level.h"

#include <stddef.h>

static const struct row_passes *const levels[SIMD_LEVELS] = {
    [SIMD_GENERIC] = &row_passes_generic,
#if defined(__x86_64__)
    [SIMD_AVX2] = &row_passes_avx2,
    [SIMD_AVX512] = &row_passes_avx512,
#endif
};

const struct row_passes *row_passes_level(uint32_t i)
{
    const uint32_t best = simd_level_best();
    return i <= best ? levels[best - i] : NULL;
}

const struct row_passes *row_passes_best(void)
{
    return row_passes_level(0);
}
