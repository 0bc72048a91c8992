/* Coarse codes of a whole span with AVX-512: what quantise_span (cpu_kernels_template.h) does, in
 * a third of its time. */

/* Lane b = the greatest lane of m[b]. */
INLINE __m256i greatest_of_eight(const __m512i *m)
{
    __m512i halves[4], quarters[2];
    UNROLL
    for (int i = 0; i < 4; i++)
        halves[i] = _mm512_max_epu32(_mm512_shuffle_i64x2(m[2 * i], m[2 * i + 1], 0x44),
                                     _mm512_shuffle_i64x2(m[2 * i], m[2 * i + 1], 0xee));
    UNROLL
    for (int i = 0; i < 2; i++)
        quarters[i] =
            _mm512_max_epu32(_mm512_shuffle_i64x2(halves[2 * i], halves[2 * i + 1], 0x88),
                             _mm512_shuffle_i64x2(halves[2 * i], halves[2 * i + 1], 0xdd));
    __m512i pairs = _mm512_max_epu32(_mm512_unpacklo_epi64(quarters[0], quarters[1]),
                                     _mm512_unpackhi_epi64(quarters[0], quarters[1]));
    pairs = _mm512_max_epu32(pairs, _mm512_shuffle_epi32(pairs, _MM_PERM_CDAB));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, pairs));
}

/* `most` with what is left of one of the blocks of an outlier's elements, from block `first` on,
 * when its greatest number is taken out, which `keep` then leaves out. */
INLINE __m256i take_vector_outlier(const float *x, size_t first, __m256i most, __mmask16 *keep,
                                   struct cpu_outlier *out)
{
    uint32_t all[CPU_SPAN_BLOCKS];
    _mm256_storeu_si256((__m256i *)(void *)all, most);
    size_t best = first;
    for (size_t block = first + 1; block < first + CPU_OUTLIER_SPAN / 32; block++)
        best = all[block] > all[best] ? block : best;
    uint32_t i = q_find_magnitude(x + 32 * best, all[best]);
    keep[2 * best + i / 16] = (__mmask16) ~(1u << i % 16);
    *out = (struct cpu_outlier){x[32 * best + i], (uint32_t)(32 * best) + i};
    __m512i low = _mm512_maskz_mov_epi32(keep[2 * best], q_magnitudes(x + 32 * best));
    __m512i high = _mm512_maskz_mov_epi32(keep[2 * best + 1], q_magnitudes(x + 32 * best + 16));
    uint32_t left = _mm512_reduce_max_epu32(_mm512_max_epu32(low, high));
    return _mm256_mask_set1_epi32(most, (__mmask8)(1u << best), (int)left);
}

/* False: something is not finite, nothing was done. */
INLINE bool quantise_whole_span(const float *x, struct cpu_span *out)
{
    __m512i magnitudes[CPU_SPAN_BLOCKS];
    __mmask16 keep[2 * CPU_SPAN_BLOCKS];
    float inverse[CPU_SPAN_BLOCKS];
    __m128i blocks[4];
    UNROLL
    for (int b = 0; b < CPU_SPAN_BLOCKS; b++)
        magnitudes[b] = _mm512_max_epu32(q_magnitudes(x + 32 * b), q_magnitudes(x + 32 * b + 16));
    __m256i most = greatest_of_eight(magnitudes);
    if (_mm256_cmpge_epu32_mask(most, _mm256_set1_epi32((int)INFINITE_BITS)))
        return false;
    memset(keep, 0xff, sizeof keep);
    UNROLL
    for (size_t o = 0; o < CPU_SPAN_OUTLIERS; o++)
        most = take_vector_outlier(x, o * (CPU_OUTLIER_SPAN / 32), most, keep, &out->outliers[o]);
    __mmask8 is_some = _mm256_cmpge_epu32_mask(most, _mm256_set1_epi32((int)NOTHING_BITS));
    __m256 scales = _mm256_maskz_div_ps(is_some, _mm256_castsi256_ps(most),
                                        _mm256_set1_ps(CPU_COARSE_CODE_MAX));
    _mm256_storeu_ps(out->scales, scales);
    _mm256_storeu_ps(inverse, _mm256_maskz_div_ps(is_some, _mm256_set1_ps(1.0f), scales));
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m512i codes = _mm512_setzero_si512();
        UNROLL
        for (int j = 0; j < 4; j++) {
            __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + 64 * i + 16 * j),
                                     _mm512_set1_ps(inverse[2 * i + j / 2]));
            __m128i bytes = _mm512_cvtepi32_epi8(_mm512_maskz_cvtps_epi32(keep[4 * i + j], v));
            codes = _mm512_mask_broadcast_i32x4(codes, (__mmask16)(15 << 4 * j), bytes);
        }
        _mm512_storeu_si512(out->codes + 64 * i, codes);
        __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
        sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_CDAB));
        sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_BADC));
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        __m128i halves = _mm512_castsi512_si128(_mm512_permutexvar_epi32(order, sums));
        halves = _mm_sub_epi32(_mm_setzero_si128(), halves);
        _mm_storeu_si128((__m128i *)(void *)(out->minus_half_sums + 4 * i), halves);
        halves = _mm_add_epi32(halves, _mm_shuffle_epi32(halves, _MM_PERM_CDAB));
        blocks[i] = _mm_shuffle_epi32(halves, _MM_PERM_CACA);
    }
    __m256i minus_sums = _mm256_set_m128i(_mm_unpacklo_epi64(blocks[2], blocks[3]),
                                          _mm_unpacklo_epi64(blocks[0], blocks[1]));
    _mm256_storeu_si256((__m256i *)(void *)out->minus_sums, minus_sums);
    minus_sums = _mm256_sub_epi32(_mm256_setzero_si256(), minus_sums);
    _mm256_storeu_ps(out->scaled_sums, _mm256_mul_ps(scales, _mm256_cvtepi32_ps(minus_sums)));
    return true;
}
