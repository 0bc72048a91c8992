/* A draft model beside the engine's: which may be one, that answers stay as they are however wrong
 * or broken it is, and that it saves steps where it is right. */
#include "engine_fixture.h"

#include "kernels/testing/null_model.h"
#include "scheduler/draft_model.h"
#include "scheduler/engine_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DRAFTED  "serverd_draft_tokens_total{kind=\"model\"} "
#define ACCEPTED "serverd_accepted_tokens_total{kind=\"model\"} "

static serverd_error err;

/* ---- which models ---------------------------------------------------------------------------- */

struct words {
    struct program program;
    struct token_text token[6];
};

static void words_init(struct words *words, uint32_t n, const char *const *text)
{
    *words = (struct words){0};
    for (uint32_t i = 0; i < n; i++)
        words->token[i] = (struct token_text){
            .bytes = text[i], .len = (uint32_t)strlen(text[i]), .type = TOKEN_NORMAL};
    words->program.vocabulary =
        (struct vocabulary){.n_tokens = n, .token = words->token, .eos = 1, .eot = 2, .eom = -1};
}

static void the_vocabulary_has_to_be_the_same(void **state)
{
    static const char *const text[] = {"a", "b", "c", "d", "e", "f"};
    static const char *const other[] = {"a", "b", "c", "e", "d", "f"};
    static const char *const longer[] = {"a", "b", "c", "dd", "e", "f"};
    struct words model, draft;
    words_init(&model, 5, text);
    words_init(&draft, 5, text);
    assert_int_equal(draft_model_check(&draft.program, &model.program, &err), SERVERD_OK);

    words_init(&draft, 5, other);
    assert_int_equal(draft_model_check(&draft.program, &model.program, &err), SERVERD_UNSUPPORTED);
    assert_non_null(strstr(err.text, "token 3"));
    words_init(&draft, 5, longer);
    assert_int_equal(draft_model_check(&draft.program, &model.program, &err), SERVERD_UNSUPPORTED);

    words_init(&draft, 6, text);
    assert_int_equal(draft_model_check(&draft.program, &model.program, &err), SERVERD_UNSUPPORTED);
    assert_non_null(strstr(err.text, "6 tokens"));
    assert_int_equal(draft_model_check(&model.program, &draft.program, &err), SERVERD_UNSUPPORTED);
    draft.token[5].type = TOKEN_UNUSED; /* filled up to a round number */
    assert_int_equal(draft_model_check(&draft.program, &model.program, &err), SERVERD_OK);
    assert_int_equal(draft_model_check(&model.program, &draft.program, &err), SERVERD_OK);

    words_init(&draft, 5, text);
    draft.program.vocabulary.eot = 3;
    assert_int_equal(draft_model_check(&draft.program, &model.program, &err), SERVERD_UNSUPPORTED);
    assert_non_null(strstr(err.text, "end-of-turn"));
    words_init(&draft, 0, text);
    assert_int_equal(draft_model_check(&draft.program, &model.program, &err), SERVERD_UNSUPPORTED);

    words_init(&draft, 5, text);
    draft.program.config.is_encoder = true;
    assert_int_equal(draft_model_check(&draft.program, &model.program, &err), SERVERD_UNSUPPORTED);
    assert_int_equal(draft_model_check(&model.program, &draft.program, &err), SERVERD_UNSUPPORTED);
}

/* ---- the model alone ------------------------------------------------------------------------- */

/* A sequence that nobody runs. */
struct text {
    struct request request;
    struct job job;
    struct sequence sequence;
    int32_t token[CONTEXT];
};

static struct text *text_create(uint32_t n_tokens)
{
    struct text *text = calloc(1, sizeof *text);
    assert_non_null(text);
    for (uint32_t i = 0; i < CONTEXT; i++)
        text->token[i] = (int32_t)(3 + i * 7 % (N_VOCAB - 3));
    text->request.prompt = text->token;
    text->request.n_prompt = n_tokens;
    text->job.request = &text->request;
    text->sequence.job = &text->job;
    text->sequence.state = SEQUENCE_RUNNING;
    return text;
}

/* What the null model says behind the text and the first n guesses. */
static int32_t next_token(const struct text *text, const int32_t *guesses, uint32_t n)
{
    uint64_t state = NULL_MODEL_EMPTY;
    uint32_t n_tokens = text->request.n_prompt;
    for (uint32_t i = 0; i < n_tokens + n; i++)
        state = null_model_next(state, i < n_tokens ? text->token[i] : guesses[i - n_tokens], i);
    return null_model_answer(state, 0, 0, 0, N_VOCAB);
}

