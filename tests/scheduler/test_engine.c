/* The engine, one fact at a time. */
#include "engine_fixture.h"

#include "kernels/testing/null_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

static void a_request_gets_the_text_of_its_history(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, 100, 3); /* four chunks */
    plan->max_new_tokens = 60;
    plan->wants_logprobs = true;
    plan->n_top_logprobs = 5;
    plan_must_submit(world, plan);
    world_run(world);
    plan_check_whole(world, plan);
    assert_true(plan->times.first_token_ns >= plan->times.admitted_ns);
    assert_true(plan->times.end_ns >= plan->times.first_token_ns);
    world_check_empty(world);
    assert_false(engine_step(world->engine));
    free(plan);
    world_destroy(world);
}

static void all_events_of_a_step_come_in_one_delivery(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    struct plan *plans[6];
    for (uint32_t i = 0; i < 6; i++) {
        plans[i] = plan_create();
        plan_fill_prompt(plans[i], 4, i);
        plan_must_submit(world, plans[i]);
    }
    world_step(world, 1);
    assert_int_equal(world->n_deliveries, 1);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(plans[i]->result[0].n, 1);
    world_run(world);
    for (uint32_t i = 0; i < 6; i++) {
        plan_check_whole(world, plans[i]);
        free(plans[i]);
    }
    world_destroy(world);
}

/* A device that computes alone: the thread delivers the last step's events instead of waiting. */
static void events_are_delivered_while_a_device_computes(void **state)
{
    struct world *world = world_create(&(struct world_options){.device = "null:waits=1"});
    struct plan *plan = plan_create(), *late = plan_create();
    plan_fill_prompt(plan, 4, 1);
    plan_fill_prompt(late, 4, 2);
    plan->max_new_tokens = 3;
    plan->sampling.ignore_eos = true;
    plan_must_submit(world, plan);
    for (uint32_t n = 0; n < 3; n++) {
        world_step(world, 1);
        assert_int_equal(plan->result[0].n, n);
    }
    assert_true(engine_step(world->engine)); /* nothing to compute: all is delivered at once */
    assert_int_equal(plan->result[0].n, 3);
    assert_int_equal(plan->n_ends, 1);
    plan_must_submit(world, late);
    world_run(world);
    plan_check_whole(world, plan);
    plan_check_whole(world, late);
    free(plan);
    free(late);
    world_destroy(world);
}

static void a_long_prompt_does_not_stop_those_that_decode(void **state)
{
    struct world *world = world_create(&(struct world_options){.prefill_chunk = 16});
    struct plan *decoding = plan_create(), *prefilling = plan_create();
    decoding->max_new_tokens = 40;
    decoding->sampling.ignore_eos = true;
    plan_must_submit(world, decoding);
    world_step(world, 2); /* the second is of decode rows alone, and is measured */
    plan_fill_prompt(prefilling, 160, 2);
    plan_must_submit(world, prefilling);
    for (uint32_t i = 0; i < 9; i++) {
        uint32_t n = decoding->result[0].n;
        world_step(world, 1);
        assert_int_equal(decoding->result[0].n, n + 1);
        assert_int_equal(prefilling->result[0].n, 0);
    }
    world_step(world, 1);
    assert_int_equal(prefilling->result[0].n, 1);
    world_run(world);
    plan_check_whole(world, decoding);
    plan_check_whole(world, prefilling);
    free(decoding);
    free(prefilling);
    world_destroy(world);
}

static void chunks_shrink_to_the_wanted_step_time_while_others_decode(void **state)
{
    const struct {
        uint64_t target_ns;
        uint32_t n_steps; /* for 160 tokens beside a decoding sequence */
    } rows[] = {{0, 3}, {1, 20}, {60000000000, 3}};
    for (uint32_t i = 0; i < 3; i++) {
        struct world *world = world_create(
            &(struct world_options){.prefill_chunk = 60, .itl_target_ns = rows[i].target_ns});
        world->tick_ns = 1000000;
        struct plan *decoding = plan_create(), *prefilling = plan_create();
        plan_fill_prompt(decoding, 60, 1);
        decoding->max_new_tokens = 40;
        decoding->sampling.ignore_eos = true;
        plan_must_submit(world, decoding);
        world_step(world, 1); /* alone: the whole chunk, whatever the time */
        assert_int_equal(decoding->result[0].n, 1);
        world_step(world, 1); /* decode rows alone, and what they take */
        plan_fill_prompt(prefilling, 160, 2);
        plan_must_submit(world, prefilling);
        uint32_t n = 0;
        for (; prefilling->result[0].n == 0; n++)
            world_step(world, 1);
        assert_int_equal(n, rows[i].n_steps);
        world_run(world);
        plan_check_whole(world, decoding);
        plan_check_whole(world, prefilling);
        free(decoding);
        free(prefilling);
        world_destroy(world);
    }
}

