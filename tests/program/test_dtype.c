/* Element types against what tests/tools/make_dtype_golden.py wrote, bit for bit. */
#include "base/file.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "program/dtype.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *folder;
static serverd_error err;

static char *read_golden(const char *name, const char *suffix, size_t *len)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s", folder, name, suffix);
    char *bytes;
    if (file_read(path, 16u << 20, &bytes, len, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return bytes;
}

enum { ALL_IDS = 1 << 12 };

static const struct dtype_info *find(const char *name)
{
    for (uint32_t i = 0; i < ALL_IDS; i++)
        if (dtype_info(i) && strcmp(dtype_info(i)->name, name) == 0)
            return dtype_info(i);
    return NULL;
}

static uint32_t bits_of(float x)
{
    return x != x ? 0x7fc00000u : f32_bits(x);
}

/* From heap memory of the exact sizes, off by one byte from any alignment: the sanitizers see a
 * read or write outside. */
static float *convert(const struct dtype_info *info, const void *blocks, size_t n)
{
    size_t bytes = n * info->block_bytes;
    char *odd = malloc(bytes + 1);
    float *out = malloc(n * info->block_elements * sizeof *out);
    assert_non_null(odd);
    assert_non_null(out);
    memcpy(odd + 1, blocks, bytes);
    info->to_f32(odd + 1, out, n);
    free(odd);
    return out;
}

static void chosen_blocks_agree(const char *name)
{
    size_t len;
    char *golden = read_golden(name, ".bin", &len);
    const struct dtype_info *info = find(name);
    assert_non_null(info);
    uint32_t n;
    assert_true(len >= sizeof n);
    memcpy(&n, golden, sizeof n);
    size_t n_floats = (size_t)n * info->block_elements;
    assert_int_equal(len, sizeof n + (size_t)n * info->block_bytes + n_floats * sizeof(float));
    const char *blocks = golden + sizeof n, *expected = blocks + (size_t)n * info->block_bytes;
    float *out = convert(info, blocks, n);
    for (size_t i = 0; i < n_floats; i++) {
        uint32_t bits;
        memcpy(&bits, expected + i * sizeof bits, sizeof bits);
        if (bits != bits_of(out[i]))
            fail_msg("%s: block %zu, element %zu is %a (%08x), expected %a (%08x)", name,
                     i / info->block_elements, i % info->block_elements, (double)out[i],
                     bits_of(out[i]), (double)f32_from_bits(bits), bits);
    }
    free(out);
    free(golden);
}

static void every_type_converts_chosen_blocks_exactly(void **state)
{
    (void)state;
    static const char *const names[] = {"Q4_0",   "Q4_1",   "Q5_0",    "Q5_1",  "Q8_0",    "Q2_K",
                                        "Q3_K",   "Q4_K",   "Q5_K",    "Q6_K",  "IQ1_S",   "IQ1_M",
                                        "IQ2_S",  "IQ2_XS", "IQ2_XXS", "IQ3_S", "IQ3_XXS", "IQ4_NL",
                                        "IQ4_XS", "TQ1_0",  "TQ2_0",   "MXFP4", "NVFP4"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        chosen_blocks_agree(names[i]);
}

/* The same bytes as the maker's: SplitMix64 from 1; for the 16-bit types all numbers there are. */
static uint8_t *random_blocks(const struct dtype_info *info, size_t n)
{
    size_t bytes = n * info->block_bytes;
    uint8_t *blocks = malloc(bytes + 8);
    assert_non_null(blocks);
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = hash_mix(1 + i / 8 * 0x9e3779b97f4a7c15u);
        if (info->block_elements == 1)
            word = (i / 2) * 0x0001000100010001u + 0x0003000200010000u;
        memcpy(blocks + i, &word, sizeof word);
    }
    return blocks;
}

static void random_blocks_agree(const char *name, size_t n, const char *expected)
{
    const struct dtype_info *info = find(name);
    assert_non_null(info);
    uint8_t *blocks = random_blocks(info, n);
    float *out = convert(info, blocks, n);
    for (size_t i = 0; i < n * info->block_elements; i++)
        out[i] = f32_from_bits(bits_of(out[i]));
    uint8_t digest[32];
    sha256_bytes(out, n * info->block_elements * sizeof *out, digest);
    char hex[65];
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    if (strcmp(hex, expected) != 0)
        fail_msg("%s: the conversion of %zu random blocks has the hash %s, expected %s", name, n,
                 hex, expected);
    free(out);
    free(blocks);
}

static void every_type_converts_random_bytes_exactly(void **state)
{
    (void)state;
    size_t len;
    char *text = read_golden("random", ".txt", &len), *rest = text;
    int n_types = 0, used;
    char name[16], digest[65];
    unsigned n;
    while (sscanf(rest, "%15s %u %64s%n", name, &n, digest, &used) == 3) {
        random_blocks_agree(name, n, digest);
        rest += used;
        n_types++;
    }
    assert_int_equal(n_types, 25 + 39);
    free(text);
}

static void f32_is_copied_with_every_bit(void **state)
{
    (void)state;
    const uint32_t in[] = {0, 0x80000000u, 1, 0x7f800000u, 0x3f800001u, 0xff7fffffu};
    float *out = convert(dtype_info(DTYPE_F32), in, 6);
    assert_memory_equal(out, in, sizeof in);
    free(out);
}

static void the_bit_and_two_bit_types_follow_their_formula(void **state)
{
    (void)state;
    uint8_t block[18] = {0x00, 0x40, 0x05}; /* d = 2, bits 0 and 2; codes 1, 1, 0, 0 */
    float *out = convert(dtype_info(DTYPE_Q1_0), block, 1);
    for (int j = 0; j < 128; j++)
        assert_true(out[j] == (j == 0 || j == 2 ? 2.0f : -2.0f));
    free(out);
    block[17] = 0xe4; /* the last four codes: 0, 1, 2, 3 */
    out = convert(dtype_info(DTYPE_Q2_0), block, 1);
    const float first[] = {0, 0, -2, -2}, last[] = {-2, 0, 2, 4};
    for (int j = 0; j < 4; j++) {
        assert_true(out[j] == first[j]);
        assert_true(out[60 + j] == last[j]);
    }
    free(out);
}

static void ids_without_a_type_are_unknown(void **state)
{
    (void)state;
    static const uint32_t ids[] = {4,
                                   5,
                                   31,
                                   32,
                                   33,
                                   36,
                                   37,
                                   38,
                                   43,
                                   63,
                                   64,
                                   127,
                                   135,
                                   255,
                                   128 | 3 << 8,
                                   FORMAT_F8 | 1 << 10,
                                   128 | 1 << 11,
                                   UINT32_MAX};
    uint64_t bytes;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        assert_null(dtype_info(ids[i]));
        assert_false(dtype_row_bytes(ids[i], 256, &bytes));
    }
}

