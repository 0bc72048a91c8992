#include "sampling/sample.h"

#include "base/error.h"
#include "base/numeric.h"
#include "sampling/random.h"
#include "sampling/vector_internal.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- scratch and sampler ----------------------------------------------------------------- */

struct sampling_scratch {
    uint32_t n_vocab;
    float *z;          /* [n_vocab] adjusted logits */
    float *weight;     /* [n_vocab] of the candidates */
    int32_t *id;       /* [n_vocab] candidates, ascending */
    uint64_t *key;     /* [n_vocab] for the selection */
    float *block_max;  /* [n_blocks(n_vocab)] */
    double *block_sum; /* [n_blocks(n_vocab)] */
};

struct sampling_scratch *sampling_scratch_create(uint32_t n_vocab)
{
    struct sampling_scratch *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->n_vocab = n_vocab;
    s->z = calloc(n_vocab, sizeof *s->z);
    s->weight = calloc(n_vocab, sizeof *s->weight);
    s->id = calloc(n_vocab, sizeof *s->id);
    s->key = calloc(n_vocab, sizeof *s->key);
    s->block_max = calloc(n_blocks(n_vocab), sizeof *s->block_max);
    s->block_sum = calloc(n_blocks(n_vocab), sizeof *s->block_sum);
    if (s->z && s->weight && s->id && s->key && s->block_max && s->block_sum)
        return s;
    sampling_scratch_destroy(s);
    return NULL;
}

void sampling_scratch_destroy(struct sampling_scratch *s)
{
    if (!s)
        return;
    free(s->z);
    free(s->weight);
    free(s->id);
    free(s->key);
    free(s->block_max);
    free(s->block_sum);
    free(s);
}

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

static void mask(float *z, uint32_t n_vocab, const int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] >= 0 && (uint32_t)tokens[i] < n_vocab)
            z[tokens[i]] = -INFINITY;
}

static void keep_only(float *z, uint32_t n_vocab, const int32_t *allowed, uint32_t n)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (; next < (uint32_t)allowed[i]; next++)
            z[next] = -INFINITY;
        next = (uint32_t)allowed[i] + 1;
    }
    for (; next < n_vocab; next++)
        z[next] = -INFINITY;
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
    return p->n_bias || p->allowed || sampler->history.slot || masks_end(sampler, index);
}

static void adjust(const struct sampler *sampler, uint32_t index, float *z)
{
    const struct sampler_setup *s = &sampler->setup;
    const struct sampling_params *p = s->params;
    for (uint32_t i = 0; i < p->n_bias; i++) {
        const struct logit_bias *b = &p->bias[i];
        z[b->token] = b->is_banned ? -INFINITY : z[b->token] + b->bias;
    }
    if (p->allowed)
        keep_only(z, s->n_vocab, p->allowed, p->n_allowed);
    if (masks_end(sampler, index))
        mask(z, s->n_vocab, s->end_tokens, s->n_end_tokens);
    if (index < p->min_tokens)
        mask(z, s->n_vocab, s->stop_tokens, s->n_stop_tokens);
    for (uint32_t i = 0; i < sampler->history.cap; i++) {
        const struct token_count *c = &sampler->history.slot[i];
        if (c->token >= 0)
            z[c->token] = penalised(p, z[c->token], c->n_output);
    }
}

/* ---- selection --------------------------------------------------------------------------- */

/* Ascending keys are descending logits, then ascending ids, so no two keys are equal. */
static uint64_t make_key(float z, int32_t id)
{
    uint32_t bits = f32_bits(z + 0.0f); /* -0 becomes +0: equal logits, equal bits */
    uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)~ascending << 32 | (uint32_t)id;
}

static void swap_keys(uint64_t *a, uint64_t *b)
{
    uint64_t t = *a;
    *a = *b;
    *b = t;
}

/* Middle of first, middle and last: good on ordered input too. */
static uint64_t choose_pivot(const uint64_t *key, uint32_t n)
{
    uint64_t a = key[0], b = key[n / 2], c = key[n - 1];
    uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

/* Moves keys <= pivot to the front and returns how many; the pivot is one of the keys. */
static uint32_t partition(uint64_t *key, uint32_t n, uint64_t pivot)
{
    uint32_t n_front = 0;
    for (uint32_t i = 0; i < n; i++)
        if (key[i] <= pivot)
            swap_keys(&key[i], &key[n_front++]);
    return n_front;
}

/* What a key weighs: 1 for top_k, the probability of its token for top_p. */
static double weigh(const uint64_t *key, uint32_t n, const float *weight_of_id)
{
    if (!weight_of_id)
        return n;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)weight_of_id[(uint32_t)key[i]];
    return sum;
}

