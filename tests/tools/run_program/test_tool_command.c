/* Tools that are commands: their input, their output, their failures, their end. */
#include "tools/run_program/tool_command.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static serverd_error err;

static serverd_status run(const char *command, const char *arguments, json_t **out)
{
    json_t *value = json_loads(arguments, JSON_DECODE_ANY, NULL);
    serverd_status status = tool_command_run(command, value, -1, out, &err);
    json_decref(value);
    return status;
}

static void the_output_is_json_or_a_string(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"cat", "{\"x\":1,\"y\":[2.5]}", "{\"x\":1,\"y\":[2.5]}"},
        {"echo '{\"a\": 1}'", "{}", "{\"a\":1}"},
        {"echo 42", "{}", "42"},
        {"echo hello there", "{}", "\"hello there\""},
        {"printf 'two\\nlines\\n\\n'", "{}", "\"two\\nlines\\n\""},
        {"true", "{}", "\"\""},
        {"sed s/Danube/Rhine/", "{\"term\":\"Danube\"}", "{\"term\":\"Rhine\"}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *out;
        assert_int_equal(run(rows[i][0], rows[i][1], &out), SERVERD_OK);
        char *text = json_dumps(out, JSON_COMPACT | JSON_ENCODE_ANY);
        assert_string_equal(text, rows[i][2]);
        free(text);
        json_decref(out);
    }
}

static void a_command_that_fails_says_how(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"echo no such term; exit 3", "exit code 3: no such term"},
        {"exit 1", "exit code 1"},
        {"kill -9 $$", "ended by signal 9"},
        {"/nonexistent/tool 2>/dev/null", "exit code 127"},
        {"printf '\\377'", "its output is not UTF-8"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *out = NULL;
        assert_int_equal(run(rows[i][0], "{}", &out), SERVERD_INVALID);
        assert_string_equal(err.text, rows[i][1]);
        assert_null(out);
    }
}

/* More than a pipe holds, both ways at once, and into a command that reads none of it. */
static void long_inputs_and_outputs_pass(void **state)
{
    (void)state;
    size_t n = (size_t)1 << 20;
    char *text = malloc(n + 1);
    json_t *out;
    assert_non_null(text);
    memset(text, 'a', n);
    text[n] = '\0';
    json_t *arguments = json_pack("{s:s}", "text", text);
    assert_int_equal(tool_command_run("cat", arguments, -1, &out, &err), SERVERD_OK);
    assert_true(json_equal(out, arguments));
    json_decref(out);
    assert_int_equal(tool_command_run("exec <&-; sleep 0.1; echo 1", arguments, -1, &out, &err),
                     SERVERD_OK);
    assert_int_equal(json_integer_value(out), 1);
    json_decref(out);
    json_decref(arguments);
    free(text);
}

static void endless_output_is_cut_off(void **state)
{
    (void)state;
    json_t *out = NULL;
    assert_int_equal(run("yes", "{}", &out), SERVERD_INVALID);
    assert_non_null(strstr(err.text, "wrote more than"));
}

static void a_word_on_the_stop_end_ends_it(void **state)
{
    (void)state;
    int ends[2];
    json_t *out, *arguments = json_object();
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "x", 1), 1);
    assert_int_equal(tool_command_run("sleep 100", arguments, ends[0], &out, &err),
                     SERVERD_TIMEOUT);
    json_decref(arguments);
    assert_int_equal(close(ends[0]) | close(ends[1]), 0);
}

static void a_tool_is_found_by_its_whole_name(void **state)
{
    (void)state;
    static const char *const pairs[] = {"look=a", "lookup=cat =", "sum="};
    assert_string_equal(tool_command_find(pairs, 3, "lookup"), "cat =");
    assert_string_equal(tool_command_find(pairs, 3, "look"), "a");
    assert_string_equal(tool_command_find(pairs, 3, "sum"), "");
    assert_null(tool_command_find(pairs, 3, "loo"));
    assert_null(tool_command_find(pairs, 3, ""));
    assert_null(tool_command_find(NULL, 0, "look"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_output_is_json_or_a_string),
        cmocka_unit_test(a_command_that_fails_says_how),
        cmocka_unit_test(long_inputs_and_outputs_pass),
        cmocka_unit_test(endless_output_is_cut_off),
        cmocka_unit_test(a_word_on_the_stop_end_ends_it),
        cmocka_unit_test(a_tool_is_found_by_its_whole_name),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
