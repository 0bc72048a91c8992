/* Sixteen lanes in two 256-bit registers; needs AVX2, FMA and F16C, and AVX-VNNI where
 * SIMD_HAS_VNNI is defined. */
#include <immintrin.h>

typedef struct {
    __m256 a, b;
} fvec; /* 16 x f32 */
typedef struct {
    __m256i a, b;
} ivec;            /* 16 x i32 */
typedef ivec bvec; /* 64 x u8 */

/* Loops over registers: their bounds are constants once a kernel is compiled. */
#define UNROLL _Pragma("GCC unroll 32")
#define SIMD   static inline __attribute__((always_inline))

SIMD bvec b_load(const void *p)
{
    const __m256i *v = p;
    return (bvec){_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
SIMD void b_store(void *p, bvec v)
{
    __m256i *to = p;
    _mm256_storeu_si256(to, v.a);
    _mm256_storeu_si256(to + 1, v.b);
}
SIMD bvec b_low_nibbles(bvec v)
{
    __m256i mask = _mm256_set1_epi8(15);
    return (bvec){_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask)};
}
SIMD bvec b_high_nibbles(bvec v)
{
    return b_low_nibbles((bvec){_mm256_srli_epi16(v.a, 4), _mm256_srli_epi16(v.b, 4)});
}
/* (v >> by, or << -by) & mask, byte by byte: what comes from a neighbour is masked away. */
SIMD bvec b_shift_and(bvec v, int by, int mask)
{
    __m256i m = _mm256_set1_epi8((char)mask);
    if (by >= 0)
        return (bvec){_mm256_and_si256(_mm256_srli_epi16(v.a, by), m),
                      _mm256_and_si256(_mm256_srli_epi16(v.b, by), m)};
    return (bvec){_mm256_and_si256(_mm256_slli_epi16(v.a, -by), m),
                  _mm256_and_si256(_mm256_slli_epi16(v.b, -by), m)};
}
/* v >> by, which only the running program knows. */
SIMD bvec b_shift_right_and(bvec v, int by, int mask)
{
    __m256i m = _mm256_set1_epi8((char)mask);
    __m128i n = _mm_cvtsi32_si128(by);
    return (bvec){_mm256_and_si256(_mm256_srl_epi16(v.a, n), m),
                  _mm256_and_si256(_mm256_srl_epi16(v.b, n), m)};
}
SIMD bvec b_or(bvec x, bvec y)
{
    return (bvec){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
/* table[v] + zero */
SIMD bvec b_lookup(const int8_t *table, int zero, bvec v)
{
    __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
    t = _mm256_add_epi8(t, _mm256_set1_epi8((char)zero));
    return (bvec){_mm256_shuffle_epi8(t, v.a), _mm256_shuffle_epi8(t, v.b)};
}

SIMD ivec i_load(const void *p)
{
    return b_load(p);
}
SIMD ivec i_and(ivec v, int mask)
{
    __m256i m = _mm256_set1_epi32(mask);
    return (ivec){_mm256_and_si256(v.a, m), _mm256_and_si256(v.b, m)};
}
SIMD ivec i_splat(int32_t x)
{
    return (ivec){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
SIMD ivec i_add(ivec x, ivec y)
{
    return (ivec){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
SIMD ivec i_shift_left(ivec v, int by)
{
    return (ivec){_mm256_slli_epi32(v.a, by), _mm256_slli_epi32(v.b, by)};
}
#ifdef SIMD_HAS_VNNI
#define DOT_TAKES_128_OFF 0
SIMD __m256i dot_half(__m256i acc, __m256i codes, __m256i a, int is_8bit)
{
    (void)is_8bit;
    return _mm256_dpbusd_avx_epi32(acc, codes, a);
}
#else
/* Pairs are added in 16 bits: 2 * 128 * 127 fits, so codes that may be above 128 are made signed.
 */
#define DOT_TAKES_128_OFF 1
SIMD __m256i dot_half(__m256i acc, __m256i codes, __m256i a, int is_8bit)
{
    __m256i pairs = _mm256_maddubs_epi16(codes, a);
    if (is_8bit) {
        __m256i w = _mm256_xor_si256(codes, _mm256_set1_epi8((char)0x80));
        pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
    }
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif
/* acc[c] += sum over j of codes[4c + j] (unsigned) * a[j] (signed). `is_8bit`: codes may be above
 * 128; where DOT_TAKES_128_OFF, they count as codes - 128. */
SIMD ivec i_dot(ivec acc, bvec codes, const int8_t *a, int is_8bit)
{
    int32_t quad;
    __builtin_memcpy(&quad, a, sizeof quad);
    __m256i splat = _mm256_set1_epi32(quad);
    return (ivec){dot_half(acc.a, codes.a, splat, is_8bit),
                  dot_half(acc.b, codes.b, splat, is_8bit)};
}

#ifndef SIMD_HAS_VNNI
/* Sums of pairs in 16 bits: of codes that are small enough several quads fit, and cost one widening
 * together. w_dot: of one quad; codes up to 128. */
#define SIMD_HAS_PAIRS
SIMD ivec w_dot(bvec codes, const int8_t *a)
{
    int32_t quad;
    __builtin_memcpy(&quad, a, sizeof quad);
    __m256i splat = _mm256_set1_epi32(quad);
    return (ivec){_mm256_maddubs_epi16(codes.a, splat), _mm256_maddubs_epi16(codes.b, splat)};
}
SIMD ivec w_add(ivec x, ivec y)
{
    return (ivec){_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)};
}
SIMD ivec i_add_pairs(ivec acc, ivec w)
{
    __m256i ones = _mm256_set1_epi16(1);
    return (ivec){_mm256_add_epi32(acc.a, _mm256_madd_epi16(w.a, ones)),
                  _mm256_add_epi32(acc.b, _mm256_madd_epi16(w.b, ones))};
}
#endif

SIMD fvec f_splat(float x)
{
    return (fvec){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
SIMD fvec f_load(const float *p)
{
    return (fvec){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
SIMD void f_store(float *p, fvec v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
SIMD void f_store_part(float *p, size_t n, fvec v)
{
    float all[16];
    f_store(all, v);
    __builtin_memcpy(p, all, n * sizeof *p);
}
SIMD fvec f_of_i(ivec v)
{
    return (fvec){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)};
}
SIMD fvec f_add(fvec x, fvec y)
{
    return (fvec){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
SIMD fvec f_sub(fvec x, fvec y)
{
    return (fvec){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
SIMD fvec f_mul(fvec x, fvec y)
{
    return (fvec){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
SIMD fvec f_fma(fvec x, fvec y, fvec z)
{
    return (fvec){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
#include "kernels/cpu/simd_dots.h"
/* b where either is NaN */
SIMD fvec f_max(fvec x, fvec y)
{
    return (fvec){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
SIMD fvec f_min(fvec x, fvec y)
{
    return (fvec){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
SIMD void f_store_f16(void *p, fvec v)
{
    __m128i *to = p;
    _mm_storeu_si128(to, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(to + 1, _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}
SIMD __m256i bf16_bits(__m256 v)
{
    __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    bits = _mm256_blendv_epi8(bits, _mm256_set1_epi32(0x7fc00000), is_nan);
    return _mm256_srli_epi32(bits, 16);
}
/* Rounded to the nearest, to even in the middle; NaN stays. */
SIMD void f_store_bf16(void *p, fvec v)
{
    /* packing works in halves of 128 bits: quarters 0, 2, 1, 3 come out */
    __m256i packed = _mm256_packus_epi32(bf16_bits(v.a), bf16_bits(v.b));
    _mm256_storeu_si256(p, _mm256_permute4x64_epi64(packed, 0xd8));
}
/* v, but 0 where x < limit */
SIMD fvec f_zero_below(fvec x, float limit, fvec v)
{
    __m256 l = _mm256_set1_ps(limit);
    return (fvec){_mm256_and_ps(_mm256_cmp_ps(x.a, l, _CMP_NLT_UQ), v.a),
                  _mm256_and_ps(_mm256_cmp_ps(x.b, l, _CMP_NLT_UQ), v.b)};
}
SIMD __m256 times_power(__m256 v, __m256 shifted)
{
    __m256i power = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), power));
}
/* v * 2^n, where n is an integer in the lowest bits of `shifted`. */
SIMD fvec f_times_power(fvec v, fvec shifted)
{
    return (fvec){times_power(v.a, shifted.a), times_power(v.b, shifted.b)};
}
SIMD fvec f_load_f16(const void *p)
{
    const __m128i *v = p;
    return (fvec){_mm256_cvtph_ps(_mm_loadu_si128(v)), _mm256_cvtph_ps(_mm_loadu_si128(v + 1))};
}
SIMD __m256 bf16_half(const __m128i *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
SIMD fvec f_load_bf16(const void *p)
{
    const __m128i *v = p;
    return (fvec){bf16_half(v), bf16_half(v + 1)};
}
SIMD fvec f_load_i8(const void *p)
{
    __m128i v = _mm_loadu_si128(p);
    return (fvec){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)),
                  _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)))};
}
/* Sixteen E4M3 codes (dtype.h). */
SIMD __m256 e4m3_half(__m256i codes)
{
    __m256i sign = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(0x80)), 24);
    __m256i rest = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(0x7f)), 20);
    return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_or_si256(sign, rest)),
                         _mm256_set1_ps(0x1p120f));
}
SIMD fvec f_load_e4m3(const void *p)
{
    __m128i v = _mm_loadu_si128(p);
    return (fvec){e4m3_half(_mm256_cvtepu8_epi32(v)),
                  e4m3_half(_mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)))};
}
SIMD __m256 lookup_half(const float *table, __m256i index)
{
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
/* table[halves of sixteen bytes], from bit `low` on */
SIMD fvec f_lookup(const float *table, const void *p, int low)
{
    __m128i v = _mm_loadu_si128(p);
    v = _mm_and_si128(_mm_srl_epi16(v, _mm_cvtsi32_si128(low)), _mm_set1_epi8(15));
    return (fvec){lookup_half(table, _mm256_cvtepu8_epi32(v)),
                  lookup_half(table, _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)))};
}

/* Halves of the 32-bit words at p, or bytes of them. */
SIMD fvec f_of_bf16_pairs(const void *p, int is_second)
{
    ivec v = b_load(p), h;
    h = is_second ? i_and(v, (int)0xffff0000u) : i_shift_left(v, 16);
    return (fvec){_mm256_castsi256_ps(h.a), _mm256_castsi256_ps(h.b)};
}
SIMD fvec f_of_i8_quads(const void *p, int i)
{
    __m128i n = _mm_cvtsi32_si128(24 - 8 * i);
    ivec v = b_load(p);
    return (fvec){
        _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_sll_epi32(v.a, n), 24)),
        _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_sll_epi32(v.b, n), 24)),
    };
}
/* -infinity but in lanes from .. to - 1 */
SIMD fvec f_hide(fvec v, int from, int to)
{
    float all[16];
    f_store(all, v);
    for (int i = 0; i < 16; i++)
        if (i < from || i >= to)
            all[i] = -__builtin_inff();
    return f_load(all);
}

#define FEW_ROWS       4 /* that take codes apart in registers */
#define SCORE_ROWS     4
#define VALUE_ROWS     2
#define VALUE_VECTORS  2
#define TILE_ROWS      2 /* rows x column blocks that fit into the registers */
#define TILE_ROWS_SOME 1
#define TILE_COLUMNS   1
