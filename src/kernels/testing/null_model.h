/* What the null delegate computes, so that a test can say what any request must answer. The
 * state after a token is a hash of the sequence's whole history, and it is kept in the KV pages:
 * a page or a window page that is lost, stale, or another sequence's changes every later token. */
#ifndef KERNELS_TESTING_NULL_MODEL_H
#define KERNELS_TESTING_NULL_MODEL_H

#include "base/hash.h"

#define NULL_MODEL_EMPTY 0x5eed0f5e12fd0000u /* the state before the first token */

static inline uint64_t null_model_next(uint64_t state, int32_t token, uint32_t position)
{
    return hash_mix(hash_mix(state ^ (uint32_t)token) ^ position);
}

/* The token that has the highest logit, in min_token..n_vocab-1. */
static inline int32_t null_model_token(uint64_t state, uint32_t min_token, uint32_t n_vocab)
{
    return (int32_t)(min_token + hash_mix(state) % (n_vocab - min_token));
}

/* The same, but for `repeat` percent of the states it is a function of the last token alone, so
 * that texts repeat themselves. Which states these are, their whole history decides. */
static inline int32_t null_model_answer(uint64_t state, int32_t last, uint32_t repeat,
                                        uint32_t min_token, uint32_t n_vocab)
{
    bool repeats = hash_mix(~state) % 100 < repeat;
    return null_model_token(repeats ? (uint32_t)last : state, min_token, n_vocab);
}

#endif
