#include "kernels/cpu/packed.h"

#include "base/numeric.h"
#include "program/dtype.h"

#include <string.h>

/* ---- forms ----------------------------------------------------------------------------------- */

#define NIBBLES 256
#define IQ4_TABLE                                                                                  \
    {                                                                                              \
        -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113                   \
    }
#define E2M1_TABLE                                                                                 \
    {                                                                                              \
        0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12                                    \
    }

/* One scale for each 32 k: units of 32. */
#define SIMPLE(type, code_kind, code_bytes, scale_kind, min, z, ...)                               \
    [DTYPE_##type] = {.name = #type,                                                               \
                      .codes = code_kind,                                                          \
                      .scales = scale_kind,                                                        \
                      .has_min = min,                                                              \
                      .group = 32,                                                                 \
                      .zero = z,                                                                   \
                      .unit_k = 32,                                                                \
                      .header_bytes = (min) ? 64 : 32,                                             \
                      .block_bytes = code_bytes,                                                   \
                      .unit_bytes = ((min) ? 64 : 32) + (code_bytes),                              \
                      __VA_ARGS__}
/* Quantised scales: units of 256. */
#define SUPER_HEADER(min, g) (((min) ? 2 : 1) * (32 + 256 / (g)*16))
#define SUPER(type, code_kind, code_bytes, min, g, z, ...)                                         \
    [DTYPE_##type] = {.name = #type,                                                               \
                      .codes = code_kind,                                                          \
                      .scales = SCALES_SUPER,                                                      \
                      .has_min = min,                                                              \
                      .group = g,                                                                  \
                      .zero = z,                                                                   \
                      .unit_k = 256,                                                               \
                      .header_bytes = SUPER_HEADER(min, g),                                        \
                      .block_bytes = code_bytes,                                                   \
                      .unit_bytes = SUPER_HEADER(min, g) + 8 * (code_bytes),                       \
                      __VA_ARGS__}
#define PLAIN(type, code_kind, bytes)                                                              \
    [DTYPE_##type] = {.name = #type,                                                               \
                      .codes = code_kind,                                                          \
                      .unit_k = 1,                                                                 \
                      .block_bytes = 16 * (bytes),                                                 \
                      .unit_bytes = 16 * (bytes)}

static const struct packed_form forms[DTYPE_LIMIT] = {
    SIMPLE(Q4_0, CODES_NIBBLE, NIBBLES, SCALES_F16, false, 8),
    SIMPLE(Q4_1, CODES_NIBBLE, NIBBLES, SCALES_F16, true, 0),
    SIMPLE(Q5_0, CODES_5BIT, NIBBLES + 64, SCALES_F16, false, 16),
    SIMPLE(Q5_1, CODES_5BIT, NIBBLES + 64, SCALES_F16, true, 0),
    SIMPLE(Q8_0, CODES_8BIT, 512, SCALES_F16, false, 128),
    SIMPLE(IQ4_NL, CODES_TABLE, NIBBLES, SCALES_F16, false, 128, .table = IQ4_TABLE),
    SIMPLE(MXFP4, CODES_TABLE, NIBBLES, SCALES_BF16, false, 16, .table = E2M1_TABLE),
    SUPER(IQ4_XS, CODES_TABLE, NIBBLES, false, 32, 128, .table = IQ4_TABLE),
    SUPER(Q4_K, CODES_NIBBLE, NIBBLES, true, 32, 0),
    SUPER(Q5_K, CODES_5BIT, NIBBLES + 64, true, 32, 0),
    SUPER(Q6_K, CODES_6BIT, NIBBLES + 128, false, 16, 32),
    SUPER(Q2_K, CODES_NIBBLE, NIBBLES, true, 16, 0),
    SUPER(Q3_K, CODES_NIBBLE, NIBBLES, false, 16, 8),
    PLAIN(F32, CODES_F32, 4),
    PLAIN(F16, CODES_F16, 2),
    PLAIN(BF16, CODES_BF16, 2),
};

