/* Attention of every level over every kind of pages: against plain double precision, and the levels
 * against each other, bit for bit. Levels with a bf16 dot product of their own round queries and
 * probabilities over bf16 pages, so there they are compared among themselves. */
#include "levels.h"

#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/cpu/strips.h"
#include "program/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_SEGMENTS = 2, MAX_DIM = 256, MAX_QUERIES = 40, PAGE = SERVERD_PAGE_TOKENS };

static const serverd_dtype kinds[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I8};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static size_t width_of(size_t v_dim)
{
    return (v_dim + 15) / 16 * 16;
}

/* ---- pages ----------------------------------------------------------------------------------- */

/* Numbers as pages hold them; attention_template.h says how they lie: CPU_SIDE tokens side by
 * side, of int8 behind their scales. */
static double number_at(serverd_dtype kv, const void *side, size_t i)
{
    const char *at = (const char *)side + i * (kv == DTYPE_F32 ? 4 : kv == DTYPE_I8 ? 1 : 2);
    uint16_t half;
    float number;
    if (kv == DTYPE_I8)
        return (double)*(const int8_t *)(at + 4 * CPU_SIDE);
    memcpy(&half, at, sizeof half);
    if (kv == DTYPE_F16)
        return (double)f16_to_f32(half);
    if (kv == DTYPE_BF16)
        return (double)bf16_to_f32(half);
    memcpy(&number, at, sizeof number);
    return (double)number;
}

/* Of a token of one or more pages that lie one behind the other. */
static const void *side_of(const void *pages, size_t token_bytes, size_t token)
{
    return (const char *)pages + token / CPU_SIDE * CPU_SIDE * token_bytes;
}

static double key_scale(serverd_dtype kv, const void *pages, size_t k_dim, size_t token)
{
    const void *side = side_of(pages, cpu_key_token_bytes(kv, k_dim), token);
    return kv == DTYPE_I8 ? number_at(DTYPE_F32, side, token % CPU_SIDE) : 1.0;
}

static double value_scale(serverd_dtype kv, const void *pages, size_t v_dim, size_t token)
{
    const void *side = side_of(pages, cpu_value_token_bytes(kv, v_dim), token);
    return kv == DTYPE_I8 ? number_at(DTYPE_F32, side, token % CPU_SIDE) : 1.0;
}

static size_t together(serverd_dtype kv)
{
    return kv == DTYPE_BF16 ? 2 : kv == DTYPE_I8 ? 4 : 1;
}

static double stored_key(serverd_dtype kv, const void *pages, size_t k_dim, size_t token, size_t d)
{
    size_t n = together(kv), lane = token % CPU_SIDE;
    const void *side = side_of(pages, cpu_key_token_bytes(kv, k_dim), token);
    return key_scale(kv, pages, k_dim, token) *
           number_at(kv, side, (d / n * CPU_SIDE + lane) * n + d % n);
}

static double stored_value(serverd_dtype kv, const void *pages, size_t v_dim, size_t token,
                           size_t d)
{
    size_t n = min_size(together(kv), CPU_SIDE), lane = token % CPU_SIDE;
    const void *side = side_of(pages, cpu_value_token_bytes(kv, v_dim), token);
    return value_scale(kv, pages, v_dim, token) *
           number_at(kv, side, (lane / n * width_of(v_dim) + d) * n + lane % n);
}

static void check_stored(serverd_dtype kv, float x, double stored, double scale)
{
    if (isnan(x)) {
        assert_true(isnan(stored));
    } else if (kv == DTYPE_F32) {
        assert_true((double)x == stored);
    } else if (kv == DTYPE_F16) {
        float held = fminf(65504.0f, fmaxf(-65504.0f, x));
        assert_true((double)f16_to_f32(f32_to_f16(held)) == stored);
    } else if (kv == DTYPE_BF16) {
        assert_true((double)bf16_to_f32(f32_to_bf16(x)) == stored);
    } else {
        assert_true(fabs((double)x - stored) <= scale * 0.501 + 1e-31);
    }
}

/* Pages with so many tokens, one behind the other. */
enum { N_APPENDED = 64, N_APPENDED_PAGES = N_APPENDED / PAGE };

