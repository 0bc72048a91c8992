#include "sampling/sample.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "sampling/candidates_internal.h"
#include "sampling/context_internal.h"
#include "sampling/logprobs.h"
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
    uint32_t n; /* occurrences in the output, the prompt's do not count; or in the window */
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
static bool history_add(struct history *h, int32_t token, uint32_t n)
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
    s->n += n;
    return true;
}

/* ---- window: the tokens that left it do not count any more ------------------------------- */

struct window {
    int32_t *token; /* [cap], a ring; NULL: all tokens stay */
    uint32_t first, n, cap;
};

/* False: no memory. */
static bool window_add(struct window *w, struct history *h, int32_t token)
{
    if (!history_add(h, token, 1))
        return false;
    if (!w->token)
        return true;
    if (w->n == w->cap) {
        history_find(h, w->token[w->first])->n--;
        w->first = (w->first + 1) % w->cap;
        w->n--;
    }
    w->token[(w->first + w->n++) % w->cap] = token;
    return true;
}

/* With the newest tokens of the prompt. False: no memory. */
static bool window_init(struct window *w, struct history *h, const struct sampler_setup *setup)
{
    const int32_t last = setup->params->penalty_last;
    const uint32_t n = last < 0 ? setup->n_prompt : min_u32((uint32_t)last, setup->n_prompt);
    if (last > 0) {
        /* more than a context can have is as good as all */
        w->cap = min_u32((uint32_t)last, LIMIT_CONTEXT);
        w->token = calloc(w->cap, sizeof *w->token);
        if (!w->token)
            return false;
    }
    for (uint32_t i = setup->n_prompt - n; i < setup->n_prompt; i++)
        if (!window_add(w, h, setup->prompt[i]))
            return false;
    return true;
}

/* ---- sampler ------------------------------------------------------------------------------ */

struct sampler {
    struct sampler_setup setup; /* its prompt is not valid after creation */
    struct history history;     /* no slots if no penalty is on */
    struct window window;       /* of the history, if it has one */
    struct context context;     /* empty if nothing looks at the order of tokens */
    bool lost_history;          /* a token could not be counted, or kept */
};

static bool has_penalty(const struct sampling_params *p)
{
    bool is_on = p->repetition_penalty != 1.0f || p->frequency_penalty != 0.0f ||
                 p->presence_penalty != 0.0f;
    return is_on && !(p->has_penalty_window && p->penalty_last == 0);
}

struct sampler *sampler_create(const struct sampler_setup *setup)
{
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler)
        return NULL;
    sampler->setup = *setup;
    sampler->setup.prompt = NULL;
    bool is_made = !context_is_needed(setup->params) || context_init(&sampler->context, setup);
    bool counts = has_penalty(setup->params);
    bool has_window = counts && setup->params->has_penalty_window;
    bool reads_prompt = counts && !has_window && setup->params->repetition_penalty != 1.0f;
    if (counts)
        is_made = is_made && history_init(&sampler->history, 64);
    if (has_window)
        is_made = is_made && window_init(&sampler->window, &sampler->history, setup);
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
    free(sampler->window.token);
    context_deinit(&sampler->context);
    free(sampler);
}

void sampler_accept(struct sampler *sampler, int32_t token)
{
    /* without a window as if all tokens stayed in it */
    if (sampler->history.slot && !window_add(&sampler->window, &sampler->history, token))
        sampler->lost_history = true;
    if (sampler->context.cap > 0 && !context_add(&sampler->context, &sampler->setup, token))
        sampler->lost_history = true;
}

/* ---- steps 1 to 4: adjusting the logits -------------------------------------------------- */

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

static float penalised(const struct sampling_params *p, float z, uint32_t n)
{
    if (z == -INFINITY)
        return z;
    z = z > 0 ? z / p->repetition_penalty : z * p->repetition_penalty;
    z -= p->frequency_penalty * (float)n + (n > 0 ? p->presence_penalty : 0.0f);
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
    return p->n_bias || p->allowed || sampler->history.n || sampler->context.cap > 0 ||
           masks_end(sampler, index);
}

