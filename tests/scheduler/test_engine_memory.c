/* Every allocation of a running engine fails once: the request concerned ends with NOMEM, once,
 * and the others get their text. The linker sends the allocation calls here (--wrap). */
#include "engine_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);

static uint32_t fail_at; /* 0: never; else that many calls from now */
static bool has_failed;

static bool fails_now(void)
{
    if (fail_at == 0 || --fail_at > 0)
        return false;
    has_failed = true;
    return true;
}

void *__wrap_malloc(size_t n)
{
    return fails_now() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails_now() ? NULL : __real_realloc(p, n);
}

char *__wrap_strdup(const char *s)
{
    return fails_now() ? NULL : __real_strdup(s);
}

enum { N_PLANS = 5 };

static struct plan *make_plan(uint32_t i)
{
    static const struct dry_breaker breakers[] = {{"gh", 2}};
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, 7 + 20 * i, i);
    plan->n_choices = 1 + i % 3;
    plan->max_new_tokens = i == 3 ? 0 : 25;
    plan->sampling.temperature = 4;
    plan->sampling.repetition_penalty = i % 2 ? 1.2f : 1.0f;
    plan->sampling.dry_multiplier = i == 2 ? 0.5f : 0.0f;
    plan->sampling.dry_breakers = breakers;
    plan->sampling.n_dry_breakers = 1;
    plan->stop = i == 2 ? "ab" : NULL;
    plan->wants_logprobs = i == 1 || i == 4;
    plan->logprobs_are_processed = i == 4;
    plan->wants_prompt_logprobs = i == 3;
    plan->n_next_tokens = i >= 3 ? 2 : 0;
    plan->hold_ns = i == 1 || i == 3 ? UINT64_MAX : 0;
    plan->n_top_logprobs = 2;
    return plan;
}

/* False once no allocation is left to fail. */
static bool run_with_failure(uint32_t n, uint32_t window)
{
    struct world *world = world_create(&(struct world_options){
        .device = "null:repeat=90",
        .repeat = 90,
        .n_pages = PAGES(24) + (SERVERD_PAGE_TOKENS > 16 ? 4 : 0),
        .window = window,
        .n_windows = window > 0 ? PAGES(9) + (SERVERD_PAGE_TOKENS > 16 ? 3 : 0) : 0,
        .max_draft = 7,
        .draft_device = "null"});
    struct plan *plans[N_PLANS];
    bool is_submitted[N_PLANS];
    serverd_error err;
    has_failed = false;
    uint32_t left = n;
    for (uint32_t i = 0; i < N_PLANS; i++) {
        plans[i] = make_plan(i);
        struct request *request = plan_request(world, plans[i]);
        uint64_t id;
        fail_at = left;
        is_submitted[i] = engine_submit(world->engine, request, &id, &err) == SERVERD_OK;
        left = fail_at;
        fail_at = 0;
        if (is_submitted[i])
            plans[i]->id = id;
        else
            request_destroy(request);
    }
    fail_at = left;
    while (engine_step(world->engine))
        assert_int_equal(engine_check(world->engine, &err), SERVERD_OK);
    for (uint32_t i = 0; i < N_PLANS; i++)
        engine_release_prefix(world->engine, plans[i]->prefix_handle);
    fail_at = 0;
    for (uint32_t i = 0; i < N_PLANS; i++) /* once more: that may have failed */
        engine_release_prefix(world->engine, plans[i]->prefix_handle);
    (void)engine_step(world->engine);
    uint32_t n_hurt = 0;
    for (uint32_t i = 0; i < N_PLANS; i++) {
        n_hurt += !is_submitted[i] || plans[i]->status != SERVERD_OK;
        if (!is_submitted[i])
            assert_int_equal(plans[i]->n_ends, 0);
        else if (plans[i]->status == SERVERD_OK)
            plan_check_whole(world, plans[i]);
        else
            plan_check_prefix(world, plans[i]);
        free(plans[i]);
    }
    assert_true(n_hurt <= 1); /* 0: what failed was not needed, as an error's text */
    world_check_empty(world);
    world_destroy(world);
    return has_failed;
}

static void no_allocation_failure_hurts_more_than_its_request(void **state)
{
    for (uint32_t window = 0; window <= 40; window += 40) {
        uint32_t n = 1;
        while (run_with_failure(n, window))
            n++;
        print_message("%u allocations failed, one at a time\n", n - 1);
        assert_true(n > 50);
    }
}

static void an_engine_that_cannot_be_made_is_an_error(void **state)
{
    struct world *world = world_create(&(struct world_options){.window = 40});
    struct engine_options options = {
        .has_prefix_cache = true,
        .runtime = world->runtime,
        .tokenizer = world->tokenizer,
        .clock = &world->clock,
        .context_size = CONTEXT,
        .max_running = 4,
        .prefill_chunk = 8,
        .max_queue = 4,
        .max_queue_tokens = 1000,
    };
    serverd_error err;
    struct engine *engine = NULL;
    for (uint32_t n = 1;; n++) {
        has_failed = false;
        fail_at = n;
        serverd_status status = engine_create(&options, &engine, &err);
        fail_at = 0;
        if (!has_failed)
            break;
        assert_int_equal(status, SERVERD_NOMEM);
        assert_null(engine);
    }
    engine_destroy(engine);
    options.prefill_chunk = 0;
    assert_int_equal(engine_create(&options, &engine, &err), SERVERD_INVALID);
    world_destroy(world);
}

static void an_inspection_without_memory_is_refused_and_its_answer_needs_none(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    struct plan *plan = make_plan(4);
    serverd_error err;
    assert_int_equal(plan_submit(world, plan, &err), SERVERD_OK);
    static const enum inspection_kind kinds[] = {INSPECT_CACHE, INSPECT_STEPS};
    for (size_t k = 0; k < 2; k++) {
        const struct inspection_options options = {.kind = kinds[k],
                                                   .max_nodes = 10,
                                                   .max_tokens = 100,
                                                   .tokens_per_node = 16,
                                                   .max_steps = 2,
                                                   .duration_ns = 1000000000};
        uint64_t id;
        serverd_status status = SERVERD_NOMEM;
        for (uint32_t n = 1; status; n++) {
            has_failed = false;
            fail_at = n;
            status = engine_inspect(world->engine, &options, &id, &err);
            fail_at = 0;
            assert_int_equal(status, has_failed ? SERVERD_NOMEM : SERVERD_OK);
        }
    }
    world_run(world);
    plan_check_whole(world, plan);
    free(plan);
    assert_int_equal(world->n_inspected, 2);
    const struct inspection_options whole = {.kind = INSPECT_CACHE, .max_nodes = 10};
    uint64_t id;
    assert_int_equal(engine_inspect(world->engine, &whole, &id, &err), SERVERD_OK);
    has_failed = false;
    fail_at = 1;
    (void)engine_step(world->engine);
    fail_at = 0;
    assert_false(has_failed);
    assert_int_equal(world->n_inspected, 3);
    world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_allocation_failure_hurts_more_than_its_request),
        cmocka_unit_test(an_engine_that_cannot_be_made_is_an_error),
        cmocka_unit_test(an_inspection_without_memory_is_refused_and_its_answer_needs_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