static struct draft_model *model_create(struct world *world)
{
    struct draft_model *model = draft_model_create(world->draft_runtime, &world->clock, N_VOCAB);
    assert_non_null(model);
    return model;
}

/* All rows that are left, and n guesses, which have to be the null model's. */
static void guess(struct draft_model *model, struct text *const *texts, uint32_t n_texts,
                  uint32_t n_guesses, int32_t (*out)[DRAFT_MAX_ROWS])
{
    struct draft_work work[DRAFT_MAX_SEQUENCES];
    double seconds;
    for (uint32_t i = 0; i < n_texts; i++) {
        struct sequence *s = &texts[i]->sequence;
        work[0] = (struct draft_work){s, DRAFT_CATCH_UP_ROWS, 0, NULL};
        while (draft_model_n_left(s) > DRAFT_CATCH_UP_ROWS) {
            assert_true(draft_model_reserve(model, s, work[0].n_rows, 0));
            assert_int_equal(draft_model_guess(model, work, 1, &seconds, &err), SERVERD_OK);
        }
    }
    for (uint32_t i = 0; i < n_texts; i++) {
        struct sequence *s = &texts[i]->sequence;
        uint32_t n = n_guesses > i ? n_guesses - i : 1; /* not the same for all */
        work[i] = (struct draft_work){s, draft_model_n_left(s), n, out[i]};
        assert_true(draft_model_reserve(model, s, work[i].n_rows, n));
    }
    if (draft_model_guess(model, work, n_texts, &seconds, &err) || draft_model_audit(model, &err))
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < n_texts; i++)
        for (uint32_t k = 0; k < work[i].n_guesses; k++)
            assert_int_equal(out[i][k], next_token(texts[i], out[i], k));
}

/* Whatever share of the guesses comes true, the next ones are behind what really came. */
static void guesses_follow_the_tokens_that_came(void **state)
{
    struct world *world =
        world_create(&(struct world_options){.draft_device = "null", .max_draft = 7});
    struct draft_model *model = model_create(world);
    struct text *texts[3] = {text_create(1), text_create(16), text_create(41)};
    int32_t out[3][DRAFT_MAX_ROWS] = {{0}};
    for (uint32_t n_guesses = 1; n_guesses <= 6; n_guesses++)
        for (uint32_t n_right = 0; n_right <= n_guesses; n_right++) {
            guess(model, texts, 3, n_guesses, out);
            for (uint32_t i = 0; i < 3; i++) { /* right ones, and one that is not */
                struct request *r = &texts[i]->request;
                uint32_t n = n_guesses > i ? n_guesses - i : 1;
                n = n_right < n ? n_right : n;
                memcpy(texts[i]->token + r->n_prompt, out[i], n * sizeof(int32_t));
                texts[i]->token[r->n_prompt + n] = (out[i][n] + 1) % N_VOCAB;
                r->n_prompt += n + 1;
                assert_in_range(draft_model_n_left(&texts[i]->sequence), 1, DRAFT_STEADY_ROWS);
                r->n_prompt += (n_guesses + n_right) % 3; /* some came without its help */
            }
        }
    guess(model, texts, 3, 5, out);
    guess(model, texts, 3, 5, out); /* nothing came: the step failed, say */
    for (uint32_t i = 0; i < 3; i++) {
        draft_model_release(model, &texts[i]->sequence);
        free(texts[i]);
    }
    draft_model_destroy(model);
    world_destroy(world);
}

static void a_sequence_without_pages_gives_up_what_it_had(void **state)
{
    struct world *world = world_create(&(struct world_options){
        .draft_device = "null", .n_draft_pages = CONTEXT / SERVERD_PAGE_TOKENS, .max_draft = 7});
    struct draft_model *model = model_create(world);
    struct text *a = text_create(120), *b = text_create(140);
    int32_t out[1][DRAFT_MAX_ROWS];
    guess(model, &a, 1, 7, out);
    assert_false(draft_model_reserve(model, &b->sequence, 140, 1)); /* eight pages of its own */
    assert_null(b->sequence.draft_context);
    assert_true(draft_model_reserve(model, &b->sequence, 64, 0));
    assert_false(draft_model_reserve(model, &b->sequence, 140, 4));
    assert_null(b->sequence.draft_context);
    assert_int_equal(draft_model_n_left(&b->sequence), 140);
    guess(model, &a, 1, 7, out);
    draft_model_release(model, &a->sequence);
    guess(model, &b, 1, 7, out);
    b->token[130] = N_VOCAB; /* known to the engine's model only */
    draft_model_release(model, &b->sequence);
    assert_false(draft_model_reserve(model, &b->sequence, 140, 1));
    assert_true(draft_model_reserve(model, &b->sequence, 130, 0));
    draft_model_release(model, &b->sequence);
    if (draft_model_audit(model, &err))
        fail_msg("%s", err.text);
    free(a);
    free(b);
    draft_model_destroy(model);
    world_destroy(world);
}