static void a_short_prompt_is_not_stuck_behind_a_long_one(void **state)
{
    struct world *world = world_create(&(struct world_options){.prefill_chunk = 16});
    struct plan *slow = plan_create(), *quick = plan_create();
    plan_fill_prompt(slow, 160, 2);
    plan_fill_prompt(quick, 8, 3);
    plan_must_submit(world, slow);
    plan_must_submit(world, quick);
    world_step(world, 1);
    assert_int_equal(quick->result[0].n, 1);
    world_run(world);
    plan_check_whole(world, slow);
    plan_check_whole(world, quick);
    free(slow);
    free(quick);
    world_destroy(world);
}

static void choices_share_one_prefill_and_get_their_own_text(void **state)
{
    for (uint32_t max_running = 1; max_running <= 4; max_running++) {
        struct world *world = world_create(&(struct world_options){.max_running = max_running});
        struct plan *plan = plan_create();
        plan_fill_prompt(plan, 37, 4);
        plan->n_choices = 4;
        plan->max_new_tokens = 30;
        plan->sampling.temperature = 8;
        plan->sampling.seed = 5;
        plan_must_submit(world, plan);
        world_run(world);
        plan_check_whole(world, plan);
        assert_memory_not_equal(plan->result[0].token, plan->result[1].token, 20);
        world_check_empty(world);
        free(plan);
        world_destroy(world);
    }
}

static void prompts_are_scored_token_by_token(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    for (uint32_t max_new = 0; max_new <= 3; max_new += 3) {
        struct plan *plan = plan_create();
        plan_fill_prompt(plan, 90, 4);
        plan->max_new_tokens = max_new;
        plan->n_choices = 2;
        plan->sampling.temperature = 1;
        plan->wants_prompt_logprobs = true;
        plan->n_top_logprobs = 2;
        plan_must_submit(world, plan);
        world_run(world);
        plan_check_whole(world, plan);
        free(plan);
    }
    world_destroy(world);
}

static void no_new_tokens_only_compute_the_prompt(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    struct plan *plan = plan_create();
    plan->max_new_tokens = 0;
    plan_must_submit(world, plan);
    world_run(world);
    plan_check_whole(world, plan);
    assert_int_equal(plan->n_output, 0);
    free(plan);
    world_destroy(world);
}

static void the_context_ends_a_text_with_length(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, 150, 4);
    plan->max_new_tokens = 100000;
    plan->sampling.ignore_eos = true;
    plan_must_submit(world, plan);
    world_run(world);
    plan_check_whole(world, plan);
    assert_int_equal(plan->result[0].n, CONTEXT - 150);
    assert_int_equal(plan->result[0].finish, FINISH_LENGTH);
    free(plan);
    world_destroy(world);
}

static struct plan *reasoning_plan(uint32_t budget)
{
    struct plan *plan = plan_create();
    plan->max_new_tokens = 40;
    plan->sampling.ignore_eos = true;
    plan->reasoning = &plan_marks[1];
    plan->is_reasoning_open = true;
    plan->reasoning_budget = budget;
    return plan;
}

static void a_budget_closes_the_block(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    for (uint32_t budget = 0; budget < 3; budget++) {
        struct plan *plan = reasoning_plan(budget * 7);
        plan_must_submit(world, plan);
        world_run(world);
        plan_check_whole(world, plan);
        assert_int_equal(plan->result[0].token[budget * 7], 12);
        assert_int_equal(plan->result[0].token[budget * 7 + 1], 24);
        assert_int_equal(plan->result[0].n, 40);
        free(plan);
    }
    world_destroy(world);
}

static void no_stop_string_is_found_in_reasoning(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    struct plan *free_one = reasoning_plan(9), *plan = reasoning_plan(9);
    uint32_t len;
    char stop[3] = {0};
    plan_must_submit(world, free_one);
    world_run(world);
    for (uint32_t at = 4; at <= 14; at += 10) { /* in the block; behind it */
        *plan = *free_one;
        plan->n_ends = 0;
        plan->id = 0;
        memset(plan->result, 0, sizeof plan->result);
        memcpy(stop, tokenizer_piece(world->tokenizer, free_one->result[0].token[at], &len), 2);
        plan->stop = stop;
        plan_must_submit(world, plan);
        world_run(world);
        plan_check_whole(world, plan);
        assert_true(plan->result[0].n > 11);
        assert_true(at < 11 || plan->result[0].finish == FINISH_STOP);
    }
    free(free_one);
    free(plan);
    world_destroy(world);
}

