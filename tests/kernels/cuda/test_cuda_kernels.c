/* The CUDA kernels against plain loops in double, on shapes with tails, and the same bits for a row
 * alone, among others and from run to run; the emulation's threads go on in random order.
 * Argument: none. */
#include "base/hash.h"
#include "base/numeric.h"
#include "step_rows.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_near(const float *x, const double *expected, size_t n, double most)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)x[i] - expected[i]) <= most))
            fail_msg("element %zu is %g, expected %g", i, (double)x[i], expected[i]);
}

/* ---- attention ------------------------------------------------------------------------------- */

enum { N_TOKENS = 600, MAX_DIM = 256 };

/* Rows begin .. end - 1 of each sequence; without a store: of the step, and they begin with 0. */
struct attention_case {
    uint32_t n_heads, n_kv_heads, k_dim, v_dim, window;
    float cap;
    enum gpu_number type;
    bool has_no_store;
    uint32_t begin[N_SEQS], end[N_SEQS];
};

/* A case's numbers: [seq][token][head][dim]; what the kernel is to see of them, where that differs;
 * and the store. */
struct attention_test {
    struct attention_case of;
    serverd_attn p;
    float *q, *k, *v, *seen_q, *seen_k, *seen_v;
    struct gpu_kv kv;
};

/* A head as its type has it, and as tensor cores read it. */
static void store_head(enum gpu_number type, const float *x, uint32_t dim, float *out)
{
    float most = 0;
    for (uint32_t i = 0; i < dim; i++)
        most = fmaxf(most, fabsf(x[i]));
    const float scale = most / 127;
    for (uint32_t i = 0; i < dim; i++) {
        if (type == GPU_I8)
            out[i] = scale > 0 ? scale * fminf(fmaxf(rintf(x[i] / scale), -127), 127) : 0;
        else
            out[i] = rounded(type == GPU_F16 ? f16_to_f32(f32_to_f16(x[i])) : x[i]);
    }
}

static float *stored(enum gpu_number type, const float *x, size_t n_heads, uint32_t dim)
{
    float *out = malloc(n_heads * dim * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < n_heads; i++)
        store_head(type, x + i * dim, dim, out + i * dim);
    return out;
}

static struct attention_test make_test(const struct attention_case *of)
{
    const size_t n_tokens = (size_t)N_SEQS * N_TOKENS, n_heads = n_tokens * of->n_heads,
                 n_kv_heads = n_tokens * of->n_kv_heads;
    const enum gpu_number type = of->has_no_store ? GPU_F32 : of->type;
    struct attention_test t = {.of = *of,
                               .p = {.n_heads = of->n_heads,
                                     .n_kv_heads = of->n_kv_heads,
                                     .k_dim = of->k_dim,
                                     .v_dim = of->v_dim,
                                     .window = of->window,
                                     .is_causal = !of->has_no_store,
                                     .scale = 2.5f / sqrtf((float)of->k_dim),
                                     .cap = of->cap},
                               .q = random_floats(n_heads * of->k_dim, 11),
                               .k = random_floats(n_kv_heads * of->k_dim, 12),
                               .v = random_floats(n_kv_heads * of->v_dim, 13)};
    t.seen_q = stored(GPU_BF16, t.q, n_heads, of->k_dim);
    t.seen_k = stored(type, t.k, n_kv_heads, of->k_dim);
    t.seen_v = stored(type, t.v, n_kv_heads, of->v_dim);
    if (of->has_no_store)
        return t;
    const size_t n_pages = (size_t)N_PAGES * of->n_kv_heads;
    t.kv =
        (struct gpu_kv){.keys = gpu_allocate(gpu, n_pages * gpu_kv_page_bytes(type, of->k_dim)),
                        .values = gpu_allocate(gpu, n_pages * gpu_kv_page_bytes(type, of->v_dim)),
                        .n_kv_heads = of->n_kv_heads,
                        .k_dim = of->k_dim,
                        .v_dim = of->v_dim,
                        .type = type};
    return t;
}

