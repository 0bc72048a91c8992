/* The codes, scales and zero points of other tools as blocks of our types. */
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "compiler/hf_quantised.h"
#include "program/dtype.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- what all conversions share -------------------------------------------------------------- */

enum { MAX_GROUP = 128, TILE = 64 /* columns that are converted together: words lie by rows */ };

static serverd_status fail_array(const struct hf_module *m, const struct hf_array *array,
                                 const char *what, serverd_error *err)
{
    return fail(err, SERVERD_CORRUPT, "%s: tensor %.200s: %s", m->path, array->tensor->name, what);
}

static serverd_status need_array(const struct hf_module *m, const struct hf_array *array,
                                 const char *name, serverd_error *err)
{
    return array->tensor ? SERVERD_OK
                         : fail(err, SERVERD_CORRUPT, "%s: tensor %.200s: it has no %s beside it",
                                m->path, m->codes.tensor->name, name);
}

static bool is_matrix(const struct hf_array *array, const char *dtype, uint64_t rows,
                      uint64_t columns)
{
    const struct safetensor *t = array->tensor;
    return t->rank == 2 && strcmp(t->dtype, dtype) == 0 && t->dims[0] == rows &&
           t->dims[1] == columns;
}

/* The largest of our groups that divides all of these; 0: none does. */
static uint32_t our_group(uint64_t a, uint64_t b)
{
    for (uint32_t group = MAX_GROUP; group >= 32; group /= 2)
        if (a % group == 0 && b % group == 0)
            return group;
    return 0;
}

static uint32_t word_at(const struct hf_array *array, size_t i)
{
    uint32_t word;
    memcpy(&word, (const char *)array->data + i * sizeof word, sizeof word);
    return word;
}

static float scale_at(const struct hf_array *array, size_t i)
{
    const char *at = array->data;
    uint16_t half;
    float wide;
    if (strcmp(array->tensor->dtype, "F32") == 0) {
        memcpy(&wide, at + i * sizeof wide, sizeof wide);
        return wide;
    }
    memcpy(&half, at + i * sizeof half, sizeof half);
    return strcmp(array->tensor->dtype, "F16") == 0 ? f16_to_f32(half) : bf16_to_f32(half);
}

static serverd_status check_scales(const struct hf_module *m, uint64_t n, serverd_error *err)
{
    const char *dtype = m->scales.tensor->dtype;
    if (strcmp(dtype, "F16") != 0 && strcmp(dtype, "BF16") != 0 && strcmp(dtype, "F32") != 0)
        return fail_array(m, &m->scales, "scales of F16, BF16 or F32 are needed", err);
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(scale_at(&m->scales, i)))
            return fail_array(m, &m->scales, "a scale is not finite", err);
    return SERVERD_OK;
}

/* Room for N rows of K in the type; its blocks. */
static serverd_status take_rows(const struct hf_module *m, uint32_t dtype, uint64_t n, uint64_t k,
                                struct arena *made, struct source_tensor *out, serverd_error *err)
{
    uint64_t row_bytes;
    if (n == 0 || k == 0)
        return fail_array(m, &m->codes, "it is empty", err);
    void *data = dtype_row_bytes(dtype, k, &row_bytes) ? arena_array(made, n, row_bytes) : NULL;
    if (!data)
        return fail(err, SERVERD_NOMEM, "%s: no memory for tensor %.200s", m->path,
                    m->codes.tensor->name);
    out->dtype = dtype;
    out->rank = 2;
    out->dims[0] = n;
    out->dims[1] = k;
    out->data = data;
    out->bytes = n * row_bytes;
    return SERVERD_OK;
}

/* ---- words of codes: AWQ and GPTQ ------------------------------------------------------------ */

struct words {
    const struct hf_quantised *quantised;
    const struct hf_module *module;
    uint64_t n, k, stored_group;
    uint32_t bits, per_word, group; /* ours */
};

/* Where column c of eight lies in AWQ's word: they stand as 0, 2, 4, 6, 1, 3, 5, 7. */
static const uint8_t awq_place[8] = {0, 4, 1, 5, 2, 6, 3, 7};

static uint32_t code_in(const struct words *w, uint32_t word, uint32_t place)
{
    return word >> (place * w->bits) & ((1u << w->bits) - 1);
}

static uint32_t zero_at(const struct words *w, uint64_t group, uint64_t column)
{
    const uint64_t n_words = w->n / w->per_word;
    uint32_t word = word_at(&w->module->zeros, group * n_words + column / w->per_word);
    uint32_t place = (uint32_t)(column % w->per_word);
    if (w->quantised->method == HF_AWQ)
        place = awq_place[place];
    return code_in(w, word, place) + w->quantised->zero_offset;
}

