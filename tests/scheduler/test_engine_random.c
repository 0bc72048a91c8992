/* Random requests, cancels, faults and times against small pools: every request ends once, every
 * whole answer is the one its history determines, and all pages come back. */
#include "engine_fixture.h"

#include "base/hash.h"
#include "base/numeric.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_PLANS = 40 };

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = hash_mix(random_state);
    return (uint32_t)(random_state % n);
}

static bool one_in(uint32_t n)
{
    return random_below(n) == 0;
}

/* What is rarely asked for. */
static void random_sampling(struct sampling_params *params)
{
    static const int32_t ids[] = {5, 6, 7};
    static const struct bad_word words[] = {{ids, 1}, {ids + 1, 2}};
    static const struct dry_breaker breakers[] = {{"a", 1}, {"ee", 2}};
    params->typical_p = one_in(2) ? 0.7f : 1.0f;
    params->top_n_sigma = one_in(2) ? 2.0f : -1.0f;
    params->xtc_probability = one_in(2) ? 0.5f : 0.0f;
    params->xtc_threshold = 0.01f;
    params->dry_multiplier = one_in(2) ? 2.0f : 0.0f;
    params->dry_penalty_last = one_in(2) ? -1 : (int32_t)random_below(100);
    params->dry_breakers = breakers;
    params->n_dry_breakers = random_below(3);
    params->bad_words = words;
    params->n_bad_words = random_below(3);
}

/* Goes on behind what an earlier one has left, which may be anything by now. */
static void follow(struct plan *plan, const struct plan *earlier)
{
    uint32_t n_whole = earlier->n_prompt + earlier->result[0].n;
    uint32_t n = min_u32(n_whole - random_below(min_u32(n_whole, 20)), MAX_PROMPT);
    plan->n_prompt = min_u32(n + random_below(5), MAX_PROMPT);
    for (uint32_t i = 0; i < n; i++)
        plan->prompt[i] = i < earlier->n_prompt ? earlier->prompt[i]
                                                : earlier->result[0].token[i - earlier->n_prompt];
    plan->cache_space = earlier->cache_space;
    plan->behind = earlier->prefix_handle;
}

/* plans [n]: the earlier ones. */
static struct plan *random_plan(const struct world *world, struct plan *const *plans, uint32_t n)
{
    static const char *const stops[] = {"ab", "b", "gah", "eee", "ka"};
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, 1 + random_below(one_in(4) ? MAX_PROMPT : 30), random_below(1000));
    if (one_in(2)) /* some begin alike */
        plan_begin_alike(plan, random_below(plan->n_prompt + 1), random_below(3));
    plan->cache_space = one_in(4) ? 1 : 0;
    if (n > 0 && one_in(3))
        follow(plan, plans[random_below(n)]);
    plan->n_choices = one_in(4) ? 1 + random_below(MAX_CHOICES) : 1;
    plan->max_new_tokens = one_in(8) ? 0 : 1 + random_below(one_in(3) ? 150 : 25);
    plan->sampling.temperature = one_in(2) ? 0 : 0.5f * (float)random_below(20);
    plan->sampling.seed = random_below(5);
    plan->sampling.top_k = one_in(4) ? (int32_t)random_below(50) : 0;
    plan->sampling.top_p = one_in(4) ? 0.5f : 1.0f;
    plan->sampling.repetition_penalty = one_in(4) ? 1.5f : 1.0f;
    plan->sampling.presence_penalty = one_in(4) ? 0.5f : 0.0f;
    plan->sampling.ignore_eos = one_in(3);
    plan->sampling.min_tokens = one_in(4) ? random_below(10) : 0;
    if (one_in(4))
        random_sampling(&plan->sampling);
    plan->stop = one_in(3) ? stops[random_below(5)] : NULL;
    plan->stop_token = one_in(4) ? (int32_t)random_below(N_VOCAB) : -1;
    plan->includes_stop = one_in(2);
    plan->wants_logprobs = one_in(4);
    plan->logprobs_are_processed = one_in(2);
    plan->wants_prompt_logprobs = one_in(6);
    plan->n_top_logprobs = random_below(4);
    plan->score_from = 1 + random_below(plan->n_prompt);
    plan->priority = one_in(4) ? (int32_t)random_below(3) * 8 : 0;
    if (one_in(3)) {
        plan->reasoning = &plan_marks[random_below(2)];
        plan->is_reasoning_open = one_in(2);
        plan->reasoning_budget = one_in(2) ? random_below(20) : UINT32_MAX;
    }
    plan->tenant = random_below(3);
    plan->weight = random_below(4);
    plan->hold_ns = one_in(3) ? 1 + random_below(100) * 1000000u : 0;
    plan->hold_rank = random_below(3);
    plan->n_next_tokens = one_in(4) ? random_below(5) : 0;
    for (uint32_t i = 0; i < plan->n_next_tokens; i++)
        plan->next_tokens[i] = (int32_t)random_below(N_VOCAB);
    plan->owner = one_in(2) ? OWNER_PROGRAM : OWNER_EXCHANGE;
    if (one_in(10))
        plan->deadline_ns = world->now_ns + random_below(200) * 1000000u;
    return plan;
}

/* Tokens that a layer sees. */
static const uint32_t windows[] = {0, 1, 17, 18, 40, 100};
enum { N_WINDOWS = sizeof windows / sizeof *windows };

