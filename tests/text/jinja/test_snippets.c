/* Short templates against what Python's jinja2, set up as transformers does, makes of them.
 * Arguments: the file that tests/tools/make_jinja_snippets.py wrote. */
#include "json_value.h"
#include "text/chat_template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *file;

static serverd_status render(const char *source, const json_t *globals, struct buffer *out,
                             serverd_error *err)
{
    struct chat_template *tmpl;
    serverd_status status = chat_template_compile(source, strlen(source), &tmpl, err);
    if (status != SERVERD_OK)
        return status;
    struct arena *arena = arena_create(256 << 20);
    assert_non_null(arena);
    struct template_budget budget = template_budget_default();
    status = chat_template_render(tmpl, arena, value_of_json(arena, globals), &budget,
                                  &system_clock, out, err);
    arena_destroy(arena);
    chat_template_destroy(tmpl);
    return status;
}

static bool check_row(const json_t *globals, const json_t *row)
{
    const char *source = json_string_value(json_object_get(row, "source"));
    const json_t *output = json_object_get(row, "output");
    struct buffer out;
    serverd_error err;
    buffer_init(&out, 64 << 20);
    serverd_status status = render(source, globals, &out, &err);
    bool is_good = output ? status == SERVERD_OK && out.len == json_string_length(output) &&
                                memcmp(buffer_str(&out), json_string_value(output), out.len) == 0
                          : status != SERVERD_OK;
    if (!is_good)
        (void)fprintf(stderr, "--- %s\nexpected %s\nfound    %s\n", source,
                      output ? json_string_value(output)
                             : json_string_value(json_object_get(row, "error")),
                      status == SERVERD_OK ? buffer_str(&out) : err.text);
    buffer_deinit(&out);
    return is_good;
}

static void every_snippet_is_as_jinja2_has_it(void **state)
{
    (void)state;
    json_error_t error;
    json_t *root = json_load_file(file, 0, &error);
    if (!root)
        fail_msg("%s: %s", file, error.text);
    const json_t *rows = json_object_get(root, "rows"), *globals = json_object_get(root, "globals");
    size_t bad = 0, n = json_array_size(rows);
    for (size_t i = 0; i < n; i++)
        bad += !check_row(globals, json_array_get(rows, i));
    json_decref(root);
    (void)fprintf(stderr, "%zu snippets, %zu bad\n", n, bad);
    assert_true(n > 500);
    assert_int_equal(bad, 0);
}

int main(int argc, char **argv)
{
    file = argc > 1 ? argv[1] : "jinja_snippets.json";
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_snippet_is_as_jinja2_has_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
