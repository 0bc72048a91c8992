/* Guessed tokens: what is guessed, that answers stay as they are, and that they save steps. */
#include "engine_fixture.h"

#include "scheduler/ngram_index_internal.h"
#include "scheduler/sequence_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static serverd_error err;

/* ---- the index ------------------------------------------------------------------------------- */

/* A sequence whose prompt are the first n_prompt letters of the text. */
struct text {
    struct request request;
    struct job job;
    struct sequence sequence;
    int32_t token[3 * NGRAM_WINDOW];
};

static struct text *text_create(const char *letters, uint32_t n_prompt)
{
    struct text *text = calloc(1, sizeof *text);
    assert_non_null(text);
    for (uint32_t i = 0; letters[i]; i++)
        text->token[i] = letters[i];
    text->request.prompt = text->token;
    text->request.n_prompt = n_prompt;
    text->job.request = &text->request;
    text->sequence.job = &text->job;
    text->sequence.output = text->token + n_prompt;
    text->sequence.n_output = (uint32_t)strlen(letters) - n_prompt;
    return text;
}

static void the_longest_of_the_latest_matches_is_found(void **state)
{
    const struct {
        const char *letters;
        uint32_t length, next;
    } rows[] = {
        {"", 0, 0},
        {"abc", 0, 0},
        {"abcdefg", 0, 0},
        {"xabcyabd", 0, 0},       /* two agree */
        {"xabcyabc", 3, 4},       /* y came then */
        {"1abcx2abcyabc", 3, 9},  /* the latest */
        {"1abcx2abcy1abc", 4, 4}, /* the longest */
        {"aaaa", 3, 3},           /* itself, one before */
        {"xyxyxyxy", 6, 6},
        {"abcdefgabcdefg", 7, 7},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t n = (uint32_t)strlen(rows[i].letters);
        for (uint32_t n_prompt = 0; n_prompt <= n; n_prompt++) {
            struct text *text = text_create(rows[i].letters, n_prompt);
            struct ngram_index *index = ngram_index_create(n);
            uint32_t n_output = n - n_prompt;
            text->sequence.n_output = n_output / 2;
            for (; text->sequence.n_output < n_output; text->sequence.n_output++)
                (void)ngram_index_find(index, &text->sequence);
            struct ngram_match match = ngram_index_find(index, &text->sequence);
            assert_int_equal(match.length, rows[i].length);
            assert_int_equal(match.next, rows[i].next);
            ngram_index_destroy(index);
            free(text);
        }
    }
}

static void old_text_leaves_the_index(void **state)
{
    struct text *text = text_create("abcdef", 0);
    struct ngram_index *index = ngram_index_create(3 * NGRAM_WINDOW);
    struct sequence *s = &text->sequence;
    for (uint32_t i = 6; i < 3 * NGRAM_WINDOW; i++)
        text->token[i] = (int32_t)(1000 + i);
    for (uint32_t end = NGRAM_WINDOW - 20; end <= NGRAM_WINDOW + 20; end++) {
        int32_t kept[4];
        memcpy(kept, text->token + end - 4, sizeof kept);
        memcpy(text->token + end - 4, text->token, sizeof kept);
        s->n_output = end;
        struct ngram_index *fresh = ngram_index_create(3 * NGRAM_WINDOW);
        /* the match ends at position 3, the last token is at end - 1 */
        bool is_near = end - 1 - 3 < NGRAM_WINDOW;
        assert_int_equal(ngram_index_find(fresh, s).length, is_near ? 4 : 0);
        ngram_index_destroy(fresh);
        memcpy(text->token + end - 4, kept, sizeof kept);
    }
    for (uint32_t n = 1; n <= 3 * NGRAM_WINDOW; n += 1 + n / 3) { /* in leaps */
        s->n_output = n;
        assert_int_equal(ngram_index_find(index, s).length, 0);
    }
    ngram_index_destroy(index);
    free(text);
}

/* ---- the engine ------------------------------------------------------------------------------ */

static uint32_t steps_of(struct world *world, struct plan *plan)
{
    uint32_t n_before = world_n_steps(world);
    if (plan_submit(world, plan, &err))
        fail_msg("%s", err.text);
    world_run(world);
    plan_check_whole(world, plan);
    return world_n_steps(world) - n_before;
}

static struct world *repeating_world(uint32_t max_draft)
{
    return world_create(
        &(struct world_options){.device = "null:repeat=96", .repeat = 96, .max_draft = max_draft});
}

