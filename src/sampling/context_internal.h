/* The tokens of one choice in order, for what looks at runs of them: DRY and banned words. Part of
 * a sampler. */
#ifndef SAMPLING_CONTEXT_INTERNAL_H
#define SAMPLING_CONTEXT_INTERNAL_H

#include "base/buffer.h"
#include "sampling/scratch_internal.h"

struct context {
    int32_t *token; /* [cap]: the prompt, if DRY is on, and the output */
    uint32_t n, cap;
    uint32_t n_prompt;
    uint32_t *match;    /* [cap], working memory of DRY; NULL without it */
    uint32_t free_from; /* repetitions do not reach below: the newest breaker begins before it */
    struct buffer text; /* what a breaker may have begun in, and the newest token */
};

/* Whether the parameters need one. */
bool context_is_needed(const struct sampling_params *params);

/* Reads the prompt if DRY does. False: no memory; context_deinit is due all the same. */
bool context_init(struct context *context, const struct sampler_setup *setup);
void context_deinit(struct context *context);

/* The token was appended to the output. False: no memory. */
bool context_add(struct context *context, const struct sampler_setup *setup, int32_t token);

/* Masks the last token of each word whose others are the newest of the output. */
void context_ban_words(const struct context *context, const struct sampling_params *params,
                       struct sampling_scratch *s);

/* Lowers the logit of each token that would go on with a repetition:
 *
 *     ... a b c X ........... a b c        n = 3: X costs multiplier * base^(3 - allowed)
 *                             ^ free_from or later, after the newest breaker
 *
 * n is the length of the longest end of the context that came before with the token behind it;
 * the two may overlap. Linear in the tokens that are looked at. */
void context_penalise(struct context *context, const struct sampling_params *params,
                      struct sampling_scratch *s);

#endif
