/* The inverse of packed.c: the file's blocks of a row from their packed form, every bit of them. */
#include "base/numeric.h"
#include "kernels/cpu/packed.h"
#include "program/dtype.h"

#include <string.h>

#define NIBBLES 256
#define LOW4    0x0f0f0f0fu
#define LOW2    0x03030303u
#define BIT0    0x01010101u
#define SIGNS   0x80808080u

static uint32_t word_at(const uint8_t *p)
{
    uint32_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

static void put_word(uint8_t *p, uint32_t w)
{
    memcpy(p, &w, sizeof w);
}

static void or_word(uint8_t *p, uint32_t w)
{
    put_word(p, word_at(p) | w);
}

static uint16_t half_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static void put_half(uint8_t *p, uint16_t half)
{
    p[0] = (uint8_t)half;
    p[1] = (uint8_t)(half >> 8);
}

/* ---- from a unit ----------------------------------------------------------------------------- */

/* Column `c` of one block of codes: word q has quad q, a byte each. */
static void read_codes(uint8_t codes, const uint8_t *from, size_t c, uint32_t words[8])
{
    if (codes == CODES_8BIT) {
        for (int q = 0; q < 8; q++)
            words[q] = word_at(from + 64 * q + 4 * c);
        return;
    }
    for (int z = 0; z < 4; z++) {
        uint32_t both = word_at(from + 64 * z + 4 * c);
        words[z] = both & LOW4;
        words[z + 4] = both >> 4 & LOW4;
    }
    for (int q = 0; q < 8 && codes == CODES_5BIT; q++)
        words[q] |= (word_at(from + NIBBLES + 4 * c) >> q & BIT0) << 4;
    for (int q = 0; q < 8 && codes == CODES_6BIT; q++)
        words[q] |= (word_at(from + NIBBLES + 64 * (q / 4) + 4 * c) >> 2 * (q % 4) & LOW2) << 4;
}

/* As the unit has them: minima with the sign that makes them addends. */
struct unit_scales {
    uint16_t d, min;
    uint8_t sub[16], sub_min[16];
};

static void read_scales(const struct packed_form *form, const uint8_t *unit, size_t c,
                        struct unit_scales *out)
{
    memset(out, 0, sizeof *out);
    out->d = half_at(unit + 2 * c);
    if (form->has_min)
        out->min = half_at(unit + 32 + 2 * c);
    if (form->scales != SCALES_SUPER)
        return;
    uint32_t n = 256u / form->group;
    const uint8_t *sub = unit + (form->has_min ? 64 : 32);
    for (uint32_t g = 0; g < n; g++) {
        out->sub[g] = sub[16 * g + c];
        out->sub_min[g] = form->has_min ? sub[16 * (n + g) + c] : 0;
    }
}

/* ---- to a block of the file ------------------------------------------------------------------ */

static void put_nibbles(const uint32_t words[8], uint8_t *q)
{
    for (int z = 0; z < 4; z++)
        put_word(q + 4 * z, (words[z] & LOW4) | (words[z + 4] & LOW4) << 4);
}

/* Bit 4 of each of 32 codes. */
static void put_fifth_bits(const uint32_t words[8], uint8_t *to)
{
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++)
        bits |= (words[i / 4] >> (8 * (i % 4) + 4) & 1u) << i;
    put_word(to, bits);
}

/* Fields of 32 codes from bit `from` on, at bit `shift` of 32 bytes. */
static void or_fields(const uint32_t words[8], int from, uint32_t mask, int shift, uint8_t *bytes)
{
    for (int q = 0; q < 8; q++)
        or_word(bytes + 4 * q, (words[q] >> from & mask) << shift);
}

/* The codes of the g-th 32 elements of a block, which began as zeros. */
static void put_block_codes(serverd_dtype dtype, int g, uint32_t words[8], uint8_t *b)
{
    switch (dtype) {
    case DTYPE_Q4_0:
    case DTYPE_IQ4_NL:
        put_nibbles(words, b + 2);
        break;
    case DTYPE_Q4_1:
        put_nibbles(words, b + 4);
        break;
    case DTYPE_Q5_0:
        put_nibbles(words, b + 6);
        put_fifth_bits(words, b + 2);
        break;
    case DTYPE_Q5_1:
        put_nibbles(words, b + 8);
        put_fifth_bits(words, b + 4);
        break;
    case DTYPE_Q8_0:
        for (int q = 0; q < 8; q++)
            put_word(b + 2 + 4 * q, words[q] ^ SIGNS);
        break;
    case DTYPE_MXFP4:
        put_nibbles(words, b + 1);
        break;
    case DTYPE_IQ4_XS:
        put_nibbles(words, b + 8 + 16 * g);
        break;
    case DTYPE_Q4_K:
        or_fields(words, 0, LOW4, 4 * (g % 2), b + 16 + 32 * (g / 2));
        break;
    case DTYPE_Q5_K:
        or_fields(words, 0, LOW4, 4 * (g % 2), b + 48 + 32 * (g / 2));
        or_fields(words, 4, BIT0, g, b + 16);
        break;
    case DTYPE_Q6_K:
        or_fields(words, 0, LOW4, 4 * (g % 4 / 2), b + 64 * (g / 4) + 32 * (g % 2));
        or_fields(words, 4, LOW2, 2 * (g % 4), b + 128 + 32 * (g / 4));
        break;
    case DTYPE_Q2_K:
        or_fields(words, 0, LOW2, 2 * (g % 4), b + 16 + 32 * (g / 4));
        break;
    case DTYPE_Q3_K:
        for (int q = 0; q < 8; q++)
            words[q] -= 4 * BIT0; /* packed.c raised the zero point */
        or_fields(words, 0, LOW2, 2 * (g % 4), b + 32 + 32 * (g / 4));
        or_fields(words, 2, BIT0, g, b);
        break;
    default:
        break;
    }
}

