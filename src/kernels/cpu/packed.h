/* How weights lie in memory for the linear kernels, the same at every instruction-set level.
 *
 * 16 output columns (rows of the file's matrix) stand side by side in a *column block*, whose k
 * runs through *units* of 32 to 256 elements, one behind the other; column blocks follow each
 * other without gaps, so that a matrix is read as one stream. Columns are padded to 16 with
 * scale 0. A unit is
 *
 *   d     f16[16]                   (bf16 or f32, by `scales`)
 *   dmin  f16[16]                   if has_min (f32 as d)
 *   zeros i8[16]                    in place of dmin with SCALES_ZEROS: dmin = -d * zeros
 *   sub-scales  i8[256 / group][16] in units of 256
 *   sub-mins    i8[256 / group][16] in units of 256 with has_min
 *   blocks of codes, one for each 32 k
 *
 * and stands for w = d (* sub-scale) * (code - zero) (+ dmin (* sub-min)), or table[code] - zero
 * for the code. A block of codes has quads (four consecutive k) 0..7 of 16 columns; byte 4c + j
 * of a vector belongs to column c, element j of the quad:
 *
 *   nibbles   64 bytes for each z in 0..3: quad z in the low, quad z + 4 in the high halves
 *   5 bits    nibbles, then 64 bytes: bit q is the fifth bit of quad q
 *   6 bits    nibbles, then 2 x 64 bytes: bits 2q, 2q+1 are the upper bits of quad q (4 + q)
 *   8 bits    64 bytes for each quad
 *
 * Types of plain numbers (and types that have no form here, as f32) are [k][16] numbers. Codes of
 * scaled numbers have units, too, with [k][16] bytes (F8), or [k / 2][16] bytes whose low half is
 * the even k (NF4), behind d.
 *
 * Every form holds all that the type's blocks hold, so that it can be turned back. */
#ifndef KERNELS_CPU_PACKED_H
#define KERNELS_CPU_PACKED_H

#include "serverd/delegate.h"

#include <stdbool.h>
#include <stddef.h>

#define PACKED_COLUMNS 16u
#define PACKED_BLOCK   32u /* k of one block of codes */

enum packed_codes {
    CODES_NIBBLE = 0,
    CODES_TABLE, /* nibbles that index `table` */
    CODES_5BIT,
    CODES_6BIT,
    CODES_8BIT,
    CODES_F32,
    CODES_F16,
    CODES_BF16,
    CODES_F8,
    CODES_NF4
};

enum packed_scales {
    SCALES_F16 = 0,   /* one for a unit of 32, 64 or 128 */
    SCALES_BF16,      /* units of 32 */
    SCALES_SUPER,     /* units of 256: f16 times i8 */
    SCALES_F32,       /* as SCALES_F16 */
    SCALES_ZEROS,     /* as SCALES_F16, with zero points for minima */
    SCALES_ZEROS_F32, /* as SCALES_F32, with zero points for minima */
};

struct packed_form {
    const char *name;
    uint8_t codes, scales;
    bool has_min;
    uint8_t group; /* k of one sum that is scaled: 32 or 16 */
    uint8_t zero;
    int8_t table[16];
    uint32_t unit_k, unit_bytes; /* of CODES_F32 and on: 1 */
    uint32_t header_bytes;       /* before the blocks of codes */
    uint32_t block_bytes;        /* of one block of codes */
};

/* The form of a type; the f32 form for types that have none of their own. */
const struct packed_form *packed_form(serverd_dtype dtype);
/* That the form is not the f32 one in place of one of its own. */
bool packed_is_own_form(serverd_dtype dtype);

static inline bool packed_is_float(const struct packed_form *form)
{
    return form->codes >= CODES_F32;
}

/* Bytes of one column block; of a whole matrix [n_out, k]. False: overflow. */
size_t packed_column_bytes(const struct packed_form *form, size_t k);
bool packed_bytes(const struct packed_form *form, size_t n_out, size_t k, size_t *out);

/* Writes rows first_row .. first_row + n_rows - 1 of a matrix into `dst` (start of the whole);
 * first_row is a multiple of 16, n_rows too unless it reaches the end. */
void packed_write(const serverd_tensor *tensor, size_t first_row, size_t n_rows, void *dst);

/* unpack.c: the file's bytes of one row, bit by bit what packed_write read. Only of types with a
 * form of their own (packed_is_own_form). */
void packed_read(serverd_dtype dtype, size_t k, const void *packed, size_t row, void *out);
/* Of n elements from `begin` on; both are multiples of the type's block. */
void packed_read_part(serverd_dtype dtype, size_t k, const void *packed, size_t row, size_t begin,
                      size_t n, void *out);

/* unpack_own.c: the same of our own types, from column `c` of a column block. */
void packed_read_own(serverd_dtype dtype, size_t k, const void *column, size_t c, void *out);

#endif
