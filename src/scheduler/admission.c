#include "base/error.h"
#include "scheduler/engine_internal.h"

#include <math.h>

/* Share of their possible output for which running sequences keep pages in reserve: falls from
 * the first to the last value over RESERVE_STEPS steps, and rises again after a preemption. */
#define RESERVE_FIRST  0.7
#define RESERVE_LAST   0.1
#define RESERVE_STEPS  600
#define RESERVE_TOKENS 4096u /* of one sequence at most */

/* A sequence that gave its pages up so often keeps them if another one can. */
#define MAX_PREEMPTIONS 3u

/* A waiting request takes the place of a running one whose priority is lower by more than that. */
#define PREEMPTING_PRIORITY 10

/* ---- pages ------------------------------------------------------------------------------- */

bool engine_take_pages(struct engine *engine, struct sequence *s, uint32_t n_pages,
                       serverd_error *err)
{
    if (n_pages <= s->n_pages)
        return true;
    uint32_t n = n_pages - s->n_pages;
    struct page_id *added = s->page + s->n_pages;
    engine_evict(engine, n);
    if (page_pool_take(engine->pool, n, added, err))
        return false;
    s->n_pages = n_pages;
    for (uint32_t i = 0; i < n; i++)
        engine->page_index[i] = (serverd_kv_page){added[i].index, SERVERD_NO_PAGE};
    if (runtime_kv_zero(engine->options.runtime, engine->page_index, n, err)) {
        job_fail(engine, s->job, err); /* the sweep gives the pages back */
        return false;
    }
    return true;
}

static uint32_t reserve_tokens(const struct engine *engine, const struct sequence *s)
{
    uint32_t room = sequence_n_room(s, engine->limits.context_size);
    double ratio = s->job->request->sampling.ignore_eos ? 1.0 : engine->reserve_ratio;
    return (uint32_t)(ratio * (room < RESERVE_TOKENS ? room : RESERVE_TOKENS));
}

void engine_lower_reserve(struct engine *engine)
{
    engine->reserve_ratio -= (RESERVE_FIRST - RESERVE_LAST) / RESERVE_STEPS;
    engine->reserve_ratio = fmax(engine->reserve_ratio, RESERVE_LAST);
}

/* Sequences turned out longer than hoped for: expect of the rest what the running ones show. */
static void raise_reserve(struct engine *engine)
{
    double n_output = 0, n_most = 1;
    for (uint32_t i = 0; i < engine->n_running; i++) {
        const struct sequence *s = engine->running[i];
        n_output += s->n_output + 20.0;
        n_most += s->n_output + sequence_n_room(s, engine->limits.context_size);
    }
    engine->reserve_ratio = fmin(1.0, fmax(engine->reserve_ratio, n_output / n_most));
}

/* Whether `a` rather gives its pages up than `b`. */
static bool is_better_victim(const struct sequence *a, const struct sequence *b)
{
    bool is_protected = a->n_preempted >= MAX_PREEMPTIONS;
    if (is_protected != (b->n_preempted >= MAX_PREEMPTIONS))
        return !is_protected;
    return sequence_comes_before(b, a);
}

static struct sequence *choose_victim(const struct engine *engine, uint32_t *n_active)
{
    struct sequence *victim = NULL;
    *n_active = 0;
    for (uint32_t i = 0; i < engine->n_running; i++) {
        struct sequence *s = engine->running[i];
        if (s->state != SEQUENCE_RUNNING || s->job->is_ending)
            continue;
        ++*n_active;
        if (!victim || is_better_victim(s, victim))
            victim = s;
    }
    return victim;
}

static void preempt(struct engine *engine, struct sequence *s)
{
    raise_reserve(engine);
    s->n_preempted++;
    engine_wait(engine, s);
    engine->step.n_preempted++;
    engine->use.n_preempted++;
    metrics_add(engine->options.metrics, METRIC_PREEMPTIONS, 1);
}

/* Pages for all tokens of the sequence and a window page for its next row; younger ones give theirs
 * up for it, or it gives up. */
static void secure_sequence(struct engine *engine, struct sequence *s)
{
    uint32_t n_pages = pages_for(sequence_n_tokens(s));
    while (s->state == SEQUENCE_RUNNING && !s->job->is_ending) {
        serverd_error err;
        if (engine_take_pages(engine, s, n_pages, &err) && windows_take(engine, s, 1) == 1)
            return;
        uint32_t n_active;
        struct sequence *victim = choose_victim(engine, &n_active);
        if (!victim || s->job->is_ending)
            return;
        if (n_active == 1 && n_pages > page_pool_n_pages(engine->pool)) {
            engine_finish_choice(engine, s, FINISH_LENGTH,
                                 &(struct text_step){.stop_index = -1, .release = s->n_bytes}, -1);
            return;
        }
        preempt(engine, victim);
    }
}

void engine_secure_pages(struct engine *engine)
{
    if (engine->is_encoder)
        return;
    for (uint32_t i = 0; i < engine->n_running; i++)
        secure_sequence(engine, engine->running[i]);
    engine_compact(engine);
}