static void append_token(const struct cpu_kernels *kernels, serverd_dtype kv, const float *k,
                         size_t k_dim, const float *v, size_t v_dim, void *keys, void *values,
                         size_t token)
{
    kernels->append(
        kv, k, k_dim, v, v_dim, (char *)keys + token / PAGE * cpu_key_page_bytes(kv, k_dim),
        (char *)values + token / PAGE * cpu_value_page_bytes(kv, v_dim), (uint32_t)(token % PAGE));
}

/* All tokens of some pages, and what these were full of before in all other places. */
static void check_append(serverd_dtype kv, size_t k_dim, size_t v_dim)
{
    static float k[N_APPENDED][MAX_DIM], v[N_APPENDED][MAX_DIM];
    size_t key_bytes = N_APPENDED_PAGES * cpu_key_page_bytes(kv, k_dim);
    size_t value_bytes = N_APPENDED_PAGES * cpu_value_page_bytes(kv, v_dim);
    void *first_keys = NULL, *first_values = NULL;
    for (size_t t = 0; t < N_APPENDED; t++) {
        fill(k[t], k_dim, t, t == 3 ? 1e6f : 3.0f);
        fill(v[t], v_dim, t + 99, t == 4 ? 1e-3f : 1.0f);
    }
    memset(k[5], 0, sizeof k[5]);
    v[6][0] = 1e-35f; /* below all scales where it is alone */
    for (size_t level = 0; level < n_levels; level++) {
        void *keys = take_filled(key_bytes, 0x11), *values = take_filled(value_bytes, 0x11);
        for (size_t i = 0; i < N_APPENDED; i++) {
            size_t t = i * 5 % N_APPENDED;
            append_token(levels[level], kv, k[t], k_dim, v[t], v_dim, keys, values, t);
        }
        for (size_t t = 0; t < N_APPENDED; t++) {
            for (size_t d = 0; d < k_dim; d++)
                check_stored(kv, k[t][d], stored_key(kv, keys, k_dim, t, d),
                             key_scale(kv, keys, k_dim, t));
            for (size_t d = 0; d < v_dim; d++)
                check_stored(kv, v[t][d], stored_value(kv, values, v_dim, t, d),
                             value_scale(kv, values, v_dim, t));
        }
        if (level == 0) {
            first_keys = keys;
            first_values = values;
            continue;
        }
        assert_memory_equal(first_keys, keys, key_bytes);
        assert_memory_equal(first_values, values, value_bytes);
        free(keys);
        free(values);
    }
    free(first_keys);
    free(first_values);
}

static void appended_tokens_are_the_nearest_that_a_page_holds(void **state)
{
    (void)state;
    static const size_t dims[][2] = {{64, 64}, {128, 80}, {1, 1}, {5, 7}, {33, 16}, {2, 31}};
    for (size_t kind = 0; kind < N_KINDS; kind++)
        for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
            check_append(kinds[kind], dims[i][0], dims[i][1]);
}

static void appending_one_token_leaves_the_others_alone(void **state)
{
    (void)state;
    enum { DIM = 19 };
    static float x[DIM], zeros[DIM];
    fill(x, DIM, 1, 1.0f);
    for (size_t kind = 0; kind < N_KINDS; kind++)
        for (size_t level = 0; level < n_levels; level++)
            for (size_t t = 0; t < N_APPENDED; t++) {
                const serverd_dtype kv = kinds[kind];
                void *keys = take(N_APPENDED_PAGES * cpu_key_page_bytes(kv, DIM));
                void *values = take(N_APPENDED_PAGES * cpu_value_page_bytes(kv, DIM));
                append_token(levels[level], kv, x, DIM, x, DIM, keys, values, t);
                for (size_t other = 0; other < N_APPENDED; other++)
                    for (size_t d = 0; d < DIM; d++) {
                        const float *expected = other == t ? x : zeros;
                        check_stored(kv, expected[d], stored_key(kv, keys, DIM, other, d),
                                     key_scale(kv, keys, DIM, other));
                        check_stored(kv, expected[d], stored_value(kv, values, DIM, other, d),
                                     value_scale(kv, values, DIM, other));
                    }
                free(keys);
                free(values);
            }
}

