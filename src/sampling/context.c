#include "sampling/context_internal.h"

#include "base/limits.h"
#include "base/numeric.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool has_dry(const struct sampling_params *p)
{
    return p->dry_multiplier > 0.0f && p->dry_penalty_last != 0;
}

bool context_is_needed(const struct sampling_params *p)
{
    return has_dry(p) || p->n_bad_words > 0;
}

/* ---- breakers ---------------------------------------------------------------------------- */

static const char *text_of(const struct sampler_setup *setup, int32_t token, uint32_t *n)
{
    *n = 0;
    return setup->piece ? setup->piece(setup->piece_user, token, n) : NULL;
}

static uint32_t longest_breaker(const struct sampling_params *p)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < p->n_dry_breakers; i++)
        longest = max_u32(longest, p->dry_breakers[i].n);
    return longest;
}

/* Where the last breaker that ends behind the first n_old bytes begins. */
static bool find_breaker(const struct sampling_params *p, const char *text, size_t n, size_t n_old,
                         size_t *begin)
{
    bool is_found = false;
    for (uint32_t i = 0; i < p->n_dry_breakers; i++) {
        const struct dry_breaker *breaker = &p->dry_breakers[i];
        for (size_t end = n; end > n_old && end >= breaker->n; end--) {
            size_t at = end - breaker->n;
            if (memcmp(text + at, breaker->bytes, breaker->n) != 0)
                continue;
            *begin = is_found ? max_size(*begin, at) : at;
            is_found = true;
            break;
        }
    }
    return is_found;
}

/* The token is the context's newest. False: no memory. */
static bool look_for_breaker(struct context *c, const struct sampler_setup *setup)
{
    const struct sampling_params *p = setup->params;
    uint32_t n_piece, n_kept = longest_breaker(p);
    const char *piece = text_of(setup, c->token[c->n - 1], &n_piece);
    if (n_kept == 0 || n_piece == 0)
        return true;
    size_t n_old = c->text.len, begin = 0;
    buffer_append(&c->text, piece, n_piece);
    if (c->text.is_failed)
        return false;
    if (find_breaker(p, c->text.data, c->text.len, n_old, &begin)) {
        uint32_t at = c->n - 1; /* the token that holds its first byte */
        for (size_t end = n_old; begin < end; end -= min_size(end, n_piece))
            (void)text_of(setup, c->token[--at], &n_piece);
        c->free_from = max_u32(c->free_from, at + 1);
    }
    buffer_consume(&c->text, c->text.len - min_size(c->text.len, n_kept - 1));
    return true;
}

/* ---- tokens ------------------------------------------------------------------------------ */

static bool reserve(struct context *c, uint32_t cap, bool dry)
{
    int32_t *token = realloc(c->token, cap * sizeof *token);
    if (!token)
        return false;
    c->token = token;
    if (dry) {
        uint32_t *match = realloc(c->match, cap * sizeof *match);
        if (!match)
            return false;
        c->match = match;
    }
    c->cap = cap;
    return true;
}

bool context_add(struct context *c, const struct sampler_setup *setup, int32_t token)
{
    bool dry = has_dry(setup->params);
    if (c->n == c->cap && !reserve(c, 2 * c->cap, dry))
        return false;
    c->token[c->n++] = token;
    return !dry || look_for_breaker(c, setup);
}

bool context_init(struct context *c, const struct sampler_setup *setup)
{
    const uint32_t n_least = 64;
    bool dry = has_dry(setup->params);
    *c = (struct context){0};
    buffer_init(&c->text, LIMIT_DRY_BREAKER_BYTES + LIMIT_TOKEN_BYTES);
    bool is_good = reserve(c, dry ? max_u32(setup->n_prompt + 1, n_least) : n_least, dry);
    for (uint32_t i = 0; is_good && dry && i < setup->n_prompt; i++)
        is_good = context_add(c, setup, setup->prompt[i]);
    c->n_prompt = c->n;
    return is_good;
}

void context_deinit(struct context *c)
{
    free(c->token);
    free(c->match);
    buffer_deinit(&c->text);
}

/* ---- banned words ------------------------------------------------------------------------ */

void context_ban_words(const struct context *c, const struct sampling_params *p,
                       struct sampling_scratch *s)
{
    uint32_t n_output = c->n - c->n_prompt;
    for (uint32_t i = 0; i < p->n_bad_words; i++) {
        const struct bad_word *word = &p->bad_words[i];
        uint32_t n_before = word->n - 1;
        if (n_before <= n_output &&
            memcmp(c->token + c->n - n_before, word->id, n_before * sizeof *word->id) == 0)
            *row_logit(s, word->id[n_before]) = -INFINITY;
    }
}

/* ---- DRY --------------------------------------------------------------------------------- */

/* match[i], i >= 1: how many tokens, from the newest and from the i-th before it backwards, are the
 * same; the Z function of the tokens in reverse. */
static void match_end(struct context *c, uint32_t n)
{
    const int32_t *newest = c->token + c->n - 1;
    uint32_t begin = 0, end = 0; /* of the match that reaches furthest back */
    for (uint32_t i = 1; i < n; i++) {
        uint32_t k = i < end ? min_u32(end - i, c->match[i - begin]) : 0;
        if (i >= end || i + k == end)
            while (i + k < n && *(newest - k) == *(newest - i - k))
                k++;
        c->match[i] = k;
        if (i + k > end) {
            begin = i;
            end = i + k;
        }
    }
}

/* By squaring, in one fixed order: a library's pow may differ between machines. */
static double power(double base, uint32_t n)
{
    double result = 1;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1)
            result *= base;
    return result;
}

static float lowered(float z, const struct sampling_params *p, uint32_t n)
{
    if (z == -INFINITY)
        return z;
    double lower =
        (double)z - (double)p->dry_multiplier * power((double)p->dry_base, n - p->dry_allowed);
    return lower < -(double)FLT_MAX ? -FLT_MAX : (float)lower;
}

void context_penalise(struct context *c, const struct sampling_params *p,
                      struct sampling_scratch *s)
{
    if (!has_dry(p))
        return;
    uint32_t n = p->dry_penalty_last < 0 ? c->n : min_u32(c->n, (uint32_t)p->dry_penalty_last);
    uint32_t longest = c->n - c->free_from; /* that an end may be */
    if (n < 2 || longest < p->dry_allowed)
        return;
    match_end(c, n);
    const int32_t *newest = c->token + c->n - 1;
    for (uint32_t i = 1; i < n; i++) {
        uint32_t length = min_u32(c->match[i], longest);
        uint32_t next = (uint32_t) * (newest - i + 1);
        if (length >= p->dry_allowed && next < s->n_vocab)
            s->longest[next] = max_u32(s->longest[next], length);
    }
    for (uint32_t i = 1; i < n; i++) {
        uint32_t next = (uint32_t) * (newest - i + 1);
        if (next >= s->n_vocab || s->longest[next] == 0)
            continue;
        float *z = row_logit(s, (int32_t)next);
        *z = lowered(*z, p, s->longest[next]);
        s->longest[next] = 0;
    }
}
