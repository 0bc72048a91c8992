/* What a command line and files make of a run's arguments. */
#include "tools/run_program/arguments.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static serverd_error err;

static const char schema_text[] =
    "{\"type\":\"object\",\"properties\":{\"question\":{\"type\":\"string\"},"
    "\"width\":{\"type\":\"integer\"},\"ratio\":{\"type\":\"number\"},"
    "\"is_short\":{\"type\":\"boolean\"},\"words\":{\"type\":\"array\"},\"any\":{}}}";

static json_t *schema;

static int set_up(void **state)
{
    (void)state;
    schema = json_loads(schema_text, 0, NULL);
    return schema == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    json_decref(schema);
    return 0;
}

static char *file_with(const char *text, size_t n)
{
    static char path[64];
    (void)snprintf(path, sizeof path, "/tmp/test_arguments.XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, n), n);
    assert_int_equal(close(fd), 0);
    return path;
}

static void a_value_has_the_declared_type(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"question=Why?", "\"Why?\""},
        {"question=", "\"\""},
        {"question=a=b", "\"a=b\""},
        {"question=12", "\"12\""},
        {"question={\"a\":1}", "\"{\\\"a\\\":1}\""},
        {"width=3", "3"},
        {"width=-3", "-3"},
        {"width=3.5", "3.5"}, /* which the server refuses, with the program's own words */
        {"ratio=1e3", "1000.0"},
        {"is_short=true", "true"},
        {"words=[\"a\", \"b\"]", "[\"a\",\"b\"]"},
        {"any={\"b\":1,\"a\":null}", "{\"b\":1,\"a\":null}"},
        {"any=\"x\"", "\"x\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *args = json_object();
        char name[32] = {0};
        memcpy(name, rows[i][0], strcspn(rows[i][0], "="));
        assert_int_equal(argument_add(args, rows[i][0], schema, &err), SERVERD_OK);
        char *text = json_dumps(json_object_get(args, name), JSON_COMPACT | JSON_ENCODE_ANY);
        assert_string_equal(text, rows[i][1]);
        free(text);
        json_decref(args);
    }
}

static void what_is_no_argument_is_refused_by_name(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"width", "not NAME=VALUE"},
        {"=3", "not NAME=VALUE"},
        {"", "not NAME=VALUE"},
        {"widht=3", "did you mean width?"},
        {"zzzzzzzz=3", "there is no argument zzzzzzzz"},
        {"width=three", "--arg width: \"three\" is not JSON of an integer"},
        {"width=", "--arg width: \"\" is not JSON"},
        {"words=a,b", "--arg words: \"a,b\" is not JSON of an array"},
        {"any={\"a\":1,\"a\":2}", "duplicate"},
        {"question=\xff", "not UTF-8"},
        {"question=@/nonexistent/file", "--arg question: /nonexistent/file"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *args = json_object();
        assert_int_equal(argument_add(args, rows[i][0], schema, &err), SERVERD_INVALID);
        if (!strstr(err.text, rows[i][1]))
            fail_msg("\"%s\" gives \"%s\", expected \"%s\"", rows[i][0], err.text, rows[i][1]);
        assert_int_equal(json_object_size(args), 0);
        json_decref(args);
    }
}

static void an_argument_comes_once(void **state)
{
    (void)state;
    json_t *args = json_object();
    assert_int_equal(argument_add(args, "width=3", schema, &err), SERVERD_OK);
    assert_int_equal(argument_add(args, "width=4", schema, &err), SERVERD_INVALID);
    assert_int_equal(json_integer_value(json_object_get(args, "width")), 3);
    json_decref(args);
}

static void a_file_is_a_value_too(void **state)
{
    (void)state;
    char pair[128];
    json_t *args = json_object();
    char *path = file_with("two\nlines\n", 10);
    (void)snprintf(pair, sizeof pair, "question=@%s", path);
    assert_int_equal(argument_add(args, pair, schema, &err), SERVERD_OK);
    assert_string_equal(json_string_value(json_object_get(args, "question")), "two\nlines");
    assert_int_equal(unlink(path), 0);
    path = file_with("[1,\n 2]\n", 8);
    (void)snprintf(pair, sizeof pair, "words=@%s", path);
    assert_int_equal(argument_add(args, pair, schema, &err), SERVERD_OK);
    assert_int_equal(json_array_size(json_object_get(args, "words")), 2);
    assert_int_equal(unlink(path), 0);
    json_decref(args);
}

static void lines_of_a_batch_are_items_or_arguments(void **state)
{
    (void)state;
    static const char text[] = "{\"text\":\"a\"}\n"
                               "\n"
                               "{\"args\":{\"text\":\"b\"},\"seed\":7,\"id\":\"x\"}\r\n"
                               "   \n"
                               "{\"args\":{\"text\":\"c\"},\"text\":\"d\"}\n"
                               "{\"args\":\"e\"}\n"
                               "{}";
    static const char expected[] = "[{\"args\":{\"text\":\"a\"}},"
                                   "{\"args\":{\"text\":\"b\"},\"seed\":7,\"id\":\"x\"},"
                                   "{\"args\":{\"args\":{\"text\":\"c\"},\"text\":\"d\"}},"
                                   "{\"args\":{\"args\":\"e\"}},"
                                   "{\"args\":{}}]";
    json_t *items;
    char *path = file_with(text, sizeof text - 1);
    assert_int_equal(arguments_read_batch(path, &items, &err), SERVERD_OK);
    char *got = json_dumps(items, JSON_COMPACT);
    assert_string_equal(got, expected);
    free(got);
    json_decref(items);
    assert_int_equal(unlink(path), 0);
}

static void a_bad_line_is_named(void **state)
{
    (void)state;
    static const char *const rows[][2] = {{"{}\n{\n", "line 2"},
                                          {"{}\n\n[1]\n", "line 3: no object"},
                                          {"\n \n", "no line in it"},
                                          {"", "no line in it"},
                                          {"{\"a\":1,\"a\":2}", "line 1"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *items = NULL;
        char *path = file_with(rows[i][0], strlen(rows[i][0]));
        assert_int_equal(arguments_read_batch(path, &items, &err), SERVERD_INVALID);
        if (!strstr(err.text, rows[i][1]))
            fail_msg("row %zu gives \"%s\"", i, err.text);
        assert_null(items);
        assert_int_equal(unlink(path), 0);
    }
}

static void arguments_are_an_object(void **state)
{
    (void)state;
    json_t *args;
    char *path = file_with("{\"a\":\n[1]}", 10);
    assert_int_equal(arguments_read(path, &args, &err), SERVERD_OK);
    assert_int_equal(json_object_size(args), 1);
    json_decref(args);
    assert_int_equal(unlink(path), 0);
    path = file_with("[1]", 3);
    assert_int_equal(arguments_read(path, &args, &err), SERVERD_INVALID);
    assert_non_null(strstr(err.text, "no object"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(arguments_read("/nonexistent", &args, &err), SERVERD_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_has_the_declared_type),
        cmocka_unit_test(what_is_no_argument_is_refused_by_name),
        cmocka_unit_test(an_argument_comes_once),
        cmocka_unit_test(a_file_is_a_value_too),
        cmocka_unit_test(lines_of_a_batch_are_items_or_arguments),
        cmocka_unit_test(a_bad_line_is_named),
        cmocka_unit_test(arguments_are_an_object),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
