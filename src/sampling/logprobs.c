#include "sampling/logprobs.h"

#include "sampling/vector_internal.h"

#include <assert.h>
#include <math.h>

#define LOWEST_LOGPROB -9999.0f

/* One order for lists and ranks: the larger logit, then the lower id. */
static bool comes_before(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* Keeps the n_top first ids, in order, while all ids pass by ascending. */
static uint32_t find_top(const float *logits, uint32_t n_vocab, uint32_t n_top, int32_t *top)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        int32_t id = (int32_t)i;
        if (n == n_top && !(logits[i] > logits[top[n - 1]]))
            continue;
        uint32_t at = n < n_top ? n++ : n_top - 1;
        for (; at > 0 && comes_before(logits, id, top[at - 1]); at--)
            top[at] = top[at - 1];
        top[at] = id;
    }
    return n;
}

static struct token_logprob logprob_of(const float *logits, int32_t token, double log_sum)
{
    float value = (float)((double)logits[token] - log_sum);
    return (struct token_logprob){token, value >= LOWEST_LOGPROB ? value : LOWEST_LOGPROB};
}

bool logprobs_compute(const float *logits, uint32_t n_vocab, int32_t chosen, uint32_t n_top,
                      struct logprobs *out)
{
    assert(chosen >= 0 && (uint32_t)chosen < n_vocab && n_top <= LIMIT_TOP_LOGPROBS);
    float max;
    if (!row_max(logits, n_vocab, NULL, &max))
        return false;
    double log_sum = (double)max + log(row_exp(logits, n_vocab, max, 1.0f, NULL, NULL));

    *out = (struct logprobs){.chosen = logprob_of(logits, chosen, log_sum), .chosen_rank = 1};
    for (uint32_t i = 0; i < n_vocab; i++)
        out->chosen_rank += logits[i] > logits[chosen];
    for (int32_t i = 0; i < chosen; i++)
        out->chosen_rank += logits[i] == logits[chosen];

    int32_t top[LIMIT_TOP_LOGPROBS];
    out->n_top = n_top ? find_top(logits, n_vocab, n_top, top) : 0;
    for (uint32_t i = 0; i < out->n_top; i++)
        out->top[i] = logprob_of(logits, top[i], log_sum);
    return true;
}
