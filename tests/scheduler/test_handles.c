/* Prefix handles: held, used by many, to the token, released, over in time, and giving way; and
 * continuations that are scored behind them. */
#include "engine_fixture.h"

#include "base/hash.h"
#include "base/numeric.h"
#include "scheduler/engine_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
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
    struct world *world = world_create(&(struct world_options){.n_pages = PAGES(24)});
    uint64_t handle = hold(world, 1000 * SECOND);
    assert_true(handle > 0);
    fill_pool(world, 6, 100);
    assert_int_equal(cached_of(world, alike(100, 110, 2)), WHOLE(100));
    fill_pool(world, 6, 200);
    assert_int_equal(cached_of(world, alike(100, 120, 3)), WHOLE(100));
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
    struct world *world = world_create(&(struct world_options){.n_pages = PAGES(24)});
    assert_true(hold(world, 5 * SECOND) > 0);
    fill_pool(world, 6, 100);
    assert_int_equal(cached_of(world, alike(100, 110, 2)), WHOLE(100));
    world->now_ns += 6 * SECOND;
    fill_pool(world, 6, 200);
    assert_int_equal(cached_of(world, alike(100, 110, 3)), 0);
    world_destroy(world);
}

static void the_output_is_held_too(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.n_pages = PAGES(24)});
    struct plan *first = alike(90, 90, 1), *next = alike(90, 140, 5);
    first->max_new_tokens = 40;
    first->hold_ns = 1000 * SECOND;
    run(world, first);
    fill_pool(world, 6, 100);
    memcpy(next->prompt + 90, first->result[0].token, 39 * sizeof *next->prompt);
    free(first);
    assert_int_equal(cached_of(world, next), WHOLE(129));
    world_destroy(world);
}

static void handles_give_way_to_requests(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.n_pages = PAGES(16)});
    assert_true(hold(world, 1000 * SECOND) > 0);
    struct plan *large = alike(0, 150, 9);
    large->max_new_tokens = 104; /* nearly all pages */
    run(world, large);
    free(large);
    assert_int_equal(cached_of(world, alike(100, 110, 2)), 0);
    world_check_empty(world);
    world_destroy(world);
}

static void the_oldest_goes_when_too_much_is_held(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.n_pages = PAGES(24)});
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
    assert_int_equal(cached_of(world, again), WHOLE(120));
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
        assert_int_equal(choices[i]->n_cached, WHOLE(99));
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

/* ---- to the token ---------------------------------------------------------------------------- */

enum { PAGE = SERVERD_PAGE_TOKENS };

/* Holds what it computes, for as long as nobody releases it. */
static struct plan *keeper(uint32_t n_prompt, uint32_t n_new, uint64_t seed)
{
    struct plan *plan = plan_of(n_prompt, n_new, seed);
    plan->hold_ns = UINT64_MAX;
    return plan;
}

/* The tokens of a plan that has run, of prompt and output. */
static int32_t token_of(const struct plan *plan, uint32_t i)
{
    return i < plan->n_prompt ? plan->prompt[i] : plan->result[0].token[i - plan->n_prompt];
}

/* Begins with n tokens of the other one, goes on with others, behind its handle. */
static struct plan *follower(const struct plan *first, uint32_t n, uint32_t n_prompt, uint64_t seed)
{
    struct plan *plan = keeper(n_prompt, 0, seed);
    for (uint32_t i = 0; i < n; i++)
        plan->prompt[i] = token_of(first, i);
    if (n < n_prompt && n < first->n_prompt + first->result[0].n)
        plan->prompt[n] = (token_of(first, n) + 1) % N_VOCAB;
    plan->behind = first->prefix_handle;
    return plan;
}

/* Its answer is right and its handle is gone; frees it. */
static void end(struct world *world, struct plan *plan)
{
    engine_release_prefix(world->engine, plan->prefix_handle);
    plan_finish(world, plan);
    world_run(world);
}

