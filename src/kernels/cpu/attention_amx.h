/* Attention over pages of half numbers with the tile unit, which multiplies bf16 and adds in f32.
 * Included by attention_template.h where the level has it.
 *
 * A query and a key are each split into the sum of two bf16: what bf16 leaves of a key costs a KL
 * of 0.0005 on models whose keys have large biases. Of the four products of the parts, the one of
 * both lower parts is below 2^-15 of the whole and left out. Probabilities and values are rounded
 * to bf16, which averages out (and the sum that probabilities are divided by is of the rounded
 * ones).
 *
 * A query is a row of a tile, so its sums do not depend on its neighbours. */

/* Rows a little longer than their tokens, so that those of a tile fall into different cache sets.
 */
#define SCORE_STRIDE       (CPU_SEGMENT + 16)
#define PROBABILITY_STRIDE (CPU_SEGMENT + 32)

#define TOKENS_AT_ONCE 64 /* four tiles of sums */
#define PAGES_AT_ONCE  (TOKENS_AT_ONCE / PAGE)

INLINE size_t pad32(size_t n)
{
    return (n + 31) / 32 * 32;
}

struct tile_scratch {
    float *scores;         /* [queries][SCORE_STRIDE] */
    struct merge *merges;  /* [queries] */
    uint16_t *queries[2];  /* upper and lower parts: [queries][k dimensions] */
    uint16_t *keys[2];     /* [PAGES_AT_ONCE][k pairs][16 tokens][2] */
    uint16_t *values;      /* [token pairs][v dimensions][2] */
    uint16_t *probability; /* [queries][PROBABILITY_STRIDE] */
    float *part;           /* [4][16][16] */
    size_t bytes;
};

/* Queries come in tiles of 16, k dimensions in tiles of 32; the rest is padding. */
static struct tile_scratch carve_tiles(void *memory, size_t n_queries, size_t k_dim, size_t v_dim)
{
    size_t n = pad16(n_queries), k = pad32(k_dim), at = 0;
    struct tile_scratch s;
#define TAKE(count, type)                                                                          \
    (at += (count) * sizeof(type), (void *)((char *)memory + at - (count) * sizeof(type)))
    s.scores = TAKE(n * SCORE_STRIDE, float);
    s.part = TAKE(4 * 16 * 16, float);
    for (int i = 0; i < 2; i++) {
        s.queries[i] = TAKE(n * k, uint16_t);
        s.keys[i] = TAKE(k * TOKENS_AT_ONCE, uint16_t);
    }
    s.values = TAKE(CPU_SEGMENT * pad16(v_dim), uint16_t);
    s.probability = TAKE(n * PROBABILITY_STRIDE, uint16_t);
    s.merges = TAKE(n, struct merge);
#undef TAKE
    s.bytes = at;
    return s;
}

/* ---- to bf16 --------------------------------------------------------------------------------- */

INLINE ivec upper_bits(fvec x)
{
    return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xffff0000u));
}

/* x = upper part + rest, exactly; the rest of an f16 is a bf16 again. */
INLINE fvec rest_of(fvec x)
{
    return _mm512_sub_ps(x, _mm512_castsi512_ps(upper_bits(x)));
}

/* Pairs of bf16, cut off. */
INLINE ivec pairs_of(fvec first, fvec second)
{
    return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(first), 16), upper_bits(second));
}

INLINE fvec half_a_bf16_up(fvec x)
{
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000)));
}

INLINE void split_queries(const struct cpu_attention *call, const struct tile_scratch *s)
{
    size_t k = pad32(call->k_dim);
    for (size_t i = 0; i < call->n_queries; i++)
        for (size_t d = 0; d < k; d += 16) {
            fvec x = f_splat(0.0f);
            if (d < call->k_dim) {
                size_t left = call->k_dim - d;
                __mmask16 mask = (__mmask16)(left < 16 ? (1u << left) - 1u : 0xffffu);
                x = _mm512_maskz_loadu_ps(mask, call->queries + i * call->k_dim + d);
            }
            for (int part = 0; part < 2; part++, x = rest_of(x))
                _mm256_storeu_si256(
                    (__m256i *)(void *)(s->queries[part] + i * k + d),
                    _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(x), 16)));
        }
}

