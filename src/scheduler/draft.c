#include "scheduler/engine_internal.h"
#include "scheduler/ngram_index_internal.h"

#include <math.h>
#include <stdlib.h>

#define LONG_MATCH 8u /* tokens that agree, for a match that is hardly chance */

/* Guesses have to make the whole step this much better, as far as is known. */
#define LEAST_GAIN 1.05

/* A sequence whose guesses do not pay tries one again after so many tokens. */
#define PROBE_TOKENS 64u

#define RATE_WEIGHT 0.125f /* of one guess in the mean of the last ones */

/* Of a step in the means of its time. The first row follows the machine, which is slower for
 * seconds and faster again; what a further row costs is a matter of the model. */
#define FIRST_WEIGHT 0.25
#define MORE_WEIGHT  0.1
#define MOST_CHANGE  3.0 /* that one step is believed: others were interrupted */

/* Of a further row, as a share of the first one, before any was measured. */
#define UNKNOWN_MORE 0.2

struct drafter {
    struct ngram_index *ngrams;
    float rate[DRAFT_N_SOURCES]; /* share of guesses that were right, of the last ones */
    uint32_t next_probe;         /* in tokens of output */
    bool is_probe;               /* the guess of this step */
};

static const float first_rate[DRAFT_N_SOURCES] = {0.4f, 0.8f, 0.8f};

/* What the step has so far. */
struct load {
    uint32_t n_rows, n_drafts;
    double n_tokens; /* that are expected of it */
};

static struct drafter *drafter_create(uint32_t n_tokens)
{
    struct drafter *drafter = calloc(1, sizeof *drafter);
    if (!drafter)
        return NULL;
    for (uint32_t i = 0; i < DRAFT_N_SOURCES; i++)
        drafter->rate[i] = first_rate[i];
    drafter->ngrams = ngram_index_create(n_tokens);
    if (drafter->ngrams)
        return drafter;
    free(drafter);
    return NULL;
}

void drafter_destroy(struct drafter *drafter)
{
    if (!drafter)
        return;
    ngram_index_destroy(drafter->ngrams);
    free(drafter);
}

/* ---- what a step costs ----------------------------------------------------------------------- */

/* Of n rows, in first rows. */
static double cost_of(const struct row_cost *cost, uint32_t n_rows)
{
    double more = cost->n_learned > 0 ? cost->more : UNKNOWN_MORE;
    return 1 + more * (n_rows - 1);
}

void engine_learn_row_cost(struct engine *engine, uint32_t n_rows, double seconds)
{
    struct row_cost *cost = &engine->row_cost;
    if (engine->options.max_draft == 0 || n_rows > DRAFT_MAX_ROWS)
        return;
    if (cost->first <= 0)
        cost->first = seconds / cost_of(cost, n_rows);
    double expected = cost->first * cost_of(cost, n_rows);
    seconds = fmin(fmax(seconds, expected / MOST_CHANGE), expected * MOST_CHANGE);
    if (n_rows > 1) {
        double more = fmax(seconds / cost->first - 1, 0) / (n_rows - 1);
        double weight = fmax(MORE_WEIGHT, 1.0 / (cost->n_learned + 2));
        if (cost->n_learned == 0)
            cost->more = UNKNOWN_MORE;
        if (weight > MORE_WEIGHT)
            cost->n_learned++;
        /* few rows say little of one: all that disturbs a step is in the difference */
        cost->more += weight * (n_rows - 1) / (n_rows + 2) * (more - cost->more);
    }
    cost->first *= 1 + FIRST_WEIGHT * (seconds / expected - 1);
}

/* The number of guesses, each right with this chance if all before it are, that makes the most
 * tokens a second of the step; 0 if none is worth it. */
static uint32_t best_length(const struct engine *engine, const struct load *load, double rate,
                            uint32_t n_most)
{
    const struct row_cost *cost = &engine->row_cost;
    double best = LEAST_GAIN * load->n_tokens / cost_of(cost, load->n_rows);
    double chance = 1, n_tokens = load->n_tokens;
    uint32_t length = 0;
    for (uint32_t n = 1; n <= n_most; n++) {
        chance *= rate;
        n_tokens += chance;
        double speed = n_tokens / cost_of(cost, load->n_rows + n);
        if (speed > best) {
            best = speed;
            length = n;
        }
    }
    return length;
}

/* ---- guessing -------------------------------------------------------------------------------- */

/* What came behind the match, and behind that what was just guessed: a text that repeats itself. */
static void copy_match(const struct sequence *s, uint32_t next, int32_t *out, uint32_t n)
{
    uint32_t n_tokens = sequence_n_tokens(s);
    for (uint32_t i = 0; i < n; i++)
        out[i] = next + i < n_tokens ? sequence_token(s, next + i) : out[next + i - n_tokens];
}

