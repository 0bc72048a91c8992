/* Sixteen lanes in one 512-bit register; needs AVX-512 F, BW, DQ, VL and VNNI. */
#include <immintrin.h>
#include <stdint.h>

typedef __m512 fvec;  /* 16 x f32 */
typedef __m512i ivec; /* 16 x i32 */
typedef __m512i bvec; /* 64 x u8 */

/* Loops over registers: their bounds are constants once a kernel is compiled. */
#define UNROLL _Pragma("GCC unroll 32")
#define SIMD   static inline __attribute__((always_inline))

SIMD bvec b_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
SIMD void b_store(void *p, bvec v)
{
    _mm512_storeu_si512(p, v);
}
SIMD bvec b_low_nibbles(bvec v)
{
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}
SIMD bvec b_high_nibbles(bvec v)
{
    return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}
/* (v >> by, or << -by) & mask, byte by byte: what comes from a neighbour is masked away. */
SIMD bvec b_shift_and(bvec v, int by, int mask)
{
    bvec moved = by >= 0 ? _mm512_srli_epi16(v, (unsigned)by) : _mm512_slli_epi16(v, (unsigned)-by);
    return _mm512_and_si512(moved, _mm512_set1_epi8((char)mask));
}
/* v >> by, which only the running program knows. */
SIMD bvec b_shift_right_and(bvec v, int by, int mask)
{
    return _mm512_and_si512(_mm512_srl_epi16(v, _mm_cvtsi32_si128(by)),
                            _mm512_set1_epi8((char)mask));
}
SIMD bvec b_or(bvec a, bvec b)
{
    return _mm512_or_si512(a, b);
}
/* table[v] + zero */
SIMD bvec b_lookup(const int8_t *table, int zero, bvec v)
{
    bvec t = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table));
    return _mm512_shuffle_epi8(_mm512_add_epi8(t, _mm512_set1_epi8((char)zero)), v);
}

SIMD ivec i_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
SIMD ivec i_splat(int32_t x)
{
    return _mm512_set1_epi32(x);
}
SIMD ivec i_add(ivec a, ivec b)
{
    return _mm512_add_epi32(a, b);
}
SIMD ivec i_shift_left(ivec v, int by)
{
    return _mm512_slli_epi32(v, (unsigned)by);
}
#define DOT_TAKES_128_OFF 0
/* acc[c] += sum over j of codes[4c + j] (unsigned) * a[j] (signed). `is_8bit`: codes may be above
 * 128. */
SIMD ivec i_dot(ivec acc, bvec codes, const int8_t *a, int is_8bit)
{
    (void)is_8bit;
    int32_t quad;
    __builtin_memcpy(&quad, a, sizeof quad);
    return _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(quad));
}

SIMD fvec f_splat(float x)
{
    return _mm512_set1_ps(x);
}
/* Dot products run on the pipes of multiplications, which they fill. Making a number of them is
 * left to the pipes of additions: an integer added to the bits of 1.5 * 2^23 * unit is that many
 * units more. */
#define DOT_BEGIN(unit) (1.5f * 0x1p23f * (unit))
SIMD ivec i_low_begin(void)
{
    return _mm512_castps_si512(_mm512_set1_ps(DOT_BEGIN(1)));
}
SIMD ivec i_high_begin(void)
{
    return _mm512_castps_si512(_mm512_set1_ps(DOT_BEGIN(128)));
}
/* sum * 2^shift, or, of a sum of 0, something that no sum of integers notices */
SIMD fvec f_zero_sum(const float *sum, int shift)
{
    int32_t bits;
    __builtin_memcpy(&bits, sum, sizeof bits);
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_set1_epi32(bits), _mm512_set1_epi32(shift << 23)));
}
/* 128 * high + low - zero_sum, of dot products that began with the above. All but the last addition
 * is exact. */
