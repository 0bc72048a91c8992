/* What a delegate is told of a draw, against the sampler itself: whoever does plainly what it is
 * told has the same token, or is not sure. */
#include "base/hash.h"
#include "kernels/testing/plain_draw.h"
#include "sampling/sample.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_VOCAB = 700, MAX_CHANGES = 64, N_TOKENS = 8 };

static const int32_t one = 1;
static const struct logit_bias bias[] = {{.token = 1, .bias = 5}, {.token = 7, .is_banned = true}};
static const struct bad_word word = {.id = &one, .n = 1};

enum kind {
    PLAIN,
    BIAS,
    REPETITION,
    FREQUENCY,
    PRESENCE,
    WINDOW,
    IGNORE_EOS,
    MIN_TOKENS,
    TOP_K,
    TOP_P,
    MIN_P,
    EVERYTHING,
    LAST_DESCRIBED = EVERYTHING,
    ALLOWED,
    DRY,
    BAD_WORDS,
    TYPICAL,
    SIGMA,
    ORDER,
    N_KINDS
};

static struct sampling_params params_of(enum kind kind, float temperature)
{
    struct sampling_params p = sampling_params_default();
    const bool all = kind == EVERYTHING;
    p.temperature = temperature;
    p.seed = 11;
    p.bias = bias;
    p.n_bias = kind == BIAS || all ? 2 : 0;
    p.repetition_penalty = kind == REPETITION || all ? 1.2f : 1;
    p.frequency_penalty = kind == FREQUENCY || all ? 0.5f : 0;
    p.presence_penalty = kind == PRESENCE || kind == WINDOW ? -0.5f : 0;
    p.has_penalty_window = kind == WINDOW;
    p.penalty_last = 3;
    p.ignore_eos = kind == IGNORE_EOS;
    p.min_tokens = kind == MIN_TOKENS || all ? 3 : 0;
    p.top_k = kind == TOP_K || kind == ORDER || all ? 20 : 0;
    p.top_p = kind == TOP_P || kind == ORDER || all ? 0.8f : 1;
    p.min_p = kind == MIN_P || all ? 0.05f : 0;
    p.allowed = kind == ALLOWED ? &one : NULL;
    p.n_allowed = kind == ALLOWED;
    p.dry_multiplier = kind == DRY ? 1 : 0;
    p.bad_words = &word;
    p.n_bad_words = kind == BAD_WORDS;
    p.typical_p = kind == TYPICAL ? 0.5f : 1;
    p.top_n_sigma = kind == SIGMA ? 1 : 0;
    if (kind == ORDER) {
        p.step[0] = STEP_TOP_P;
        p.step[1] = STEP_TOP_K;
        p.n_steps = 2;
    }
    return p;
}

static void fill_row(float *row, uint64_t seed)
{
    for (uint32_t i = 0; i < N_VOCAB; i++)
        row[i] = (float)(hash_mix(seed * N_VOCAB + i) >> 50) * 0x1p-10f;
}

static struct sampler *create(const struct sampling_params *params)
{
    static const int32_t prompt[] = {5, 6, 5, 1};
    const struct sampler_setup setup = {.params = params,
                                        .n_vocab = N_VOCAB,
                                        .prompt = prompt,
                                        .n_prompt = 4,
                                        .end_tokens = &one,
                                        .n_end_tokens = 1};
    struct sampler *sampler = sampler_create(&setup);
    assert_non_null(sampler);
    return sampler;
}

static int32_t plainly(const struct change_list *changes, const serverd_draw *draw,
                       const float *row)
{
    float z[N_VOCAB];
    uint32_t order[N_VOCAB];
    memcpy(z, row, sizeof z);
    const serverd_batch batch = {.change = changes->items, .n_changes = changes->n};
    return plain_draw(&batch, draw, z, order, N_VOCAB);
}

