/* Log and metrics: what operators read. */
#include "base/log.h"
#include "base/metrics.h"

#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static size_t read_all(int fd, char *out, size_t cap)
{
    size_t n = 0;
    for (ssize_t got; n + 1 < cap && (got = read(fd, out + n, cap - 1 - n)) > 0;)
        n += (size_t)got;
    out[n] = '\0';
    return n;
}

static void json_lines_are_json_whatever_the_text(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    serverd_error err;
    struct log *log;
    assert_int_equal(log_create(fds[1], LOG_INFO, LOG_JSON, &log, &err), SERVERD_OK);
    log_info(log, "server", "plain %d", 7);
    log_debug(log, "server", "not shown");
    log_warn(log, "engine", "quote \" newline \n escape \x1b invalid \xff bidi \xe2\x80\xae");
    log_destroy(log);
    close(fds[1]);
    char text[8192];
    (void)read_all(fds[0], text, sizeof text);
    close(fds[0]);
    int n = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1, n++) {
        json_error_t error;
        json_t *record = json_loadb(line, (size_t)(end - line), 0, &error);
        if (!record)
            fail_msg("%s: %.*s", error.text, (int)(end - line), line);
        json_decref(record);
    }
    assert_int_equal(n, 2);
    assert_non_null(strstr(text, "plain 7"));
    assert_null(strstr(text, "not shown"));
}

static void text_lines_cannot_be_forged(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    serverd_error err;
    struct log *log;
    assert_int_equal(log_create(fds[1], LOG_DEBUG, LOG_TEXT, &log, &err), SERVERD_OK);
    log_info(log, "server", "a\nb\rc\x1b[31m\xe2\x80\xae");
    log_destroy(log);
    close(fds[1]);
    char text[8192];
    (void)read_all(fds[0], text, sizeof text);
    close(fds[0]);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_null(strchr(text, '\r'));
    assert_null(strchr(text, '\x1b'));
    assert_null(strstr(text, "\xe2\x80\xae"));
}

static void record(enum log_format format, const char *value, char *text, size_t cap)
{
    int fds[2];
    serverd_error err;
    struct log *log;
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(log_create(fds[1], LOG_INFO, format, &log, &err), SERVERD_OK);
    const struct log_field fields[] = {{.key = "value", .text = value},
                                       {.key = "absent"},
                                       {.key = "count", .is_number = true, .number = 12345678},
                                       {.key = "ms", .is_number = true, .number = 0.0625}};
    log_record(log, LOG_DEBUG, "server", fields, 4, "not shown");
    log_record(log, LOG_INFO, "server", fields, 4, "done");
    log_destroy(log);
    close(fds[1]);
    (void)read_all(fds[0], text, cap);
    close(fds[0]);
}

static void fields_are_members_or_words_that_cannot_be_forged(void **state)
{
    (void)state;
    static char text[16384], huge[6000];
    memset(huge, '"', sizeof huge - 1);
    const char *const values[] = {"plain", "a b=\"1\" count=7", "", "line\nbreak\x1b\xff", huge};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        record(LOG_JSON, values[i], text, sizeof text);
        assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
        json_t *line = json_loads(text, 0, NULL);
        assert_non_null(line);
        assert_string_equal(json_string_value(json_object_get(line, "message")), "done");
        assert_null(json_object_get(line, "absent"));
        if (values[i] != huge) { /* what does not fit is cut or left out */
            assert_int_equal(json_integer_value(json_object_get(line, "count")), 12345678);
            assert_true(json_number_value(json_object_get(line, "ms")) == 0.062);
        }
        if (i < 3)
            assert_string_equal(json_string_value(json_object_get(line, "value")), values[i]);
        json_decref(line);
        record(LOG_TEXT, values[i], text, sizeof text);
        assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    }
    record(LOG_TEXT, "plain", text, sizeof text);
    assert_non_null(strstr(text, " done value=plain count=12345678 ms=0.062\n"));
    record(LOG_TEXT, values[1], text, sizeof text);
    assert_non_null(strstr(text, " value=\"a b=\\\"1\\\" count=7\" count=12345678"));
    record(LOG_TEXT, "", text, sizeof text);
    assert_non_null(strstr(text, " value=\"\" count="));
}

