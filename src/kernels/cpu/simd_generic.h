/* Sixteen lanes as an array: plain C for every machine. */
#include "base/numeric.h"
#include "program/dtype.h"

#include <math.h>

typedef struct {
    float at[16];
} fvec;
typedef struct {
    int32_t at[16];
} ivec;
typedef struct {
    uint8_t at[64];
} bvec;

#define UNROLL /* nothing lies in registers */
#ifdef KERNELS_SANITIZED
#define SIMD static inline /* loops with a check for each element: not everywhere anew */
#else
#define SIMD static inline __attribute__((always_inline))
#endif
#define EACH(type, n, expression)                                                                  \
    type out;                                                                                      \
    for (int i = 0; i < (n); i++)                                                                  \
        out.at[i] = (expression);                                                                  \
    return out

SIMD bvec b_load(const void *p)
{
    bvec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
SIMD void b_store(void *p, bvec v)
{
    __builtin_memcpy(p, &v, sizeof v);
}
SIMD bvec b_low_nibbles(bvec v)
{
    EACH(bvec, 64, v.at[i] & 15);
}
SIMD bvec b_high_nibbles(bvec v)
{
    EACH(bvec, 64, (uint8_t)(v.at[i] >> 4));
}
/* (v >> by, or << -by) & mask, byte by byte. */
SIMD bvec b_shift_and(bvec v, int by, int mask)
{
    EACH(bvec, 64, (uint8_t)((by >= 0 ? v.at[i] >> by : v.at[i] << -by) & mask));
}
SIMD bvec b_shift_right_and(bvec v, int by, int mask)
{
    EACH(bvec, 64, (uint8_t)(v.at[i] >> by & mask));
}
SIMD bvec b_or(bvec a, bvec b)
{
    EACH(bvec, 64, a.at[i] | b.at[i]);
}
/* table[v] + zero */
SIMD bvec b_lookup(const int8_t *table, int zero, bvec v)
{
    EACH(bvec, 64, (uint8_t)(table[v.at[i]] + zero));
}
SIMD ivec i_load(const void *p)
{
    ivec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
SIMD ivec i_splat(int32_t x)
{
    EACH(ivec, 16, x);
}
SIMD ivec i_add(ivec a, ivec b)
{
    EACH(ivec, 16, a.at[i] + b.at[i]);
}
SIMD ivec i_shift_left(ivec v, int by)
{
    EACH(ivec, 16, v.at[i] * (1 << by));
}
#define DOT_TAKES_128_OFF 0
/* acc[c] += sum over j of codes[4c + j] (unsigned) * a[j] (signed). */
SIMD ivec i_dot(ivec acc, bvec codes, const int8_t *a, int is_8bit)
{
    (void)is_8bit;
    EACH(ivec, 16,
         acc.at[i] + codes.at[4 * i] * a[0] + codes.at[4 * i + 1] * a[1] +
             codes.at[4 * i + 2] * a[2] + codes.at[4 * i + 3] * a[3]);
}
SIMD fvec f_splat(float x)
{
    EACH(fvec, 16, x);
}
SIMD fvec f_load(const float *p)
{
    EACH(fvec, 16, p[i]);
}
SIMD void f_store(float *p, fvec v)
{
    __builtin_memcpy(p, &v, sizeof v);
}
SIMD void f_store_part(float *p, size_t n, fvec v)
{
    __builtin_memcpy(p, &v, n * sizeof *p);
}
SIMD fvec f_of_i(ivec v)
{
    EACH(fvec, 16, (float)v.at[i]);
}
SIMD fvec f_add(fvec a, fvec b)
{
    EACH(fvec, 16, a.at[i] + b.at[i]);
}
SIMD fvec f_sub(fvec a, fvec b)
{
    EACH(fvec, 16, a.at[i] - b.at[i]);
}
SIMD fvec f_mul(fvec a, fvec b)
{
    EACH(fvec, 16, a.at[i] * b.at[i]);
}
SIMD fvec f_fma(fvec a, fvec b, fvec c)
{
    EACH(fvec, 16, fmaf(a.at[i], b.at[i], c.at[i]));
}
#include "kernels/cpu/simd_dots.h"
/* b where either is NaN */
SIMD fvec f_max(fvec a, fvec b)
{
    EACH(fvec, 16, a.at[i] > b.at[i] ? a.at[i] : b.at[i]);
}
SIMD fvec f_min(fvec a, fvec b)
{
    EACH(fvec, 16, a.at[i] < b.at[i] ? a.at[i] : b.at[i]);
}
SIMD void f_store_f16(void *p, fvec v)
{
    for (int i = 0; i < 16; i++) {
        uint16_t half = f32_to_f16(v.at[i]);
        __builtin_memcpy((char *)p + 2 * i, &half, sizeof half);
    }
}
SIMD void f_store_bf16(void *p, fvec v)
{
    for (int i = 0; i < 16; i++) {
        uint16_t half = f32_to_bf16(v.at[i]);
        __builtin_memcpy((char *)p + 2 * i, &half, sizeof half);
    }
}
/* v, but 0 where x < limit */
SIMD fvec f_zero_below(fvec x, float limit, fvec v)
{
    EACH(fvec, 16, x.at[i] < limit ? 0.0f : v.at[i]);
}
/* v * 2^n, where n is an integer in the lowest bits of `shifted`. */
SIMD fvec f_times_power(fvec v, fvec shifted)
{
    EACH(fvec, 16, f32_from_bits(f32_bits(v.at[i]) + (f32_bits(shifted.at[i]) << 23)));
}
SIMD uint16_t half_of(const void *p, int i)
{
    uint16_t half;
    __builtin_memcpy(&half, (const char *)p + 2 * i, sizeof half);
    return half;
}
SIMD fvec f_load_f16(const void *p)
{
    EACH(fvec, 16, f16_to_f32(half_of(p, i)));
}
SIMD fvec f_load_bf16(const void *p)
{
    EACH(fvec, 16, bf16_to_f32(half_of(p, i)));
}
SIMD fvec f_load_i8(const void *p)
{
    EACH(fvec, 16, (float)((const int8_t *)p)[i]);
}
/* Sixteen E4M3 codes (dtype.h). */
SIMD fvec f_load_e4m3(const void *p)
{
    EACH(fvec, 16, e4m3_to_f32(((const uint8_t *)p)[i]));
}
/* table[halves of sixteen bytes], from bit `low` on */
SIMD fvec f_lookup(const float *table, const void *p, int low)
{
    EACH(fvec, 16, table[((const uint8_t *)p)[i] >> low & 15]);
}

/* Halves of the 32-bit words at p, or bytes of them. */
SIMD fvec f_of_bf16_pairs(const void *p, int is_second)
{
    ivec v = i_load(p);
    EACH(fvec, 16,
         f32_from_bits(is_second ? (uint32_t)v.at[i] & 0xffff0000u : (uint32_t)v.at[i] << 16));
}
SIMD fvec f_of_i8_quads(const void *p, int byte)
{
    const int8_t *b = p;
    EACH(fvec, 16, (float)b[4 * i + byte]);
}
/* -infinity but in lanes from .. to - 1 */
SIMD fvec f_hide(fvec v, int from, int to)
{
    EACH(fvec, 16, i < from || i >= to ? -INFINITY : v.at[i]);
}

#define FEW_ROWS       1 /* that take codes apart in registers */
#define SCORE_ROWS     4
#define VALUE_ROWS     2
#define VALUE_VECTORS  2
#define TILE_ROWS      1
#define TILE_ROWS_SOME 1
#define TILE_COLUMNS   1
