#include "sampling/sample.h"

#include "base/error.h"
#include "base/hash.h"
#include "sampling/candidates_internal.h"
#include "sampling/random.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

#define GREEDY_TEMPERATURE 1e-5f

/* ---- history: how often each token occurred ---------------------------------------------- */

/* A slot of the open-addressed table; an empty one has token -1. */
struct token_count {
    int32_t token;
    uint32_t n_output; /* occurrences in the output; the prompt's do not count */
};

struct history {
    struct token_count *slot;
    uint32_t n, cap; /* cap is a power of two, at least 2 n */
};

static bool history_init(struct history *h, uint32_t cap)
{
    h->slot = malloc(cap * sizeof *h->slot);
    if (!h->slot)
        return false;
    for (uint32_t i = 0; i < cap; i++)
        h->slot[i] = (struct token_count){.token = -1};
    h->n = 0;
    h->cap = cap;
    return true;
}

static struct token_count *history_find(const struct history *h, int32_t token)
{
    uint32_t i = (uint32_t)token * 2654435761u;
    for (;; i++) {
        struct token_count *s = &h->slot[i & (h->cap - 1)];
        if (s->token == token || s->token < 0)
            return s;
    }
}

/* False: no memory, nothing changed. */
static bool history_add(struct history *h, int32_t token, uint32_t n_output)
{
    if (2 * (h->n + 1) > h->cap) {
        struct history larger;
        if (!history_init(&larger, 2 * h->cap))
            return false;
        for (uint32_t i = 0; i < h->cap; i++)
            if (h->slot[i].token >= 0)
                *history_find(&larger, h->slot[i].token) = h->slot[i];
        larger.n = h->n;
        free(h->slot);
        *h = larger;
    }
    struct token_count *s = history_find(h, token);
    h->n += s->token < 0;
    s->token = token;
    s->n_output += n_output;
    return true;
}

/* ---- sampler ------------------------------------------------------------------------------ */

struct sampler {
    struct sampler_setup setup; /* its prompt is not valid after creation */
    struct history history;     /* no slots if no penalty is on */
    bool lost_history;          /* a token could not be counted */
};

static bool has_penalty(const struct sampling_params *p)
{
    return p->repetition_penalty != 1.0f || p->frequency_penalty != 0.0f ||
           p->presence_penalty != 0.0f;
}

struct sampler *sampler_create(const struct sampler_setup *setup)
{
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler)
        return NULL;
    sampler->setup = *setup;
    sampler->setup.prompt = NULL;
    if (!has_penalty(setup->params))
        return sampler;
    bool is_made = history_init(&sampler->history, 64);
    bool reads_prompt = setup->params->repetition_penalty != 1.0f;
    for (uint32_t i = 0; is_made && reads_prompt && i < setup->n_prompt; i++)
        is_made = history_add(&sampler->history, setup->prompt[i], 0);
    if (is_made)
        return sampler;
    sampler_destroy(sampler);
    return NULL;
}

void sampler_destroy(struct sampler *sampler)
{
    if (!sampler)
        return;
    free(sampler->history.slot);
    free(sampler);
}

void sampler_accept(struct sampler *sampler, int32_t token)
{
    if (sampler->history.slot && !history_add(&sampler->history, token, 1))
        sampler->lost_history = true;
}

/* ---- steps 1 to 3: adjusting the logits -------------------------------------------------- */

/* Only blocks of the row that hold such a token are copied and changed. */

static void mask(struct sampling_scratch *s, const int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] >= 0 && (uint32_t)tokens[i] < s->n_vocab)
            *row_logit(s, tokens[i]) = -INFINITY;
}

static void keep_only(struct sampling_scratch *s, const float *logits, const int32_t *allowed,
                      uint32_t n)
{
    row_clear(s);
    for (uint32_t i = 0; i < n; i++)
        *row_logit(s, allowed[i]) = logits[allowed[i]];
}

static float penalised(const struct sampling_params *p, float z, uint32_t n_output)
{
    if (z == -INFINITY)
        return z;
    z = z > 0 ? z / p->repetition_penalty : z * p->repetition_penalty;
    z -= p->frequency_penalty * (float)n_output + (n_output > 0 ? p->presence_penalty : 0.0f);
    return z > FLT_MAX ? FLT_MAX : z < -FLT_MAX ? -FLT_MAX : z;
}

static bool masks_end(const struct sampler *sampler, uint32_t index)
{
    const struct sampling_params *p = sampler->setup.params;
    return p->ignore_eos || index < p->min_tokens;
}

static bool adjusts(const struct sampler *sampler, uint32_t index)
{
    const struct sampling_params *p = sampler->setup.params;
    return p->n_bias || p->allowed || sampler->history.n || masks_end(sampler, index);
}

