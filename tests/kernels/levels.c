#include "levels.h"

#include "base/hash.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

const struct cpu_kernels *levels[MAX_LEVELS];
size_t n_levels;

#ifdef HAS_EMULATED_AMX
extern const struct cpu_kernels cpu_kernels_amx_emulated;
#endif

int find_levels(void **state)
{
    static const char *const names[] = {"generic", "avx2",       "avxvnni",
                                        "avx512",  "avx512bf16", "amx"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if ((levels[n_levels] = cpu_kernels_named(names[i])))
            n_levels++;
#ifdef HAS_EMULATED_AMX
    if (cpu_kernels_named("avx512"))
        levels[n_levels++] = &cpu_kernels_amx_emulated;
#endif
    return n_levels > 0 && strcmp(levels[0]->name, "generic") == 0 ? 0 : -1;
}

bool has_bf16_attention(const struct cpu_kernels *kernels)
{
    return strcmp(kernels->name, "avx512bf16") == 0 || strcmp(kernels->name, "amx") == 0;
}

void *take_filled(size_t bytes, int byte)
{
    size_t whole = (bytes + 63) / 64 * 64;
    void *p = aligned_alloc(64, whole > 0 ? whole : 64);
    assert_non_null(p);
    memset(p, byte, whole);
    return p;
}

void *take(size_t bytes)
{
    return take_filled(bytes, 0);
}

float random_float(uint64_t i, float spread)
{
    return ((float)(hash_mix(i) >> 40) * 0x1p-24f - 0.5f) * 2.0f * spread;
}

void fill(float *x, size_t n, uint64_t seed, float spread)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_float(seed * 100003 + i, spread);
}
