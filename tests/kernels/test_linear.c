/* Quantised rows and linear layers of every level: against plain double precision, and the levels
 * against each other, bit for bit. */
#include "levels.h"

#include "base/hash.h"
#include "base/numeric.h"
#include "program/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- quantising ------------------------------------------------------------------------------ */

enum { MAX_K = 1056, MAX_ROWS = 530 };

/* Rows of every kind in turn. */
static void fill_row(float *x, size_t k, size_t kind, uint64_t seed)
{
    fill(x, k, seed, 1.0f);
    switch (kind % 8) {
    case 1: /* one that stands out in each seventh block */
        for (size_t i = 5; i < k; i += 224)
            x[i] = i % 2 ? 3000.0f : -3000.0f;
        break;
    case 2:
        memset(x, 0, k * sizeof *x);
        break;
    case 3: /* too small for a scale, and just large enough */
        for (size_t i = 0; i < k; i++)
            x[i] *= i / 32 % 2 ? 1e-33f : 1e-28f;
        break;
    case 4: /* all of the same magnitude */
        for (size_t i = 0; i < k; i++)
            x[i] = i % 2 ? -1.0f : 1.0f;
        break;
    case 5:
        for (size_t i = 0; i < k; i++)
            x[i] *= 1e30f;
        break;
    case 6: /* some stand out at places that all rows share */
        for (size_t i = 77; i < k; i += 64)
            x[i] = 40.0f + random_float(seed + i, 10.0f);
        break;
    default:
        break;
    }
}

struct quantised {
    const struct cpu_kernels *kernels;
    struct cpu_rows rows;
    size_t n, k;
};

/* Memory that nobody has written yet is full of NaN and of indexes that are far too large. */
static struct quantised quantise(const struct cpu_kernels *kernels, const float *x, size_t n,
                                 size_t k, bool is_fine)
{
    size_t n_max = n + CPU_ROW_PADDING;
    struct quantised q = {.kernels = kernels, .n = n, .k = k};
    q.rows =
        (struct cpu_rows){.values = x,
                          .is_fine = is_fine,
                          .spans = take_filled(cpu_n_spans(k) * n_max * sizeof *q.rows.spans, 0xff),
                          .n_max = n_max};
    for (size_t row = 0; row < n; row++)
        kernels->quantise(x + row * k, k, &q.rows, row);
    return q;
}

static const struct cpu_span *span_of(const struct quantised *q, size_t row, size_t i)
{
    return q->rows.spans + i / CPU_SPAN * q->rows.n_max + row;
}

static bool is_wide(const struct quantised *q, size_t row, size_t i)
{
    return span_of(q, row, i)->wide_quads[i % CPU_SPAN / 32] == i % CPU_SPAN / 4;
}

/* The two bytes of a code; the high one of a code of one byte is 0. */
static void code_bytes(const struct quantised *q, size_t row, size_t i, int *high, int *low)
{
    const struct cpu_span *span = span_of(q, row, i);
    size_t at = i % CPU_SPAN;
    *high = is_wide(q, row, i) ? span->wide_high[at / 16][at % 4] : 0;
    *low = span->codes[at];
}

static int code_at(const struct quantised *q, size_t row, size_t i)
{
    int high, low;
    code_bytes(q, row, i, &high, &low);
    return CPU_HIGH_UNIT * high + low;
}

static float scale_of(const struct quantised *q, size_t row, size_t i)
{
    const struct cpu_span *span = span_of(q, row, i);
    return q->rows.is_fine ? span->block_scales[i % CPU_SPAN / 32] : span->scale;
}

/* What element i of a row stands for. */
static double value_of(const struct quantised *q, size_t row, size_t i)
{
    return (double)scale_of(q, row, i) * code_at(q, row, i);
}

