/* Matrices become bf16 in fragments (fragments.h), whatever type the file has; vectors stay. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cuda/cuda_internal.h"
#include "kernels/cuda/fragments.h"
#include "program/dtype.h"

#include <stdlib.h>
#include <string.h>

enum { LAYOUT_FRAGMENTS = 0x4701 };

serverd_status cuda_form(const serverd_tensor *tensor, serverd_form *out, serverd_error *err)
{
    *out = (serverd_form){.struct_bytes = sizeof *out,
                          .layout = SERVERD_LAYOUT_ROWS,
                          .bytes = tensor->bytes,
                          .alignment = 1};
    if (tensor->rank < 2)
        return SERVERD_OK;
    size_t columns, k, n;
    if (!size_align(tensor->dims[0], FRAGMENT_COLUMNS, &columns) ||
        !size_align(tensor->dims[1], FRAGMENT_K, &k) || !size_mul(columns, k, &n) ||
        !size_mul(n, sizeof(uint16_t), &n))
        return fail(err, SERVERD_NOMEM, "cuda: %s is too large", tensor->name);
    out->layout = LAYOUT_FRAGMENTS;
    out->bytes = n;
    out->alignment = 256;
    return SERVERD_OK;
}

/* A row of the tensor is a column of weights. */
static void place_column(const float *row, size_t column, size_t n_k, uint16_t *out)
{
    for (size_t i = 0; i < n_k; i++)
        out[fragments_weight_at(column, i, n_k)] = f32_to_bf16(row[i]);
}

serverd_status cuda_pack(const serverd_tensor *tensor, const serverd_form *form, uint64_t first_row,
                         uint64_t n_rows, void *dst, serverd_error *err)
{
    const struct dtype_info *type = dtype_info(tensor->dtype);
    const size_t n_k = tensor->dims[1];
    uint64_t row_bytes;
    (void)form;
    if (!type || !type->to_f32 || !tensor->data || !dtype_row_bytes(tensor->dtype, n_k, &row_bytes))
        return fail(err, SERVERD_INTERNAL, "cuda: %s cannot be read", tensor->name);
    float *row = malloc(n_k * sizeof *row);
    if (!row)
        return fail(err, SERVERD_NOMEM, "cuda: no memory for a row of %s", tensor->name);
    const size_t tile = fragments_weights(FRAGMENT_COLUMNS, n_k) * sizeof(uint16_t);
    const uint64_t first_tile = first_row / FRAGMENT_COLUMNS,
                   end_tile = (first_row + n_rows + FRAGMENT_COLUMNS - 1) / FRAGMENT_COLUMNS;
    memset((char *)dst + first_tile * tile, 0, (end_tile - first_tile) * tile);
    for (uint64_t r = first_row; r < first_row + n_rows; r++) {
        type->to_f32((const char *)tensor->data + r * row_bytes, row, n_k / type->block_elements);
        place_column(row, r, n_k, dst);
    }
    free(row);
    return SERVERD_OK;
}
