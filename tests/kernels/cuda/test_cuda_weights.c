/* Weights on the CUDA back-end: linear layers and tables of every type, packed as the delegate
 * packs them, against plain loops in double over the type's own conversion; shapes with tails; the
 * same bits for a row alone, among others and from run to run. Argument: none. */
#include "base/numeric.h"
#include "kernels/cuda/cuda_internal.h"
#include "on_device.h"
#include "program/dtype.h"

/* ---- types ----------------------------------------------------------------------------------- */

/* Our own types: step of the group, f16 or f32 scales. */
#define OWN_TYPE(format, step, is_f32, second, exact, form)                                        \
    {                                                                                              \
        (format) | (step) << 8 | (is_f32) << 10, 0, (second), (exact) && !(is_f32), (form)         \
    }
#define OWN(format, second, exact, form)                                                           \
    OWN_TYPE(format, 0, 0, second, exact, form), OWN_TYPE(format, 1, 0, second, exact, form),      \
        OWN_TYPE(format, 2, 0, second, exact, form),                                               \
        OWN_TYPE(format, 0, 1, 2 * (second), exact, form),                                         \
        OWN_TYPE(format, 1, 1, 2 * (second), exact, form),                                         \
        OWN_TYPE(format, 2, 1, 2 * (second), exact, form)

static const struct type {
    serverd_dtype dtype;
    int scale, second; /* where a block keeps its scales; below 0: none */
    bool is_exact;     /* the form keeps all of a value; others round to bf16, or scales to f16 */
    enum fragment_form form;
} types[] = {
    {DTYPE_Q4_0, 0, -1, true, FRAGMENT_I4},
    {DTYPE_Q4_1, 0, 2, true, FRAGMENT_I4_MIN},
    {DTYPE_Q5_0, 0, -1, true, FRAGMENT_I8},
    {DTYPE_Q5_1, 0, 2, true, FRAGMENT_I8_MIN},
    {DTYPE_Q8_0, 0, -1, true, FRAGMENT_I8},
    {DTYPE_IQ4_NL, 0, -1, true, FRAGMENT_I8},
    {DTYPE_MXFP4, -1, -1, true, FRAGMENT_I8},
    {DTYPE_IQ4_XS, 0, -1, false, FRAGMENT_I8},
    {DTYPE_Q4_K, 0, 2, false, FRAGMENT_I4_MIN},
    {DTYPE_Q5_K, 0, 2, false, FRAGMENT_I8_MIN},
    {DTYPE_Q6_K, 208, -1, false, FRAGMENT_I8_OF_16},
    {DTYPE_Q3_K, 108, -1, false, FRAGMENT_I8_OF_16},
    {DTYPE_Q2_K, 80, 82, false, FRAGMENT_BF16},
    {DTYPE_IQ2_XXS, 0, -1, false, FRAGMENT_BF16},
    {DTYPE_F32, -1, -1, false, FRAGMENT_BF16},
    {DTYPE_F16, -1, -1, false, FRAGMENT_BF16},
    {DTYPE_BF16, -1, -1, true, FRAGMENT_BF16},
    OWN(FORMAT_I8S, -1, true, FRAGMENT_I8),
    OWN(FORMAT_I8A, -1, false, FRAGMENT_I8_MIN),
    OWN(FORMAT_I4S, -1, true, FRAGMENT_I4),
    OWN(FORMAT_I4A, 2, true, FRAGMENT_I4_MIN),
    OWN(FORMAT_I4Z, -1, false, FRAGMENT_I4_MIN),
    OWN(FORMAT_NF4, -1, false, FRAGMENT_BF16),
    OWN_TYPE(FORMAT_F8, 0, 0, -1, false, FRAGMENT_F8),
    OWN_TYPE(FORMAT_F8, 1, 0, -1, false, FRAGMENT_F8),
    OWN_TYPE(FORMAT_F8, 2, 0, -1, false, FRAGMENT_F8),
};
enum { N_TYPES = sizeof types / sizeof *types };

static void put_scale(const struct type *type, uint8_t *to, float x)
{
    const uint16_t half = f32_to_f16(x);
    if (dtype_is_own(type->dtype) && dtype_has_f32_scales(type->dtype))
        memcpy(to, &x, sizeof x);
    else
        memcpy(to, &half, sizeof half);
}

/* A column with scales of the usual size has others that are small, zero and the smallest; some
 * columns have very large ones, and, where the type has f32, very small ones. */