/* Nobody reads: writers go on and the loss is counted. */
static void a_log_that_nobody_reads_blocks_nobody(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    serverd_error err;
    struct log *log;
    assert_int_equal(log_create(fds[1], LOG_INFO, LOG_TEXT, &log, &err), SERVERD_OK);
    char filler[1001];
    memset(filler, 'x', 1000);
    filler[1000] = '\0';
    for (int i = 0; i < 20000; i++)
        log_info(log, "server", "%d %s", i, filler);
    assert_true(log_n_dropped(log) > 0);
    close(fds[0]); /* the writer thread gets EPIPE and ends its wait */
    log_destroy(log);
    close(fds[1]);
}

static struct metrics *shared;

static void *count(void *arg)
{
    (void)arg;
    for (int i = 0; i < 10000; i++) {
        metrics_add(shared, METRIC_STEPS, 1);
        metrics_observe(shared, METRIC_TTFT, 0.001 * (i % 100));
        const char *labels[] = {"chat", i % 2 ? "200" : "400"};
        metrics_add_labelled(shared, METRIC_HTTP_RESPONSES, labels, 1);
    }
    return NULL;
}

static double sample(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    assert_non_null(at);
    return strtod(at + strlen(name), NULL);
}

static void updates_of_many_threads_are_all_counted(void **state)
{
    (void)state;
    shared = metrics_create();
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count, NULL), 0);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    struct buffer text;
    buffer_init(&text, 1 << 20);
    metrics_render(shared, &text);
    assert_true(sample(text.data, "\nserverd_steps_total ") == 40000);
    assert_true(sample(text.data, "\nserverd_time_to_first_token_seconds_count ") == 40000);
    assert_true(sample(text.data, "serverd_time_to_first_token_seconds_bucket{le=\"+Inf\"} ") ==
                40000);
    assert_true(
        sample(text.data, "\nserverd_http_responses_total{endpoint=\"chat\",status=\"200\"} ") ==
        20000);
    buffer_deinit(&text);
    metrics_destroy(shared);
}

static int n_occurrences(const char *text, const char *part)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++)
        n++;
    return n;
}

static void label_values_are_escaped_and_bounded(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create();
    for (int i = 0; i < 1000; i++) {
        char value[32];
        (void)snprintf(value, sizeof value, "a\"b\\c\n%d", i);
        const char *labels[] = {value, "ok"};
        metrics_add_labelled(metrics, METRIC_REQUESTS, labels, 1);
    }
    struct buffer text;
    buffer_init(&text, 1 << 20);
    metrics_render(metrics, &text);
    assert_non_null(strstr(text.data, "endpoint=\"a\\\"b\\\\c\\n0\""));
    assert_non_null(strstr(text.data, "endpoint=\"other\""));
    assert_in_range(n_occurrences(text.data, "serverd_requests_total{"), 100, 257);
    buffer_deinit(&text);
    metrics_destroy(metrics);
}

static void rows_of_one_name_share_its_head_and_differ_in_their_labels(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create();
    struct buffer text;
    metrics_observe(metrics, METRIC_STEP_COMPUTE, 0.004);
    metrics_observe(metrics, METRIC_STEP_COMPUTE, 0.25);
    metrics_observe(metrics, METRIC_STEP_EMIT, 0.000004);
    buffer_init(&text, 1 << 20);
    metrics_render(metrics, &text);
    assert_int_equal(n_occurrences(text.data, "# TYPE serverd_step_time_seconds histogram\n"), 1);
    assert_int_equal(n_occurrences(text.data, "# HELP serverd_step_time_seconds "), 1);
    assert_true(sample(text.data, "\nserverd_step_time_seconds_count{phase=\"compute\"} ") == 2);
    assert_true(sample(text.data, "\nserverd_step_time_seconds_sum{phase=\"compute\"} ") == 0.254);
    assert_true(sample(text.data,
                       "\nserverd_step_time_seconds_bucket{phase=\"compute\",le=\"0.005\"} ") == 1);
    assert_true(
        sample(text.data, "\nserverd_step_time_seconds_bucket{phase=\"emit\",le=\"5e-06\"} ") == 1);
    assert_true(sample(text.data,
                       "\nserverd_step_time_seconds_bucket{phase=\"sample\",le=\"+Inf\"} ") == 0);
    buffer_deinit(&text);
    metrics_destroy(metrics);
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_lines_are_json_whatever_the_text),
        cmocka_unit_test(text_lines_cannot_be_forged),
        cmocka_unit_test(fields_are_members_or_words_that_cannot_be_forged),
        cmocka_unit_test(a_log_that_nobody_reads_blocks_nobody),
        cmocka_unit_test(updates_of_many_threads_are_all_counted),
        cmocka_unit_test(label_values_are_escaped_and_bounded),
        cmocka_unit_test(rows_of_one_name_share_its_head_and_differ_in_their_labels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
