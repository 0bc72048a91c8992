/* Coarse codes of a span with AVX-512: what quantise_span (quantise_plain.h) does, in a fraction of
 * its time. */

/* Quads in registers: quad i of vector 4t + j is lane 4i + j of register t, so lanes with j = 0, 1
 * are block 2t and those with j = 2, 3 are block 2t + 1. */
struct quad_lanes {
    __m512i at[4];
};

INLINE struct quad_lanes magnitudes_of_quads(const float *x)
{
    struct quad_lanes out;
    UNROLL
    for (int t = 0; t < 4; t++) {
        __m512i v[4];
        UNROLL
        for (int j = 0; j < 4; j++) {
            v[j] = _mm512_and_si512(_mm512_loadu_si512(x + 64 * t + 16 * j),
                                    _mm512_set1_epi32(0x7fffffff));
            v[j] = _mm512_max_epu32(v[j], _mm512_shuffle_epi32(v[j], _MM_PERM_CDAB));
            v[j] = _mm512_max_epu32(v[j], _mm512_shuffle_epi32(v[j], _MM_PERM_BADC));
        }
        __m512i low = _mm512_mask_mov_epi32(v[0], 0x2222, v[1]);
        out.at[t] = _mm512_mask_mov_epi32(low, 0xcccc, _mm512_mask_mov_epi32(v[2], 0x8888, v[3]));
    }
    return out;
}

/* In every lane the greatest of its block. */
INLINE __m512i greatest_of_block(__m512i v)
{
    v = _mm512_max_epu32(v, _mm512_shuffle_i64x2(v, v, 0x4e));
    v = _mm512_max_epu32(v, _mm512_shuffle_i64x2(v, v, 0xb1));
    return _mm512_max_epu32(v, _mm512_shuffle_epi32(v, _MM_PERM_CDAB));
}

/* Sums of 16 codes, four halves of 32 from bytes [4][16], of `ones` times the bytes. */
INLINE __m128i sums_of_halves(__m512i sums)
{
    sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_CDAB));
    sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_BADC));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castsi512_si128(_mm512_permutexvar_epi32(order, sums));
}

/* Codes and sums of the 64 elements at x, halves 4t .. 4t + 3; `wide`: which lanes of quad_lanes
 * are wide. */
INLINE void put_vector_codes(const float *x, __m512 inverse, int t, __mmask16 wide,
                             struct cpu_span *out)
{
    __m512i low = _mm512_setzero_si512(), high = low;
    UNROLL
    for (int j = 0; j < 4; j++) {
        __mmask16 is_wide = (__mmask16)((wide >> j & 0x1111) * 15);
        __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * j), inverse));
        __m512i h = _mm512_maskz_add_epi32(is_wide, c, _mm512_set1_epi32(CPU_HIGH_UNIT / 2));
        h = _mm512_srai_epi32(h, CPU_HIGH_BITS);
        c = _mm512_sub_epi32(c, _mm512_slli_epi32(h, CPU_HIGH_BITS));
        __mmask16 place = (__mmask16)(15 << 4 * j);
        low = _mm512_mask_broadcast_i32x4(low, place, _mm512_cvtepi32_epi8(c));
        high = _mm512_mask_broadcast_i32x4(high, place, _mm512_cvtepi32_epi8(h));
    }
    _mm512_storeu_si512(out->codes + 64 * t, low);
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, high);
    sums = _mm512_dpbusd_epi32(_mm512_slli_epi32(sums, CPU_HIGH_BITS), ones, low);
    __m128i halves = sums_of_halves(sums);
    _mm_storeu_si128((__m128i *)(void *)(out->half_sums + 4 * t), halves);
    halves = _mm_add_epi32(halves, _mm_shuffle_epi32(halves, _MM_PERM_CDAB));
    _mm_storel_epi64((__m128i *)(void *)(out->sums + 2 * t),
                     _mm_shuffle_epi32(halves, _MM_PERM_CACA));
    /* at most one of the four quads of a half has high bytes: or finds it */
    high = _mm512_or_si512(high, _mm512_shuffle_epi32(high, _MM_PERM_CDAB));
    high = _mm512_or_si512(high, _mm512_shuffle_epi32(high, _MM_PERM_BADC));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_si128((__m128i *)(void *)out->wide_high[4 * t],
                     _mm512_castsi512_si128(_mm512_permutexvar_epi32(order, high)));
}

/* False: there is nothing, or something that is not finite, and nothing was done. */
INLINE bool quantise_usual_span(const float *x, struct cpu_span *out)
{
    struct quad_lanes quads = magnitudes_of_quads(x);
    __m512i most = _mm512_setzero_si512(), rest = most;
    __mmask16 wide[4];
    /* 7 minus a quad's place in its block */
    const __m512i places = _mm512_setr_epi32(7, 3, 7, 3, 6, 2, 6, 2, 5, 1, 5, 1, 4, 0, 4, 0);
    UNROLL
    for (int t = 0; t < 4; t++) {
        __m512i v = quads.at[t];
        __m512i keys = _mm512_ternarylogic_epi32(_mm512_set1_epi32((int)WIDE_KEY_BITS), v, places,
                                                 0xac); /* places where the bits are, else v */
        __m512i best = greatest_of_block(keys);
        wide[t] = _mm512_cmpeq_epi32_mask(keys, best);
        most = _mm512_max_epu32(most, v);
        rest = _mm512_mask_max_epu32(rest, (__mmask16)~wide[t], rest, v);
        /* lanes 0 and 2: the blocks' */
        uint64_t low = (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(best));
        uint64_t high = (uint64_t)_mm_extract_epi64(_mm512_castsi512_si128(best), 1);
        out->wide_quads[2 * t] = (uint8_t)(16 * t + 7 - (int)(low & WIDE_KEY_BITS));
        out->wide_quads[2 * t + 1] = (uint8_t)(16 * t + 15 - (int)(high & WIDE_KEY_BITS));
    }
    uint32_t greatest = _mm512_reduce_max_epu32(most);
    if (greatest >= INFINITE_BITS || greatest < NOTHING_BITS)
        return false;
    out->scale = span_scale(greatest, _mm512_reduce_max_epu32(rest));
    const __m512 inverse = _mm512_set1_ps(1.0f / out->scale);
    UNROLL
    for (int t = 0; t < 4; t++)
        put_vector_codes(x + 64 * t, inverse, t, wide[t], out);
    return true;
}
