/* The element types: block sizes and exact conversion to f32. Ids 0..63 are GGUF's
 * (formulas: docs/internals/block-formats.md). A type without a conversion is not loadable. */
#ifndef PROGRAM_DTYPE_H
#define PROGRAM_DTYPE_H

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

struct dtype_info {
    const char *name; /* "Q4_K" */
    uint32_t block_elements, block_bytes;
    /* n_blocks consecutive blocks -> n_blocks * block_elements floats, bit-exact; NULL: the
     * type is known by name and size only and cannot be loaded. Source need not be aligned. */
    void (*to_f32)(const void *blocks, float *out, size_t n_blocks);
};

/* NULL for an unknown or withdrawn id. */
const struct dtype_info *dtype_info(uint32_t dtype);

/* Bytes of one row; false if n is no multiple of the block or the type is unknown. */
bool dtype_row_bytes(uint32_t dtype, uint64_t n_elements, uint64_t *bytes);

#endif