/* Finite logits stay finite or become -infinity. */
static void adjust(struct sampler *sampler, struct sampling_scratch *s, const float *logits,
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
    if (p->n_bad_words > 0)
        context_ban_words(&sampler->context, p, s);
    if (masks_end(sampler, index))
        mask(s, setup->end_tokens, setup->n_end_tokens);
    if (index < p->min_tokens)
        mask(s, setup->stop_tokens, setup->n_stop_tokens);
    for (uint32_t i = 0; i < sampler->history.cap && sampler->history.n; i++) {
        const struct token_count *c = &sampler->history.slot[i];
        if (c->token >= 0 && (c->n > 0 || !p->has_penalty_window)) {
            float *z = row_logit(s, c->token);
            *z = penalised(p, *z, c->n);
        }
    }
    if (sampler->context.cap > 0)
        context_penalise(&sampler->context, p, s);
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

static bool is_greedy(const struct sampling_params *p)
{
    return p->temperature < GREEDY_TEMPERATURE;
}

/* A draw of one token: what it needs, and what it has come to. */
struct draw {
    const struct sampler *sampler;
    struct sampling_scratch *s;
    uint32_t index;
    bool hits_xtc;
    struct candidates left; /* what was drawn from; before: the row and its maximum */
    int32_t token;
};

static double random_of(const struct sampler *sampler, uint32_t index, enum random_use use)
{
    const struct sampler_setup *setup = &sampler->setup;
    return random_uniform(random_seed(setup->params->seed, use), setup->choice, index);
}

static bool hits_xtc(const struct sampler *sampler, uint32_t index)
{
    const struct sampling_params *p = sampler->setup.params;
    return p->xtc_probability > 0.0f &&
           random_of(sampler, index, RANDOM_XTC) < (double)p->xtc_probability;
}

static bool is_limited(const struct draw *d)
{
    const struct sampling_params *p = d->sampler->setup.params;
    return !is_greedy(p) && candidates_are_limited(d->s->n_vocab, p, d->hits_xtc);
}

/* From the row as it is. */
static void draw_one(struct draw *d, enum random_use use)
{
    const struct sampling_params *p = d->sampler->setup.params;
    struct sampling_scratch *s = d->s;
    float max = d->left.max;
    if (is_greedy(p)) {
        d->left = (struct candidates){.max = max, .scale = 1.0f};
        d->token = argmax(s, max);
        return;
    }
    d->left = candidates_choose(s, p, max, d->hits_xtc);
    const float *const *block = d->left.is_list ? s->list_block : s->block;
    uint32_t n = d->left.is_list ? n_blocks(s->n) : s->n_blocks;
    uint32_t place =
        draw(s, block, n, d->left.max, d->left.scale, random_of(d->sampler, d->index, use));
    d->token = d->left.is_list ? s->id[place] : (int32_t)place;
}

static serverd_status nothing_left(serverd_error *err)
{
    return fail(err, SERVERD_INVALID, "sampling: bans and allowed tokens leave no token to draw");
}

static serverd_status filter_row(struct draw *d, const struct token_filter *filter,
                                 serverd_error *err)
{
    const uint64_t *mask = filter->mask(filter->user);
    if (!mask)
        return fail(err, SERVERD_INVALID, "grammar: the output went over a bound of the grammar");
    row_mask(d->s, mask);
    return row_measure(d->s, &d->left.max) ? SERVERD_OK : nothing_left(err);
}

/* needs_mask: the caller looks at the row afterwards. */
static serverd_status draw_filtered(struct draw *d, const struct token_filter *filter,
                                    bool needs_mask, serverd_error *err)
{
    enum random_use use = RANDOM_TOKEN;
    if (!is_limited(d)) {
        draw_one(d, RANDOM_TOKEN);
        if (filter->allows(filter->user, d->token))
            return needs_mask ? filter_row(d, filter, err) : SERVERD_OK;
        use = RANDOM_AGAIN;
    }
    if (filter_row(d, filter, err))
        return err->code;
    draw_one(d, use);
    return SERVERD_OK;
}

/* The row becomes what is left. */
static serverd_status score(struct draw *d, uint32_t n_top, struct logprobs *out,
                            serverd_error *err)
{
    float max = d->left.max;
    if (d->left.is_list) {
        candidates_to_row(d->s);
        if (!row_measure(d->s, &max))
            return nothing_left(err);
    }
    logprobs_of_row(d->s, max, d->left.scale, d->token, n_top, out);
    return SERVERD_OK;
}

serverd_status sampler_draw_as(struct sampler *sampler, struct sampling_scratch *s,
                               const float *logits, uint32_t index, const struct draw_wish *wish,
                               int32_t *token, serverd_error *err)
{
    assert(s->n_vocab == sampler->setup.n_vocab);
    struct draw d = {.sampler = sampler, .s = s, .index = index};
    if (sampler->lost_history)
        return fail(err, SERVERD_NOMEM, "sampling: no memory to count tokens for the penalties");

    if (!row_take(s, logits, &d.left.max))
        return fail(err, SERVERD_NUMERIC,
                    "logits of output token %u: NaN, infinity or nothing finite", index);
    if (adjusts(sampler, index)) {
        adjust(sampler, s, logits, index);
        if (!row_measure(s, &d.left.max))
            return nothing_left(err);
    }
    d.hits_xtc = hits_xtc(sampler, index);
    if (!wish->filter)
        draw_one(&d, RANDOM_TOKEN);
    else if (draw_filtered(&d, wish->filter, wish->processed != NULL, err))
        return err->code;
    if (wish->processed && score(&d, wish->n_top, wish->processed, err))
        return err->code;
    *token = d.token;
    return SERVERD_OK;
}

serverd_status sampler_draw(struct sampler *sampler, struct sampling_scratch *s,
                            const float *logits, uint32_t index, int32_t *token, serverd_error *err)
{
    return sampler_draw_as(sampler, s, logits, index, &(struct draw_wish){0}, token, err);
}

/* ---- draws by others --------------------------------------------------------------------- */

/* Bans may fall on tokens that are changed already. */
static bool add_change(struct change_list *list, uint32_t first, serverd_logit_change change)
{
    for (uint32_t i = first; i < list->n; i++)
        if (list->items[i].token == change.token) {
            list->items[i].bias += change.bias;
            return true;
        }
    if (list->n == list->cap)
        return false;
    list->items[list->n++] = change;
    return true;
}

/* Occurrences for the penalties; -1: none looks at the slot's token. */
static int32_t count_in(const struct sampler *sampler, const struct token_count *slot)
{
    const bool is_left = slot->n == 0 && sampler->setup.params->has_penalty_window;
    return slot->token < 0 || is_left ? -1 : (int32_t)slot->n;
}

static int32_t count_of(const struct sampler *sampler, int32_t token)
{
    const struct history *h = &sampler->history;
    return h->n > 0 ? count_in(sampler, history_find(h, token)) : -1;
}

static bool add_bans(const struct sampler *sampler, struct change_list *list, uint32_t first,
                     const int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] >= 0 && (uint32_t)tokens[i] < sampler->setup.n_vocab &&
            !add_change(list, first, (serverd_logit_change){tokens[i], -1, -INFINITY}))
            return false;
    return true;
}

