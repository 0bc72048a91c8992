/* What is packed comes back bit by bit, for every type with a form of its own. */
#include "base/hash.h"
#include "kernels/cpu/packed.h"
#include "program/dtype.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void fill_random(uint8_t *bytes, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)hash_mix(seed + i);
}

static void check_type(serverd_dtype dtype, size_t n_rows, size_t k)
{
    uint64_t row_bytes;
    size_t packed_size;
    assert_true(dtype_row_bytes(dtype, k, &row_bytes));
    assert_true(packed_bytes(packed_form(dtype), n_rows, k, &packed_size));
    uint8_t *rows = malloc(n_rows * row_bytes), *row = malloc(row_bytes);
    uint8_t *packed = malloc(packed_size);
    fill_random(rows, n_rows * row_bytes, dtype);
    if (dtype_is_own(dtype) && dtype_format_of(dtype) == FORMAT_I4Z) /* zero points of 7 bits */
        for (size_t b = 0; b < n_rows * row_bytes; b += dtype_info(dtype)->block_bytes)
            rows[b + (dtype_has_f32_scales(dtype) ? 4 : 2)] &= 127;
    const serverd_tensor tensor = {.struct_bytes = sizeof tensor,
                                   .dtype = dtype,
                                   .rank = 2,
                                   .dims = {n_rows, k},
                                   .data = rows,
                                   .bytes = n_rows * row_bytes};
    packed_write(&tensor, 0, n_rows, packed);
    for (size_t r = 0; r < n_rows; r++) {
        memset(row, 0xa5, row_bytes);
        packed_read(dtype, k, packed, r, row);
        if (memcmp(row, rows + r * row_bytes, row_bytes) != 0)
            fail_msg("%s: row %zu differs", dtype_info(dtype)->name, r);
    }
    free(rows);
    free(row);
    free(packed);
}

static void every_form_gives_the_files_bytes_back(void **state)
{
    (void)state;
    size_t n_types = 0;
    for (serverd_dtype dtype = 0; dtype < 1 << 12; dtype++) {
        if (!packed_is_own_form(dtype))
            continue;
        check_type(dtype, 37, 768);
        check_type(dtype, 16, 256);
        n_types++;
    }
    assert_true(n_types >= 16 + 39);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_gives_the_files_bytes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
