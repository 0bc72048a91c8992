/* What an inspection shows of the KV cache and of steps, and what metrics count of them. */
#include "engine_fixture.h"

#include "base/hash.h"
#include "base/limits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE = SERVERD_PAGE_TOKENS };

static serverd_error err;

static const struct inspection_options whole_cache = {
    .kind = INSPECT_CACHE, .max_nodes = 1000, .max_tokens = 100000, .tokens_per_node = UINT32_MAX};

static uint64_t must_inspect(struct world *world, const struct inspection_options *options)
{
    uint64_t id;
    if (engine_inspect(world->engine, options, &id, &err))
        fail_msg("%s", err.text);
    return id;
}

static const struct inspection *look_at_cache(struct world *world,
                                              const struct inspection_options *options)
{
    uint32_t n_ends = world->n_inspection_ends;
    (void)must_inspect(world, options);
    (void)engine_step(world->engine); /* the next pass, whatever it has to do */
    assert_int_equal(world->n_inspection_ends, n_ends + 1);
    assert_non_null(world->inspection);
    return world->inspection;
}

/* ---- the KV cache ------------------------------------------------------------------------ */

static void check_totals(const struct cache_totals *t)
{
    assert_int_equal(t->n_free + t->n_private + t->n_locked + t->n_evictable, t->n_pages);
    const struct window_counts *w = &t->windows;
    assert_int_equal(w->n_free + w->n_pinned + w->n_middle + w->n_kept, w->n_pages);
}

static void the_cache_is_shown_as_it_is(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    const struct inspection *found = look_at_cache(world, &whole_cache);
    assert_int_equal(found->n_nodes, 0);
    assert_int_equal(found->totals.n_free, found->totals.n_pages);
    /* two pages in common, then one and two of their own; another namespace has one */
    struct plan *a = plan_of(3 * PAGE, 1, 1), *b = plan_of(4 * PAGE, 1, 2),
                *c = plan_of(PAGE, 1, 3);
    plan_begin_alike(b, 2 * PAGE, 1);
    c->cache_space = 7;
    plan_must_submit(world, a);
    world_run(world);
    plan_must_submit(world, b);
    plan_must_submit(world, c);
    world_run(world);
    found = look_at_cache(world, &whole_cache);
    check_totals(&found->totals);
    assert_int_equal(found->totals.n_evictable, 6);
    assert_int_equal(found->totals.n_locked + found->totals.n_private, 0);
    assert_int_equal(found->totals.use.n_admitted, 3);
    assert_int_equal(found->totals.use.n_hits, 1);
    assert_int_equal(found->totals.use.n_cached, 2 * PAGE);
    assert_int_equal(found->totals.use.n_computed, (3 + 2 + 1) * PAGE);
    assert_int_equal(found->n_nodes, 4);
    assert_false(found->is_cut);
    uint32_t n_children = 0, n_pages = 0, n_of_c = 0;
    for (uint32_t i = 0; i < found->n_nodes; i++) {
        const struct cache_node *node = &found->nodes[i];
        const int32_t *tokens = found->tokens + node->first_token;
        const struct plan *plan = node->space == 7 ? c : node->n_pages == 1 ? a : b;
        uint32_t first = node->parent ? 2 * PAGE : 0;
        assert_int_equal(node->n_tokens, node->n_pages * SERVERD_PAGE_TOKENS);
        assert_memory_equal(tokens, plan->prompt + first, node->n_tokens * sizeof *tokens);
        assert_int_equal(node->n_locks, 0);
        assert_int_equal(node->kind, RADIX_PROMPT);
        if (node->parent) {
            assert_true(node->parent <= i);
            assert_int_equal(found->nodes[node->parent - 1].space, node->space);
            assert_int_equal(found->nodes[node->parent - 1].parent, 0);
            n_children++;
        }
        n_pages += node->n_pages;
        n_of_c += node->space == 7;
    }
    assert_int_equal(n_children, 2);
    assert_int_equal(n_pages, 6);
    assert_int_equal(n_of_c, 1);
    free(a);
    free(b);
    free(c);
    world_destroy(world);
}