static uint32_t ask_tree(const struct engine *engine, const struct sequence *s, int32_t *out,
                         uint32_t n_most)
{
    int32_t tail[SERVERD_PAGE_TOKENS];
    uint32_t begin = s->n_shared * SERVERD_PAGE_TOKENS, n = sequence_n_tokens(s) - begin;
    if (!engine->tree || !s->hold.node || n > SERVERD_PAGE_TOKENS)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        tail[i] = sequence_token(s, begin + i);
    return radix_tree_continuation(engine->tree, &s->hold, tail, n, out, n_most);
}

/* Up to n_most guesses from where most speaks for them. Returns how many. */
static uint32_t guess(const struct engine *engine, const struct sequence *s, int32_t *out,
                      uint32_t n_most, enum draft_source *source)
{
    const struct ngram_match match = ngram_index_find(s->drafter->ngrams, s);
    uint32_t n = 0;
    *source = DRAFT_TREE;
    if (match.length < LONG_MATCH)
        n = ask_tree(engine, s, out, n_most);
    if (n > 0 || match.length == 0)
        return n;
    *source = match.length < LONG_MATCH ? DRAFT_SHORT : DRAFT_LONG;
    copy_match(s, match.next, out, n_most);
    return n_most;
}

static uint32_t choose_length(const struct engine *engine, const struct load *load,
                              const struct sequence *s, enum draft_source source, uint32_t n_most)
{
    struct drafter *drafter = s->drafter;
    uint32_t n = best_length(engine, load, drafter->rate[source], n_most);
    drafter->is_probe = n == 0 && n_most > 0 && s->n_output >= drafter->next_probe;
    if (!drafter->is_probe)
        return n;
    drafter->next_probe = s->n_output + PROBE_TOKENS;
    return 1;
}

/* How many of n guesses have pages. One more is taken only if every running sequence could take
 * one, too: nobody shall give up its pages, nor a prefix go, for a guess. */
static uint32_t fit_pages(struct engine *engine, struct sequence *s, uint32_t n)
{
    serverd_error ignored;
    uint32_t n_tokens = sequence_n_tokens(s), n_pages = pages_for(n_tokens + n);
    if (n_pages > s->n_pages &&
        page_pool_n_free(engine->pool) >= n_pages - s->n_pages + engine->n_running)
        (void)engine_take_pages(engine, s, n_pages, &ignored);
    return min_u32(n, s->n_pages * SERVERD_PAGE_TOKENS - n_tokens);
}

static void draft_slice(struct engine *engine, struct slice *slice, struct load *load,
                        uint32_t n_most)
{
    struct sequence *s = slice->sequence;
    if (s->n_output == 0)
        return; /* the end of its prompt: perhaps no token is wanted, or several first ones */
    uint32_t n_room = sequence_n_room(s, engine->limits.context_size);
    n_most = min_u32(n_most, n_room - 1); /* the last token of all needs no guess behind it */
    if (n_most == 0)
        return;
    if (!s->drafter)
        s->drafter = drafter_create(sequence_n_tokens(s) + n_room);
    if (!s->drafter) /* no memory: no guesses now */
        return;
    int32_t *out = engine->draft + load->n_drafts;
    uint32_t n = guess(engine, s, out, n_most, &slice->source);
    n = fit_pages(engine, s, choose_length(engine, load, s, slice->source, n));
    slice->draft = out;
    slice->n_drafts = n;
    slice->n_rows += n;
    load->n_drafts += n;
    load->n_rows += n;
    double chance = 1;
    for (uint32_t i = 0; i < n; i++)
        load->n_tokens += chance *= s->drafter->rate[slice->source];
}

uint32_t engine_draft(struct engine *engine)
{
    uint32_t n_slices = engine->n_slices;
    uint32_t n_rows = min_u32(min_u32(engine->max_rows, engine->max_logit_rows), DRAFT_MAX_ROWS);
    if (engine->options.max_draft == 0 || n_slices == 0 || n_rows < 2 * n_slices)
        return 0;
    uint32_t n_most = min_u32(n_rows / n_slices - 1, engine->options.max_draft);
    struct load load = {.n_rows = n_slices, .n_tokens = n_slices};
    for (uint32_t i = 0; i < n_slices; i++)
        draft_slice(engine, &engine->slice[i], &load, n_most);
    return load.n_drafts;
}

void engine_learn_draft(struct engine *engine, const struct slice *slice, uint32_t n_right)
{
    static const char *const kinds[DRAFT_N_SOURCES] = {"ngram", "ngram", "tree"};
    struct drafter *drafter = slice->sequence->drafter;
    float *rate = &drafter->rate[slice->source];
    for (uint32_t i = 0; i < n_right; i++)
        *rate += RATE_WEIGHT * (1 - *rate);
    if (n_right < slice->n_drafts)
        *rate -= RATE_WEIGHT * *rate;
    else if (drafter->is_probe && *rate < first_rate[slice->source])
        *rate = first_rate[slice->source];
    engine->n_rejected_rows += slice->n_drafts - n_right;
    const char *kind = kinds[slice->source];
    metrics_add_labelled(engine->options.metrics, METRIC_DRAFT_TOKENS, &kind, slice->n_drafts);
    metrics_add_labelled(engine->options.metrics, METRIC_ACCEPTED_TOKENS, &kind, n_right);
}