static void prompts_of_any_length_go_on_to_the_token(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    for (uint32_t n = 1; n <= 3 * PAGE + 1; n++) {
        struct plan *first = keeper(n, 0, n);
        run(world, first);
        assert_int_equal(first->n_held, n);
        for (uint32_t n_more = 0; n_more <= 2 * PAGE; n_more += 1 + n_more / 3) {
            struct plan *next = follower(first, n, n + n_more, 1000 + n * 100 + n_more);
            if (n_more > 0)
                next->prompt[n] = (int32_t)n_more; /* no two go on alike */
            next->max_new_tokens = n_more % 4;
            run(world, next);
            assert_int_equal(next->n_cached, n_more > 0 ? n : n - 1);
            assert_int_equal(next->n_held,
                             n + n_more + next->max_new_tokens - (next->max_new_tokens > 0));
            end(world, next);
        }
        end(world, first);
    }
    world_check_empty(world);
    world_destroy(world);
}

static void a_part_of_the_tokens_is_enough(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    struct plan *first = keeper(20, 30, 1); /* 49 tokens have run */
    run(world, first);
    assert_int_equal(first->n_held, 49);
    for (uint32_t n = 0; n <= 50; n++) {
        struct plan *next = follower(first, n, n + 3, 100 + n);
        run(world, next);
        assert_int_equal(next->n_cached, min_u32(n, 49));
        end(world, next);
    }
    end(world, first);
    world_check_empty(world);
    world_destroy(world);
}

static void a_tail_is_for_its_own_namespace_and_for_those_who_name_it(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    struct plan *first = keeper(41, 0, 1), *next;
    run(world, first);
    next = follower(first, 41, 45, 2);
    next->behind = 0;
    run(world, next);
    assert_int_equal(next->n_cached, WHOLE(41));
    end(world, next);
    next = follower(first, 41, 45, 3);
    next->behind += 17; /* nobody's */
    run(world, next);
    assert_int_equal(next->n_cached, WHOLE(41));
    end(world, next);
    next = follower(first, 41, 45, 4);
    next->cache_space = 9;
    run(world, next);
    assert_int_equal(next->n_cached, 0);
    end(world, next);
    end(world, first);
    first = keeper(9, 0, 5); /* all of it is tail */
    run(world, first);
    for (uint64_t space = 0; space < 2; space++) {
        next = follower(first, 9, 12, 6);
        next->cache_space = space;
        run(world, next);
        assert_int_equal(next->n_cached, space == 0 ? 9 : 0);
        end(world, next);
    }
    end(world, first);
    world_check_empty(world);
    world_destroy(world);
}

/* A tail of any length is the same memory for all. */
static void many_fork_off_one_tail_in_one_step(void **state)
{
    (void)state;
    enum { N = 8 };
    struct world *world = world_create(&(struct world_options){.n_pages = PAGES(200)});
    for (uint32_t n = max_u32(PAGE - 1, 1); n <= 2 * PAGE + 2; n += 3) {
        struct plan *first = keeper(n, 0, n), *forks[N];
        struct request *requests[N];
        uint64_t ids[N];
        run(world, first);
        for (uint32_t i = 0; i < N; i++) {
            /* the same words first; some have nothing new at all */
            forks[i] = follower(first, n, i < 2 ? n : n + 4, 77);
            forks[i]->prompt[n + 3] = (int32_t)(10 + i);
            forks[i]->max_new_tokens = 20 + i;
            requests[i] = plan_request(world, forks[i]);
        }
        assert_int_equal(engine_submit_all(world->engine, requests, N, ids, &err), SERVERD_OK);
        for (uint32_t i = 0; i < N; i++)
            forks[i]->id = ids[i];
        world_run(world);
        for (uint32_t i = 0; i < N; i++) {
            assert_int_equal(forks[i]->n_cached, i < 2 ? n - 1 : n);
            assert_int_equal(forks[i]->first_step, forks[0]->first_step);
        }
        for (uint32_t i = 0; i < N; i++)
            end(world, forks[i]);
        end(world, first);
    }
    world_check_empty(world);
    world_destroy(world);
}

/* Two go on behind the same tail with the same n_alike tokens. Whether one of them waits for the
 * other, and then has these from it, in whole pages. */
