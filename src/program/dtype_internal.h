/* The conversions that dtype.c's table names. Each: n_blocks blocks to floats, exact. */
#ifndef PROGRAM_DTYPE_INTERNAL_H
#define PROGRAM_DTYPE_INTERNAL_H

#include "base/numeric.h"
#include "program/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Little-endian numbers in a block, which need not be aligned. */
static inline uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t u32_at(const uint8_t *p)
{
    return u16_at(p) | (uint32_t)u16_at(p + 2) << 16;
}

static inline float half_at(const uint8_t *p)
{
    return f16_to_f32(u16_at(p));
}

/* Sixteen codes at a time: bytes are worked on as bytes and become floats at the end. */
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef uint64_t u64x2 __attribute__((vector_size(16)));

static inline u8x16 load_codes(const void *p)
{
    u8x16 codes;
    memcpy(&codes, p, sizeof codes);
    return codes;
}

/* Bits `low` and up of each code, as far as `mask` goes. Machines shift words, not bytes: what
 * comes from the neighbour is masked away. */
static inline u8x16 field(u8x16 codes, int low, uint8_t mask)
{
    return (u8x16)((u16x8)codes >> (uint16_t)low) & mask;
}

/* Codes below 2^(8-by), moved up. */
static inline u8x16 raise(u8x16 codes, int by)
{
    return (u8x16)((u16x8)codes << (uint16_t)by);
}

/* 255 where bit j of `bits` is set, else 0. */
static inline u8x16 spread_bits(uint16_t bits)
{
    const u8x16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint64_t each = 0x0101010101010101u;
    u64x2 bytes = {(bits & 255u) * each, (bits >> 8) * each};
    return (u8x16)(((u8x16)bytes & bit) == bit);
}

/* out[j] = codes[j] * d */
static inline void put_scaled(u8x16 codes, float d, float *out)
{
    int8_t c[16];
    memcpy(c, &codes, sizeof c);
    for (int j = 0; j < 16; j++)
        out[j] = (float)c[j] * d;
}

/* out[j] = codes[j] * d + m */
static inline void put_shifted(u8x16 codes, float d, float m, float *out)
{
    int8_t c[16];
    memcpy(c, &codes, sizeof c);
    for (int j = 0; j < 16; j++)
        out[j] = (float)c[j] * d + m;
}

/* dtype_simple.c: plain numbers, blocks of 32 to 128 with one scale, ternary. */
void f32_to_f32(const void *blocks, float *out, size_t n);
void f16_blocks_to_f32(const void *blocks, float *out, size_t n);
void bf16_blocks_to_f32(const void *blocks, float *out, size_t n);
void q4_0_to_f32(const void *blocks, float *out, size_t n);
void q4_1_to_f32(const void *blocks, float *out, size_t n);
void q5_0_to_f32(const void *blocks, float *out, size_t n);
void q5_1_to_f32(const void *blocks, float *out, size_t n);
void q8_0_to_f32(const void *blocks, float *out, size_t n);
void iq4_nl_to_f32(const void *blocks, float *out, size_t n);
void iq4_xs_to_f32(const void *blocks, float *out, size_t n);
void mxfp4_to_f32(const void *blocks, float *out, size_t n);
void nvfp4_to_f32(const void *blocks, float *out, size_t n);
void q1_0_to_f32(const void *blocks, float *out, size_t n);
void q2_0_to_f32(const void *blocks, float *out, size_t n);
void tq1_0_to_f32(const void *blocks, float *out, size_t n);
void tq2_0_to_f32(const void *blocks, float *out, size_t n);

/* dtype_k.c: super-blocks of 256 with quantised scales. */
void q2_k_to_f32(const void *blocks, float *out, size_t n);
void q3_k_to_f32(const void *blocks, float *out, size_t n);
void q4_k_to_f32(const void *blocks, float *out, size_t n);
void q5_k_to_f32(const void *blocks, float *out, size_t n);
void q6_k_to_f32(const void *blocks, float *out, size_t n);

/* dtype_codebook.c: indexes of the vectors in codebooks.c. */
void iq2_xxs_to_f32(const void *blocks, float *out, size_t n);
void iq2_xs_to_f32(const void *blocks, float *out, size_t n);
void iq2_s_to_f32(const void *blocks, float *out, size_t n);
void iq3_xxs_to_f32(const void *blocks, float *out, size_t n);
void iq3_s_to_f32(const void *blocks, float *out, size_t n);
void iq1_s_to_f32(const void *blocks, float *out, size_t n);
void iq1_m_to_f32(const void *blocks, float *out, size_t n);

/* dtype_own.c: NULL for an id that is none of ours. */
const struct dtype_info *own_dtype_info(uint32_t dtype);

extern const uint16_t iq2_xxs_grid[256], iq2_xs_grid[512], iq2_s_grid[1024], iq3_xxs_grid[256],
    iq3_s_grid[512], iq1_grid[2048];

#endif
