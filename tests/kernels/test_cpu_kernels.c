/* The arithmetic of every level against plain double precision, and the levels against each other.
 */
#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"
#include "program/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_LEVELS = 5 };

static const struct cpu_kernels *levels[MAX_LEVELS];
static size_t n_levels;

static int find_levels(void **state)
{
    static const char *const names[MAX_LEVELS] = {"generic", "avx2", "avxvnni", "avx512", "amx"};
    (void)state;
    for (size_t i = 0; i < MAX_LEVELS; i++)
        if ((levels[n_levels] = cpu_kernels_named(names[i])))
            n_levels++;
    return n_levels > 0 ? 0 : -1;
}

static float random_float(uint64_t i, float spread)
{
    return ((float)(hash_mix(i) >> 40) * 0x1p-24f - 0.5f) * 2.0f * spread;
}

static void fill(float *x, size_t n, uint64_t seed, float spread)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_float(seed * 100003 + i, spread);
}

static void *take(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    assert_non_null(p);
    memset(p, 0, (bytes + 127) / 64 * 64);
    return p;
}

/* ---- quantising ------------------------------------------------------------------------------ */

enum { MAX_K = 1056, MAX_ROWS = 261 };

/* Rows of every kind in turn. */
static void fill_row(float *x, size_t k, size_t kind, uint64_t seed)
{
    fill(x, k, seed, 1.0f);
    switch (kind % 8) {
    case 1: /* an outlier in each seventh block */
        for (size_t i = 5; i < k; i += 224)
            x[i] = 3000.0f;
        break;
    case 2:
        memset(x, 0, k * sizeof *x);
        break;
    case 3: /* too small for a scale, and just large enough */
        for (size_t i = 0; i < k; i++)
            x[i] *= i / 32 % 2 ? 1e-33f : 1e-28f;
        break;
    case 4:
        for (size_t i = 0; i < k; i++)
            x[i] = i % 2 ? -1.0f : 1.0f;
        break;
    case 5:
        for (size_t i = 0; i < k; i++)
            x[i] *= 1e30f;
        break;
    default:
        break;
    }
}

struct quantised {
    struct cpu_rows rows;
    size_t n, k;
};

static struct quantised take_rows(size_t n, size_t k)
{
    size_t m = n + CPU_ROW_PADDING;
    return (struct quantised){.rows = {.codes = take(m * k * 2),
                                       .scales = take(m * k / 8),
                                       .scaled_sums = take(m * k / 8),
                                       .minus_sums = take(m * k / 4)},
                              .n = n,
                              .k = k};
}

static void free_rows(struct quantised *q)
{
    free(q->rows.codes);
    free(q->rows.scales);
    free(q->rows.scaled_sums);
    free(q->rows.minus_sums);
}

static void quantise(const struct cpu_kernels *kernels, const float *x, struct quantised *q)
{
    q->rows.values = x;
    for (size_t r = 0; r < q->n; r++)
        kernels->quantise(x + r * q->k, q->k, q->rows.codes + r * q->k * 2,
                          q->rows.scales + r * q->k / 32, q->rows.scaled_sums + r * q->k / 32,
                          q->rows.minus_sums + r * q->k / 16);
}

static int code_at(const struct quantised *q, size_t row, size_t i)
{
    const int8_t *c = q->rows.codes + row * q->k * 2 + i / 16 * 32 + i % 16;
    return CPU_HIGH_UNIT * c[0] + c[16];
}

