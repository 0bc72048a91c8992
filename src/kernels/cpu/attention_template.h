/* Softmax attention over one segment of paged keys and values. Included once by each
 * cpu_kernels_LEVEL.c behind linear_template.h.
 *
 * A lane is a token while scores are computed (so a score is a sum over ascending dimensions) and a
 * dimension while values are added (a sum over ascending tokens): the order never depends on how
 * many queries are taken together. A strip of one head (vw: v_dim rounded up to 16):
 *
 *   f32, f16   keys [k_dim][16 tokens], values [16 tokens][vw]
 *   bf16       keys [k_dim / 2][16 tokens][2], values [8 pairs of tokens][vw][2]
 *   int8       scales f32[16] of the tokens; then keys [k_dim / 4][16 tokens][4],
 *              values [4 quads of tokens][vw][4]
 *
 * so that a 32-bit lane has what one multiplication of pairs or quads takes. In a page of fewer
 * than 16 tokens those that it has lie side by side in the same way; of values, pairs and quads of
 * as many as it has. strips.h makes strips from such pages. */

/* Queries whose scores are kept at a time: they stay in the first cache. */
#define QUERY_BLOCK 16

INLINE size_t pad16(size_t n)
{
    return (n + 15) / 16 * 16;
}

/* One dimension of the 16 tokens of a strip. */
INLINE fvec key_row(serverd_dtype kv, const void *strip, size_t d)
{
    const char *p = strip;
    if (kv == DTYPE_BF16)
        return f_of_bf16_pairs(p + d / 2 * 64, (int)d % 2);
    if (kv == DTYPE_I8)
        return f_of_i8_quads(p + 64 + d / 4 * 64, (int)d % 4);
    return kv == DTYPE_F16 ? f_load_f16(p + d * 32)
                           : f_load((const float *)(const void *)p + d * 16);
}

/* Dimensions d .. d + 15 of token t. */
INLINE fvec value_row(serverd_dtype kv, const void *strip, size_t t, size_t width, size_t d)
{
    const char *p = strip;
    if (kv == DTYPE_BF16)
        return f_of_bf16_pairs(p + (t / 2 * width + d) * 4, (int)t % 2);
    if (kv == DTYPE_I8)
        return f_of_i8_quads(p + 64 + (t / 4 * width + d) * 4, (int)t % 4);
    size_t at = t * width + d;
    return kv == DTYPE_F16 ? f_load_f16(p + at * 2) : f_load((const float *)(const void *)p + at);
}

/* What one block of queries works with. */
struct attention_block {
    const struct cpu_attention *call;
    serverd_dtype kv;
    size_t first, n;               /* queries */
    size_t first_strip, end_strip; /* that any of them sees */
    float *scores;                 /* [n][CPU_SEGMENT]: scores, then probabilities */
    uint16_t *halves;              /* [n][CPU_SEGMENT]: probabilities in bf16 */
    uint16_t *query_pairs;         /* [n][k_dim rounded up to 2] in bf16 */
};

/* ---- scores ---------------------------------------------------------------------------------- */

/* scores[r][0..15] = q[r] . k[token] of one strip. */
INLINE void score_strip(serverd_dtype kv, const void *keys, const float *q, size_t k_dim, int rows,
                        float *scores)
{
    fvec acc[SCORE_ROWS];
    for (int r = 0; r < rows; r++)
        acc[r] = f_splat(0.0f);
    for (size_t d = 0; d < k_dim; d++) {
        fvec k = key_row(kv, keys, d);
        for (int r = 0; r < rows; r++)
            acc[r] = f_fma(f_splat(q[(size_t)r * k_dim + d]), k, acc[r]);
    }
    for (int r = 0; r < rows; r++)
        f_store(scores + (size_t)r * CPU_SEGMENT,
                kv == DTYPE_I8 ? f_mul(acc[r], f_load(keys)) : acc[r]);
}