static void assert_same_rows(const struct quantised *a, const struct quantised *b)
{
    for (size_t row = 0; row < a->n; row++)
        for (size_t i = 0; i < a->k; i++) {
            const struct cpu_span *s = span_of(a, row, i), *t = span_of(b, row, i);
            size_t block = i % CPU_SPAN / 32, half = i % CPU_SPAN / 16;
            if (code_at(a, row, i) != code_at(b, row, i) ||
                f32_bits(s->scale) != f32_bits(t->scale) ||
                f32_bits(scale_of(a, row, i)) != f32_bits(scale_of(b, row, i)) ||
                s->sums[block] != t->sums[block] || s->half_sums[half] != t->half_sums[half] ||
                s->wide_quads[block] != t->wide_quads[block])
                fail_msg("%s: element %zu of row %zu of %zu differs", b->kernels->name, i, row,
                         a->k);
        }
}

/* The greatest magnitude of the quad of element i. */
static float quad_magnitude(const float *x, size_t i)
{
    const float *quad = x + i / 4 * 4;
    return fmaxf(fmaxf(fabsf(quad[0]), fabsf(quad[1])), fmaxf(fabsf(quad[2]), fabsf(quad[3])));
}

/* The wide quad of each block is the greatest, but for the last bits; the high bytes of the half
 * that it does not lie in are 0. */
static void check_wide_quads(const float *x, const struct quantised *q, size_t row, size_t first)
{
    const struct cpu_span *span = span_of(q, row, first);
    size_t block = first % CPU_SPAN / 32, wide = span->wide_quads[block];
    assert_true(wide / 8 == block);
    float greatest = quad_magnitude(x, first / CPU_SPAN * CPU_SPAN + 4 * wide);
    for (size_t i = first; i < first + 32; i += 4)
        assert_true(quad_magnitude(x, i) <= greatest * (1 + 1e-6f));
    static const int8_t none[4];
    size_t other = 2 * block + (wide / 4 % 2 == 0);
    assert_memory_equal(span->wide_high[other], none, sizeof none);
}

/* The elements under one scale from `first` on. */
static void check_scaled(const float *x, const struct quantised *q, size_t row, size_t first,
                         size_t n)
{
    const struct cpu_span *span = span_of(q, row, first);
    const float got = scale_of(q, row, first);
    size_t end = min_size(first + n, q->k);
    assert_true(!q->rows.is_fine || span->scale == 1.0f);
    float most = 0.0f, rest = 0.0f;
    bool is_nan = false;
    for (size_t i = first; i < end; i++) {
        is_nan = is_nan || !isfinite(x[i]);
        most = fmaxf(most, fabsf(x[i]));
        if (!is_wide(q, row, i))
            rest = fmaxf(rest, fabsf(x[i]));
    }
    float scale = fmaxf(most / CPU_WIDE_CODE_MAX, rest / CPU_CODE_MAX);
    if (most < f32_from_bits(0x0c000000u))
        scale = 0.0f;
    assert_true(is_nan ? isnan(got) : got == scale);
    for (size_t i = first; i < end; i += 32)
        if (!is_nan)
            check_wide_quads(x, q, row, i);
    int sum = 0, half_sum = 0;
    for (size_t i = first; i < end; i++) {
        int high, low, code = code_at(q, row, i);
        code_bytes(q, row, i, &high, &low);
        assert_true(high >= -127 && low >= -127);
        if (is_wide(q, row, i))
            assert_true(low >= -CPU_HIGH_UNIT / 2 && low < CPU_HIGH_UNIT / 2);
        assert_true(abs(code) <= (is_wide(q, row, i) ? CPU_WIDE_CODE_MAX : CPU_CODE_MAX));
        if (is_nan)
            assert_int_equal(code, 0);
        else
            assert_true(fabs((double)x[i] - (double)scale * code) <=
                        (double)scale * 0.501 + fabs((double)x[i]) * 1e-6 + 1e-31);
        half_sum += code;
        if (i % 16 == 15) {
            assert_int_equal(half_sum, (int)span->half_sums[i % CPU_SPAN / 16]);
            sum += half_sum;
            half_sum = 0;
        }
        if (i % 32 == 31) {
            assert_int_equal(sum, (int)span->sums[i % CPU_SPAN / 32]);
            sum = 0;
        }
    }
}