static void a_text_that_repeats_itself_takes_few_steps(void **state)
{
    uint32_t n_without = 0;
    for (uint32_t max_draft = 0; max_draft <= 15; max_draft += 5) {
        struct world *world = repeating_world(max_draft);
        uint32_t n = 0, n_tokens = 0;
        for (uint32_t i = 0; i < 4; i++) {
            struct plan *plan = plan_create();
            plan_fill_prompt(plan, 20, 40 + i);
            plan->max_new_tokens = 200;
            plan->sampling.ignore_eos = true;
            plan->wants_logprobs = i % 2;
            n += steps_of(world, plan);
            n_tokens += plan->n_output;
            free(plan);
        }
        double n_right = world_counter(world, "serverd_accepted_tokens_total{kind=\"ngram\"} ");
        if (max_draft == 0) {
            n_without = n;
            assert_int_equal(n_right, 0);
        } else {
            assert_true(2 * n < n_without);
            assert_int_equal(n_without - n, n_right); /* every one saves a step */
            assert_true(world_counter(world, "serverd_draft_tokens_total{kind=\"ngram\"} ") >=
                        n_right);
        }
        assert_int_equal(n_tokens, 800);
        world_check_empty(world);
        world_destroy(world);
    }
}

static void what_ends_a_text_ends_it_in_the_middle_of_guesses(void **state)
{
    struct world *world = repeating_world(7);
    struct plan *whole = plan_create();
    whole->max_new_tokens = 200;
    whole->sampling.ignore_eos = true;
    (void)steps_of(world, whole);
    for (uint32_t n = 1; n < 90; n++) {
        struct plan *plan = plan_create();
        plan->cache_space = n; /* guesses from its own text only */
        plan->max_new_tokens = n;
        plan->sampling.ignore_eos = n % 2;
        (void)steps_of(world, plan);
        assert_true(plan->n_output <= n);
        free(plan);
    }
    uint32_t len;
    for (uint32_t n = 90; n < 150; n++) { /* the text repeats itself by then */
        struct plan *plan = plan_create();
        char stop[8] = {0};
        memcpy(stop, tokenizer_piece(world->tokenizer, whole->result[0].token[n], &len), 2);
        plan->cache_space = n;
        plan->max_new_tokens = 200;
        plan->sampling.ignore_eos = true;
        plan->sampling.min_tokens = n;
        plan->stop = n % 2 ? stop : NULL;
        plan->stop_token = n % 2 ? -1 : whole->result[0].token[n];
        (void)steps_of(world, plan);
        free(plan);
    }
    free(whole);
    world_check_empty(world);
    world_destroy(world);
}

/* The same question again: its own text says nothing, the tree has the answer. */
static void a_repeated_question_is_answered_from_the_tree(void **state)
{
    struct world *world = world_create(&(struct world_options){.max_draft = 7});
    uint32_t n_first = 0;
    for (uint32_t i = 0; i < 3; i++) {
        struct plan *plan = plan_create();
        plan_fill_prompt(plan, 30, 77);
        plan->max_new_tokens = 150;
        plan->sampling.ignore_eos = true;
        plan->cache_space = i == 2;
        uint32_t n = steps_of(world, plan);
        free(plan);
        if (i == 0)
            n_first = n;
        else if (i == 1)
            assert_true(2 * n < n_first);
        else
            assert_true(2 * n > n_first); /* another's tree is another's */
    }
    assert_true(world_counter(world, "serverd_accepted_tokens_total{kind=\"tree\"} ") > 50);
    world_check_empty(world);
    world_destroy(world);
}

static void draws_at_any_temperature_are_the_same(void **state)
{
    struct world *world = repeating_world(7);
    for (uint32_t i = 0; i < 60; i++) {
        struct plan *plan = plan_create();
        plan_fill_prompt(plan, 10 + i % 7, i);
        plan->max_new_tokens = 120;
        plan->n_choices = 1 + i % 3;
        plan->sampling.temperature = 0.5f * (float)(i % 20);
        plan->sampling.seed = i;
        plan->sampling.repetition_penalty = i % 5 == 0 ? 1.3f : 1.0f;
        plan->sampling.presence_penalty = i % 7 == 0 ? 2.0f : 0.0f;
        plan->wants_logprobs = i % 4 == 0;
        (void)steps_of(world, plan);
        free(plan);
    }
    assert_true(world_counter(world, "serverd_accepted_tokens_total{kind=\"ngram\"} ") > 100);
    world_check_empty(world);
    world_destroy(world);
}

