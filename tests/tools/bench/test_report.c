/* Summary, table and page of a run that is made by hand. */
#include "base/file.h"
#include "tools/bench/serve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static serverd_error err;

static void chunk(struct record *record, double now_s)
{
    static const char data[] = "{\"choices\":[{\"delta\":{\"content\":\"x\"}}]}";
    record_event(record, data, sizeof data - 1, now_s);
}

/* Two good ones, of which the second is too slow, and a failed one. */
static void make(struct serve_result *result)
{
    *result = (struct serve_result){.n = 3, .records = calloc(3, sizeof *result->records)};
    assert_non_null(result->records);
    (void)snprintf(result->model, sizeof result->model, "a<b>&\"c");
    for (uint32_t i = 0; i < 3; i++) {
        record_init(&result->records[i]);
        result->records[i].index = i;
    }
    struct record *r = result->records;
    r[0].start_s = 0;
    chunk(&r[0], 0.5);
    chunk(&r[0], 0.51);
    chunk(&r[0], 0.53);
    r[0].end_s = 0.6;
    r[0].n_prompt = 10;
    r[0].n_cached = 8;
    r[0].n_output = 3;
    r[1].start_s = 0.5;
    chunk(&r[1], 2);
    r[1].end_s = 2;
    r[1].n_prompt = 10;
    record_fail(&r[2], "HTTP 503: <busy>");
    r[2].start_s = 1;
    r[2].end_s = 1.1;
    result->summary.wall_s = 2;
}

static const struct serve_options options = {
    .url = "http://x", .concurrency = 2, .slo_ttft_ms = 1000, .slo_tpot_ms = 60};

static void a_summary_counts_what_it_should(void **state)
{
    (void)state;
    struct serve_result result;
    make(&result);
    serve_summarise(&options, &result);
    struct serve_summary *s = &result.summary;
    assert_int_equal(s->n, 3);
    assert_int_equal(s->n_errors, 1);
    assert_int_equal(s->n_good, 1);
    assert_int_equal(s->n_prompt, 20);
    assert_int_equal(s->n_cached, 8);
    assert_int_equal(s->n_output, 4); /* without usage, chunks */
    assert_true(s->output_tok_s == 2 && s->total_tok_s == 12 && s->goodput == 0.5);
    assert_int_equal(s->ttft.n, 2);
    assert_int_equal(s->itl.n, 2);
    assert_int_equal((int)(samples_max(&s->itl) + 0.5), 20);
    assert_int_equal((int)(samples_max(&s->tpot) + 0.5), 15);
    assert_string_equal(s->first_error, "HTTP 503: <busy>");
    json_t *summary = serve_summary_json(&options, &result);
    assert_non_null(summary);
    assert_int_equal(json_integer_value(json_object_get(summary, "cached_tokens")), 8);
    json_decref(summary);
    serve_result_deinit(&result);
}

static void gaps_beside_a_long_prompt_are_told_apart(void **state)
{
    (void)state;
    struct serve_options long_options = options;
    struct serve_result result;
    long_options.scenario = SCENARIO_LONGPREFILL;
    make(&result);
    result.records[1].is_long = true;
    result.records[1].start_s = 0.515; /* within the second gap of the stream */
    serve_summarise(&long_options, &result);
    struct serve_summary *s = &result.summary;
    assert_int_equal(s->itl_quiet.n, 1);
    assert_int_equal(s->itl_long.n, 1);
    assert_int_equal((int)(samples_max(&s->itl_long) + 0.5), 20);
    assert_int_equal(s->ttft_long.n, 1);
    assert_int_equal(s->ttft.n, 1);
    assert_int_equal(s->n_long, 1);
    serve_result_deinit(&result);
}

static void a_scenario_is_reported_by_the_name_it_is_asked_for(void **state)
{
    (void)state;
    char names[256] = "";
    struct serve_options any = options;
    for (any.scenario = SCENARIO_CLOSED; any.scenario <= SCENARIO_CODE_EDIT; any.scenario++) {
        size_t len = strlen(names);
        (void)snprintf(names + len, sizeof names - len, "%s%s", len ? "|" : "",
                       serve_scenario_name(&any));
    }
    assert_string_equal(names, SCENARIO_NAMES);
}

static void the_page_stands_alone_and_is_escaped(void **state)
{
    (void)state;
    char path[] = "/tmp/serverd-page-XXXXXX", *text;
    size_t len;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    struct serve_result result;
    make(&result);
    serve_summarise(&options, &result);
    assert_int_equal(html_report_write(&options, &result, path, &err), SERVERD_OK);
    assert_int_equal(file_read(path, 1 << 20, &text, &len, &err), SERVERD_OK);
    assert_non_null(strstr(text, "a&lt;b&gt;&amp;&quot;c"));
    assert_non_null(strstr(text, "HTTP 503: &lt;busy&gt;"));
    assert_null(strstr(text, "<busy>"));
    assert_null(strstr(text, "<script"));
    assert_null(strstr(text, "src="));
    assert_null(strstr(text, "nan"));
    assert_non_null(strstr(text, "<polyline"));
    assert_non_null(strstr(text, "</html>"));
    free(text);
    (void)unlink(path);
    serve_result_deinit(&result);
}

static void a_table_has_columns_as_wide_as_their_widest_cell(void **state)
{
    (void)state;
    static const char *const headers[] = {"<name", "n"};
    struct table table;
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(table_init(&table, 2, headers, &err), SERVERD_OK);
    table_cell(&table, "%s", "a ± b");
    table_cell(&table, "%d", 1);
    table_cell(&table, "%s", "c");
    table_cell(&table, "%d", 12345);
    FILE *to = open_memstream(&text, &len);
    assert_non_null(to);
    table_print(&table, to);
    assert_int_equal(fclose(to), 0);
    assert_string_equal(text, "| name  |     n |\n"
                              "| ----- | ----: |\n"
                              "| a ± b |     1 |\n"
                              "| c     | 12345 |\n");
    free(text);
    table_deinit(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_summary_counts_what_it_should),
        cmocka_unit_test(gaps_beside_a_long_prompt_are_told_apart),
        cmocka_unit_test(a_scenario_is_reported_by_the_name_it_is_asked_for),
        cmocka_unit_test(the_page_stands_alone_and_is_escaped),
        cmocka_unit_test(a_table_has_columns_as_wide_as_their_widest_cell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