static bool one_waits(uint32_t n_alike, uint32_t dedup_min_tokens)
{
    enum { N = 30 };
    struct world *world =
        world_create(&(struct world_options){.dedup_min_tokens = dedup_min_tokens});
    struct plan *first = keeper(N, 0, 1), *forks[2];
    run(world, first);
    for (int32_t i = 0; i < 2; i++) {
        forks[i] = follower(first, N, N + n_alike + 5, 2);
        forks[i]->prompt[N + n_alike] = 10 + i;
        plan_must_submit(world, forks[i]);
    }
    world_run(world);
    const bool one_waits = forks[0]->first_step != forks[1]->first_step;
    const uint32_t n_pages = (N + n_alike) / PAGE;
    assert_int_equal(forks[0]->n_cached, N);
    assert_int_equal(forks[1]->n_cached, one_waits ? max_u32(n_pages * PAGE, N) : N);
    end(world, forks[0]);
    end(world, forks[1]);
    end(world, first);
    world_check_empty(world);
    world_destroy(world);
    return one_waits;
}

static void who_would_save_enough_waits_for_the_first(void **state)
{
    (void)state;
    assert_false(one_waits(0, 0));
    assert_false(one_waits(10, 0)); /* 2 tokens to the end of a page */
    assert_true(one_waits(20, 0));  /* 18 */
    assert_true(one_waits(20, WHOLE(50) - 30));
    assert_false(one_waits(20, WHOLE(50) - 30 + 1));
    assert_true(one_waits(10, WHOLE(40) - 30));
}

/* One state of a program: its tokens, and the handle of those that have run. */
struct chain {
    int32_t token[CONTEXT];
    uint32_t n, n_held;
    uint64_t handle;
};

/* Appends n_new literals, runs, and takes what was generated. */
static void go_on(struct world *world, struct chain *chain, uint32_t n_literals, uint32_t n_new,
                  uint64_t seed)
{
    struct plan *plan = keeper(n_literals, n_new, seed);
    memcpy(chain->token + chain->n, plan->prompt, n_literals * sizeof *plan->prompt);
    const uint32_t n_carry = chain->n - chain->n_held;
    plan->n_prompt = chain->n += n_literals;
    memcpy(plan->prompt, chain->token, chain->n * sizeof *plan->prompt);
    plan->behind = chain->handle;
    run(world, plan);
    if (chain->handle)
        assert_int_equal(plan->n_prompt - plan->n_cached, max_u32(n_literals + n_carry, 1));
    for (uint32_t i = 0; i < plan->result[0].n; i++)
        chain->token[chain->n++] = plan->result[0].token[i];
    engine_release_prefix(world->engine, chain->handle);
    chain->handle = plan->prefix_handle;
    chain->n_held = plan->n_held;
    free(plan);
}

static void every_operation_computes_what_was_appended_and_the_last_token(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    struct chain chain = {.n = 0};
    for (uint32_t i = 0; i < 20; i++)
        go_on(world, &chain, i == 0 ? 23 : i % 4, i % 3 == 2 ? 0 : 3 + i % 5, i);
    engine_release_prefix(world->engine, chain.handle);
    world_run(world);
    world_check_empty(world);
    world_destroy(world);
}

static void what_might_come_next_is_scored_behind_a_tail(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){0});
    struct plan *first = keeper(37, 0, 1);
    run(world, first);
    for (uint32_t n_new = 0; n_new < 3; n_new++) {
        struct plan *next = follower(first, 37, 37 + n_new, 2);
        struct choice_result answer;
        next->max_new_tokens = 1;
        oracle(world, next, 0, &answer);
        next->max_new_tokens = n_new;
        const int32_t wanted[] = {5, answer.token[0], 6, 5};
        memcpy(next->next_tokens, wanted, sizeof wanted);
        next->n_next_tokens = 4;
        run(world, next);
        assert_int_equal(next->n_cached, n_new > 0 ? max_u32(37, WHOLE(37 + n_new - 1)) : 36);
        end(world, next);
    }
    end(world, first);
    world_check_empty(world);
    world_destroy(world);
}

/* ---- who gives way --------------------------------------------------------------------------- */