static void not_a_number_is_appended_as_such(void **state)
{
    (void)state;
    enum { DIM = 8 };
    const float x[DIM] = {1.0f, 2.0f, NAN, 1.0f};
    for (size_t kind = 0; kind < N_KINDS; kind++)
        for (size_t level = 0; level < n_levels; level++) {
            const serverd_dtype kv = kinds[kind];
            void *keys = take(N_APPENDED_PAGES * cpu_key_page_bytes(kv, DIM));
            void *values = take(N_APPENDED_PAGES * cpu_value_page_bytes(kv, DIM));
            append_token(levels[level], kv, x, DIM, x, DIM, keys, values, 3);
            assert_true(isnan(stored_key(kv, keys, DIM, 3, 2)));
            assert_true(isnan(stored_value(kv, values, DIM, 3, 2)));
            assert_true(isfinite(stored_key(kv, keys, DIM, 2, 2)));
            free(keys);
            free(values);
        }
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Queries over two segments of keys and values, and what is to come out. */
struct problem {
    serverd_dtype kv;
    size_t k_dim, v_dim;
    float scale, cap;
    void *keys[N_SEGMENTS][CPU_SEGMENT_PAGES], *values[N_SEGMENTS][CPU_SEGMENT_PAGES];
    float queries[MAX_QUERIES * MAX_DIM];
    uint32_t begin[N_SEGMENTS][MAX_QUERIES], end[N_SEGMENTS][MAX_QUERIES];
};

struct answer {
    double max;          /* as an exponent of two */
    double out[MAX_DIM]; /* NaN: it sees nothing */
};

/* A running softmax of MAX_QUERIES. */
struct softmax {
    float max[MAX_QUERIES], sum[MAX_QUERIES], acc[MAX_QUERIES * MAX_DIM];
};

static struct problem *take_problem(serverd_dtype kv, size_t k_dim, size_t v_dim, float cap,
                                    uint64_t seed)
{
    struct problem *p = take(sizeof *p);
    *p = (struct problem){.kv = kv, .k_dim = k_dim, .v_dim = v_dim, .scale = 0.21f, .cap = cap};
    float k[MAX_DIM], v[MAX_DIM];
    for (uint32_t t = 0; t < N_SEGMENTS * CPU_SEGMENT; t++) {
        uint32_t s = t / CPU_SEGMENT, page = t % CPU_SEGMENT / PAGE;
        if (t % PAGE == 0) {
            p->keys[s][page] = take(cpu_key_page_bytes(kv, k_dim));
            p->values[s][page] = take(cpu_value_page_bytes(kv, v_dim));
        }
        fill(k, k_dim, seed * 5003 + t, 1.0f);
        fill(v, v_dim, seed * 7001 + t, 1.0f);
        levels[0]->append(kv, k, k_dim, v, v_dim, p->keys[s][page], p->values[s][page], t % PAGE);
    }
    fill(p->queries, MAX_QUERIES * k_dim, seed + 5, 2.0f);
    for (uint32_t i = 0; i < MAX_QUERIES; i++)
        for (uint32_t s = 0; s < N_SEGMENTS; s++) {
            uint32_t end = 1 + (uint32_t)(hash_mix(seed + i * 2 + s) % CPU_SEGMENT);
            bool sees_none = i % 10 == 4 + s || i == 17;
            p->end[s][i] = sees_none ? 0 : end;
            p->begin[s][i] = sees_none ? 0 : i % 3 == 2 ? end / 2 : i % 7 == 1 ? end - 1 : 0;
        }
    return p;
}

static void free_problem(struct problem *p)
{
    for (size_t s = 0; s < N_SEGMENTS; s++)
        for (size_t page = 0; page < CPU_SEGMENT_PAGES; page++) {
            free(p->keys[s][page]);
            free(p->values[s][page]);
        }
    free(p);
}

static void begin_softmax(const struct problem *p, size_t n, struct softmax *to)
{
    for (size_t i = 0; i < n; i++) {
        to->max[i] = -INFINITY;
        to->sum[i] = 0.0f;
    }
    memset(to->acc, 0, n * width_of(p->v_dim) * sizeof *to->acc);
}

/* Queries first .. first + n - 1 over one segment. */
static void attend(const struct cpu_kernels *kernels, const struct problem *p, size_t segment,
                   size_t first, size_t n, struct softmax *to)
{
    size_t scratch_bytes = kernels->attention_scratch(p->k_dim) * sizeof(float);
    void *strips_scratch = take_filled(cpu_strips_scratch(p->k_dim, p->v_dim) + 64, 0xff);
    struct cpu_strips strips = {0};
    cpu_strips_init(&strips, p->kv, p->k_dim, p->v_dim, strips_scratch);
    for (uint32_t page = 0; page < CPU_SEGMENT_PAGES; page++)
        if (p->keys[segment][page])
            cpu_strips_add(&strips, page, p->keys[segment][page], p->values[segment][page]);
    struct cpu_attention call = {.kv = p->kv,
                                 .keys = strips.keys,
                                 .values = strips.values,
                                 .k_dim = p->k_dim,
                                 .v_dim = p->v_dim,
                                 .scale = p->scale,
                                 .cap = p->cap,
                                 .n_queries = n,
                                 .queries = p->queries + first * p->k_dim,
                                 .begin = p->begin[segment] + first,
                                 .end = p->end[segment] + first,
                                 .max = to->max,
                                 .sum = to->sum,
                                 .acc = to->acc,
                                 .scratch = take_filled(scratch_bytes, 0xff)};
    kernels->attend(&call);
    free(call.scratch);
    free(strips_scratch);
}

static void attend_all(const struct cpu_kernels *kernels, const struct problem *p, size_t first,
                       size_t n, struct softmax *to)
{
    begin_softmax(p, n, to);
    for (size_t s = 0; s < N_SEGMENTS; s++)
        attend(kernels, p, s, first, n, to);
}

static bool rounds(const struct cpu_kernels *kernels, const struct problem *p)
{
    return p->kv == DTYPE_BF16 && has_bf16_attention(kernels);
}

static void solve(const struct problem *p, size_t query, bool is_rounded, struct answer *to)
{
    double total = 0.0;
    *to = (struct answer){.max = -INFINITY};
    for (uint32_t s = 0; s < N_SEGMENTS; s++)
        for (uint32_t t = p->begin[s][query]; t < p->end[s][query]; t++) {
            const void *keys = p->keys[s][t / PAGE], *values = p->values[s][t / PAGE];
            double score = 0.0;
            for (size_t d = 0; d < p->k_dim; d++) {
                float q = p->queries[query * p->k_dim + d];
                q = is_rounded ? bf16_to_f32(f32_to_bf16(q)) : q;
                score += (double)q * stored_key(p->kv, keys, p->k_dim, t % PAGE, d);
            }
            score *= (double)p->scale;
            score = p->cap > 0.0f ? (double)p->cap * tanh(score / (double)p->cap) : score;
            to->max = fmax(to->max, score * M_LOG2E);
            double probability = exp(score);
            total += probability;
            for (size_t d = 0; d < p->v_dim; d++)
                to->out[d] += probability * stored_value(p->kv, values, p->v_dim, t % PAGE, d);
        }
    for (size_t d = 0; d < p->v_dim; d++)
        to->out[d] /= total;
}

static void check_answers(const struct cpu_kernels *kernels, const struct problem *p, size_t n,
                          const struct answer *answers, const struct softmax *got)
{
    double error = rounds(kernels, p) ? 0x1p-8 : 4e-5;
    for (size_t i = 0; i < n; i++) {
        if (answers[i].max == (double)-INFINITY) {
            assert_true(got->sum[i] == 0.0f);
            continue;
        }
        assert_true(fabs(answers[i].max - (double)got->max[i]) < 3e-4);
        for (size_t d = 0; d < p->v_dim; d++) {
            double out = (double)got->acc[i * width_of(p->v_dim) + d] / (double)got->sum[i];
            if (!(fabs(out - answers[i].out[d]) < error))
                fail_msg("%s, kv %u, %zu x %zu, query %zu of %zu, dimension %zu: %g, expected %g",
                         kernels->name, p->kv, p->k_dim, p->v_dim, i, n, d, out, answers[i].out[d]);
        }
    }
}

/* n queries of `got` and those of `expected` from `first` on. */
static void check_same(const struct cpu_kernels *kernels, const struct problem *p, size_t first,
                       size_t n, const struct softmax *expected, const struct softmax *got,
                       const char *what)
{
    size_t width = width_of(p->v_dim), bytes = n * sizeof(float);
    if (memcmp(expected->max + first, got->max, bytes) != 0 ||
        memcmp(expected->sum + first, got->sum, bytes) != 0 ||
        memcmp(expected->acc + first * width, got->acc, bytes * width) != 0)
        fail_msg("%s, kv %u, %zu x %zu, %zu queries from %zu on: %s has other bits", kernels->name,
                 p->kv, p->k_dim, p->v_dim, n, first, what);
}

/* The same however many queries are taken together, and however segments are put together. */
static void check_company(const struct cpu_kernels *kernels, const struct problem *p,
                          const struct softmax *all, struct softmax *some, struct softmax *part)
{
    static const size_t counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 23, 33};
    size_t n_counts = p->k_dim > 128 ? 3 : sizeof counts / sizeof *counts;
    for (size_t c = 0; c < n_counts; c++)
        for (size_t first = 0; first + counts[c] <= MAX_QUERIES; first += counts[c]) {
            attend_all(kernels, p, first, counts[c], some);
            check_same(kernels, p, first, counts[c], all, some, "company");
        }
    begin_softmax(p, MAX_QUERIES, some);
    attend(kernels, p, 0, 0, MAX_QUERIES, some);
    begin_softmax(p, MAX_QUERIES, part);
    attend(kernels, p, 1, 0, MAX_QUERIES, part);
    const struct cpu_softmax from = {part->max, part->sum, part->acc};
    const struct cpu_softmax into = {some->max, some->sum, some->acc};
    kernels->merge(&from, MAX_QUERIES, p->v_dim, &into);
    check_same(kernels, p, 0, MAX_QUERIES, all, some, "merging");
}