/* ---- the engine ------------------------------------------------------------------------------ */

/* A long text that only a model can guess, in a namespace of its own. */
static struct plan *long_plan(uint32_t n_prompt, uint32_t seed)
{
    struct plan *plan = plan_create();
    plan_fill_prompt(plan, n_prompt, seed);
    plan->max_new_tokens = 90;
    plan->sampling.ignore_eos = true;
    plan->cache_space = seed;
    return plan;
}

static void submit(struct world *world, struct plan *plan)
{
    if (plan_submit(world, plan, &err))
        fail_msg("%s", err.text);
}

static uint32_t steps_of(struct world *world, struct plan *plan)
{
    uint32_t n_before = world_n_steps(world);
    submit(world, plan);
    world_run(world);
    plan_check_whole(world, plan);
    return world_n_steps(world) - n_before;
}

/* Further rows of the model cost little; time stands still, so the engine does not learn it. */
static void make_rows_cheap(struct world *world)
{
    world->engine->row_cost = (struct row_cost){.first = 0.001, .more = 0.02, .n_learned = 1};
}

static struct world *drafted_world(const char *draft)
{
    return world_create(&(struct world_options){.draft_device = draft, .max_draft = 7});
}

static void a_right_draft_saves_steps(void **state)
{
    struct world *world = drafted_world("null");
    struct plan *plan = long_plan(20, 3);
    uint32_t n = steps_of(world, plan);
    double n_right = world_counter(world, ACCEPTED);
    assert_true(2 * n < plan->n_output);
    assert_int_equal(plan->n_output + 1 - n, n_right + 1); /* every one saves a step */
    assert_int_equal(n_right, world_counter(world, DRAFTED));
    assert_true(n_right > 0);
    free(plan);
    world_check_empty(world);
    world_destroy(world);
}

static void several_sequences_are_guessed_together(void **state)
{
    struct world *world = drafted_world("null");
    struct plan *plans[4];
    for (uint32_t i = 0; i < 4; i++) {
        plans[i] = long_plan(3 + 5 * i, i);
        submit(world, plans[i]);
    }
    world_run(world);
    uint32_t n_tokens = 0;
    for (uint32_t i = 0; i < 4; i++) {
        plan_check_whole(world, plans[i]);
        n_tokens += plans[i]->n_output;
        free(plans[i]);
    }
    assert_true(8 * world_n_steps(world) < 3 * n_tokens); /* a quarter if there were no guesses */
    assert_int_equal(world_counter(world, ACCEPTED), world_counter(world, DRAFTED));
    world_check_empty(world);
    world_destroy(world);
}

static void a_wrong_draft_changes_nothing(void **state)
{
    const char *const drafts[] = {"null:repeat=96", "null:repeat=50", "null:repeat=10",
                                  "null:min_token=30,repeat=96"};
    for (size_t d = 0; d < sizeof drafts / sizeof *drafts; d++) {
        struct world *world = world_create(&(struct world_options){
            .device = "null:repeat=96", .repeat = 96, .draft_device = drafts[d], .max_draft = 7});
        for (uint32_t i = 0; i < 20; i++) {
            struct plan *plan = long_plan(10 + 7 * i, i);
            plan->sampling.temperature = 0.5f * (float)(i % 8);
            plan->sampling.seed = i;
            plan->n_choices = 1 + i % 3;
            plan->wants_logprobs = i % 4 == 0;
            (void)steps_of(world, plan);
            free(plan);
        }
        print_message("%s: %g of %g guesses are right\n", drafts[d], world_counter(world, ACCEPTED),
                      world_counter(world, DRAFTED));
        assert_true(world_counter(world, DRAFTED) > 10);
        assert_true(d == 0 || world_counter(world, ACCEPTED) < world_counter(world, DRAFTED));
        world_check_empty(world);
        world_destroy(world);
    }
}