/* Finite logits stay finite or become -infinity. */
static void adjust(const struct sampler *sampler, struct sampling_scratch *s, const float *logits,
                   uint32_t index)
{
    const struct sampler_setup *setup = &sampler->setup;
    const struct sampling_params *p = setup->params;
    if (p->allowed) /* first: what is cleared stays at -infinity below */
        keep_only(s, logits, p->allowed, p->n_allowed);
    for (uint32_t i = 0; i < p->n_bias; i++) {
        float *z = row_logit(s, p->bias[i].token);
        *z = p->bias[i].is_banned ? -INFINITY : *z + p->bias[i].bias;
    }
    if (masks_end(sampler, index))
        mask(s, setup->end_tokens, setup->n_end_tokens);
    if (index < p->min_tokens)
        mask(s, setup->stop_tokens, setup->n_stop_tokens);
    for (uint32_t i = 0; i < sampler->history.cap && sampler->history.n; i++) {
        const struct token_count *c = &sampler->history.slot[i];
        if (c->token >= 0) {
            float *z = row_logit(s, c->token);
            *z = penalised(p, *z, c->n_output);
        }
    }
}

/* ---- the draw ---------------------------------------------------------------------------- */

static int32_t argmax(const struct sampling_scratch *s, float max)
{
    uint32_t b = 0, i = 0;
    while (s->block_max[b] != max)
        b++;
    while (s->block[b][i] != max)
        i++;
    return (int32_t)(b * BLOCK + i);
}

/* The first of the logits whose cumulative weight exceeds u times the sum of all: its number. */
static uint32_t draw(struct sampling_scratch *s, const float *const *block, uint32_t n, float max,
                     float scale, double u)
{
    double border = u * s->passes->weigh(block, n, max, scale, NULL, s->block_sum);
    double cumulative = 0;
    uint32_t last = 0;
    for (uint32_t b = 0; b < n; b++) {
        double end = cumulative + s->block_sum[b];
        if (s->block_sum[b] > 0)
            last = b;
        if (end > border)
            break;
        cumulative = end;
    }
    /* Rounding must not end at an impossible token: the last possible one is the last resort. */
    float weight[BLOCK];
    (void)s->passes->weigh(&block[last], 1, max, scale, weight, NULL);
    uint32_t choice = 0;
    for (uint32_t i = 0; i < BLOCK; i++) {
        cumulative += (double)weight[i];
        if (weight[i] > 0)
            choice = last * BLOCK + i;
        if (cumulative > border)
            break;
    }
    return choice;
}

/* The draw of `number` (0, or 1 for another one of the same token) from the row as it is. */
static int32_t draw_one(const struct sampler *sampler, struct sampling_scratch *s, float max,
                        uint32_t index, uint32_t number)
{
    const struct sampling_params *p = sampler->setup.params;
    float scale = 1.0f / p->temperature;
    if (p->temperature < GREEDY_TEMPERATURE)
        return argmax(s, max);
    /* the second number of a token belongs to a seed of its own */
    uint64_t seed = number == 0 ? p->seed : hash_mix(p->seed + number);
    double u = random_uniform(seed, sampler->setup.choice, index);
    if (!candidates_are_limited(s, p))
        return (int32_t)draw(s, s->block, s->n_blocks, max, scale, u);
    candidates_choose(s, p, max, scale);
    return s->id[draw(s, s->list_block, n_blocks(s->n), max, scale, u)];
}

static serverd_status nothing_left(serverd_error *err)
{
    return fail(err, SERVERD_INVALID, "sampling: bans and allowed tokens leave no token to draw");
}

static serverd_status draw_filtered(const struct sampler *sampler, struct sampling_scratch *s,
                                    float max, uint32_t index, const struct token_filter *filter,
                                    int32_t *token, serverd_error *err)
{
    const struct sampling_params *p = sampler->setup.params;
    bool is_greedy = p->temperature < GREEDY_TEMPERATURE, is_second = false;
    if (is_greedy || !candidates_are_limited(s, p)) {
        *token = draw_one(sampler, s, max, index, 0);
        if (filter->allows(filter->user, *token))
            return SERVERD_OK;
        is_second = true;
    }
    const uint64_t *mask = filter->mask(filter->user);
    if (!mask)
        return fail(err, SERVERD_INVALID, "grammar: the output went over a bound of the grammar");
    row_mask(s, mask);
    if (!row_measure(s, &max))
        return nothing_left(err);
    *token = draw_one(sampler, s, max, index, is_second);
    return SERVERD_OK;
}

serverd_status sampler_draw_allowed(struct sampler *sampler, struct sampling_scratch *s,
                                    const float *logits, uint32_t index,
                                    const struct token_filter *filter, int32_t *token,
                                    serverd_error *err)
{
    assert(s->n_vocab == sampler->setup.n_vocab);
    if (sampler->lost_history)
        return fail(err, SERVERD_NOMEM, "sampling: no memory to count tokens for the penalties");

    float max;
    if (!row_take(s, logits, &max))
        return fail(err, SERVERD_NUMERIC,
                    "logits of output token %u: NaN, infinity or nothing finite", index);
    if (adjusts(sampler, index)) {
        adjust(sampler, s, logits, index);
        if (!row_measure(s, &max))
            return nothing_left(err);
    }
    if (filter)
        return draw_filtered(sampler, s, max, index, filter, token, err);
    *token = draw_one(sampler, s, max, index, 0);
    return SERVERD_OK;
}

serverd_status sampler_draw(struct sampler *sampler, struct sampling_scratch *s,
                            const float *logits, uint32_t index, int32_t *token, serverd_error *err)
{
    return sampler_draw_allowed(sampler, s, logits, index, NULL, token, err);
}
