/* Kernels that do what several others do, on shapes with tails: bit by bit what these come to.
 * Argument: none. */
#include "step_rows.h"

static void *noise(size_t bytes)
{
    return gpu_allocate(gpu, bytes);
}

/* `n` bytes of both are the same; both are freed. */
static void assert_equal_there(void *a, void *b, size_t bytes)
{
    char *x = from_device(a, bytes), *y = from_device(b, bytes);
    assert_memory_equal(x, y, bytes);
    free(x);
    free(y);
    gpu_free(gpu, a);
    gpu_free(gpu, b);
}

static float *floats_there(size_t n, uint64_t seed)
{
    float *x = random_floats(n, seed), *there = on_device(x, n * sizeof *x);
    free(x);
    return there;
}

/* ---- rows of linear layers ------------------------------------------------------------------- */

static const uint32_t widths[] = {1, 33, 128, 250, 576}, row_counts[] = {1, 5, 16, 17};

enum { N_WIDTHS = sizeof widths / sizeof *widths, N_ROW_COUNTS = 4 };

static void check_norm(uint32_t n_rows, uint32_t width, bool is_layer_norm)
{
    const size_t n = (size_t)n_rows * width, bytes = fragments_rows(n_rows, width) * 2;
    float *x = floats_there(n, 1), *w = floats_there(width, 2), *b = floats_there(width, 3),
          *y = noise(n * sizeof *y);
    const float *bias = is_layer_norm ? b : NULL;
    void *two = noise(bytes), *one = noise(bytes);
    gpu_norm(gpu, x, w, bias, n_rows, width, 1e-5f, y);
    gpu_rows_to_fragments(gpu, y, n_rows, width, two);
    gpu_norm_to_fragments(gpu, x, w, bias, n_rows, width, 1e-5f, one);
    assert_equal_there(one, two, bytes);
    gpu_free(gpu, x);
    gpu_free(gpu, w);
    gpu_free(gpu, b);
    gpu_free(gpu, y);
}

static void norms_come_as_fragments(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_WIDTHS * N_ROW_COUNTS; i++) {
        check_norm(row_counts[i % N_ROW_COUNTS], widths[i / N_ROW_COUNTS], false);
        check_norm(row_counts[i % N_ROW_COUNTS], widths[i / N_ROW_COUNTS], true);
    }
}

static void check_activation(uint32_t n_rows, uint32_t width, uint32_t activation, bool is_glu)
{
    const size_t n = (size_t)n_rows * width, bytes = fragments_rows(n_rows, width) * 2;
    float *a = floats_there(n, 4), *b = floats_there(n, 5), *y = noise(n * sizeof *y);
    void *two = noise(bytes), *one = noise(bytes);
    gpu_activate(gpu, a, is_glu ? b : NULL, n, activation, y);
    gpu_rows_to_fragments(gpu, y, n_rows, width, two);
    gpu_activate_to_fragments(gpu, a, is_glu ? b : NULL, n_rows, width, activation, one);
    assert_equal_there(one, two, bytes);
    gpu_free(gpu, a);
    gpu_free(gpu, b);
    gpu_free(gpu, y);
}

static void activations_come_as_fragments(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_WIDTHS * N_ROW_COUNTS; i++)
        check_activation(row_counts[i % N_ROW_COUNTS], widths[i / N_ROW_COUNTS], SERVERD_ACT_SILU,
                         i % 3 > 0);
    for (uint32_t activation = SERVERD_ACT_SILU; activation <= SERVERD_ACT_TANH; activation++)
        check_activation(3, 40, activation, true);
}

/* ---- attention ------------------------------------------------------------------------------- */

enum { N_HEADS = 8, N_KV_HEADS = 2, DIM = 32, WIDTH = N_HEADS * DIM };

static struct gpu_kv make_store(enum gpu_number type)
{
    const size_t bytes = (size_t)N_PAGES * N_KV_HEADS * gpu_kv_page_bytes(type, DIM);
    struct gpu_kv kv = {.keys = noise(bytes),
                        .values = noise(bytes),
                        .n_kv_heads = N_KV_HEADS,
                        .k_dim = DIM,
                        .v_dim = DIM,
                        .type = type};
    gpu_zero(gpu, kv.keys, bytes);
    gpu_zero(gpu, kv.values, bytes);
    return kv;
}

static void free_store(struct gpu_kv *kv)
{
    gpu_free(gpu, kv->keys);
    gpu_free(gpu, kv->values);
}

/* Element by element: what is behind the last row of a tile is nobody's. */
static void assert_rows_equal(void *fragments, const float *out, uint32_t n_rows)
{
    float *x = from_device(out, (size_t)n_rows * WIDTH * sizeof *x);
    uint16_t *y = from_device(fragments, fragments_rows(n_rows, WIDTH) * sizeof *y);
    for (uint32_t row = 0; row < n_rows; row++)
        for (uint32_t i = 0; i < WIDTH; i++)
            assert_int_equal(y[fragments_row_at(row, i, WIDTH)],
                             f32_to_bf16(x[(size_t)row * WIDTH + i]));
    free(x);
    free(y);
}

