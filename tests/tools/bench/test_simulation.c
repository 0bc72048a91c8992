#include "tools/bench/simulation.h"
#include "tools/bench/trace_workloads.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

static const struct virtual_engine_options base = {
    .price = {.step_ms = 2, .row_ms = 0.5, .context_us = 1, .sequence_ms = 0.25},
    .n_vocab = TRACE_VOCABULARY,
    .context_size = 4096,
    .n_pages = 4096,
    .max_running = 8,
    .prefill_chunk = 128,
    .max_queue = 100000,
    .max_queue_tokens = 1000000000,
    .has_prefix_cache = true,
    .wait_bound = 2,
};

static void must(serverd_status status)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err.text);
}

static struct trace trace_of(const char *const *lines, size_t n)
{
    struct trace trace;
    must(trace_init(&trace, 512, &err));
    for (size_t i = 0; i < n; i++)
        must(trace_parse_line(&trace, lines[i], strlen(lines[i]), &err));
    return trace;
}

#define TRACE_OF(...)                                                                              \
    trace_of((const char *const[]){__VA_ARGS__},                                                   \
             sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static struct simulation_result run(const struct trace *trace,
                                    const struct virtual_engine_options *options)
{
    struct simulation_result result;
    must(simulate(trace, options, &result, &err));
    const struct simulated_group *all = result.all;
    assert_int_equal(all->n, trace->n);
    assert_int_equal(all->n_done + all->n_refused + all->n_failed + all->n_cancelled, all->n);
    return result;
}

static void assert_near(double found, double expected, double tolerance)
{
    if (found < expected - tolerance || found > expected + tolerance)
        fail_msg("found %g, expected %g", found, expected);
}

/* ---- the device ------------------------------------------------------------------------------ */

static void a_step_has_its_price(void **state)
{
    (void)state;
    assert_near(step_price_ms(&base.price, 1, 1, 100), 2 + 0.25 + 0.1, 1e-9);
    assert_near(step_price_ms(&base.price, 4, 4, 0), 2 + 1, 1e-9); /* free up to here */
    assert_near(step_price_ms(&base.price, 100, 1, 1000), 50 + 0.25 + 1, 1e-9);
}

static void a_request_alone_takes_what_its_steps_cost(void **state)
{
    (void)state;
    struct trace trace = TRACE_OF(
        "{\"timestamp\": 700, \"input_length\": 200, \"output_length\": 3, \"hash_ids\": [1]}");
    struct simulation_result result = run(&trace, &base);
    const struct step_price *p = &base.price;
    double first =
        step_price_ms(p, 128, 1, 128 * 129 / 2) + step_price_ms(p, 72, 1, 72 * 128 + 72 * 73 / 2);
    double rest = step_price_ms(p, 1, 1, 201) + step_price_ms(p, 1, 1, 202);
    assert_int_equal(result.n_steps, 4);
    assert_int_equal(result.n_rows, 202);
    assert_near(durations_max_ms(&result.all->queue), 0, 1e-9);
    assert_near(durations_max_ms(&result.all->ttft), first, 1e-3);
    assert_near(durations_mean_ms(&result.all->itl), rest / 2, 1e-3);
    assert_near(result.makespan_s * 1e3, first + rest, 1e-3);
    assert_near(result.busy_s, result.makespan_s, 1e-9);
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

/* ---- hits ------------------------------------------------------------------------------------ */

static void one_after_the_other_hits_what_can_be_hit(void **state)
{
    (void)state;
    for (int w = TRACE_HOT_COLD; w <= TRACE_MIXED; w++) {
        struct trace trace;
        const struct trace_workload_options options = {
            .workload = (enum trace_workload)w, .n = 64, .rate = 0.001, .seed = 5};
        struct virtual_engine_options engine_options = base;
        engine_options.n_pages = 100000;
        must(trace_init(&trace, 16, &err));
        must(trace_generate(&trace, &options, &err));
        struct simulation_result result = run(&trace, &engine_options);
        assert_int_equal(result.all->n_done, 64);
        /* beyond whole pages, parts of one can be hit */
        if (result.all->n_cached < result.n_optimum ||
            result.all->n_cached > result.n_optimum + 64 * 15)
            fail_msg("workload %d: %llu cached, optimum %llu", w,
                     (unsigned long long)result.all->n_cached,
                     (unsigned long long)result.n_optimum);
        simulation_result_deinit(&result);

        engine_options.has_prefix_cache = false;
        result = run(&trace, &engine_options);
        assert_true(result.all->n_cached == 0);
        simulation_result_deinit(&result);
        trace_deinit(&trace);
    }
}

static void keys_share_nothing(void **state)
{
    (void)state;
    struct trace trace = TRACE_OF(
        "{\"timestamp\": 0, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1], "
        "\"key\": \"a\"}",
        "{\"timestamp\": 9999, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1], "
        "\"key\": \"b\"}",
        "{\"timestamp\": 19999, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1], "
        "\"key\": \"a\"}");
    struct simulation_result result = run(&trace, &base);
    assert_int_equal(result.all->n_cached, 511); /* the last token has to run */
    assert_int_equal(simulation_find_key(&trace, &result, "a")->n_cached, 511);
    assert_int_equal(simulation_find_key(&trace, &result, "b")->n_cached, 0);
    assert_null(simulation_find_key(&trace, &result, "c"));
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

/* ---- endings --------------------------------------------------------------------------------- */

#define LONG_ONE                                                                                   \
    "{\"timestamp\": 0, \"input_length\": 100, \"output_length\": 500, \"hash_ids\": [1]"

static void cancels_come_in_time(void **state)
{
    (void)state;
    struct trace trace =
        TRACE_OF(LONG_ONE ", \"cancel_after_ms\": 500}", LONG_ONE "}",
                 LONG_ONE ", \"cancel_after_ms\": 0}", LONG_ONE ", \"cancel_after_ms\": 99999999}");
    struct simulation_result result = run(&trace, &base);
    assert_int_equal(result.all->n_cancelled, 2);
    assert_int_equal(result.all->n_done, 2);
    assert_in_range(result.all->n_output, 1001, 1499);
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

static void deadlines_end_requests(void **state)
{
    (void)state;
    struct trace trace = TRACE_OF(LONG_ONE ", \"deadline_ms\": 500}", LONG_ONE "}");
    struct simulation_result result = run(&trace, &base);
    assert_int_equal(result.all->n_failed, 1);
    assert_int_equal(result.all->n_done, 1);
    assert_non_null(strstr(result.first_error, "deadline"));
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

static void a_full_queue_refuses(void **state)
{
    (void)state;
    struct virtual_engine_options options = base;
    options.max_queue = 2;
    struct trace trace = TRACE_OF(LONG_ONE "}", LONG_ONE "}", LONG_ONE "}", LONG_ONE "}");
    struct simulation_result result = run(&trace, &options);
    assert_int_equal(result.all->n_refused, 2);
    assert_int_equal(result.all->n_done, 2);
    assert_non_null(strstr(result.first_error, "queue is full"));
    simulation_result_deinit(&result);

    options = base;
    options.max_running = 1;
    options.queue_timeout_ns = 100000000; /* ends in the queue */
    result = run(&trace, &options);
    assert_int_equal(result.all->n_refused, 3);
    simulation_result_deinit(&result);

    options = base;
    options.context_size = 99; /* no prompt fits */
    result = run(&trace, &options);
    assert_int_equal(result.all->n_refused, 4);
    assert_true(result.makespan_s == 0);
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

static void a_small_pool_preempts_and_loses_nobody(void **state)
{
    (void)state;
    struct virtual_engine_options options = base;
    struct trace trace;
    const struct trace_workload_options workload = {.workload = TRACE_MIXED, .n = 100, .seed = 1};
    options.context_size = 2048;
    options.n_pages = 160;
    must(trace_init(&trace, 16, &err));
    must(trace_generate(&trace, &workload, &err));
    struct simulation_result result = run(&trace, &options);
    assert_int_equal(result.all->n_done, 100);
    assert_true(result.n_preemptions > 0);
    simulation_result_deinit(&result);

    options.n_pages = 100;
    assert_int_equal(simulate(&trace, &options, &result, &err), SERVERD_INVALID);
    assert_non_null(strstr(err.text, "less than one context"));
    trace_deinit(&trace);
}

/* ---- groups ---------------------------------------------------------------------------------- */

static void many_keys_are_taken_together(void **state)
{
    (void)state;
    struct trace trace;
    must(trace_init(&trace, 512, &err));
    for (uint32_t i = 0; i < 2 * SIMULATED_GROUPS; i++) {
        char line[200];
        int n = snprintf(line, sizeof line,
                         "{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 1, "
                         "\"hash_ids\": [1], \"key\": \"k%u\"}",
                         i);
        must(trace_parse_line(&trace, line, (size_t)n, &err));
    }
    struct simulation_result result = run(&trace, &base);
    assert_int_equal(result.n_keys, SIMULATED_GROUPS + 1);
    assert_int_equal(result.key[0]->n, 1);
    assert_int_equal(result.key[SIMULATED_GROUPS]->n, SIMULATED_GROUPS);
    assert_int_equal(result.n_classes, 1);
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

static void durations_are_exact_to_a_percent(void **state)
{
    (void)state;
    struct durations *d = calloc(1, sizeof *d);
    assert_non_null(d);
    assert_near(durations_percentile_ms(d, 0.5), 0, 0);
    for (uint64_t i = 1; i <= 100000; i++)
        durations_add(d, i * i * 1000);
    assert_near(durations_percentile_ms(d, 0.5), 2.5e6, 2.5e4);
    assert_near(durations_percentile_ms(d, 0.99), 9.801e6, 9.9e4);
    assert_near(durations_percentile_ms(d, 0), 1e-3, 1e-3);
    assert_near(durations_percentile_ms(d, 1), 1e7, 1e5);
    assert_near(durations_max_ms(d), 1e7, 1e-6);
    assert_near(durations_mean_ms(d), 1e5 * (100001 / 1e5) * (200001 / 6.0) * 1e-3, 1e-3);
    durations_add(d, UINT64_MAX);
    assert_true(durations_percentile_ms(d, 1) > 1e7);
    free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_has_its_price),
        cmocka_unit_test(a_request_alone_takes_what_its_steps_cost),
        cmocka_unit_test(one_after_the_other_hits_what_can_be_hit),
        cmocka_unit_test(keys_share_nothing),
        cmocka_unit_test(cancels_come_in_time),
        cmocka_unit_test(deadlines_end_requests),
        cmocka_unit_test(a_full_queue_refuses),
        cmocka_unit_test(a_small_pool_preempts_and_loses_nobody),
        cmocka_unit_test(many_keys_are_taken_together),
        cmocka_unit_test(durations_are_exact_to_a_percent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