static void stops_end_a_text_and_hold_it_back(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    struct plan *whole = plan_create();
    whole->max_new_tokens = 20;
    whole->sampling.ignore_eos = true;
    plan_must_submit(world, whole);
    world_run(world);
    char stop[4] = {0}; /* second letter of token 7 and both of token 8 */
    uint32_t len;
    const char *seven = tokenizer_piece(world->tokenizer, whole->result[0].token[7], &len);
    stop[0] = seven[1];
    memcpy(stop + 1, tokenizer_piece(world->tokenizer, whole->result[0].token[8], &len), 2);

    for (uint32_t i = 0; i < 4; i++) {
        struct plan *plan = plan_create();
        plan->max_new_tokens = 20;
        plan->sampling.ignore_eos = true;
        plan->stop = i < 3 ? stop : NULL;
        plan->includes_stop = i == 1;
        plan->sampling.min_tokens = i == 2 ? 9 : 0;
        plan->stop_token = i == 3 ? whole->result[0].token[6] : -1;
        plan_must_submit(world, plan);
        world_run(world);
        plan_check_whole(world, plan);
        assert_int_equal(plan->result[0].finish == FINISH_STOP, i != 2);
        free(plan);
    }
    free(whole);
    world_destroy(world);
}

static void embeddings_come_once_per_request(void **state)
{
    struct world *world = world_create(&(struct world_options){.is_encoder = true});
    struct plan *plans[12];
    for (uint32_t i = 0; i < 12; i++) {
        plans[i] = plan_create();
        plan_fill_prompt(plans[i], 5 * i + 1, i);
        plans[i]->max_new_tokens = 0;
        plans[i]->wants_embedding = true;
        plan_must_submit(world, plans[i]);
    }
    world_run(world);
    for (uint32_t i = 0; i < 12; i++) {
        assert_int_equal(plans[i]->n_embeddings, 1);
        assert_int_equal(plans[i]->n_ends, 1);
        assert_int_equal(plans[i]->status, SERVERD_OK);
        uint64_t state_of = NULL_MODEL_EMPTY;
        for (uint32_t t = 0; t < plans[i]->n_prompt; t++)
            state_of = null_model_next(state_of, plans[i]->prompt[t], t);
        assert_int_equal(plans[i]->embedding_token, null_model_token(state_of, 0, N_VOCAB));
        free(plans[i]);
    }
    struct plan *text = plan_create();
    assert_int_equal(plan_submit(world, text, &err), SERVERD_UNSUPPORTED);
    free(text);
    world_check_empty(world);
    world_destroy(world);
}

static void what_cannot_run_is_refused_at_the_door(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    struct plan *good = plan_create();
#define REFUSED(code, change)                                                                      \
    do {                                                                                           \
        struct plan *plan = plan_create();                                                         \
        change;                                                                                    \
        assert_int_equal(plan_submit(world, plan, &err), code);                                    \
        free(plan);                                                                                \
    } while (0)
    REFUSED(SERVERD_INVALID, plan->n_prompt = 0);
    REFUSED(SERVERD_INVALID, plan->prompt[1] = N_VOCAB);
    REFUSED(SERVERD_INVALID, plan->prompt[1] = -1);
    REFUSED(SERVERD_INVALID, plan->n_choices = 0);
    REFUSED(SERVERD_INVALID, plan->n_choices = 1000);
    REFUSED(SERVERD_INVALID, plan->sampling.temperature = -1);
    REFUSED(SERVERD_INVALID, plan->n_top_logprobs = 21);
    REFUSED(SERVERD_INVALID, plan->stop = "");
    REFUSED(SERVERD_UNSUPPORTED, plan->wants_embedding = true);
    REFUSED(SERVERD_TIMEOUT, plan->deadline_ns = 1);
#undef REFUSED
    plan_must_submit(world, good);
    world_run(world);
    plan_check_whole(world, good);
    free(good);
    world_destroy(world);
}

static void a_full_queue_is_busy_and_says_when_to_come_back(void **state)
{
    struct world *world = world_create(
        &(struct world_options){.max_running = 1, .max_queue = 3, .max_queue_tokens = 100});
    struct plan *plans[4];
    for (uint32_t i = 0; i < 4; i++)
        plans[i] = plan_create();
    for (uint32_t i = 0; i < 3; i++)
        plan_must_submit(world, plans[i]);
    assert_int_equal(plan_submit(world, plans[3], &err), SERVERD_BUSY);
    uint32_t ms = engine_retry_after_ms(world->engine);
    assert_true(ms >= 50 && ms <= 60000);
    world_step(world, 1);
    plan_must_submit(world, plans[3]); /* one has left the queue */
    struct plan *large = plan_create();
    plan_fill_prompt(large, 95, 1);
    assert_int_equal(plan_submit(world, large, &err), SERVERD_BUSY);
    world_run(world);
    plan_must_submit(world, large);
    world_run(world);
    plan_check_whole(world, large);
    for (uint32_t i = 0; i < 4; i++) {
        plan_check_whole(world, plans[i]);
        free(plans[i]);
    }
    free(large);
    world_destroy(world);
}