/* Every level, coarse and fine, against the rules of cpu_kernels.h. */
static void check_rows(const float *x, size_t n, size_t k)
{
    for (int is_fine = 0; is_fine < 2; is_fine++) {
        struct quantised first = quantise(levels[0], x, n, k, is_fine);
        for (size_t level = 1; level < n_levels; level++) {
            struct quantised q = quantise(levels[level], x, n, k, is_fine);
            assert_same_rows(&first, &q);
            free(q.rows.spans);
        }
        for (size_t row = 0; row < n; row++)
            for (size_t i = 0, step = is_fine ? 32 : CPU_SPAN; i < k; i += step)
                check_scaled(x + row * k, &first, row, i, step);
        free(first.rows.spans);
    }
}

static void codes_are_the_nearest_and_their_sums_are_right(void **state)
{
    (void)state;
    enum { ROWS = 16 };
    static float x[ROWS * MAX_K];
    for (size_t k = 32; k <= 544; k += 32) {
        for (size_t row = 0; row < ROWS; row++)
            fill_row(x + row * k, k, row, row + k);
        check_rows(x, ROWS, k);
    }
}

static void the_greatest_quad_is_wide_wherever_it_stands(void **state)
{
    (void)state;
    enum { K = 352 };
    static float x[K];
    for (size_t i = 0; i < K; i++) {
        fill(x, K, i, 1.0f);
        x[i] = i % 2 ? -7.5f : 1e20f;
        check_rows(x, 1, K);
        for (size_t j = 0; j < K; j++) /* many that differ in their last bits */
            x[j] = f32_from_bits(f32_bits(1.0f) + (uint32_t)((i * 7 + j * 13) % 11));
        check_rows(x, 1, K);
    }
}

/* NaN or infinity spoils the scale of its span and nothing else. */
static void not_a_number_stays_in_its_span(void **state)
{
    (void)state;
    enum { K = 288, ROWS = 6 };
    static float x[ROWS * K];
    fill(x, ROWS * K, 1, 1.0f);
    x[5] = NAN;
    x[K + 200] = INFINITY;
    x[2 * K + 31] = -INFINITY;
    x[3 * K + 287] = NAN;
    for (size_t i = 0; i < 256; i += 32)
        x[4 * K + i] = -NAN; /* in every block of the span */
    for (size_t i = 0; i < K; i++)
        x[5 * K + i] = i % 32 == 3 ? 3.4e38f : -3.4e38f;
    check_rows(x, ROWS, K);
}

/* ---- linear layers --------------------------------------------------------------------------- */

/* Our own types: step of the group, f16 or f32 scales. */
#define OWN_TYPE(format, step, is_f32, second)                                                     \
    {                                                                                              \
        (format) | (step) << 8 | (is_f32) << 10, 0, (second)                                       \
    }
#define OWN(format, second)                                                                        \
    OWN_TYPE(format, 0, 0, second), OWN_TYPE(format, 1, 0, second),                                \
        OWN_TYPE(format, 2, 0, second), OWN_TYPE(format, 0, 1, 2 * (second)),                      \
        OWN_TYPE(format, 1, 1, 2 * (second)), OWN_TYPE(format, 2, 1, 2 * (second))

