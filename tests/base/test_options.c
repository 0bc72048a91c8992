#include "base/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct options options;
static serverd_error err;

static int fresh(void **state)
{
    (void)state;
    return options_init(&options, &err) == SERVERD_OK ? 0 : -1;
}

static int done(void **state)
{
    (void)state;
    options_deinit(&options);
    return 0;
}

static serverd_status parse(const char *first, const char *second, enum options_request *request)
{
    char *argv[] = {(char *)"serverd", (char *)first, (char *)second, NULL};
    return options_parse_args(&options, 1 + (first != NULL) + (second != NULL), argv, request,
                              &err);
}

static void defaults_stand_in_the_table(void **state)
{
    (void)state;
    assert_int_equal(options.port, 8000);
    assert_string_equal(options.host, "127.0.0.1");
    assert_null(options.model_path);
    assert_int_equal(options.max_running, 16);
}

static void every_form_of_the_command_line_sets(void **state)
{
    (void)state;
    enum options_request request;
    assert_int_equal(parse("--port", "9000", &request), SERVERD_OK);
    assert_int_equal(request, OPTIONS_RUN);
    assert_int_equal(options.port, 9000);
    assert_int_equal(parse("--kv-memory=2GiB", "--insecure", &request), SERVERD_OK);
    assert_true(options.kv_memory == 2ull << 30 && options.insecure);
    assert_int_equal(parse("--no-insecure", "--log-format=json", &request), SERVERD_OK);
    assert_true(!options.insecure && options.log_format == 1);
    assert_int_equal(parse("model.gguf", NULL, &request), SERVERD_OK);
    assert_string_equal(options.model_path, "model.gguf");
    assert_int_equal(parse("--help", NULL, &request), SERVERD_OK);
    assert_int_equal(request, OPTIONS_HELP);
    assert_int_equal(parse("--print-config", NULL, &request), SERVERD_OK);
    assert_int_equal(request, OPTIONS_YAML);
}

static void a_wrong_option_is_named_with_what_is_allowed(void **state)
{
    (void)state;
    const struct {
        const char *first, *second;
        const char *words[3];
    } rows[] = {
        {"--prot", "1", {"--prot", "--port", ""}},
        {"--ctx_sise", "1", {"ctx-size", "", ""}},
        {"--port", "99999", {"port", "99999", "65535"}},
        {"--port", "80a", {"port", "80a", ""}},
        {"--port", "", {"port", "", ""}},
        {"--threads", "-1", {"threads", "-1", "1024"}},
        {"--log-format", "xml", {"log-format", "xml", "json"}},
        {"--queue-timeout", "nan", {"queue-timeout", "nan", ""}},
        {"--kv-memory", "many", {"kv-memory", "many", ""}},
        {"--model-path", NULL, {"model-path", "", ""}},
        {"--insecure=maybe", NULL, {"insecure", "maybe", ""}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        enum options_request request;
        if (parse(rows[i].first, rows[i].second, &request) != SERVERD_INVALID)
            fail_msg("%s %s was taken", rows[i].first, rows[i].second);
        for (size_t w = 0; w < 3; w++)
            if (!strstr(err.text, rows[i].words[w]))
                fail_msg("%s: \"%s\" has no %s", rows[i].first, err.text, rows[i].words[w]);
    }
}

static void a_higher_source_wins_in_any_order(void **state)
{
    (void)state;
    assert_int_equal(options_set(&options, "port", "1", OPTION_ENVIRONMENT, &err), SERVERD_OK);
    assert_int_equal(options_set(&options, "port", "2", OPTION_FILE, &err), SERVERD_OK);
    assert_int_equal(options.port, 1);
    assert_int_equal(options_set(&options, "port", "x", OPTION_FILE, &err), SERVERD_INVALID);
    assert_int_equal(options_set(&options, "port", "3", OPTION_COMMAND_LINE, &err), SERVERD_OK);
    assert_int_equal(options_set(&options, "port", "4", OPTION_ENVIRONMENT, &err), SERVERD_OK);
    assert_int_equal(options.port, 3);
}

static void the_environment_sets_and_a_typo_in_it_is_found(void **state)
{
    (void)state;
    char *good[] = {(char *)"PATH=/bin", (char *)"SERVERD_CTX_SIZE=77", (char *)"SERVERD_HOST=::1",
                    NULL};
    assert_int_equal(options_parse_env(&options, good, &err), SERVERD_OK);
    assert_int_equal(options.ctx_size, 77);
    assert_string_equal(options.host, "::1");
    char *bad[] = {(char *)"SERVERD_CTX_SISE=77", NULL};
    assert_int_equal(options_parse_env(&options, bad, &err), SERVERD_INVALID);
    assert_non_null(strstr(err.text, "SERVERD_CTX_SI"));
}

static void every_generated_text_knows_every_option(void **state)
{
    (void)state;
    static const char *const names[] = {
#define OPTION_STRING(field, name, ...) name,
#define OPTION_INT(field, name, ...)    name,
#define OPTION_FLOAT(field, name, ...)  name,
#define OPTION_SIZE(field, name, ...)   name,
#define OPTION_BOOL(field, name, ...)   name,
#define OPTION_ENUM(field, name, ...)   name,
#include "base/options.def"
    };
    void (*const texts[])(struct buffer *) = {options_help, options_yaml, options_bash_completion,
                                              options_man};
    for (size_t t = 0; t < 4; t++) {
        struct buffer text;
        buffer_init(&text, 1 << 20);
        texts[t](&text);
        assert_false(text.is_failed);
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            char escaped[128]; /* as roff writes a hyphen */
            size_t n = 0;
            for (const char *c = names[i]; *c; c++) {
                if (*c == '-' && t == 3)
                    escaped[n++] = '\\';
                escaped[n++] = *c;
            }
            escaped[n] = '\0';
            if (!strstr(text.data, escaped) && !strstr(text.data, names[i]))
                fail_msg("text %zu does not know %s", t, names[i]);
        }
        size_t column = 0;
        for (const char *c = text.data; t == 0 && *c; c++) {
            column = *c == '\n' ? 0 : column + 1;
            assert_true(column <= 80);
        }
        buffer_deinit(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults_stand_in_the_table, fresh, done),
        cmocka_unit_test_setup_teardown(every_form_of_the_command_line_sets, fresh, done),
        cmocka_unit_test_setup_teardown(a_wrong_option_is_named_with_what_is_allowed, fresh, done),
        cmocka_unit_test_setup_teardown(a_higher_source_wins_in_any_order, fresh, done),
        cmocka_unit_test_setup_teardown(the_environment_sets_and_a_typo_in_it_is_found, fresh,
                                        done),
        cmocka_unit_test_setup_teardown(every_generated_text_knows_every_option, fresh, done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
