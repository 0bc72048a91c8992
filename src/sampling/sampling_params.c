#include "sampling/sampling_params.h"

#include "base/error.h"
#include "base/limits.h"

#include <math.h>
#include <stddef.h>

struct sampling_params sampling_params_default(void)
{
    return (struct sampling_params){.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f};
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

serverd_status sampling_params_check(const struct sampling_params *params, uint32_t n_vocab,
                                     serverd_error *err)
{
    if (check_ranges(params, err))
        return err->code;
    if (params->top_k < 0)
        return fail(err, SERVERD_INVALID, "top_k: %d, allowed 0 (off) or more", params->top_k);
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
