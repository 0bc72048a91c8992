/* Rows of which the device says the token instead of handing their logits over: what it has to know
 * for that goes with the batch. Whoever wants the logits after all reads them. */
#include "scheduler/constraint_internal.h"
#include "scheduler/engine_internal.h"

#include <stdlib.h>
#include <string.h>

static size_t n_mask_words(const struct engine *engine)
{
    return (engine->width + 63) / 64;
}

bool draws_init(struct engine *engine)
{
    struct draws *d = &engine->draws;
    d->drawn = calloc(engine->max_logit_rows, sizeof *d->drawn);
    d->are_possible = runtime_draws(engine->options.runtime);
    if (!d->are_possible)
        return d->drawn != NULL;
    d->draw = calloc(engine->max_logit_rows, sizeof *d->draw);
    d->changes = (struct change_list){
        .items = calloc(SERVERD_MAX_CHANGES, sizeof *d->changes.items), .cap = SERVERD_MAX_CHANGES};
    d->mask = calloc(SERVERD_MAX_MASKS * n_mask_words(engine), sizeof *d->mask);
    return d->drawn && d->draw && d->changes.items && d->mask;
}

void draws_deinit(struct engine *engine)
{
    free(engine->draws.drawn);
    free(engine->draws.draw);
    free(engine->draws.changes.items);
    free(engine->draws.mask);
}

/* The tokens that a grammar allows, if they have to be known before the draw. False: the draw is
 * the host's. */
static bool add_mask(struct engine *engine, const struct sequence *s, uint32_t n_guessed,
                     serverd_draw *draw)
{
    struct draws *d = &engine->draws;
    const struct request *r = s->job->request;
    struct token_filter filter;
    if (!r->grammar || !sampler_is_limited(s->sampler, s->n_output + n_guessed))
        return true;
    if (n_guessed > 0) /* the grammar knows nothing of guesses */
        return false;
    if (constraint_forced(s->constraint, engine->options.tokenizer) >= 0 ||
        !constraint_filter(s->constraint, &filter) ||
        (r->ends_on_illegal && constraint_may_end(s->constraint)))
        return true;
    const uint64_t *mask = d->n_masks < SERVERD_MAX_MASKS ? filter.mask(filter.user) : NULL;
    if (!mask)
        return false;
    memcpy(d->mask + d->n_masks * n_mask_words(engine), mask, n_mask_words(engine) * sizeof *mask);
    draw->mask = d->n_masks++;
    return true;
}

/* False: the row's logits are wanted, not only a token that is drawn from them. */
static bool describe(struct engine *engine, const struct sequence *s, uint32_t position,
                     serverd_draw *draw)
{
    const struct request *r = s->job->request;
    const uint32_t n_tokens = sequence_n_tokens(s);
    if (position + 1 < n_tokens || r->max_new_tokens == 0 || r->wants_logprobs ||
        (s->n_output == 0 && (r->n_choices > 1 || r->n_next_tokens > 0)))
        return false;
    const uint32_t n_guessed = position + 1 - n_tokens;
    struct change_list *changes = &engine->draws.changes;
    if (!sampler_describe(s->sampler, s->n_output + n_guessed, n_guessed, changes, draw))
        return false;
    if (add_mask(engine, s, n_guessed, draw))
        return true;
    changes->n = draw->first_change;
    return false;
}

void draws_begin(struct engine *engine)
{
    engine->draws.changes.n = 0;
    engine->draws.n_masks = 0;
}

void draws_add(struct engine *engine, const struct sequence *s, uint32_t position,
               uint32_t logit_row)
{
    struct draws *d = &engine->draws;
    d->drawn[logit_row] = SERVERD_DRAWN_LOGITS;
    if (!d->are_possible)
        return;
    serverd_draw draw;
    d->draw[logit_row] = describe(engine, s, position, &draw)
                             ? draw
                             : (serverd_draw){.kind = SERVERD_DRAW_LOGITS, .mask = SERVERD_NO_MASK};
}

void draws_give(const struct engine *engine, serverd_batch *batch)
{
    const struct draws *d = &engine->draws;
    if (!d->are_possible)
        return;
    batch->draw = d->draw;
    batch->drawn = d->drawn;
    batch->change = d->changes.items;
    batch->n_changes = d->changes.n;
    batch->mask = d->mask;
    batch->n_masks = d->n_masks;
}

/* ---- after the step ---------------------------------------------------------------------- */

static uint32_t row_of(const struct engine *engine, const float *logits)
{
    return (uint32_t)((size_t)(logits - engine->out) / engine->width);
}

int32_t draws_token(const struct engine *engine, const float *logits)
{
    return engine->draws.drawn[row_of(engine, logits)];
}

bool draws_were_masked(const struct engine *engine, const float *logits)
{
    const struct draws *d = &engine->draws;
    return d->are_possible && d->draw[row_of(engine, logits)].mask != SERVERD_NO_MASK;
}

serverd_status draws_need_logits(struct engine *engine, const float *logits, serverd_error *err)
{
    const uint32_t row = row_of(engine, logits);
    int32_t *drawn = &engine->draws.drawn[row];
    if (*drawn == SERVERD_DRAWN_LOGITS)
        return SERVERD_OK;
    const serverd_status status = runtime_read_logits(
        engine->options.runtime, row, engine->out + (size_t)row * engine->width, err);
    if (status != SERVERD_OK)
        return status;
    *drawn = SERVERD_DRAWN_LOGITS;
    metrics_add(engine->options.metrics, METRIC_READ_ROWS, 1);
    return SERVERD_OK;
}
