#include "kernels/cpu/cpu_kernels.h"

#include <stdbool.h>
#include <string.h>

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
    const struct cpu_kernels *kernels;
    bool (*is_here)(void);
} levels[] = {
#if defined(__x86_64__)
    {&cpu_kernels_avx512, has_avx512},
    {&cpu_kernels_avx2, has_avx2},
#endif
    {&cpu_kernels_generic, always},
};

const struct cpu_kernels *cpu_kernels_best(void)
{
    size_t i = 0;
    while (!levels[i].is_here())
        i++;
    return levels[i].kernels;
}

const struct cpu_kernels *cpu_kernels_named(const char *name)
{
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcmp(levels[i].kernels->name, name) == 0 && levels[i].is_here())
            return levels[i].kernels;
    return NULL;
}
