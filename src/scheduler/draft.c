#include "base/error.h"
#include "scheduler/draft_model_internal.h"
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

/* Of a further row, as a share of the first one, before any was measured; of a step of the draft
 * model, as a share of one of the model. */
#define UNKNOWN_MORE  0.2
#define UNKNOWN_DRAFT 0.25

#define LEAST_CATCH_UP 8u   /* rows of the draft model in a step, so that it gets on */
#define PROBE_SHARE    0.05 /* of the time, for it to catch up where it does not seem to pay */

struct drafter {
    struct ngram_index *ngrams;
    float rate[DRAFT_N_SOURCES]; /* share of guesses that were right, of the last ones */
    uint32_t next_probe;         /* in tokens of output */
    uint32_t next_model_probe;
    uint32_t model_begin; /* the model is not asked before: there was no room for it */
    bool is_probe;        /* the guess of this step */
};

static const float first_rate[DRAFT_N_SOURCES] = {[DRAFT_SHORT] = 0.4f,
                                                  [DRAFT_LONG] = 0.8f,
                                                  [DRAFT_TREE] = 0.8f,
                                                  [DRAFT_GRAMMAR] = 1.0f,
                                                  [DRAFT_MODEL] = 0.7f};

/* What the step has so far. */
struct load {
    uint32_t n_slices, n_rows, n_drafts;
    uint32_t n_model_drafts; /* those that the draft model makes */
    double n_tokens;         /* that are expected of it */
};

/* So many guesses of a source for one sequence. */
struct choice {
    enum draft_source source;
    uint32_t n;
    double speed; /* of the step with them */
    bool is_probe;
};