static void a_draft_that_fails_is_not_used_any_more(void **state)
{
    const char *const scripts[] = {"error", "oom", "nan", "inf", "lost"};
    for (uint32_t at = 1; at <= 9; at += 2)
        for (size_t k = 0; k < sizeof scripts / sizeof *scripts; k++) {
            char device[80];
            (void)snprintf(device, sizeof device, "fault:inner=null;script=%s@%ux1000", scripts[k],
                           at);
            struct world *world = drafted_world(device);
            make_rows_cheap(world);
            struct plan *plans[2] = {long_plan(20, 1), long_plan(40, 2)};
            submit(world, plans[0]);
            submit(world, plans[1]);
            world_run(world);
            plan_check_whole(world, plans[0]);
            plan_check_whole(world, plans[1]);
            double n = world_counter(world, DRAFTED);
            struct plan *later = long_plan(20, 3);
            uint32_t n_taken = steps_of(world, later);
            assert_int_equal(n_taken, later->n_output);
            assert_int_equal(world_counter(world, DRAFTED), n);
            assert_false(draft_model_is_good(world->engine->draft_model));
            assert_int_equal(world_counter(world, "serverd_step_failures_total "), 0);
            free(plans[0]);
            free(plans[1]);
            free(later);
            world_check_empty(world);
            world_destroy(world);
        }
}

/* A prompt that it has yet to see: a bounded number of rows a step, and no guesses meanwhile. */
static void it_catches_up_with_a_prompt_in_small_steps(void **state)
{
    struct world *world = drafted_world("null");
    struct plan *plan = long_plan(100, 5);
    plan->max_new_tokens = 150;
    submit(world, plan);
    uint32_t n_catching_up = 0;
    while (world_counter(world, DRAFTED) == 0 && plan->n_ends == 0) {
        const struct engine *engine = world->engine;
        engine_step(world->engine);
        if (engine->n_draft_works == 0)
            continue;
        assert_true(plan->result[0].n > 5); /* it would not have been worth it before */
        assert_int_equal(engine->n_draft_works, 1);
        assert_true(engine->draft_work[0].n_rows <= DRAFT_CATCH_UP_ROWS);
        n_catching_up += engine->draft_work[0].n_guesses == 0;
    }
    assert_true(n_catching_up >= 2);
    world_run(world);
    plan_check_whole(world, plan);
    assert_true(world_counter(world, ACCEPTED) > 30);
    free(plan);
    world_destroy(world);
}

static void texts_that_do_not_fit_into_it_get_no_guesses(void **state)
{
    struct world *world = world_create(
        &(struct world_options){.draft_device = "null", .n_draft_context = 40, .max_draft = 7});
    struct plan *plan = long_plan(10, 1);
    (void)steps_of(world, plan);
    double n = world_counter(world, ACCEPTED);
    assert_in_range((unsigned)n, 10, 29);
    free(plan);
    plan = long_plan(50, 2);
    uint32_t n_taken = steps_of(world, plan);
    assert_int_equal(n_taken, plan->n_output + 1); /* two chunks of prompt */
    assert_int_equal(world_counter(world, ACCEPTED), n);
    assert_true(draft_model_is_good(world->engine->draft_model));
    free(plan);
    world_check_empty(world);
    world_destroy(world);
}

static void many_sequences_make_no_guesses(void **state)
{
    struct world *world = world_create(&(struct world_options){
        .draft_device = "null", .max_draft = 7, .max_running = 10, .prefill_chunk = 64});
    struct plan *plans[10];
    for (uint32_t i = 0; i < 10; i++) {
        plans[i] = long_plan(5, i);
        submit(world, plans[i]);
    }
    world_run(world);
    for (uint32_t i = 0; i < 10; i++) {
        plan_check_whole(world, plans[i]);
        free(plans[i]);
    }
    assert_int_equal(world_counter(world, DRAFTED), 0);
    world_destroy(world);
}

static uint32_t n_known(const struct world *world)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < world->engine->n_running; i++)
        n += world->engine->running[i]->draft_context != NULL;
    return n;
}