static void window_pages_are_shown_by_what_holds_them(void **state)
{
    (void)state;
    struct world *world = world_create(
        &(struct world_options){.window = 40, .n_pages = PAGES(40), .n_windows = PAGES(20)});
    struct plan *plan = plan_of(150, 1, 1), *longer = plan_of(150, 40, 2);
    plan_must_submit(world, plan);
    world_run(world);
    const struct inspection *found = look_at_cache(world, &whole_cache);
    check_totals(&found->totals);
    /* of the full pages the last ones (3 of 9) are seen from their end */
    const uint32_t span = (40 - 2) / PAGE + 1,
                   n_kept = span + (PAGE == 1); /* and the row that ran */
    assert_int_equal(found->totals.windows.n_pages, PAGES(20));
    assert_int_equal(found->totals.windows.n_kept, n_kept);
    assert_int_equal(found->totals.windows.n_middle, 150 / PAGE - n_kept);
    plan_must_submit(world, longer);
    world_step(world, 6);
    found = look_at_cache(world, &whole_cache);
    check_totals(&found->totals);
    assert_true(found->totals.windows.n_pinned > 0);
    world_run(world);
    plan_finish(world, plan);
    plan_finish(world, longer);
    world_destroy(world);
}

static void running_sequences_show_as_locks_and_private_pages(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    struct plan *plan = plan_of(40, 40, 1);
    plan_must_submit(world, plan);
    for (int i = 0; i < 3; i++)
        (void)engine_step(world->engine);
    const struct inspection *found = look_at_cache(world, &whole_cache);
    check_totals(&found->totals);
    assert_int_equal(found->totals.n_locked, 42 / PAGE);
    assert_int_equal(found->totals.n_private, 42 % PAGE > 0);
    assert_int_equal(found->n_nodes, 1);
    assert_int_equal(found->nodes[0].n_locks, 1);
    world_run(world);
    found = look_at_cache(world, &whole_cache); /* its output has joined */
    assert_int_equal(found->nodes[found->n_nodes - 1].kind, RADIX_OUTPUT);
    plan_finish(world, plan);
    world_destroy(world);
}

static void a_large_cache_is_cut_to_what_was_asked_for(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.n_pages = PAGES(100)});
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct plan *plan = plan_of(32, 1, seed);
        plan_must_submit(world, plan);
        world_run(world);
        plan_finish(world, plan);
    }
    struct inspection_options options = {
        .kind = INSPECT_CACHE, .max_nodes = 4, .max_tokens = 20, .tokens_per_node = 8};
    const struct inspection *found = look_at_cache(world, &options);
    assert_true(found->is_cut);
    assert_int_equal(found->n_nodes, 4);
    assert_int_equal(found->n_tokens, 20);
    assert_int_equal(found->nodes[0].n_tokens, 8);
    assert_int_equal(found->nodes[2].n_tokens, 4);
    assert_int_equal(found->nodes[3].n_tokens, 0);
    assert_int_equal(found->totals.n_evictable, 10 * 32 / PAGE); /* the totals are whole */
    options.max_nodes = 10;
    found = look_at_cache(world, &options);
    assert_false(found->is_cut);
    assert_int_equal(found->n_nodes, 10);
    options.max_nodes = LIMIT_INSPECT_NODES + 1;
    uint64_t id;
    assert_int_equal(engine_inspect(world->engine, &options, &id, &err), SERVERD_INVALID);
    world_destroy(world);
}

/* ---- steps ------------------------------------------------------------------------------- */

static const struct inspection_options twenty_steps = {
    .kind = INSPECT_STEPS, .max_steps = 20, .duration_ns = 1000000000000};