/* The last key of the shortest head of the ascending order that weighs `target` or more; the
 * largest key if all weigh less. A quickselect by weight: expected linear time. Reorders. */
static uint64_t select_last(uint64_t *key, uint32_t n, const float *weight_of_id, double target)
{
    while (n > 1) {
        uint64_t pivot = choose_pivot(key, n);
        uint32_t n_front = partition(key, n, pivot);
        if (n_front == n) { /* the pivot is the largest: set it apart to get on */
            for (uint32_t i = 0; i < n; i++)
                if (key[i] == pivot)
                    swap_keys(&key[i], &key[n - 1]);
            n_front = n - 1;
        }
        double front = weigh(key, n_front, weight_of_id);
        if (front >= target) {
            n = n_front;
        } else {
            target -= front;
            key += n_front;
            n -= n_front;
        }
    }
    return key[0];
}

/* The candidates: id[0..n-1] of the scratch, ascending. */
static uint32_t keep_until(struct sampling_scratch *s, uint32_t n, const float *z, uint64_t last)
{
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (make_key(z[s->id[i]], s->id[i]) <= last)
            s->id[n_kept++] = s->id[i];
    return n_kept;
}

static uint32_t collect_at_least(struct sampling_scratch *s, const float *z, float floor)
{
    uint32_t n = 0;
    for (uint32_t b = 0; b < n_blocks(s->n_vocab); b++) {
        if (s->block_max[b] < floor)
            continue;
        uint32_t end = s->n_vocab - b * BLOCK < BLOCK ? s->n_vocab : (b + 1) * BLOCK;
        for (uint32_t i = b * BLOCK; i < end; i++)
            if (z[i] >= floor && z[i] > -INFINITY)
                s->id[n++] = (int32_t)i;
    }
    return n;
}

/* At least k logits are not below the k-th largest block maximum: only those can be among the
 * k largest, which leaves a few hundred of a large vocabulary. */
static float top_k_floor(struct sampling_scratch *s, uint32_t k)
{
    uint32_t n = n_blocks(s->n_vocab);
    if (k > n)
        return -INFINITY;
    for (uint32_t b = 0; b < n; b++)
        s->key[b] = make_key(s->block_max[b], (int32_t)b);
    return s->block_max[(uint32_t)select_last(s->key, n, NULL, k)];
}

static uint32_t keep_top_k(struct sampling_scratch *s, const float *z, uint32_t k)
{
    uint32_t n = collect_at_least(s, z, top_k_floor(s, k));
    if (n <= k)
        return n;
    for (uint32_t i = 0; i < n; i++)
        s->key[i] = make_key(z[s->id[i]], s->id[i]);
    return keep_until(s, n, z, select_last(s->key, n, NULL, k));
}

/* weight[id] of the candidates; returns their sum. */
static double weigh_candidates(struct sampling_scratch *s, uint32_t n, const float *z, float max,
                               float scale)
{
    double total = 0;
    for (uint32_t begin = 0; begin < n; begin += BLOCK) {
        uint32_t count = n - begin < BLOCK ? n - begin : BLOCK;
        float packed[BLOCK];
        for (uint32_t i = 0; i < count; i++)
            packed[i] = z[s->id[begin + i]];
        total += row_exp(packed, count, max, scale, packed, NULL);
        for (uint32_t i = 0; i < count; i++)
            s->weight[s->id[begin + i]] = packed[i];
    }
    return total;
}

/* weight[id] of the candidates. A token lighter than (1 - top_p) * total / n is never needed:
 * all such tokens together weigh less than what may be left out. */
static uint32_t keep_top_p(struct sampling_scratch *s, uint32_t n, const float *z, float top_p,
                           double total)
{
    double target = (double)top_p * total, left_out = (1.0 - (double)top_p) * total / n;
    uint32_t n_keys = 0;
    double heavy = 0;
    for (uint32_t i = 0; i < n; i++) {
        int32_t id = s->id[i];
        if ((double)s->weight[id] >= left_out) {
            s->key[n_keys++] = make_key(z[id], id);
            heavy += (double)s->weight[id];
        }
    }
    if (heavy < target || n_keys == 0) /* rounding at the border: nothing is left out */
        return n;
    return keep_until(s, n, z, select_last(s->key, n_keys, s->weight, target));
}

static uint32_t keep_min_p(struct sampling_scratch *s, uint32_t n, float min_p)
{
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (s->weight[s->id[i]] >= min_p) /* the most likely token weighs 1 */
            s->id[n_kept++] = s->id[i];
    return n_kept;
}

