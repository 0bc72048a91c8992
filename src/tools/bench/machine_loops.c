#include "tools/bench/machine_loops.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Operands that are neither zero (a multiplier of zeros needs less power) nor make denormals. */
static const uint32_t operand_bytes[16] = {
    0x03020103, 0x02030201, 0x01030203, 0x03010302, 0x02010302, 0x01020103, 0x03020301, 0x01030102,
    0x02030103, 0x03010203, 0x01020301, 0x02010203, 0x03020103, 0x02030201, 0x01030203, 0x03010302};
static const uint32_t operand_bf16[16] = {
    0x3c803c90, 0x3ca03cb0, 0x3cc03cd0, 0x3ce03cf0, 0x3c803c90, 0x3ca03cb0, 0x3cc03cd0, 0x3ce03cf0,
    0x3c803c90, 0x3ca03cb0, 0x3cc03cd0, 0x3ce03cf0, 0x3c803c90, 0x3ca03cb0, 0x3cc03cd0, 0x3ce03cf0};
static const float operand_f32[16] = {0.011f, 0.012f, 0.013f, 0.014f, 0.015f, 0.016f,
                                      0.017f, 0.018f, 0.019f, 0.021f, 0.022f, 0.023f,
                                      0.024f, 0.025f, 0.026f, 0.027f};

#define VECTORS                                                                                    \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

#define ZERO_ACCUMULATORS                                                                          \
    "vxorps %%xmm0, %%xmm0, %%xmm0\n\tvxorps %%xmm1, %%xmm1, %%xmm1\n\t"                           \
    "vxorps %%xmm2, %%xmm2, %%xmm2\n\tvxorps %%xmm3, %%xmm3, %%xmm3\n\t"                           \
    "vxorps %%xmm4, %%xmm4, %%xmm4\n\tvxorps %%xmm5, %%xmm5, %%xmm5\n\t"                           \
    "vxorps %%xmm6, %%xmm6, %%xmm6\n\tvxorps %%xmm7, %%xmm7, %%xmm7\n\t"                           \
    "vxorps %%xmm8, %%xmm8, %%xmm8\n\tvxorps %%xmm9, %%xmm9, %%xmm9\n\t"                           \
    "vxorps %%xmm10, %%xmm10, %%xmm10\n\tvxorps %%xmm11, %%xmm11, %%xmm11\n\t"

#define REPEAT_12(row)                                                                             \
    row("0") row("1") row("2") row("3") row("4") row("5") row("6") row("7") row("8") row("9")      \
        row("10") row("11")

/* One operand in registers 12 and 13, twelve accumulators, n steps. */
#define RUN_LOOP(load, row, operand, n_steps)                                                      \
    __asm__ volatile(ZERO_ACCUMULATORS load "\n\t"                                                 \
                                            ".p2align 5\n1:\n\t" REPEAT_12(row) "dec %0\n\t"       \
                                                                                "jnz 1b\n\t"       \
                                                                                "vzeroupper"       \
                     : "+r"(n_steps)                                                               \
                     : "r"(operand)                                                                \
                     : VECTORS, "cc", "memory")

#define LOAD_ZMM "vmovups (%1), %%zmm12\n\tvmovups (%1), %%zmm13"
#define LOAD_YMM "vmovups (%1), %%ymm12\n\tvmovups (%1), %%ymm13"

#define ROW_DPBUSD_ZMM(i) "vpdpbusd %%zmm13, %%zmm12, %%zmm" i "\n\t"
#define ROW_DPBUSD_YMM(i) "%{vex%} vpdpbusd %%ymm13, %%ymm12, %%ymm" i "\n\t"
#define ROW_MADD_YMM(i)                                                                            \
    "vpmaddubsw %%ymm13, %%ymm12, %%ymm14\n\tvpmaddwd %%ymm13, %%ymm14, %%ymm14\n\t"               \
    "vpaddd %%ymm14, %%ymm" i ", %%ymm" i "\n\t"
#define ROW_BF16_ZMM(i) "vdpbf16ps %%zmm13, %%zmm12, %%zmm" i "\n\t"
#define ROW_FMA_ZMM(i)  "vfmadd231ps %%zmm13, %%zmm12, %%zmm" i "\n\t"
#define ROW_FMA_YMM(i)  "vfmadd231ps %%ymm13, %%ymm12, %%ymm" i "\n\t"

static void run_dpbusd_zmm(uint64_t n_steps)
{
    RUN_LOOP(LOAD_ZMM, ROW_DPBUSD_ZMM, operand_bytes, n_steps);
}

static void run_dpbusd_ymm(uint64_t n_steps)
{
    RUN_LOOP(LOAD_YMM, ROW_DPBUSD_YMM, operand_bytes, n_steps);
}

static void run_madd_ymm(uint64_t n_steps)
{
    RUN_LOOP(LOAD_YMM, ROW_MADD_YMM, operand_bytes, n_steps);
}

static void run_bf16_zmm(uint64_t n_steps)
{
    RUN_LOOP(LOAD_ZMM, ROW_BF16_ZMM, operand_bf16, n_steps);
}

