#include "sampling/sampling_params.h"

#include "base/error.h"
#include "base/limits.h"

#include <math.h>
#include <stddef.h>

struct sampling_params sampling_params_default(void)
{
    struct sampling_params params = {.temperature = 1.0f,
                                     .top_p = 1.0f,
                                     .typical_p = 1.0f,
                                     .top_n_sigma = -1.0f,
                                     .xtc_threshold = 0.1f,
                                     .repetition_penalty = 1.0f,
                                     .dry_base = 1.75f,
                                     .dry_allowed = 2,
                                     .dry_penalty_last = -1,
                                     .n_steps = N_SAMPLING_STEPS};
    for (uint8_t i = 0; i < N_SAMPLING_STEPS; i++)
        params.step[i] = i;
    return params;
}

/* The range of one number. */
struct range {
    const char *name;
    size_t offset;
    float min, max;
    bool excludes_min;
};

static const struct range ranges[] = {
    {"temperature", offsetof(struct sampling_params, temperature), 0, 100, false},
    {"top_p", offsetof(struct sampling_params, top_p), 0, 1, true},
    {"min_p", offsetof(struct sampling_params, min_p), 0, 1, false},
    {"typical_p", offsetof(struct sampling_params, typical_p), 0, 1, true},
    {"top_n_sigma", offsetof(struct sampling_params, top_n_sigma), -1e9f, 1e9f, false},
    {"xtc_probability", offsetof(struct sampling_params, xtc_probability), 0, 1, false},
    {"xtc_threshold", offsetof(struct sampling_params, xtc_threshold), 0, 1, false},
    {"dry_multiplier", offsetof(struct sampling_params, dry_multiplier), 0, 100, false},
    {"dry_base", offsetof(struct sampling_params, dry_base), 1, 100, false},
    {"repetition_penalty", offsetof(struct sampling_params, repetition_penalty), 0, 10, true},
    {"frequency_penalty", offsetof(struct sampling_params, frequency_penalty), -2, 2, false},
    {"presence_penalty", offsetof(struct sampling_params, presence_penalty), -2, 2, false},
};

static serverd_status check_ranges(const struct sampling_params *params, serverd_error *err)
{
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        const struct range *r = &ranges[i];
        float x = *(const float *)((const char *)params + r->offset);
        bool is_in = x <= r->max && (r->excludes_min ? x > r->min : x >= r->min); /* NaN: not */
        if (!is_in)
            return fail(err, SERVERD_INVALID, "%s: %g, allowed %s%g to %g", r->name, (double)x,
                        r->excludes_min ? "above " : "", (double)r->min, (double)r->max);
    }
    return SERVERD_OK;
}

static serverd_status check_token(const char *name, int32_t token, uint32_t n_vocab,
                                  serverd_error *err)
{
    if (token >= 0 && (uint32_t)token < n_vocab)
        return SERVERD_OK;
    return fail(err, SERVERD_INVALID, "%s: token %d, allowed 0 to %u", name, token, n_vocab - 1);
}

static serverd_status check_steps(const struct sampling_params *params, serverd_error *err)
{
    bool is_taken[N_SAMPLING_STEPS] = {false};
    if (params->n_steps > N_SAMPLING_STEPS)
        return fail(err, SERVERD_INVALID, "samplers: %u steps, at most %u allowed", params->n_steps,
                    N_SAMPLING_STEPS);
    for (uint32_t i = 0; i < params->n_steps; i++) {
        uint8_t step = params->step[i];
        if (step >= N_SAMPLING_STEPS || is_taken[step])
            return fail(err, SERVERD_INVALID,
                        "samplers: step %u is number %u, unknown or named twice", i, step);
        is_taken[step] = true;
    }
    return SERVERD_OK;
}