/* codes[column][i] of rows k .. k + group - 1 and `count` columns. */
static void read_tile(const struct words *w, uint64_t k, uint64_t column, uint64_t count,
                      uint8_t codes[TILE][MAX_GROUP])
{
    for (uint32_t i = 0; i < w->group; i++) {
        for (uint64_t c = 0; c < count; c++) {
            uint64_t at = (k + i) / w->per_word * w->n + column + c;
            uint32_t place = (uint32_t)((k + i) % w->per_word);
            if (w->quantised->method == HF_AWQ) {
                at = (k + i) * (w->n / 8) + (column + c) / 8;
                place = awq_place[(column + c) % 8];
            }
            codes[c][i] = (uint8_t)code_in(w, word_at(&w->module->codes, at), place);
        }
    }
}

static void write_block(const struct words *w, uint64_t stored_group, uint64_t column,
                        const uint8_t *codes, uint8_t *block)
{
    const struct hf_array *scales = &w->module->scales;
    const size_t at = stored_group * w->n + column;
    if (strcmp(scales->tensor->dtype, "F16") == 0) {
        memcpy(block, (const char *)scales->data + at * 2, 2);
        block += 2;
    } else {
        float scale = scale_at(scales, at);
        memcpy(block, &scale, sizeof scale);
        block += sizeof scale;
    }
    *block++ = (uint8_t)zero_at(w, stored_group, column);
    if (w->bits == 8) {
        memcpy(block, codes, w->group);
        return;
    }
    for (uint32_t i = 0; i < w->group / 2; i++)
        block[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
}

static void write_words(const struct words *w, uint8_t *out, size_t block_bytes)
{
    uint8_t codes[TILE][MAX_GROUP];
    const uint64_t n_groups = w->k / w->group;
    for (uint64_t g = 0; g < n_groups; g++)
        for (uint64_t column = 0; column < w->n; column += TILE) {
            const uint64_t count = min_size(TILE, w->n - column);
            read_tile(w, g * w->group, column, count, codes);
            for (uint64_t c = 0; c < count; c++)
                write_block(w, g * w->group / w->stored_group, column + c, codes[c],
                            out + ((column + c) * n_groups + g) * block_bytes);
        }
}

/* The order of activations is that of the rows: element k is of group k / G. */
static serverd_status check_order(const struct words *w, serverd_error *err)
{
    const struct hf_array *order = &w->module->order;
    if (!order->tensor)
        return SERVERD_OK;
    if (order->tensor->rank != 1 || order->tensor->dims[0] != w->k ||
        strcmp(order->tensor->dtype, "I32") != 0)
        return fail_array(w->module, order, "I32 of a row's elements is needed", err);
    for (uint64_t i = 0; i < w->k; i++)
        if (word_at(order, i) != i / w->stored_group)
            return fail(err, SERVERD_UNSUPPORTED,
                        "%s: tensor %.200s: its elements are in an order of their own (desc_act), "
                        "which is not supported",
                        w->module->path, order->tensor->name);
    return SERVERD_OK;
}

static serverd_status check_zeros(const struct words *w, uint64_t n_groups, serverd_error *err)
{
    for (uint64_t g = 0; g < n_groups && w->bits == 8; g++)
        for (uint64_t c = 0; c < w->n; c++)
            if (zero_at(w, g, c) > UINT8_MAX)
                return fail(err, SERVERD_UNSUPPORTED,
                            "%s: tensor %.200s: a zero point of 256, at most 255 are supported",
                            w->module->path, w->module->zeros.tensor->name);
    return SERVERD_OK;
}

/* N, K and the groups, from the shapes. */
static serverd_status measure_words(const struct hf_quantised *q, const struct hf_module *m,
                                    struct words *w, serverd_error *err)
{
    serverd_status status;
    const struct safetensor *codes = m->codes.tensor;
    const uint32_t per_word = 32 / q->bits;
    if ((status = need_array(m, &m->scales, "scales", err)) != SERVERD_OK ||
        (status = need_array(m, &m->zeros, "qzeros", err)) != SERVERD_OK)
        return status;
    if (codes->rank != 2 || strcmp(codes->dtype, "I32") != 0 || codes->dims[0] > LIMIT_VOCAB ||
        codes->dims[1] > LIMIT_VOCAB)
        return fail_array(m, &m->codes, "a matrix of I32 is needed", err);
    const bool is_awq = q->method == HF_AWQ;
    *w = (struct words){.quantised = q,
                        .module = m,
                        .n = codes->dims[1] * (is_awq ? per_word : 1),
                        .k = codes->dims[0] * (is_awq ? 1 : per_word),
                        .bits = q->bits,
                        .per_word = per_word};
    w->stored_group = q->group ? q->group : w->k;
    if (w->k == 0 || w->k % w->stored_group != 0 || w->n % per_word != 0)
        return fail_array(m, &m->codes, "its shape does not fit the group_size", err);
    w->group = our_group(w->stored_group, w->k);
    if (w->group == 0)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: tensor %.200s: groups of %" PRIu64 "; multiples of 32 are supported",
                    m->path, codes->name, w->stored_group);
    const uint64_t n_groups = w->k / w->stored_group;
    if (!is_matrix(&m->zeros, "I32", n_groups, w->n / per_word))
        return fail_array(m, &m->zeros, "its type or shape does not fit the codes", err);
    if (!is_matrix(&m->scales, m->scales.tensor->dtype, n_groups, w->n))
        return fail_array(m, &m->scales, "its shape does not fit the codes", err);
    if ((status = check_scales(m, n_groups * w->n, err)) != SERVERD_OK ||
        (status = check_order(w, err)) != SERVERD_OK)
        return status;
    return check_zeros(w, n_groups, err);
}

