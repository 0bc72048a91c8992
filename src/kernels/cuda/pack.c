/* Matrices become fragments (fragments.h); vectors stay. Types of up to 8 bits with a scale for 16
 * or 32 elements keep their codes, all others become bf16. Blocks are taken apart by the CPU's
 * packing (kernels/cpu/packed.h), which brings every type to units of scales and codes. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cpu/packed.h"
#include "kernels/cuda/cuda_internal.h"
#include "kernels/cuda/fragments.h"
#include "program/dtype.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A program file may hold what another version packed: a change of a form takes other numbers. */
enum { LAYOUT_FRAGMENTS = 0x4710 };

/* ---- forms ----------------------------------------------------------------------------------- */

enum fragment_form cuda_fragment_form(serverd_dtype dtype)
{
    static const struct {
        uint8_t codes, group;
        bool has_min;
        enum fragment_form form;
    } rows[] = {
        {CODES_NIBBLE, 32, false, FRAGMENT_I4},       /* Q4_0 i4s */
        {CODES_NIBBLE, 32, true, FRAGMENT_I4_MIN},    /* Q4_1 Q4_K i4a i4z */
        {CODES_5BIT, 32, false, FRAGMENT_I8},         /* Q5_0 */
        {CODES_8BIT, 32, false, FRAGMENT_I8},         /* Q8_0 i8s */
        {CODES_TABLE, 32, false, FRAGMENT_I8},        /* IQ4_NL IQ4_XS MXFP4: the table's numbers */
        {CODES_5BIT, 32, true, FRAGMENT_I8_MIN},      /* Q5_1 Q5_K */
        {CODES_8BIT, 32, true, FRAGMENT_I8_MIN},      /* i8a */
        {CODES_NIBBLE, 16, false, FRAGMENT_I8_OF_16}, /* Q3_K */
        {CODES_6BIT, 16, false, FRAGMENT_I8_OF_16},   /* Q6_K */
        {CODES_F8, 32, false, FRAGMENT_F8},           /* f8 */
    };
    const struct packed_form *packed = packed_form(dtype);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].codes == packed->codes && rows[i].group == packed->group &&
            rows[i].has_min == packed->has_min)
            return rows[i].form;
    return FRAGMENT_BF16;
}

serverd_status cuda_form(const serverd_tensor *tensor, serverd_form *out, serverd_error *err)
{
    *out = (serverd_form){.struct_bytes = sizeof *out,
                          .layout = SERVERD_LAYOUT_ROWS,
                          .bytes = tensor->bytes,
                          .alignment = 1};
    if (tensor->rank < 2)
        return SERVERD_OK;
    /* no form takes more than 4 bytes for an element of whole tiles */
    size_t columns, k, n;
    if (!size_align(tensor->dims[0], FRAGMENT_COLUMNS, &columns) ||
        !size_align(tensor->dims[1], FRAGMENT_ROW_K, &k) || !size_mul(columns, k, &n) ||
        !size_mul(n, 4, &n))
        return fail(err, SERVERD_NOMEM, "cuda: %s is too large", tensor->name);
    const enum fragment_form form = cuda_fragment_form(tensor->dtype);
    out->layout = LAYOUT_FRAGMENTS + form;
    out->bytes = fragments_weights(fragments_shape(form), tensor->dims[0], tensor->dims[1]);
    out->alignment = 256;
    return SERVERD_OK;
}

/* ---- bf16 ------------------------------------------------------------------------------------ */

/* What pack works on: rows of the tensor, which are columns of weights. */
struct packing {
    const serverd_tensor *tensor;
    struct fragment_shape shape;
    size_t n_k, row_bytes;
    char *out; /* start of the whole */
};

