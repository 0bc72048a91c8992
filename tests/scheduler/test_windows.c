/* Window pages: what a sequence takes of them, what is left for the next one, and that answers
 * never depend on what was dropped. */
#include "engine_fixture.h"

#include "base/hash.h"
#include "scheduler/engine_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE = SERVERD_PAGE_TOKENS, WINDOW = 40, SPAN = (WINDOW - 2) / PAGE + 1, LEAST = SPAN + 4 };

#define SECOND UINT64_C(1000000000)

static struct world *new_world(uint32_t n_pages, uint32_t n_windows)
{
    return world_create(&(struct world_options){
        .window = WINDOW, .n_pages = PAGES(n_pages), .n_windows = n_windows});
}

static struct window_counts windows_of(const struct world *world)
{
    return page_pool_windows(world->engine->pool);
}

/* Its answer is checked; returns what was cached of its prompt. */
static uint32_t cached_of(struct world *world, struct plan *plan)
{
    plan_must_submit(world, plan);
    world_run(world);
    uint32_t n = plan->n_cached;
    plan_finish(world, plan);
    return n;
}

static struct plan *alike(uint32_t n_alike, uint32_t n_prompt, uint64_t seed)
{
    struct plan *plan = plan_of(n_prompt, 2, seed);
    plan_begin_alike(plan, n_alike, 1);
    if (n_alike < n_prompt) /* and no further, not even by chance */
        plan->prompt[n_alike] = (int32_t)((hash_mix(1000 + n_alike) + 1 + seed) % N_VOCAB);
    return plan;
}

/* Window pages go to prompts that have nothing in common with anything. */
static void fill_windows(struct world *world, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        (void)cached_of(world, alike(0, 60, seed + i));
}

static void a_long_prompt_runs_in_a_window_and_little_more(void **state)
{
    (void)state;
    struct world *world = new_world(40, LEAST);
    struct plan *plan = plan_of(160, 90, 7);
    plan_must_submit(world, plan);
    uint32_t n_most = 0;
    while (engine_step(world->engine)) {
        serverd_error err;
        assert_int_equal(engine_check(world->engine, &err), SERVERD_OK);
        uint32_t n_pinned = windows_of(world).n_pinned;
        n_most = n_pinned > n_most ? n_pinned : n_most;
    }
    assert_true(n_most > SPAN && n_most <= LEAST);
    plan_finish(world, plan);
    world_check_empty(world);
    world_destroy(world);
}

/* Each turn begins with all of the turn before: what was said and what was answered. */
static void check_conversation(uint32_t n_pages, uint32_t n_windows)
{
    struct world *world = new_world(n_pages, n_windows);
    int32_t text[CONTEXT];
    uint32_t n_text = 0;
    for (uint32_t turn = 0; turn < 6; turn++) {
        const uint32_t n_said = 13, n_answer = 11;
        for (uint32_t i = 0; i < n_said; i++)
            text[n_text + i] = (int32_t)(10 + (turn * 31 + i * 7) % 90);
        struct plan *plan = plan_of(n_text + n_said, n_answer, 1);
        memcpy(plan->prompt, text, plan->n_prompt * sizeof *text);
        plan_must_submit(world, plan);
        world_run(world);
        if (turn > 0) /* the last token of an answer never ran */
            assert_true(plan->n_cached + PAGE >= n_text && plan->n_cached < n_text);
        memcpy(text + plan->n_prompt, plan->result[0].token, n_answer * sizeof *text);
        n_text += n_said + n_answer;
        plan_finish(world, plan);
        fill_windows(world, 1, 100 + turn);
    }
    world_check_empty(world);
    world_destroy(world);
}

static void a_conversation_goes_on_where_it_was(void **state)
{
    (void)state;
    check_conversation(200, PAGES(199));
    /* what lies in its middle is dropped, turn by turn */
    check_conversation(200, PAGES(16));
}

static void passed_windows_go_and_the_ends_of_prompts_stay(void **state)
{
    (void)state;
    struct world *world = new_world(200, PAGES(31));
    assert_int_equal(cached_of(world, alike(150, 150, 1)), 0);
    assert_true(windows_of(world).n_middle > 0);
    assert_int_equal(cached_of(world, alike(64, 130, 2)),
                     WHOLE(64)); /* in the middle of the first */
    fill_windows(world, 7, 50);
    assert_int_equal(windows_of(world).n_middle_dropped, 4); /* all that there were */
    assert_int_equal(windows_of(world).n_kept_dropped, 0);
    /* the same prompt ends where it ended, and where others went on others may go on */
    assert_int_equal(cached_of(world, alike(150, 150, 1)), WHOLE(149));
    assert_int_equal(cached_of(world, alike(64, 80, 3)), WHOLE(64));
    /* but here nobody has gone on before */
    assert_int_equal(cached_of(world, alike(100, 120, 4)), WHOLE(64));
    assert_int_equal(cached_of(world, alike(100, 120, 5)), 100);
    world_check_empty(world);
    world_destroy(world);
}

static void a_prefix_without_its_window_is_computed_again(void **state)
{
    (void)state;
    struct world *world = new_world(200, LEAST);
    assert_int_equal(cached_of(world, alike(150, 150, 1)), 0);
    fill_windows(world, 3, 50);
    /* all its pages are there, its window is not */
    assert_int_equal(cached_of(world, alike(150, 150, 1)), 0);
    assert_int_equal(cached_of(world, alike(150, 150, 1)), WHOLE(149));
    assert_true(world_counter(world, "\nserverd_duplicate_pages_total ") == 149 / PAGE);
    world_check_empty(world);
    world_destroy(world);
}