static void a_set_of_requests_is_taken_whole_or_not_at_all(void **state)
{
    (void)state;
    enum { N = 4 };
    struct world *world = world_create(&(struct world_options){.max_queue = 3});
    struct plan *plans[N];
    struct request *requests[N];
    uint64_t ids[N];
    for (uint32_t i = 0; i < N; i++) {
        plans[i] = plan_of(10 + i, 5, i);
        plans[i]->owner = OWNER_PROGRAM;
        requests[i] = plan_request(world, plans[i]);
    }
    assert_int_equal(engine_submit_all(world->engine, NULL, 0, NULL, &err), SERVERD_OK);
    assert_int_equal(engine_submit_all(world->engine, requests, N, ids, &err), SERVERD_BUSY);
    requests[2]->n_choices = 0;
    assert_int_equal(engine_submit_all(world->engine, requests, 3, ids, &err), SERVERD_INVALID);
    requests[2]->n_choices = 1;
    requests[2]->adapter = "nobody";
    assert_int_equal(engine_submit_all(world->engine, requests, 3, ids, &err), SERVERD_INVALID);
    requests[2]->adapter = NULL;
    requests[1]->deadline_ns = 1;
    assert_int_equal(engine_submit_all(world->engine, requests, 3, ids, &err), SERVERD_TIMEOUT);
    requests[1]->deadline_ns = 0;
    world_check_empty(world);
    assert_int_equal(engine_submit_all(world->engine, requests, 3, ids, &err), SERVERD_OK);
    for (uint32_t i = 0; i < 3; i++) {
        plans[i]->id = ids[i];
        assert_true(i == 0 || ids[i] == ids[i - 1] + 1);
    }
    assert_int_equal(engine_submit_all(world->engine, requests + 3, 1, ids, &err), SERVERD_BUSY);
    world_step(world, 1);
    assert_int_equal(engine_submit_all(world->engine, requests + 3, 1, ids, &err), SERVERD_OK);
    plans[3]->id = ids[0];
    engine_cancel(world->engine, ids[0]);
    world_run(world);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(plans[i]->first_step, 1);
        plan_finish(world, plans[i]);
    }
    assert_true(plans[3]->is_cancelled);
    assert_int_equal(plans[3]->first_step, 0);
    free(plans[3]);
    world_destroy(world);
}

static void requests_start_in_order_of_priority_then_arrival(void **state)
{
    struct world *world = world_create(&(struct world_options){.max_running = 1});
    struct plan *plans[6];
    const int32_t priority[] = {0, 0, 5, -1, 5, 0};
    const uint32_t order[] = {2, 4, 0, 1, 5, 3};
    for (uint32_t i = 0; i < 6; i++) {
        plans[i] = plan_create();
        plans[i]->priority = priority[i];
        plan_must_submit(world, plans[i]);
    }
    world_run(world);
    for (uint32_t i = 1; i < 6; i++)
        assert_true(plans[order[i]]->times.admitted_ns > plans[order[i - 1]]->times.admitted_ns);
    for (uint32_t i = 0; i < 6; i++) {
        plan_check_whole(world, plans[i]);
        free(plans[i]);
    }
    world_destroy(world);
}

static void a_cancelled_request_ends_within_one_step(void **state)
{
    struct world *world = world_create(&(struct world_options){.max_running = 2});
    struct plan *decoding = plan_create(), *prefilling = plan_create(), *waiting = plan_create();
    decoding->max_new_tokens = 200;
    decoding->sampling.ignore_eos = true;
    plan_fill_prompt(prefilling, 150, 2);
    plan_must_submit(world, decoding);
    plan_must_submit(world, prefilling);
    plan_must_submit(world, waiting);
    world_step(world, 2);
    assert_int_equal(prefilling->result[0].n, 0);
    engine_cancel(world->engine, decoding->id);
    engine_cancel(world->engine, prefilling->id);
    engine_cancel(world->engine, waiting->id);
    engine_cancel(world->engine, 12345);
    world_step(world, 1);
    struct plan *all[] = {decoding, prefilling, waiting};
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(all[i]->is_cancelled);
        plan_check_prefix(world, all[i]);
    }
    world_check_empty(world);
    engine_cancel(world->engine, decoding->id); /* ended: ignored */
    world_step(world, 1);
    for (uint32_t i = 0; i < 3; i++)
        free(all[i]);
    world_destroy(world);
}

