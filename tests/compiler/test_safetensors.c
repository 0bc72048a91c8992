/* safetensors files: what the header states is checked before it is believed. */
#include "base/buffer.h"
#include "base/limits.h"
#include "compiler/safetensors.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;
static struct arena *arena;
static struct safetensors table;

/* The file of this header and so many bytes of data, read. */
static serverd_status read_header(const char *header, size_t n_data)
{
    struct buffer b;
    struct file file;
    uint64_t n = strlen(header);
    buffer_init(&b, 1 * MIB);
    buffer_append(&b, &n, sizeof n);
    buffer_append_str(&b, header);
    for (size_t i = 0; i < n_data; i++)
        buffer_append_char(&b, (char)i);
    struct memory_file memory = memory_file_create();
    memory_file_write(&memory, b.data, b.len);
    assert_int_equal(file_open(memory.path, &file, &err), SERVERD_OK);
    arena_reset(arena);
    serverd_status status = safetensors_read("F", &file, arena, &table, &err);
    file_close(&file);
    memory_file_close(&memory);
    buffer_deinit(&b);
    return status;
}

static serverd_status read_bytes(const void *bytes, size_t n)
{
    struct file file;
    struct memory_file memory = memory_file_create();
    memory_file_write(&memory, bytes, n);
    assert_int_equal(file_open(memory.path, &file, &err), SERVERD_OK);
    serverd_status status = safetensors_read("F", &file, arena, &table, &err);
    file_close(&file);
    memory_file_close(&memory);
    return status;
}

static void expect(const char *header, size_t n_data, serverd_status code, const char *text)
{
    serverd_status status = read_header(header, n_data);
    if (status != code || !strstr(err.text, text))
        fail_msg("%s: status %d instead of %d, \"%s\" should say \"%s\"", header, status, code,
                 status == SERVERD_OK ? "" : err.text, text);
}

static void tensors_are_read_in_the_order_of_their_data(void **state)
{
    (void)state;
    const char header[] =
        "{\"__metadata__\": {\"format\": \"pt\"}, "
        "\"b\": {\"dtype\": \"F32\", \"shape\": [2, 3], \"data_offsets\": [4, 28]}, "
        "\"e\": {\"dtype\": \"I8\", \"shape\": [0, 9], \"data_offsets\": [4, 4]}, "
        "\"a\": {\"dtype\": \"BF16\", \"shape\": [2], \"data_offsets\": [0, 4]}, "
        "\"s\": {\"dtype\": \"F64\", \"shape\": [], \"data_offsets\": [28, 36]}}  ";
    assert_int_equal(read_header(header, 36), SERVERD_OK);
    assert_int_equal(table.n_tensors, 4);
    assert_string_equal(table.tensors[0].name, "a");
    assert_string_equal(table.tensors[1].name, "e");
    assert_string_equal(table.tensors[2].name, "b");
    assert_string_equal(table.tensors[2].dtype, "F32");
    assert_int_equal(table.tensors[2].rank, 2);
    assert_int_equal(table.tensors[2].dims[1], 3);
    assert_int_equal(table.tensors[2].offset, 8 + strlen(header) + 4);
    assert_int_equal(table.tensors[2].bytes, 24);
    assert_int_equal(table.tensors[3].rank, 0);
    assert_int_equal(read_header("{}", 0), SERVERD_OK);
    assert_int_equal(table.n_tensors, 0);
}

