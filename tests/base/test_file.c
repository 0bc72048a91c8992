#include "base/error.h"
#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#undef fail

static char folder[64];

static const char *path_of(const char *name)
{
    static char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int make_folder(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/serverd-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    (void)unlink(path_of("fifo"));
    (void)unlink(path_of("a"));
    (void)unlink(path_of("empty"));
    return rmdir(folder);
}

static void a_file_is_written_read_and_mapped(void **state)
{
    (void)state;
    serverd_error err;
    assert_int_equal(file_write_atomic(path_of("a"), "first", 5, &err), SERVERD_OK);
    assert_int_equal(file_write_atomic(path_of("a"), "hello world", 11, &err), SERVERD_OK);
    char *text;
    size_t len;
    assert_int_equal(file_read(path_of("a"), 11, &text, &len, &err), SERVERD_OK);
    assert_int_equal(len, 11);
    assert_string_equal(text, "hello world");
    free(text);
    assert_int_not_equal(file_read(path_of("a"), 10, &text, &len, &err), SERVERD_OK);

    struct file file;
    assert_int_equal(file_open(path_of("a"), &file, &err), SERVERD_OK);
    assert_int_equal(file.bytes, 11);
    char part[5];
    assert_int_equal(file_read_at(&file, 6, part, 5, &err), SERVERD_OK);
    assert_memory_equal(part, "world", 5);
    assert_int_equal(file_read_at(&file, 7, part, 5, &err), SERVERD_CORRUPT);
    assert_int_equal(file_read_at(&file, UINT64_MAX, part, 5, &err), SERVERD_CORRUPT);
    struct mapping mapping;
    assert_int_equal(file_map(&file, &mapping, &err), SERVERD_OK);
    file_close(&file);
    file_close(&file);
    assert_int_equal(mapping.bytes, 11);
    assert_memory_equal(mapping.data, "hello world", 11);
    mapping_close(&mapping);
}

static void an_empty_file_maps_to_nothing(void **state)
{
    (void)state;
    serverd_error err;
    assert_int_equal(file_write_atomic(path_of("empty"), "", 0, &err), SERVERD_OK);
    struct file file;
    assert_int_equal(file_open(path_of("empty"), &file, &err), SERVERD_OK);
    struct mapping mapping;
    assert_int_equal(file_map(&file, &mapping, &err), SERVERD_OK);
    assert_null(mapping.data);
    mapping_close(&mapping);
    file_close(&file);
}

static void what_is_no_regular_file_is_refused_by_name(void **state)
{
    (void)state;
    serverd_error err;
    struct file file;
    assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
    const char *const bad[] = {"fifo", "missing", "."};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(file_open(path_of(bad[i]), &file, &err), SERVERD_INVALID);
        assert_non_null(strstr(err.text, bad[i]));
    }
}

static void files_of_proc_are_read_to_their_end(void **state)
{
    (void)state;
    serverd_error err;
    char *text;
    size_t len;
    assert_int_equal(file_read("/proc/self/status", 1 << 20, &text, &len, &err), SERVERD_OK);
    assert_true(len > 100 && strlen(text) == len);
    free(text);
}

static void errors_keep_their_text_and_gain_context(void **state)
{
    (void)state;
    serverd_error err;
    assert_int_equal(fail(&err, SERVERD_CORRUPT, "key %s: found %d", "x", 5), SERVERD_CORRUPT);
    assert_int_equal(error_context(&err, "file %s", "m.gguf"), SERVERD_CORRUPT);
    assert_string_equal(err.text, "file m.gguf: key x: found 5");
    char longer[3 * SERVERD_ERROR_TEXT];
    for (size_t i = 0; i + 2 < sizeof longer; i += 2)
        memcpy(longer + i, "\xc3\xa9", 2);
    longer[sizeof longer - 2] = '\0';
    for (int k = 0; k < 3; k++) {
        (void)fail(&err, SERVERD_INVALID, "%.*s%s", k, "abc", longer);
        size_t n = strlen(err.text);
        assert_true(n < SERVERD_ERROR_TEXT && n > SERVERD_ERROR_TEXT - 16);
        for (int c = 0; c < 20; c++)
            (void)error_context(&err, "context %d", c);
        assert_true(strlen(err.text) < SERVERD_ERROR_TEXT);
        assert_non_null(strstr(err.text, "context 19"));
    }
    for (int code = SERVERD_OK; code <= SERVERD_INTERNAL; code++)
        assert_true(strlen(status_name((serverd_status)code)) > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_written_read_and_mapped),
        cmocka_unit_test(an_empty_file_maps_to_nothing),
        cmocka_unit_test(what_is_no_regular_file_is_refused_by_name),
        cmocka_unit_test(files_of_proc_are_read_to_their_end),
        cmocka_unit_test(errors_keep_their_text_and_gain_context),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