static void fill_scales(const struct type *type, uint8_t *block, size_t column, uint64_t random)
{
    static const float scales[] = {0.1f, -0.07f, 3e-4f, 0x1p-24f, 0.0f, 0.09f, 65504.0f, 6e-5f};
    const uint32_t n = column % 3 == 2 ? 8 : 6;
    const float power =
        dtype_is_own(type->dtype) && dtype_has_f32_scales(type->dtype) && column % 4 == 1
            ? 0x1.91p-80f
            : 1.0f;
    if (type->scale >= 0)
        put_scale(type, block + type->scale, power * scales[random % n]);
    if (type->second >= 0)
        put_scale(type, block + type->second, power * scales[random / 8 % n]);
    if (type->dtype == DTYPE_MXFP4)
        block[0] = (uint8_t)(110 + random % 16);
}

static void fill_blocks(const struct type *type, uint8_t *blocks, size_t n_columns, size_t n)
{
    const struct dtype_info *info = dtype_info(type->dtype);
    for (size_t b = 0; b < n_columns * n; b++) {
        uint8_t *block = blocks + b * info->block_bytes;
        for (size_t i = 0; i < info->block_bytes; i++)
            block[i] = (uint8_t)(hash_mix(b * 997 + i) >> 30);
        fill_scales(type, block, b / n, hash_mix(b + 77));
        const float x = (float)(hash_mix(b) >> 40) * 0x1p-23f - 1.0f;
        const uint16_t half = type->dtype == DTYPE_F16 ? f32_to_f16(x) : f32_to_bf16(x);
        if (type->dtype == DTYPE_F32)
            memcpy(block, &x, sizeof x);
        else if (info->block_elements == 1)
            memcpy(block, &half, sizeof half);
    }
}

/* ---- matrices -------------------------------------------------------------------------------- */

struct matrix {
    const struct type *type;
    uint32_t n, k;
    uint8_t *blocks, *packed;
    float *values; /* [n][k], of the type's conversion; bf16 where that is the form */
    float *most;   /* [n][k]: the largest of the 32 that an element is one of */
    void *on_device;
};

/* In two parts, as the host packs: rows come in multiples of 64. */
static void pack_matrix(struct matrix *m, uint64_t row_bytes)
{
    serverd_form form;
    const serverd_tensor tensor = {.dtype = m->type->dtype,
                                   .rank = 2,
                                   .dims = {m->n, m->k},
                                   .bytes = m->n * row_bytes,
                                   .data = m->blocks};
    assert_int_equal(cuda_fragment_form(m->type->dtype), m->type->form);
    assert_int_equal(cuda_form(&tensor, &form, &err), SERVERD_OK);
    m->packed = malloc(form.bytes);
    assert_non_null(m->packed);
    memset(m->packed, 0xcd, form.bytes);
    for (uint32_t row = 0; row < m->n; row += 64)
        assert_int_equal(cuda_pack(&tensor, &form, row, min_u32(64, m->n - row), m->packed, &err),
                         SERVERD_OK);
    m->on_device = on_device(m->packed, form.bytes);
}

static struct matrix take_matrix(const struct type *type, uint32_t n, uint32_t k)
{
    const struct dtype_info *info = dtype_info(type->dtype);
    const size_t n_all = (size_t)n * k;
    struct matrix m = {.type = type, .n = n, .k = k};
    uint64_t row_bytes;
    assert_true(dtype_row_bytes(type->dtype, k, &row_bytes));
    m.blocks = malloc(n * row_bytes);
    m.values = malloc(n_all * sizeof *m.values);
    m.most = calloc(n_all, sizeof *m.most);
    assert_true(m.blocks && m.values && m.most);
    fill_blocks(type, m.blocks, n, k / info->block_elements);
    info->to_f32(m.blocks, m.values, n_all / info->block_elements);
    for (size_t i = 0; i < n_all && type->form == FRAGMENT_BF16; i++)
        m.values[i] = rounded(m.values[i]);
    for (size_t c = 0; c < n; c++)
        for (size_t i = 0; i < k; i++)
            for (size_t g = i / 32 * 32; g < min_size(k, i / 32 * 32 + 32); g++)
                m.most[c * k + i] = fmaxf(m.most[c * k + i], fabsf(m.values[c * k + g]));
    pack_matrix(&m, row_bytes);
    return m;
}