/* Sequences of one segment and of several, prompts and single rows. */
static void attention_comes_as_fragments(void **state)
{
    (void)state;
    static const uint32_t begins[][N_SEQS] = {{0, 0, 0}, {299, 40, 0}},
                          ends[][N_SEQS] = {{40, 3, 1}, {300, 41, 0}};
    static const uint32_t filled[N_SEQS] = {299, 40, 0}, none[N_SEQS] = {0};
    const serverd_attn p = {N_HEADS, N_KV_HEADS, DIM, DIM, .is_causal = 1, .scale = 0.2f};
    struct gpu_kv kv = make_store(GPU_I8);
    float *k = floats_there(MAX_ROWS * N_KV_HEADS * DIM, 6), *q = floats_there(MAX_ROWS * WIDTH, 7);
    for (size_t i = 0; i < 2; i++) {
        struct rows before, rows;
        make_rows(&before, none, filled);
        make_rows(&rows, begins[i], ends[i]);
        const size_t floats = rows.n * gpu_attend_row_floats(&p, 300);
        float *scratch = noise(floats * sizeof *scratch),
              *out = noise(rows.n * WIDTH * sizeof *out);
        void *fragments = noise(fragments_rows(rows.n, WIDTH) * 2);
        gpu_append(gpu, &before.batch, &kv, k, k);
        gpu_append(gpu, &rows.batch, &kv, k, k);
        gpu_attend(gpu, &rows.batch, &p, &kv, q, NULL, NULL, 300, scratch, floats, out, NULL);
        gpu_attend(gpu, &rows.batch, &p, &kv, q, NULL, NULL, 300, scratch, floats, NULL, fragments);
        assert_rows_equal(fragments, out, rows.n);
        gpu_free(gpu, scratch);
        gpu_free(gpu, out);
        gpu_free(gpu, fragments);
        free_rows(&before);
        free_rows(&rows);
    }
    gpu_free(gpu, k);
    gpu_free(gpu, q);
    free_store(&kv);
}

static void check_turned(enum gpu_number type, const serverd_rope *rope)
{
    static const uint32_t begin[N_SEQS] = {250, 0, 17}, end[N_SEQS] = {253, 5, 18};
    const size_t pages = (size_t)N_PAGES * N_KV_HEADS * gpu_kv_page_bytes(type, DIM);
    struct gpu_kv two = make_store(type), one = make_store(type);
    struct rows rows;
    make_rows(&rows, begin, end);
    const size_t q_bytes = rows.n * WIDTH * sizeof(float);
    float *q = floats_there(rows.n * WIDTH, 8), *k = floats_there(rows.n * N_KV_HEADS * DIM, 9),
          *v = floats_there(rows.n * N_KV_HEADS * DIM, 10), *inv_freq = floats_there(DIM / 2, 11),
          *q_two = noise(q_bytes), *q_one = noise(q_bytes),
          *k_two = noise(rows.n * N_KV_HEADS * DIM * sizeof(float));
    gpu_rope(gpu, &rows.batch, q, inv_freq, N_HEADS, rope, 1.25f, q_two);
    gpu_rope(gpu, &rows.batch, k, inv_freq, N_KV_HEADS, rope, 1.25f, k_two);
    gpu_append(gpu, &rows.batch, &two, k_two, v);
    gpu_turn_and_append(gpu, &rows.batch, &one, inv_freq, rope, 1.25f, N_HEADS, q, k, v, q_one);
    assert_equal_there(q_one, q_two, q_bytes);
    assert_equal_there(one.keys, two.keys, pages);
    assert_equal_there(one.values, two.values, pages);
    float *const all[] = {q, k, v, inv_freq, k_two};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        gpu_free(gpu, all[i]);
    free_rows(&rows);
}

static void keys_are_turned_on_their_way_into_pages(void **state)
{
    (void)state;
    static const enum gpu_number types[] = {GPU_F32, GPU_F16, GPU_BF16, GPU_I8};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        check_turned(types[i], &(serverd_rope){.head_dim = DIM, .n_rot = DIM, .is_neox = 1});
        check_turned(types[i], &(serverd_rope){.head_dim = DIM, .n_rot = DIM});
        check_turned(types[i], &(serverd_rope){.head_dim = DIM, .n_rot = 10, .is_neox = 1});
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_come_as_fragments),
        cmocka_unit_test(activations_come_as_fragments),
        cmocka_unit_test(attention_comes_as_fragments),
        cmocka_unit_test(keys_are_turned_on_their_way_into_pages),
    };
    return cmocka_run_group_tests(tests, open_gpu, close_gpu);
}