/* Guesses for one text, after the costs were learned from another one. */
static double n_guesses(const char *device)
{
    struct world *world = world_create(&(struct world_options){
        .device = device, .repeat = 96, .max_draft = 7, .has_real_clock = true});
    double n_before = 0;
    for (uint32_t i = 0; i < 2; i++) {
        struct plan *plan = plan_create();
        plan->max_new_tokens = 220;
        plan->sampling.ignore_eos = true;
        plan->cache_space = i;
        n_before = world_counter(world, "serverd_draft_tokens_total{kind=\"ngram\"} ");
        if (plan_submit(world, plan, &err))
            fail_msg("%s", err.text);
        world_run(world);
        assert_int_equal(plan->result[0].n, 220);
        free(plan);
    }
    double n = world_counter(world, "serverd_draft_tokens_total{kind=\"ngram\"} ") - n_before;
    world_destroy(world);
    return n;
}

static void guesses_that_do_not_pay_are_few(void **state)
{
    double n_cheap = n_guesses("null:repeat=96,step_us=1500");
    double n_dear = n_guesses("null:repeat=96,row_us=1500"); /* a step costs as much as its rows */
    print_message("%g guesses if rows cost nothing, %g if they cost all\n", n_cheap, n_dear);
    assert_true(2 * n_dear < n_cheap);
}

/* Its only row left is the end of the prompt: nothing is to be drawn, or the first token. */
static void no_guesses_are_made_for_prompts(void **state)
{
    struct world *world = repeating_world(7);
    for (uint32_t i = 0; i < 2; i++) {
        struct plan *plan = plan_create();
        plan->n_prompt = 33; /* one more than a chunk */
        for (uint32_t k = 0; k < 33; k++)
            plan->prompt[k] = (int32_t)(10 + k % 4);
        plan->max_new_tokens = 5 * i;
        plan->cache_space = i;
        if (plan_submit(world, plan, &err))
            fail_msg("%s", err.text);
        (void)engine_step(world->engine);
        (void)engine_step(world->engine);
        assert_int_equal(metrics_get(world->metrics, METRIC_BATCH_ROWS), 1);
        world_run(world);
        plan_check_whole(world, plan);
        free(plan);
    }
    world_destroy(world);
}

static void no_guesses_run_beside_prefill(void **state)
{
    struct world *world = repeating_world(7);
    struct plan *decoding = plan_create(), *prefilling = plan_create();
    decoding->max_new_tokens = 200;
    decoding->sampling.ignore_eos = true;
    if (plan_submit(world, decoding, &err))
        fail_msg("%s", err.text);
    while (world_counter(world, "serverd_draft_tokens_total{kind=\"ngram\"} ") < 20)
        (void)engine_step(world->engine);
    plan_fill_prompt(prefilling, 160, 2); /* five chunks */
    if (plan_submit(world, prefilling, &err))
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < 5; i++) {
        uint32_t n = decoding->result[0].n;
        (void)engine_step(world->engine);
        assert_int_equal(decoding->result[0].n, n + 1);
    }
    assert_int_equal(prefilling->result[0].n, 1);
    world_run(world);
    plan_check_whole(world, decoding);
    plan_check_whole(world, prefilling);
    free(decoding);
    free(prefilling);
    world_destroy(world);
}

static void many_sequences_make_no_guesses(void **state)
{
    struct world *world =
        world_create(&(struct world_options){.device = "null:repeat=96",
                                             .repeat = 96,
                                             .max_draft = 7,
                                             .max_running = 10,
                                             .prefill_chunk = 64}); /* all begin and end together */
    struct plan *plans[10];
    for (uint32_t i = 0; i < 10; i++) {
        plans[i] = plan_create();
        plan_fill_prompt(plans[i], 5, i);
        plans[i]->max_new_tokens = 100;
        plans[i]->sampling.ignore_eos = true;
        if (plan_submit(world, plans[i], &err))
            fail_msg("%s", err.text);
    }
    world_run(world);
    for (uint32_t i = 0; i < 10; i++) {
        plan_check_whole(world, plans[i]);
        free(plans[i]);
    }
    assert_int_equal(world_counter(world, "serverd_draft_tokens_total{kind=\"ngram\"} "), 0);
    world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_longest_of_the_latest_matches_is_found),
        cmocka_unit_test(old_text_leaves_the_index),
        cmocka_unit_test(a_text_that_repeats_itself_takes_few_steps),
        cmocka_unit_test(what_ends_a_text_ends_it_in_the_middle_of_guesses),
        cmocka_unit_test(a_repeated_question_is_answered_from_the_tree),
        cmocka_unit_test(draws_at_any_temperature_are_the_same),
        cmocka_unit_test(guesses_that_do_not_pay_are_few),
        cmocka_unit_test(no_guesses_are_made_for_prompts),
        cmocka_unit_test(no_guesses_run_beside_prefill),
        cmocka_unit_test(many_sequences_make_no_guesses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
