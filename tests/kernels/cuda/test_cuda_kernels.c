/* The CUDA kernels against plain loops in double, on shapes with tails, and the same bits for a row
 * alone, among others and from run to run of the emulation, whose threads go on in random order.
 * Argument: none. */
#include "base/hash.h"
#include "base/numeric.h"
#include "on_device.h"

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

/* ---- a batch --------------------------------------------------------------------------------- */

enum { N_SEQS = 3, MAX_PAGES = 40, N_PAGES = N_SEQS * MAX_PAGES, MAX_ROWS = 64 };

/* Rows begin[s] .. end[s] - 1 of each sequence; pages lie in no order. */
struct rows {
    int32_t position[MAX_ROWS];
    uint32_t seq[MAX_ROWS], first[N_SEQS + 1], table[N_SEQS * MAX_PAGES];
    uint32_t n;
    struct gpu_batch batch;
};

static void make_rows(struct rows *rows, const uint32_t *begin, const uint32_t *end)
{
    rows->n = 0;
    for (uint32_t s = 0; s < N_SEQS; s++) {
        rows->first[s] = rows->n;
        for (uint32_t p = begin[s]; p < end[s]; p++, rows->n++) {
            rows->position[rows->n] = (int32_t)p;
            rows->seq[rows->n] = s;
        }
        for (uint32_t p = 0; p < MAX_PAGES; p++)
            rows->table[s * MAX_PAGES + p] = (p * N_SEQS + s) * 7 % N_PAGES;
    }
    rows->first[N_SEQS] = rows->n;
    rows->batch = (struct gpu_batch){
        .n_rows = rows->n,
        .n_seqs = N_SEQS,
        .max_pages = MAX_PAGES,
        .position = on_device(rows->position, sizeof rows->position),
        .row_seq = on_device(rows->seq, sizeof rows->seq),
        .first_row = on_device(rows->first, sizeof rows->first),
        .page_table = on_device(rows->table, sizeof rows->table),
    };
}

static void free_const(const void *there)
{
    void *memory;
    memcpy(&memory, &there, sizeof memory);
    gpu_free(gpu, memory);
}

static void free_rows(struct rows *rows)
{
    free_const(rows->batch.position);
    free_const(rows->batch.row_seq);
    free_const(rows->batch.first_row);
    free_const(rows->batch.page_table);
}

/* ---- attention ------------------------------------------------------------------------------- */

enum { N_HEADS = 4, N_KV_HEADS = 2, K_DIM = 40, V_DIM = 36, N_TOKENS = 600 };

/* All keys and values of the sequences: [seq][token][head][dim]. */
struct tokens {
    float *q, *k, *v;
};

static const float *head_of(const float *x, uint32_t seq, uint32_t token, uint32_t head,
                            uint32_t n_heads, uint32_t dim)
{
    return x + (((size_t)seq * N_TOKENS + token) * n_heads + head) * dim;
}

static void expect_row(const serverd_attn *p, const struct tokens *t, uint32_t seq, uint32_t token,
                       uint32_t head, double *out)
{
    const uint32_t kv_head = head / (N_HEADS / N_KV_HEADS), end = token + 1;
    double weights[N_TOKENS], most = -INFINITY, total = 0;
    const uint32_t begin = p->window > 0 && end > p->window ? end - p->window : 0;
    for (uint32_t i = begin; i < end; i++) {
        const float *q = head_of(t->q, seq, token, head, N_HEADS, K_DIM),
                    *k = head_of(t->k, seq, i, kv_head, N_KV_HEADS, K_DIM);
        weights[i] = 0;
        for (uint32_t d = 0; d < K_DIM; d++)
            weights[i] += (double)p->scale * (double)q[d] * (double)k[d];
        if (p->cap > 0)
            weights[i] = (double)p->cap * tanh(weights[i] / (double)p->cap);
        most = fmax(most, weights[i]);
    }
    memset(out, 0, V_DIM * sizeof *out);
    for (uint32_t i = begin; i < end; i++)
        total += weights[i] = exp(weights[i] - most);
    for (uint32_t i = begin; i < end; i++)
        for (uint32_t d = 0; d < V_DIM; d++)
            out[d] +=
                weights[i] / total * (double)head_of(t->v, seq, i, kv_head, N_KV_HEADS, V_DIM)[d];
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

/* Appends these rows and attends; the result of all rows. turns: rows that scratch has room for. */
static float *run_attention(const serverd_attn *p, const struct gpu_kv *kv, const struct tokens *t,
                            const uint32_t *begin, const uint32_t *end, uint32_t turns,
                            struct rows *rows)
{
    make_rows(rows, begin, end);
    const size_t floats = turns * gpu_attend_row_floats(p, N_TOKENS);
    float *q = gather(rows, t->q, N_HEADS * K_DIM), *k = gather(rows, t->k, N_KV_HEADS * K_DIM),
          *v = gather(rows, t->v, N_KV_HEADS * V_DIM),
          *out = gpu_allocate(gpu, (size_t)rows->n * N_HEADS * V_DIM * sizeof *out),
          *scratch = gpu_allocate(gpu, floats * sizeof *scratch);
    gpu_append(gpu, &rows->batch, kv, k, v);
    gpu_attend(gpu, &rows->batch, p, kv, q, k, v, N_TOKENS, scratch, floats, out);
    float *result = from_device(out, (size_t)rows->n * N_HEADS * V_DIM * sizeof *out);
    gpu_free(gpu, q);
    gpu_free(gpu, k);
    gpu_free(gpu, v);
    gpu_free(gpu, out);
    gpu_free(gpu, scratch);
    free_rows(rows);
    return result;
}

/* Fills all pages but the last tokens', some tokens at a time. */
static void fill_pages(const serverd_attn *p, const struct gpu_kv *kv, const struct tokens *t,
                       const uint32_t *up_to)
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
        float *k = gather(&rows, t->k, N_KV_HEADS * K_DIM),
              *v = gather(&rows, t->v, N_KV_HEADS * V_DIM);
        if (rows.n > 0)
            gpu_append(gpu, &rows.batch, kv, k, v);
        gpu_free(gpu, k);
        gpu_free(gpu, v);
        free_rows(&rows);
        memcpy(at, to, sizeof at);
    }
    (void)p;
}

