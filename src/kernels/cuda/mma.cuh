/* One tile on a tensor core: c += a b, fragments as fragments.h says, sums in f32. All lanes of a
 * warp come here. Emulated, the additions of a tile are one after the other by ascending k; a GPU
 * adds them in an order of its own. */
#ifndef KERNELS_CUDA_MMA_CUH
#define KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/platform.cuh"

__device__ static __forceinline__ float bf16_value(unsigned bits)
{
    return __uint_as_float(bits << 16);
}

/* To nearest, even; NaN stays one. */
__device__ static __forceinline__ unsigned bf16_bits(float value)
{
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return bits >> 16 | 0x40u;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

#ifdef __CUDACC__

__device__ static __forceinline__ float half_value(uint16_t bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

/* a & mask | bits, as the one instruction that it is: of two constants it becomes two. */
__device__ static __forceinline__ unsigned masked(unsigned a, unsigned mask, unsigned bits)
{
    unsigned out;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(a), "r"(mask), "r"(bits));
    return out;
}

/* a - b of two numbers, which are what both words hold. */
__device__ static __forceinline__ unsigned bf16_difference(unsigned a, unsigned b)
{
    unsigned out;
    const unsigned minus_one = 0xbf80bf80u;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(b), "r"(minus_one), "r"(a));
    return out;
}

/* Of two numbers, which are what the word holds, times 2^120: exact if that is finite, of small
 * numbers too. Minus zero is added, which keeps the sign of zero. */
__device__ static __forceinline__ unsigned bf16_times_2_120(unsigned a)
{
    unsigned out;
    const unsigned power = 0x7b807b80u, minus_zero = 0x80008000u;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(power), "r"(minus_zero));
    return out;
}

/* Two numbers as bf16, the first in the lower half. */
__device__ static __forceinline__ unsigned bf16_pair(float low, float high)
{
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ static __forceinline__ void mma(float c[4], uint4 a, unsigned b0, unsigned b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

#else

static inline float half_value(uint16_t bits)
{
    const unsigned sign = (unsigned)(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    if (rest >= 0x7c00u) /* infinity, NaN */
        return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    /* shifted into place, and the exponents' difference by a product, exact for small numbers too
     */
    return __uint_as_float(sign | rest << 13) * 5.192296858534828e+33f; /* 2^112 */
}

static inline unsigned masked(unsigned a, unsigned mask, unsigned bits)
{
    return (a & mask) | bits;
}

static inline unsigned bf16_times_2_120(unsigned a)
{
    const float power = 1.329227995784916e+36f;
    return bf16_bits(bf16_value(a & 0xffffu) * power) | bf16_bits(bf16_value(a >> 16) * power)
                                                            << 16;
}

static inline unsigned bf16_difference(unsigned a, unsigned b)
{
    return bf16_bits(bf16_value(a & 0xffffu) - bf16_value(b & 0xffffu)) |
           bf16_bits(bf16_value(a >> 16) - bf16_value(b >> 16)) << 16;
}

static inline unsigned bf16_pair(float low, float high)
{
    return bf16_bits(low) | bf16_bits(high) << 16;
}

struct mma_fragments {
    unsigned a[4], b[2];
};

/* Element of row g or g + 8 of a lane's fragment of the rows. */
static inline float mma_row_element(const struct mma_fragments *of_lane, unsigned is_lower,
                                    unsigned i)
{
    const unsigned word = of_lane->a[i / 8 * 2 + is_lower];
    return bf16_value(i % 2 ? word >> 16 : word & 0xffffu);
}

static inline void mma(float c[4], uint4 a, unsigned b0, unsigned b1)
{
    struct mma_fragments own = {{a.x, a.y, a.z, a.w}, {b0, b1}}, of_row, of_column;
    const unsigned lane = emulation::lane(), g = lane / 4, t = lane % 4;
    memcpy(emulation::exchange_slot(lane), &own, sizeof own);
    emulation::warp_barrier();
    for (unsigned out = 0; out < 4; out++) {
        const unsigned column = 2 * t + out % 2;
        for (unsigned i = 0; i < 16; i++) {
            memcpy(&of_row, emulation::exchange_slot(g * 4 + i % 8 / 2), sizeof of_row);
            memcpy(&of_column, emulation::exchange_slot(column * 4 + i % 8 / 2), sizeof of_column);
            const unsigned word = of_column.b[i / 8];
            c[out] += mma_row_element(&of_row, out / 2, i) *
                      bf16_value(i % 2 ? word >> 16 : word & 0xffffu);
        }
    }
    emulation::warp_barrier();
}

#endif
#endif