static void put_k_scales(const struct unit_scales *s, uint8_t *to)
{
    for (int j = 0; j < 4; j++) {
        to[j] = (uint8_t)((s->sub[j] & 63) | (s->sub[j + 4] >> 4) << 6);
        to[j + 4] = (uint8_t)((s->sub_min[j] & 63) | (s->sub_min[j + 4] >> 4) << 6);
        to[j + 8] = (uint8_t)((s->sub[j + 4] & 15) | (s->sub_min[j + 4] & 15) << 4);
    }
}

static uint8_t e8m0_of_bf16(uint16_t half)
{
    return half < 0x0080u ? half == 0x0040u : (uint8_t)((half >> 7) + 1);
}

/* Six bits of each of n sub-scales, less 32: low four in nibbles of `low`, the rest elsewhere. */
static uint8_t plus32(uint8_t sub)
{
    return (uint8_t)(sub + 32) & 63;
}

static void put_block_scales(serverd_dtype dtype, const struct unit_scales *s, uint8_t *b)
{
    switch (dtype) {
    case DTYPE_Q4_1:
    case DTYPE_Q5_1:
        put_half(b, s->d);
        put_half(b + 2, s->min);
        break;
    case DTYPE_MXFP4:
        b[0] = e8m0_of_bf16(s->d);
        break;
    case DTYPE_IQ4_XS:
        put_half(b, s->d);
        for (int i = 0; i < 8; i++) {
            uint8_t scale = plus32(s->sub[i]);
            b[4 + i / 2] |= (uint8_t)((scale & 15) << 4 * (i % 2));
            b[2 + i / 4] |= (uint8_t)((scale >> 4) << 2 * (i % 4));
        }
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        put_half(b, s->d);
        put_half(b + 2, s->min ^ 0x8000u);
        put_k_scales(s, b + 4);
        break;
    case DTYPE_Q6_K:
        put_half(b + 208, s->d);
        memcpy(b + 192, s->sub, 16);
        break;
    case DTYPE_Q2_K:
        put_half(b + 80, s->d);
        put_half(b + 82, s->min ^ 0x8000u);
        for (int i = 0; i < 16; i++)
            b[i] = (uint8_t)((s->sub[i] & 15) | s->sub_min[i] << 4);
        break;
    case DTYPE_Q3_K:
        put_half(b + 108, s->d);
        for (int i = 0; i < 16; i++) {
            uint8_t scale = plus32(s->sub[i]);
            b[96 + i % 8] |= (uint8_t)((scale & 15) << 4 * (i / 8));
            b[104 + i % 4] |= (uint8_t)((scale >> 4) << 2 * (i / 4));
        }
        break;
    default:
        put_half(b, s->d);
    }
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void read_plain(const uint8_t *column, size_t c, size_t n, size_t bytes, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * bytes, column + (i * PACKED_COLUMNS + c) * bytes, bytes);
}

void packed_read(serverd_dtype dtype, size_t k, const void *packed, size_t row, void *out)
{
    packed_read_part(dtype, k, packed, row, 0, k, out);
}

void packed_read_part(serverd_dtype dtype, size_t k, const void *packed, size_t row, size_t begin,
                      size_t n, void *out)
{
    const struct packed_form *form = packed_form(dtype);
    const uint8_t *unit = (const uint8_t *)packed +
                          row / PACKED_COLUMNS * packed_column_bytes(form, k) +
                          begin / form->unit_k * form->unit_bytes;
    size_t c = row % PACKED_COLUMNS;
    if (dtype >= DTYPE_LIMIT) {
        packed_read_own(dtype, k, unit, c, out);
        return;
    }
    if (packed_is_float(form)) {
        read_plain(unit, c, n, form->unit_bytes / PACKED_COLUMNS, out);
        return;
    }
    size_t block_bytes = dtype_info(dtype)->block_bytes;
    uint8_t *block = out;
    for (size_t u = 0; u < n / form->unit_k; u++, unit += form->unit_bytes, block += block_bytes) {
        struct unit_scales scales;
        memset(block, 0, block_bytes);
        read_scales(form, unit, c, &scales);
        put_block_scales(dtype, &scales, block);
        for (uint32_t g = 0; g < form->unit_k / PACKED_BLOCK; g++) {
            uint32_t words[8];
            read_codes(form->codes, unit + form->header_bytes + g * form->block_bytes, c, words);
            put_block_codes(dtype, (int)g, words, block);
        }
    }
}
