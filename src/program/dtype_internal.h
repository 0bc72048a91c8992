/* The list of types, and the conversions that dtype.c's table names. Each: n_blocks blocks to
 * floats, exact. */
#ifndef PROGRAM_DTYPE_INTERNAL_H
#define PROGRAM_DTYPE_INTERNAL_H

#include "base/numeric.h"
#include "program/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Every type of GGUF. X: name, elements and bytes of a block, conversion; Y: without one. */
#define GGUF_DTYPES(X, Y)                                                                          \
    X(F32, 1, 4, f32_to_f32)                                                                       \
    X(F16, 1, 2, f16_blocks_to_f32)                                                                \
    X(BF16, 1, 2, bf16_blocks_to_f32)                                                              \
    X(Q4_0, 32, 18, q4_0_to_f32)                                                                   \
    X(Q4_1, 32, 20, q4_1_to_f32)                                                                   \
    X(Q5_0, 32, 22, q5_0_to_f32)                                                                   \
    X(Q5_1, 32, 24, q5_1_to_f32)                                                                   \
    X(Q8_0, 32, 34, q8_0_to_f32)                                                                   \
    Y(Q8_1, 32, 36)                                                                                \
    X(Q2_K, 256, 84, q2_k_to_f32)                                                                  \
    X(Q3_K, 256, 110, q3_k_to_f32)                                                                 \
    X(Q4_K, 256, 144, q4_k_to_f32)                                                                 \
    X(Q5_K, 256, 176, q5_k_to_f32)                                                                 \
    X(Q6_K, 256, 210, q6_k_to_f32)                                                                 \
    Y(Q8_K, 256, 292)                                                                              \
    X(IQ4_NL, 32, 18, iq4_nl_to_f32)                                                               \
    X(IQ4_XS, 256, 136, iq4_xs_to_f32)                                                             \
    X(TQ1_0, 256, 54, tq1_0_to_f32)                                                                \
    X(TQ2_0, 256, 66, tq2_0_to_f32)                                                                \
    X(MXFP4, 32, 17, mxfp4_to_f32)                                                                 \
    X(NVFP4, 64, 36, nvfp4_to_f32)                                                                 \
    X(Q1_0, 128, 18, q1_0_to_f32)                                                                  \
    X(Q2_0, 64, 18, q2_0_to_f32)                                                                   \
    X(IQ2_XXS, 256, 66, iq2_xxs_to_f32)                                                            \
    X(IQ2_XS, 256, 74, iq2_xs_to_f32)                                                              \
    X(IQ2_S, 256, 82, iq2_s_to_f32)                                                                \
    X(IQ3_XXS, 256, 98, iq3_xxs_to_f32)                                                            \
    X(IQ3_S, 256, 110, iq3_s_to_f32)                                                               \
    X(IQ1_S, 256, 50, iq1_s_to_f32)                                                                \
    X(IQ1_M, 256, 56, iq1_m_to_f32)                                                                \
    Y(I8, 1, 1)                                                                                    \
    Y(I16, 1, 2)                                                                                   \
    Y(I32, 1, 4)                                                                                   \
    Y(I64, 1, 8)                                                                                   \
    Y(F64, 1, 8)

/* format, scale and what follows it in bytes with f16, with f32 scales, bits of a code */
#define OWN_DTYPES(X)                                                                              \
    X(I8S, i8s, 2, 4, 8)                                                                           \
    X(I8A, i8a, 3, 5, 8)                                                                           \
    X(I4S, i4s, 2, 4, 4)                                                                           \
    X(I4A, i4a, 4, 8, 4)                                                                           \
    X(I4Z, i4z, 3, 5, 4)                                                                           \
    X(NF4, nf4, 2, 4, 4)                                                                           \
    X(F8, f8, 4, 4, 8)

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

/* The three parts of an own id as indexes of a table; false: it is none of ours. */
static inline bool own_dtype_parts(uint32_t dtype, uint32_t *format, uint32_t *is_f32,
                                   uint32_t *step)
{
    if (!dtype_is_own(dtype))
        return false;
    *format = dtype_format_of(dtype) - FORMAT_I8S;
    *is_f32 = dtype >> 10 & 1u;
    *step = dtype >> 8 & 3u;
    return *step <= 2 && !(*is_f32 && dtype_format_of(dtype) == FORMAT_F8);
}

extern const uint16_t iq2_xxs_grid[256], iq2_xs_grid[512], iq2_s_grid[1024], iq3_xxs_grid[256],
    iq3_s_grid[512], iq1_grid[2048];

#endif
