/* Softmax attention over one segment of paged keys and values. Included once by each
 * cpu_kernels_LEVEL.c behind linear_template.h.
 *
 * A page of one head: keys [k_dim][16 tokens], values [16 tokens][v_dim rounded up to 16]. A lane
 * is a token while scores are computed (so a score is a sum over ascending dimensions) and a
 * dimension while values are added (a sum over ascending tokens): the order never depends on how
 * many queries are taken together. */

#define PAGE SERVERD_PAGE_TOKENS

INLINE size_t pad16(size_t n)
{
    return (n + 15) / 16 * 16;
}

/* 16 elements of a page from `at` on. */
INLINE fvec load_row(serverd_dtype kv, const void *page, size_t at)
{
    if (kv == DTYPE_BF16)
        return f_load_bf16((const uint16_t *)page + at);
    if (kv == DTYPE_F16)
        return f_load_f16((const uint16_t *)page + at);
    return f_load((const float *)page + at);
}

/* ---- scores ---------------------------------------------------------------------------------- */

/* scores[r][0..15] = q[r] . k[token] of one page. */
INLINE void score_page(serverd_dtype kv, const void *keys, const float *q, size_t k_dim, int rows,
                       float *scores)
{
    fvec acc[SCORE_ROWS];
    for (int r = 0; r < rows; r++)
        acc[r] = f_splat(0.0f);
    for (size_t d = 0; d < k_dim; d++) {
        fvec k = load_row(kv, keys, d * PAGE);
        for (int r = 0; r < rows; r++)
            acc[r] = f_fma(f_splat(q[(size_t)r * k_dim + d]), k, acc[r]);
    }
    for (int r = 0; r < rows; r++)
        f_store(scores + (size_t)r * CPU_SEGMENT, acc[r]);
}