static struct drafter *drafter_create(uint32_t n_tokens)
{
    struct drafter *drafter = calloc(1, sizeof *drafter);
    if (!drafter)
        return NULL;
    for (uint32_t i = 0; i < DRAFT_N_SOURCES; i++)
        drafter->rate[i] = first_rate[i];
    drafter->next_model_probe = PROBE_TOKENS;
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

double row_cost_of(const struct row_cost *cost, uint32_t n_rows)
{
    double more = cost->n_learned > 0 ? cost->more : UNKNOWN_MORE;
    return 1 + more * (n_rows - 1);
}

void row_cost_learn(struct row_cost *cost, uint32_t n_rows, double seconds)
{
    if (cost->first <= 0)
        cost->first = seconds / row_cost_of(cost, n_rows);
    double expected = cost->first * row_cost_of(cost, n_rows);
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

void engine_learn_row_cost(struct engine *engine, uint32_t n_rows, double seconds)
{
    if (engine->options.max_draft > 0 && n_rows <= DRAFT_MAX_ROWS)
        row_cost_learn(&engine->row_cost, n_rows, seconds);
}

/* A step of the draft model with one row, in first rows of the model. */
static double draft_step_cost(const struct engine *engine)
{
    const struct row_cost *draft = draft_model_step_cost(engine->draft_model);
    const struct row_cost *model = &engine->row_cost;
    return draft->first > 0 && model->first > 0 ? draft->first / model->first : UNKNOWN_DRAFT;
}

/* A row of the draft model among many, for a sequence that it catches up with. */
static double catch_up_cost(const struct engine *engine)
{
    double seconds = draft_model_row_seconds(engine->draft_model);
    return seconds > 0 && engine->row_cost.first > 0 ? seconds / engine->row_cost.first
                                                     : draft_step_cost(engine) * UNKNOWN_MORE;
}

/* ---- how many -------------------------------------------------------------------------------- */

/* The load with n guesses more, each right with this chance if all before it are. */
static struct load load_with(const struct load *load, uint32_t n, double rate, bool is_model)
{
    struct load with = *load;
    double chance = 1;
    for (uint32_t i = 0; i < n; i++)
        with.n_tokens += chance *= rate;
    with.n_rows += n;
    with.n_drafts += n;
    with.n_model_drafts += is_model ? n : 0;
    return with;
}

/* In tokens for the time of a first row. The draft model's steps are taken to be shared by all:
 * the first sequence that is looked at would not begin otherwise, and nobody after it. */
static double speed_of(const struct engine *engine, const struct load *load)
{
    double cost = row_cost_of(&engine->row_cost, load->n_rows);
    if (load->n_model_drafts > 0) {
        double step = row_cost_of(draft_model_step_cost(engine->draft_model), load->n_slices);
        cost += draft_step_cost(engine) * step * load->n_model_drafts / load->n_slices;
    }
    return load->n_tokens / cost;
}

/* The number of guesses that makes the most tokens a second of the step; 0 if none is worth it, or
 * 1 to see whether that is still so. */
static struct choice choose_length(const struct engine *engine, const struct load *load,
                                   const struct sequence *s, enum draft_source source,
                                   uint32_t n_most)
{
    const struct drafter *drafter = s->drafter;
    const bool is_model = source == DRAFT_MODEL;
    const double rate = drafter->rate[source];
    struct choice best = {.source = source, .speed = LEAST_GAIN * speed_of(engine, load)};
    for (uint32_t n = 1; n <= n_most; n++) {
        const struct load with = load_with(load, n, rate, is_model);
        double speed = speed_of(engine, &with);
        if (speed > best.speed) {
            best.speed = speed;
            best.n = n;
        }
    }
    uint32_t next_probe = is_model ? drafter->next_model_probe : drafter->next_probe;
    best.is_probe = best.n == 0 && n_most > 0 && s->n_output >= next_probe;
    if (best.is_probe)
        best.n = 1;
    return best;
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
    uint32_t n = constraint_look_ahead(s->constraint, engine->options.tokenizer, out, n_most);
    *source = DRAFT_GRAMMAR;
    if (n > 0)
        return n;
    const struct ngram_match match = ngram_index_find(s->drafter->ngrams, s);
    *source = DRAFT_TREE;
    if (match.length < LONG_MATCH)
        n = ask_tree(engine, s, out, n_most);
    if (n > 0 || match.length == 0)
        return n;
    *source = match.length < LONG_MATCH ? DRAFT_SHORT : DRAFT_LONG;
    copy_match(s, match.next, out, n_most);
    return n_most;
}

/* How many of n guesses have pages and window pages. One more is taken only if every running
 * sequence could take one, too: nobody shall give up its pages, nor a prefix go, for a guess. */
static uint32_t fit_pages(struct engine *engine, struct sequence *s, uint32_t n)
{
    serverd_error ignored;
    uint32_t n_tokens = sequence_n_tokens(s), n_pages = pages_for(n_tokens + n);
    if (n_pages > s->n_pages &&
        page_pool_n_free(engine->pool) >= n_pages - s->n_pages + engine->n_running)
        (void)engine_take_pages(engine, s, n_pages, &ignored);
    n = min_u32(n, s->n_pages * SERVERD_PAGE_TOKENS - n_tokens);
    return windows_can_spare(engine, s, 1 + n) ? windows_take(engine, s, 1 + n) - 1 : 0;
}

/* The guesses of a slice, which need not be known yet. */
static void adopt(struct engine *engine, struct slice *slice, struct load *load,
                  const struct choice *choice, uint32_t n)
{
    struct drafter *drafter = slice->sequence->drafter;
    drafter->is_probe = choice->is_probe;
    if (choice->is_probe && choice->source == DRAFT_MODEL)
        drafter->next_model_probe = slice->sequence->n_output + PROBE_TOKENS;
    else if (choice->is_probe)
        drafter->next_probe = slice->sequence->n_output + PROBE_TOKENS;
    slice->source = choice->source;
    slice->draft = engine->draft + load->n_drafts;
    slice->n_drafts = n;
    slice->n_rows += n;
    *load = load_with(load, n, drafter->rate[choice->source], choice->source == DRAFT_MODEL);
}

/* Whether the draft model may compute n rows of the sequence first. What that takes shall not be
 * more than its guesses would have saved in the text so far, or can save in what is to come; for a
 * probe, than a small share of the time since the last one. So little is lost where they turn out
 * wrong, or the text ends. */
static bool may_catch_up(const struct engine *engine, const struct load *load,
                         const struct sequence *s, const struct choice *choice, uint32_t n)
{
    if (n <= DRAFT_STEADY_ROWS)
        return true;
    uint32_t n_room = sequence_n_room(s, engine->limits.context_size), n_tokens = s->n_output;
    double share = 1 - speed_of(engine, load) / choice->speed;
    if (choice->is_probe) {
        n_tokens += PROBE_TOKENS - s->drafter->next_model_probe;
        share = PROBE_SHARE / load->n_slices;
    }
    return n * catch_up_cost(engine) <= share * min_u32(n_tokens, n_room);
}

/* Orders guesses of the draft model, or has it catch up, of which there may be *n_spare rows in
 * this step. False: no guesses come. */
static bool ask_model(struct engine *engine, struct slice *slice, struct load *load,
                      const struct choice *choice, uint32_t *n_spare)
{
    struct sequence *s = slice->sequence;
    uint32_t n_left = draft_model_n_left(s), n_rows = n_left, n_guesses = 0;
    if (!may_catch_up(engine, load, s, choice, n_left))
        return false;
    if (n_left > DRAFT_STEADY_ROWS) {
        n_rows = min_u32(n_left, *n_spare);
        *n_spare -= n_rows;
    }
    if (n_rows == n_left)
        n_guesses = fit_pages(engine, s, choice->n);
    if (n_rows == 0 || (n_rows == n_left && n_guesses == 0))
        return false;
    if (!draft_model_reserve(engine->draft_model, s, n_rows, n_guesses)) {
        s->drafter->model_begin = s->n_output + PROBE_TOKENS;
        return false;
    }
    engine->draft_work[engine->n_draft_works++] = (struct draft_work){
        .sequence = s,
        .n_rows = n_rows,
        .n_guesses = n_guesses,
        .out = engine->draft + load->n_drafts,
    };
    if (n_guesses > 0)
        adopt(engine, slice, load, choice, n_guesses);
    return n_guesses > 0;
}

static bool can_ask_model(const struct engine *engine, const struct sequence *s)
{
    return engine->draft_model && draft_model_is_good(engine->draft_model) &&
           s->n_output >= s->drafter->model_begin;
}

/* What was said before costs nothing to look up; the draft model is asked where it makes the step
 * faster nevertheless, or nothing was found. */
static void draft_slice(struct engine *engine, struct slice *slice, struct load *load,
                        uint32_t n_most, uint32_t *n_spare)
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
    enum draft_source source;
    uint32_t n = guess(engine, s, out, n_most, &source);
    const struct choice found = choose_length(engine, load, s, source, n);
    if (can_ask_model(engine, s)) {
        const struct choice model = choose_length(engine, load, s, DRAFT_MODEL, n_most);
        bool is_better = model.speed > found.speed || found.n == 0;
        if (is_better && model.n > 0 && ask_model(engine, slice, load, &model, n_spare))
            return;
    }
    n = fit_pages(engine, s, found.n);
    if (n > 0)
        adopt(engine, slice, load, &found, n);
}

/* Lets the draft model make the guesses that were ordered. */
static void run_model(struct engine *engine, struct load *load)
{
    serverd_error err;
    if (engine->n_draft_works == 0)
        return;
    if (draft_model_guess(engine->draft_model, engine->draft_work, engine->n_draft_works,
                          &engine->draft_seconds, &err) == SERVERD_OK)
        return;
    log_error(engine->options.log, "engine", "the draft model is not used any more: %s (%s)",
              err.text, status_name(err.code));
    for (uint32_t i = 0; i < engine->n_slices; i++) {
        struct slice *slice = &engine->slice[i];
        if (slice->n_drafts == 0 || slice->source != DRAFT_MODEL)
            continue;
        load->n_drafts -= slice->n_drafts;
        slice->n_rows -= slice->n_drafts;
        slice->n_drafts = 0;
    }
}

uint32_t engine_draft(struct engine *engine)
{
    uint32_t n_slices = engine->n_slices;
    uint32_t n_rows = min_u32(min_u32(engine->max_rows, engine->max_logit_rows), DRAFT_MAX_ROWS);
    if (engine->options.max_draft == 0 || n_slices == 0 || n_rows < 2 * n_slices)
        return 0;
    uint32_t n_most = min_u32(n_rows / n_slices - 1, engine->options.max_draft);
    struct load load = {.n_slices = n_slices, .n_rows = n_slices, .n_tokens = n_slices};
    uint32_t n_spare = DRAFT_CATCH_UP_ROWS;
    engine->n_draft_works = 0;
    if (engine->draft_model) /* as long as a step of the model */
        n_spare = (uint32_t)fmin(fmax(1 / catch_up_cost(engine), LEAST_CATCH_UP), n_spare);
    for (uint32_t i = 0; i < n_slices; i++)
        draft_slice(engine, &engine->slice[i], &load, n_most, &n_spare);
    run_model(engine, &load);
    return load.n_drafts;
}

void engine_learn_draft(struct engine *engine, const struct slice *slice, uint32_t n_right)
{
    static const char *const kinds[DRAFT_N_SOURCES] = {"ngram", "ngram", "tree", "grammar",
                                                       "model"};
    struct drafter *drafter = slice->sequence->drafter;
    float *rate = &drafter->rate[slice->source];
    for (uint32_t i = 0; i < n_right; i++)
        *rate += RATE_WEIGHT * (1 - *rate);
    if (n_right < slice->n_drafts)
        *rate -= RATE_WEIGHT * *rate;
    else if (drafter->is_probe && *rate < first_rate[slice->source])
        *rate = first_rate[slice->source];
    engine->n_rejected_rows += slice->n_drafts - n_right;
    engine->use.n_draft_checks++;
    engine->use.n_draft_accepted += n_right;
    const char *kind = kinds[slice->source];
    metrics_add_labelled(engine->options.metrics, METRIC_DRAFT_TOKENS, &kind, slice->n_drafts);
    metrics_add_labelled(engine->options.metrics, METRIC_ACCEPTED_TOKENS, &kind, n_right);
}