/* Where a block keeps f16 scales; -1: none. */
static const struct {
    serverd_dtype dtype;
    int scale, second;
} types[] = {
    {DTYPE_Q4_0, 0, -1},
    {DTYPE_Q4_1, 0, 2},
    {DTYPE_Q5_0, 0, -1},
    {DTYPE_Q5_1, 0, 2},
    {DTYPE_Q8_0, 0, -1},
    {DTYPE_IQ4_NL, 0, -1},
    {DTYPE_MXFP4, -1, -1},
    {DTYPE_IQ4_XS, 0, -1},
    {DTYPE_Q4_K, 0, 2},
    {DTYPE_Q5_K, 0, 2},
    {DTYPE_Q6_K, 208, -1},
    {DTYPE_Q2_K, 80, 82},
    {DTYPE_Q3_K, 108, -1},
    {DTYPE_F32, -1, -1},
    {DTYPE_F16, -1, -1},
    {DTYPE_BF16, -1, -1},
    OWN(FORMAT_I8S, -1),
    OWN(FORMAT_I8A, -1),
    OWN(FORMAT_I4S, -1),
    OWN(FORMAT_I4A, 2),
    OWN(FORMAT_I4Z, -1),
    OWN(FORMAT_NF4, -1),
    OWN_TYPE(FORMAT_F8, 0, 0, -1),
    OWN_TYPE(FORMAT_F8, 1, 0, -1),
    OWN_TYPE(FORMAT_F8, 2, 0, -1),
};
enum { N_TYPES = sizeof types / sizeof *types };

static void put_scale(size_t type, uint8_t *to, uint16_t half)
{
    float x = f16_to_f32(half);
    if (dtype_is_own(types[type].dtype) && dtype_has_f32_scales(types[type].dtype))
        memcpy(to, &x, sizeof x);
    else
        memcpy(to, &half, sizeof half);
}

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
            put_scale(type, block + types[type].scale, scales[kind % n_kinds]);
        if (types[type].second >= 0)
            put_scale(type, block + types[type].second, scales[kind / 8 % n_kinds]);
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

static struct cpu_linear linear_call(const struct cpu_kernels *kernels, const struct matrix *m,
                                     struct shape shape, const struct cpu_rows *x,
                                     const float *bias, float *out)
{
    return (struct cpu_linear){.form = m->form,
                               .weights = m->packed,
                               .column_bytes = packed_column_bytes(m->form, shape.k),
                               .n_out = shape.n_out,
                               .k = shape.k,
                               .x = x,
                               .n_rows = shape.rows,
                               .bias = bias,
                               .out = out,
                               .out_stride = shape.n_out,
                               .scratch = take_filled(kernels->linear_scratch(shape.k), 0xff)};
}

/* All column blocks, `chunk` at a time. */
static void multiply(const struct cpu_kernels *kernels, const struct matrix *m, struct shape shape,
                     const struct cpu_rows *x, const float *bias, size_t chunk, float *out)
{
    size_t n_blocks = (shape.n_out + PACKED_COLUMNS - 1) / PACKED_COLUMNS;
    struct cpu_linear call = linear_call(kernels, m, shape, x, bias, out);
    for (size_t b = 0; b < n_blocks; b += chunk) {
        call.first_block = b;
        call.n_blocks = min_size(chunk, n_blocks - b);
        call.weights = m->packed + b * call.column_bytes;
        kernels->linear(&call);
    }
    free(call.scratch);
}

/* What a layer of plain numbers takes for a number: with bf16 weights, the nearest bf16. */
static double float_of(const struct matrix *m, float x)
{
    return m->form->codes == CODES_BF16 ? (double)bf16_to_f32(f32_to_bf16(x)) : (double)x;
}

/* Every output against the float64 dot product of the dequantised weights and the codes, as long as
 * the sums of a span, before its scale, stay in the range of f32: weights above 2^90 may not. */