/* What `adjust` does but for allowed tokens and what looks at the order of tokens. Comparing each
 * token of the history with each other change is quick enough up to so many. */
#define MOST_COMPARISONS (1u << 16)

static bool list_changes(const struct sampler *sampler, uint32_t index, struct change_list *list)
{
    const struct sampler_setup *setup = &sampler->setup;
    const struct sampling_params *p = setup->params;
    const uint32_t first = list->n;
    if (p->n_bias > list->cap - list->n)
        return false;
    for (uint32_t i = 0; i < p->n_bias; i++) /* distinct tokens */
        list->items[list->n++] =
            (serverd_logit_change){p->bias[i].token, count_of(sampler, p->bias[i].token),
                                   p->bias[i].is_banned ? -INFINITY : p->bias[i].bias};
    if ((masks_end(sampler, index) &&
         !add_bans(sampler, list, first, setup->end_tokens, setup->n_end_tokens)) ||
        (index < p->min_tokens &&
         !add_bans(sampler, list, first, setup->stop_tokens, setup->n_stop_tokens)))
        return false;
    const uint32_t n_others = list->n - first;
    if ((uint64_t)n_others * sampler->history.n > MOST_COMPARISONS)
        return false;
    for (uint32_t i = 0; i < sampler->history.cap && sampler->history.n; i++) {
        const int32_t token = sampler->history.slot[i].token;
        const int32_t count = count_in(sampler, &sampler->history.slot[i]);
        bool is_listed = count < 0;
        for (uint32_t k = first; k < first + n_others && !is_listed; k++)
            is_listed = list->items[k].token == token;
        if (is_listed)
            continue;
        if (list->n == list->cap)
            return false;
        list->items[list->n++] = (serverd_logit_change){token, count, 0.0f};
    }
    return true;
}

bool sampler_is_limited(const struct sampler *sampler, uint32_t index)
{
    const struct sampler_setup *setup = &sampler->setup;
    return !is_greedy(setup->params) &&
           candidates_are_limited(setup->n_vocab, setup->params, hits_xtc(sampler, index));
}

bool sampler_describe(const struct sampler *sampler, uint32_t index, uint32_t n_guessed,
                      struct change_list *list, serverd_draw *draw)
{
    const struct sampler_setup *setup = &sampler->setup;
    const struct sampling_params *p = setup->params;
    if (sampler->lost_history || p->allowed || context_is_needed(p) ||
        (n_guessed > 0 && sampler->history.slot))
        return false;
    serverd_draw out = {.kind = is_greedy(p) ? SERVERD_DRAW_BEST : SERVERD_DRAW_RANDOM,
                        .first_change = list->n,
                        .mask = SERVERD_NO_MASK,
                        .u = random_of(sampler, index, RANDOM_TOKEN),
                        .repetition = p->repetition_penalty,
                        .frequency = p->frequency_penalty,
                        .presence = p->presence_penalty};
    if (!is_greedy(p) && !candidates_describe(setup->n_vocab, p, hits_xtc(sampler, index), &out))
        return false;
    if (!list_changes(sampler, index, list)) {
        list->n = out.first_change;
        return false;
    }
    out.n_changes = list->n - out.first_change;
    *draw = out;
    return true;
}
