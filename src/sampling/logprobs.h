/* ln softmax in float32: of raw logits the same numbers whatever else is asked; sample.h has those
 * of what is left to draw from. */
#ifndef SAMPLING_LOGPROBS_H
#define SAMPLING_LOGPROBS_H

#include "base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct token_logprob {
    int32_t token;
    float logprob; /* >= -9999 */
};

/* `top` by value descending, then id ascending; n_top of it are valid. */
struct logprobs {
    struct token_logprob chosen;
    uint32_t chosen_rank; /* 1: the most likely */
    uint32_t n_top;
    struct token_logprob top[LIMIT_TOP_LOGPROBS];
};

/* logits [n_vocab of the scratch]; chosen in 0..n_vocab-1; n_top <= LIMIT_TOP_LOGPROBS. False if a
 * logit is NaN or +infinity, or all are -infinity: then *out is not written. */
struct sampling_scratch;
bool logprobs_compute(struct sampling_scratch *scratch, const float *logits, int32_t chosen,
                      uint32_t n_top, struct logprobs *out);

/* The same numbers as `chosen`, of n tokens each in 0..n_vocab-1: out [n]. */
bool logprobs_of_tokens(struct sampling_scratch *scratch, const float *logits,
                        const int32_t *tokens, uint32_t n, float *out);

/* The same as logprobs_compute of a row as it stands in the scratch: its logits times scale, max
 * their largest. */
void logprobs_of_row(struct sampling_scratch *scratch, float max, float scale, int32_t chosen,
                     uint32_t n_top, struct logprobs *out);

/* Of a token that was not drawn, since no other could come. */
void logprobs_of_certain(uint32_t n_vocab, int32_t chosen, uint32_t n_top, struct logprobs *out);

#endif
