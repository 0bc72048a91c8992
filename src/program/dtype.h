/* The element types: block sizes and exact conversion to f32 (formulas:
 * docs/internals/block-formats.md). A type without a conversion is not loadable.
 *
 * Ids 0..63 are GGUF's. Our own hold three things: a format, 128 and on, in the lowest byte; the
 * group G of elements that share a scale, 32 << step, in bits 8 and 9; and whether the scales are
 * f32 instead of f16 (bit 10). A block is one group: scale, minimum or zero point, codes. Rows are
 * whole groups. */
#ifndef PROGRAM_DTYPE_H
#define PROGRAM_DTYPE_H

#include "base/numeric.h"
#include "serverd/delegate.h"

#include <stdbool.h>
#include <stdint.h>

enum dtype {
    DTYPE_F32 = 0,
    DTYPE_F16 = 1,
    DTYPE_Q4_0 = 2,
    DTYPE_Q4_1 = 3,
    DTYPE_Q5_0 = 6,
    DTYPE_Q5_1 = 7,
    DTYPE_Q8_0 = 8,
    DTYPE_Q8_1 = 9,
    DTYPE_Q2_K = 10,
    DTYPE_Q3_K = 11,
    DTYPE_Q4_K = 12,
    DTYPE_Q5_K = 13,
    DTYPE_Q6_K = 14,
    DTYPE_Q8_K = 15,
    DTYPE_IQ2_XXS = 16,
    DTYPE_IQ2_XS = 17,
    DTYPE_IQ3_XXS = 18,
    DTYPE_IQ1_S = 19,
    DTYPE_IQ4_NL = 20,
    DTYPE_IQ3_S = 21,
    DTYPE_IQ2_S = 22,
    DTYPE_IQ4_XS = 23,
    DTYPE_I8 = 24,
    DTYPE_I16 = 25,
    DTYPE_I32 = 26,
    DTYPE_I64 = 27,
    DTYPE_F64 = 28,
    DTYPE_IQ1_M = 29,
    DTYPE_BF16 = 30,
    DTYPE_TQ1_0 = 34,
    DTYPE_TQ2_0 = 35,
    DTYPE_MXFP4 = 39,
    DTYPE_NVFP4 = 40,
    DTYPE_Q1_0 = 41,
    DTYPE_Q2_0 = 42,
    DTYPE_LIMIT = 64
};

enum dtype_format {
    FORMAT_I8S = 128, /* s*q, q -127..127 */
    FORMAT_I8A,       /* s*(q - z), q and z u8 */
    FORMAT_I4S,       /* s*(q - 8) */
    FORMAT_I4A,       /* s*q + m, m a number */
    FORMAT_I4Z,       /* s*(q - z), z 0..127 */
    FORMAT_NF4,       /* s*nf4_values[q] */
    FORMAT_F8,        /* s*E4M3(q); s is always f32 */
    FORMAT_LIMIT
};

struct dtype_info {
    const char *name; /* "Q4_K", "i4a_g64" */
    uint32_t block_elements, block_bytes;
    /* n_blocks consecutive blocks -> n_blocks * block_elements floats, bit-exact; NULL: the
     * type is known by name and size only and cannot be loaded. Source need not be aligned. */
    void (*to_f32)(const void *blocks, float *out, size_t n_blocks);
};

/* What is known of a type without its conversion: who needs no more links no conversion. */
struct dtype_block {
    const char *name; /* of own types the format's, "i4a" */
    uint32_t elements, bytes;
    bool is_loadable; /* dtype_info has to_f32 */
};

/* False for an unknown or withdrawn id. */
bool dtype_block(uint32_t dtype, struct dtype_block *out);

/* The id of an own type; group 32, 64 or 128. F8 has no f16 scales: has_f32_scales is ignored. */
uint32_t dtype_own(enum dtype_format format, uint32_t group, bool has_f32_scales);

static inline bool dtype_is_own(uint32_t dtype)
{
    return (dtype & 0xffu) >= FORMAT_I8S && (dtype & 0xffu) < FORMAT_LIMIT && dtype >> 11 == 0;
}

/* Of an own type. */
static inline enum dtype_format dtype_format_of(uint32_t dtype)
{
    return (enum dtype_format)(dtype & 0xffu);
}

static inline bool dtype_has_f32_scales(uint32_t dtype)
{
    return (dtype >> 10 & 1u) || dtype_format_of(dtype) == FORMAT_F8;
}

/* "i4a"; NULL if it is none. */
const char *dtype_format_name(uint32_t format);

/* What the codes of NF4 and F8 (E4M3 without infinities; 0x7f would be 480) stand for, before the
 * scale. */
extern const float nf4_values[16];
static inline float e4m3_to_f32(uint8_t code)
{
    return f32_from_bits((uint32_t)(code & 0x80u) << 24 | (uint32_t)(code & 0x7fu) << 20) *
           0x1p120f;
}

/* NULL for an unknown or withdrawn id. */
const struct dtype_info *dtype_info(uint32_t dtype);

/* Bytes of one row; false if n is no multiple of the block or the type is unknown. */
bool dtype_row_bytes(uint32_t dtype, uint64_t n_elements, uint64_t *bytes);

#endif
