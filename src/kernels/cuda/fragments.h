/* How matrices lie for tensor cores: in fragments, so that each lane of a warp reads 16 bytes that
 * follow those of the lane before. The tile is mma.m16n8k16's (PTX ISA, "Matrix Fragments for
 * mma.m16n8k16 with floating point type"): with g = lane / 4 and t = lane % 4, lane has
 *
 *   of the weights, 8 columns by 16 k:   b0, b1: k = 2t, 2t + 1   b2, b3: the same + 8   column g
 *   of the rows, 16 rows by 16 k:        a0, a1: row g, k = 2t, 2t + 1   a2, a3: row g + 8
 *                                        a4 .. a7: the same, k + 8
 *   of the results, 16 rows by 8:        c0, c1: row g, column 2t, 2t + 1   c2, c3: row g + 8
 *
 * Rows are bf16: [rows / 16][k / 16][lane][8], k padded to 128.
 *
 * Weights are records [columns / 8][k / chunk], of 512 bytes of codes, 16 for each lane, that hold
 * the tiles of a chunk of k one after the other, and of the chunk's scales:
 *
 *   16 bits   bf16, chunk 32, no scales: b0 b1 b2 b3 of two tiles
 *    8 bits   signed, or floats, chunk 64: a word is a tile, its bytes are b0 b2 b1 b3
 *    4 bits   chunk 128: a word is two tiles, its halves of bytes, low ones first, are
 *             b0 b2 of the first, b0 b2 of the second, b1 b3 of the first, b1 b3 of the second
 *
 * (pairs are apart so that a mask leaves both where the bf16 pair of a tile has them). A scale is
 * for a group of 32 or 16 k of a column. They lie [t][group][scale, minimum][2] in f16, those of
 * columns 2t and 2t + 1, because that is what a lane has the results of. Behind all records there
 * is an f32 for each column, a power of two that its scales and minima are multiplied by; so they
 * use f16's whole range. What an element stands for:
 *
 *   without minima   power scale (code - zero)          zero 8 for 4 bits, 0 for 8
 *   with minima      power (scale code + minimum)
 *   floats           power scale E4M3(code)             without infinities and NaN: 0x7f is 480
 *
 * What is behind the matrix in its last tiles is zero, the scales too. */
#ifndef KERNELS_CUDA_FRAGMENTS_H
#define KERNELS_CUDA_FRAGMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define FRAGMENTS_INLINE static inline __host__ __device__
#else
#define FRAGMENTS_INLINE static inline
#endif

enum { FRAGMENT_COLUMNS = 8, FRAGMENT_ROWS = 16, FRAGMENT_ROW_K = 128, FRAGMENT_CODES = 512 };

/* What the codes of a form are. */
enum fragment_numbers {
    FRAGMENT_WHOLE,
    FRAGMENT_MINIMA /* whole, with a minimum */,
    FRAGMENT_FLOATS
};

/* Forms of weights: name, bits of a code, k of a group under one scale (0: no scales), its numbers.
 * Bits for a weight, the powers left out: 16, 4.5, 5, 8.5, 9, 9, 8.5. */
#define FRAGMENT_FORMS(ROW)                                                                        \
    ROW(BF16, 16, 0, FRAGMENT_FLOATS)                                                              \
    ROW(I4, 4, 32, FRAGMENT_WHOLE)                                                                 \
    ROW(I4_MIN, 4, 32, FRAGMENT_MINIMA)                                                            \
    ROW(I8, 8, 32, FRAGMENT_WHOLE)                                                                 \
    ROW(I8_MIN, 8, 32, FRAGMENT_MINIMA)                                                            \
    ROW(I8_OF_16, 8, 16, FRAGMENT_WHOLE)                                                           \
    ROW(F8, 8, 32, FRAGMENT_FLOATS)

#define FRAGMENT_FORM(name, bits, group, numbers) FRAGMENT_##name,
enum fragment_form { FRAGMENT_FORMS(FRAGMENT_FORM) N_FRAGMENT_FORMS };
#undef FRAGMENT_FORM

struct fragment_shape {
    uint32_t bits, group; /* group 0: bf16 */
    bool has_min;
};

FRAGMENTS_INLINE struct fragment_shape fragments_shape(enum fragment_form form)
{
    struct fragment_shape shape = {16, 0, false};
    switch (form) {
#define FRAGMENT_SHAPE(name, n_bits, k, numbers)                                                   \
    case FRAGMENT_##name:                                                                          \
        shape.bits = n_bits;                                                                       \
        shape.group = k;                                                                           \
        shape.has_min = (numbers) == FRAGMENT_MINIMA;                                              \
        break;
        FRAGMENT_FORMS(FRAGMENT_SHAPE)
#undef FRAGMENT_SHAPE
    default:
        break;
    }
    return shape;
}