static void times_that_are_over_end_requests(void **state)
{
    struct world *world =
        world_create(&(struct world_options){.max_running = 1, .queue_timeout_ns = 5000000});
    struct plan *running = plan_create(), *waiting = plan_create();
    running->max_new_tokens = 200;
    running->sampling.ignore_eos = true;
    running->deadline_ns = world->now_ns + 20000000;
    plan_must_submit(world, running);
    plan_must_submit(world, waiting);
    world_step(world, 3);
    world->now_ns += 5000000;
    world_step(world, 1);
    assert_int_equal(waiting->n_ends, 1);
    assert_int_equal(waiting->status, SERVERD_BUSY);
    assert_int_equal(waiting->result[0].n, 0);
    assert_int_equal(running->n_ends, 0);
    world->now_ns += 15000000;
    world_step(world, 1);
    assert_int_equal(running->status, SERVERD_TIMEOUT);
    plan_check_prefix(world, running);
    world_check_empty(world);
    free(running);
    free(waiting);
    world_destroy(world);
}

static void the_time_for_an_output_ends_behind_a_line(void **state)
{
    (void)state;
    static const int32_t line[] = {TOKEN_LINE}, letters[] = {50};
    struct world *world = world_create(&(struct world_options){.max_running = 2});
    struct plan *stops = plan_of(5, 100, 1), *goes_on = plan_of(5, 100, 2);
    stops->sampling.allowed = line;
    goes_on->sampling.allowed = letters;
    stops->sampling.n_allowed = goes_on->sampling.n_allowed = 1;
    stops->decode_ns = goes_on->decode_ns = 10000000;
    plan_must_submit(world, stops);
    plan_must_submit(world, goes_on);
    world_step(world, 3);
    world->now_ns += 9000000;
    world_step(world, 1);
    assert_false(stops->result[0].is_finished);
    world->now_ns += 2000000;
    world_step(world, 1);
    assert_true(stops->result[0].is_finished);
    assert_int_equal(stops->result[0].finish, FINISH_LENGTH);
    assert_true(stops->result[0].n < 20);
    world_run(world);
    assert_int_equal(goes_on->result[0].n, 100); /* there was no line */
    free(stops);
    free(goes_on);
    world_destroy(world);
}

static void who_wants_to_know_hears_how_far_the_prompt_is(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_options){.prefill_chunk = 16});
    struct plan *asks = plan_of(150, 5, 1), *does_not = plan_of(150, 5, 2);
    asks->wants_progress = true;
    plan_must_submit(world, asks);
    plan_must_submit(world, does_not);
    world_run(world);
    assert_int_equal(asks->progress, 150);
    assert_true(asks->n_progress >= 150 / 16);
    assert_int_equal(does_not->n_progress, 0);
    plan_finish(world, asks);
    plan_finish(world, does_not);
    world_destroy(world);
}

static void a_drain_can_be_taken_back(void **state)
{
    struct world *world = world_create(&(struct world_options){.max_running = 1});
    struct plan *running = plan_of(5, 30, 1), *refused = plan_of(5, 5, 2), *next = plan_of(5, 5, 3);
    plan_must_submit(world, running);
    world_step(world, 2);
    engine_drain(world->engine);
    assert_int_equal(plan_submit(world, refused, &err), SERVERD_UNSUPPORTED);
    world_step(world, 2);
    engine_resume(world->engine);
    struct engine_status status;
    engine_status(world->engine, &status);
    assert_false(status.is_draining);
    plan_must_submit(world, next); /* waits for its place, and no drain ends it */
    world_run(world);
    plan_finish(world, running);
    plan_finish(world, next);
    free(refused);
    engine_stop(world->engine);
    engine_resume(world->engine); /* too late */
    refused = plan_of(5, 5, 4);
    assert_int_equal(plan_submit(world, refused, &err), SERVERD_UNSUPPORTED);
    free(refused);
    world_destroy(world);
}

static void draining_ends_what_waits_and_lets_the_rest_finish(void **state)
{
    struct world *world = world_create(&(struct world_options){.max_running = 1});
    struct plan *running = plan_create(), *waiting = plan_create(), *late = plan_create();
    plan_must_submit(world, running);
    plan_must_submit(world, waiting);
    world_step(world, 1);
    engine_drain(world->engine);
    assert_int_equal(plan_submit(world, late, &err), SERVERD_UNSUPPORTED);
    world_run(world);
    plan_check_whole(world, running);
    assert_int_equal(waiting->n_ends, 1);
    assert_int_equal(waiting->status, SERVERD_BUSY);
    free(running);
    free(waiting);
    free(late);
    world_destroy(world);
}

static void draining_lets_programs_go_on_until_the_stop(void **state)
{
    struct world *world = world_create(&(struct world_options){.max_running = 1});
    struct plan *running = plan_create(), *waiting = plan_create(), *next = plan_create(),
                *late = plan_create();
    waiting->owner = next->owner = late->owner = OWNER_PROGRAM;
    plan_must_submit(world, running);
    plan_must_submit(world, waiting);
    world_step(world, 1);
    engine_drain(world->engine);
    world_step(world, 1);
    plan_must_submit(world, next);
    world_run(world);
    plan_finish(world, running);
    plan_finish(world, waiting);
    plan_finish(world, next);
    engine_stop(world->engine);
    assert_int_equal(plan_submit(world, late, &err), SERVERD_UNSUPPORTED);
    free(late);
    world_destroy(world);
}