/* The least window pages with which one sequence can go on are what the runtime gives it at
 * least. */
static uint32_t least_windows(uint32_t window)
{
    return (window > 1 ? (window - 2) / SERVERD_PAGE_TOKENS + 1 : 0) + 4;
}

static struct world *random_world(bool has_faults, uint32_t window, const char *disk_folder)
{
    char device[160], draft[160], *draft_end;
    uint32_t repeat = one_in(2) ? 0 : 50 + random_below(50);
    const uint32_t waits = random_below(2), unsure = random_below(3) * 40;
    (void)snprintf(device, sizeof device, "null:repeat=%u;waits=%u;unsure=%u", repeat, waits,
                   unsure);
    if (has_faults)
        (void)snprintf(device, sizeof device,
                       "fault:inner=null;inner.repeat=%u;inner.waits=%u;inner.unsure=%u;"
                       "script=error@%ux%u+nan@%u:%u+oom@%ux%u+inf@%u",
                       repeat, waits, unsure, 1 + random_below(40), 1 + random_below(4),
                       1 + random_below(80), random_below(4), 1 + random_below(100),
                       1 + random_below(8), 1 + random_below(200));
    (void)snprintf(draft, sizeof draft,
                   "fault:inner=null;inner.repeat=%u;inner.min_token=%u;script=%s@%u:%u",
                   one_in(2) ? repeat : random_below(100), one_in(3) ? random_below(80) : 0,
                   one_in(2) ? "error" : "nan", 1 + random_below(600), random_below(4));
    if (!has_faults && (draft_end = strstr(draft, ";script")))
        *draft_end = '\0';
    uint32_t n_least = least_windows(windows[window]);
    uint32_t n_pages = max_u32(CONTEXT / SERVERD_PAGE_TOKENS, n_least + 1) + random_below(30);
    uint32_t n_windows = n_least + (one_in(2) ? 0 : random_below(n_pages));
    struct world *world = world_create(&(struct world_options){
        .device = device,
        .window = windows[window],
        .n_windows = window > 0 ? n_windows < n_pages ? n_windows : n_pages - 1 : 0,
        .draft_device = one_in(2) ? draft : NULL,
        .n_draft_pages = one_in(2) ? 0 : CONTEXT / SERVERD_PAGE_TOKENS + random_below(20),
        .repeat = repeat,
        .max_draft = one_in(4) ? 0 : 1 + random_below(15),
        .n_pages = n_pages,
        .max_running = 1 + random_below(8),
        .prefill_chunk = 1 + random_below(MAX_ROWS),
        .queue_timeout_ns = one_in(4) ? 300000000 : 0,
        .disk_folder = disk_folder,
        .has_no_prefix_cache = one_in(8),
    });
    world->tick_ns = one_in(2) ? 0 : random_below(1000);
    return world;
}

/* From start to end; the folder, if there is one, may have prefixes of an earlier run. */
static void run_engine(uint64_t seed, bool has_faults, uint32_t window, const char *disk_folder)
{
    struct world *world = random_world(has_faults, window, disk_folder);
    struct plan *plans[N_PLANS] = {NULL};
    uint32_t n = 0;
    serverd_error err;
    for (uint32_t i = 0; n < N_PLANS; i++) {
        if (one_in(3)) {
            plans[n] = random_plan(world, plans, n);
            if (plan_submit(world, plans[n], &err) == SERVERD_OK)
                n++;
            else
                free(plans[n]);
        }
        if (n > 0 && one_in(20))
            engine_cancel(world->engine, plans[random_below(n)]->id);
        if (n > 0 && one_in(20))
            engine_release_prefix(world->engine, plans[random_below(n)]->prefix_handle);
        (void)engine_step(world->engine);
        world->now_ns += random_below(3) * 1000000u;
        if (engine_check(world->engine, &err))
            fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
    }
    world_run(world);
    for (uint32_t i = 0; i < n; i++) {
        if (plans[i]->status || plans[i]->is_cancelled)
            plan_check_prefix(world, plans[i]);
        else
            plan_check_whole(world, plans[i]);
        free(plans[i]);
    }
    world->now_ns += 1000000000; /* handles are over */
    world_run(world);
    world_check_empty(world);
    world_destroy(world);
}

static void run_seed(uint64_t seed, bool has_faults)
{
    random_state = seed;
    uint32_t window = one_in(3) ? 0 : random_below(N_WINDOWS);
    if (!one_in(3)) {
        run_engine(seed, has_faults, window, NULL);
        return;
    }
    char folder[64];
    folder_create(folder);
    for (int start = 0; start < 2; start++)
        run_engine(seed, has_faults, window, folder);
    folder_remove(folder);
}

static void run_seeds(bool has_faults)
{
    const char *from = getenv("SERVERD_TEST_SEED");
    uint64_t first = from ? strtoull(from, NULL, 10) : 1, n = from ? 1 : 100;
    for (uint64_t seed = first; seed < first + n; seed++) {
        print_message("SERVERD_TEST_SEED=%llu\n", (unsigned long long)seed);
        run_seed(seed, has_faults);
    }
}

static void every_answer_is_a_function_of_its_request(void **state)
{
    run_seeds(false);
}

static void faults_end_requests_but_never_change_an_answer(void **state)
{
    run_seeds(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_answer_is_a_function_of_its_request),
        cmocka_unit_test(faults_end_requests_but_never_change_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