static void pages_of_many_handles_count_once(void **state)
{
    (void)state;
    enum { N = 10 };
    struct world *world =
        world_create(&(struct world_options){.n_pages = PAGES(24)}); /* 19 are held */
    struct plan *first = keeper(100, 0, 1), *forks[N];
    run(world, first);
    for (uint32_t i = 0; i < N; i++) {
        forks[i] = follower(first, 100, 104, 10 + i);
        run(world, forks[i]);
    }
    struct engine_status status;
    engine_status(world->engine, &status);
    assert_int_equal(status.n_handles, N + 1);
    assert_int_equal(status.n_held_pages, 100 / PAGE + N * (104 / PAGE - 100 / PAGE) +
                                              (100 % PAGE > 0) + N * (104 % PAGE > 0));
    for (uint32_t i = 0; i < N; i++) {
        struct plan *next = follower(forks[i], 104, 106, 50 + i);
        run(world, next);
        assert_int_equal(next->n_cached, 104);
        end(world, next);
    }
    for (uint32_t i = 0; i < N; i++)
        end(world, forks[i]);
    end(world, first);
    world_check_empty(world);
    world_destroy(world);
}

/* Whether all its 30 tokens are there; without their handle only a page is. */
static bool is_there(struct world *world, const struct plan *held, uint64_t seed)
{
    struct plan *probe = follower(held, 30, 31, seed);
    probe->hold_ns = 0;
    run(world, probe);
    bool is_there = probe->n_cached == 30;
    free(probe);
    return is_there;
}

/* Holds so many pages. */
static struct plan *keeper_of_pages(uint32_t n_pages, uint64_t seed)
{
    const uint32_t n_held = n_pages * PAGE - 1, n_prompt = min_u32(n_held, 150);
    return keeper(n_prompt, n_held - n_prompt + 1, seed);
}

static void the_highest_rank_goes_first_and_of_it_the_oldest(void **state)
{
    (void)state;
    enum { N = 5 };
    static const uint32_t rank[N] = {1, 7, 3, 7, 0};
    static const uint32_t order[N] = {1, 3, 2, 0, 4};
    struct world *world =
        world_create(&(struct world_options){.n_pages = PAGES(20)}); /* 16 are held */
    struct plan *held[N];
    uint64_t seed = 100;
    for (uint32_t i = 0; i < N; i++) {
        held[i] = keeper(30, 0, i);
        held[i]->hold_rank = rank[i];
        run(world, held[i]);
    }
    for (uint32_t n_gone = 0; n_gone <= N; n_gone++) {
        struct plan *large = keeper_of_pages(16 - 2 * (N - n_gone), ++seed);
        run(world, large);
        assert_true(large->prefix_handle > 0);
        end(world, large);
        for (uint32_t i = 0; i < N; i++)
            assert_int_equal(is_there(world, held[order[i]], ++seed), i >= n_gone);
    }
    for (uint32_t i = 0; i < N; i++)
        plan_finish(world, held[i]);
    world_check_empty(world);
    world_destroy(world);
}

static void those_who_wait_push_no_handle_away_while_others_run(void **state)
{
    (void)state;
    struct world *world =
        world_create(&(struct world_options){.n_pages = PAGES(20)}); /* 16 are held */
    struct plan *held = keeper(30, 0, 1), *large = keeper_of_pages(10, 2);
    struct plan *running = plan_of(20, 80, 3), *waiting = plan_of(150, 4, 4);
    run(world, held);
    run(world, large);
    plan_must_submit(world, running);
    world_step(world, 3);
    plan_must_submit(world, waiting);
    struct engine_status status;
    for (; running->n_ends == 0; world_step(world, 1)) {
        engine_status(world->engine, &status);
        assert_int_equal(status.n_handles, 2);
        assert_int_equal(world->engine->n_running, 1);
    }
    world_run(world);
    engine_status(world->engine, &status);
    assert_int_equal(status.n_handles, 1);
    assert_true(waiting->first_step > running->first_step);
    plan_finish(world, running);
    plan_finish(world, waiting);
    end(world, held);
    end(world, large);
    world_check_empty(world);
    world_destroy(world);
}

