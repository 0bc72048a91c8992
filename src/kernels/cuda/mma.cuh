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

__device__ static __forceinline__ void mma(float c[4], uint4 a, unsigned b0, unsigned b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

#else

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