static void stopping_ends_everything(void **state)
{
    struct world *world = world_create(&(struct world_options){.max_running = 1});
    struct plan *plans[3];
    for (uint32_t i = 0; i < 3; i++) {
        plans[i] = plan_create();
        plan_must_submit(world, plans[i]);
        if (i == 1)
            world_step(world, 2);
    }
    engine_stop(world->engine);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(plans[i]->status, SERVERD_BUSY);
        plan_check_prefix(world, plans[i]);
        free(plans[i]);
    }
    world_check_empty(world);
    world_destroy(world);
}

static void a_preempted_request_has_the_same_text(void **state)
{
    struct world *world = world_create(&(struct world_options){.n_pages = PAGES(20)});
    for (uint32_t i = 0; i < 3; i++) { /* after some 600 quiet steps little is held in reserve */
        struct plan *quiet = plan_create();
        quiet->max_new_tokens = 240;
        quiet->sampling.ignore_eos = true;
        plan_must_submit(world, quiet);
        world_run(world);
        plan_check_whole(world, quiet);
        free(quiet);
    }
    struct plan *plans[8];
    for (uint32_t i = 0; i < 8; i++) {
        plans[i] = plan_create();
        plan_fill_prompt(plans[i], 20, i);
        plans[i]->max_new_tokens = 120;
        plans[i]->sampling.temperature = i % 2 ? 4.0f : 0.0f;
        plans[i]->sampling.seed = i;
        plan_must_submit(world, plans[i]);
    }
    world_run(world);
    for (uint32_t i = 0; i < 8; i++) {
        plan_check_whole(world, plans[i]);
        free(plans[i]);
    }
    assert_true(metrics_get(world->metrics, METRIC_PREEMPTIONS) > 0);
    world_check_empty(world);
    world_destroy(world);
}

/* ---- common prefixes --------------------------------------------------------------------- */

static struct plan *alike(uint32_t n_alike, uint32_t n_prompt, uint64_t seed)
{
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, n_prompt, seed);
    plan_begin_alike(plan, n_alike, 1);
    return plan;
}

static void finish(struct world *world, struct plan *plan, uint32_t n_cached)
{
    plan_check_whole(world, plan);
    assert_int_equal(plan->n_cached, n_cached);
    free(plan);
}

static void a_common_beginning_is_computed_once(void **state)
{
    struct world *world = world_create(&(struct world_options){0});
    struct plan *plan = alike(100, 100, 1);
    plan_must_submit(world, plan);
    world_run(world);
    finish(world, plan, 0);
    plan = alike(70, 120, 2); /* four pages, and six tokens of the fifth */
    plan_must_submit(world, plan);
    world_run(world);
    finish(world, plan, 70);
    plan = alike(100, 100, 1); /* its last page never was full */
    plan_must_submit(world, plan);
    world_run(world);
    finish(world, plan, WHOLE(99));
    plan = alike(96, 96, 1); /* the last token has to run */
    plan_must_submit(world, plan);
    world_run(world);
    finish(world, plan, 95);
    plan = alike(100, 120, 3);
    plan->cache_space = 7; /* somebody else's */
    plan_must_submit(world, plan);
    world_run(world);
    finish(world, plan, 0);
    plan = alike(100, 100, 1);
    plan->wants_prompt_logprobs = true; /* all tokens have to run */
    plan_must_submit(world, plan);
    world_run(world);
    finish(world, plan, 0);
    world_check_empty(world);
    world_destroy(world);
}

static void a_beginning_is_shared_while_its_first_request_runs(void **state)
{
    struct world *world = world_create(&(struct world_options){.prefill_chunk = 32});
    struct plan *first = alike(100, 100, 1), *second = alike(100, 100, 1), *third;
    first->max_new_tokens = 40;
    plan_must_submit(world, first);
    world_step(world, 2); /* 64 tokens of its prompt */
    plan_must_submit(world, second);
    world_step(world, 10);
    /* goes on with what the first has said so far */
    third = alike(100, 120, 1);
    for (uint32_t i = 0; i < 8; i++)
        third->prompt[100 + i] = first->result[0].token[i];
    plan_must_submit(world, third);
    world_run(world);
    finish(world, first, 0);
    finish(world, second, 96); /* it waited for the rest of what both begin with */
    assert_true(third->n_cached >= 96);
    finish(world, third, third->n_cached);
    world_check_empty(world);
    world_destroy(world);
}