static void what_is_too_large_is_not_held(void **state)
{
    (void)state;
    struct world *world =
        world_create(&(struct world_options){.n_pages = PAGES(16), .max_pinned_fraction = 0.5});
    struct plan *elder = keeper(30, 0, 1), *large = keeper_of_pages(9, 2);
    elder->hold_rank = 5;
    large->hold_rank = 6;
    run(world, elder);
    run(world, large);
    assert_int_equal(large->prefix_handle, 0);
    assert_int_equal(large->n_held, 0);
    assert_true(is_there(world, elder, 3));
    plan_finish(world, large);
    world->now_ns += 1000000 * SECOND; /* no time is too long */
    assert_true(is_there(world, elder, 4));
    end(world, elder);
    world_check_empty(world);
    world_destroy(world);
}

/* ---- random programs ------------------------------------------------------------------------- */

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = hash_mix(random_state);
    return (uint32_t)(random_state % n);
}

enum { N_STATES = 12, N_ROUNDS = 30, MOST = 150 };

/* States of programs, each with at most one operation under way. */
struct state_of_program {
    bool is_live;
    struct chain chain;
    struct plan *plan;
};

static void begin_operation(struct state_of_program *s, const struct state_of_program *parent)
{
    const struct chain *from = parent ? &parent->chain : &s->chain;
    uint32_t n_new = random_below(3) == 0 ? 0 : 1 + random_below(20);
    struct plan *plan = keeper(1 + random_below(24), n_new, random_state % 100000);
    const uint32_t n_literals = from->n > 0 && random_below(4) == 0 ? 0 : plan->n_prompt;
    s->chain = *from;
    memcpy(s->chain.token + from->n, plan->prompt, n_literals * sizeof *plan->prompt);
    s->chain.n += n_literals;
    plan->n_prompt = s->chain.n;
    memcpy(plan->prompt, s->chain.token, s->chain.n * sizeof *plan->prompt);
    plan->behind = from->handle;
    plan->hold_rank = random_below(4);
    plan->n_next_tokens = random_below(3);
    s->plan = plan;
    if (parent)
        s->chain.handle = 0; /* it is the parent's */
}

/* Its operation has ended. */
static void end_operation(struct world *world, struct state_of_program *s, bool is_exact)
{
    struct plan *plan = s->plan;
    s->plan = NULL;
    if (plan->is_cancelled) {
        plan_check_prefix(world, plan);
        engine_release_prefix(world->engine, plan->prefix_handle);
    } else {
        plan_check_whole(world, plan);
        if (is_exact)
            assert_true(plan->n_cached >= min_u32(s->chain.n_held, plan->n_prompt - 1));
        for (uint32_t i = 0; i < plan->result[0].n; i++)
            s->chain.token[s->chain.n++] = plan->result[0].token[i];
        engine_release_prefix(world->engine, s->chain.handle);
        s->chain.handle = plan->prefix_handle;
        s->chain.n_held = plan->n_held;
    }
    s->is_live = !plan->is_cancelled && s->chain.n < MOST - 50;
    if (!s->is_live)
        engine_release_prefix(world->engine, s->chain.handle);
    free(plan);
}

static void step(struct world *world, uint32_t seed)
{
    (void)engine_step(world->engine);
    if (engine_check(world->engine, &err))
        fail_msg("seed %u: %s", seed, err.text);
}

/* All states that rest go on at once, some as forks of others; some are cancelled on the way. */
static void random_round(struct world *world, struct state_of_program *states, bool has_cancels,
                         uint32_t seed)
{
    struct request *requests[N_STATES];
    struct plan *plans[N_STATES];
    uint64_t ids[N_STATES];
    uint32_t n = 0;
    for (uint32_t i = 0; i < N_STATES; i++) {
        struct state_of_program *s = &states[i];
        const struct state_of_program *parent = &states[random_below(N_STATES)];
        if (s->is_live ? random_below(3) == 0 : random_below(2) == 0)
            continue; /* it rests */
        if (!s->is_live) {
            const bool is_fork = parent->is_live && !parent->plan;
            *s = (struct state_of_program){.is_live = true};
            begin_operation(s, is_fork ? parent : NULL);
        } else {
            begin_operation(s, NULL);
        }
        requests[n] = plan_request(world, s->plan);
        plans[n++] = s->plan;
    }
    assert_int_equal(engine_submit_all(world->engine, requests, n, ids, &err), SERVERD_OK);
    for (uint32_t i = 0; i < n; i++)
        plans[i]->id = ids[i];
    for (uint32_t i = random_below(4); has_cancels && i-- > 0 && n > 0; step(world, seed))
        engine_cancel(world->engine, ids[random_below(n)]);
    world_run(world);
    for (uint32_t i = 0; i < N_STATES; i++)
        if (states[i].plan)
            end_operation(world, &states[i], !has_cancels);
    step(world, seed);
}