static void check_problem(const struct problem *p)
{
    struct softmax *got = take(sizeof *got), *some = take(sizeof *some), *part = take(sizeof *part);
    struct softmax *first[2] = {take(sizeof **first), take(sizeof **first)}; /* exact, rounded */
    struct answer *answers[2] = {take(MAX_QUERIES * sizeof **answers),
                                 take(MAX_QUERIES * sizeof **answers)};
    bool has_first[2] = {false, false};
    for (size_t level = 0; level < n_levels; level++) {
        const struct cpu_kernels *kernels = levels[level];
        int kind = rounds(kernels, p);
        for (size_t i = 0; i < MAX_QUERIES && !has_first[kind]; i++)
            solve(p, i, kind, &answers[kind][i]);
        attend_all(kernels, p, 0, MAX_QUERIES, got);
        check_answers(kernels, p, MAX_QUERIES, answers[kind], got);
        if (has_first[kind])
            check_same(kernels, p, 0, MAX_QUERIES, first[kind], got, "this level");
        else
            *first[kind] = *got;
        has_first[kind] = true;
        check_company(kernels, p, got, some, part);
    }
    for (int i = 0; i < 2; i++) {
        free(first[i]);
        free(answers[i]);
    }
    free(got);
    free(some);
    free(part);
}

