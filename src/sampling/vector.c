#include "sampling/vector_internal.h"

#include <stddef.h>

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

/* Best first. */
static const struct {
    const struct row_passes *passes;
    bool (*is_here)(void);
} levels[] = {
#if defined(__x86_64__)
    {&row_passes_avx512, has_avx512},
    {&row_passes_avx2, has_avx2},
#endif
    {&row_passes_generic, always},
};

const struct row_passes *row_passes_level(uint32_t i)
{
    for (size_t l = 0; l < sizeof levels / sizeof *levels; l++)
        if (levels[l].is_here() && i-- == 0)
            return levels[l].passes;
    return NULL;
}

const struct row_passes *row_passes_best(void)
{
    return row_passes_level(0);
}