static void random_programs(uint32_t seed, const struct world_options *options, bool is_exact)
{
    random_state = seed;
    struct world *world = world_create(options);
    static struct state_of_program states[N_STATES];
    memset(states, 0, sizeof states);
    for (uint32_t i = 0; i < N_ROUNDS; i++)
        random_round(world, states, !is_exact, seed);
    for (uint32_t i = 0; i < N_STATES; i++)
        if (states[i].is_live)
            engine_release_prefix(world->engine, states[i].chain.handle);
    world_run(world);
    step(world, seed);
    world_check_empty(world);
    world_destroy(world);
}

static void programs_reuse_all_that_they_hold(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 20; seed++)
        random_programs(seed, &(struct world_options){.n_pages = PAGES(400), .max_running = 8},
                        true);
    for (uint32_t seed = 21; seed <= 30; seed++)
        random_programs(
            seed,
            &(struct world_options){
                .n_pages = PAGES(400), .max_running = 8, .window = 40, .n_windows = PAGES(300)},
            true);
}

static void programs_get_their_answers_whatever_gives_way(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 40; seed++) {
        char device[96];
        (void)snprintf(device, sizeof device, "fault:inner=null;script=error@%u+oom@%u",
                       3 + seed % 17, 9 + seed % 31);
        random_programs(
            seed,
            &(struct world_options){.device = seed % 3 == 0 ? device : NULL,
                                    .n_pages = max_u32(PAGES(17), 12) + seed % 23,
                                    .window = seed % 4 == 0 ? 18 : 0,
                                    .n_windows = seed % 4 == 0 ? (18 - 2) / PAGE + 8 : 0,
                                    .max_draft = seed % 5,
                                    .max_running = 1 + seed % 6},
            false);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_held_prefix_outlives_others),
        cmocka_unit_test(a_hold_is_over_in_time),
        cmocka_unit_test(the_output_is_held_too),
        cmocka_unit_test(a_part_of_the_tokens_is_enough),
        cmocka_unit_test(a_tail_is_for_its_own_namespace_and_for_those_who_name_it),
        cmocka_unit_test(many_fork_off_one_tail_in_one_step),
        cmocka_unit_test(every_operation_computes_what_was_appended_and_the_last_token),
        cmocka_unit_test(what_might_come_next_is_scored_behind_a_tail),
        cmocka_unit_test(programs_reuse_all_that_they_hold),
        cmocka_unit_test(programs_get_their_answers_whatever_gives_way),
    };
    /* Of prompts of several pages, within 160 tokens. */
    const struct CMUnitTest of_small_pages[] = {
        cmocka_unit_test(continuations_are_scored_behind_a_held_prefix),
        cmocka_unit_test(prompts_of_any_length_go_on_to_the_token),
        cmocka_unit_test(who_would_save_enough_waits_for_the_first),
        cmocka_unit_test(pages_of_many_handles_count_once),
    };
    /* What goes when a pool is full: its figures are those of pages of 16 tokens. */
    const struct CMUnitTest of_16[] = {
        cmocka_unit_test(handles_give_way_to_requests),
        cmocka_unit_test(the_oldest_goes_when_too_much_is_held),
        cmocka_unit_test(the_highest_rank_goes_first_and_of_it_the_oldest),
        cmocka_unit_test(those_who_wait_push_no_handle_away_while_others_run),
        cmocka_unit_test(what_is_too_large_is_not_held),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (SERVERD_PAGE_TOKENS <= 16)
        n_failed += cmocka_run_group_tests(of_small_pages, NULL, NULL);
    if (SERVERD_PAGE_TOKENS == 16)
        n_failed += cmocka_run_group_tests(of_16, NULL, NULL);
    return n_failed;
}
