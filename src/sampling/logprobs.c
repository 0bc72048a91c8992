#include "sampling/logprobs.h"

#include "sampling/candidates_internal.h"

#include <assert.h>
#include <math.h>

#define LOWEST_LOGPROB -9999.0f

/* The n_top first of the list, in order: larger logits, then lower ids; while the list passes by
 * ascending. */
static uint32_t sort_top(const struct sampling_scratch *s, const float *logits, uint32_t n_top,
                         int32_t *top)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        if (n == n_top && !(s->z[i] > logits[top[n - 1]]))
            continue;
        uint32_t at = n < n_top ? n++ : n_top - 1;
        for (; at > 0 && s->z[i] > logits[top[at - 1]]; at--)
            top[at] = top[at - 1];
        top[at] = s->id[i];
    }
    return n;
}

/* Impossible tokens make up the number, lowest ids first. */
static uint32_t find_top(struct sampling_scratch *s, const float *logits, uint32_t n_top,
                         int32_t *top)
{
    candidates_list_first(s, n_top);
    uint32_t n = sort_top(s, logits, n_top, top);
    for (uint32_t i = 0; n < n_top && i < s->n_vocab; i++)
        if (logits[i] == -INFINITY)
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

/* log_sum: of the weights exp(logit - max). */
static struct token_logprob logprob_of(const float *logits, int32_t token, float max,
                                       double log_sum)
{
    float value = (float)((double)logits[token] - (double)max - log_sum);
    return (struct token_logprob){token, value >= LOWEST_LOGPROB ? value : LOWEST_LOGPROB};
}

bool logprobs_compute(struct sampling_scratch *s, const float *logits, int32_t chosen,
                      uint32_t n_top, struct logprobs *out)
{
    assert(chosen >= 0 && (uint32_t)chosen < s->n_vocab && n_top <= LIMIT_TOP_LOGPROBS);
    float max;
    if (!row_take(s, logits, &max))
        return false;
    double log_sum = log(s->passes->weigh(s->block, s->n_blocks, max, 1.0f, NULL, NULL));

    *out = (struct logprobs){.chosen = logprob_of(logits, chosen, max, log_sum),
                             .chosen_rank = find_rank(s, chosen, logits[chosen])};
    int32_t top[LIMIT_TOP_LOGPROBS];
    out->n_top = n_top ? find_top(s, logits, n_top, top) : 0;
    for (uint32_t i = 0; i < out->n_top; i++)
        out->top[i] = logprob_of(logits, top[i], max, log_sum);
    return true;
}