static void a_trace_has_every_step_and_request(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.prefill_chunk = 32});
    struct plan *before = plan_of(20, 5, 9), *a = plan_of(80, 4, 1), *b = plan_of(80, 60, 3);
    plan_begin_alike(b, 64, 1);
    plan_must_submit(world, before);
    world_run(world); /* is none of the trace's */
    world->tick_ns = 1000;
    (void)must_inspect(world, &twenty_steps);
    plan_must_submit(world, a);
    (void)engine_step(world->engine); /* runs, then the trace begins */
    for (int i = 0; i < 2; i++)
        (void)engine_step(world->engine);
    plan_must_submit(world, b);
    for (int i = 0; i < 17; i++)
        (void)engine_step(world->engine);
    assert_int_equal(world->n_inspection_ends, 0);
    (void)engine_step(world->engine);
    assert_int_equal(world->n_inspection_ends, 1);
    const struct inspection *trace = world->inspection;
    assert_int_equal(trace->n_steps, 20);
    uint64_t last = trace->begin_ns;
    uint32_t n_prefill = 0, n_cached = 0, n_admitted = 0;
    for (uint32_t i = 0; i < trace->n_steps; i++) {
        const struct step_record *s = &trace->steps[i];
        assert_true(s->begin_ns >= last && s->scheduled_ns > s->begin_ns &&
                    s->computed_ns > s->scheduled_ns && s->sampled_ns > s->computed_ns &&
                    s->emitted_ns > s->sampled_ns);
        assert_int_equal(s->n_rows, s->n_decode_rows + s->n_prefill_rows);
        n_prefill += s->n_prefill_rows;
        n_cached += s->n_cached;
        n_admitted += s->n_admitted;
        last = s->emitted_ns;
    }
    assert_int_equal(trace->end_ns, last);
    assert_int_equal(n_admitted, 1); /* b alone: a was there already */
    assert_int_equal(n_cached, 64);
    assert_int_equal(n_prefill, (80 - 32) + (80 - 64));
    assert_int_equal(trace->n_requests, 2);
    assert_int_equal(trace->requests[0].n_prompt, 80); /* a has ended */
    assert_true(trace->requests[0].times.end_ns > 0);
    assert_int_equal(trace->requests[0].n_output, 4);
    assert_int_equal(trace->requests[1].times.end_ns, 0); /* b has not */
    assert_int_equal(trace->requests[1].n_cached, 64);
    world_run(world);
    plan_finish(world, before);
    plan_finish(world, a);
    plan_finish(world, b);
    world_destroy(world);
}

static void a_trace_ends_with_its_time_even_if_nothing_runs(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    (void)must_inspect(world, &twenty_steps);
    assert_false(engine_step(world->engine));
    world->now_ns += twenty_steps.duration_ns - 1;
    assert_false(engine_step(world->engine));
    assert_int_equal(world->n_inspection_ends, 0);
    world->now_ns++;
    assert_true(engine_step(world->engine));
    assert_int_equal(world->n_inspection_ends, 1);
    assert_int_equal(world->inspection->n_steps, 0);
    assert_false(engine_step(world->engine));
    world_destroy(world);
}

/* ---- flushes ----------------------------------------------------------------------------- */

static const struct inspection_options flush_now = {.kind = INSPECT_FLUSH};
static const struct inspection_options flush_when_idle = {.kind = INSPECT_FLUSH,
                                                          .duration_ns = 1000000000};

static void a_flush_forgets_what_nobody_uses(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    struct plan *held = plan_of(64, 1, 1), *running = plan_of(48, 40, 2),
                *again = plan_of(64, 1, 1);
    held->hold_ns = UINT64_C(1000000000000);
    plan_must_submit(world, held);
    world_run(world);
    plan_must_submit(world, running);
    world_step(world, 3);
    const struct inspection *found = look_at_cache(world, &flush_now);
    check_totals(&found->totals);
    assert_int_equal(found->totals.n_evictable, 0);
    assert_int_equal(found->totals.n_locked, 50 / PAGE); /* of the one that runs */
    assert_false(engine_check(world->engine, &err));
    world_run(world);
    plan_must_submit(world, again);
    world_run(world);
    assert_int_equal(again->n_cached, 0);
    plan_finish(world, held);
    plan_finish(world, running);
    plan_finish(world, again);
    world_destroy(world);
}