/* ---- the draw ---------------------------------------------------------------------------- */

static int32_t argmax(const float *z, const float *block_max, uint32_t n_vocab, float max)
{
    uint32_t b = 0;
    while (block_max[b] != max)
        b++;
    uint32_t i = b * BLOCK;
    while (z[i] != max)
        i++;
    assert(i < n_vocab);
    return (int32_t)i;
}

/* The first candidate whose cumulative weight exceeds u * total. */
static int32_t draw_candidate(const struct sampling_scratch *s, uint32_t n, double u)
{
    double total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += (double)s->weight[s->id[i]];
    double cumulative = 0, border = u * total;
    int32_t last = s->id[n - 1];
    for (uint32_t i = 0; i < n; i++) {
        cumulative += (double)s->weight[s->id[i]];
        if (cumulative > border)
            return s->id[i];
        if (s->weight[s->id[i]] > 0)
            last = s->id[i]; /* rounding must not end at an impossible token */
    }
    return last;
}

/* The same over the whole vocabulary, block by block. */
static int32_t draw_all(struct sampling_scratch *s, double total, double u)
{
    double cumulative = 0, border = u * total;
    int32_t last = 0;
    for (uint32_t b = 0; b < n_blocks(s->n_vocab); b++) {
        if (!(s->block_sum[b] > 0))
            continue;
        double end = cumulative + s->block_sum[b];
        uint32_t end_id = s->n_vocab - b * BLOCK < BLOCK ? s->n_vocab : (b + 1) * BLOCK;
        for (uint32_t i = b * BLOCK; i < end_id; i++)
            if (s->weight[i] > 0)
                last = (int32_t)i;
        if (end <= border) {
            cumulative = end;
            continue;
        }
        for (uint32_t i = b * BLOCK; i < end_id; i++) {
            cumulative += (double)s->weight[i];
            if (cumulative > border)
                return (int32_t)i;
        }
        return last; /* the block's sum was rounded up */
    }
    return last;
}

static uint32_t all_ids(struct sampling_scratch *s)
{
    for (uint32_t i = 0; i < s->n_vocab; i++)
        s->id[i] = (int32_t)i;
    return s->n_vocab;
}

/* Steps 6 to 13 of the API's order, without those that are off. */
static int32_t filter_and_draw(const struct sampling_params *p, struct sampling_scratch *s,
                               const float *z, float max, double u)
{
    bool has_top_k = p->top_k > 0 && (uint32_t)p->top_k < s->n_vocab;
    float scale = 1.0f / p->temperature;
    if (!has_top_k && p->top_p >= 1.0f && p->min_p <= 0.0f) {
        double total = row_exp(z, s->n_vocab, max, scale, s->weight, s->block_sum);
        return draw_all(s, total, u);
    }
    uint32_t n;
    double total = 0;
    if (has_top_k) {
        n = keep_top_k(s, z, (uint32_t)p->top_k);
        total = weigh_candidates(s, n, z, max, scale);
    } else {
        total = row_exp(z, s->n_vocab, max, scale, s->weight, NULL);
        n = all_ids(s);
    }
    if (p->top_p < 1.0f)
        n = keep_top_p(s, n, z, p->top_p, total);
    if (p->min_p > 0.0f)
        n = keep_min_p(s, n, p->min_p);
    return draw_candidate(s, n, u);
}

serverd_status sampler_draw(struct sampler *sampler, struct sampling_scratch *s,
                            const float *logits, uint32_t index, int32_t *token, serverd_error *err)
{
    const struct sampling_params *p = sampler->setup.params;
    assert(s->n_vocab == sampler->setup.n_vocab);
    if (sampler->lost_history)
        return fail(err, SERVERD_NOMEM, "sampling: no memory to count tokens for the penalties");

    const float *z = logits;
    float max;
    if (!row_max(logits, s->n_vocab, s->block_max, &max))
        return fail(err, SERVERD_NUMERIC,
                    "logits of output token %u: NaN, infinity or nothing finite", index);
    if (adjusts(sampler, index)) {
        memcpy(s->z, logits, s->n_vocab * sizeof *logits);
        adjust(sampler, index, s->z);
        z = s->z;
        if (!row_max(z, s->n_vocab, s->block_max, &max))
            return fail(err, SERVERD_INVALID,
                        "sampling: bans and allowed tokens leave no token to draw");
    }
    *token =
        p->temperature < GREEDY_TEMPERATURE
            ? argmax(z, s->block_max, s->n_vocab, max)
            : filter_and_draw(p, s, z, max, random_uniform(p->seed, sampler->setup.choice, index));
    return SERVERD_OK;
}