FRAGMENTS_INLINE size_t fragments_round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

/* k of a record. */
FRAGMENTS_INLINE uint32_t fragments_chunk(struct fragment_shape shape)
{
    return FRAGMENT_CODES / shape.bits;
}

/* f16 numbers of a record. */
FRAGMENTS_INLINE uint32_t fragments_scales(struct fragment_shape shape)
{
    return shape.group == 0
               ? 0
               : fragments_chunk(shape) / shape.group * FRAGMENT_COLUMNS * (shape.has_min ? 2 : 1);
}

/* Bytes of a record: a multiple of 32. */
FRAGMENTS_INLINE size_t fragments_record(struct fragment_shape shape)
{
    return FRAGMENT_CODES + fragments_scales(shape) * sizeof(uint16_t);
}

/* Records of 8 columns. */
FRAGMENTS_INLINE size_t fragments_n_chunks(struct fragment_shape shape, size_t k)
{
    return fragments_round_up(k, fragments_chunk(shape)) / fragments_chunk(shape);
}

/* Bytes of all records. */
FRAGMENTS_INLINE size_t fragments_records(struct fragment_shape shape, size_t n_columns, size_t k)
{
    return fragments_round_up(n_columns, FRAGMENT_COLUMNS) / FRAGMENT_COLUMNS *
           fragments_n_chunks(shape, k) * fragments_record(shape);
}

/* Bytes of all weights. */
FRAGMENTS_INLINE size_t fragments_weights(struct fragment_shape shape, size_t n_columns, size_t k)
{
    return fragments_records(shape, n_columns, k) +
           (shape.group ? fragments_round_up(n_columns, FRAGMENT_COLUMNS) * sizeof(float) : 0);
}

/* Elements of all rows. */
FRAGMENTS_INLINE size_t fragments_rows(size_t n_rows, size_t k)
{
    return fragments_round_up(n_rows, FRAGMENT_ROWS) * fragments_round_up(k, FRAGMENT_ROW_K);
}

/* Element (row, i) of rows that have k. */
FRAGMENTS_INLINE size_t fragments_row_at(size_t row, size_t i, size_t k)
{
    const size_t tile = row / FRAGMENT_ROWS * (fragments_round_up(k, FRAGMENT_ROW_K) / 16) + i / 16;
    const size_t lane = row % 8 * 4 + i % 8 / 2, word = i % 16 / 8 * 2 + row % 16 / 8;
    return (tile * 32 + lane) * 8 + word * 2 + i % 2;
}

/* Byte of the record of element (column, i) of weights that have n_k of them in a column. */
FRAGMENTS_INLINE size_t fragments_record_at(struct fragment_shape shape, size_t column, size_t i,
                                            size_t n_k)
{
    return (column / FRAGMENT_COLUMNS * fragments_n_chunks(shape, n_k) +
            i / fragments_chunk(shape)) *
           fragments_record(shape);
}

/* Bit of the record where its code begins. */
FRAGMENTS_INLINE uint32_t fragments_code_at(struct fragment_shape shape, size_t column, size_t i)
{
    const uint32_t lane = (uint32_t)(column % 8 * 4 + i % 8 / 2), chunk = fragments_chunk(shape),
                   tile = (uint32_t)(i % chunk / 16), half = (uint32_t)(i % 16 / 8),
                   second = (uint32_t)(i % 2);
    const uint32_t bit = shape.bits == 16  ? tile * 64 + half * 32 + second * 16
                         : shape.bits == 8 ? tile * 32 + half * 8 + second * 16
                                           : tile / 2 * 32 + tile % 2 * 8 + half * 4 + second * 16;
    return lane * 128 + bit;
}

/* Byte of the record where its scale lies; its minimum is 4 bytes on. */
FRAGMENTS_INLINE uint32_t fragments_scale_at(struct fragment_shape shape, size_t column, size_t i)
{
    const uint32_t n_groups = fragments_chunk(shape) / shape.group,
                   group = (uint32_t)(i % fragments_chunk(shape) / shape.group),
                   pair = (uint32_t)(column % 8 / 2);
    return FRAGMENT_CODES + (pair * n_groups + group) * (shape.has_min ? 8 : 4) +
           (uint32_t)(column % 2) * 2;
}

#endif
