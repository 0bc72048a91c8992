/* Attention with the processor's bf16 dot product: queries, keys, probabilities and values are
 * bf16, sums f32. A 32-bit lane holds a pair: of dimensions in keys, of tokens in values. */

INLINE __m512 dot_pairs(__m512 acc, const uint16_t *pair, __m512i v)
{
    int32_t bits;
    __builtin_memcpy(&bits, pair, sizeof bits);
    return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(bits), (__m512bh)v);
}

/* ---- scores ---------------------------------------------------------------------------------- */

INLINE void score_tile(const struct attention_block *b, int rows, int strips, size_t query,
                       size_t strip)
{
    size_t n_pairs = (b->call->k_dim + 1) / 2;
    const uint16_t *q = b->query_pairs + query * 2 * n_pairs;
    const char *keys[8];
    __m512 acc[16];
    UNROLL
    for (int p = 0; p < strips; p++)
        keys[p] = b->call->keys[strip + (size_t)p];
    UNROLL
    for (int i = 0; i < rows * strips; i++)
        acc[i] = _mm512_setzero_ps();
    /* few queries wait for memory: their values and next keys are asked for here */
    const bool fetches = rows <= 4;
    const char *values[8], *next[8];
    size_t value_bytes = CPU_STRIP * cpu_value_token_bytes(DTYPE_BF16, b->call->v_dim);
    for (int p = 0; p < strips && fetches; p++) {
        values[p] = b->call->values[strip + (size_t)p];
        next[p] = b->call->keys[min_size(strip + (size_t)(strips + p), b->end_strip - 1)];
    }
    for (size_t pair = 0; pair < n_pairs; pair++) {
        __m512i k[8];
        UNROLL
        for (int p = 0; p < strips && fetches; p++) {
            __builtin_prefetch(values[p] + min_size(pair * 64, value_bytes - 1), 0, 2);
            __builtin_prefetch(next[p] + pair * 64, 0, 3);
        }
        UNROLL
        for (int p = 0; p < strips; p++)
            k[p] = _mm512_loadu_si512(keys[p] + pair * 64);
        UNROLL
        for (int r = 0; r < rows; r++)
            UNROLL
        for (int p = 0; p < strips; p++)
            acc[r * strips + p] =
                dot_pairs(acc[r * strips + p], q + ((size_t)r * n_pairs + pair) * 2, k[p]);
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int p = 0; p < strips; p++)
        f_store(b->scores + (query + (size_t)r) * CPU_SEGMENT + (strip + (size_t)p) * CPU_STRIP,
                acc[r * strips + p]);
}

INLINE void score_rows(const struct attention_block *b, int rows, int strips, size_t query)
{
    size_t strip = b->first_strip;
    for (; strip + (size_t)strips <= b->end_strip; strip += (size_t)strips)
        score_tile(b, rows, strips, query, strip);
    for (; strip < b->end_strip; strip++)
        score_tile(b, rows, 1, query, strip);
}

INLINE void score_pairs(const struct attention_block *b)
{
    const struct cpu_attention *call = b->call;
    size_t width = (call->k_dim + 1) / 2 * 2;
    for (size_t i = 0; i < b->n; i++) {
        size_t whole = call->k_dim / LANES * LANES;
        for (size_t d = 0; d < whole; d += LANES)
            f_store_bf16(b->query_pairs + i * width + d,
                         f_load(call->queries + (b->first + i) * call->k_dim + d));
        for (size_t d = whole; d < width; d += LANES) {
            float part[LANES] = {0};
            uint16_t halves[LANES];
            size_t n = min_size(LANES, call->k_dim - d);
            memcpy(part, call->queries + (b->first + i) * call->k_dim + d, n * sizeof *part);
            f_store_bf16(halves, f_load(part));
            memcpy(b->query_pairs + i * width + d, halves,
                   min_size(LANES, width - d) * sizeof *halves);
        }
    }
    size_t i = 0;
    for (size_t n; i < b->n && !IS_SPECIALISED; i += n) {
        n = b->n - i >= 8 ? 8 : min_size(4, b->n - i);
        score_rows(b, (int)n, n == 8 ? 2 : n == 1 ? 8 : 4, i);
    }
    for (; i + 8 <= b->n; i += 8)
        score_rows(b, 8, 2, i);
    for (; i + 4 <= b->n; i += 4)
        score_rows(b, 4, 4, i);
    if (b->n - i == 3)
        score_rows(b, 3, 4, i);
    else if (b->n - i == 2)
        score_rows(b, 2, 4, i);
    else if (b->n - i == 1)
        score_rows(b, 1, 8, i);
}

/* ---- values ---------------------------------------------------------------------------------- */

INLINE void add_value_pairs(const struct attention_block *b, int rows, int vectors, size_t query,
                            size_t d, const struct merge *merges)
{
    size_t width = pad16(b->call->v_dim);
    const uint16_t *p = b->halves + query * CPU_SEGMENT;
    fvec part[16];
    UNROLL
    for (int i = 0; i < rows * vectors; i++)
        part[i] = f_splat(0.0f);
    for (size_t strip = b->first_strip; strip < b->end_strip; strip++) {
        const char *values = (const char *)b->call->values[strip] + d * 4;
        for (size_t t = 0; t < CPU_STRIP; t += 2, values += width * 4) {
            __m512i v[4];
            UNROLL
            for (int i = 0; i < vectors; i++)
                v[i] = _mm512_loadu_si512(values + 64 * i);
            UNROLL
            for (int r = 0; r < rows; r++)
                UNROLL
            for (int i = 0; i < vectors; i++)
                part[r * vectors + i] =
                    dot_pairs(part[r * vectors + i],
                              p + (size_t)r * CPU_SEGMENT + strip * CPU_STRIP + t, v[i]);
        }
    }
    put_values(b, rows, vectors, query, d, part, merges);
}

INLINE void add_value_columns(const struct attention_block *b, int vectors, size_t d,
                              const struct merge *merges)
{
    size_t i = 0;
    for (size_t n; i < b->n && !IS_SPECIALISED; i += n) {
        n = min_size(4, b->n - i);
        add_value_pairs(b, (int)n, vectors, i, d, merges);
    }
    if (vectors <= 2)
        for (; i + 8 <= b->n; i += 8)
            add_value_pairs(b, 8, vectors, i, d, merges);
    for (; i + 4 <= b->n; i += 4)
        add_value_pairs(b, 4, vectors, i, d, merges);
    if (b->n - i == 3)
        add_value_pairs(b, 3, vectors, i, d, merges);
    else if (b->n - i == 2)
        add_value_pairs(b, 2, vectors, i, d, merges);
    else if (b->n - i == 1)
        add_value_pairs(b, 1, vectors, i, d, merges);
}

INLINE void add_all_value_pairs(const struct attention_block *b, const struct merge *merges)
{
    size_t width = pad16(b->call->v_dim), d = 0;
    for (int n; d < width && !IS_SPECIALISED; d += 16 * (size_t)n) {
        n = d + 64 <= width ? 4 : 1;
        add_value_columns(b, n, d, merges);
    }
    for (; d + 64 <= width; d += 64)
        add_value_columns(b, 4, d, merges);
    for (; d < width; d += 16)
        add_value_columns(b, 1, d, merges);
}
