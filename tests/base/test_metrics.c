/* The registry, and registries of several models in it. */
#include "base/limits.h"
#include "base/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The rendered text; free() it. */
static char *render(struct metrics *metrics)
{
    struct buffer text;
    buffer_init(&text, LIMIT_METRICS_BYTES);
    metrics_render(metrics, &text);
    assert_false(text.is_failed);
    char *copy = strdup(buffer_str(&text));
    assert_non_null(copy);
    buffer_deinit(&text);
    return copy;
}

static void check_line(struct metrics *metrics, const char *line)
{
    char *text = render(metrics), wanted[256];
    (void)snprintf(wanted, sizeof wanted, "\n%s\n", line);
    if (!strstr(text, wanted))
        fail_msg("%s is not in:\n%.4000s", line, text);
    free(text);
}

static uint32_t count(struct metrics *metrics, const char *part)
{
    char *text = render(metrics);
    uint32_t n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++)
        n++;
    free(text);
    return n;
}

static void one_model_needs_no_label(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create();
    static const char *const reason[] = {"stop"};
    metrics_add(metrics, METRIC_STEPS, 2);
    metrics_set(metrics, METRIC_KV_PAGES_FREE, 7);
    metrics_add_labelled(metrics, METRIC_FINISH, reason, 3);
    metrics_observe(metrics, METRIC_STEP_EMIT, 0.5);
    check_line(metrics, "serverd_steps_total 2");
    check_line(metrics, "serverd_kv_pages_free 7");
    check_line(metrics, "serverd_finish_total{reason=\"stop\"} 3");
    check_line(metrics, "serverd_step_time_seconds_bucket{phase=\"emit\",le=\"+Inf\"} 1");
    assert_int_equal(count(metrics, "model="), 0);
    metrics_destroy(metrics);
}

static void several_models_stand_together_under_one_head(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create();
    struct metrics *a = metrics_create_of_model(metrics, "a"),
                   *b = metrics_create_of_model(metrics, "b\"\n\\");
    static const char *const reason[] = {"stop"};
    assert_true(a && b);
    metrics_add(a, METRIC_STEPS, 2);
    metrics_add(b, METRIC_STEPS, 5);
    metrics_add_labelled(b, METRIC_FINISH, reason, 3);
    metrics_observe(a, METRIC_STEP_EMIT, 0.5);
    metrics_observe(a, METRIC_TTFT, 0.5);
    metrics_set(metrics, METRIC_HTTP_CONNECTIONS, 4); /* of the process */
    check_line(metrics, "serverd_steps_total{model=\"a\"} 2");
    check_line(metrics, "serverd_steps_total{model=\"b\\\"\\n\\\\\"} 5");
    check_line(metrics, "serverd_finish_total{model=\"b\\\"\\n\\\\\",reason=\"stop\"} 3");
    check_line(metrics,
               "serverd_step_time_seconds_bucket{model=\"a\",phase=\"emit\",le=\"+Inf\"} 1");
    check_line(metrics, "serverd_time_to_first_token_seconds_sum{model=\"a\"} 0.5");
    check_line(metrics, "serverd_http_connections 4");
    assert_int_equal(count(metrics, "# TYPE serverd_steps_total "), 1);
    assert_int_equal(count(metrics, "# TYPE serverd_step_time_seconds "), 1);
    assert_int_equal(count(metrics, "\nserverd_steps_total "), 0);
    metrics_destroy(metrics);
}

static void a_model_that_goes_leaves_its_counts(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create(), *a = metrics_create_of_model(metrics, "a");
    static const char *const disk[] = {"disk"};
    metrics_add(a, METRIC_STEPS, 2);
    metrics_set(a, METRIC_KV_PAGES_FREE, 7);
    metrics_set_labelled(a, METRIC_TIER_BYTES, disk, 9);
    metrics_reset_gauges(a);
    check_line(metrics, "serverd_steps_total{model=\"a\"} 2");
    check_line(metrics, "serverd_kv_pages_free{model=\"a\"} 0");
    check_line(metrics, "serverd_tier_bytes{model=\"a\",tier=\"disk\"} 0");
    metrics_destroy(metrics);
}

static void as_many_models_as_there_may_be_have_room(void **state)
{
    (void)state;
    struct metrics *metrics = metrics_create();
    char name[LIMIT_MODEL_NAME];
    for (uint32_t i = 0; i < LIMIT_MODELS; i++) {
        memset(name, 'n', sizeof name);
        (void)snprintf(name + sizeof name - 8, 8, "%07u", i);
        assert_non_null(metrics_create_of_model(metrics, name));
    }
    assert_int_equal(count(metrics, "\nserverd_steps_total{"), LIMIT_MODELS);
    metrics_destroy(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_model_needs_no_label),
        cmocka_unit_test(several_models_stand_together_under_one_head),
        cmocka_unit_test(a_model_that_goes_leaves_its_counts),
        cmocka_unit_test(as_many_models_as_there_may_be_have_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