static void types_that_no_weight_has_do_not_convert(void **state)
{
    (void)state;
    static const uint32_t ids[] = {DTYPE_Q8_1, DTYPE_Q8_K, DTYPE_I8, DTYPE_I16,
                                   DTYPE_I32,  DTYPE_I64,  DTYPE_F64};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        assert_non_null(dtype_info(ids[i]));
        assert_null(dtype_info(ids[i])->to_f32);
    }
}

static void own_ids_say_format_group_and_scales(void **state)
{
    (void)state;
    static const uint32_t groups[] = {32, 64, 128};
    for (uint32_t format = FORMAT_I8S; format < FORMAT_LIMIT; format++)
        for (uint32_t g = 0; g < 3; g++)
            for (int is_f32 = 0; is_f32 < 2; is_f32++) {
                uint32_t id = dtype_own(format, groups[g], is_f32);
                const struct dtype_info *info = dtype_info(id);
                assert_non_null(info);
                assert_true(dtype_is_own(id) && id < ALL_IDS);
                assert_int_equal(dtype_format_of(id), format);
                assert_int_equal(info->block_elements, groups[g]);
                assert_int_equal(dtype_has_f32_scales(id), is_f32 || format == FORMAT_F8);
                const char *name = dtype_format_name(format);
                assert_memory_equal(info->name, name, strlen(name));
                assert_ptr_equal(find(info->name), info);
            }
    for (uint32_t id = 0; id < DTYPE_LIMIT; id++)
        assert_false(dtype_is_own(id));
    assert_null(dtype_format_name(FORMAT_LIMIT));
    assert_null(dtype_format_name(DTYPE_Q4_K));
}

static void rows_are_whole_blocks_and_do_not_overflow(void **state)
{
    (void)state;
    uint64_t bytes = 7;
    assert_true(dtype_row_bytes(DTYPE_Q4_K, 512, &bytes));
    assert_int_equal(bytes, 288);
    assert_true(dtype_row_bytes(DTYPE_F16, 3, &bytes));
    assert_int_equal(bytes, 6);
    assert_false(dtype_row_bytes(DTYPE_Q4_K, 511, &bytes));
    assert_false(dtype_row_bytes(DTYPE_F32, UINT64_MAX / 2, &bytes));
    assert_int_equal(bytes, 6);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_converts_chosen_blocks_exactly),
        cmocka_unit_test(every_type_converts_random_bytes_exactly),
        cmocka_unit_test(f32_is_copied_with_every_bit),
        cmocka_unit_test(the_bit_and_two_bit_types_follow_their_formula),
        cmocka_unit_test(ids_without_a_type_are_unknown),
        cmocka_unit_test(types_that_no_weight_has_do_not_convert),
        cmocka_unit_test(own_ids_say_format_group_and_scales),
        cmocka_unit_test(rows_are_whole_blocks_and_do_not_overflow),
    };
    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    folder = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