static void choices_share_windows_with_and_without_a_tree(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct world *world =
            world_create(&(struct world_options){.window = WINDOW,
                                                 .n_pages = PAGES(80),
                                                 .n_windows = i % 2 ? PAGES(14) : PAGES(60),
                                                 .has_no_prefix_cache = i > 1});
        struct plan *plan = plan_of(101, 60, 3);
        plan->n_choices = MAX_CHOICES;
        plan->sampling.temperature = 1;
        plan_must_submit(world, plan);
        world_run(world);
        plan_finish(world, plan);
        world_check_empty(world);
        world_destroy(world);
    }
}

static void sequences_that_find_no_window_wait_or_give_way(void **state)
{
    (void)state;
    enum { N = 6 };
    struct world *world = world_create(&(struct world_options){.window = WINDOW,
                                                               .n_pages = PAGES(150),
                                                               .n_windows = 2 * (SPAN + 3),
                                                               .prefill_chunk = MAX_ROWS});
    struct plan *plans[N];
    for (uint32_t i = 0; i < N; i++) {
        plans[i] = plan_of(30 + 20 * i, 40, 20 + i);
        plan_must_submit(world, plans[i]);
    }
    world_step(world, 3);
    assert_true(world->engine->n_running > 0 && world->engine->n_running < N);
    world_run(world);
    for (uint32_t i = 0; i < N; i++)
        plan_finish(world, plans[i]);
    world_check_empty(world);
    world_destroy(world);
}

static void a_handle_keeps_its_window_until_it_gives_way(void **state)
{
    (void)state;
    struct world *world = new_world(150, PAGES(16));
    struct plan *held = alike(100, 100, 1);
    held->max_new_tokens = 0;
    held->hold_ns = 1000 * SECOND;
    plan_must_submit(world, held);
    world_run(world);
    assert_true(held->prefix_handle > 0);
    /* and those of the page before and of the page that the prompt ends in */
    assert_int_equal(windows_of(world).n_pinned, SPAN + 2);
    fill_windows(world, 8, 50);
    assert_int_equal(cached_of(world, alike(100, 120, 2)), WHOLE(100));
    fill_windows(world, 8, 70);
    assert_int_equal(cached_of(world, alike(100, 120, 3)), WHOLE(100));
    engine_release_prefix(world->engine, held->prefix_handle);
    plan_finish(world, held);
    fill_windows(world, 8, 90);
    assert_int_equal(cached_of(world, alike(100, 120, 4)), 0);
    world_check_empty(world);
    world_destroy(world);
}

static void guesses_that_are_wrong_leave_windows_right(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.window = WINDOW,
                                                               .device = "null:repeat=80",
                                                               .repeat = 80,
                                                               .max_draft = 8,
                                                               .n_pages = PAGES(60),
                                                               .n_windows = PAGES(20)});
    struct plan *plans[2] = {plan_of(60, 120, 5), plan_of(20, 150, 6)};
    for (int i = 0; i < 2; i++)
        plan_must_submit(world, plans[i]);
    world_run(world);
    for (int i = 0; i < 2; i++)
        plan_finish(world, plans[i]);
    assert_true(world_counter(world, "serverd_draft_tokens_total{kind=\"ngram\"} ") > 0);
    world_check_empty(world);
    world_destroy(world);
}

static void a_step_that_fails_is_run_again_with_its_windows(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct world *world = world_create(
            &(struct world_options){.window = WINDOW,
                                    .device = "fault:inner=null;script=error@3x2+oom@9",
                                    .n_pages = PAGES(60),
                                    .n_windows = LEAST + 6,
                                    .has_no_prefix_cache = i > 0});
        struct plan *plans[3];
        for (uint32_t k = 0; k < 3; k++)
            plan_must_submit(world, plans[k] = plan_of(40 + 30 * k, 30, 9 + k));
        world_run(world);
        for (uint32_t k = 0; k < 3; k++)
            plan_finish(world, plans[k]);
        world_check_empty(world);
        world_destroy(world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_that_find_no_window_wait_or_give_way),
        cmocka_unit_test(guesses_that_are_wrong_leave_windows_right),
        cmocka_unit_test(a_step_that_fails_is_run_again_with_its_windows),
    };
    /* Of prompts of several pages, within 160 tokens. */
    const struct CMUnitTest of_small_pages[] = {
        cmocka_unit_test(a_conversation_goes_on_where_it_was),
        cmocka_unit_test(choices_share_windows_with_and_without_a_tree),
    };
    /* What goes when a pool is full: its figures are those of pages of 16 tokens. */
    const struct CMUnitTest of_16[] = {
        cmocka_unit_test(a_long_prompt_runs_in_a_window_and_little_more),
        cmocka_unit_test(passed_windows_go_and_the_ends_of_prompts_stay),
        cmocka_unit_test(a_prefix_without_its_window_is_computed_again),
        cmocka_unit_test(a_handle_keeps_its_window_until_it_gives_way),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (SERVERD_PAGE_TOKENS <= 16)
        n_failed += cmocka_run_group_tests(of_small_pages, NULL, NULL);
    if (SERVERD_PAGE_TOKENS == 16)
        n_failed += cmocka_run_group_tests(of_16, NULL, NULL);
    return n_failed;
}
