#include "kernels/cpu/cpu_kernels.h"

#include <stdatomic.h>
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

/* __builtin_cpu_supports looks at what the operating system saves, too; for what not every compiler
 * knows by name, bits of cpuid are read behind it. */
enum { LEAF1_ECX_F16C = 1 << 29 };
enum { LEAF7_0_EDX_AMX_TILE = 1 << 24, LEAF7_0_EDX_AMX_INT8 = 1 << 25 };
enum { LEAF7_1_EAX_AVX_VNNI = 1 << 4, LEAF7_1_EAX_AVX512_BF16 = 1 << 5 };

struct cpuid {
    unsigned eax, ebx, ecx, edx; /* 0 where there is no such leaf */
};

static struct cpuid cpuid_leaf(unsigned leaf, unsigned subleaf)
{
    struct cpuid id = {0};
    if (!__get_cpuid_count(leaf, subleaf, &id.eax, &id.ebx, &id.ecx, &id.edx))
        return (struct cpuid){0};
    return id;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           (cpuid_leaf(1, 0).ecx & LEAF1_ECX_F16C);
}

static bool has_avxvnni(void)
{
    return has_avx2() && (cpuid_leaf(7, 1).eax & LEAF7_1_EAX_AVX_VNNI);
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

static bool has_avx512bf16(void)
{
    return has_avx512() && (cpuid_leaf(7, 1).eax & LEAF7_1_EAX_AVX512_BF16);
}

/* The tile registers must be asked for, once for the whole process. */
static bool has_amx(void)
{
    const unsigned wanted = LEAF7_0_EDX_AMX_TILE | LEAF7_0_EDX_AMX_INT8;
    const long ask_permission = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM */
    return has_avx512bf16() && (cpuid_leaf(7, 0).edx & wanted) == wanted &&
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

/* Asking the processor is slow under a hypervisor, and it always says the same: what was found
 * first is kept, as a constant that is made late. */
const struct cpu_kernels *cpu_kernels_best(void)
{
    static const struct cpu_kernels *_Atomic best;
    const struct cpu_kernels *found = atomic_load_explicit(&best, memory_order_relaxed);
    for (size_t i = 0; !found; i++)
        if (levels[i].is_here())
            found = levels[i].kernels;
    atomic_store_explicit(&best, found, memory_order_relaxed);
    return found;
}

const struct cpu_kernels *cpu_kernels_named(const char *name)
{
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcmp(levels[i].kernels->name, name) == 0 && levels[i].is_here())
            return levels[i].kernels;
    return NULL;
}
