/* What the order of admission promises, over whole workloads in virtual time: nobody starves behind
 * requests that hit the cache, no key starves behind another's many, and nobody is lost. */
#include "tools/bench/simulation.h"
#include "tools/bench/trace_workloads.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Tokens of a hash id: whole pages. */
enum { BLOCK = SERVERD_PAGE_TOKENS > 16 ? SERVERD_PAGE_TOKENS : 16 };

static serverd_error err;

/* Of SmolLM2 on two cores; docs/internals/bench.md. */
static const struct virtual_engine_options base = {
    .price = {.step_ms = 2.5, .row_ms = 0.5, .context_us = 0.25, .sequence_ms = 0.5},
    .n_vocab = TRACE_VOCABULARY,
    .context_size = 8192,
    .n_pages = 4096 * 16 / SERVERD_PAGE_TOKENS,
    .max_running = 16,
    .prefill_chunk = 512,
    .max_queue = 1000000,
    .max_queue_tokens = 2000000000,
    .has_prefix_cache = true,
    .wait_bound = 2,
};

static struct trace generate(enum trace_workload workload, uint32_t n, double rate)
{
    struct trace trace;
    const struct trace_workload_options options = {
        .workload = workload, .n = n, .rate = rate, .seed = 1};
    if (trace_init(&trace, BLOCK, &err) || trace_generate(&trace, &options, &err))
        fail_msg("%s", err.text);
    return trace;
}

/* simulate() itself fails if a request is lost or a page does not come back. */
static struct simulation_result run(const struct trace *trace,
                                    const struct virtual_engine_options *options)
{
    struct simulation_result result;
    if (simulate(trace, options, &result, &err))
        fail_msg("%s", err.text);
    assert_int_equal(result.all->n_done, trace->n);
    return result;
}

static void cold_requests_do_not_starve_behind_hot_ones(void **state)
{
    (void)state;
    struct trace trace = generate(TRACE_HOT_COLD, 1000, 0);
    struct simulation_result result = run(&trace, &base);
    double cold =
        durations_percentile_ms(&simulation_find_class(&trace, &result, "cold")->queue, 0.99);
    double mean = durations_mean_ms(&result.all->queue);
    print_message("cold p99 wait %.1f s, mean of all %.1f s; hit rate %.2f %%, optimum %.2f %%\n",
                  cold * 1e-3, mean * 1e-3,
                  100 * (double)result.all->n_cached / (double)result.all->n_prompt,
                  100 * (double)result.n_optimum / (double)result.all->n_prompt);
    assert_true(cold <= 3 * mean);
    assert_true((double)result.all->n_cached >= 0.99 * (double)result.n_optimum);
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

static void cold_requests_do_not_starve_in_a_stream_of_hot_ones(void **state)
{
    (void)state;
    /* a little more than can be answered: whoever waits for a quiet moment waits to the end */
    struct trace trace = generate(TRACE_HOT_COLD, 2000, 7);
    struct simulation_result result = run(&trace, &base);
    /* what was still to do when the last one came is the longest wait in order of arrival */
    double last_s = (double)(trace.requests[1999].arrival_ns - trace.requests[0].arrival_ns) * 1e-9;
    double fair_s = result.makespan_s - last_s;
    double longest_s = durations_max_ms(&result.all->queue) * 1e-3;
    print_message("longest wait %.1f s, in order of arrival %.1f s\n", longest_s, fair_s);
    assert_true(longest_s <= 1.1 * base.wait_bound * fair_s);
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

static void a_small_key_does_not_wait_for_a_greedy_one(void **state)
{
    (void)state;
    struct trace trace = generate(TRACE_TENANTS, 500, 0);
    struct simulation_result result = run(&trace, &base);
    double little = durations_mean_ms(&simulation_find_class(&trace, &result, "little")->queue);
    double greedy = durations_mean_ms(&simulation_find_class(&trace, &result, "greedy")->queue);
    print_message("mean wait: little %.1f s, greedy %.1f s\n", little * 1e-3, greedy * 1e-3);
    /* the little keys have a tenth of the work and four of five turns: they are through when an
     * eighth of it all is done, and have waited half of that */
    assert_true(little <= 0.25 * greedy);
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

/* Prompts wait all the time, so no step has decode rows alone by itself; what those cost has grown
 * since there was one. Taken for what they cost then, they would leave prefill eight rows a step.
 */
static void prefill_gets_its_share_while_prompts_always_wait(void **state)
{
    (void)state;
    struct trace trace = generate(TRACE_PREAMBLES, 0, 0);
    struct simulation_result result = run(&trace, &base);
    double rows = (double)result.n_rows / (double)result.n_steps;
    double gap = durations_percentile_ms(&result.all->itl, 0.99);
    print_message("%.1f rows a step, gaps p99 %.1f ms\n", rows, gap);
    assert_true(rows >= 38);
    assert_true(gap <= 50);
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

static void a_hundred_thousand_requests_are_all_answered(void **state)
{
    (void)state;
    struct trace trace;
    if (trace_init(&trace, BLOCK, &err))
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < 100000; i++) {
        const struct trace_request request = {.arrival_ns = i * UINT64_C(10000000), .n_output = 2};
        if (trace_add_tokens(&trace, i % 100, 16, &err) ||
            trace_add_tokens(&trace, 1000 + i, 8, &err) ||
            trace_add_request(&trace, &request, &err))
            fail_msg("%s", err.text);
    }
    struct virtual_engine_options options = base;
    options.context_size = 64;
    options.n_pages = 512 * 16 / SERVERD_PAGE_TOKENS;
    struct simulation_result result = run(&trace, &options);
    assert_int_equal(result.all->n_output, 200000);
    print_message("%.1f s, %.2f us of the scheduler per step, longest wait %.2f s\n", result.wall_s,
                  result.scheduler_us, durations_max_ms(&result.all->queue) * 1e-3);
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

static void a_deep_queue_is_emptied(void **state)
{
    (void)state;
    struct trace trace = generate(TRACE_HOT_COLD, 4000, 0);
    struct simulation_result result = run(&trace, &base);
    print_message("%.1f s, %.2f us of the scheduler per step\n", result.wall_s,
                  result.scheduler_us);
    simulation_result_deinit(&result);
    trace_deinit(&trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cold_requests_do_not_starve_behind_hot_ones),
        cmocka_unit_test(cold_requests_do_not_starve_in_a_stream_of_hot_ones),
        cmocka_unit_test(a_small_key_does_not_wait_for_a_greedy_one),
        cmocka_unit_test(prefill_gets_its_share_while_prompts_always_wait),
        cmocka_unit_test(a_hundred_thousand_requests_are_all_answered),
        cmocka_unit_test(a_deep_queue_is_emptied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