static void codes_are_the_nearest_and_their_sums_are_right(void **state)
{
    (void)state;
    enum { K = 448, ROWS = 16 };
    static float x[ROWS * K];
    for (size_t r = 0; r < ROWS; r++)
        fill_row(x + r * K, K, r, r);
    struct quantised first = take_rows(ROWS, K), q = take_rows(ROWS, K);
    for (size_t level = 0; level < n_levels; level++) {
        quantise(levels[level], x, level == 0 ? &first : &q);
        if (level == 0)
            continue;
        assert_memory_equal(first.rows.codes, q.rows.codes, sizeof x / 2);
        assert_memory_equal(first.rows.scales, q.rows.scales, sizeof x / 32);
        assert_memory_equal(first.rows.scaled_sums, q.rows.scaled_sums, sizeof x / 32);
        assert_memory_equal(first.rows.minus_sums, q.rows.minus_sums, sizeof x / 16);
    }
    for (size_t r = 0; r < ROWS; r++)
        for (size_t half = 0; half < K / 16; half++) {
            double scale = (double)first.rows.scales[r * K / 32 + half / 2];
            int sum = 0;
            for (size_t i = half * 16; i < half * 16 + 16; i++) {
                double value = (double)x[r * K + i];
                int code = code_at(&first, r, i);
                sum += code;
                assert_true(abs(code) <= CPU_CODE_MAX);
                assert_true(fabs(value - scale * code) <= scale * 0.501 + 1e-31);
            }
            assert_int_equal(-sum, first.rows.minus_sums[r * K / 16 + half]);
        }
    free_rows(&first);
    free_rows(&q);
}

/* ---- linear layers --------------------------------------------------------------------------- */

/* Where a block keeps f16 scales; -1: none. */
static const struct {
    serverd_dtype dtype;
    int scale, second;
} types[] = {
    {DTYPE_Q4_0, 0, -1},   {DTYPE_Q4_1, 0, 2},    {DTYPE_Q5_0, 0, -1},   {DTYPE_Q5_1, 0, 2},
    {DTYPE_Q8_0, 0, -1},   {DTYPE_IQ4_NL, 0, -1}, {DTYPE_MXFP4, -1, -1}, {DTYPE_IQ4_XS, 0, -1},
    {DTYPE_Q4_K, 0, 2},    {DTYPE_Q5_K, 0, 2},    {DTYPE_Q6_K, 208, -1}, {DTYPE_Q2_K, 80, 82},
    {DTYPE_Q3_K, 108, -1}, {DTYPE_F32, -1, -1},   {DTYPE_F16, -1, -1},   {DTYPE_BF16, -1, -1},
};
enum { N_TYPES = sizeof types / sizeof *types };

/* Random bytes with scales of every kind: usual, 0, denormal, the largest, negative. */
static void fill_blocks(size_t type, uint8_t *blocks, size_t n_blocks, uint64_t seed)
{
    static const uint16_t scales[] = {0x2e66, 0x1234, 0x0000, 0x0001,
                                      0x03ff, 0x7bff, 0xae66, 0x3c00};
    const struct dtype_info *info = dtype_info(types[type].dtype);
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = blocks + b * info->block_bytes;
        for (size_t i = 0; i < info->block_bytes; i++)
            block[i] = (uint8_t)(hash_mix(seed * 7919 + b * 997 + i) >> 30);
        uint64_t kind = hash_mix(seed + b);
        /* the largest scales would hide the others of their row */
        size_t n_kinds = seed % 3 == 0 ? 8 : 5;
        if (types[type].scale >= 0)
            memcpy(block + types[type].scale, &scales[kind % n_kinds], 2);
        if (types[type].second >= 0)
            memcpy(block + types[type].second, &scales[kind / 8 % n_kinds], 2);
        if (types[type].dtype == DTYPE_MXFP4)
            block[0] = seed % 3 == 0 ? (uint8_t)(kind % 250) : (uint8_t)(110 + kind % 16);
        float x = random_float(seed + b, 1.0f);
        uint16_t half = types[type].dtype == DTYPE_F16 ? f32_to_f16(x) : f32_to_bf16(x);
        if (types[type].dtype == DTYPE_F32)
            memcpy(block, &x, sizeof x);
        else if (info->block_elements == 1)
            memcpy(block, &half, sizeof half);
    }
}

struct shape {
    size_t n_out, k, rows;
};

struct matrix {
    serverd_tensor tensor;
    const struct packed_form *form;
    uint8_t *blocks, *packed;
    float *values; /* [n_out][k] */
};