static void a_patient_flush_waits_for_idle_or_says_busy(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    struct plan *plan = plan_of(48, 30, 1), *other = plan_of(48, 100, 2);
    plan_must_submit(world, plan);
    (void)must_inspect(world, &flush_when_idle);
    world_step(world, 5);
    assert_int_equal(world->n_inspection_ends, 0);
    world_run(world);
    assert_int_equal(world->n_inspection_ends, 1);
    assert_int_equal(world->inspection_status, SERVERD_OK);
    assert_int_equal(world->inspection->totals.n_free, world->inspection->totals.n_pages);
    plan_must_submit(world, other);
    (void)must_inspect(world, &flush_when_idle);
    world_step(world, 3);
    assert_int_equal(world->n_inspection_ends, 1);
    world->now_ns += flush_when_idle.duration_ns;
    world_step(world, 1);
    assert_int_equal(world->n_inspection_ends, 2);
    assert_int_equal(world->inspection_status, SERVERD_BUSY);
    assert_null(world->inspection);
    assert_int_equal(look_at_cache(world, &whole_cache)->totals.n_locked,
                     51 / PAGE); /* nothing is gone */
    world_run(world);
    plan_finish(world, plan);
    plan_finish(world, other);
    world_destroy(world);
}

static void a_drain_ends_a_trace_and_a_stop_fails_it(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    uint64_t id;
    (void)must_inspect(world, &twenty_steps);
    (void)engine_step(world->engine);
    engine_drain(world->engine);
    (void)engine_step(world->engine);
    assert_int_equal(world->n_inspection_ends, 1);
    assert_non_null(world->inspection);
    (void)must_inspect(world, &whole_cache); /* not yet answered */
    engine_stop(world->engine);
    assert_int_equal(world->n_inspection_ends, 2);
    assert_int_equal(world->inspection_status, SERVERD_BUSY);
    assert_null(world->inspection);
    assert_int_equal(engine_inspect(world->engine, &whole_cache, &id, &err), SERVERD_UNSUPPORTED);
    world_destroy(world);
}

static void only_some_inspections_are_made_at_once(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    uint64_t id, trace = must_inspect(world, &twenty_steps);
    assert_int_equal(engine_inspect(world->engine, &twenty_steps, &id, &err), SERVERD_BUSY);
    for (uint32_t i = 1; i < LIMIT_INSPECTIONS; i++)
        (void)must_inspect(world, &whole_cache);
    assert_int_equal(engine_inspect(world->engine, &whole_cache, &id, &err), SERVERD_BUSY);
    (void)engine_step(world->engine);
    assert_int_equal(world->n_inspected, LIMIT_INSPECTIONS - 1);
    engine_cancel(world->engine, trace);
    engine_cancel(world->engine, trace + 100);
    (void)engine_step(world->engine);
    assert_int_equal(world->n_inspection_ends, LIMIT_INSPECTIONS);
    assert_true(world->inspection_is_cancelled);
    engine_cancel(world->engine, trace); /* is over */
    (void)must_inspect(world, &twenty_steps);
    world_destroy(world); /* which ends it */
}

/* ---- what is counted --------------------------------------------------------------------- */

static double metric(const struct world *world, enum metric_id id)
{
    return metrics_get(world->metrics, id);
}

static double family(const struct world *world, const char *line)
{
    struct buffer text;
    buffer_init(&text, 4 * MIB);
    metrics_render(world->metrics, &text);
    const char *at = strstr(buffer_str(&text), line);
    double value = at ? strtod(at + strlen(line), NULL) : 0.0;
    buffer_deinit(&text);
    return value;
}

enum { N_PLANS = 40, N_WORLDS = 16 };

/* Groups of requests with the same beginning, and choices, in a pool that is too small for them. */
static void run_under_pressure(struct world *world, uint64_t seed, uint64_t *n_prompt,
                               uint64_t *n_cached)
{
    struct plan *plans[N_PLANS];
    *n_prompt = *n_cached = 0;
    for (uint32_t i = 0; i < N_PLANS; i++) {
        uint64_t dice = hash_mix(seed * N_PLANS + i);
        uint32_t n = 20 + (uint32_t)(dice % 130);
        plans[i] = plan_of(n, 50 + (uint32_t)(dice / 64 % 60), dice);
        plan_begin_alike(plans[i], n - (uint32_t)(dice / 256 % 20), seed % 4 * 10 + dice % 3);
        plans[i]->n_choices = 1 + (dice / 1024 % 4 == 0) * 2;
        plans[i]->sampling.ignore_eos = false;
        plans[i]->sampling.temperature = 5;
        plans[i]->priority = (int32_t)(dice / 4096 % 3);
        plan_must_submit(world, plans[i]);
        for (uint64_t k = 0; k < dice / 16384 % 5; k++)
            (void)engine_step(world->engine);
    }
    world_run(world);
    for (uint32_t i = 0; i < N_PLANS; i++) {
        *n_prompt += plans[i]->n_prompt;
        *n_cached += plans[i]->n_cached;
        plan_finish(world, plans[i]);
    }
}