static void free_matrix(struct matrix *m)
{
    free(m->blocks);
    free(m->packed);
    free(m->values);
    free(m->most);
    gpu_free(gpu, m->on_device);
}

/* Of an element, as a part of `most`: sums in f32; scales and minima, each, rounded to f16, where a
 * minimum is at most three times what the weights are. */
static double tolerance(const struct type *type)
{
    return type->is_exact || type->form == FRAGMENT_BF16 ? 2e-6 : 4 * 0x1p-11;
}

/* ---- linear layers --------------------------------------------------------------------------- */

static float *run_linear(const struct matrix *m, const float *x, const float *bias, uint32_t n_rows)
{
    float *x_there = on_device(x, (size_t)n_rows * m->k * sizeof *x),
          *bias_there = bias ? on_device(bias, m->n * sizeof *bias) : NULL,
          *y = gpu_allocate(gpu, (size_t)n_rows * m->n * sizeof *y);
    void *fragments = gpu_allocate(gpu, fragments_rows(n_rows, m->k) * sizeof(uint16_t));
    gpu_rows_to_fragments(gpu, x_there, n_rows, m->k, fragments);
    gpu_linear(gpu, fragments, m->on_device, m->type->form, bias_there, n_rows, m->n, m->k, y);
    float *out = from_device(y, (size_t)n_rows * m->n * sizeof *y);
    gpu_free(gpu, x_there);
    gpu_free(gpu, bias_there);
    gpu_free(gpu, y);
    gpu_free(gpu, fragments);
    return out;
}

static void check_sums(const struct matrix *m, const float *x, const float *bias, uint32_t n_rows,
                       const float *y)
{
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t c = 0; c < m->n; c++) {
            double sum = bias ? (double)bias[c] : 0, most = fabs(sum);
            for (uint32_t i = 0; i < m->k; i++) {
                const double of_x = (double)rounded(x[(size_t)r * m->k + i]);
                sum += of_x * (double)m->values[(size_t)c * m->k + i];
                most += fabs(of_x) * (double)m->most[(size_t)c * m->k + i];
            }
            const double found = (double)y[(size_t)r * m->n + c];
            if (!(fabs(found - sum) <= most * tolerance(m->type)))
                fail_msg("%s [%u x %u], row %u of %u, column %u: %g, expected %g +- %g",
                         dtype_info(m->type->dtype)->name, m->n, m->k, r, n_rows, c, found, sum,
                         most * tolerance(m->type));
        }
}

static void check_linear(const struct type *type, uint32_t n_rows, uint32_t n, uint32_t k,
                         bool has_bias)
{
    struct matrix m = take_matrix(type, n, k);
    float *x = random_floats((size_t)n_rows * k, 1), *bias = has_bias ? random_floats(n, 3) : NULL,
          *all = run_linear(&m, x, bias, n_rows), *again = run_linear(&m, x, bias, n_rows);
    check_sums(&m, x, bias, n_rows, all);
    assert_memory_equal(all, again, (size_t)n_rows * n * sizeof *all);
    for (uint32_t r = 0; r < n_rows; r += 7) {
        float *alone = run_linear(&m, x + (size_t)r * k, bias, 1);
        assert_memory_equal(alone, all + (size_t)r * n, n * sizeof *alone);
        free(alone);
    }
    free(x);
    free(bias);
    free(all);
    free(again);
    free_matrix(&m);
}