static struct matrix take_matrix(size_t type, size_t n_out, size_t k, uint64_t seed)
{
    const struct dtype_info *info = dtype_info(types[type].dtype);
    struct matrix m = {.form = packed_form(types[type].dtype)};
    size_t n_blocks = n_out * k / info->block_elements, bytes;
    m.blocks = take(n_blocks * info->block_bytes);
    m.values = take(n_out * k * sizeof(float));
    fill_blocks(type, m.blocks, n_blocks, seed);
    info->to_f32(m.blocks, m.values, n_blocks);
    m.tensor = (serverd_tensor){.dtype = types[type].dtype, .rank = 2, .data = m.blocks};
    m.tensor.dims[0] = (uint32_t)n_out;
    m.tensor.dims[1] = (uint32_t)k;
    assert_true(packed_bytes(m.form, n_out, k, &bytes));
    m.packed = take(bytes);
    packed_write(&m.tensor, 0, n_out, m.packed);
    return m;
}

static void free_matrix(struct matrix *m)
{
    free(m->blocks);
    free(m->packed);
    free(m->values);
}

/* All column blocks, `chunk` at a time. */
static void multiply(const struct cpu_kernels *kernels, const struct matrix *m, struct shape shape,
                     const struct cpu_rows *x, const float *bias, size_t chunk, float *out)
{
    size_t n_blocks = (shape.n_out + PACKED_COLUMNS - 1) / PACKED_COLUMNS;
    struct cpu_linear call = {.form = m->form,
                              .column_bytes = packed_column_bytes(m->form, shape.k),
                              .n_out = shape.n_out,
                              .k = shape.k,
                              .x = x,
                              .n_rows = shape.rows,
                              .bias = bias,
                              .out = out,
                              .out_stride = shape.n_out,
                              .scratch = take(kernels->linear_scratch(shape.k))};
    for (size_t b = 0; b < n_blocks; b += chunk) {
        call.first_block = b;
        call.n_blocks = min_size(chunk, n_blocks - b);
        call.weights = m->packed + b * call.column_bytes;
        kernels->linear(&call);
    }
    free(call.scratch);
}

/* Every output against the float64 dot product of the dequantised weights and the codes. */
static void check_product(const struct matrix *m, struct shape shape, const struct quantised *q,
                          const float *bias, const float *out)
{
    for (size_t r = 0; r < shape.rows; r++)
        for (size_t c = 0; c < shape.n_out; c++) {
            double sum = (double)bias[c], size = fabs(sum);
            for (size_t i = 0; i < shape.k; i++) {
                double x = packed_is_float(m->form)
                               ? (double)q->rows.values[r * shape.k + i]
                               : (double)q->rows.scales[(r * shape.k + i) / 32] * code_at(q, r, i);
                double product = x * (double)m->values[c * shape.k + i];
                sum += product;
                size += fabs(product);
            }
            double got = (double)out[r * shape.n_out + c];
            if (!(fabs(sum - got) <= 3e-6 * size + 1e-30) && size < 1e38)
                fail_msg("%s: row %zu of %zu, column %zu, k %zu: %g, expected %g of %g",
                         m->form->name, r, shape.rows, c, shape.k, got, sum, size);
        }
}

static void check_shape(size_t type, struct shape shape, uint64_t seed)
{
    struct matrix m = take_matrix(type, shape.n_out, shape.k, seed);
    struct quantised q = take_rows(shape.rows, shape.k);
    float *x = take(shape.rows * shape.k * sizeof *x), *bias = take(shape.n_out * sizeof *bias);
    size_t out_bytes = shape.rows * shape.n_out * sizeof(float);
    float *first = take(out_bytes), *out = take(out_bytes);
    for (size_t r = 0; r < shape.rows; r++)
        fill_row(x + r * shape.k, shape.k, seed % 3 == 0 ? 0 : r, seed + r);
    fill(bias, shape.n_out, seed, 1.0f);
    quantise(levels[0], x, &q);
    for (size_t level = 0; level < n_levels; level++) {
        multiply(levels[level], &m, shape, &q.rows, bias, 1 + seed % 6, level == 0 ? first : out);
        if (level == 0)
            check_product(&m, shape, &q, bias, first);
        else if (memcmp(first, out, out_bytes) != 0)
            fail_msg("%s: %s differs for %zu rows, %zu columns, k %zu", m.form->name,
                     levels[level]->name, shape.rows, shape.n_out, shape.k);
    }
    free_matrix(&m);
    free_rows(&q);
    free(x);
    free(bias);
    free(first);
    free(out);
}

