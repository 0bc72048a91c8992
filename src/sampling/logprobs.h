/* ln softmax of raw logits in float32, the same numbers whatever else is asked. */
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

#endif