static void prefixes_that_nobody_holds_make_room(void **state)
{
    /* each prompt takes 10 of 24 pages, and the pool is full after two */
    struct world *world = world_create(&(struct world_options){.n_pages = PAGES(24)});
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct plan *plan = plan_create();
        plan_fill_prompt(plan, 150, seed);
        plan_must_submit(world, plan);
        world_run(world);
        finish(world, plan, 0);
    }
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, 150, 6); /* the last one is still there */
    plan_must_submit(world, plan);
    world_run(world);
    finish(world, plan, WHOLE(149)); /* full pages */
    world_check_empty(world);
    world_destroy(world);
}

/* ---- faults ------------------------------------------------------------------------------ */

static void not_a_number_fails_only_its_own_request(void **state)
{
    struct world *world =
        world_create(&(struct world_options){.device = "fault:inner=null;script=nan@3:1"});
    struct plan *plans[4];
    for (uint32_t i = 0; i < 4; i++) {
        plans[i] = plan_create();
        plan_fill_prompt(plans[i], 5, i);
        plans[i]->sampling.ignore_eos = true;
        plan_must_submit(world, plans[i]);
    }
    world_run(world);
    uint32_t n_failed = 0;
    for (uint32_t i = 0; i < 4; i++) {
        n_failed += plans[i]->status == SERVERD_NUMERIC;
        if (plans[i]->status)
            plan_check_prefix(world, plans[i]);
        else
            plan_check_whole(world, plans[i]);
        free(plans[i]);
    }
    assert_int_equal(n_failed, 1);
    world_check_empty(world);
    world_destroy(world);
}

static void infinity_in_a_scored_row_fails_its_request(void **state)
{
    struct world *world =
        world_create(&(struct world_options){.device = "fault:inner=null;script=inf@1:4"});
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, 12, 1);
    plan->max_new_tokens = 0;
    plan->wants_prompt_logprobs = true;
    plan_must_submit(world, plan);
    world_run(world);
    assert_int_equal(plan->n_ends, 1);
    assert_int_equal(plan->status, SERVERD_NUMERIC);
    assert_int_equal(plan->n_scored, 4);
    world_check_empty(world);
    free(plan);
    world_destroy(world);
}

static void not_a_number_fails_only_its_own_embedding(void **state)
{
    struct world *world = world_create(
        &(struct world_options){.device = "fault:inner=null;script=nan@1:1", .is_encoder = true});
    struct plan *plans[3];
    for (uint32_t i = 0; i < 3; i++) {
        plans[i] = plan_create();
        plans[i]->max_new_tokens = 0;
        plans[i]->wants_embedding = true;
        plan_must_submit(world, plans[i]);
    }
    world_run(world);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(plans[i]->n_ends, 1);
        assert_int_equal(plans[i]->status, i == 1 ? SERVERD_NUMERIC : SERVERD_OK);
        assert_int_equal(plans[i]->n_embeddings, i != 1);
        free(plans[i]);
    }
    world_check_empty(world);
    world_destroy(world);
}

static void a_step_that_fails_once_harms_nobody(void **state)
{
    const char *scripts[] = {"fault:inner=null;script=error@3", "fault:inner=null;script=oom@1",
                             "fault:inner=null;script=error@2+oom@4+error@19"};
    for (uint32_t k = 0; k < 3; k++) {
        struct world *world = world_create(&(struct world_options){.device = scripts[k]});
        struct plan *plans[4];
        for (uint32_t i = 0; i < 4; i++) {
            plans[i] = plan_create();
            plan_fill_prompt(plans[i], 5 + 20 * i, i);
            plan_must_submit(world, plans[i]);
        }
        world_run(world);
        for (uint32_t i = 0; i < 4; i++) {
            plan_check_whole(world, plans[i]);
            free(plans[i]);
        }
        world_check_empty(world);
        world_destroy(world);
    }
}

static void a_step_that_always_fails_ends_its_requests_and_the_engine_goes_on(void **state)
{
    struct world *world = world_create(
        &(struct world_options){.device = "fault:inner=null;script=error@2:internalx9"});
    struct plan *plans[3];
    for (uint32_t i = 0; i < 3; i++) {
        plans[i] = plan_create();
        plan_must_submit(world, plans[i]);
    }
    world_run(world);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(plans[i]->status, SERVERD_INTERNAL);
        plan_check_prefix(world, plans[i]);
        free(plans[i]);
    }
    world_check_empty(world);
    struct plan *later = plan_create();
    plan_must_submit(world, later);
    world_run(world);
    assert_int_equal(later->n_ends, 1);
    free(later);
    struct plan *last = plan_create();
    plan_must_submit(world, last);
    world_run(world);
    plan_check_whole(world, last);
    free(last);
    world_destroy(world);
}