SIMD fvec f_of_dots(ivec low, fvec zero_sum, ivec high)
{
    fvec h = _mm512_sub_ps(_mm512_castsi512_ps(high), _mm512_set1_ps(DOT_BEGIN(128)));
    fvec begin = _mm512_add_ps(_mm512_set1_ps(DOT_BEGIN(1)), zero_sum);
    return _mm512_add_ps(_mm512_sub_ps(_mm512_castsi512_ps(low), begin), h);
}
SIMD fvec f_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
SIMD void f_store(float *p, fvec v)
{
    _mm512_storeu_ps(p, v);
}
SIMD void f_store_part(float *p, size_t n, fvec v)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), v);
}
SIMD fvec f_of_i(ivec v)
{
    return _mm512_cvtepi32_ps(v);
}
SIMD fvec f_add(fvec a, fvec b)
{
    return _mm512_add_ps(a, b);
}
SIMD fvec f_sub(fvec a, fvec b)
{
    return _mm512_sub_ps(a, b);
}
SIMD fvec f_mul(fvec a, fvec b)
{
    return _mm512_mul_ps(a, b);
}
SIMD fvec f_fma(fvec a, fvec b, fvec c)
{
    return _mm512_fmadd_ps(a, b, c);
}
/* b where either is NaN */
SIMD fvec f_max(fvec a, fvec b)
{
    return _mm512_max_ps(a, b);
}
SIMD fvec f_min(fvec a, fvec b)
{
    return _mm512_min_ps(a, b);
}
SIMD void f_store_f16(void *p, fvec v)
{
    _mm256_storeu_si256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
/* Rounded to the nearest, to even in the middle; NaN stays. */
SIMD void f_store_bf16(void *p, fvec v)
{
#ifdef __AVX512BF16__
    _mm256_storeu_si256(p, (__m256i)_mm512_cvtneps_pbh(v));
#else
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256(p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
#endif
}
/* v, but 0 where x < limit */
SIMD fvec f_zero_below(fvec x, float limit, fvec v)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_NLT_UQ), v);
}
/* v * 2^n, where n is an integer in the lowest bits of `shifted`. */
SIMD fvec f_times_power(fvec v, fvec shifted)
{
    return _mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_castps_si512(v), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
}
SIMD fvec f_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
SIMD fvec f_load_bf16(const void *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
SIMD fvec f_load_i8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
/* Sixteen E4M3 codes (dtype.h). */
SIMD fvec f_load_e4m3(const void *p)
{
    __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p));
    __m512i sign = _mm512_slli_epi32(_mm512_and_si512(codes, _mm512_set1_epi32(0x80)), 24);
    __m512i rest = _mm512_slli_epi32(_mm512_and_si512(codes, _mm512_set1_epi32(0x7f)), 20);
    return _mm512_mul_ps(_mm512_castsi512_ps(_mm512_or_si512(sign, rest)),
                         _mm512_set1_ps(0x1p120f));
}
/* table[halves of sixteen bytes], from bit `low` on */
SIMD fvec f_lookup(const float *table, const void *p, int low)
{
    __m128i v = _mm_loadu_si128(p);
    v = _mm_and_si128(_mm_srl_epi16(v, _mm_cvtsi32_si128(low)), _mm_set1_epi8(15));
    return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(v), _mm512_loadu_ps(table));
}

/* Halves of the 32-bit words at p, or bytes of them. */
SIMD fvec f_of_bf16_pairs(const void *p, int is_second)
{
    __m512i v = _mm512_loadu_si512(p);
    return _mm512_castsi512_ps(is_second ? _mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000u))
                                         : _mm512_slli_epi32(v, 16));
}
SIMD fvec f_of_i8_quads(const void *p, int i)
{
    __m512i v = _mm512_loadu_si512(p);
    return _mm512_cvtepi32_ps(
        _mm512_srai_epi32(_mm512_sll_epi32(v, _mm_cvtsi32_si128(24 - 8 * i)), 24));
}
/* -infinity but in lanes from .. to - 1 */
SIMD fvec f_hide(fvec v, int from, int to)
{
    __mmask16 keep = (__mmask16)(((1u << to) - 1u) & ~((1u << from) - 1u));
    return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), keep, v);
}

#define FEW_ROWS       4 /* that take codes apart in registers */
#define SCORE_ROWS     8
#define VALUE_ROWS     6
#define VALUE_VECTORS  4
#define TILE_ROWS      6 /* rows x column blocks that fit into the registers */
#define TILE_ROWS_SOME 4
#define TILE_COLUMNS   2
