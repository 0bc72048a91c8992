/* Codes of a span with AVX-512: what quantise_span (quantise_plain.h) does, in a fraction of
 * its time. */

/* A span's 64 quads in four registers: quad i of the 16 elements 4t + j is lane 4i + j of register
 * t, so lanes with j = 0, 1 are block 2t and those with j = 2, 3 are block 2t + 1. Packing 32-bit
 * numbers to bytes gives the same order. */
struct quad_lanes {
    __m512i at[4];
};

INLINE struct quad_lanes magnitudes_of_quads(const float *x)
{
    struct quad_lanes out;
    UNROLL
    for (int t = 0; t < 4; t++) {
        __m512i v[4], pairs[2];
        UNROLL
        for (int j = 0; j < 4; j++)
            v[j] = _mm512_and_si512(_mm512_loadu_si512(x + 64 * t + 16 * j),
                                    _mm512_set1_epi32(0x7fffffff));
        UNROLL
        for (int j = 0; j < 2; j++)
            pairs[j] = _mm512_max_epu32(_mm512_unpacklo_epi32(v[2 * j], v[2 * j + 1]),
                                        _mm512_unpackhi_epi32(v[2 * j], v[2 * j + 1]));
        out.at[t] = _mm512_max_epu32(_mm512_unpacklo_epi64(pairs[0], pairs[1]),
                                     _mm512_unpackhi_epi64(pairs[0], pairs[1]));
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

/* Codes and sums of the 64 elements at x, halves 4t .. 4t + 3; `wide`: which lanes of quad_lanes
 * are wide. */
INLINE void put_vector_codes(const float *x, __m512 inverse, int t, __mmask16 wide,
                             struct cpu_span *out)
{
    __m512i codes[4], pairs[2], highs[2], lows[2];
    UNROLL
    for (int j = 0; j < 4; j++)
        codes[j] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * j), inverse));
    UNROLL
    for (int j = 0; j < 2; j++) {
        pairs[j] = _mm512_packs_epi32(codes[2 * j], codes[2 * j + 1]);
        highs[j] = _mm512_srai_epi16(
            _mm512_add_epi16(pairs[j], _mm512_set1_epi16(CPU_HIGH_UNIT / 2)), CPU_HIGH_BITS);
        lows[j] = _mm512_sub_epi16(pairs[j], _mm512_slli_epi16(highs[j], CPU_HIGH_BITS));
    }
    __m512i high = _mm512_maskz_mov_epi32(wide, _mm512_packs_epi16(highs[0], highs[1]));
    __m512i low = _mm512_mask_mov_epi32(_mm512_packs_epi16(pairs[0], pairs[1]), wide,
                                        _mm512_packs_epi16(lows[0], lows[1]));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(out->codes + 64 * t, _mm512_permutexvar_epi32(order, low));
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, high);
    sums = _mm512_dpbusd_epi32(_mm512_slli_epi32(sums, CPU_HIGH_BITS), ones, low);
    sums = _mm512_add_epi32(sums, _mm512_shuffle_i64x2(sums, sums, 0x4e));
    sums = _mm512_add_epi32(sums, _mm512_shuffle_i64x2(sums, sums, 0xb1));
    __m128 halves = _mm_cvtepi32_ps(_mm512_castsi512_si128(sums));
    _mm_storeu_ps(out->half_sums + 4 * t, halves);
    halves = _mm_add_ps(halves, _mm_permute_ps(halves, 0xb1));
    _mm_storel_pi((__m64 *)(void *)(out->sums + 2 * t), _mm_permute_ps(halves, 0x88));
    /* at most one of the four quads of a half has high bytes: or finds it */
    high = _mm512_or_si512(high, _mm512_shuffle_i64x2(high, high, 0x4e));
    high = _mm512_or_si512(high, _mm512_shuffle_i64x2(high, high, 0xb1));
    _mm_storeu_si128((__m128i *)(void *)out->wide_high[4 * t], _mm512_castsi512_si128(high));
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
