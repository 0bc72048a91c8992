/* Real chat templates against what Python's jinja2, set up as transformers does, makes of them.
 * Arguments: the folder with the templates and golden.json. */
#include "base/file.h"
#include "json_value.h"
#include "text/chat_template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *folder;

static uint64_t no_time(void *context)
{
    (void)context;
    return 0;
}

/* 2026-11-23 12:00:00, with TZ=UTC */
static int64_t noon(void *context)
{
    (void)context;
    return 1795435200;
}

static const struct clock fixed_clock = {no_time, noon, NULL};

static serverd_status render(const char *source, size_t n, const json_t *input, struct buffer *out,
                             serverd_error *err)
{
    struct chat_template *tmpl;
    serverd_status status = chat_template_compile(source, n, &tmpl, err);
    if (status != SERVERD_OK)
        return status;
    struct arena *arena = arena_create(256 << 20);
    assert_non_null(arena);
    json_t *globals = json_deep_copy(input);
    if (!json_object_get(globals, "add_generation_prompt"))
        (void)json_object_set_new(globals, "add_generation_prompt", json_true());
    (void)json_object_set_new(globals, "bos_token", json_string("<s>"));
    (void)json_object_set_new(globals, "eos_token", json_string("</s>"));
    struct template_budget budget = template_budget_default();
    status = chat_template_render(tmpl, arena, value_of_json(arena, globals), &budget, &fixed_clock,
                                  out, err);
    json_decref(globals);
    arena_destroy(arena);
    chat_template_destroy(tmpl);
    return status;
}

static char *read_template(const char *name, size_t *n)
{
    char path[512], *text;
    serverd_error err;
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    if (file_read(path, 1 << 20, &text, n, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return text;
}

static bool check_row(const json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "template"));
    const char *case_name = json_string_value(json_object_get(row, "case"));
    const char *expected = json_string_value(json_object_get(row, "output"));
    size_t n;
    char *source = read_template(name, &n);
    struct buffer out;
    serverd_error err;
    buffer_init(&out, 64 << 20);
    serverd_status status = render(source, n, json_object_get(row, "input"), &out, &err);
    bool is_good = expected ? status == SERVERD_OK && strcmp(buffer_str(&out), expected) == 0
                            : status != SERVERD_OK;
    if (!is_good)
        (void)fprintf(stderr, "--- %s, %s: %s\n--- expected\n%s\n--- found\n%s\n", name, case_name,
                      status == SERVERD_OK ? "other text" : err.text,
                      expected ? expected : "an error", buffer_str(&out));
    buffer_deinit(&out);
    free(source);
    return is_good;
}

static void every_row_is_as_jinja2_has_it(void **state)
{
    (void)state;
    char path[512];
    json_error_t error;
    (void)snprintf(path, sizeof path, "%s/golden.json", folder);
    json_t *rows = json_load_file(path, 0, &error);
    if (!rows)
        fail_msg("%s: %s", path, error.text);
    size_t bad = 0, n = json_array_size(rows);
    for (size_t i = 0; i < n; i++)
        bad += !check_row(json_array_get(rows, i));
    json_decref(rows);
    (void)fprintf(stderr, "%zu rows, %zu bad\n", n, bad);
    assert_true(n > 300);
    assert_int_equal(bad, 0);
}

int main(int argc, char **argv)
{
    folder = argc > 1 ? argv[1] : ".";
    (void)setenv("TZ", "UTC", 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_row_is_as_jinja2_has_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
