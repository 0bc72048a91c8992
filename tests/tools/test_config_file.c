#include "base/file.h"
#include "tools/config_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[] = "/tmp/serverd-config-XXXXXX";
static struct options options;
static serverd_error err;

static int make_file(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

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

static serverd_status read_text(const char *text)
{
    assert_int_equal(file_write_atomic(path, text, strlen(text), &err), SERVERD_OK);
    return config_file_read(path, &options, &err);
}

static void scalars_set_options(void **state)
{
    (void)state;
    assert_int_equal(read_text("# a comment\nport: 9001\n\nhost: \"::1\"\nkv-memory: 2GiB\n"
                               "insecure: true\nmodel-path: 'a b.gguf'\nqueue-timeout: 2.5\n"),
                     SERVERD_OK);
    assert_int_equal(options.port, 9001);
    assert_string_equal(options.host, "::1");
    assert_true(options.kv_memory == 2ull << 30 && options.insecure);
    assert_string_equal(options.model_path, "a b.gguf");
    assert_true(options.queue_timeout == 2.5);
    assert_int_equal(read_text("# nothing but a comment\n"), SERVERD_OK);
    assert_int_equal(read_text(""), SERVERD_OK);
}

static void what_is_wrong_is_named_with_its_line(void **state)
{
    (void)state;
    const struct {
        const char *text, *words[2];
    } rows[] = {
        {"port: 1\nctx-sise: 5\n", {"ctx-size", ":2:"}},
        {"port: 99999\n", {"port", "65535"}},
        {"port: 1\nport: 2\n", {"port", ":2:"}},
        {"port: [1, 2]\n", {"port", ":1:"}},
        {"port: {a: 1}\n", {"port", ":1:"}},
        {"- port\n", {":1:", ""}},
        {"just text\n", {":1:", ""}},
        {"port: &a 1\n", {":1:", ""}},
        {"port: *a\n", {":1:", ""}},
        {"port: !!int 1\n", {":1:", ""}},
        {"port: 1\n---\nport: 2\n", {"", ""}},
        {"port: \"1\n", {"", ""}},
        {"\tport: 1\n", {":1:", ""}},
        {"port: 1\n  host: x\n", {":1:", ""}},
        {"port:\n", {"port", ":1:"}},
        {"? [a]\n: 1\n", {":1:", ""}},
        {"config: other.yaml\n", {"config", ""}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        options_deinit(&options);
        assert_int_equal(options_init(&options, &err), SERVERD_OK);
        if (read_text(rows[i].text) == SERVERD_OK)
            fail_msg("taken: %s", rows[i].text);
        assert_non_null(strstr(err.text, path));
        for (size_t w = 0; w < 2; w++)
            if (!strstr(err.text, rows[i].words[w]))
                fail_msg("%s: \"%s\" does not say %s", rows[i].text, err.text, rows[i].words[w]);
    }
}

static void a_file_that_is_not_there_or_too_large_is_refused(void **state)
{
    (void)state;
    assert_int_not_equal(config_file_read("/no/such.yaml", &options, &err), SERVERD_OK);
    assert_non_null(strstr(err.text, "/no/such.yaml"));
    size_t n = 3 << 20;
    char *large = malloc(n + 1);
    assert_non_null(large);
    memset(large, '#', n);
    large[n] = '\0';
    assert_int_not_equal(read_text(large), SERVERD_OK);
    free(large);
}

static const char *sample_path;

/* configs/serverd.yaml is what --print-config writes. */
static void the_sample_file_is_up_to_date(void **state)
{
    (void)state;
    struct buffer text;
    char *sample;
    size_t len;
    buffer_init(&text, 1 << 20);
    options_yaml(&text);
    assert_int_equal(file_read(sample_path, 1 << 20, &sample, &len, &err), SERVERD_OK);
    assert_string_equal(sample, buffer_str(&text));
    free(sample);
    buffer_deinit(&text);
}

/* What --print-config writes is a file that can be used. */
static void the_generated_reference_is_a_valid_file(void **state)
{
    (void)state;
    struct buffer text;
    buffer_init(&text, 1 << 20);
    options_yaml(&text);
    assert_int_equal(read_text(text.data), SERVERD_OK);
    /* and with every option taken out of its comment: "#name: value" */
    for (char *line = text.data; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (line[0] == '#' && line[1] != ' ' && line[1] != '\n' &&
            strncmp(line, "#config:", 8) != 0) {
            size_t len = strcspn(line, "\n");
            bool has_value = len > 0 && line[len - 1] != ' ' && line[len - 1] != ':';
            if (has_value)
                line[0] = ' ';
        }
        if (*line == '\0')
            break;
    }
    if (read_text(text.data) != SERVERD_OK)
        fail_msg("%s", err.text);
    buffer_deinit(&text);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    sample_path = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(scalars_set_options, fresh, done),
        cmocka_unit_test_setup_teardown(what_is_wrong_is_named_with_its_line, fresh, done),
        cmocka_unit_test_setup_teardown(a_file_that_is_not_there_or_too_large_is_refused, fresh,
                                        done),
        cmocka_unit_test_setup_teardown(the_generated_reference_is_a_valid_file, fresh, done),
        cmocka_unit_test(the_sample_file_is_up_to_date),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
