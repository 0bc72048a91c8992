#include "sampling/logprobs.h"

#include "sampling/candidates_internal.h"

#include <assert.h>
#include <math.h>

#define LOWEST_LOGPROB -9999.0f

/* The n_top first of the list, in order: larger logits, then lower ids; while the list passes by
 * ascending. */
static uint32_t sort_top(const struct sampling_scratch *s, uint32_t n_top, int32_t *top)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        if (n == n_top && !(s->z[i] > row_at(s, top[n - 1])))
            continue;
        uint32_t at = n < n_top ? n++ : n_top - 1;
        for (; at > 0 && s->z[i] > row_at(s, top[at - 1]); at--)
            top[at] = top[at - 1];
        top[at] = s->id[i];
    }
    return n;
}

/* Impossible tokens make up the number, lowest ids first. */
static uint32_t find_top(struct sampling_scratch *s, uint32_t n_top, int32_t *top)
{
    candidates_list_first(s, n_top);
    uint32_t n = sort_top(s, n_top, top);
    for (uint32_t i = 0; n < n_top && i < s->n_vocab; i++)
        if (row_at(s, (int32_t)i) == -INFINITY)
            top[n++] = (int32_t)i;
    return n;
}

/* 1 and the number of tokens that come before it. */
static uint32_t find_rank(const struct sampling_scratch *s, int32_t token, float logit)
{
    uint32_t rank = 1, own = (uint32_t)token / BLOCK, at = (uint32_t)token % BLOCK;
    for (uint32_t b = 0; b < s->n_blocks; b++) {
        if (s->block_max[b] < logit)
            continue;
        const float *x = s->block[b];
        uint32_t n_equal = b < own ? BLOCK : b == own ? at : 0; /* those with lower ids */
        for (uint32_t i = 0; i < BLOCK; i++)
            rank += (x[i] > logit) | ((x[i] == logit) & (i < n_equal));
    }
    return rank;
}

/* Of the weights exp((logit - max) * scale) of the row. */
static double log_sum_of(const struct sampling_scratch *s, float max, float scale)
{
    return log(s->passes->weigh(s->block, s->n_blocks, max, scale, NULL, NULL));
}

static struct token_logprob logprob_of(const struct sampling_scratch *s, int32_t token, float max,
                                       float scale, double log_sum)
{
    double distance = (double)row_at(s, token) - (double)max;
    float value = (float)(distance * (double)scale - log_sum);
    return (struct token_logprob){token, value >= LOWEST_LOGPROB ? value : LOWEST_LOGPROB};
}

void logprobs_of_row(struct sampling_scratch *s, float max, float scale, int32_t chosen,
                     uint32_t n_top, struct logprobs *out)
{
    assert(chosen >= 0 && (uint32_t)chosen < s->n_vocab && n_top <= LIMIT_TOP_LOGPROBS);
    double log_sum = log_sum_of(s, max, scale);
    *out = (struct logprobs){.chosen = logprob_of(s, chosen, max, scale, log_sum),
                             .chosen_rank = find_rank(s, chosen, row_at(s, chosen))};
    int32_t top[LIMIT_TOP_LOGPROBS];
    out->n_top = n_top ? find_top(s, n_top, top) : 0;
    for (uint32_t i = 0; i < out->n_top; i++)
        out->top[i] = logprob_of(s, top[i], max, scale, log_sum);
}

bool logprobs_compute(struct sampling_scratch *s, const float *logits, int32_t chosen,
                      uint32_t n_top, struct logprobs *out)
{
    float max;
    if (!row_take(s, logits, &max))
        return false;
    logprobs_of_row(s, max, 1.0f, chosen, n_top, out);
    return true;
}

bool logprobs_of_tokens(struct sampling_scratch *s, const float *logits, const int32_t *tokens,
                        uint32_t n, float *out)
{
    float max;
    if (!row_take(s, logits, &max))
        return false;
    double log_sum = log_sum_of(s, max, 1.0f);
    for (uint32_t i = 0; i < n; i++)
        out[i] = logprob_of(s, tokens[i], max, 1.0f, log_sum).logprob;
    return true;
}

void logprobs_of_certain(uint32_t n_vocab, int32_t chosen, uint32_t n_top, struct logprobs *out)
{
    *out = (struct logprobs){.chosen = {chosen, 0}, .chosen_rank = 1};
    if (n_top > 0)
        out->top[out->n_top++] = out->chosen;
    for (int32_t i = 0; out->n_top < n_top && (uint32_t)i < n_vocab; i++)
        if (i != chosen)
            out->top[out->n_top++] = (struct token_logprob){i, LOWEST_LOGPROB};
}
