#include "kernels/cpu/cpu_kernels.h"

#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)

/* __builtin_cpu_supports looks at what the operating system saves, too; for what it does not know
 * these bits of leaf 7 are read behind it. */
enum { LEAF7_0_EDX_AMX_TILE = 1 << 24, LEAF7_0_EDX_AMX_INT8 = 1 << 25 };
enum { LEAF7_1_EAX_AVX_VNNI = 1 << 4 };

static unsigned leaf7_edx(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) ? d : 0;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

static bool has_avxvnni(void)
{
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & LEAF7_1_EAX_AVX_VNNI);
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

static bool has_avx512bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* The tile registers must be asked for, once for the whole process. */
static bool has_amx(void)
{
    const unsigned wanted = LEAF7_0_EDX_AMX_TILE | LEAF7_0_EDX_AMX_INT8;
    const long ask_permission = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM */
    return has_avx512bf16() && (leaf7_edx() & wanted) == wanted &&
           syscall(SYS_arch_prctl, ask_permission, tile_data) == 0;
}
#endif

/* Best first. */
static const struct {
    const struct cpu_kernels *kernels;
    bool (*is_here)(void);
} levels[] = {
#if defined(__x86_64__)
    {&cpu_kernels_amx, has_amx},       {&cpu_kernels_avx512bf16, has_avx512bf16},
    {&cpu_kernels_avx512, has_avx512}, {&cpu_kernels_avxvnni, has_avxvnni},
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
