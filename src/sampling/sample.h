/* Logits + parameters + counter-based random numbers -> a token. One sampler per choice, owned
 * by the engine thread. The result depends only on the logits, the parameters, the history and
 * (seed, choice, token index): the same alone, batched, cached or resumed.
 *
 * Order: bias, bans, allowed, bad words, min_tokens, ignore_eos; repetition; frequency and
 * presence; DRY; grammar; then the steps of sampling_params, from temperature to XTC unless they
 * are ordered otherwise; draw in id order: the first token whose cumulative probability exceeds u *
 * total. Greedy: argmax before the steps, ties to the lowest id. */
#ifndef SAMPLING_SAMPLE_H
#define SAMPLING_SAMPLE_H

#include "sampling/logprobs.h"
#include "sampling/sampling_params.h"
#include "serverd/delegate.h"

struct sampler;

/* Working memory of a draw, taken once and shared by the samplers of a thread: n_vocab wide. */
struct sampling_scratch;
struct sampling_scratch *sampling_scratch_create(uint32_t n_vocab);
void sampling_scratch_destroy(struct sampling_scratch *scratch);

/* `params` and `end_tokens` (ascending: the model's end-of-generation ids) outlive the sampler;
 * the prompt is read here only. `stop_tokens` are masked like end tokens while min_tokens lasts.
 * NULL: no memory. */
struct sampler_setup {
    const struct sampling_params *params;
    uint32_t choice;
    uint32_t n_vocab;
    const int32_t *prompt;
    uint32_t n_prompt;
    const int32_t *end_tokens;
    uint32_t n_end_tokens;
    const int32_t *stop_tokens;
    uint32_t n_stop_tokens;
    /* A token's bytes, for DRY's breakers; NULL: none is found. */
    const char *(*piece)(const void *user, int32_t token, uint32_t *n);
    const void *piece_user;
};
struct sampler *sampler_create(const struct sampler_setup *setup);
void sampler_destroy(struct sampler *sampler);

/* Draw token number `index` (0-based, of the output). `logits` [n_vocab] are left unchanged.
 * SERVERD_NUMERIC if any logit is NaN or +infinity, or all are -infinity. */
serverd_status sampler_draw(struct sampler *sampler, struct sampling_scratch *scratch,
                            const float *logits, uint32_t index, int32_t *token,
                            serverd_error *err);

/* What may be drawn besides: a grammar, as it is seen from here. */
struct token_filter {
    bool (*allows)(void *user, int32_t token);
    /* [(n_vocab + 63) / 64] words, bit i of the whole: token i may be drawn. Asked for only if a
     * token that is not allowed would be drawn, or might: where steps like top_k choose from what
     * is allowed; and for processed log probabilities. */
    const uint64_t *(*mask)(void *user);
    void *user;
};

/* What a draw is asked for besides its token; it changes no draw but by the filter. */
struct draw_wish {
    const struct token_filter *filter; /* NULL: none */
    /* If not NULL, gets the log probabilities of what is left after all steps, the token's and the
     * n_top best; what was removed has the lowest. Greedy: of the row before the steps. */
    struct logprobs *processed;
    uint32_t n_top; /* <= LIMIT_TOP_LOGPROBS */
};

/* The same by a wish. Under a filter it is what the draw is under the whole mask. Drawing a token
 * first and asking about it alone gives the same: for greedy choices the same token, for others the
 * same distribution, a token that is refused being drawn once more from what is allowed. */
serverd_status sampler_draw_as(struct sampler *sampler, struct sampling_scratch *scratch,
                               const float *logits, uint32_t index, const struct draw_wish *wish,
                               int32_t *token, serverd_error *err);

/* Changes of logits for the draws of a step, behind each other. */
struct change_list {
    serverd_logit_change *items; /* [cap] */
    uint32_t n, cap;
};

/* How a delegate draws token number `index` from the row as it is, without a filter or under a
 * mask: the token that sampler_draw_as gives, if that is how it draws first. n_guessed: accepted
 * tokens of which the sampler does not know yet. False: it needs the logits; no changes were added
 * then. */
bool sampler_describe(const struct sampler *sampler, uint32_t index, uint32_t n_guessed,
                      struct change_list *list, serverd_draw *draw);

/* Whether a filter's mask comes before the first draw of token number `index`. */
bool sampler_is_limited(const struct sampler *sampler, uint32_t index);

/* The token was appended to the output: counts for the penalties. */
void sampler_accept(struct sampler *sampler, int32_t token);

#endif