static void free_test(struct attention_test *t)
{
    float *const all[] = {t->q, t->k, t->v, t->seen_q, t->seen_k, t->seen_v};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    gpu_free(gpu, t->kv.keys);
    gpu_free(gpu, t->kv.values);
}

static const float *head_of(const float *x, uint32_t seq, uint32_t token, uint32_t head,
                            uint32_t n_heads, uint32_t dim)
{
    return x + (((size_t)seq * N_TOKENS + token) * n_heads + head) * dim;
}

/* Weights are rounded to bf16, by at most a 256th of each; `most` is what that makes, and a bit. */
static void expect_head(const struct attention_test *t, uint32_t seq, uint32_t token, uint32_t head,
                        double *out, double *most)
{
    const serverd_attn *p = &t->p;
    const uint32_t kv_head = head / (p->n_heads / p->n_kv_heads),
                   end = p->is_causal ? token + 1 : t->of.end[seq],
                   begin = p->window > 0 && end > p->window ? end - p->window : 0;
    double weights[N_TOKENS], highest = -INFINITY, total = 0;
    const float *q = head_of(t->seen_q, seq, token, head, p->n_heads, p->k_dim);
    for (uint32_t i = begin; i < end; i++) {
        const float *k = head_of(t->seen_k, seq, i, kv_head, p->n_kv_heads, p->k_dim);
        weights[i] = 0;
        for (uint32_t d = 0; d < p->k_dim; d++)
            weights[i] += (double)p->scale * (double)q[d] * (double)k[d];
        if (p->cap > 0)
            weights[i] = (double)p->cap * tanh(weights[i] / (double)p->cap);
        highest = fmax(highest, weights[i]);
    }
    for (uint32_t i = begin; i < end; i++)
        total += weights[i] = exp(weights[i] - highest);
    for (uint32_t d = 0; d < p->v_dim; d++) {
        out[d] = 0;
        most[d] = 2e-5;
        for (uint32_t i = begin; i < end; i++) {
            const float v = head_of(t->seen_v, seq, i, kv_head, p->n_kv_heads, p->v_dim)[d];
            out[d] += weights[i] / total * (double)v;
            most[d] += weights[i] / total * fabs((double)v) / 256;
        }
    }
}

/* The rows' vectors one after the other. */
static float *gather(const struct rows *rows, const float *from, uint32_t width)
{
    float *x = malloc((size_t)rows->n * width * sizeof *x);
    assert_non_null(x);
    for (uint32_t r = 0; r < rows->n; r++)
        memcpy(x + (size_t)r * width,
               from + ((size_t)rows->seq[r] * N_TOKENS + (uint32_t)rows->position[r]) * width,
               width * sizeof *x);
    float *there = on_device(x, (size_t)rows->n * width * sizeof *x);
    free(x);
    return there;
}

static uint32_t count_keys(const struct rows *rows)
{
    uint32_t most = 0;
    for (uint32_t r = 0; r < rows->n; r++)
        most = max_u32(most, (uint32_t)rows->position[r] + 1);
    return most;
}

/* Appends these rows and attends; the result of all rows. turns: rows that scratch has room for. */
static float *run_attention(const struct attention_test *t, const uint32_t *begin,
                            const uint32_t *end, uint32_t turns)
{
    const serverd_attn *p = &t->p;
    struct rows rows;
    make_rows(&rows, begin, end);
    const size_t floats = turns * gpu_attend_row_floats(p, N_TOKENS),
                 out_bytes = (size_t)rows.n * p->n_heads * p->v_dim * sizeof(float);
    float *q = gather(&rows, t->q, p->n_heads * p->k_dim),
          *k = gather(&rows, t->k, p->n_kv_heads * p->k_dim),
          *v = gather(&rows, t->v, p->n_kv_heads * p->v_dim), *out = gpu_allocate(gpu, out_bytes),
          *scratch = gpu_allocate(gpu, floats * sizeof *scratch);
    if (t->kv.keys)
        gpu_append(gpu, &rows.batch, &t->kv, k, v);
    gpu_attend(gpu, &rows.batch, p, &t->kv, q, k, v, count_keys(&rows), scratch, floats, out, NULL);
    float *result = from_device(out, out_bytes);
    gpu_free(gpu, q);
    gpu_free(gpu, k);
    gpu_free(gpu, v);
    gpu_free(gpu, out);
    gpu_free(gpu, scratch);
    free_rows(&rows);
    return result;
}