static void a_lost_device_ends_all_requests_and_refuses_more(void **state)
{
    struct world *world = world_create(
        &(struct world_options){.device = "fault:inner=null;script=lost@3", .max_running = 2});
    struct plan *plans[4];
    for (uint32_t i = 0; i < 4; i++) {
        plans[i] = plan_create();
        plans[i]->sampling.ignore_eos = true;
        plan_must_submit(world, plans[i]);
    }
    world_run(world);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(plans[i]->status, SERVERD_DEVICE_LOST);
        plan_check_prefix(world, plans[i]);
        free(plans[i]);
    }
    struct engine_status status;
    engine_status(world->engine, &status);
    assert_true(status.is_lost);
    struct plan *late = plan_create();
    assert_int_equal(plan_submit(world, late, &err), SERVERD_DEVICE_LOST);
    free(late);
    world_check_empty(world);
    world_destroy(world);
}

static void failures_that_go_on_never_lose_an_end(void **state)
{
    struct world *world = world_create(&(struct world_options){
        .device = "fault:inner=null;script=error@3x2+nan@6:0x2+oom@11x30+inf@45:2",
        .n_pages = PAGES(24)});
    struct plan *plans[12];
    for (uint32_t i = 0; i < 12; i++) {
        plans[i] = plan_create();
        plan_fill_prompt(plans[i], 10 + 9 * i, i);
        plans[i]->n_choices = 1 + i % 3;
        plans[i]->max_new_tokens = 30;
        plans[i]->sampling.temperature = 5;
        plan_must_submit(world, plans[i]);
    }
    world_run(world);
    for (uint32_t i = 0; i < 12; i++) {
        if (plans[i]->status)
            plan_check_prefix(world, plans[i]);
        else
            plan_check_whole(world, plans[i]);
        free(plans[i]);
    }
    world_check_empty(world);
    world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_gets_the_text_of_its_history),
        cmocka_unit_test(all_events_of_a_step_come_in_one_delivery),
        cmocka_unit_test(events_are_delivered_while_a_device_computes),
        cmocka_unit_test(a_long_prompt_does_not_stop_those_that_decode),
        cmocka_unit_test(chunks_shrink_to_the_wanted_step_time_while_others_decode),
        cmocka_unit_test(a_short_prompt_is_not_stuck_behind_a_long_one),
        cmocka_unit_test(choices_share_one_prefill_and_get_their_own_text),
        cmocka_unit_test(prompts_are_scored_token_by_token),
        cmocka_unit_test(no_new_tokens_only_compute_the_prompt),
        cmocka_unit_test(the_context_ends_a_text_with_length),
        cmocka_unit_test(a_budget_closes_the_block),
        cmocka_unit_test(no_stop_string_is_found_in_reasoning),
        cmocka_unit_test(stops_end_a_text_and_hold_it_back),
        cmocka_unit_test(embeddings_come_once_per_request),
        cmocka_unit_test(what_cannot_run_is_refused_at_the_door),
        cmocka_unit_test(a_full_queue_is_busy_and_says_when_to_come_back),
        cmocka_unit_test(a_set_of_requests_is_taken_whole_or_not_at_all),
        cmocka_unit_test(requests_start_in_order_of_priority_then_arrival),
        cmocka_unit_test(a_cancelled_request_ends_within_one_step),
        cmocka_unit_test(times_that_are_over_end_requests),
        cmocka_unit_test(draining_ends_what_waits_and_lets_the_rest_finish),
        cmocka_unit_test(the_time_for_an_output_ends_behind_a_line),
        cmocka_unit_test(who_wants_to_know_hears_how_far_the_prompt_is),
        cmocka_unit_test(draining_lets_programs_go_on_until_the_stop),
        cmocka_unit_test(a_drain_can_be_taken_back),
        cmocka_unit_test(stopping_ends_everything),
        cmocka_unit_test(prefixes_that_nobody_holds_make_room),
        cmocka_unit_test(not_a_number_fails_only_its_own_request),
        cmocka_unit_test(infinity_in_a_scored_row_fails_its_request),
        cmocka_unit_test(not_a_number_fails_only_its_own_embedding),
        cmocka_unit_test(a_step_that_fails_once_harms_nobody),
        cmocka_unit_test(a_step_that_always_fails_ends_its_requests_and_the_engine_goes_on),
        cmocka_unit_test(a_lost_device_ends_all_requests_and_refuses_more),
        cmocka_unit_test(failures_that_go_on_never_lose_an_end),
    };
    /* Of prompts of several pages, within 160 tokens. */
    const struct CMUnitTest of_small_pages[] = {
        cmocka_unit_test(a_preempted_request_has_the_same_text),
        cmocka_unit_test(a_common_beginning_is_computed_once),
        cmocka_unit_test(a_beginning_is_shared_while_its_first_request_runs),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (SERVERD_PAGE_TOKENS <= 16)
        n_failed += cmocka_run_group_tests(of_small_pages, NULL, NULL);
    return n_failed;
}
