/* The inverse of packed.c for our own types. */
#include "kernels/cpu/packed.h"
#include "program/dtype.h"

#include <string.h>

/* The half of `from` that belongs to element i of 32 (packed.h: nibbles). */
static uint8_t nibble_at(const uint8_t *from, size_t c, size_t i)
{
    size_t quad = i / 4;
    return from[64 * (quad % 4) + 4 * c + i % 4] >> (quad < 4 ? 0 : 4) & 15;
}

/* Column `c` of one block of 32 codes. Returns the bytes written. */
static size_t read_codes(enum dtype_format format, const uint8_t *from, size_t c, uint8_t *to)
{
    switch (format) {
    case FORMAT_F8:
        for (size_t i = 0; i < 32; i++)
            to[i] = from[16 * i + c];
        return 32;
    case FORMAT_I8S:
    case FORMAT_I8A:
        for (size_t i = 0; i < 32; i++)
            to[i] = from[64 * (i / 4) + 4 * c + i % 4] ^ (format == FORMAT_I8S ? 0x80 : 0);
        return 32;
    case FORMAT_NF4:
        for (size_t i = 0; i < 16; i++)
            to[i] = from[16 * i + c];
        return 16;
    default:
        for (size_t i = 0; i < 16; i++)
            to[i] = (uint8_t)(nibble_at(from, c, 2 * i) | nibble_at(from, c, 2 * i + 1) << 4);
        return 16;
    }
}

void packed_read_own(serverd_dtype dtype, size_t k, const void *column, size_t c, void *out)
{
    const struct packed_form *form = packed_form(dtype);
    const enum dtype_format format = dtype_format_of(dtype);
    const size_t number_bytes = dtype_has_f32_scales(dtype) ? 4 : 2;
    const uint8_t *unit = column;
    uint8_t *block = out;
    for (size_t u = 0; u < k / form->unit_k; u++, unit += form->unit_bytes) {
        memcpy(block, unit + number_bytes * c, number_bytes);
        block += number_bytes;
        const uint8_t *second = unit + number_bytes * PACKED_COLUMNS;
        if (format == FORMAT_I4A) {
            memcpy(block, second + number_bytes * c, number_bytes);
            block += number_bytes;
        } else if (format == FORMAT_I8A || format == FORMAT_I4Z) {
            *block++ = (uint8_t)(second[c] + form->zero);
        }
        for (uint32_t g = 0; g < form->unit_k / PACKED_BLOCK; g++)
            block +=
                read_codes(format, unit + form->header_bytes + g * form->block_bytes, c, block);
    }
}