static void check_attention(enum gpu_number type, uint32_t window, float cap, double most)
{
    const serverd_attn p = {.n_heads = N_HEADS,
                            .n_kv_heads = N_KV_HEADS,
                            .k_dim = K_DIM,
                            .v_dim = V_DIM,
                            .window = window,
                            .is_causal = 1,
                            .scale = 0.4f,
                            .cap = cap};
    const size_t n_tokens = (size_t)N_SEQS * N_TOKENS;
    struct tokens t = {random_floats(n_tokens * N_HEADS * K_DIM, 11),
                       random_floats(n_tokens * N_KV_HEADS * K_DIM, 12),
                       random_floats(n_tokens * N_KV_HEADS * V_DIM, 13)};
    const size_t n_slots = (size_t)N_PAGES * N_KV_HEADS * SERVERD_PAGE_TOKENS;
    const struct gpu_kv kv = {.keys = gpu_allocate(gpu, n_slots * gpu_kv_head_bytes(type, K_DIM)),
                              .values = gpu_allocate(gpu, n_slots * gpu_kv_head_bytes(type, V_DIM)),
                              .n_kv_heads = N_KV_HEADS,
                              .k_dim = K_DIM,
                              .v_dim = V_DIM,
                              .type = type};
    const uint32_t begin[N_SEQS] = {250, 0, 590}, end[N_SEQS] = {260, 5, 591};
    fill_pages(&p, &kv, &t, begin);
    struct rows rows;
    float *all = run_attention(&p, &kv, &t, begin, end, MAX_ROWS, &rows);
    for (uint32_t r = 0; r < rows.n; r++)
        for (uint32_t head = 0; head < N_HEADS; head++) {
            double expected[V_DIM];
            expect_row(&p, &t, rows.seq[r], (uint32_t)rows.position[r], head, expected);
            assert_near(all + ((size_t)r * N_HEADS + head) * V_DIM, expected, V_DIM, most);
        }
    /* the same bits in turns, and row by row */
    float *turns = run_attention(&p, &kv, &t, begin, end, 3, &rows);
    assert_memory_equal(all, turns, (size_t)rows.n * N_HEADS * V_DIM * sizeof *all);
    for (uint32_t token = begin[0]; token < end[0]; token += 3) {
        const uint32_t from[N_SEQS] = {token, 0, 0}, to[N_SEQS] = {token + 1, 0, 0};
        float *alone = run_attention(&p, &kv, &t, from, to, 1, &rows);
        assert_memory_equal(alone, all + (size_t)(token - begin[0]) * N_HEADS * V_DIM,
                            N_HEADS * V_DIM * sizeof *alone);
        free(alone);
    }
    free(all);
    free(turns);
    free(t.q);
    free(t.k);
    free(t.v);
    gpu_free(gpu, kv.keys);
    gpu_free(gpu, kv.values);
}

static void attention_reads_pages_of_every_type(void **state)
{
    (void)state;
    check_attention(GPU_F32, 0, 0, 1e-5);
    check_attention(GPU_F16, 0, 0, 1e-3);
    check_attention(GPU_BF16, 100, 0, 1e-2);
    check_attention(GPU_I8, 0, 3, 1e-2);
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
    const size_t bytes = (size_t)N_PAGES * SERVERD_PAGE_TOKENS * gpu_kv_head_bytes(GPU_F16, N);
    struct gpu_kv kv = {.keys = gpu_allocate(gpu, bytes),
                        .values = gpu_allocate(gpu, bytes),
                        .n_kv_heads = 1,
                        .k_dim = N,
                        .v_dim = N,
                        .type = GPU_F16};
    float *x = on_device(values, sizeof values);
    gpu_append(gpu, &rows.batch, &kv, x, x);
    const size_t at = rows.table[0] * SERVERD_PAGE_TOKENS * gpu_kv_head_bytes(GPU_F16, N);
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
        cmocka_unit_test(norms_divide_by_their_groups),
        cmocka_unit_test(half_numbers_are_rounded_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, open_gpu, close_gpu);
}
