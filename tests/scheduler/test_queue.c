/* Who is next: cached prefixes first, but nobody waits for ever, tenants share, and what another
 * request computes is waited for. */
#include "engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)

/* Begins as all hot ones do. */
static struct plan *hot(uint32_t n_new, uint64_t seed)
{
    struct plan *plan = plan_of(120, n_new, seed);
    plan_begin_alike(plan, 112, 1);
    return plan;
}

static void run_to_end(struct world *world, struct plan *plan)
{
    plan_must_submit(world, plan);
    world_run(world);
    plan_check_whole(world, plan);
    free(plan);
}

static bool is_admitted(const struct plan *plan)
{
    return plan->n_ends > 0;
}

static void a_cached_prefix_comes_before_a_cold_prompt(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.max_running = 1});
    world->tick_ns = 4 * MS;
    run_to_end(world, hot(1, 2));
    struct plan *running = plan_of(8, 40, 3), *cold = plan_of(120, 2, 4), *warm = hot(2, 5);
    plan_must_submit(world, running);
    world_step(world, 1);
    plan_must_submit(world, cold);
    world_step(world, 1);
    plan_must_submit(world, warm);
    world_run(world);
    assert_true(warm->times.admitted_ns < cold->times.admitted_ns);
    assert_true(warm->n_cached >= 112);
    plan_finish(world, running);
    plan_finish(world, cold);
    plan_finish(world, warm);
    world_destroy(world);
}

/* Hot requests never stop coming, and each would be served before the cold one. */
static void a_cold_prompt_is_overdue_one_day(void **state)
{
    (void)state;
    enum { N = 60 };
    struct world *world = world_create(&(struct world_options){.max_running = 1});
    world->tick_ns = 4 * MS;
    run_to_end(world, hot(1, 2));
    struct plan *cold = plan_of(150, 1, 4), *warm[N];
    uint32_t n = 0;
    for (; n < 4; n++)
        plan_must_submit(world, warm[n] = hot(4, 100 + n));
    plan_must_submit(world, cold);
    for (; n < N && !is_admitted(cold); n++) {
        plan_must_submit(world, warm[n] = hot(4, 100 + n));
        world_step(world, 5);
    }
    assert_true(n > 8);      /* others went first */
    assert_true(n < N - 10); /* but not all */
    world_run(world);
    plan_finish(world, cold);
    for (uint32_t i = 0; i < n; i++)
        plan_finish(world, warm[i]);
    world_check_empty(world);
    world_destroy(world);
}

static void a_common_beginning_is_computed_by_one_request(void **state)
{
    (void)state;
    enum { N = 5 };
    struct world *world = world_create(&(struct world_options){.prefill_chunk = 16});
    struct plan *plans[N], *other = plan_of(20, 4, 50);
    for (uint32_t i = 0; i < N; i++)
        plan_must_submit(world, plans[i] = hot(4, 10 + i));
    plan_must_submit(world, other);
    world_run(world);
    assert_int_equal(plans[0]->n_cached, 0);
    /* for less than 16 tokens nobody waits */
    for (uint32_t i = 1; i < N; i++)
        assert_true(plans[i]->n_cached >= (SERVERD_PAGE_TOKENS < 16 ? 105 : WHOLE(120)));
    /* who has nothing in common does not wait with them */
    assert_true(other->times.admitted_ns < plans[1]->times.admitted_ns);
    for (uint32_t i = 0; i < N; i++)
        plan_finish(world, plans[i]);
    plan_finish(world, other);
    world_check_empty(world);
    world_destroy(world);
}

static void who_stands_back_goes_on_when_its_leader_is_gone(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.prefill_chunk = 16});
    struct plan *leader = hot(4, 1), *follower = hot(4, 2);
    plan_must_submit(world, leader);
    world_step(world, 3);
    plan_must_submit(world, follower);
    world_step(world, 1);
    assert_int_equal(follower->result[0].n, 0);
    engine_cancel(world->engine, leader->id);
    world_run(world);
    assert_true(leader->is_cancelled);
    assert_true(follower->n_cached >= 32 && follower->n_cached < 112);
    plan_finish(world, follower);
    free(leader);
    world_check_empty(world);
    world_destroy(world);
}