static void attention_is_right_for_every_kind_of_page(void **state)
{
    (void)state;
    static const size_t dims[][2] = {{64, 64}, {80, 80},  {128, 128}, {96, 32},  {5, 7},
                                     {33, 16}, {48, 100}, {1, 1},     {256, 256}};
    for (size_t kind = 0; kind < N_KINDS; kind++)
        for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
            float cap = (kind + i) % 2 ? 3.0f : 0.0f;
            struct problem *p = take_problem(kinds[kind], dims[i][0], dims[i][1], cap, i);
            check_problem(p);
            free_problem(p);
        }
}

/* Scores so far apart that all probabilities but one are 0, and beyond. */
static void scores_far_apart_leave_the_greatest(void **state)
{
    (void)state;
    for (size_t kind = 0; kind < N_KINDS; kind++) {
        struct problem *p = take_problem(kinds[kind], 64, 20, 0.0f, 3);
        p->scale = 1e4f;
        struct softmax *got = take(sizeof *got);
        struct answer answer;
        for (size_t level = 0; level < n_levels; level++) {
            attend_all(levels[level], p, 0, MAX_QUERIES, got);
            for (size_t i = 0; i < MAX_QUERIES; i++) {
                p->scale = 1.0f; /* the reference has no need of its own greatest one */
                solve(p, i, rounds(levels[level], p), &answer);
                p->scale = 1e4f;
                if (answer.max == (double)-INFINITY)
                    continue;
                assert_true(fabs((double)got->max[i] / (answer.max * 1e4) - 1.0) < 1e-4);
                assert_true(got->sum[i] >= 1.0f && got->sum[i] < 2.5f);
            }
        }
        free(got);
        free_problem(p);
    }
}