static void check_counters(struct world *world)
{
    const struct cache_totals *t = &look_at_cache(world, &whole_cache)->totals;
    check_totals(t);
    assert_true((double)t->use.n_cached == metric(world, METRIC_CACHED_TOKENS));
    assert_true((double)t->use.n_computed == metric(world, METRIC_COMPUTED_TOKENS));
    assert_true((double)t->use.n_recomputed == metric(world, METRIC_RECOMPUTED_TOKENS));
    assert_true((double)t->use.n_preempted == metric(world, METRIC_PREEMPTIONS));
    assert_true((double)(t->tree.n_evicted[RADIX_OUTPUT] * SERVERD_PAGE_TOKENS) ==
                family(world, "\nserverd_evicted_tokens_total{kind=\"output\"} "));
    assert_true((double)(t->tree.n_evicted[RADIX_PROMPT] * SERVERD_PAGE_TOKENS) ==
                family(world, "\nserverd_evicted_tokens_total{kind=\"prompt\"} "));
    assert_true(t->tree.n_evicted[RADIX_OUTPUT] > 0 && t->tree.n_evicted[RADIX_PROMPT] > 0);
    assert_true(family(world, "\nserverd_uncached_prompt_tokens_sum ") ==
                metric(world, METRIC_COMPUTED_TOKENS));
}

/* Also when they are preempted in the midst of their prompt, and when steps fail. */
static void every_prompt_token_is_cached_or_computed(void **state)
{
    (void)state;
    static const char *const devices[] = {NULL, "fault:inner=null;script=error@9+error@400x2"};
    double n_preempted = 0, n_recomputed = 0;
    for (uint32_t w = 0; w < N_WORLDS; w++) {
        struct world *world =
            world_create(&(struct world_options){.device = devices[w % 2],
                                                 .n_pages = PAGES(16) + w % 4 * 10,
                                                 .prefill_chunk = 4 + w % 3 * 14});
        for (uint64_t round = 0; round < 8; round++) { /* the reserve falls: more preemptions */
            uint64_t n_prompt, n_cached;
            double before = metric(world, METRIC_PROMPT_TOKENS);
            double cached = metric(world, METRIC_CACHED_TOKENS);
            run_under_pressure(world, w * 100 + round, &n_prompt, &n_cached);
            assert_true(metric(world, METRIC_PROMPT_TOKENS) - before == (double)n_prompt);
            assert_true(metric(world, METRIC_CACHED_TOKENS) - cached == (double)n_cached);
            if (metric(world, METRIC_PROMPT_TOKENS) !=
                metric(world, METRIC_CACHED_TOKENS) + metric(world, METRIC_COMPUTED_TOKENS))
                fail_msg("world %u, round %u: %.0f prompt tokens, %.0f cached, %.0f computed", w,
                         (uint32_t)round, metric(world, METRIC_PROMPT_TOKENS),
                         metric(world, METRIC_CACHED_TOKENS),
                         metric(world, METRIC_COMPUTED_TOKENS));
        }
        n_preempted += metric(world, METRIC_PREEMPTIONS);
        n_recomputed += metric(world, METRIC_RECOMPUTED_TOKENS);
        check_counters(world);
        world_destroy(world);
    }
    assert_true(n_preempted > 100 && n_recomputed > 0);
    print_message("%.0f preemptions, %.0f tokens computed once more\n", n_preempted, n_recomputed);
}

static void a_choice_that_waits_for_a_place_finds_its_prompt_and_counts_it_once(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.max_running = 2});
    struct plan *plan = plan_of(40, 20, 1), *first = plan_of(32, 1, 1);
    plan_must_submit(world, first);
    world_run(world);
    plan_finish(world, first);
    plan->n_choices = 4;
    plan->sampling.temperature = 5;
    plan_must_submit(world, plan);
    world_run(world);
    assert_int_equal(plan->n_cached, 32);
    assert_true(metric(world, METRIC_COMPUTED_TOKENS) == 32 + 8);
    plan_finish(world, plan);
    world_destroy(world);
}

