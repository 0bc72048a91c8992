/* Prefix handles: held, used by many, released, over in time, and giving way; and continuations
 * that are scored behind them. */
#include "engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECOND UINT64_C(1000000000)

static serverd_error err;

/* Runs alone; frees the plan unless the caller keeps it. */
static void run(struct world *world, struct plan *plan)
{
    if (plan_submit(world, plan, &err))
        fail_msg("%s", err.text);
    world_run(world);
    plan_check_whole(world, plan);
}

static uint32_t cached_of(struct world *world, struct plan *plan)
{
    run(world, plan);
    uint32_t n = plan->n_cached;
    free(plan);
    return n;
}

static struct plan *alike(uint32_t n_alike, uint32_t n_prompt, uint64_t seed)
{
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, n_prompt, seed);
    plan_begin_alike(plan, n_alike, 1);
    plan->max_new_tokens = 2;
    plan->sampling.ignore_eos = true;
    return plan;
}

/* As much as the pool has. */
static void fill_pool(struct world *world, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        struct plan *plan = alike(0, 150, seed + i);
        run(world, plan);
        free(plan);
    }
}

static uint64_t hold(struct world *world, uint64_t hold_ns)
{
    struct plan *plan = alike(100, 100, 1);
    plan->max_new_tokens = 0;
    plan->hold_ns = hold_ns;
    run(world, plan);
    uint64_t handle = plan->prefix_handle;
    free(plan);
    return handle;
}

static void a_held_prefix_outlives_others(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.n_pages = 24});
    uint64_t handle = hold(world, 1000 * SECOND);
    assert_true(handle > 0);
    fill_pool(world, 6, 100);
    assert_int_equal(cached_of(world, alike(100, 110, 2)), 96);
    fill_pool(world, 6, 200);
    assert_int_equal(cached_of(world, alike(100, 120, 3)), 96);
    engine_release_prefix(world->engine, handle);
    engine_release_prefix(world->engine, handle + 7); /* nobody's */
    fill_pool(world, 6, 300);
    assert_int_equal(cached_of(world, alike(100, 120, 4)), 0);
    world_check_empty(world);
    world_destroy(world);
}

static void a_hold_is_over_in_time(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.n_pages = 24});
    assert_true(hold(world, 5 * SECOND) > 0);
    fill_pool(world, 6, 100);
    assert_int_equal(cached_of(world, alike(100, 110, 2)), 96);
    world->now_ns += 6 * SECOND;
    fill_pool(world, 6, 200);
    assert_int_equal(cached_of(world, alike(100, 110, 3)), 0);
    world_destroy(world);
}

static void the_output_is_held_too(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.n_pages = 24});
    struct plan *first = alike(90, 90, 1), *next = alike(90, 140, 5);
    first->max_new_tokens = 40;
    first->hold_ns = 1000 * SECOND;
    run(world, first);
    fill_pool(world, 6, 100);
    memcpy(next->prompt + 90, first->result[0].token, 39 * sizeof *next->prompt);
    free(first);
    assert_int_equal(cached_of(world, next), 128);
    world_destroy(world);
}

static void handles_give_way_to_requests(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.n_pages = 16});
    assert_true(hold(world, 1000 * SECOND) > 0);
    struct plan *large = alike(0, 150, 9);
    large->max_new_tokens = 100; /* nearly all pages */
    run(world, large);
    free(large);
    assert_int_equal(cached_of(world, alike(100, 110, 2)), 0);
    world_check_empty(world);
    world_destroy(world);
}

static void the_oldest_goes_when_too_much_is_held(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.n_pages = 24});
    uint64_t first = hold(world, 1000 * SECOND);
    struct plan *other = alike(0, 120, 50);
    other->max_new_tokens = 0;
    other->hold_ns = 1000 * SECOND; /* more than half of the pool together */
    run(world, other);
    assert_true(other->prefix_handle > first);
    fill_pool(world, 6, 100);
    assert_int_equal(cached_of(world, alike(100, 110, 2)), 0);
    struct plan *again = alike(0, 130, 51);
    memcpy(again->prompt, other->prompt, 120 * sizeof *again->prompt);
    free(other);
    assert_int_equal(cached_of(world, again), 112);
    world_destroy(world);
}

static void continuations_are_scored_behind_a_held_prefix(void **state)
{
    (void)state;
    enum { N = 3 };
    struct world *world = world_create(&(struct world_options){0});
    uint64_t handle = hold(world, 1000 * SECOND);
    struct plan *choices[N];
    for (uint32_t i = 0; i < N; i++) {
        choices[i] = alike(100, 103 + i, 10 + i);
        choices[i]->max_new_tokens = 0;
        choices[i]->wants_prompt_logprobs = true;
        choices[i]->score_from = 100;
        assert_int_equal(plan_submit(world, choices[i], &err), SERVERD_OK);
    }
    (void)engine_step(world->engine); /* all of them in one */
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(choices[i]->n_ends, 1);
        assert_int_equal(choices[i]->n_cached, 96);
        plan_check_whole(world, choices[i]);
        free(choices[i]);
    }
    struct plan *wrong = alike(100, 105, 10);
    wrong->wants_prompt_logprobs = true;
    for (uint32_t from = 0; from <= 106; from += 106) {
        wrong->score_from = from;
        struct request *request = plan_request(world, wrong);
        uint64_t id;
        assert_int_equal(engine_submit(world->engine, request, &id, &err), SERVERD_INVALID);
        request_destroy(request);
    }
    free(wrong);
    engine_release_prefix(world->engine, handle);
    (void)engine_step(world->engine);
    world_check_empty(world);
    world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_held_prefix_outlives_others),
        cmocka_unit_test(a_hold_is_over_in_time),
        cmocka_unit_test(the_output_is_held_too),
        cmocka_unit_test(handles_give_way_to_requests),
        cmocka_unit_test(the_oldest_goes_when_too_much_is_held),
        cmocka_unit_test(continuations_are_scored_behind_a_held_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