static void linear_layers_multiply_any_shape(void **state)
{
    (void)state;
    static const struct type floats = {DTYPE_F32, -1, -1, false, FRAGMENT_BF16};
    static const uint32_t shapes[][3] = {/* rows, columns, k */
                                         {1, 8, 32},  {1, 1, 1},     {1, 70, 576},
                                         {2, 33, 40}, {16, 32, 128}, {17, 40, 129},
                                         {33, 9, 31}, {70, 65, 200}, {130, 16, 64}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_linear(&floats, shapes[i][0], shapes[i][1], shapes[i][2], i % 2 == 0);
}

static void linear_layers_multiply_every_type(void **state)
{
    (void)state;
    static const uint32_t shapes[][3] = {/* rows, columns, blocks of k */
                                         {1, 1, 1},
                                         {1, 70, 5},
                                         {17, 33, 3},
                                         {35, 9, 2}};
    for (size_t t = 0; t < N_TYPES; t++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            check_linear(&types[t], shapes[i][0], shapes[i][1],
                         shapes[i][2] * dtype_info(types[t].dtype)->block_elements, i % 2 == 1);
}

/* ---- long prompts ---------------------------------------------------------------------------- */

/* Steps of many rows have a kernel of their own, which has to give the bits of the other. */
static void check_long(const struct type *type, uint32_t n_rows, uint32_t n, uint32_t k)
{
    enum { FEW = 16 };
    struct matrix m = take_matrix(type, n, k);
    float *x = random_floats((size_t)n_rows * k, 5), *bias = random_floats(n, 7),
          *all = run_linear(&m, x, bias, n_rows);
    for (uint32_t r = 0; r < n_rows; r += FEW) {
        const uint32_t count = min_u32(FEW, n_rows - r);
        float *few = run_linear(&m, x + (size_t)r * k, bias, count);
        for (uint32_t i = 0; i < count * n; i++)
            if (memcmp(&few[i], &all[(size_t)r * n + i], sizeof *few) != 0)
                fail_msg("%s [%u x %u], row %u of %u, column %u: %a, with few rows %a",
                         dtype_info(type->dtype)->name, n, k, r + i / n, n_rows, i % n,
                         (double)all[(size_t)r * n + i], (double)few[i]);
        free(few);
    }
    free(x);
    free(bias);
    free(all);
    free_matrix(&m);
}

static void long_prompts_have_the_bits_of_short_calls(void **state)
{
    (void)state;
    static const struct type floats = {DTYPE_F32, -1, -1, false, FRAGMENT_BF16};
    static const uint32_t shapes[][3] = {
        /* rows, columns, k; records: more and fewer than the pipeline has, than turns */
        {65, 9, 31},
        {70, 1, 70},
        {300, 33, 293},
        {257, 137, 129},
        {129, 260, 65}};
    bool is_done[N_FRAGMENT_FORMS] = {false};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_long(&floats, shapes[i][0], shapes[i][1], shapes[i][2]);
    for (size_t t = 0; t < N_TYPES; t++) {
        const uint32_t elements = dtype_info(types[t].dtype)->block_elements;
        if (is_done[types[t].form])
            continue;
        is_done[types[t].form] = true;
        check_long(&types[t], 66, 35, elements);
        check_long(&types[t], 131, 7, (1152 / elements + 1) * elements);
        check_long(&types[t], 81, 131, (300 / elements + 1) * elements);
    }
}

/* The second device has the memory for larger tiles. */
static void large_tiles_have_the_same_bits(void **state)
{
    (void)state;
    static const struct type floats = {DTYPE_F32, -1, -1, false, FRAGMENT_BF16};
    struct gpu *first = gpu;
    assert_int_equal(gpu_open(1, &gpu, &err), SERVERD_OK);
    check_long(&floats, 131, 263, 293);
    check_long(&floats, 66, 9, 40);
    gpu_close(gpu);
    gpu = first;
}

/* Recorded, not run: the emulation refuses launches that no device would take. */
static void the_largest_layers_are_launches_that_a_device_takes(void **state)
{
    (void)state;
    assert_true(gpu_record_begin(gpu));
    for (int form = 0; form < N_FRAGMENT_FORMS; form++)
        gpu_linear(gpu, NULL, NULL, (enum fragment_form)form, NULL, 16384, 152064, 8192, NULL);
    gpu_rows_to_fragments(gpu, NULL, 16384, 8192, NULL);
    struct gpu_graph *graph = gpu_record_end(gpu);
    assert_non_null(graph);
    gpu_graph_free(gpu, graph);
}

/* ---- 8-bit floats ---------------------------------------------------------------------------- */

/* All codes, small ones and signs too, of scales that are powers of two; column c has those of
 * group c first. */
enum { N_CODES = 256, F8_GROUP = 32, F8_COLUMNS = 9 };

static struct matrix take_all_codes(const struct type *type)
{
    struct matrix m = {.type = type, .n = F8_COLUMNS, .k = N_CODES};
    const size_t block_bytes = sizeof(float) + F8_GROUP, n_blocks = F8_COLUMNS * N_CODES / F8_GROUP;
    m.blocks = malloc(n_blocks * block_bytes);
    m.values = malloc(F8_COLUMNS * N_CODES * sizeof *m.values);
    assert_true(m.blocks && m.values);
    for (size_t b = 0; b < n_blocks; b++) {
        const float scale = ldexpf(b % 2 ? -1.0f : 1.0f, (int)(b % 5) - 3);
        memcpy(m.blocks + b * block_bytes, &scale, sizeof scale);
        for (size_t i = 0; i < F8_GROUP; i++) {
            const uint8_t code = (uint8_t)((b + b / (N_CODES / F8_GROUP)) * F8_GROUP + i);
            m.blocks[b * block_bytes + sizeof scale + i] = code;
            m.values[b * F8_GROUP + i] = scale * e4m3_to_f32(code);
        }
    }
    pack_matrix(&m, n_blocks / F8_COLUMNS * block_bytes);
    return m;
}

static void codes_of_f8_are_exact(void **state)
{
    (void)state;
    static const struct type f8 = OWN_TYPE(FORMAT_F8, 0, 0, -1, true, FRAGMENT_F8);
    struct matrix m = take_all_codes(&f8);
    float *x = calloc((size_t)N_CODES * N_CODES, sizeof *x);
    int32_t tokens[F8_COLUMNS];
    assert_non_null(x);
    for (int i = 0; i < N_CODES; i++) /* row i picks element i */
        x[i * N_CODES + i] = 1.0f;
    float *y = run_linear(&m, x, NULL, N_CODES);
    for (int i = 0; i < N_CODES * F8_COLUMNS; i++)
        assert_true(y[i] == m.values[i % F8_COLUMNS * N_CODES + i / F8_COLUMNS]);
    for (int c = 0; c < F8_COLUMNS; c++)
        tokens[c] = c;
    int32_t *there = on_device(tokens, sizeof tokens);
    const struct gpu_batch batch = {.n_rows = F8_COLUMNS, .token = there};
    const size_t bytes = (size_t)F8_COLUMNS * N_CODES * sizeof(float);
    float *out = gpu_allocate(gpu, bytes);
    gpu_embed(gpu, &batch, m.on_device, FRAGMENT_F8, F8_COLUMNS, GPU_INDEX_TOKEN, N_CODES, 1.0f,
              out);
    float *found = from_device(out, bytes);
    assert_memory_equal(found, m.values, bytes);
    free(found);
    free(y);
    free(x);
    gpu_free(gpu, out);
    gpu_free(gpu, there);
    free_matrix(&m);
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void tables_of_every_type_are_looked_up(void **state)
{
    (void)state;
    enum { N_TABLE = 19, N_ROWS = 5 };
    static const int32_t tokens[N_ROWS] = {0, 18, 7, 7, 11};
    int32_t *there = on_device(tokens, sizeof tokens);
    const struct gpu_batch batch = {.n_rows = N_ROWS, .token = there};
    for (size_t t = 0; t < N_TYPES; t++) {
        const uint32_t width = 3 * dtype_info(types[t].dtype)->block_elements;
        const bool is_exact = types[t].is_exact || types[t].form == FRAGMENT_BF16;
        struct matrix m = take_matrix(&types[t], N_TABLE, width);
        float *out = gpu_allocate(gpu, (size_t)N_ROWS * width * sizeof *out);
        gpu_embed(gpu, &batch, m.on_device, types[t].form, N_TABLE, GPU_INDEX_TOKEN, width, 0.5f,
                  out);
        float *found = from_device(out, (size_t)N_ROWS * width * sizeof *out);
        for (uint32_t i = 0; i < N_ROWS * width; i++) {
            const size_t at = (size_t)tokens[i / width] * width + i % width;
            const double expected = 0.5 * (double)m.values[at],
                         most = is_exact ? 0 : (double)m.most[at] * tolerance(&types[t]);
            if (!(fabs((double)found[i] - expected) <= most))
                fail_msg("%s: element %u is %a, expected %a", dtype_info(types[t].dtype)->name, i,
                         (double)found[i], expected);
        }
        gpu_free(gpu, out);
        free(found);
        free_matrix(&m);
    }
    gpu_free(gpu, there);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_layers_multiply_any_shape),
        cmocka_unit_test(linear_layers_multiply_every_type),
        cmocka_unit_test(long_prompts_have_the_bits_of_short_calls),
        cmocka_unit_test(large_tiles_have_the_same_bits),
        cmocka_unit_test(the_largest_layers_are_launches_that_a_device_takes),
        cmocka_unit_test(codes_of_f8_are_exact),
        cmocka_unit_test(tables_of_every_type_are_looked_up),
    };
    return cmocka_run_group_tests(tests, open_gpu, close_gpu);
}