static serverd_status convert_words(const struct hf_quantised *q, const struct hf_module *m,
                                    struct arena *made, struct source_tensor *out,
                                    serverd_error *err)
{
    struct words w;
    struct source_tensor tensor = *out;
    serverd_status status = measure_words(q, m, &w, err);
    if (status != SERVERD_OK)
        return status;
    const bool is_f16 = strcmp(m->scales.tensor->dtype, "F16") == 0;
    const uint32_t dtype = dtype_own(q->bits == 8 ? FORMAT_I8A : FORMAT_I4Z, w.group, !is_f16);
    if ((status = take_rows(m, dtype, w.n, w.k, made, &tensor, err)) != SERVERD_OK)
        return status;
    write_words(&w, (uint8_t *)tensor.data, dtype_info(dtype)->block_bytes);
    *out = tensor;
    return SERVERD_OK;
}

/* ---- FP8 ------------------------------------------------------------------------------------- */

/* Rows and columns that share a scale. */
struct spans {
    uint64_t rows, columns, n_across; /* scales beside each other */
};

static serverd_status find_spans(const struct hf_quantised *q, const struct hf_module *m,
                                 struct spans *out, serverd_error *err)
{
    const struct safetensor *codes = m->codes.tensor, *scales = m->scales.tensor;
    const uint64_t n = codes->dims[0], k = codes->dims[1];
    uint64_t count = 1;
    for (uint32_t d = 0; d < scales->rank; d++)
        count *= scales->dims[d]; /* at most its bytes */
    if (count == 1)
        *out = (struct spans){n, k, 1};
    else if (count == n && scales->rank >= 1 && scales->dims[0] == n)
        *out = (struct spans){1, k, 1};
    else if (scales->rank == 2 && q->block_rows > 0 && q->block_columns > 0 &&
             scales->dims[0] == (n + q->block_rows - 1) / q->block_rows &&
             scales->dims[1] == (k + q->block_columns - 1) / q->block_columns)
        *out = (struct spans){q->block_rows, q->block_columns, scales->dims[1]};
    else
        return fail_array(m, &m->scales, "its shape does not fit the codes", err);
    return check_scales(m, count, err);
}

static bool has_nan(const uint8_t *codes, uint64_t n)
{
    bool found = false;
    for (uint64_t i = 0; i < n; i++)
        found |= (codes[i] & 0x7f) == 0x7f;
    return found;
}

static serverd_status convert_fp8(const struct hf_quantised *q, const struct hf_module *m,
                                  struct arena *made, struct source_tensor *out, serverd_error *err)
{
    struct spans spans = {0};
    struct source_tensor tensor = *out;
    const struct safetensor *codes = m->codes.tensor;
    serverd_status status = need_array(m, &m->scales, "weight_scale", err);
    if (status != SERVERD_OK)
        return status;
    if (codes->rank != 2 || codes->dims[0] == 0 || codes->dims[1] == 0)
        return fail_array(m, &m->codes, "a matrix is needed", err);
    if ((status = find_spans(q, m, &spans, err)) != SERVERD_OK)
        return status;
    const uint64_t n = codes->dims[0], k = codes->dims[1];
    const uint32_t group = our_group(k, spans.columns);
    if (group == 0)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: tensor %.200s: rows of %" PRIu64 "; multiples of 32 are supported",
                    m->path, codes->name, k);
    if (has_nan(m->codes.data, n * k))
        return fail_array(m, &m->codes, "an element is not a number", err);
    const uint32_t dtype = dtype_own(FORMAT_F8, group, true);
    if ((status = take_rows(m, dtype, n, k, made, &tensor, err)) != SERVERD_OK)
        return status;
    uint8_t *block = (uint8_t *)tensor.data;
    const uint8_t *from = m->codes.data;
    for (uint64_t row = 0; row < n; row++)
        for (uint64_t at = 0; at < k; at += group, from += group, block += group) {
            float scale =
                scale_at(&m->scales, row / spans.rows * spans.n_across + at / spans.columns);
            memcpy(block, &scale, sizeof scale);
            block += sizeof scale;
            memcpy(block, from, group);
        }
    *out = tensor;
    return SERVERD_OK;
}

serverd_status hf_quantised_convert(const struct hf_quantised *quantised,
                                    const struct hf_module *module, struct arena *made,
                                    struct source_tensor *out, serverd_error *err)
{
    return quantised->method == HF_FP8 ? convert_fp8(quantised, module, made, out, err)
                                       : convert_words(quantised, module, made, out, err);
}
