/* The container: what a GGUF header states is checked before it is believed. */
#include "tiny_model.h"

#include "base/limits.h"
#include "compiler/gguf_model.h"
#include "program/dtype.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

/* Reads what the writer holds and keeps nothing. */
static serverd_status read_writer(struct gguf_writer *w, struct source *out)
{
    struct buffer bytes;
    buffer_init(&bytes, 64 * MIB);
    gguf_writer_finish(w, &bytes);
    struct memory_file file = memory_file_create();
    memory_file_write(&file, bytes.data, bytes.len);
    serverd_status status = gguf_model_open(file.path, out, &err);
    if (status == SERVERD_OK)
        out->keys.path = "memory"; /* the model names the caller's path in its errors */
    memory_file_close(&file);
    buffer_deinit(&bytes);
    gguf_writer_deinit(w);
    return status;
}

static void expect_refusal(struct gguf_writer *w, serverd_status code, const char *text)
{
    struct source model;
    assert_int_equal(read_writer(w, &model), code);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void expect_bytes_refused(const void *bytes, size_t n, serverd_status code, const char *text)
{
    struct program *program;
    assert_int_equal(compile_bytes(bytes, n, &program, &err), code);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

struct header {
    char magic[4];
    uint32_t version;
    uint64_t n_tensors, n_keys;
};

static void empty_and_foreign_files_are_refused(void **state)
{
    (void)state;
    expect_bytes_refused("", 0, SERVERD_CORRUPT, "bytes are needed");
    expect_bytes_refused("GGU", 3, SERVERD_CORRUPT, "bytes are needed");
    expect_bytes_refused("PK\3\4xxxxxxxxxxxxxxxxxxxxxx", 26, SERVERD_CORRUPT, "not a GGUF file");
}

static void only_versions_2_and_3_are_read(void **state)
{
    (void)state;
    static const struct {
        uint32_t version;
        serverd_status code;
        const char *text;
    } cases[] = {{0, SERVERD_VERSION, "version 0"},
                 {1, SERVERD_VERSION, "version 1"},
                 {4, SERVERD_VERSION, "2 and 3"},
                 {0x03000000u, SERVERD_UNSUPPORTED, "big-endian"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct header header = {{'G', 'G', 'U', 'F'}, cases[i].version, 0, 0};
        expect_bytes_refused(&header, sizeof header, cases[i].code, cases[i].text);
    }
    struct gguf_writer w;
    tiny_model_write(&w, NULL);
    w.version = 2;
    assert_int_equal(compile_writer(&w, &err), SERVERD_OK);
}

static void counts_beyond_the_file_are_refused_before_memory_is_taken(void **state)
{
    (void)state;
    struct header header = {{'G', 'G', 'U', 'F'}, 3, 60000, 0};
    expect_bytes_refused(&header, sizeof header, SERVERD_CORRUPT, "60000 tensors");
    header = (struct header){{'G', 'G', 'U', 'F'}, 3, 0, UINT64_MAX};
    expect_bytes_refused(&header, sizeof header, SERVERD_CORRUPT, "keys");
    header = (struct header){{'G', 'G', 'U', 'F'}, 3, UINT64_MAX / 2, 0};
    expect_bytes_refused(&header, sizeof header, SERVERD_CORRUPT, "tensors");
}

static void string_lengths_beyond_the_file_are_refused(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {1000, LIMIT_GGUF_NAME_BYTES + 1, UINT64_MAX, 1ull << 63};
    for (size_t i = 0; i < 4; i++) {
        struct {
            struct header header;
            uint64_t length;
            char rest[16];
        } file = {{{'G', 'G', 'U', 'F'}, 3, 0, 1}, lengths[i], {0}};
        expect_bytes_refused(&file, sizeof file, SERVERD_CORRUPT, "a string of");
    }
}

static void array_counts_are_held_against_the_bytes_left(void **state)
{
    (void)state;
    static const uint64_t counts[] = {1000, 1ull << 32, UINT64_MAX, UINT64_MAX / 4 + 1};
    for (size_t i = 0; i < 4; i++) {
        struct gguf_writer w;
        gguf_writer_init(&w);
        gguf_put_array(&w, "a.list", SOURCE_F32, counts[i], "", 0);
        expect_refusal(&w, SERVERD_CORRUPT, "key a.list: an array of");
    }
}

static void arrays_of_arrays_and_unknown_types_are_refused(void **state)
{
    (void)state;
    struct gguf_writer w;
    gguf_writer_init(&w);
    gguf_put_array(&w, "a.list", SOURCE_ARRAY, 1, "123456789012", 12);
    expect_refusal(&w, SERVERD_CORRUPT, "array items have type 9");
    gguf_writer_init(&w);
    gguf_put_array(&w, "a.list", 77, 1, "1234", 4);
    expect_refusal(&w, SERVERD_CORRUPT, "array items have type 77");
}

static void a_bool_is_0_or_1(void **state)
{
    (void)state;
    struct gguf_writer w;
    gguf_writer_init(&w);
    gguf_put_array(&w, "a.flags", SOURCE_BOOL, 2, "\1\2", 2);
    expect_refusal(&w, SERVERD_CORRUPT, "a bool is 2");
}

static void a_key_comes_once_and_has_a_name(void **state)
{
    (void)state;
    struct gguf_writer w;
    gguf_writer_init(&w);
    gguf_put_u32(&w, "a.twice", 1);
    gguf_put_f32(&w, "a.twice", 1.0f);
    expect_refusal(&w, SERVERD_CORRUPT, "key a.twice is there twice");
    gguf_writer_init(&w);
    gguf_put_u32(&w, "", 1);
    expect_refusal(&w, SERVERD_CORRUPT, "its name is empty");
}

static void alignment_is_a_power_of_two_within_bounds(void **state)
{
    (void)state;
    static const uint32_t bad[] = {0, 1, 4, 24, 33, 1u << 21, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct gguf_writer w;
        gguf_writer_init(&w);
        gguf_put_u32(&w, "general.alignment", bad[i]);
        tiny_put_tensor(&w, "x", 1, 8);
        expect_refusal(&w, SERVERD_CORRUPT, "general.alignment");
    }
}

static void a_tensor_comes_once(void **state)
{
    (void)state;
    struct gguf_writer w;
    gguf_writer_init(&w);
    tiny_put_tensor(&w, "x", 1, 8);
    tiny_put_tensor(&w, "x", 1, 8);
    expect_refusal(&w, SERVERD_CORRUPT, "tensor x is there twice");
}

/* One tensor record and 64 bytes of data. */
static void expect_tensor_refused(uint32_t rank, const uint64_t *dims, uint32_t dtype,
                                  serverd_status code, const char *text)
{
    struct gguf_writer w;
    gguf_writer_init(&w);
    char zeros[64] = {0};
    gguf_put_tensor(&w, "x", dtype, rank, dims, zeros, sizeof zeros);
    expect_refusal(&w, code, text);
}

static void tensor_shapes_are_checked_with_overflow(void **state)
{
    (void)state;
    uint64_t one[] = {1, 1, 1, 1, 1}, zero[] = {0, 8}, wide[] = {1, 1ull << 62},
             product[] = {1ull << 33, 1ull << 33}, negative[] = {UINT64_MAX, 8}, long_[] = {100, 8};
    expect_tensor_refused(0, one, DTYPE_F32, SERVERD_CORRUPT, "0 dims");
    expect_tensor_refused(5, one, DTYPE_F32, SERVERD_CORRUPT, "5 dims");
    expect_tensor_refused(2, zero, DTYPE_F32, SERVERD_CORRUPT, "dim 0 is 0");
    expect_tensor_refused(2, negative, DTYPE_F32, SERVERD_CORRUPT, "dim 0 is");
    expect_tensor_refused(2, wide, DTYPE_F32, SERVERD_CORRUPT, "tensor x");
    expect_tensor_refused(2, product, DTYPE_F32, SERVERD_CORRUPT, "tensor x");
    expect_tensor_refused(2, long_, DTYPE_F32, SERVERD_CORRUPT, "tensor x");
}

static void rows_are_whole_blocks_of_a_known_type(void **state)
{
    (void)state;
    uint64_t dims[] = {1, 8};
    expect_tensor_refused(2, dims, DTYPE_Q8_0, SERVERD_CORRUPT, "Q8_0 blocks of 32");
    expect_tensor_refused(2, dims, 4, SERVERD_UNSUPPORTED, "unknown element type 4");
    expect_tensor_refused(2, dims, 1000000, SERVERD_UNSUPPORTED, "unknown element type 1000000");
}

/* Offset of the last tensor record: the last 8 bytes of the records. */
static void expect_offset_refused(uint64_t offset, const char *text)
{
    struct gguf_writer w;
    gguf_writer_init(&w);
    tiny_put_tensor(&w, "x", 2, 8);
    tiny_put_tensor(&w, "y", 2, 8);
    memcpy(w.records.data + w.records.len - sizeof offset, &offset, sizeof offset);
    expect_refusal(&w, SERVERD_CORRUPT, text);
}

static void tensors_lie_aligned_inside_the_data_and_apart(void **state)
{
    (void)state;
    expect_offset_refused(33, "no multiple of 32");
    expect_offset_refused(128, "at offset 128 of the data");
    expect_offset_refused(UINT64_MAX - 31, "of the data");
    expect_offset_refused(32, "overlap");
    expect_offset_refused(0, "overlap");
}

static void any_integer_type_serves_as_an_integer(void **state)
{
    (void)state;
    struct gguf_writer w;
    gguf_writer_init(&w);
    gguf_put_u64(&w, "a.u64", 7);
    gguf_put_array(&w, "a.list", SOURCE_I8, 3, "\1\2\377", 3);
    gguf_put_string(&w, "a.text", "seven");
    struct source model;
    assert_int_equal(read_writer(&w, &model), SERVERD_OK);
    uint32_t x = 0, each[2] = {0};
    assert_int_equal(source_get_u32(&model.keys, "a.u64", 0, 10, &x, &err), SERVERD_OK);
    assert_int_equal(x, 7);
    assert_int_equal(source_get_u32(&model.keys, "a.missing", 0, 10, &x, &err), SERVERD_OK);
    assert_int_equal(x, 7);
    assert_int_equal(source_get_u32(&model.keys, "a.u64", 0, 6, &x, &err), SERVERD_CORRUPT);
    assert_non_null(strstr(err.text, "key a.u64: 7, 0..6 is allowed"));
    assert_int_equal(source_get_u32(&model.keys, "a.text", 0, 6, &x, &err), SERVERD_CORRUPT);
    assert_non_null(strstr(err.text, "found string"));
    assert_int_equal(source_get_u32_each(&model.keys, "a.list", 2, 0, 9, each, &err), SERVERD_OK);
    assert_int_equal(each[1], 2);
    uint32_t three[3];
    assert_int_equal(source_get_u32_each(&model.keys, "a.list", 3, 0, 9, three, &err),
                     SERVERD_CORRUPT);
    assert_non_null(strstr(err.text, "-1"));
    source_close(&model);
}

static void a_float_is_finite_and_in_range(void **state)
{
    (void)state;
    struct gguf_writer w;
    gguf_writer_init(&w);
    gguf_put_f32(&w, "a.nan", __builtin_nanf(""));
    gguf_put_f32(&w, "a.big", 1e30f);
    struct source model;
    assert_int_equal(read_writer(&w, &model), SERVERD_OK);
    double x = 0;
    assert_int_equal(source_get_f64(&model.keys, "a.nan", 0, 1, &x, &err), SERVERD_CORRUPT);
    assert_int_equal(source_get_f64(&model.keys, "a.big", 0, 1, &x, &err), SERVERD_CORRUPT);
    source_close(&model);
}

/* ---- split models -------------------------------------------------------------------------- */

/* Shard `number` of a tiny model of two: keys and half the tensors, or the other half. */
static void write_shard(const char *folder, uint32_t number, uint32_t stated_number,
                        uint32_t n_tensors)
{
    struct gguf_writer w;
    struct buffer bytes;
    char path[128];
    if (number == 0) {
        tiny_model_write(&w, "output_norm.weight");
    } else {
        gguf_writer_init(&w);
        tiny_put_tensor(&w, "output_norm.weight", 0, 8);
    }
    gguf_put_u32(&w, "split.no", stated_number);
    gguf_put_u32(&w, "split.count", 2);
    gguf_put_u32(&w, "split.tensors.count", n_tensors);
    buffer_init(&bytes, 1 * MIB);
    gguf_writer_finish(&w, &bytes);
    (void)snprintf(path, sizeof path, "%s/tiny-%05u-of-00002.gguf", folder, number + 1);
    assert_int_equal(file_write_atomic(path, bytes.data, bytes.len, &err), SERVERD_OK);
    buffer_deinit(&bytes);
    gguf_writer_deinit(&w);
}

static void compile_split(const char *folder, uint32_t any, serverd_status code, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/tiny-%05u-of-00002.gguf", folder, any + 1);
    struct source model;
    assert_int_equal(gguf_model_open(path, &model, &err), code);
    if (code != SERVERD_OK && !strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    if (code == SERVERD_OK) {
        assert_int_equal(model.n_mappings, 2);
        assert_int_equal(model.n_tensors, 11);
        const char *data = source_find(&model, "output_norm.weight")->data;
        const char *shard = model.mappings[1].data;
        assert_true(data > shard && data < shard + model.mappings[1].bytes);
        source_close(&model);
    }
}

static void a_split_model_opens_by_any_shard_and_must_be_whole(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_gguf_XXXXXX", path[128];
    assert_non_null(mkdtemp(folder));
    write_shard(folder, 0, 0, 11);
    compile_split(folder, 0, SERVERD_INVALID, "00002-of-00002");
    write_shard(folder, 1, 1, 11);
    compile_split(folder, 0, SERVERD_OK, "");
    compile_split(folder, 1, SERVERD_OK, "");
    write_shard(folder, 1, 0, 11);
    compile_split(folder, 0, SERVERD_CORRUPT, "shard 0 of 2");
    write_shard(folder, 1, 1, 12);
    compile_split(folder, 0, SERVERD_CORRUPT, "shard 1 of 2 with 12 tensors");
    write_shard(folder, 0, 0, 12);
    compile_split(folder, 0, SERVERD_CORRUPT, "11 tensors in all shards, 12 were announced");
    for (uint32_t i = 1; i <= 2; i++) {
        (void)snprintf(path, sizeof path, "%s/tiny-%05u-of-00002.gguf", folder, i);
        assert_int_equal(remove(path), 0);
    }
    assert_int_equal(remove(folder), 0);
}

static void a_shard_under_another_name_is_refused(void **state)
{
    (void)state;
    struct gguf_writer w;
    tiny_model_write(&w, NULL);
    gguf_put_u32(&w, "split.no", 0);
    gguf_put_u32(&w, "split.count", 2);
    expect_refusal(&w, SERVERD_INVALID, "-NNNNN-of-NNNNN.gguf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_and_foreign_files_are_refused),
        cmocka_unit_test(only_versions_2_and_3_are_read),
        cmocka_unit_test(counts_beyond_the_file_are_refused_before_memory_is_taken),
        cmocka_unit_test(string_lengths_beyond_the_file_are_refused),
        cmocka_unit_test(array_counts_are_held_against_the_bytes_left),
        cmocka_unit_test(arrays_of_arrays_and_unknown_types_are_refused),
        cmocka_unit_test(a_bool_is_0_or_1),
        cmocka_unit_test(a_key_comes_once_and_has_a_name),
        cmocka_unit_test(alignment_is_a_power_of_two_within_bounds),
        cmocka_unit_test(a_tensor_comes_once),
        cmocka_unit_test(tensor_shapes_are_checked_with_overflow),
        cmocka_unit_test(rows_are_whole_blocks_of_a_known_type),
        cmocka_unit_test(tensors_lie_aligned_inside_the_data_and_apart),
        cmocka_unit_test(any_integer_type_serves_as_an_integer),
        cmocka_unit_test(a_float_is_finite_and_in_range),
        cmocka_unit_test(a_split_model_opens_by_any_shard_and_must_be_whole),
        cmocka_unit_test(a_shard_under_another_name_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