/* Tokens 0 .. up_to - 1 of each sequence go into pages, some at a time. */
static void fill_pages(const struct attention_test *t, const uint32_t *up_to)
{
    uint32_t at[N_SEQS] = {0}, to[N_SEQS];
    for (bool is_over = false; !is_over;) {
        is_over = true;
        for (uint32_t s = 0; s < N_SEQS; s++) {
            to[s] = min_u32(up_to[s], at[s] + MAX_ROWS / N_SEQS);
            is_over &= to[s] == up_to[s];
        }
        struct rows rows;
        make_rows(&rows, at, to);
        float *k = gather(&rows, t->k, t->p.n_kv_heads * t->p.k_dim),
              *v = gather(&rows, t->v, t->p.n_kv_heads * t->p.v_dim);
        if (rows.n > 0)
            gpu_append(gpu, &rows.batch, &t->kv, k, v);
        gpu_free(gpu, k);
        gpu_free(gpu, v);
        free_rows(&rows);
        memcpy(at, to, sizeof at);
    }
}

static void check_values(const struct attention_test *t, const float *all)
{
    const uint32_t v_dim = t->p.v_dim;
    size_t at = 0;
    for (uint32_t s = 0; s < N_SEQS; s++)
        for (uint32_t token = t->of.begin[s]; token < t->of.end[s]; token++)
            for (uint32_t head = 0; head < t->p.n_heads; head++, at += v_dim) {
                double expected[MAX_DIM], most[MAX_DIM];
                expect_head(t, s, token, head, expected, most);
                for (uint32_t d = 0; d < v_dim; d++)
                    if (!(fabs((double)all[at + d] - expected[d]) <= most[d]))
                        fail_msg("sequence %u, token %u, head %u: element %u is %g, expected %g", s,
                                 token, head, d, (double)all[at + d], expected[d]);
            }
}

/* Some rows of each sequence alone, or without a store all of its rows: the same bits. */
static void check_alone(const struct attention_test *t, const float *all)
{
    const size_t width = (size_t)t->p.n_heads * t->p.v_dim;
    for (uint32_t s = 0; s < N_SEQS; s++) {
        const uint32_t first = t->of.begin[s], end = t->of.end[s];
        const uint32_t n = t->of.has_no_store ? end - first : 1,
                       step = max_u32((end - first) / 3, n);
        for (uint32_t token = first; token < end; token += step) {
            uint32_t from[N_SEQS] = {0}, to[N_SEQS] = {0};
            from[s] = token;
            to[s] = token + n;
            float *alone = run_attention(t, from, to, 1);
            assert_memory_equal(alone, all + (token - first) * width, n * width * sizeof *alone);
            free(alone);
        }
        all += (end - first) * width;
    }
}

static void check_attention(const struct attention_case *of)
{
    struct attention_test t = make_test(of);
    uint32_t n_rows = 0;
    for (uint32_t s = 0; s < N_SEQS; s++)
        n_rows += of->end[s] - of->begin[s];
    if (t.kv.keys)
        fill_pages(&t, of->begin);
    float *all = run_attention(&t, of->begin, of->end, MAX_ROWS),
          *turns = run_attention(&t, of->begin, of->end, 3);
    check_values(&t, all);
    assert_memory_equal(all, turns, (size_t)n_rows * of->n_heads * of->v_dim * sizeof *all);
    check_alone(&t, all);
    free(all);
    free(turns);
    free_test(&t);
}