/* ---- admission --------------------------------------------------------------------------- */

uint32_t engine_n_available(const struct engine *engine)
{
    uint32_t n = page_pool_n_free(engine->pool);
    if (engine->tree)
        n += radix_tree_n_pages(engine->tree) - radix_tree_n_locked(engine->tree);
    return n;
}

/* Beside the pages that it has of the tree. */
static bool fits(const struct engine *engine, const struct sequence *s)
{
    if (engine->is_encoder || engine->n_running == 0)
        return true;
    uint64_t n_pages = pages_for(sequence_n_tokens(s) + reserve_tokens(engine, s)) - s->n_shared;
    for (uint32_t i = 0; i < engine->n_running; i++)
        n_pages += pages_for(reserve_tokens(engine, engine->running[i]));
    return n_pages <= engine_n_available(engine) && windows_fit(engine, s);
}

/* Its memory, and what the tree has of its tokens: held before anything is evicted for it. False:
 * its job fails. */
static bool prepare(struct engine *engine, struct sequence *s)
{
    serverd_error err;
    if (!s->output && sequence_prepare(s, &engine->limits, &err)) {
        job_fail(engine, s->job, &err);
        return false;
    }
    engine_take_prefix(engine, s);
    return true;
}

/* Prompt tokens that the tree had, and that the sequence has not computed before: of a sequence
 * that starts for the first time all that are in its pages. */
static void count_cached(struct engine *engine, struct sequence *s, bool is_new)
{
    struct job *job = s->job;
    uint32_t n_prompt = job->request->n_prompt;
    uint32_t n = min_u32(s->n_computed, n_prompt), n_known = min_u32(s->n_known, n_prompt);
    engine->step.n_admitted++;
    engine->step.n_cached += s->n_computed;
    engine->use.n_admitted += is_new;
    engine->use.n_hits += is_new && n > 0;
    if (n > n_known) {
        job->n_cached += n - n_known;
        engine->use.n_cached += n - n_known;
        metrics_add(engine->options.metrics, METRIC_CACHED_TOKENS, n - n_known);
    }
    s->n_known = s->n_known > s->n_computed ? s->n_known : s->n_computed;
}

static void start(struct engine *engine, struct sequence *s)
{
    struct job *job = s->job;
    serverd_error err;
    waiting_remove(engine, s);
    s->state = SEQUENCE_RUNNING;
    engine->running[engine->n_running++] = s;
    const bool is_new = job->is_queued;
    if (is_new) {
        engine_unqueue(engine, job);
        job->times.admitted_ns = engine->now_ns;
        metrics_observe(engine->options.metrics, METRIC_QUEUE_TIME,
                        seconds_between(job->times.arrival_ns, engine->now_ns));
    }
    if (!engine->is_encoder &&
        !engine_take_pages(engine, s, pages_for(sequence_n_tokens(s)), &err)) {
        job_fail(engine, job, &err); /* nothing else runs: more than the whole pool */
        return;
    }
    engine_copy_partial(engine, s);
    count_cached(engine, s, is_new);
    if (is_new)
        queue_admitted(engine, s);
}

/* The running sequence that `s` may take pages and place of; NULL: none. */
static struct sequence *lesser(const struct engine *engine, const struct sequence *s)
{
    struct sequence *least = NULL;
    for (uint32_t i = 0; i < engine->n_running; i++) {
        struct sequence *r = engine->running[i];
        if (r->state == SEQUENCE_RUNNING && !r->job->is_ending &&
            (!least || sequence_comes_before(least, r)))
            least = r;
    }
    if (!least || engine->is_encoder)
        return NULL;
    int64_t above = (int64_t)s->job->request->priority - least->job->request->priority;
    return above > PREEMPTING_PRIORITY ? least : NULL;
}

/* Starts the best of the waiting; false: nobody can start now. */
static bool admit_one(struct engine *engine)
{
    const bool has_place = engine->n_running < engine->max_running;
    struct sequence *s, *victim;
    if ((!has_place && !lesser(engine, queue_highest(engine))) || !(s = queue_best(engine)))
        return false;
    if (has_place) {
        if (!prepare(engine, s)) {
            engine_sweep(engine);
            return true;
        }
        if (fits(engine, s)) {
            start(engine, s);
            queue_add_leader(engine, s);
            return true;
        }
        /* of the tree: others may need them more. Handles stay: those who run will end, and then
         * it starts whatever they hold. */
        engine_give_pages(engine, s);
    }
    victim = lesser(engine, s);
    if (!victim)
        return false;
    preempt(engine, victim);
    engine_compact(engine);
    queue_find_leaders(engine);
    return true;
}

void engine_admit(struct engine *engine)
{
    tier_poll(engine);
    queue_refresh(engine);
    queue_find_leaders(engine);
    while (engine->n_waiting > 0 && admit_one(engine))
        ;
    engine_sweep(engine);
}