static void run_fma_zmm(uint64_t n_steps)
{
    RUN_LOOP(LOAD_ZMM, ROW_FMA_ZMM, operand_f32, n_steps);
}

static void run_fma_ymm(uint64_t n_steps)
{
    RUN_LOOP(LOAD_YMM, ROW_FMA_YMM, operand_f32, n_steps);
}

/* ---- tiles: four accumulators of 16 x 16, operands of 16 rows of 64 bytes ---- */

struct tile_shape {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#define RUN_TILES(instruction, shape, operand, n_steps)                                            \
    __asm__ volatile(                                                                              \
        "ldtilecfg (%2)\n\t"                                                                       \
        "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3\n\t"             \
        "tileloadd (%1,%3,1), %%tmm4\n\ttileloadd (%1,%3,1), %%tmm5\n\t"                           \
        ".p2align 5\n1:\n\t" instruction " %%tmm5, %%tmm4, %%tmm0\n\t" instruction                 \
        " %%tmm5, %%tmm4, %%tmm1\n\t" instruction " %%tmm5, %%tmm4, %%tmm2\n\t" instruction        \
        " %%tmm5, %%tmm4, %%tmm3\n\t"                                                              \
        "dec %0\n\tjnz 1b\n\ttilerelease"                                                          \
        : "+r"(n_steps)                                                                            \
        : "r"(operand), "r"(shape), "r"((uint64_t)0)                                               \
        : "cc", "memory")

static const struct tile_shape full_tiles = {
    .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16}};

static void run_tiles_int8(uint64_t n_steps)
{
    RUN_TILES("tdpbusd", &full_tiles, operand_bytes, n_steps);
}

static void run_tiles_bf16(uint64_t n_steps)
{
    RUN_TILES("tdpbf16ps", &full_tiles, operand_bf16, n_steps);
}

/* ---- what is here: __builtin_cpu_supports asks for the saved state, too ---- */

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

static bool has_vnni512(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

static bool has_bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avxvnni(void)
{
    const unsigned avx_vnni = 1u << 4;
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & avx_vnni);
}

/* Tiles of these types, and the kernel's leave to use their registers. */
static bool has_tiles(void)
{
    const unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25; /* bf16, tile, int8 */
    const long ask_permission = 0x1023, tile_data = 18;     /* ARCH_REQ_XCOMP_PERM */
    unsigned a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & wanted) == wanted &&
           syscall(SYS_arch_prctl, ask_permission, tile_data) == 0;
}

static const struct machine_loop loops[] = {
    /* best first */
    {MACHINE_INT8, "tdpbusd", 4 * 16 * 16 * 64, has_tiles, run_tiles_int8},
    {MACHINE_INT8, "vpdpbusd zmm", 12 * 64, has_vnni512, run_dpbusd_zmm},
    {MACHINE_INT8, "vpdpbusd ymm", 12 * 32, has_avxvnni, run_dpbusd_ymm},
    {MACHINE_INT8, "vpmaddubsw ymm", 12 * 32, has_avx2, run_madd_ymm},
    {MACHINE_BF16, "tdpbf16ps", 4 * 16 * 16 * 32, has_tiles, run_tiles_bf16},
    {MACHINE_BF16, "vdpbf16ps zmm", 12 * 32, has_bf16, run_bf16_zmm},
    {MACHINE_FP32, "vfmadd231ps zmm", 12 * 16, has_avx512, run_fma_zmm},
    {MACHINE_FP32, "vfmadd231ps ymm", 12 * 8, has_avx2, run_fma_ymm},
};

const struct machine_loop *machine_loop_best(enum machine_arithmetic arithmetic)
{
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++)
        if (loops[i].arithmetic == arithmetic && loops[i].is_here())
            return &loops[i];
    return NULL;
}

void machine_read(const void *bytes, size_t n)
{
    size_t quarter = n / 4, left = quarter / 64;
    const char *p = bytes;
    if (left == 0)
        return;
#define READ_64(base)                                                                              \
    "movdqa (%" base "), %%xmm0\n\tmovdqa 16(%" base "), %%xmm1\n\t"                               \
    "movdqa 32(%" base "), %%xmm2\n\tmovdqa 48(%" base "), %%xmm3\n\tadd $64, %" base "\n\t"
    const char *q0 = p, *q1 = p + quarter, *q2 = p + 2 * quarter, *q3 = p + 3 * quarter;
    __asm__ volatile(".p2align 5\n1:\n\t" READ_64("1") READ_64("2") READ_64("3")
                         READ_64("4") "dec %0\n\tjnz 1b"
                     : "+r"(left), "+r"(q0), "+r"(q1), "+r"(q2), "+r"(q3)
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "cc", "memory");
}

#else

const struct machine_loop *machine_loop_best(enum machine_arithmetic arithmetic)
{
    (void)arithmetic;
    return NULL;
}

void machine_read(const void *bytes, size_t n)
{
    const uint64_t *p = bytes;
    size_t quarter = n / sizeof *p / 4;
    uint64_t sum = 0;
    for (size_t i = 0; i < quarter; i++)
        sum += p[i] ^ p[quarter + i] ^ p[2 * quarter + i] ^ p[3 * quarter + i];
    __asm__ volatile("" : : "r"(sum));
}

#endif