static void attention_reads_pages_of_every_type(void **state)
{
    (void)state;
    struct attention_case of = {4, 2, 40, 36, .begin = {250, 0, 590}, .end = {260, 5, 591}};
    check_attention(&of);
    of.type = GPU_F16;
    check_attention(&of);
    of.type = GPU_BF16;
    of.window = 100;
    check_attention(&of);
    of.type = GPU_I8;
    of.window = 0;
    of.cap = 3;
    check_attention(&of);
}

static void attention_takes_groups_of_any_size(void **state)
{
    (void)state;
    static const struct attention_case cases[] = {
        {2, 2, 32, 32, .type = GPU_BF16, .begin = {256, 3, 511}, .end = {257, 4, 513}},
        {6, 2, 32, 32, .type = GPU_I8, .begin = {255, 0, 300}, .end = {258, 12, 301}},
        {8, 1, 32, 32, .type = GPU_BF16, .begin = {255, 0, 300}, .end = {256, 1, 301}},
        {8, 1, 32, 32, .type = GPU_F16, .begin = {255, 0, 300}, .end = {267, 0, 301}},
        {20, 1, 16, 16, .type = GPU_BF16, .begin = {270, 0, 7}, .end = {271, 1, 8}},
        {70, 1, 16, 16, .type = GPU_BF16, .begin = {270, 0, 0}, .end = {273, 1, 0}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_attention(&cases[i]);
}

static void attention_takes_heads_of_any_length(void **state)
{
    (void)state;
    static const struct attention_case cases[] = {
        {2, 1, 36, 64, .type = GPU_BF16, .begin = {250, 0, 30}, .end = {260, 1, 31}},
        {2, 1, 64, 128, .type = GPU_I8, .begin = {250, 0, 30}, .end = {260, 1, 31}},
        {4, 2, 128, 128, .type = GPU_BF16, .begin = {250, 0, 30}, .end = {260, 18, 31}},
        {2, 2, 256, 256, .type = GPU_F16, .begin = {60, 0, 300}, .end = {62, 1, 301}},
        {2, 1, 192, 20, .type = GPU_F32, .begin = {250, 0, 30}, .end = {260, 1, 31}},
        {3, 1, 33, 7, .type = GPU_F32, .begin = {250, 0, 30}, .end = {260, 1, 31}},
        {3, 1, 1, 9, .type = GPU_I8, .begin = {250, 0, 30}, .end = {260, 1, 31}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_attention(&cases[i]);
}

static void attention_sees_no_more_than_its_window(void **state)
{
    (void)state;
    struct attention_case of = {
        2, 1, 16, 16, .type = GPU_BF16, .begin = {500, 0, 250}, .end = {520, 2, 260}};
    static const uint32_t windows[] = {1, 2, 17, 256, 257, 300, 590};
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        of.window = windows[i];
        check_attention(&of);
    }
}

static void attention_takes_more_rows_than_a_tile(void **state)
{
    (void)state;
    static const struct attention_case cases[] = {
        {1, 1, 32, 24, .type = GPU_BF16, .begin = {200, 0, 0}, .end = {330, 65, 1}},
        {3, 1, 16, 16, .type = GPU_I8, .window = 40, .begin = {230, 10, 0}, .end = {290, 40, 1}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_attention(&cases[i]);
}

static void attention_without_a_store_sees_all_rows_of_its_sequence(void **state)
{
    (void)state;
    static const struct attention_case cases[] = {
        {2, 2, 36, 36, .has_no_store = true, .end = {70, 5, 1}},
        {4, 2, 64, 32, .has_no_store = true, .end = {3, 0, 270}},
        {2, 1, 33, 30, .has_no_store = true, .cap = 2, .end = {0, 17, 20}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_attention(&cases[i]);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void norms_divide_by_their_groups(void **state)
{
    (void)state;
    static const uint32_t widths[] = {1, 33, 64, 576};
    enum { N_GROUPS = 5 };
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++)
        for (int is_layer_norm = 0; is_layer_norm < 2; is_layer_norm++) {
            const uint32_t width = widths[k];
            float *x = random_floats(N_GROUPS * width, 5), *w = random_floats(width, 6),
                  *b = random_floats(width, 7),
                  *x_there = on_device(x, N_GROUPS * width * sizeof *x),
                  *w_there = on_device(w, width * sizeof *w),
                  *b_there = is_layer_norm ? on_device(b, width * sizeof *b) : NULL;
            gpu_norm(gpu, x_there, w_there, b_there, N_GROUPS, width, 1e-5f, x_there);
            float *y = from_device(x_there, N_GROUPS * width * sizeof *x);
            for (uint32_t g = 0; g < N_GROUPS; g++) {
                double mean = 0, square = 0, expected[576];
                for (uint32_t i = 0; i < width && is_layer_norm; i++)
                    mean += (double)x[g * width + i] / width;
                for (uint32_t i = 0; i < width; i++)
                    square += pow((double)x[g * width + i] - mean, 2) / width;
                for (uint32_t i = 0; i < width; i++)
                    expected[i] =
                        ((double)x[g * width + i] - mean) / sqrt(square + 1e-5) * (double)w[i] +
                        (is_layer_norm ? (double)b[i] : 0);
                assert_near(y + g * width, expected, width, 1e-4);
            }
            free(x);
            free(w);
            free(b);
            free(y);
            gpu_free(gpu, x_there);
            gpu_free(gpu, w_there);
            gpu_free(gpu, b_there);
        }
}

static void half_numbers_are_rounded_to_nearest_even(void **state)
{
    (void)state;
    static const float values[] = {
        0,       1,     -1.5f,   65504,      65519,   65520,    1e30f,    -1e30f, 6e-8f,  3e-8f,
        2.9e-8f, 1e-5f, 6.1e-5f, 6.0976e-5f, 1.0005f, 1.00049f, 0.33333f, 2049,   2051.f, -2050.9f};
    enum { N = sizeof values / sizeof *values };
    const uint32_t begin[N_SEQS] = {0}, end[N_SEQS] = {1, 0, 0};
    struct rows rows;
    make_rows(&rows, begin, end);
    const size_t bytes = N_PAGES * gpu_kv_page_bytes(GPU_F16, N);
    struct gpu_kv kv = {.keys = gpu_allocate(gpu, bytes),
                        .values = gpu_allocate(gpu, bytes),
                        .n_kv_heads = 1,
                        .k_dim = N,
                        .v_dim = N,
                        .type = GPU_F16};
    float *x = on_device(values, sizeof values);
    gpu_append(gpu, &rows.batch, &kv, x, x);
    const size_t at = rows.table[0] * gpu_kv_page_bytes(GPU_F16, N);
    uint16_t *stored = from_device(kv.keys + at, N * sizeof *stored);
    for (size_t i = 0; i < N; i++)
        if (stored[i] != f32_to_f16(values[i]))
            fail_msg("%a is %04x, expected %04x", (double)values[i], stored[i],
                     f32_to_f16(values[i]));
    free(stored);
    gpu_free(gpu, x);
    gpu_free(gpu, kv.keys);
    gpu_free(gpu, kv.values);
    free_rows(&rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_reads_pages_of_every_type),
        cmocka_unit_test(attention_takes_groups_of_any_size),
        cmocka_unit_test(attention_takes_heads_of_any_length),
        cmocka_unit_test(attention_sees_no_more_than_its_window),
        cmocka_unit_test(attention_takes_more_rows_than_a_tile),
        cmocka_unit_test(attention_without_a_store_sees_all_rows_of_its_sequence),
        cmocka_unit_test(norms_divide_by_their_groups),
        cmocka_unit_test(half_numbers_are_rounded_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, open_gpu, close_gpu);
}