INLINE void score_pages(const struct cpu_attention *call, serverd_dtype kv, size_t first_page,
                        size_t n_pages, float *scores)
{
    for (size_t page = first_page; page < n_pages; page++)
        for (size_t i = 0; i < call->n_queries;) {
            const float *q = call->queries + i * call->k_dim;
            float *to = scores + i * CPU_SEGMENT + page * PAGE;
            size_t left = call->n_queries - i;
            int rows = left >= SCORE_ROWS ? SCORE_ROWS : left >= 2 ? 2 : 1;
            if (rows == SCORE_ROWS)
                score_page(kv, call->keys[page], q, call->k_dim, SCORE_ROWS, to);
            else if (rows == 2)
                score_page(kv, call->keys[page], q, call->k_dim, 2, to);
            else
                score_page(kv, call->keys[page], q, call->k_dim, 1, to);
            i += (size_t)rows;
        }
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* What a query's old sum and the segment's own are multiplied with to merge them. */
struct merge {
    float old_factor, new_factor;
};

/* exp(x) for x <= 0: 2^n * p(f), f in [-ln2/2, ln2/2], p of degree 6 (Taylor's coefficients; the
 * error is below 3 units in the last place). 0 below -87; NaN stays. */
INLINE fvec exp_of_negative(fvec x)
{
    const fvec magic = f_splat(12582912.0f); /* 1.5 * 2^23: rounds to an integer */
    fvec clamped = f_max(f_splat(-87.0f), x);
    fvec shifted = f_fma(clamped, f_splat(1.44269504f), magic);
    fvec n = f_add(shifted, f_splat(-12582912.0f));
    fvec f = f_fma(n, f_splat(-0.693145752f), clamped);
    f = f_fma(n, f_splat(-1.42860677e-6f), f);
    fvec p = f_fma(f_splat(1.38888889e-3f), f, f_splat(8.33333333e-3f));
    p = f_fma(p, f, f_splat(4.16666667e-2f));
    p = f_fma(p, f, f_splat(1.66666667e-1f));
    p = f_fma(p, f, f_splat(0.5f));
    p = f_fma(p, f, f_splat(1.0f));
    p = f_fma(p, f, f_splat(1.0f));
    return f_zero_below(x, -87.0f, f_times_power(p, shifted));
}

INLINE fvec hide(fvec s, size_t first, uint32_t begin, uint32_t end)
{
    float all[LANES];
    f_store(all, s);
    for (size_t i = 0; i < LANES; i++)
        if (first + i < begin || first + i >= end)
            all[i] = -INFINITY;
    return f_load(all);
}

/* The greatest of n scores, a multiple of 16; not NaN. */
INLINE float greatest(const float *s, size_t n)
{
    fvec most = f_splat(-INFINITY);
    for (size_t i = 0; i < n; i += LANES)
        most = f_max(f_load(s + i), most);
    float all[LANES];
    f_store(all, most);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            all[i] = all[i] > all[i + half] ? all[i] : all[i + half];
    return all[0];
}

/* Turns the scores of one query into exponentials, 0 where the query does not see. What they sum
 * up to is then added with add_to_sum. */
INLINE struct merge soften(const struct cpu_attention *call, size_t query, size_t first,
                           size_t end_page, float *s)
{
    uint32_t begin = call->begin[query], end = call->end[query];
    size_t last = end_page * PAGE;
    if (begin >= end) {
        memset(s + first * PAGE, 0, (last - first * PAGE) * sizeof *s);
        return (struct merge){1.0f, 0.0f};
    }
    for (size_t i = first * PAGE; i < last; i += LANES) {
        fvec v = f_mul(f_load(s + i), f_splat(call->scale));
        if (call->cap > 0.0f) {
            f_store(s + i, v);
            store(s + i, call->cap * tanh_lanes(load(s + i) / call->cap));
            v = f_load(s + i);
        }
        if (i < begin || i + LANES > end)
            v = hide(v, i, begin, end);
        f_store(s + i, v);
    }
    float max = greatest(s + first * PAGE, last - first * PAGE);
    for (size_t i = first * PAGE; i < last; i += LANES)
        f_store(s + i, exp_of_negative(f_add(f_load(s + i), f_splat(-max))));
    float old_max = call->max[query], both = max > old_max ? max : old_max;
    float factors[LANES] = {max - both, old_max == -INFINITY ? -INFINITY : old_max - both};
    f_store(factors, exp_of_negative(f_load(factors)));
    struct merge merge = {.new_factor = factors[0], .old_factor = factors[1]};
    call->max[query] = both;
    return merge;
}

INLINE void add_to_sum(const struct cpu_attention *call, size_t query, struct merge merge,
                       float sum)
{
    call->sum[query] = call->sum[query] * merge.old_factor + sum * merge.new_factor;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Dimensions d .. d + 16 * vectors - 1 of `rows` queries. */
INLINE void add_values(const struct cpu_attention *call, serverd_dtype kv, int rows, int vectors,
                       size_t query, size_t d, size_t first_page, size_t n_pages,
                       const float *scores, const struct merge *merges)
{
    size_t width = pad16(call->v_dim);
    fvec part[VALUE_ROWS * VALUE_VECTORS];
    for (int i = 0; i < rows * vectors; i++)
        part[i] = f_splat(0.0f);
    for (size_t page = first_page; page < n_pages; page++)
        for (size_t t = 0; t < PAGE; t++)
            for (int v = 0; v < vectors; v++) {
                fvec value = load_row(kv, call->values[page], t * width + d + 16 * (size_t)v);
                for (int r = 0; r < rows; r++) {
                    const float *p = scores + (query + (size_t)r) * CPU_SEGMENT + page * PAGE + t;
                    fvec *sum = &part[r * vectors + v];
                    *sum = f_fma(f_splat(*p), value, *sum);
                }
            }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            float *acc = call->acc + (query + (size_t)r) * width + d + 16 * (size_t)v;
            fvec old = f_mul(f_load(acc), f_splat(merges[query + (size_t)r].old_factor));
            f_store(acc, f_fma(part[r * vectors + v], f_splat(merges[query + (size_t)r].new_factor),
                               old));
        }
}

INLINE void add_all_values(const struct cpu_attention *call, serverd_dtype kv, size_t first_page,
                           size_t n_pages, const float *scores, const struct merge *merges)
{
    size_t width = pad16(call->v_dim);
    for (size_t d = 0; d < width;) {
        int vectors = width - d >= 16 * VALUE_VECTORS ? VALUE_VECTORS : 1;
        for (size_t i = 0; i < call->n_queries;) {
            int rows = call->n_queries - i >= VALUE_ROWS ? VALUE_ROWS : 1;
            if (vectors == VALUE_VECTORS && rows == VALUE_ROWS)
                add_values(call, kv, VALUE_ROWS, VALUE_VECTORS, i, d, first_page, n_pages, scores,
                           merges);
            else if (vectors == VALUE_VECTORS)
                add_values(call, kv, 1, VALUE_VECTORS, i, d, first_page, n_pages, scores, merges);
            else
                for (int r = 0; r < rows; r++)
                    add_values(call, kv, 1, 1, i + (size_t)r, d, first_page, n_pages, scores,
                               merges);
            i += (size_t)rows;
        }
        d += 16 * (size_t)vectors;
    }
}

#ifdef LEVEL_HAS_AMX
#include "kernels/cpu/attention_amx.h"
#endif

INLINE void attend_vectors(const struct cpu_attention *call, serverd_dtype kv, size_t first_page,
                           size_t n_pages)
{
    float *scores = call->scratch;
    struct merge *merges = (struct merge *)(void *)(scores + call->n_queries * CPU_SEGMENT);
    score_pages(call, kv, first_page, n_pages, scores);
    for (size_t i = 0; i < call->n_queries; i++) {
        float *s = scores + i * CPU_SEGMENT;
        merges[i] = soften(call, i, first_page, n_pages, s);
        add_to_sum(call, i, merges[i], sum(s + first_page * PAGE, (n_pages - first_page) * PAGE));
    }
    add_all_values(call, kv, first_page, n_pages, scores, merges);
}

INLINE void attend_halves(const struct cpu_attention *call, serverd_dtype kv, size_t first_page,
                          size_t n_pages)
{
#ifdef LEVEL_HAS_AMX
    attend_tiles(call, kv, first_page, n_pages);
#else
    attend_vectors(call, kv, first_page, n_pages);
#endif
}

static void attend(const struct cpu_attention *call)
{
    uint32_t begin = CPU_SEGMENT, end = 0;
    for (size_t i = 0; i < call->n_queries; i++)
        if (call->begin[i] < call->end[i]) {
            begin = call->begin[i] < begin ? call->begin[i] : begin;
            end = call->end[i] > end ? call->end[i] : end;
        }
    if (begin >= end)
        return;
    size_t first_page = begin / PAGE, n_pages = (end + PAGE - 1) / PAGE;
    if (call->kv == DTYPE_BF16)
        attend_halves(call, DTYPE_BF16, first_page, n_pages);
    else if (call->kv == DTYPE_F16)
        attend_halves(call, DTYPE_F16, first_page, n_pages);
    else
        attend_vectors(call, DTYPE_F32, first_page, n_pages);
}

static size_t attention_scratch(size_t n_queries, size_t k_dim, size_t v_dim)
{
    size_t floats = n_queries * (CPU_SEGMENT + 2);
#ifdef LEVEL_HAS_AMX
    size_t tiles = carve_tiles(NULL, n_queries, k_dim, v_dim).bytes / sizeof(float) + 1;
    return tiles > floats ? tiles : floats;
#else
    (void)k_dim;
    (void)v_dim;
    return floats;
#endif
}

/* ---- appending ------------------------------------------------------------------------------- */

/* 16 halves of x; a number that f16 does not hold becomes its largest, NaN stays. */
INLINE void to_halves(serverd_dtype kv, fvec x, uint16_t *to)
{
    if (kv == DTYPE_BF16)
        f_store_bf16(to, x);
    else
        f_store_f16(to, f_min(f_splat(65504.0f), f_max(f_splat(-65504.0f), x)));
}

/* Halves of n numbers, `stride` apart. */
INLINE void put_halves(serverd_dtype kv, const float *x, size_t n, uint16_t *to, size_t stride)
{
    for (size_t i = 0; i < n; i += LANES) {
        float part[LANES] = {0};
        uint16_t halves[LANES];
        size_t count = n - i < LANES ? n - i : LANES;
        memcpy(part, x + i, count * sizeof *x);
        to_halves(kv, f_load(part), halves);
        for (size_t j = 0; j < count; j++)
            to[(i + j) * stride] = halves[j];
    }
}

INLINE void append_halves(serverd_dtype kv, const float *k, size_t k_dim, const float *v,
                          size_t v_dim, uint16_t *keys, uint16_t *values, uint32_t slot)
{
    put_halves(kv, k, k_dim, keys + slot, PAGE);
    put_halves(kv, v, v_dim, values + slot * pad16(v_dim), 1);
}

static void append(serverd_dtype kv, const float *k, size_t k_dim, const float *v, size_t v_dim,
                   void *key_page, void *value_page, uint32_t slot)
{
    if (kv == DTYPE_BF16) {
        append_halves(DTYPE_BF16, k, k_dim, v, v_dim, key_page, value_page, slot);
    } else if (kv == DTYPE_F16) {
        append_halves(DTYPE_F16, k, k_dim, v, v_dim, key_page, value_page, slot);
    } else {
        float *keys = key_page, *values = value_page;
        for (size_t d = 0; d < k_dim; d++)
            keys[d * PAGE + slot] = k[d];
        memcpy(values + slot * pad16(v_dim), v, v_dim * sizeof *v);
    }
}