/* What it has of a sequence goes when the sequence is cancelled or has to wait. */
static void its_pages_come_back(void **state)
{
    struct world *world = world_create(
        &(struct world_options){.draft_device = "null", .max_draft = 7, .max_running = 1});
    struct plan *plan = long_plan(10, 1), *preempting = long_plan(10, 2);
    preempting->priority = 20;
    submit(world, plan);
    while (n_known(world) == 0 && engine_step(world->engine))
        ;
    assert_int_equal(n_known(world), 1);
    submit(world, preempting);
    (void)engine_step(world->engine);
    assert_int_equal(metrics_get(world->metrics, METRIC_PREEMPTIONS), 1);
    assert_int_equal(n_known(world), 0);
    while (n_known(world) == 0 && engine_step(world->engine))
        assert_int_equal(engine_check(world->engine, &err), SERVERD_OK);
    assert_int_equal(n_known(world), 1);
    engine_cancel(world->engine, preempting->id);
    world_run(world); /* checks after every step */
    assert_true(preempting->is_cancelled);
    plan_check_whole(world, plan);
    assert_true(world_counter(world, ACCEPTED) > 20);
    free(plan);
    free(preempting);
    world_check_empty(world);
    world_destroy(world);
}

/* Guesses for one text, after the costs were learned from another one. */
static double n_guesses(const char *device, const char *draft)
{
    struct world *world = world_create(&(struct world_options){
        .device = device, .draft_device = draft, .max_draft = 7, .has_real_clock = true});
    double n_before = 0;
    for (uint32_t i = 0; i < 2; i++) {
        struct plan *plan = long_plan(20, i);
        plan->max_new_tokens = 200;
        n_before = world_counter(world, DRAFTED);
        submit(world, plan);
        world_run(world);
        assert_int_equal(plan->result[0].n, 200);
        free(plan);
    }
    double n = world_counter(world, DRAFTED) - n_before;
    world_destroy(world);
    return n;
}

/* Times are real here, and a busy machine wakes sleepers late: what holds has to show once. */
enum { N_ATTEMPTS = 8 };

/* All guesses are right, so it is the draft's own time that decides. */
static void a_draft_that_takes_as_long_as_the_model_is_left_alone(void **state)
{
    double n_cheap = 0, n_dear = 1000;
    for (int i = 0; i < N_ATTEMPTS && n_cheap <= 100; i++)
        n_cheap = n_guesses("null:step_us=2000", "null:step_us=200");
    for (int i = 0; i < N_ATTEMPTS && n_dear >= 20; i++)
        n_dear = n_guesses("null:step_us=2000", "null:step_us=2500");
    print_message("%g guesses of a fast draft, %g of a slow one\n", n_cheap, n_dear);
    assert_true(n_cheap > 100);
    assert_true(n_dear < 20);
}

static bool counts_its_time_apart(void)
{
    struct world *world = world_create(&(struct world_options){.device = "null:step_us=2000",
                                                               .draft_device = "null:step_us=600",
                                                               .max_draft = 7,
                                                               .has_real_clock = true});
    struct plan *plan = long_plan(20, 1);
    submit(world, plan);
    world_run(world);
    const struct row_cost *cost = &world->engine->row_cost;
    double seconds = cost->first * row_cost_of(cost, 8); /* 6.2 ms with the draft's */
    print_message("a step of eight rows: %g ms\n", seconds * 1e3);
    bool is_apart =
        seconds > 0.001 && seconds < 0.0045 &&
        world_counter(world, "serverd_step_time_seconds_sum{phase=\"draft\"} ") > 0.005 &&
        world_counter(world, "serverd_step_time_seconds_sum{phase=\"schedule\"} ") < 0.005;
    free(plan);
    world_destroy(world);
    return is_apart;
}

/* What the draft takes is not taken for the model's own time. */
static void its_time_is_counted_apart(void **state)
{
    bool is_apart = false;
    for (int i = 0; i < N_ATTEMPTS && !is_apart; i++)
        is_apart = counts_its_time_apart();
    assert_true(is_apart);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_vocabulary_has_to_be_the_same),
        cmocka_unit_test(guesses_follow_the_tokens_that_came),
        cmocka_unit_test(a_sequence_without_pages_gives_up_what_it_had),
        cmocka_unit_test(a_right_draft_saves_steps),
        cmocka_unit_test(several_sequences_are_guessed_together),
        cmocka_unit_test(a_wrong_draft_changes_nothing),
        cmocka_unit_test(a_draft_that_fails_is_not_used_any_more),
        cmocka_unit_test(it_catches_up_with_a_prompt_in_small_steps),
        cmocka_unit_test(texts_that_do_not_fit_into_it_get_no_guesses),
        cmocka_unit_test(many_sequences_make_no_guesses),
        cmocka_unit_test(its_pages_come_back),
        cmocka_unit_test(a_draft_that_takes_as_long_as_the_model_is_left_alone),
        cmocka_unit_test(its_time_is_counted_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