INLINE void score_strips(const struct attention_block *b)
{
    const struct cpu_attention *call = b->call;
    for (size_t strip = b->first_strip; strip < b->end_strip; strip++)
        for (size_t i = 0; i < b->n;) {
            const float *q = call->queries + (b->first + i) * call->k_dim;
            float *to = b->scores + i * CPU_SEGMENT + strip * CPU_STRIP;
            size_t left = b->n - i;
            int rows = left >= SCORE_ROWS ? SCORE_ROWS : left >= 2 ? 2 : 1;
            if (!IS_SPECIALISED)
                score_strip(b->kv, call->keys[strip], q, call->k_dim, rows, to);
            else if (rows == SCORE_ROWS)
                score_strip(b->kv, call->keys[strip], q, call->k_dim, SCORE_ROWS, to);
            else if (rows == 2)
                score_strip(b->kv, call->keys[strip], q, call->k_dim, 2, to);
            else
                score_strip(b->kv, call->keys[strip], q, call->k_dim, 1, to);
            i += (size_t)rows;
        }
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* What a query's old sum and the segment's own are multiplied with to merge them. */
struct merge {
    float old_factor, new_factor;
};

/* 2^x for x <= 0: 2^n * p(f), f in [-1/2, 1/2], p a minimax polynomial of degree 5 (relative error
 * below 2e-7). 0 below -126; NaN stays. */
INLINE fvec exp2_of_negative(fvec x)
{
    const fvec magic = f_splat(12582912.0f); /* 1.5 * 2^23: rounds to an integer */
    fvec clamped = f_max(f_splat(-126.0f), x);
    fvec shifted = f_add(clamped, magic);
    fvec f = f_add(clamped, f_sub(magic, shifted));
    fvec p = f_fma(f_splat(0.00132647273f), f, f_splat(0.00967151299f));
    p = f_fma(p, f, f_splat(0.0555073358f));
    p = f_fma(p, f, f_splat(0.240222424f));
    p = f_fma(p, f, f_splat(0.693147004f));
    p = f_fma(p, f, f_splat(1.0f));
    return f_zero_below(x, -126.0f, f_times_power(p, shifted));
}

/* The greatest lane; not NaN. */
INLINE float greatest_of(fvec v)
{
    float all[LANES];
    f_store(all, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            all[i] = all[i] > all[i + half] ? all[i] : all[i + half];
    return all[0];
}

INLINE float sum_of(fvec v)
{
    float all[LANES];
    f_store(all, v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            all[i] += all[i + half];
    return all[0];
}

#define LOG2_E 1.44269504f

/* Merges up to LANES softmax parts, each with its greatest score (a power of two's exponent) and
 * sum, into running ones. A part without tokens has -INFINITY and 0. */
INLINE void merge_parts(size_t n, float *max, float *sum, const float *part_max,
                        const float *part_sum, struct merge *merges)
{
    float lanes_of[4][LANES] = {{0}}, old[LANES], new[LANES];
    memcpy(lanes_of[0], max, n * sizeof *max);
    memcpy(lanes_of[1], sum, n * sizeof *sum);
    memcpy(lanes_of[2], part_max, n * sizeof *max);
    memcpy(lanes_of[3], part_sum, n * sizeof *sum);
    /* the least number in place of -INFINITY: no NaN from their difference, and 2^ of it is 0 */
    const fvec least = f_splat(-3e38f);
    fvec old_max = f_max(least, f_load(lanes_of[0])), new_max = f_max(least, f_load(lanes_of[2]));
    fvec both = f_max(old_max, new_max);
    fvec old_factor = exp2_of_negative(f_sub(old_max, both));
    fvec new_factor = exp2_of_negative(f_sub(new_max, both));
    f_store(lanes_of[0], both);
    f_store(lanes_of[1],
            f_fma(f_load(lanes_of[3]), new_factor, f_mul(f_load(lanes_of[1]), old_factor)));
    f_store(old, old_factor);
    f_store(new, new_factor);
    for (size_t i = 0; i < n; i++) {
        bool is_empty = part_sum[i] == 0.0f;
        merges[i] = is_empty ? (struct merge){1.0f, 0.0f} : (struct merge){old[i], new[i]};
        if (is_empty)
            continue;
        max[i] = lanes_of[0][i];
        sum[i] = lanes_of[1][i];
    }
}

/* Turns the scores of query i of the block into probabilities (but for their sum), 0 where it does
 * not see; with `is_halved` they go into b->halves. */
INLINE void soften(const struct attention_block *b, size_t i, int is_halved, float *part_max,
                   float *part_sum)
{
    const struct cpu_attention *call = b->call;
    size_t query = b->first + i, from = b->first_strip * CPU_STRIP, to = b->end_strip * CPU_STRIP;
    uint32_t begin = call->begin[query], end = call->end[query];
    float *s = b->scores + i * CPU_SEGMENT;
    uint16_t *halves = b->halves + i * CPU_SEGMENT;
    if (begin >= end) {
        if (is_halved)
            memset(halves + from, 0, (to - from) * sizeof *halves);
        else
            memset(s + from, 0, (to - from) * sizeof *s);
        *part_max = -INFINITY;
        *part_sum = 0.0f;
        return;
    }
    fvec most = f_splat(-INFINITY), total = f_splat(0.0f);
    const fvec factor = f_splat(call->cap > 0.0f ? call->scale : call->scale * LOG2_E);
    for (size_t t = from; t < to; t += LANES) {
        fvec v = f_mul(f_load(s + t), factor);
        if (call->cap > 0.0f) {
            f_store(s + t, v);
            store(s + t, call->cap * tanh_lanes(load(s + t) / call->cap));
            v = f_mul(f_load(s + t), f_splat(LOG2_E));
        }
        if (t < begin || t + LANES > end)
            v = f_hide(v, begin > t ? (int)min_size(begin - t, LANES) : 0,
                       end > t ? (int)min_size(end - t, LANES) : 0);
        f_store(s + t, v);
        most = f_max(v, most);
    }
    const float max = greatest_of(most);
    for (size_t t = from; t < to; t += LANES) {
        fvec p = exp2_of_negative(f_sub(f_load(s + t), f_splat(max)));
        total = f_add(total, p);
        if (b->kv == DTYPE_I8)
            p = f_mul(p, f_load(call->values[t / CPU_STRIP]));
        if (is_halved)
            f_store_bf16(halves + t, p);
        else
            f_store(s + t, p);
    }
    *part_max = max;
    *part_sum = sum_of(total);
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Adds the parts of `rows` queries, dimensions d .. d + 16 * vectors - 1, to what was before. */
INLINE void put_values(const struct attention_block *b, int rows, int vectors, size_t query,
                       size_t d, const fvec *part, const struct merge *merges)
{
    size_t width = pad16(b->call->v_dim);
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
    for (int v = 0; v < vectors; v++) {
        const struct merge *merge = &merges[query + (size_t)r];
        float *acc = b->call->acc + (b->first + query + (size_t)r) * width + d + 16 * (size_t)v;
        fvec old = f_mul(f_load(acc), f_splat(merge->old_factor));
        f_store(acc, f_fma(part[r * vectors + v], f_splat(merge->new_factor), old));
    }
}

INLINE void add_values(const struct attention_block *b, int rows, int vectors, size_t query,
                       size_t d, const struct merge *merges)
{
    size_t width = pad16(b->call->v_dim);
    fvec part[VALUE_ROWS * VALUE_VECTORS];
    UNROLL
    for (int i = 0; i < rows * vectors; i++)
        part[i] = f_splat(0.0f);
    for (size_t strip = b->first_strip; strip < b->end_strip; strip++)
        for (size_t t = 0; t < CPU_STRIP; t++)
            UNROLL
    for (int v = 0; v < vectors; v++) {
        fvec value = value_row(b->kv, b->call->values[strip], t, width, d + 16 * (size_t)v);
        UNROLL
        for (int r = 0; r < rows; r++) {
            const float *p = b->scores + (query + (size_t)r) * CPU_SEGMENT + strip * CPU_STRIP + t;
            part[r * vectors + v] = f_fma(f_splat(*p), value, part[r * vectors + v]);
        }
    }
    put_values(b, rows, vectors, query, d, part, merges);
}

INLINE void add_all_values(const struct attention_block *b, const struct merge *merges)
{
    size_t width = pad16(b->call->v_dim);
    for (size_t d = 0; d < width;) {
        int vectors = width - d >= 16 * VALUE_VECTORS ? VALUE_VECTORS : 1;
        for (size_t i = 0; i < b->n;) {
            int rows = b->n - i >= VALUE_ROWS ? VALUE_ROWS : 1;
            if (!IS_SPECIALISED)
                add_values(b, rows, vectors, i, d, merges);
            else if (vectors == VALUE_VECTORS && rows == VALUE_ROWS)
                add_values(b, VALUE_ROWS, VALUE_VECTORS, i, d, merges);
            else if (vectors == VALUE_VECTORS)
                add_values(b, 1, VALUE_VECTORS, i, d, merges);
            else
                for (int r = 0; r < rows; r++)
                    add_values(b, 1, 1, i + (size_t)r, d, merges);
            i += (size_t)rows;
        }
        d += 16 * (size_t)vectors;
    }
}

/* ---- all ------------------------------------------------------------------------------------- */

#ifdef LEVEL_HAS_BF16
#include "kernels/cpu/attention_bf16.h"
#else
INLINE void score_pairs(const struct attention_block *b)
{
    (void)b;
}

INLINE void add_all_value_pairs(const struct attention_block *b, const struct merge *merges)
{
    (void)b;
    (void)merges;
}
#endif

INLINE void attend_block(const struct attention_block *b)
{
    float max[QUERY_BLOCK], sum[QUERY_BLOCK];
    struct merge merges[QUERY_BLOCK];
    bool has_pairs = false;
#ifdef LEVEL_HAS_BF16
    has_pairs = b->kv == DTYPE_BF16;
#endif
    if (has_pairs)
        score_pairs(b);
    else
        score_strips(b);
    for (size_t i = 0; i < b->n; i++)
        soften(b, i, has_pairs, &max[i], &sum[i]);
    merge_parts(b->n, b->call->max + b->first, b->call->sum + b->first, max, sum, merges);
    if (has_pairs)
        add_all_value_pairs(b, merges);
    else
        add_all_values(b, merges);
}

INLINE void attend_kind(const struct cpu_attention *call, serverd_dtype kv)
{
    float *scratch = call->scratch;
    struct attention_block b = {.call = call, .kv = kv, .scores = scratch};
    scratch += QUERY_BLOCK * CPU_SEGMENT;
    b.halves = (uint16_t *)(void *)scratch;
    b.query_pairs = b.halves + QUERY_BLOCK * CPU_SEGMENT;
    for (b.first = 0; b.first < call->n_queries; b.first += b.n) {
        b.n = min_size(QUERY_BLOCK, call->n_queries - b.first);
        uint32_t begin = CPU_SEGMENT, end = 0;
        for (size_t i = b.first; i < b.first + b.n; i++)
            if (call->begin[i] < call->end[i]) {
                begin = call->begin[i] < begin ? call->begin[i] : begin;
                end = call->end[i] > end ? call->end[i] : end;
            }
        if (begin >= end)
            continue;
        b.first_strip = begin / CPU_STRIP;
        b.end_strip = (end + CPU_STRIP - 1) / CPU_STRIP;
        attend_block(&b);
    }
}

static void attend(const struct cpu_attention *call)
{
    if (!IS_SPECIALISED) {
        attend_kind(call, call->kv);
        return;
    }
    if (call->kv == DTYPE_BF16)
        attend_kind(call, DTYPE_BF16);
    else if (call->kv == DTYPE_F16)
        attend_kind(call, DTYPE_F16);
    else if (call->kv == DTYPE_I8)
        attend_kind(call, DTYPE_I8);
    else
        attend_kind(call, DTYPE_F32);
}

static size_t attention_scratch(size_t k_dim)
{
    return QUERY_BLOCK * (CPU_SEGMENT + CPU_SEGMENT / 2 + (k_dim + 1) / 2);
}

static void merge(const struct cpu_softmax *part, size_t n, size_t v_dim,
                  const struct cpu_softmax *into)
{
    size_t width = pad16(v_dim);
    for (size_t first = 0, count; first < n; first += count) {
        struct merge merges[LANES];
        count = min_size(LANES, n - first);
        merge_parts(count, into->max + first, into->sum + first, part->max + first,
                    part->sum + first, merges);
        for (size_t i = first; i < first + count; i++)
            for (size_t d = 0; d < width && part->sum[i] != 0.0f; d += LANES) {
                float *acc = into->acc + i * width + d;
                fvec old = f_mul(f_load(acc), f_splat(merges[i - first].old_factor));
                f_store(acc, f_fma(f_load(part->acc + i * width + d),
                                   f_splat(merges[i - first].new_factor), old));
            }
    }
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

/* Halves of n numbers; number i goes to (i / run) * run_apart + i % run * apart. */
INLINE void put_halves(serverd_dtype kv, const float *x, size_t n, uint16_t *to, size_t run,
                       size_t run_apart, size_t apart)
{
    size_t i = 0;
    uint16_t halves[LANES];
    for (; i + LANES <= n; i += LANES) {
        to_halves(kv, f_load(x + i), halves);
        for (size_t j = 0; j < LANES; j++)
            to[(i + j) / run * run_apart + (i + j) % run * apart] = halves[j];
    }
    if (i == n)
        return;
    float rest[LANES] = {0};
    memcpy(rest, x + i, (n - i) * sizeof *x);
    to_halves(kv, f_load(rest), halves);
    for (size_t j = 0; i + j < n; j++)
        to[(i + j) / run * run_apart + (i + j) % run * apart] = halves[j];
}

/* Codes of n numbers, placed like halves; returns their scale. */
INLINE float put_bytes(const float *x, size_t n, int8_t *to, size_t run, size_t run_apart,
                       size_t apart)
{
    float most = 0.0f;
    for (size_t i = 0; i < n; i++) {
        float magnitude = fabsf(x[i]);
        most = magnitude > most || !(magnitude <= 3e38f) ? magnitude : most;
    }
    if (!(most <= 3e38f))
        return NAN;
    float inverse = most < 1e-31f ? 0.0f : 127.0f / most;
    for (size_t i = 0; i < n; i++) {
        float shifted = x[i] * inverse + 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
        to[i / run * run_apart + i % run * apart] =
            (int8_t)(int32_t)(f32_bits(shifted) - f32_bits(12582912.0f));
    }
    return most / 127.0f;
}

/* A value of which `run` tokens lie together: from one dimension to the next, and its first one. */
INLINE size_t value_apart(size_t run)
{
    return min_size(run, CPU_SIDE);
}

INLINE size_t value_at(size_t run, size_t lane, size_t width)
{
    size_t apart = value_apart(run);
    return lane / apart * width * apart + lane % apart;
}

static void append(serverd_dtype kv, const float *k, size_t k_dim, const float *v, size_t v_dim,
                   void *key_page, void *value_page, uint32_t slot)
{
    const size_t side = CPU_SIDE, lane = slot % side, width = pad16(v_dim);
    void *keys = (char *)key_page + slot / side * side * cpu_key_token_bytes(kv, k_dim);
    void *values = (char *)value_page + slot / side * side * cpu_value_token_bytes(kv, v_dim);
    if (kv == DTYPE_BF16) {
        put_halves(DTYPE_BF16, k, k_dim, (uint16_t *)keys + 2 * lane, 2, 2 * side, 1);
        put_halves(DTYPE_BF16, v, v_dim, (uint16_t *)values + value_at(2, lane, width), 1,
                   value_apart(2), 0);
    } else if (kv == DTYPE_F16) {
        put_halves(DTYPE_F16, k, k_dim, (uint16_t *)keys + lane, 1, side, 0);
        put_halves(DTYPE_F16, v, v_dim, (uint16_t *)values + lane * width, 1, 1, 0);
    } else if (kv == DTYPE_I8) {
        ((float *)keys)[lane] =
            put_bytes(k, k_dim, (int8_t *)keys + 4 * side + 4 * lane, 4, 4 * side, 1);
        ((float *)values)[lane] = put_bytes(
            v, v_dim, (int8_t *)values + 4 * side + value_at(4, lane, width), 1, value_apart(4), 0);
    } else {
        float *to = keys;
        for (size_t d = 0; d < k_dim; d++)
            to[d * side + lane] = k[d];
        memcpy((float *)values + lane * width, v, v_dim * sizeof *v);
    }
}