INLINE void split_keys(serverd_dtype kv, const void *page, size_t k_dim,
                       const struct tile_scratch *s, size_t at)
{
    uint16_t *upper = s->keys[0] + at * pad32(k_dim) * PAGE;
    uint16_t *lower = s->keys[1] + at * pad32(k_dim) * PAGE;
    for (size_t d = 0; d < pad32(k_dim); d += 2) {
        fvec first = f_splat(0.0f), second = first;
        if (d < k_dim)
            first = load_row(kv, page, d * PAGE);
        if (d + 1 < k_dim)
            second = load_row(kv, page, (d + 1) * PAGE);
        b_store(upper + d * PAGE, pairs_of(first, second));
        b_store(lower + d * PAGE, pairs_of(rest_of(first), rest_of(second)));
    }
}

/* Pages of values to pairs of tokens; pages that no query sees become zeros. */
INLINE void pair_values(const struct cpu_attention *call, serverd_dtype kv, size_t first_page,
                        size_t n_pages, uint16_t *values)
{
    size_t width = pad16(call->v_dim), page_size = PAGE * width;
    for (size_t page = first_page / 2 * 2; page < (n_pages + 1) / 2 * 2; page++) {
        uint16_t *to = values + page * page_size;
        if (page < first_page || page >= n_pages) {
            memset(to, 0, page_size * sizeof *to);
            continue;
        }
        for (size_t at = 0; at < page_size; at += 2 * width)
            for (size_t d = 0; d < width; d += 16)
                b_store(to + at + 2 * d,
                        pairs_of(half_a_bf16_up(load_row(kv, call->values[page], at + d)),
                                 half_a_bf16_up(load_row(kv, call->values[page], at + width + d))));
    }
}