static void headers_that_do_not_fit_their_file_are_refused(void **state)
{
    (void)state;
    static const unsigned char beyond[] = {100, 0, 0, 0, 0, 0, 0, 0, '{', '}'},
                               huge[] = {255, 255, 255, 255, 255, 255, 255, 255, '{', '}'},
                               none[] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'},
                               pickle[] = {0x80, 2, 'c', 'o', 's', '\n', 's', 'y', 's', '.'};
    assert_int_equal(read_bytes("", 0), SERVERD_CORRUPT);
    assert_int_equal(read_bytes("{}{}{}{", 7), SERVERD_CORRUPT);
    assert_int_equal(read_bytes(beyond, sizeof beyond), SERVERD_CORRUPT);
    assert_int_equal(read_bytes(huge, sizeof huge), SERVERD_CORRUPT);
    assert_int_equal(read_bytes(none, sizeof none), SERVERD_CORRUPT);
    assert_int_equal(read_bytes(pickle, sizeof pickle), SERVERD_UNSUPPORTED);
    assert_non_null(strstr(err.text, "a pickle file"));
}

#define T(name, dtype, shape, offsets)                                                             \
    "\"" name "\": {\"dtype\": \"" dtype "\", \"shape\": " shape ", \"data_offsets\": " offsets "}"

static void each_wrong_field_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *header, *text;
    } cases[] = {
        {" {}", "begins with 0x20"},
        {"[1, 2]", "begins with 0x5b"},
        {"{\"a\": 1}", "a: no object"},
        {"{\"a\"}", "line 1"},
        {"{" T("a", "F32", "[1]", "[0, 4]") ", " T("a", "F32", "[1]", "[0, 4]") "}", "duplicate"},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1]}}", "a: 2 members"},
        {"{\"a\": {\"dtype\": 1, \"shape\": [1], \"data_offsets\": [0, 4]}}", "a.dtype: found 1"},
        {"{" T("a", "F32", "1", "[0, 4]") "}", "a.shape: found 1"},
        {"{" T("a", "F32", "[-1]", "[0, 4]") "}", "a.shape: found an array of 1"},
        {"{" T("a", "F32", "[1.0]", "[0, 4]") "}", "an array of sizes"},
        {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0, 4]") "}", "at most 8"},
        {"{" T("a", "F32", "[4294967296, 4294967296]", "[0, 4]") "}", "64 bits"},
        {"{" T("a", "F32", "[1]", "[0]") "}", "a.data_offsets: found an array of 1"},
        {"{" T("a", "F32", "[1]", "[4, 0]") "}", "bytes 4 to 0 of 4"},
        {"{" T("a", "F32", "[2]", "[0, 8]") "}", "bytes 0 to 8 of 4"},
        {"{" T("a", "F32", "[1]", "[0, 3]") "}", "4 are needed for its shape"},
        {"{" T("a", "U8", "[3]", "[0, 3]") "}", "the tensors end at byte 3 of the data"},
        {"{" T("a", "U8", "[3]", "[1, 4]") "}", "a begins at byte 1"},
        {"{" T("a", "U8", "[3]", "[0, 3]") ", " T("b", "U8", "[2]", "[2, 4]") "}",
         "b begins at byte 2 of the data, the one before ends at 3"},
        {"{" T("a", "U8", "[1]", "[0, 1]") ", " T("b", "U8", "[2]", "[2, 4]") "}",
         "b begins at byte 2 of the data, the one before ends at 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect(cases[i].header, 4, SERVERD_CORRUPT, cases[i].text);
    expect("{" T("a", "F8_E5M2", "[4]", "[0, 4]") "}", 4, SERVERD_UNSUPPORTED,
           "unknown dtype \"F8_E5M2\"");
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    char header[300] = "{\"a\": ";
    memset(header + 6, '[', 200);
    expect(header, 4, SERVERD_CORRUPT, "is nested too deeply");
}

static int make_arena(void **state)
{
    (void)state;
    arena = arena_create(1 * MIB);
    return arena ? 0 : -1;
}

static int drop_arena(void **state)
{
    (void)state;
    arena_destroy(arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_read_in_the_order_of_their_data),
        cmocka_unit_test(headers_that_do_not_fit_their_file_are_refused),
        cmocka_unit_test(each_wrong_field_is_refused_by_name),
        cmocka_unit_test(nesting_is_bounded),
    };
    return cmocka_run_group_tests(tests, make_arena, drop_arena);
}
