/* The numbers under the names of other servers: right, each once, and in Prometheus' form. */
#include "base/limits.h"
#include "base/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *render(struct metrics *metrics, const char *model)
{
    struct buffer out;
    buffer_init(&out, 4 * MIB);
    metrics_render_compat(metrics, model, &out);
    assert_false(out.is_failed);
    buffer_append_char(&out, '\0');
    return buffer_take(&out, NULL);
}

/* The value of the line that begins so. */
static double value_of(const char *text, const char *series)
{
    for (const char *at = text; at; at = strchr(at, '\n'), at = at ? at + 1 : NULL)
        if (strncmp(at, series, strlen(series)) == 0 && at[strlen(series)] == ' ')
            return strtod(at + strlen(series), NULL);
    fail_msg("there is no %s", series);
    return 0;
}

static void fill(struct metrics *m, double scale)
{
    const char *stop = "stop", *length = "length", *running = "running", *ngram = "ngram";
    metrics_add(m, METRIC_PROMPT_TOKENS, 100 * scale);
    metrics_add(m, METRIC_CACHED_TOKENS, 25 * scale);
    metrics_add(m, METRIC_COMPUTED_TOKENS, 75 * scale);
    metrics_add(m, METRIC_GENERATED_TOKENS, 60 * scale);
    metrics_add_labelled(m, METRIC_ACCEPTED_TOKENS, &ngram, 20 * scale);
    metrics_add(m, METRIC_PREEMPTIONS, 3 * scale);
    metrics_set(m, METRIC_REQUESTS_RUNNING, 4 * scale);
    metrics_set(m, METRIC_REQUESTS_WAITING, 5 * scale);
    metrics_set(m, METRIC_KV_USAGE, 0.25);
    metrics_set(m, METRIC_KV_PAGES_PRIVATE, 2 * scale);
    metrics_set(m, METRIC_KV_PAGES_LOCKED, 1 * scale);
    metrics_set(m, METRIC_TOKEN_RATE, 12.5);
    metrics_add_labelled(m, METRIC_FINISH, &stop, 7 * scale);
    metrics_add_labelled(m, METRIC_FINISH, &length, 2 * scale);
    metrics_add_labelled(m, METRIC_CANCELLED, &running, 6 * scale);
    metrics_observe(m, METRIC_TTFT, 0.03);
    metrics_observe(m, METRIC_TTFT, 20);
    metrics_observe(m, METRIC_E2E, 2);
    metrics_observe(m, METRIC_PREFILL_TIME, 1.5 * scale);
    metrics_observe(m, METRIC_DECODE_TIME, 0.5 * scale);
}

static void other_names_have_the_same_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *series;
        double value;
    } expected[] = {
        {"vllm:num_requests_running{model_name=\"a\"}", 4},
        {"vllm:num_requests_waiting{model_name=\"a\"}", 5},
        {"vllm:kv_cache_usage_perc{model_name=\"a\"}", 0.25},
        {"vllm:prefix_cache_queries_total{model_name=\"a\"}", 100},
        {"vllm:prefix_cache_hits_total{model_name=\"a\"}", 25},
        {"vllm:prompt_tokens_total{model_name=\"a\"}", 100},
        {"vllm:generation_tokens_total{model_name=\"a\"}", 60},
        {"vllm:num_preemptions_total{model_name=\"a\"}", 3},
        {"vllm:request_success_total{model_name=\"a\",finished_reason=\"stop\"}", 7},
        {"vllm:request_success_total{model_name=\"a\",finished_reason=\"length\"}", 2},
        {"vllm:time_to_first_token_seconds_bucket{model_name=\"a\",le=\"0.02\"}", 0},
        {"vllm:time_to_first_token_seconds_bucket{model_name=\"a\",le=\"0.04\"}", 1},
        {"vllm:time_to_first_token_seconds_bucket{model_name=\"a\",le=\"+Inf\"}", 2},
        {"vllm:time_to_first_token_seconds_sum{model_name=\"a\"}", 20.03},
        {"vllm:time_to_first_token_seconds_count{model_name=\"a\"}", 2},
        {"sglang:num_running_reqs{model_name=\"a\"}", 4},
        {"sglang:num_used_tokens{model_name=\"a\"}", 48},
        {"sglang:gen_throughput{model_name=\"a\"}", 12.5},
        {"sglang:cache_hit_rate{model_name=\"a\"}", 0.25},
        {"sglang:spec_accept_length{model_name=\"a\"}", 1.5},
        {"sglang:num_requests_total{model_name=\"a\"}", 1},
        {"sglang:num_aborted_requests_total{model_name=\"a\"}", 6},
        {"llamacpp:prompt_tokens_total{model_name=\"a\"}", 75},
        {"llamacpp:prompt_seconds_total{model_name=\"a\"}", 1.5},
        {"llamacpp:prompt_tokens_seconds{model_name=\"a\"}", 50},
        {"llamacpp:predicted_tokens_seconds{model_name=\"a\"}", 120},
        {"llamacpp:requests_deferred{model_name=\"a\"}", 5},
    };
    struct metrics *metrics = metrics_create();
    fill(metrics, 1);
    char *text = render(metrics, "a");
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (value_of(text, expected[i].series) != expected[i].value)
            fail_msg("%s is %g", expected[i].series, value_of(text, expected[i].series));
    free(text);
    metrics_destroy(metrics);
}

static void nothing_has_happened_yet_and_all_is_a_number(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create();
    char *text = render(metrics, "a\"\\b");
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    assert_true(value_of(text, "sglang:cache_hit_rate{model_name=\"a\\\"\\\\b\"}") == 0);
    free(text);
    metrics_destroy(metrics);
}

static void each_of_several_models_has_its_own(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create();
    fill(metrics_create_of_model(metrics, "a"), 1);
    fill(metrics_create_of_model(metrics, "b\""), 10);
    char *text = render(metrics, "unused");
    assert_true(value_of(text, "vllm:num_requests_running{model_name=\"a\"}") == 4);
    assert_true(value_of(text, "vllm:num_requests_running{model_name=\"b\\\"\"}") == 40);
    assert_null(strstr(text, "unused"));
    free(text);
    metrics_destroy(metrics);
}

/* Lines of a name stand together, behind the one line that says its type. */
static void each_name_is_there_once(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create();
    fill(metrics, 1);
    char *text = render(metrics, "a");
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, "# TYPE ")); n++) {
        char line[128];
        size_t len = strcspn(at, "\n");
        assert_true(len < sizeof line);
        memcpy(line, at, len);
        line[strcspn(line + 7, " ") + 8] = '\0'; /* with the space behind the name */
        at += len;
        assert_null(strstr(at, line));
    }
    assert_true(n > 35);
    free(text);
    metrics_destroy(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_names_have_the_same_numbers),
        cmocka_unit_test(nothing_has_happened_yet_and_all_is_a_number),
        cmocka_unit_test(each_of_several_models_has_its_own),
        cmocka_unit_test(each_name_is_there_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