/* Our own types: a unit is a group of theirs. `head`: what stands beside f16, f32 scales. */
#define OWN(form_name, code_kind, scale_kind, min, z, k, head, code_bytes)                         \
    {                                                                                              \
        .name = form_name, .codes = code_kind, .scales = scale_kind, .has_min = min, .group = 32,  \
        .zero = z, .unit_k = k, .header_bytes = head, .block_bytes = code_bytes,                   \
        .unit_bytes = (head) + (k) / 32 * (code_bytes)                                             \
    }
#define OWN_GROUPS(name, mark, code_kind, scale_kind, min, z, head, code_bytes)                    \
    {                                                                                              \
        OWN(name "_g32" mark, code_kind, scale_kind, min, z, 32, head, code_bytes),                \
            OWN(name "_g64" mark, code_kind, scale_kind, min, z, 64, head, code_bytes),            \
            OWN(name "_g128" mark, code_kind, scale_kind, min, z, 128, head, code_bytes)           \
    }
#define OWN_FORMS(name, code_kind, scale_kind, min, z, extra, code_bytes)                          \
    {                                                                                              \
        OWN_GROUPS(name, "", code_kind, scale_kind, min, z, 32 + (extra), code_bytes),             \
            OWN_GROUPS(name, "_f32", code_kind, scale_kind##_F32, min, z,                          \
                       64 + ((extra) == 32 ? 64 : (extra)), code_bytes)                            \
    }
#define SCALES_F16_F32 SCALES_F32

static const struct packed_form own_forms[FORMAT_LIMIT - FORMAT_I8S][2][3] = {
    [FORMAT_I8S - 128] = OWN_FORMS("i8s", CODES_8BIT, SCALES_F16, false, 128, 0, 512),
    [FORMAT_I8A - 128] = OWN_FORMS("i8a", CODES_8BIT, SCALES_ZEROS, true, 128, 16, 512),
    [FORMAT_I4S - 128] = OWN_FORMS("i4s", CODES_NIBBLE, SCALES_F16, false, 8, 0, NIBBLES),
    [FORMAT_I4A - 128] = OWN_FORMS("i4a", CODES_NIBBLE, SCALES_F16, true, 0, 32, NIBBLES),
    [FORMAT_I4Z - 128] = OWN_FORMS("i4z", CODES_NIBBLE, SCALES_ZEROS, true, 0, 16, NIBBLES),
    [FORMAT_NF4 - 128] = OWN_FORMS("nf4", CODES_NF4, SCALES_F16, false, 0, 0, 256),
    [FORMAT_F8 - 128] = {OWN_GROUPS("f8", "", CODES_F8, SCALES_F32, false, 0, 64, 512)},
};

bool packed_is_own_form(serverd_dtype dtype)
{
    return dtype < DTYPE_LIMIT ? forms[dtype].name != NULL : dtype_info(dtype) != NULL;
}

const struct packed_form *packed_form(serverd_dtype dtype)
{
    if (dtype >= DTYPE_LIMIT && dtype_info(dtype))
        return &own_forms[dtype_format_of(dtype) - FORMAT_I8S][dtype >> 10 & 1u][dtype >> 8 & 3u];
    return &forms[packed_is_own_form(dtype) ? dtype : DTYPE_F32];
}

size_t packed_column_bytes(const struct packed_form *form, size_t k)
{
    return k / form->unit_k * form->unit_bytes;
}

bool packed_bytes(const struct packed_form *form, size_t n_out, size_t k, size_t *out)
{
    size_t columns, bytes;
    return size_align(n_out, PACKED_COLUMNS, &columns) &&
           size_mul(k / form->unit_k, form->unit_bytes, &bytes) &&
           size_mul(columns / PACKED_COLUMNS, bytes, out);
}

/* ---- taking blocks of the file apart --------------------------------------------------------- */

/* Codes travel as eight words, word q = quad q, a byte each. */
#define LOW4  0x0f0f0f0fu
#define LOW2  0x03030303u
#define BIT0  0x01010101u
#define SIGNS 0x80808080u