static void two_that_fill_the_same_page_are_counted(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.prefill_chunk = 64});
    struct plan *a = plan_of(32, 1, 1), *b = plan_of(32, 1, 1);
    plan_must_submit(world, a);
    plan_must_submit(world,
                     b); /* takes all but its last token, which has to run, and so fills a page */
    world_run(world);
    assert_true(metric(world, METRIC_DUPLICATE_PAGES) == 1);
    plan_finish(world, a);
    plan_finish(world, b);
    world_destroy(world);
}

static void gauges_show_the_pages_and_return_to_zero(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.n_pages = PAGES(40)});
    struct plan *plan = plan_of(40, 20, 1);
    plan_must_submit(world, plan);
    (void)engine_step(world->engine);
    (void)engine_step(world->engine);
    assert_true(metric(world, METRIC_KV_PAGES_LOCKED) == 40 / PAGE);
    assert_true(metric(world, METRIC_KV_PAGES_PRIVATE) == (40 % PAGE > 0));
    assert_true(metric(world, METRIC_KV_PAGES_FREE) == PAGES(40) - (40 + PAGE - 1) / PAGE);
    assert_true(metric(world, METRIC_TREE_NODES) == 2); /* and the beginning */
    assert_true(metric(world, METRIC_BATCH_ROWS) > 0);
    world_run(world);
    plan_finish(world, plan);
    static const enum metric_id zero[] = {
        METRIC_REQUESTS_RUNNING, METRIC_REQUESTS_WAITING, METRIC_REQUESTS_WAITING_TOKENS,
        METRIC_KV_PAGES_PRIVATE, METRIC_KV_PAGES_LOCKED,  METRIC_KV_USAGE,
        METRIC_BATCH_ROWS};
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++)
        assert_true(metric(world, zero[i]) == 0);
    assert_true(metric(world, METRIC_KV_PAGES_FREE) + metric(world, METRIC_KV_PAGES_EVICTABLE) ==
                metric(world, METRIC_KV_PAGES_TOTAL));
    assert_true(family(world, "\nserverd_step_time_seconds_count{phase=\"compute\"} ") ==
                metric(world, METRIC_STEPS));
    assert_true(family(world, "\nserverd_step_time_seconds_count{phase=\"emit\"} ") ==
                metric(world, METRIC_STEPS));
    world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(window_pages_are_shown_by_what_holds_them),
        cmocka_unit_test(a_trace_has_every_step_and_request),
        cmocka_unit_test(a_trace_ends_with_its_time_even_if_nothing_runs),
        cmocka_unit_test(a_flush_forgets_what_nobody_uses),
        cmocka_unit_test(a_patient_flush_waits_for_idle_or_says_busy),
        cmocka_unit_test(a_drain_ends_a_trace_and_a_stop_fails_it),
        cmocka_unit_test(only_some_inspections_are_made_at_once),
        cmocka_unit_test(every_prompt_token_is_cached_or_computed),
    };
    /* Of prompts of several pages, within 160 tokens. */
    const struct CMUnitTest of_small_pages[] = {
        cmocka_unit_test(the_cache_is_shown_as_it_is),
        cmocka_unit_test(a_large_cache_is_cut_to_what_was_asked_for),
        cmocka_unit_test(a_choice_that_waits_for_a_place_finds_its_prompt_and_counts_it_once),
        cmocka_unit_test(two_that_fill_the_same_page_are_counted),
        cmocka_unit_test(gauges_show_the_pages_and_return_to_zero),
    };
    /* What goes when a pool is full: its figures are those of pages of 16 tokens. */
    const struct CMUnitTest of_16[] = {
        cmocka_unit_test(running_sequences_show_as_locks_and_private_pages),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (SERVERD_PAGE_TOKENS <= 16)
        n_failed += cmocka_run_group_tests(of_small_pages, NULL, NULL);
    if (SERVERD_PAGE_TOKENS == 16)
        n_failed += cmocka_run_group_tests(of_16, NULL, NULL);
    return n_failed;
}