static void other_namespaces_do_not_stand_back(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.prefill_chunk = 16});
    struct plan *one = hot(4, 1), *other = hot(4, 2);
    other->cache_space = 5;
    plan_must_submit(world, one);
    plan_must_submit(world, other);
    world_step(world, 1);
    world_run(world);
    assert_true(one->times.admitted_ns == other->times.admitted_ns);
    assert_int_equal(other->n_cached, 0);
    plan_finish(world, one);
    plan_finish(world, other);
    world_destroy(world);
}

enum { N_GREEDY = 24 };

/* How many of a greedy tenant's requests start before the last of `n` that came after them all. */
static uint32_t greedy_before(uint32_t greedy_weight, uint32_t n, uint32_t weight)
{
    struct world *world = world_create(&(struct world_options){.max_running = 1});
    world->tick_ns = 4 * MS;
    struct plan *greedy[N_GREEDY], *modest[N_GREEDY];
    for (uint32_t i = 0; i < N_GREEDY; i++) {
        greedy[i] = plan_of(40, 4, 100 + i);
        greedy[i]->tenant = 1;
        greedy[i]->weight = greedy_weight;
        plan_must_submit(world, greedy[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        modest[i] = plan_of(40, 4, 200 + i);
        modest[i]->tenant = 2;
        modest[i]->weight = weight;
        plan_must_submit(world, modest[i]);
    }
    world_run(world);
    uint32_t n_before = 0;
    for (uint32_t i = 0; i < N_GREEDY; i++)
        n_before += greedy[i]->times.admitted_ns < modest[n - 1]->times.admitted_ns;
    for (uint32_t i = 0; i < N_GREEDY; i++)
        plan_finish(world, greedy[i]);
    for (uint32_t i = 0; i < n; i++)
        plan_finish(world, modest[i]);
    world_destroy(world);
    return n_before;
}

static void tenants_take_turns_by_their_weights(void **state)
{
    (void)state;
    assert_in_range(greedy_before(1, 1, 1), 0, 1);
    assert_in_range(greedy_before(1, 6, 1), 5, 7);
    assert_in_range(greedy_before(3, 6, 1), 15, 19);
    assert_in_range(greedy_before(1, 6, 3), 1, 3);
}

static void a_much_higher_priority_takes_a_running_one_s_place(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.max_running = 2});
    world->tick_ns = 4 * MS;
    struct plan *low[2] = {plan_of(30, 60, 1), plan_of(30, 60, 2)}, *urgent = plan_of(30, 5, 3),
                *higher = plan_of(30, 5, 4);
    higher->priority = 10; /* not by enough */
    urgent->priority = 11;
    plan_must_submit(world, low[0]);
    plan_must_submit(world, low[1]);
    world_step(world, 10);
    plan_must_submit(world, higher);
    world_step(world, 10);
    assert_int_equal(higher->result[0].n, 0);
    plan_must_submit(world, urgent);
    world_step(world, 10);
    assert_int_equal(urgent->result[0].n, 5);
    world_run(world);
    assert_true(urgent->times.end_ns < low[0]->times.end_ns);
    for (uint32_t i = 0; i < 2; i++)
        plan_finish(world, low[i]);
    plan_finish(world, urgent);
    plan_finish(world, higher);
    world_check_empty(world);
    world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cold_prompt_is_overdue_one_day),
        cmocka_unit_test(a_common_beginning_is_computed_by_one_request),
        cmocka_unit_test(who_stands_back_goes_on_when_its_leader_is_gone),
        cmocka_unit_test(other_namespaces_do_not_stand_back),
        cmocka_unit_test(tenants_take_turns_by_their_weights),
        cmocka_unit_test(a_much_higher_priority_takes_a_running_one_s_place),
    };
    /* Of prompts of several pages, within 160 tokens. */
    const struct CMUnitTest of_small_pages[] = {
        cmocka_unit_test(a_cached_prefix_comes_before_a_cold_prompt),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (SERVERD_PAGE_TOKENS <= 16)
        n_failed += cmocka_run_group_tests(of_small_pages, NULL, NULL);
    return n_failed;
}