static uint32_t word_at(const uint8_t *p)
{
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

/* 16 bytes with elements 0..15 in their low and 16..31 in their high halves. */
static inline void split_nibbles(const uint8_t *q, uint32_t *words)
{
    for (int z = 0; z < 4; z++) {
        words[z] = word_at(q + 4 * z) & LOW4;
        words[z + 4] = word_at(q + 4 * z) >> 4 & LOW4;
    }
}

/* Four bits, one to each byte. */
static inline uint32_t spread4(uint32_t bits)
{
    return (bits & 15) * 0x00204081u & BIT0;
}

static inline void add_fifth_bits(const uint8_t *high, uint32_t *words)
{
    uint32_t bits = word_at(high);
    for (int q = 0; q < 8; q++)
        words[q] |= spread4(bits >> 4 * q) << 4;
}

/* words[q] = the fields of 32 bytes from bit `shift` on. */
static inline void fields(const uint8_t *bytes, int shift, uint32_t mask, uint32_t *words)
{
    for (int q = 0; q < 8; q++)
        words[q] = word_at(bytes + 4 * q) >> shift & mask;
}

static inline void add_fields(const uint8_t *bytes, int shift, uint32_t mask, int to,
                              uint32_t *words)
{
    for (int q = 0; q < 8; q++)
        words[q] |= (word_at(bytes + 4 * q) >> shift & mask) << to;
}

/* The codes of the g-th 32 elements of a block. */
static inline void block_codes(serverd_dtype dtype, const uint8_t *b, int g, uint32_t *words)
{
    switch (dtype) {
    case DTYPE_Q4_0:
    case DTYPE_IQ4_NL:
        split_nibbles(b + 2, words);
        break;
    case DTYPE_Q4_1:
        split_nibbles(b + 4, words);
        break;
    case DTYPE_Q5_0:
        split_nibbles(b + 6, words);
        add_fifth_bits(b + 2, words);
        break;
    case DTYPE_Q5_1:
        split_nibbles(b + 8, words);
        add_fifth_bits(b + 4, words);
        break;
    case DTYPE_Q8_0:
        for (int q = 0; q < 8; q++)
            words[q] = word_at(b + 2 + 4 * q) ^ SIGNS;
        break;
    case DTYPE_MXFP4:
        split_nibbles(b + 1, words);
        break;
    case DTYPE_IQ4_XS:
        split_nibbles(b + 8 + 16 * g, words);
        break;
    case DTYPE_Q4_K:
        fields(b + 16 + 32 * (g / 2), 4 * (g % 2), LOW4, words);
        break;
    case DTYPE_Q5_K:
        fields(b + 48 + 32 * (g / 2), 4 * (g % 2), LOW4, words);
        add_fields(b + 16, g, BIT0, 4, words);
        break;
    case DTYPE_Q6_K:
        fields(b + 64 * (g / 4) + 32 * (g % 2), 4 * (g % 4 / 2), LOW4, words);
        add_fields(b + 128 + 32 * (g / 4), 2 * (g % 4), LOW2, 4, words);
        break;
    case DTYPE_Q2_K:
        fields(b + 16 + 32 * (g / 4), 2 * (g % 4), LOW2, words);
        break;
    case DTYPE_Q3_K:
        fields(b + 32 + 32 * (g / 4), 2 * (g % 4), LOW2, words);
        add_fields(b, g, BIT0, 2, words);
        for (int q = 0; q < 8; q++)
            words[q] += 4 * BIT0; /* the zero point is 8, as Q4_0 has it, not 4 */
        break;
    default:
        memset(words, 0, 8 * sizeof *words);
    }
}

/* Scale and minimum of a block as bits of f16 (bf16), sub-scales and sub-minima. */
struct block_scales {
    uint16_t d, min;
    int8_t sub[16], sub_min[16];
};

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* w = .. - dmin * min: the form adds. */
static uint16_t negative_at(const uint8_t *p)
{
    return u16_at(p) ^ 0x8000u;
}

static void k_scales(const uint8_t *s, struct block_scales *out)
{
    for (int j = 0; j < 4; j++) {
        out->sub[j] = (int8_t)(s[j] & 63);
        out->sub_min[j] = (int8_t)(s[j + 4] & 63);
        out->sub[j + 4] = (int8_t)((s[j + 8] & 15) | (s[j] >> 6) << 4);
        out->sub_min[j + 4] = (int8_t)((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
    }
}

/* Half of 2^(e - 127), the table is doubled: a power of two that bf16 holds exactly. */
static uint16_t bf16_of_e8m0(uint8_t e)
{
    return e < 2 ? (uint16_t)(0x0020u << e) : (uint16_t)((e - 1) << 7);
}

static inline void block_scales(serverd_dtype dtype, const uint8_t *b, struct block_scales *out)
{
    switch (dtype) {
    case DTYPE_Q4_1:
    case DTYPE_Q5_1:
        out->d = u16_at(b);
        out->min = u16_at(b + 2);
        break;
    case DTYPE_MXFP4:
        out->d = bf16_of_e8m0(b[0]);
        break;
    case DTYPE_IQ4_XS:
        out->d = u16_at(b);
        for (int s = 0; s < 8; s++)
            out->sub[s] =
                (int8_t)(((b[4 + s / 2] >> 4 * (s % 2) & 15) | (u16_at(b + 2) >> 2 * s & 3) << 4) -
                         32);
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        out->d = u16_at(b);
        out->min = negative_at(b + 2);
        k_scales(b + 4, out);
        break;
    case DTYPE_Q6_K:
        out->d = u16_at(b + 208);
        memcpy(out->sub, b + 192, 16);
        break;
    case DTYPE_Q2_K:
        out->d = u16_at(b + 80);
        out->min = negative_at(b + 82);
        for (int s = 0; s < 16; s++) {
            out->sub[s] = (int8_t)(b[s] & 15);
            out->sub_min[s] = (int8_t)(b[s] >> 4);
        }
        break;
    case DTYPE_Q3_K:
        out->d = u16_at(b + 108);
        for (int s = 0; s < 16; s++)
            out->sub[s] = (int8_t)(((b[96 + s % 8] >> 4 * (s / 8) & 15) |
                                    (b[104 + s % 4] >> 2 * (s / 4) & 3) << 4) -
                                   32);
        break;
    default:
        out->d = u16_at(b);
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

static inline void put_word(uint8_t *p, uint32_t w)
{
    memcpy(p, &w, sizeof w);
}

/* Column `c` of one block of codes. */
static inline void put_codes(uint8_t codes, uint8_t *to, size_t c, const uint32_t *words)
{
    if (codes == CODES_8BIT) {
        for (int q = 0; q < 8; q++)
            put_word(to + 64 * q + 4 * c, words[q]);
        return;
    }
    for (int z = 0; z < 4; z++)
        put_word(to + 64 * z + 4 * c, (words[z] & LOW4) | (words[z + 4] & LOW4) << 4);
    uint32_t plane[2] = {0};
    if (codes == CODES_5BIT) {
        for (int q = 0; q < 8; q++)
            plane[0] |= (words[q] >> 4 & BIT0) << q;
        put_word(to + NIBBLES + 4 * c, plane[0]);
    } else if (codes == CODES_6BIT) {
        for (int q = 0; q < 8; q++)
            plane[q / 4] |= (words[q] >> 4 & LOW2) << 2 * (q % 4);
        put_word(to + NIBBLES + 4 * c, plane[0]);
        put_word(to + NIBBLES + 64 + 4 * c, plane[1]);
    }
}

static inline void put_half(uint8_t *to, size_t c, uint16_t half)
{
    memcpy(to + 2 * c, &half, sizeof half);
}

/* One unit of one column. Always inlined with a constant type. */
static inline __attribute__((always_inline)) void put_unit(serverd_dtype dtype,
                                                           const struct packed_form *form,
                                                           const uint8_t *block, size_t c,
                                                           uint8_t *unit)
{
    struct block_scales s = {0};
    block_scales(dtype, block, &s);
    put_half(unit, c, s.d);
    if (form->has_min)
        put_half(unit + 32, c, s.min);
    if (form->scales == SCALES_SUPER) {
        uint32_t n = 256u / form->group;
        uint8_t *sub = unit + (form->has_min ? 64 : 32);
        for (uint32_t g = 0; g < n; g++) {
            sub[16 * g + c] = (uint8_t)s.sub[g];
            if (form->has_min)
                sub[16 * (n + g) + c] = (uint8_t)s.sub_min[g];
        }
    }
    for (uint32_t g = 0; g < form->unit_k / PACKED_BLOCK; g++) {
        uint32_t words[8];
        block_codes(dtype, block, (int)g, words);
        put_codes(form->codes, unit + form->header_bytes + g * form->block_bytes, c, words);
    }
}

/* Columns that are the last of the matrix leave the rest of their block as zeros. */
static inline __attribute__((always_inline)) void write_blocks(serverd_dtype dtype,
                                                               const uint8_t *rows,
                                                               size_t row_bytes, size_t n_columns,
                                                               size_t k, uint8_t *to)
{
    const struct packed_form *form = &forms[dtype];
    size_t block_bytes = row_bytes / (k / form->unit_k);
    for (size_t u = 0; u < k / form->unit_k; u++, to += form->unit_bytes) {
        if (n_columns < PACKED_COLUMNS)
            memset(to, 0, form->unit_bytes);
        for (size_t c = 0; c < n_columns; c++)
            put_unit(dtype, form, rows + c * row_bytes + u * block_bytes, c, to);
    }
}

static void write_halves(const uint8_t *rows, size_t row_bytes, size_t n_columns, size_t k,
                         uint8_t *to)
{
    for (size_t i = 0; i < k; i++)
        for (size_t c = 0; c < PACKED_COLUMNS; c++) {
            uint16_t half = 0;
            if (c < n_columns)
                memcpy(&half, rows + c * row_bytes + 2 * i, sizeof half);
            put_half(to + 32 * i, c, half);
        }
}

static void write_floats(const struct dtype_info *info, const uint8_t *rows, size_t row_bytes,
                         size_t n_columns, size_t k, uint8_t *to)
{
    float block[256];
    size_t step = info->block_elements;
    if (step == 1 && k % 64 == 0)
        step = 64; /* plain numbers are taken many at a time */
    for (size_t c = 0; c < PACKED_COLUMNS; c++)
        for (size_t i = 0; i < k; i += step) {
            if (c < n_columns)
                info->to_f32(rows + c * row_bytes + i / info->block_elements * info->block_bytes,
                             block, step / info->block_elements);
            else
                memset(block, 0, sizeof block);
            for (size_t j = 0; j < step; j++)
                memcpy(to + ((i + j) * PACKED_COLUMNS + c) * sizeof(float), &block[j],
                       sizeof(float));
        }
}

/* Eight halves of bytes, in their order, become the bytes of two words. */
static inline void split_pairs(const uint8_t *b, uint32_t *words)
{
    uint64_t pairs = word_at(b);
    pairs = (pairs | pairs << 16) & 0x0000ffff0000ffffu;
    pairs = (pairs | pairs << 8) & 0x00ff00ff00ff00ffu;
    pairs = (pairs | pairs << 4) & 0x0f0f0f0f0f0f0f0fu;
    words[0] = (uint32_t)pairs;
    words[1] = (uint32_t)(pairs >> 32);
}

/* Codes of 32 elements of one of our own types. */
static inline void put_own_codes(enum dtype_format format, const uint8_t *b, size_t c, uint8_t *to)
{
    uint32_t words[8];
    switch (format) {
    case FORMAT_F8:
        for (size_t i = 0; i < 32; i++)
            to[16 * i + c] = b[i];
        return;
    case FORMAT_NF4:
        for (size_t i = 0; i < 16; i++)
            to[16 * i + c] = b[i];
        return;
    case FORMAT_I8S:
    case FORMAT_I8A:
        for (int q = 0; q < 8; q++)
            words[q] = word_at(b + 4 * q) ^ (format == FORMAT_I8S ? SIGNS : 0u);
        put_codes(CODES_8BIT, to, c, words);
        return;
    default:
        for (int q = 0; q < 8; q += 2)
            split_pairs(b + 2 * q, words + q);
        put_codes(CODES_NIBBLE, to, c, words);
    }
}

static inline __attribute__((always_inline)) void
put_own_unit(enum dtype_format format, size_t number_bytes, const struct packed_form *form,
             const uint8_t *block, size_t c, uint8_t *unit)
{
    const size_t code_bytes = format == FORMAT_I8S || format == FORMAT_I8A || format == FORMAT_F8;
    memcpy(unit + number_bytes * c, block, number_bytes);
    block += number_bytes;
    if (format == FORMAT_I4A) {
        memcpy(unit + number_bytes * (PACKED_COLUMNS + c), block, number_bytes);
        block += number_bytes;
    } else if (format == FORMAT_I8A || format == FORMAT_I4Z) {
        unsigned z = format == FORMAT_I4Z ? *block & 127u : *block;
        unit[number_bytes * PACKED_COLUMNS + c] = (uint8_t)(z - form->zero);
        block++;
    }
    for (uint32_t g = 0; g < form->unit_k / PACKED_BLOCK; g++)
        put_own_codes(format, block + g * (16 + 16 * code_bytes), c,
                      unit + form->header_bytes + g * form->block_bytes);
}

static inline __attribute__((always_inline)) void
write_own_format(enum dtype_format format, size_t number_bytes, const struct packed_form *form,
                 const uint8_t *rows, size_t row_bytes, size_t n_columns, size_t k, uint8_t *to)
{
    const size_t block_bytes = row_bytes / (k / form->unit_k);
    for (size_t u = 0; u < k / form->unit_k; u++, to += form->unit_bytes) {
        if (n_columns < PACKED_COLUMNS)
            memset(to, 0, form->unit_bytes);
        for (size_t c = 0; c < n_columns; c++)
            put_own_unit(format, number_bytes, form, rows + c * row_bytes + u * block_bytes, c, to);
    }
}

static void write_own(serverd_dtype dtype, const uint8_t *rows, size_t row_bytes, size_t n_columns,
                      size_t k, uint8_t *to)
{
    const struct packed_form *form = packed_form(dtype);
    const bool is_f32 = dtype_has_f32_scales(dtype);
#define CASE(format)                                                                               \
    case FORMAT_##format:                                                                          \
        if (is_f32)                                                                                \
            write_own_format(FORMAT_##format, 4, form, rows, row_bytes, n_columns, k, to);         \
        else                                                                                       \
            write_own_format(FORMAT_##format, 2, form, rows, row_bytes, n_columns, k, to);         \
        break
    switch (dtype_format_of(dtype)) {
        CASE(I8S);
        CASE(I8A);
        CASE(I4S);
        CASE(I4A);
        CASE(I4Z);
        CASE(NF4);
        CASE(F8);
    default:
        break;
    }
#undef CASE
}

/* A copy of write_blocks for each type, so that nothing is decided per element. */
static void write_columns(serverd_dtype dtype, const uint8_t *rows, size_t row_bytes,
                          size_t n_columns, size_t k, uint8_t *to)
{
#define CASE(type)                                                                                 \
    case DTYPE_##type:                                                                             \
        write_blocks(DTYPE_##type, rows, row_bytes, n_columns, k, to);                             \
        break
    switch (dtype) {
        CASE(Q4_0);
        CASE(Q4_1);
        CASE(Q5_0);
        CASE(Q5_1);
        CASE(Q8_0);
        CASE(IQ4_NL);
        CASE(MXFP4);
        CASE(IQ4_XS);
        CASE(Q4_K);
        CASE(Q5_K);
        CASE(Q6_K);
        CASE(Q2_K);
        CASE(Q3_K);
    case DTYPE_F16:
    case DTYPE_BF16:
        write_halves(rows, row_bytes, n_columns, k, to);
        break;
    default:
        if (dtype >= DTYPE_LIMIT)
            write_own(dtype, rows, row_bytes, n_columns, k, to);
        else
            write_floats(dtype_info(dtype), rows, row_bytes, n_columns, k, to);
    }
#undef CASE
}

void packed_write(const serverd_tensor *tensor, size_t first_row, size_t n_rows, void *dst)
{
    const struct packed_form *form = packed_form(tensor->dtype);
    size_t k = tensor->dims[1], column_bytes = packed_column_bytes(form, k);
    uint64_t row_bytes = 0;
    if (!dtype_row_bytes(tensor->dtype, k, &row_bytes))
        return; /* program_check has seen to it */
    for (size_t r = first_row; r < first_row + n_rows; r += PACKED_COLUMNS)
        write_columns(tensor->dtype, (const uint8_t *)tensor->data + r * row_bytes, row_bytes,
                      min_size(PACKED_COLUMNS, first_row + n_rows - r), k,
                      (uint8_t *)dst + r / PACKED_COLUMNS * column_bytes);
}