static void not_a_number_stays_with_its_query(void **state)
{
    (void)state;
    enum { N = 11, BAD = 6 };
    for (size_t kind = 0; kind < N_KINDS; kind++) {
        struct problem *p = take_problem(kinds[kind], 40, 24, 0.0f, 8);
        struct softmax *good = take(sizeof *good), *got = take(sizeof *got);
        float number = p->queries[BAD * 40 + 7];
        for (size_t level = 0; level < n_levels; level++) {
            p->queries[BAD * 40 + 7] = number;
            attend_all(levels[level], p, 0, N, good);
            p->queries[BAD * 40 + 7] = NAN;
            attend_all(levels[level], p, 0, N, got);
            check_same(levels[level], p, 0, BAD, good, got, "a query before NaN");
            assert_true(isnan(got->acc[BAD * 32] / got->sum[BAD]));
            for (size_t i = BAD + 1; i < N; i++)
                assert_memory_equal(good->acc + i * 32, got->acc + i * 32, 32 * sizeof(float));
        }
        free(good);
        free(got);
        free_problem(p);
    }
}

static void pages_that_nobody_sees_are_not_read(void **state)
{
    (void)state;
    enum { N = 9 };
    for (size_t kind = 0; kind < N_KINDS; kind++) {
        struct problem *p = take_problem(kinds[kind], 32, 32, 0.0f, 4);
        struct softmax *all = take(sizeof *all), *got = take(sizeof *got);
        for (size_t i = 0; i < N; i++) {
            p->begin[0][i] = 40 + (uint32_t)i;
            p->end[0][i] = 100 + (uint32_t)i;
            p->begin[1][i] = p->end[1][i] = 0;
        }
        for (size_t level = 0; level < n_levels; level++) {
            struct problem some = *p;
            for (size_t page = 0; page < CPU_SEGMENT_PAGES; page++) {
                bool is_seen = (page + 1) * PAGE > 40 && page * PAGE <= 100 + N - 2;
                some.keys[0][page] = is_seen ? p->keys[0][page] : NULL;
                some.values[0][page] = is_seen ? p->values[0][page] : NULL;
                some.keys[1][page] = some.values[1][page] = NULL;
            }
            attend_all(levels[level], p, 0, N, all);
            attend_all(levels[level], &some, 0, N, got);
            check_same(levels[level], p, 0, N, all, got, "the window");
        }
        free(all);
        free(got);
        free_problem(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appended_tokens_are_the_nearest_that_a_page_holds),
        cmocka_unit_test(appending_one_token_leaves_the_others_alone),
        cmocka_unit_test(not_a_number_is_appended_as_such),
        cmocka_unit_test(attention_is_right_for_every_kind_of_page),
        cmocka_unit_test(scores_far_apart_leave_the_greatest),
        cmocka_unit_test(not_a_number_stays_with_its_query),
        cmocka_unit_test(pages_that_nobody_sees_are_not_read),
    };
    return cmocka_run_group_tests(tests, find_levels, NULL);
}