/* How many of the tokens were not sure. */
static uint32_t check_kind(enum kind kind, float temperature)
{
    const struct sampling_params params = params_of(kind, temperature);
    struct sampler *sampler = create(&params);
    struct sampling_scratch *scratch = sampling_scratch_create(N_VOCAB);
    serverd_logit_change items[MAX_CHANGES];
    uint32_t n_unsure = 0;
    for (uint32_t index = 0; index < N_TOKENS; index++) {
        float row[N_VOCAB];
        int32_t token;
        serverd_draw draw;
        serverd_error err;
        struct change_list changes = {items, 2, MAX_CHANGES}; /* behind those of others */
        fill_row(row, kind * N_TOKENS + index);
        assert_int_equal(sampler_draw(sampler, scratch, row, index, &token, &err), SERVERD_OK);
        assert_true(sampler_describe(sampler, index, 0, &changes, &draw));
        const int32_t drawn = plainly(&changes, &draw, row);
        n_unsure += drawn == SERVERD_DRAWN_UNSURE;
        if (drawn != SERVERD_DRAWN_UNSURE)
            assert_int_equal(drawn, token);
        sampler_accept(sampler, token);
    }
    sampler_destroy(sampler);
    sampling_scratch_destroy(scratch);
    return n_unsure;
}

static void a_draw_that_is_described_is_the_draw_itself(void **state)
{
    (void)state;
    uint32_t n_unsure = 0;
    for (enum kind kind = PLAIN; kind <= LAST_DESCRIBED; kind++)
        for (int hot = 0; hot < 2; hot++)
            n_unsure += check_kind(kind, hot ? 1.5f : 0);
    assert_in_range(n_unsure, 0, 20);
}

static void what_a_delegate_cannot_do_is_not_described(void **state)
{
    (void)state;
    for (enum kind kind = LAST_DESCRIBED + 1; kind < N_KINDS; kind++) {
        const struct sampling_params params = params_of(kind, 1);
        struct sampler *sampler = create(&params);
        serverd_logit_change items[MAX_CHANGES];
        struct change_list changes = {items, 0, MAX_CHANGES};
        serverd_draw draw;
        assert_false(sampler_describe(sampler, 0, 0, &changes, &draw));
        assert_int_equal(changes.n, 0);
        sampler_destroy(sampler);
    }
}

static void penalties_are_not_described_behind_guesses(void **state)
{
    (void)state;
    static const enum kind kinds[] = {PLAIN, BIAS, MIN_TOKENS, REPETITION, PRESENCE, WINDOW};
    for (uint32_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const struct sampling_params params = params_of(kinds[i], 1);
        struct sampler *sampler = create(&params);
        serverd_logit_change items[MAX_CHANGES];
        struct change_list changes = {items, 0, MAX_CHANGES};
        serverd_draw draw;
        assert_int_equal(sampler_describe(sampler, 2, 2, &changes, &draw), i < 3);
        sampler_destroy(sampler);
    }
}

static void changes_that_do_not_fit_are_not_described(void **state)
{
    (void)state;
    const struct sampling_params params = params_of(EVERYTHING, 1);
    struct sampler *sampler = create(&params);
    serverd_logit_change items[MAX_CHANGES];
    for (uint32_t cap = 0; cap < 6; cap++) {
        struct change_list changes = {items, 1, 1 + cap};
        serverd_draw draw;
        /* tokens 1 and 7 by their biases, 5 and 6 by their penalties */
        assert_int_equal(sampler_describe(sampler, 0, 0, &changes, &draw), cap >= 4);
        assert_int_equal(changes.n, cap >= 4 ? 5 : 1);
    }
    sampler_destroy(sampler);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_draw_that_is_described_is_the_draw_itself),
        cmocka_unit_test(what_a_delegate_cannot_do_is_not_described),
        cmocka_unit_test(penalties_are_not_described_behind_guesses),
        cmocka_unit_test(changes_that_do_not_fit_are_not_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