static serverd_status check_dry(const struct sampling_params *params, serverd_error *err)
{
    if (params->dry_allowed < 1)
        return fail(err, SERVERD_INVALID, "dry_allowed_length: 0, allowed 1 or more");
    if (params->dry_penalty_last < -1)
        return fail(err, SERVERD_INVALID, "dry_penalty_last_n: %d, allowed -1 (all) or more",
                    params->dry_penalty_last);
    if (params->n_dry_breakers > LIMIT_DRY_BREAKERS)
        return fail(err, SERVERD_INVALID, "dry_sequence_breakers: %u texts, at most %u allowed",
                    params->n_dry_breakers, LIMIT_DRY_BREAKERS);
    for (uint32_t i = 0; i < params->n_dry_breakers; i++) {
        uint32_t n = params->dry_breakers[i].n;
        if (n < 1 || n > LIMIT_DRY_BREAKER_BYTES)
            return fail(err, SERVERD_INVALID,
                        "dry_sequence_breakers: text %u has %u bytes, allowed 1 to %u", i, n,
                        LIMIT_DRY_BREAKER_BYTES);
    }
    return SERVERD_OK;
}

static serverd_status check_bad_words(const struct sampling_params *params, uint32_t n_vocab,
                                      serverd_error *err)
{
    if (params->n_bad_words > LIMIT_BAD_WORDS)
        return fail(err, SERVERD_INVALID, "bad_words: %u words, at most %u allowed",
                    params->n_bad_words, LIMIT_BAD_WORDS);
    for (uint32_t i = 0; i < params->n_bad_words; i++) {
        const struct bad_word *word = &params->bad_words[i];
        if (word->n < 1 || word->n > LIMIT_BAD_WORD_TOKENS)
            return fail(err, SERVERD_INVALID, "bad_words: word %u has %u tokens, allowed 1 to %u",
                        i, word->n, LIMIT_BAD_WORD_TOKENS);
        for (uint32_t k = 0; k < word->n; k++)
            if (check_token("bad_words", word->id[k], n_vocab, err))
                return err->code;
    }
    return SERVERD_OK;
}

serverd_status sampling_params_check(const struct sampling_params *params, uint32_t n_vocab,
                                     serverd_error *err)
{
    if (check_ranges(params, err) || check_steps(params, err) || check_dry(params, err) ||
        check_bad_words(params, n_vocab, err))
        return err->code;
    if (params->top_k < 0)
        return fail(err, SERVERD_INVALID, "top_k: %d, allowed 0 (off) or more", params->top_k);
    if (params->has_penalty_window && params->penalty_last < -1)
        return fail(err, SERVERD_INVALID, "repeat_last_n: %d, allowed -1 (all) or more",
                    params->penalty_last);
    if (params->n_bias > LIMIT_LOGIT_BIAS)
        return fail(err, SERVERD_INVALID, "logit_bias: %u tokens, at most %u allowed",
                    params->n_bias, LIMIT_LOGIT_BIAS);
    for (uint32_t i = 0; i < params->n_bias; i++) {
        if (check_token("logit_bias", params->bias[i].token, n_vocab, err))
            return err->code;
        if (!(fabsf(params->bias[i].bias) <= 100))
            return fail(err, SERVERD_INVALID, "logit_bias: %g for token %d, allowed -100 to 100",
                        (double)params->bias[i].bias, params->bias[i].token);
    }
    if (params->allowed && params->n_allowed == 0)
        return fail(err, SERVERD_INVALID, "allowed_token_ids: empty, at least one is needed");
    for (uint32_t i = 0; params->allowed && i < params->n_allowed; i++) {
        if (check_token("allowed_token_ids", params->allowed[i], n_vocab, err))
            return err->code;
        if (i > 0 && params->allowed[i] <= params->allowed[i - 1])
            return fail(err, SERVERD_INVALID, "allowed_token_ids: %d after %d, must ascend",
                        params->allowed[i], params->allowed[i - 1]);
    }
    return SERVERD_OK;
}