static void linear_layers_are_right_for_every_type_and_tail(void **state)
{
    (void)state;
    static const size_t rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33};
    static const size_t outs[] = {16, 1, 33, 64, 87}, blocks[] = {1, 2, 7, 9, 33};
    uint64_t seed = 1;
    for (size_t type = 0; type < N_TYPES; type++) {
        bool is_super = dtype_info(types[type].dtype)->block_elements == 256;
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++, seed++) {
            size_t k = is_super ? 256 * (1 + seed % 4) : 32 * blocks[seed % 5];
            check_shape(type, (struct shape){outs[(seed + r) % 5], k, rows[r]}, seed);
        }
    }
    check_shape(1, (struct shape){70, 320, MAX_ROWS}, 4); /* past the rows whose sums are kept */
    check_shape(10, (struct shape){20, 512, MAX_ROWS}, 5);
}

/* The sums of a row are the same alone and with any others, and in any chunks of columns. */
static void a_row_has_the_same_bits_in_any_company(void **state)
{
    (void)state;
    enum { K = 768, OUT = 72, ROWS = 20 };
    static float x[ROWS * K], all[ROWS * OUT], one[OUT];
    for (size_t r = 0; r < ROWS; r++)
        fill_row(x + r * K, K, r, r);
    for (size_t type = 0; type < N_TYPES; type++)
        for (size_t level = 0; level < n_levels; level++) {
            struct matrix m = take_matrix(type, OUT, K, 2);
            struct quantised q = take_rows(ROWS, K);
            quantise(levels[level], x, &q);
            multiply(levels[level], &m, (struct shape){OUT, K, ROWS}, &q.rows, NULL, 5, all);
            for (size_t r = 0; r < ROWS; r++) {
                struct cpu_rows row = {.values = x + r * K,
                                       .codes = q.rows.codes + r * K * 2,
                                       .scales = q.rows.scales + r * K / 32,
                                       .scaled_sums = q.rows.scaled_sums + r * K / 32,
                                       .minus_sums = q.rows.minus_sums + r * K / 16};
                multiply(levels[level], &m, (struct shape){OUT, K, 1}, &row, NULL, 2, one);
                assert_memory_equal(one, all + r * OUT, sizeof one);
            }
            free_matrix(&m);
            free_rows(&q);
        }
}

static void not_a_number_stays_in_its_row(void **state)
{
    (void)state;
    enum { K = 256, OUT = 20, ROWS = 9 };
    static float x[ROWS * K], out[ROWS * OUT];
    for (size_t type = 0; type < N_TYPES; type++)
        for (size_t level = 0; level < n_levels; level++) {
            struct matrix m = take_matrix(type, OUT, K, 1);
            struct quantised q = take_rows(ROWS, K);
            fill(x, ROWS * K, 3, 1.0f);
            x[3 * K + 70] = NAN;
            x[6 * K + 200] = INFINITY;
            quantise(levels[level], x, &q);
            multiply(levels[level], &m, (struct shape){OUT, K, ROWS}, &q.rows, NULL, 2, out);
            for (size_t i = 0; i < ROWS * OUT; i++)
                assert_int_equal(isfinite(out[i]) != 0, i / OUT != 3 && i / OUT != 6);
            free_matrix(&m);
            free_rows(&q);
        }
}

/* ---- element by element ---------------------------------------------------------------------- */