static void check_product(const struct matrix *m, struct shape shape, const struct quantised *q,
                          const float *bias, const float *out)
{
    double *x = take(shape.k * sizeof *x);
    for (size_t r = 0; r < shape.rows; r++) {
        for (size_t i = 0; i < shape.k; i++)
            x[i] = packed_is_float(m->form) ? float_of(m, q->rows.values[r * shape.k + i])
                                            : value_of(q, r, i);
        for (size_t c = 0; c < shape.n_out; c++) {
            double sum = (double)bias[c], size = fabs(sum), in_codes = 0.0;
            for (size_t i = 0; i < shape.k; i++) {
                double w = (double)m->values[c * shape.k + i], product = x[i] * w;
                sum += product;
                size += fabs(product);
                if (!packed_is_float(m->form))
                    in_codes += fabs(code_at(q, r, i) * w);
            }
            double got = (double)out[r * shape.n_out + c];
            /* codes and zero point are multiplied apart: each may be greater than the weight */
            double most = m->form->scales >= SCALES_ZEROS ? 3e-5 * size : 3e-6 * size;
            if (!(fabs(sum - got) <= most + 1e-30) && size < 1e38 && in_codes < 1e38)
                fail_msg("%s: row %zu of %zu, column %zu, k %zu, fine %d: %g, expected %g of %g",
                         m->form->name, r, shape.rows, c, shape.k, q->rows.is_fine, got, sum, size);
        }
    }
    free(x);
}

/* The sum with other rows is that of an addition behind. */
static void check_addition(const struct matrix *m, struct shape shape, const struct quantised *q,
                           const float *bias)
{
    size_t n = shape.rows * shape.n_out;
    float *added = take(n * sizeof *added), *sum = take(n * sizeof *sum);
    float *alone = take(n * sizeof *alone);
    fill(added, n, n, 1.0f);
    multiply(q->kernels, m, shape, &q->rows, bias, 4, alone);
    struct cpu_linear call = linear_call(q->kernels, m, shape, &q->rows, bias, sum);
    call.added = added;
    call.n_blocks = (shape.n_out + PACKED_COLUMNS - 1) / PACKED_COLUMNS;
    q->kernels->linear(&call);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(f32_bits(alone[i] + added[i]), f32_bits(sum[i]));
    free(call.scratch);
    free(added);
    free(alone);
    free(sum);
}

static void check_shape(size_t type, struct shape shape, bool is_fine, uint64_t seed)
{
    struct matrix m = take_matrix(type, shape.n_out, shape.k, seed);
    float *x = take(shape.rows * shape.k * sizeof *x), *bias = take(shape.n_out * sizeof *bias);
    size_t out_bytes = shape.rows * shape.n_out * sizeof(float);
    float *first = take(out_bytes), *out = take(out_bytes);
    for (size_t r = 0; r < shape.rows; r++)
        fill_row(x + r * shape.k, shape.k, seed % 3 == 0 ? 6 * (r % 2) : r, seed + r);
    fill(bias, shape.n_out, seed, 1.0f);
    for (size_t level = 0; level < n_levels; level++) {
        struct quantised q = quantise(levels[level], x, shape.rows, shape.k, is_fine);
        multiply(levels[level], &m, shape, &q.rows, bias, 1 + seed % 6, level == 0 ? first : out);
        if (level == 0)
            check_product(&m, shape, &q, bias, first);
        else if (memcmp(first, out, out_bytes) != 0)
            fail_msg("%s: %s differs for %zu rows, %zu columns, k %zu, fine %d", m.form->name,
                     levels[level]->name, shape.rows, shape.n_out, shape.k, is_fine);
        check_addition(&m, shape, &q, seed % 2 ? bias : NULL);
        free(q.rows.spans);
    }
    free_matrix(&m);
    free(x);
    free(bias);
    free(first);
    free(out);
}

/* A k of the type's blocks that is about 32 * n, at most MAX_K. */
static size_t some_k(size_t type, size_t n)
{
    size_t block = dtype_info(types[type].dtype)->block_elements;
    return block <= 32 ? 32 * n : block * (1 + (n - 1) % (MAX_K / block));
}

static bool is_large(size_t type)
{
    return dtype_info(types[type].dtype)->block_elements >= 128;
}