/* Exponentials to bf16; zeros up to whole tiles of 32 tokens. Returns their sum. */
INLINE float round_probabilities(float *s, size_t first_page, size_t n_pages, uint16_t *to)
{
    lanes total = {0};
    for (size_t page = first_page / 2 * 2; page < (n_pages + 1) / 2 * 2; page++) {
        ivec bits = i_splat(0);
        if (page >= first_page && page < n_pages)
            bits = upper_bits(half_a_bf16_up(f_load(s + page * PAGE)));
        total += (lanes)bits;
        _mm256_storeu_si256((__m256i *)(void *)(to + page * PAGE),
                            _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
    }
    return add_lanes(total);
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* One product of parts in the sums of up to four pages, each its own tile. */
#define SCORE_PART(row_tile, keys)                                                                 \
    do {                                                                                           \
        const uint16_t *k_ = (keys);                                                               \
        _tile_loadd(6, k_, 64);                                                                    \
        _tile_dpbf16ps(0, row_tile, 6);                                                            \
        if (n > 1) {                                                                               \
            _tile_loadd(7, k_ + page_size, 64);                                                    \
            _tile_dpbf16ps(1, row_tile, 7);                                                        \
        }                                                                                          \
        if (n > 2) {                                                                               \
            _tile_loadd(6, k_ + 2 * page_size, 64);                                                \
            _tile_dpbf16ps(2, row_tile, 6);                                                        \
        }                                                                                          \
        if (n > 3) {                                                                               \
            _tile_loadd(7, k_ + 3 * page_size, 64);                                                \
            _tile_dpbf16ps(3, row_tile, 7);                                                        \
        }                                                                                          \
    } while (0)

/* `n` pages, from `page` of the segment on, times a tile of queries. */
INLINE void score_tiles(const struct tile_scratch *s, size_t k, size_t query, size_t page, size_t n)
{
    size_t page_size = k * PAGE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t d = 0; d < k; d += 32) {
        _tile_loadd(4, s->queries[0] + query * k + d, k * 2);
        _tile_loadd(5, s->queries[1] + query * k + d, k * 2);
        SCORE_PART(4, s->keys[0] + d * PAGE);
        SCORE_PART(5, s->keys[0] + d * PAGE);
        SCORE_PART(4, s->keys[1] + d * PAGE);
    }
    float *to = s->scores + query * SCORE_STRIDE + page * PAGE;
    _tile_stored(0, to, SCORE_STRIDE * 4);
    if (n > 1)
        _tile_stored(1, to + PAGE, SCORE_STRIDE * 4);
    if (n > 2)
        _tile_stored(2, to + 2 * PAGE, SCORE_STRIDE * 4);
    if (n > 3)
        _tile_stored(3, to + 3 * PAGE, SCORE_STRIDE * 4);
}

#define VALUE_STEP(sum, block, column_tile)                                                        \
    do {                                                                                           \
        if (n > (block)) {                                                                         \
            _tile_loadd(column_tile, v + (block)*32, width * 4);                                   \
            _tile_dpbf16ps(sum, 4, column_tile);                                                   \
        }                                                                                          \
    } while (0)

/* `n` blocks of 16 dimensions, from d on, of a tile of queries. */
INLINE void value_tiles(const struct cpu_attention *call, const struct tile_scratch *s,
                        size_t query, size_t d, size_t n, size_t first_page, size_t n_pages)
{
    size_t width = pad16(call->v_dim);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t page = first_page / 2 * 2; page < n_pages; page += 2) {
        const uint16_t *v = s->values + page * PAGE * width + 2 * d;
        _tile_loadd(4, s->probability + query * PROBABILITY_STRIDE + page * PAGE,
                    PROBABILITY_STRIDE * 2);
        VALUE_STEP(0, 0, 6);
        VALUE_STEP(1, 1, 7);
        VALUE_STEP(2, 2, 6);
        VALUE_STEP(3, 3, 7);
    }
    _tile_stored(0, s->part, 64);
    _tile_stored(1, s->part + 256, 64);
    _tile_stored(2, s->part + 512, 64);
    _tile_stored(3, s->part + 768, 64);
    for (size_t r = 0; r < 16 && query + r < call->n_queries; r++) {
        struct merge merge = s->merges[query + r];
        for (size_t block = 0; block < n; block++) {
            float *acc = call->acc + (query + r) * width + d + 16 * block;
            fvec old = f_mul(f_load(acc), f_splat(merge.old_factor));
            f_store(acc,
                    f_fma(f_load(s->part + 256 * block + 16 * r), f_splat(merge.new_factor), old));
        }
    }
}

INLINE void attend_tiles(const struct cpu_attention *call, serverd_dtype kv, size_t first_page,
                         size_t n_pages)
{
    struct tile_scratch s = carve_tiles(call->scratch, call->n_queries, call->k_dim, call->v_dim);
    size_t k = pad32(call->k_dim), width = pad16(call->v_dim);
    struct tile_shape shape = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        shape.rows[t] = (uint8_t)(t < 6 ? tile_rows(call->n_queries) : 16);
        shape.row_bytes[t] = 64;
    }
    _tile_loadconfig(&shape);
    split_queries(call, &s);
    for (size_t page = first_page; page < n_pages; page += PAGES_AT_ONCE) {
        size_t n = n_pages - page < PAGES_AT_ONCE ? n_pages - page : PAGES_AT_ONCE;
        for (size_t i = 0; i < n; i++)
            split_keys(kv, call->keys[page + i], call->k_dim, &s, i);
        for (size_t query = 0; query < call->n_queries; query += 16)
            score_tiles(&s, k, query, page, n);
    }
    for (size_t i = 0; i < call->n_queries; i++) {
        float *scores = s.scores + i * SCORE_STRIDE;
        s.merges[i] = soften(call, i, first_page, n_pages, scores);
        float sum = round_probabilities(scores, first_page, n_pages,
                                        s.probability + i * PROBABILITY_STRIDE);
        add_to_sum(call, i, s.merges[i], sum);
    }
    pair_values(call, kv, first_page, n_pages, s.values);
    for (size_t query = 0; query < call->n_queries; query += 16)
        for (size_t d = 0; d < width; d += 64)
            value_tiles(call, &s, query, d, width - d < 64 ? (width - d) / 16 : 4, first_page,
                        n_pages);
    _tile_release();
}