static double exact_activation(uint32_t activation, double x)
{
    switch (activation) {
    case SERVERD_ACT_SILU:
        return x / (1.0 + exp(-x));
    case SERVERD_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case SERVERD_ACT_GELU_ERF:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case SERVERD_ACT_RELU:
        return x > 0.0 ? x : 0.0;
    case SERVERD_ACT_SIGMOID:
        return 1.0 / (1.0 + exp(-x));
    default:
        return tanh(x);
    }
}

static void activations_are_close_and_equal_on_all_levels(void **state)
{
    (void)state;
    static float x[20001], out[20001], first[20001];
    for (size_t i = 0; i < 20001; i++)
        x[i] = ((float)i - 10000.0f) * 0.01f;
    for (uint32_t activation = 0; activation <= SERVERD_ACT_TANH; activation++) {
        for (size_t level = 0; level < n_levels; level++) {
            levels[level]->activate(activation, x, out, 20001);
            for (size_t i = 0; i < 20001; i++) {
                double expected = exact_activation(activation, (double)x[i]);
                if (!(fabs(expected - (double)out[i]) <= 2e-6 * fmax(1.0, fabs(expected))))
                    fail_msg("activation %u of %g is %g, expected %g", activation, (double)x[i],
                             (double)out[i], expected);
            }
            if (level == 0)
                memcpy(first, out, sizeof out);
            assert_memory_equal(first, out, sizeof out);
        }
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

enum { MAX_DIM = 128, MAX_QUERIES = 40 };

/* One segment of keys and values in pages, and as numbers of the same precision. */
struct segment {
    serverd_dtype kv;
    size_t k_dim, v_dim;
    void *key_pages[CPU_SEGMENT_PAGES], *value_pages[CPU_SEGMENT_PAGES];
    float *keys, *values; /* [CPU_SEGMENT][dim] */
};

static float as_stored(serverd_dtype kv, float x)
{
    if (kv == DTYPE_F32)
        return x;
    return kv == DTYPE_F16 ? f16_to_f32(f32_to_f16(x)) : bf16_to_f32(f32_to_bf16(x));
}

/* Every level appends the same bits. */
static void check_appended(const struct segment *s, const float *k, const float *v, uint32_t token)
{
    size_t bytes = (s->k_dim + (s->v_dim + 15) / 16 * 16) * SERVERD_PAGE_TOKENS * 4;
    for (size_t level = 1; level < n_levels; level++) {
        uint8_t *first = take(bytes), *other = take(bytes);
        uint8_t *first_v = take(bytes), *other_v = take(bytes);
        uint32_t slot = token % SERVERD_PAGE_TOKENS;
        levels[0]->append(s->kv, k, s->k_dim, v, s->v_dim, first, first_v, slot);
        levels[level]->append(s->kv, k, s->k_dim, v, s->v_dim, other, other_v, slot);
        assert_memory_equal(first, other, bytes);
        assert_memory_equal(first_v, other_v, bytes);
        free(first);
        free(first_v);
        free(other);
        free(other_v);
    }
}

static struct segment take_segment(serverd_dtype kv, size_t k_dim, size_t v_dim, uint64_t seed)
{
    struct segment s = {.kv = kv, .k_dim = k_dim, .v_dim = v_dim};
    s.keys = take(CPU_SEGMENT * k_dim * sizeof(float));
    s.values = take(CPU_SEGMENT * v_dim * sizeof(float));
    fill(s.keys, CPU_SEGMENT * k_dim, seed, 1.0f);
    fill(s.values, CPU_SEGMENT * v_dim, seed + 1, 1.0f);
    for (size_t p = 0; p < CPU_SEGMENT_PAGES; p++) {
        s.key_pages[p] = take((k_dim + 1) / 2 * 2 * SERVERD_PAGE_TOKENS * 4);
        s.value_pages[p] = take((v_dim + 15) / 16 * 16 * SERVERD_PAGE_TOKENS * 4);
    }
    for (uint32_t t = 0; t < CPU_SEGMENT; t++)
        levels[0]->append(kv, s.keys + t * k_dim, k_dim, s.values + t * v_dim, v_dim,
                          s.key_pages[t / SERVERD_PAGE_TOKENS],
                          s.value_pages[t / SERVERD_PAGE_TOKENS], t % SERVERD_PAGE_TOKENS);
    for (uint32_t t = 0; t < 5; t++)
        check_appended(&s, s.keys + t * k_dim, s.values + t * v_dim, t);
    for (size_t i = 0; i < CPU_SEGMENT * k_dim; i++)
        s.keys[i] = as_stored(kv, s.keys[i]);
    for (size_t i = 0; i < CPU_SEGMENT * v_dim; i++)
        s.values[i] = as_stored(kv, s.values[i]);
    return s;
}

static void free_segment(struct segment *s)
{
    for (size_t p = 0; p < CPU_SEGMENT_PAGES; p++) {
        free(s->key_pages[p]);
        free(s->value_pages[p]);
    }
    free(s->keys);
    free(s->values);
}

struct attended {
    float max[MAX_QUERIES], sum[MAX_QUERIES];
    float *acc; /* [MAX_QUERIES][v_dim rounded up to 16] */
};

/* Two segments with the same keys and values, so that merging is run as well. */
static void attend_twice(const struct cpu_kernels *kernels, const struct segment *s,
                         const float *queries, size_t n, const uint32_t *begin, const uint32_t *end,
                         float cap, struct attended *out)
{
    for (size_t i = 0; i < n; i++) {
        out->max[i] = -INFINITY;
        out->sum[i] = 0.0f;
    }
    memset(out->acc, 0, n * ((s->v_dim + 15) / 16 * 16) * sizeof(float));
    struct cpu_attention call = {
        .kv = s->kv,
        .keys = (const void *const *)s->key_pages,
        .values = (const void *const *)s->value_pages,
        .k_dim = s->k_dim,
        .v_dim = s->v_dim,
        .scale = 0.21f,
        .cap = cap,
        .n_queries = n,
        .queries = queries,
        .begin = begin,
        .end = end,
        .max = out->max,
        .sum = out->sum,
        .acc = out->acc,
        .scratch = take(kernels->attention_scratch(n, s->k_dim, s->v_dim) * sizeof(float))};
    kernels->attend(&call);
    kernels->attend(&call);
    free(call.scratch);
}

/* Tiles round values and probabilities to bf16, but not scores. */
static bool is_tiled(const char *level, serverd_dtype kv)
{
    return strcmp(level, "amx") == 0 && kv != DTYPE_F32;
}

static void check_attention(const struct segment *s, const float *queries, size_t n,
                            const uint32_t *begin, const uint32_t *end, float cap,
                            const struct attended *out, const char *level)
{
    for (size_t i = 0; i < n; i++) {
        double total = 0.0, max = -INFINITY, acc[MAX_DIM] = {0};
        for (uint32_t t = begin[i]; t < end[i]; t++) {
            double score = 0.0;
            for (size_t d = 0; d < s->k_dim; d++)
                score += (double)queries[i * s->k_dim + d] * (double)s->keys[t * s->k_dim + d];
            score *= (double)0.21f;
            score = cap > 0.0f ? (double)cap * tanh(score / (double)cap) : score;
            max = fmax(max, score);
            double p = exp(score);
            total += p;
            for (size_t d = 0; d < s->v_dim; d++)
                acc[d] += p * (double)s->values[t * s->v_dim + d];
        }
        if (begin[i] == end[i]) {
            assert_true(out->sum[i] == 0.0f);
            continue;
        }
        assert_true(fabs(max - (double)out->max[i]) < 2e-4);
        for (size_t d = 0; d < s->v_dim; d++) {
            double expected = acc[d] / total;
            double got =
                (double)out->acc[i * ((s->v_dim + 15) / 16 * 16) + d] / (double)out->sum[i];
            if (!(fabs(got - expected) < (is_tiled(level, s->kv) ? 0x1p-8 : 4e-5)))
                fail_msg("%s, kv %u, %zu x %zu, query %zu of %zu, dimension %zu: %g, expected %g",
                         level, s->kv, s->k_dim, s->v_dim, i, n, d, got, expected);
        }
    }
}

static void attention_is_right_for_every_kind_of_store(void **state)
{
    (void)state;
    static const serverd_dtype kinds[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const size_t dims[][2] = {{64, 64}, {80, 80}, {128, 128}, {96, 32}, {5, 7}, {33, 16}};
    static const size_t counts[] = {1, 3, 8, 16, 21, MAX_QUERIES};
    static float queries[MAX_QUERIES * MAX_DIM];
    uint32_t begin[MAX_QUERIES], end[MAX_QUERIES];
    struct attended first = {.acc = take(MAX_QUERIES * MAX_DIM * sizeof(float))};
    struct attended out = {.acc = take(MAX_QUERIES * MAX_DIM * sizeof(float))};
    struct attended alone = {.acc = take(MAX_QUERIES * MAX_DIM * sizeof(float))};
    fill(queries, sizeof queries / sizeof *queries, 5, 2.0f);
    for (size_t i = 0; i < MAX_QUERIES; i++) {
        end[i] = 1 + (uint32_t)(hash_mix(i) % CPU_SEGMENT);
        begin[i] = i % 3 == 2 ? end[i] / 2 : 0;
        if (i % 10 == 4)
            begin[i] = end[i] = 0;
    }
    for (size_t c = 0; c < 3 * 6; c++) {
        struct segment s = take_segment(kinds[c % 3], dims[c / 3][0], dims[c / 3][1], c);
        size_t width = (s.v_dim + 15) / 16 * 16;
        for (size_t q = 0; q < 6; q++)
            for (size_t level = 0; level < n_levels; level++) {
                struct attended *to = level == 0 ? &first : &out;
                float cap = c % 2 ? 3.0f : 0.0f;
                attend_twice(levels[level], &s, queries, counts[q], begin, end, cap, to);
                check_attention(&s, queries, counts[q], begin, end, cap, to, levels[level]->name);
                if (level > 0 && !is_tiled(levels[level]->name, s.kv))
                    assert_memory_equal(first.acc, out.acc, counts[q] * width * sizeof(float));
                for (size_t i = 0; i < counts[q]; i++) { /* the same bits alone */
                    attend_twice(levels[level], &s, queries + i * s.k_dim, 1, begin + i, end + i,
                                 cap, &alone);
                    assert_memory_equal(alone.acc, to->acc + i * width, width * sizeof(float));
                    assert_memory_equal(alone.sum, to->sum + i, sizeof(float));
                }
            }
        free_segment(&s);
    }
    free(first.acc);
    free(out.acc);
    free(alone.acc);
}

static void sums_keep_nan_and_infinity(void **state)
{
    (void)state;
    float x[40] = {0}, out[40];
    x[37] = NAN;
    for (size_t level = 0; level < n_levels; level++) {
        assert_true(isnan(levels[level]->sum_of_squares(x, 40)));
        assert_true(isnan(levels[level]->sum(x, 40)));
        levels[level]->activate(SERVERD_ACT_SILU, x, out, 40);
        assert_true(isnan(out[37]) && out[36] == 0.0f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_the_nearest_and_their_sums_are_right),
        cmocka_unit_test(linear_layers_are_right_for_every_type_and_tail),
        cmocka_unit_test(a_row_has_the_same_bits_in_any_company),
        cmocka_unit_test(not_a_number_stays_in_its_row),
        cmocka_unit_test(activations_are_close_and_equal_on_all_levels),
        cmocka_unit_test(attention_is_right_for_every_kind_of_store),
        cmocka_unit_test(sums_keep_nan_and_infinity),
    };
    return cmocka_run_group_tests(tests, find_levels, NULL);
}