static void linear_layers_are_right_for_every_type_and_tail(void **state)
{
    (void)state;
    static const size_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 33, 64};
    static const size_t outs[] = {16, 1, 33, 64, 87}, blocks[] = {1, 2, 7, 9, 33};
    uint64_t seed = 1;
    for (size_t type = 0; type < N_TYPES; type++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++, seed++) {
            size_t k = some_k(type, blocks[seed % 5]);
            struct shape shape = {outs[(seed + r) % 5], k, rows[r]};
            check_shape(type, shape, false, seed);
            if (!packed_is_float(packed_form(types[type].dtype)))
                check_shape(type, shape, true, seed);
        }
}

/* Weights that are numbers are in no blocks: k ends anywhere, also on both sides of a run of pairs
 * (linear_floats.h), and rows behind a tile. */
static void layers_of_numbers_end_anywhere(void **state)
{
    (void)state;
    enum { MAX_OUT = 40 };
    static const size_t ks[] = {1, 2, 15, 17, 31, 126, 127, 128, 129, 130, 255, 256, 257, 385};
    static const size_t rows[] = {1, 4, 12, 17, 48, 61};
    static float x[61 * 385], first[61 * MAX_OUT], out[61 * MAX_OUT], bias[MAX_OUT];
    uint64_t seed = 1;
    for (size_t type = 0; type < N_TYPES; type++) {
        if (dtype_info(types[type].dtype)->block_elements != 1)
            continue;
        for (size_t i = 0; i < sizeof ks / sizeof *ks; i++)
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++, seed++) {
                struct shape shape = {seed % 2 ? MAX_OUT : 32, ks[i], rows[r]};
                struct matrix m = take_matrix(type, shape.n_out, shape.k, seed);
                fill(x, shape.rows * shape.k, seed, 1.0f);
                fill(bias, shape.n_out, seed, 1.0f);
                struct quantised q = {.rows = {.values = x}, .n = shape.rows, .k = shape.k};
                for (size_t level = 0; level < n_levels; level++) {
                    float *to = level == 0 ? first : out;
                    multiply(levels[level], &m, shape, &q.rows, bias, 1 + seed % 3, to);
                    if (level == 0)
                        check_product(&m, shape, &q, bias, first);
                    else if (memcmp(first, out, shape.rows * shape.n_out * sizeof *out) != 0)
                        fail_msg("%s: %s differs for %zu rows, k %zu", m.form->name,
                                 levels[level]->name, shape.rows, shape.k);
                }
                free_matrix(&m);
            }
    }
}

static void sums_are_right_past_the_rows_that_are_kept_at_a_time(void **state)
{
    (void)state;
    check_shape(1, (struct shape){70, 320, MAX_ROWS}, false, 4);
    check_shape(10, (struct shape){20, 512, MAX_ROWS}, false, 5);
    check_shape(4, (struct shape){20, 288, MAX_ROWS}, true, 7);
}

/* An element that stands out anywhere meets the weights of its place. */
static void every_element_can_be_the_one_that_stands_out(void **state)
{
    (void)state;
    enum { ROWS = 5, OUT = 19 };
    static float x[ROWS * MAX_K], first[ROWS * OUT], out[ROWS * OUT], bias[OUT];
    for (size_t type = 0; type < N_TYPES; type++) {
        size_t k = some_k(type, is_large(type) ? 2 : 9);
        struct shape few = {OUT, k, 1}, many = {OUT, k, ROWS};
        struct matrix m = take_matrix(type, OUT, k, 1);
        for (size_t i = 0; i < k && !packed_is_float(m.form); i++) {
            fill(x, ROWS * k, i, 0.01f);
            for (size_t r = 0; r < ROWS; r++)
                x[r * k + (i + (i % 2 ? r : 0)) % k] = 50.0f;
            for (size_t level = 0; level < n_levels; level++) {
                struct quantised q = quantise(levels[level], x, ROWS, k, false);
                float *to = level == 0 ? first : out;
                multiply(levels[level], &m, many, &q.rows, bias, 2, to);
                if (level == 0)
                    check_product(&m, many, &q, bias, first);
                assert_memory_equal(first, to, sizeof first);
                multiply(levels[level], &m, few, &q.rows, bias, 2, out);
                assert_memory_equal(first, out, OUT * sizeof *out);
                free(q.rows.spans);
            }
        }
        free_matrix(&m);
    }
}