static serverd_status place_floats(const struct packing *p, size_t first, size_t end,
                                   serverd_error *err)
{
    const struct dtype_info *type = dtype_info(p->tensor->dtype);
    float *row = malloc(p->n_k * sizeof *row);
    if (!row)
        return fail(err, SERVERD_NOMEM, "cuda: no memory for a row of %s", p->tensor->name);
    for (size_t r = first; r < end; r++) {
        type->to_f32((const char *)p->tensor->data + r * p->row_bytes, row,
                     p->n_k / type->block_elements);
        for (size_t i = 0; i < p->n_k; i++) {
            const uint16_t bits = f32_to_bf16(row[i]);
            memcpy(p->out + fragments_record_at(p->shape, r, i, p->n_k) +
                       fragments_code_at(p->shape, r, i) / 8,
                   &bits, sizeof bits);
        }
    }
    free(row);
    return SERVERD_OK;
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* Column c of a block of 32 codes, as packed.h lays them out. */
static void read_codes(const struct packed_form *form, const uint8_t *block, size_t c,
                       uint8_t out[32])
{
    enum { NIBBLES = 256 };
    for (size_t i = 0; i < 32; i++) {
        const size_t quad = i / 4, at = 4 * c + i % 4;
        if (form->codes == CODES_8BIT || form->codes == CODES_F8) {
            out[i] =
                form->codes == CODES_F8 ? block[PACKED_COLUMNS * i + c] : block[64 * quad + at];
            continue;
        }
        out[i] = block[64 * (quad % 4) + at] >> quad / 4 * 4 & 15;
        if (form->codes == CODES_5BIT)
            out[i] |= (uint8_t)((block[NIBBLES + at] >> quad & 1) << 4);
        else if (form->codes == CODES_6BIT)
            out[i] |= (uint8_t)((block[NIBBLES + 64 * (quad / 4) + at] >> 2 * (quad % 4) & 3) << 4);
    }
}

static void put_word(char *to, uint32_t word)
{
    memcpy(to, &word, sizeof word);
}

/* 32 codes whose record begins at `record`; i: their first element. A lane's words are made at
 * once, in the order that fragments_code_at has. */
static void put_codes(struct fragment_shape shape, const uint8_t codes[32], size_t column, size_t i,
                      char *record)
{
    for (size_t t = 0; t < 4; t++) {
        const uint8_t *of_lane = codes + 2 * t;
        char *to = record + fragments_code_at(shape, column, i + 2 * t) / 8;
        if (shape.bits == 4) {
            uint32_t word = 0;
            for (int half = 0; half < 4; half++)
                word |= (uint32_t)(of_lane[8 * half] | of_lane[8 * half + 1] << 16) << 4 * half;
            put_word(to, word);
        } else {
            for (int tile = 0; tile < 2; tile++, of_lane += 16)
                put_word(to + 4 * tile,
                         (uint32_t)(of_lane[0] | of_lane[8] << 8 | of_lane[1] << 16) |
                             (uint32_t)of_lane[9] << 24);
        }
    }
}

/* Of a unit's 32 codes: those of 8 bits stand for themselves. */
static void place_codes(const struct packing *p, const struct packed_form *form,
                        const uint8_t *block, size_t c, size_t column, size_t i)
{
    uint8_t codes[32];
    read_codes(form, block, c, codes);
    for (size_t e = 0; e < 32 && p->shape.bits == 8; e++)
        codes[e] = form->codes == CODES_TABLE ? (uint8_t)form->table[codes[e] & 15]
                                              : (uint8_t)(codes[e] - form->zero);
    put_codes(p->shape, codes, column, i,
              p->out + fragments_record_at(p->shape, column, i, p->n_k));
}

/* ---- scales ---------------------------------------------------------------------------------- */

struct group {
    float scale, minimum;
};

static float number_at(const struct packed_form *form, const uint8_t *numbers, size_t c)
{
    uint32_t word;
    uint16_t half;
    if (form->scales == SCALES_F32 || form->scales == SCALES_ZEROS_F32) {
        memcpy(&word, numbers + 4 * c, sizeof word);
        return f32_from_bits(word);
    }
    memcpy(&half, numbers + 2 * c, sizeof half);
    return form->scales == SCALES_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

/* Column c of a unit: n groups of the shape's k. */
static void read_scales(const struct packed_form *form, const uint8_t *unit, size_t c, size_t n,
                        struct group *out)
{
    const bool is_f32 = form->scales == SCALES_F32 || form->scales == SCALES_ZEROS_F32,
               has_zeros = form->scales == SCALES_ZEROS || form->scales == SCALES_ZEROS_F32;
    const uint8_t *second = unit + PACKED_COLUMNS * (is_f32 ? 4 : 2);
    const struct group of_unit = {.scale = number_at(form, unit, c),
                                  .minimum = !form->has_min ? 0.0f
                                             : has_zeros    ? -number_at(form, unit, c) *
                                                               (float)(int8_t)second[c]
                                                         : number_at(form, second, c)};
    const uint8_t *sub = form->has_min ? unit + PACKED_COLUMNS * 4 : second;
    for (size_t g = 0; g < n; g++) {
        out[g] = of_unit;
        if (form->scales != SCALES_SUPER)
            continue;
        out[g].scale *= (float)(int8_t)sub[PACKED_COLUMNS * g + c];
        if (form->has_min)
            out[g].minimum *= (float)(int8_t)sub[PACKED_COLUMNS * (n + g) + c];
    }
}

/* The greatest power of two that the numbers of a column can be multiplied by in f16, as an
 * exponent; scales that are f16 in the file stay exact. Kept to what f32 has normal powers for. */
static int exponent_of(const struct group *groups, size_t n)
{
    enum { MOST = 120, F16_INFINITY = 0x7c00 };
    float most = 0.0f;
    int exponent;
    for (size_t g = 0; g < n; g++)
        most = fmaxf(most, fmaxf(fabsf(groups[g].scale), fabsf(groups[g].minimum)));
    if (!(most > 0.0f) || !isfinite(most))
        return 0;
    (void)frexpf(most, &exponent); /* most < 2^exponent */
    exponent = 16 - exponent;
    if (f32_to_f16(ldexpf(most, exponent)) == F16_INFINITY)
        exponent--;
    return exponent < MOST ? exponent : MOST;
}

static void place_scales(const struct packing *p, const struct group *groups, size_t column)
{
    const size_t n_groups = p->n_k / p->shape.group;
    const int exponent = exponent_of(groups, n_groups);
    for (size_t g = 0; g < n_groups; g++) {
        const size_t i = g * p->shape.group;
        char *to = p->out + fragments_record_at(p->shape, column, i, p->n_k) +
                   fragments_scale_at(p->shape, column, i);
        const uint16_t scale = f32_to_f16(ldexpf(groups[g].scale, exponent)),
                       minimum = f32_to_f16(ldexpf(groups[g].minimum, exponent));
        memcpy(to, &scale, sizeof scale);
        if (p->shape.has_min)
            memcpy(to + 4, &minimum, sizeof minimum);
    }
    const float power = ldexpf(1.0f, -exponent);
    memcpy(p->out + fragments_records(p->shape, p->tensor->dims[0], p->n_k) + column * sizeof power,
           &power, sizeof power);
}

/* Column c of a column block of the CPU's. */
static void place_column(const struct packing *p, const struct packed_form *form,
                         const uint8_t *block, size_t c, size_t column, struct group *groups)
{
    const size_t n_of_unit = form->unit_k / p->shape.group;
    assert(p->shape.bits == 8 || form->zero == (form->has_min ? 0 : 8));
    for (size_t begin = 0; begin < p->n_k; begin += form->unit_k, block += form->unit_bytes) {
        read_scales(form, block, c, n_of_unit, groups + begin / p->shape.group);
        for (uint32_t i = 0; i < form->unit_k; i += PACKED_BLOCK)
            place_codes(p, form, block + form->header_bytes + i / PACKED_BLOCK * form->block_bytes,
                        c, column, begin + i);
    }
    place_scales(p, groups, column);
}

static serverd_status place_units(const struct packing *p, size_t first, size_t end,
                                  serverd_error *err)
{
    const struct packed_form *form = packed_form(p->tensor->dtype);
    uint8_t *block = malloc(packed_column_bytes(form, p->n_k));
    struct group *groups = calloc(p->n_k / p->shape.group, sizeof *groups);
    const serverd_status status =
        block && groups
            ? SERVERD_OK
            : fail(err, SERVERD_NOMEM, "cuda: no memory for rows of %s", p->tensor->name);
    for (size_t r = first; status == SERVERD_OK && r < end; r += PACKED_COLUMNS) {
        const size_t n = min_size(PACKED_COLUMNS, end - r);
        serverd_tensor part = *p->tensor;
        part.data = (const char *)p->tensor->data + r * p->row_bytes;
        packed_write(&part, 0, n, block);
        for (size_t c = 0; c < n; c++)
            place_column(p, form, block, c, r + c, groups);
    }
    free(block);
    free(groups);
    return status;
}

/* ---- all ------------------------------------------------------------------------------------- */

/* Of the tiles that hold the rows. */
static void zero_tiles(const struct packing *p, size_t first, size_t end)
{
    const size_t tile = fragments_records(p->shape, FRAGMENT_COLUMNS, p->n_k),
                 first_tile = first / FRAGMENT_COLUMNS,
                 n_tiles = (end + FRAGMENT_COLUMNS - 1) / FRAGMENT_COLUMNS - first_tile;
    memset(p->out + first_tile * tile, 0, n_tiles * tile);
    if (p->shape.group > 0)
        memset(p->out + fragments_records(p->shape, p->tensor->dims[0], p->n_k) +
                   first_tile * FRAGMENT_COLUMNS * sizeof(float),
               0, n_tiles * FRAGMENT_COLUMNS * sizeof(float));
}

serverd_status cuda_pack(const serverd_tensor *tensor, const serverd_form *form, uint64_t first_row,
                         uint64_t n_rows, void *dst, serverd_error *err)
{
    const struct dtype_info *type = dtype_info(tensor->dtype);
    uint64_t row_bytes;
    (void)form;
    if (!type || !type->to_f32 || !tensor->data ||
        !dtype_row_bytes(tensor->dtype, tensor->dims[1], &row_bytes))
        return fail(err, SERVERD_INTERNAL, "cuda: %s cannot be read", tensor->name);
    const struct packing p = {.tensor = tensor,
                              .shape = fragments_shape(cuda_fragment_form(tensor->dtype)),
                              .n_k = tensor->dims[1],
                              .row_bytes = row_bytes,
                              .out = dst};
    zero_tiles(&p, first_row, first_row + n_rows);
    if (p.shape.group == 0)
        return place_floats(&p, first_row, first_row + n_rows, err);
    return place_units(&p, first_row, first_row + n_rows, err);
}