/* Rows `from` .. `from + n - 1` as rows of their own. */
static struct cpu_rows some_rows(const struct quantised *q, size_t from)
{
    struct cpu_rows rows = q->rows;
    rows.values += from * q->k;
    rows.spans += from;
    return rows;
}

/* The sums of a row are the same alone and with any others, and in any chunks of columns. */
static void check_company(const struct quantised *q, const struct matrix *m, size_t n_out)
{
    static const size_t sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 11};
    float *all = take(q->n * n_out * sizeof *all), *some = take(q->n * n_out * sizeof *some);
    multiply(q->kernels, m, (struct shape){n_out, q->k, q->n}, &q->rows, NULL, 5, all);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t row = 0; row + sizes[s] <= q->n; row += sizes[s]) {
            struct cpu_rows rows = some_rows(q, row);
            multiply(q->kernels, m, (struct shape){n_out, q->k, sizes[s]}, &rows, NULL, 1 + s % 3,
                     some);
            if (memcmp(some, all + row * n_out, sizes[s] * n_out * sizeof *some) != 0)
                fail_msg("%s: %s differs for rows %zu..%zu, fine %d", m->form->name,
                         q->kernels->name, row, row + sizes[s] - 1, rows.is_fine);
        }
    free(all);
    free(some);
}

static void a_row_has_the_same_bits_in_any_company(void **state)
{
    (void)state;
    enum { K = 768, OUT = 72, ROWS = 20 };
    static float x[ROWS * K];
    for (size_t r = 0; r < ROWS; r++)
        fill_row(x + r * K, K, r, r);
    for (size_t type = 0; type < N_TYPES; type++) {
        struct matrix m = take_matrix(type, OUT, K, 2);
        for (size_t level = 0; level < n_levels; level++)
            for (int is_fine = 0; is_fine < 2; is_fine++) {
                struct quantised q = quantise(levels[level], x, ROWS, K, is_fine);
                check_company(&q, &m, OUT);
                free(q.rows.spans);
            }
        free_matrix(&m);
    }
}

static void not_a_number_stays_in_its_row(void **state)
{
    (void)state;
    enum { K = 256, OUT = 20, ROWS = 9 };
    static float x[ROWS * K], out[ROWS * OUT];
    fill(x, ROWS * K, 3, 1.0f);
    x[3 * K + 70] = NAN;
    x[6 * K + 200] = INFINITY;
    for (size_t type = 0; type < N_TYPES; type++) {
        struct matrix m = take_matrix(type, OUT, K, 1);
        for (size_t level = 0; level < n_levels; level++)
            for (int is_fine = 0; is_fine < 2; is_fine++) {
                struct quantised q = quantise(levels[level], x, ROWS, K, is_fine);
                multiply(levels[level], &m, (struct shape){OUT, K, ROWS}, &q.rows, NULL, 2, out);
                for (size_t i = 0; i < ROWS * OUT; i++)
                    assert_int_equal(isfinite(out[i]) != 0, i / OUT != 3 && i / OUT != 6);
                free(q.rows.spans);
            }
        free_matrix(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_the_nearest_and_their_sums_are_right),
        cmocka_unit_test(the_greatest_quad_is_wide_wherever_it_stands),
        cmocka_unit_test(not_a_number_stays_in_its_span),
        cmocka_unit_test(linear_layers_are_right_for_every_type_and_tail),
        cmocka_unit_test(layers_of_numbers_end_anywhere),
        cmocka_unit_test(sums_are_right_past_the_rows_that_are_kept_at_a_time),
        cmocka_unit_test(every_element_can_be_the_one_that_stands_out),
        cmocka_unit_test(a_row_has_the_same_bits_in_any_company),
        cmocka_unit_test(not_a_number_stays_in_its_row),
    };
    return cmocka_run_group_tests(tests, find_levels, NULL);
}
