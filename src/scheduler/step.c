#include "base/error.h"
#include "base/numeric.h"
#include "scheduler/engine_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Share of their possible output for which running sequences keep pages in reserve: falls from
 * the first to the last value over RESERVE_STEPS steps, and rises again after a preemption. */
#define RESERVE_FIRST  0.7
#define RESERVE_LAST   0.1
#define RESERVE_STEPS  600
#define RESERVE_TOKENS 4096u /* of one sequence at most */

/* A sequence is given up when steps that hold it have failed this often in a row; from the first
 * failure on it runs alone, so that it cannot fail others. */
#define MAX_FAILURES 3u

/* ---- lists ------------------------------------------------------------------------------- */

static void waiting_insert(struct engine *engine, struct sequence *s)
{
    struct sequence *after = engine->waiting_last; /* newcomers belong at the end */
    while (after && sequence_comes_before(s, after))
        after = after->prev;
    s->prev = after;
    s->next = after ? after->next : engine->waiting;
    *(s->prev ? &s->prev->next : &engine->waiting) = s;
    *(s->next ? &s->next->prev : &engine->waiting_last) = s;
}

static void waiting_remove(struct engine *engine, struct sequence *s)
{
    *(s->prev ? &s->prev->next : &engine->waiting) = s->next;
    *(s->next ? &s->next->prev : &engine->waiting_last) = s->prev;
    s->prev = s->next = NULL;
}

static void live_insert(struct engine *engine, struct job *job)
{
    job->live_next = engine->live;
    if (engine->live)
        engine->live->live_prev = job;
    engine->live = job;
}

static void live_remove(struct engine *engine, struct job *job)
{
    *(job->live_prev ? &job->live_prev->live_next : &engine->live) = job->live_next;
    if (job->live_next)
        job->live_next->live_prev = job->live_prev;
}

/* Drops entries that no longer run; the others keep their order. */
static void compact_running(struct engine *engine)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < engine->n_running; i++)
        if (engine->running[i]->state == SEQUENCE_RUNNING)
            engine->running[n++] = engine->running[i];
    engine->n_running = n;
}

/* ---- endings ----------------------------------------------------------------------------- */

void job_finish(struct engine *engine, struct job *job)
{
    if (job->is_ending)
        return;
    job->is_ending = true;
    job->ending_next = engine->ending;
    engine->ending = job;
}

void job_fail(struct engine *engine, struct job *job, const serverd_error *err)
{
    if (job->is_ending)
        return;
    job->failure = *err;
    job_finish(engine, job);
}

static void give_pages(struct engine *engine, struct sequence *s)
{
    page_pool_give(engine->pool, s->page, s->n_pages);
    s->n_pages = 0;
    s->n_computed = 0;
}

void engine_release(struct engine *engine, struct sequence *s)
{
    if (s->state == SEQUENCE_WAITING)
        waiting_remove(engine, s);
    s->state = SEQUENCE_DONE;
    give_pages(engine, s);
}

void engine_wait(struct engine *engine, struct sequence *s)
{
    give_pages(engine, s);
    s->state = SEQUENCE_WAITING;
    waiting_insert(engine, s);
}

static void end_job(struct engine *engine, struct job *job)
{
    engine_unqueue(engine, job);
    engine_forget(engine, job);
    live_remove(engine, job);
    engine_end_event(engine, job);
    while (job->sequences) {
        struct sequence *s = job->sequences;
        job->sequences = s->sibling;
        sequence_destroy(s);
    }
    request_destroy(job->request);
    free(job);
}

/* The one place where jobs end. */
static void engine_sweep(struct engine *engine)
{
    if (!engine->ending)
        return;
    for (struct job *job = engine->ending; job; job = job->ending_next)
        for (struct sequence *s = job->sequences; s; s = s->sibling)
            if (s->state != SEQUENCE_DONE)
                engine_release(engine, s);
    compact_running(engine);
    while (engine->ending) {
        struct job *job = engine->ending;
        engine->ending = job->ending_next;
        end_job(engine, job);
    }
}

void engine_end_all(struct engine *engine, serverd_status code, const char *text)
{
    serverd_error err;
    (void)fail(&err, code, "%s", text);
    for (struct job *job = engine->live; job; job = job->live_next)
        job_fail(engine, job, &err);
    engine_sweep(engine);
}

/* ---- intake, cancels, deadlines ---------------------------------------------------------- */

/* When the job has to end if nothing happens, and with what. */
static uint64_t job_deadline(const struct engine *engine, const struct job *job)
{
    uint64_t deadline = job->request->deadline_ns ? job->request->deadline_ns : UINT64_MAX;
    uint64_t timeout = engine->options.queue_timeout_ns;
    if (job->is_queued && timeout > 0 && job->times.arrival_ns + timeout < deadline)
        deadline = job->times.arrival_ns + timeout;
    return deadline;
}

static void expire(struct engine *engine, struct job *job)
{
    serverd_error err;
    double waited = (double)(engine->now_ns - job->times.arrival_ns) * 1e-9;
    if (job->request->deadline_ns && job->request->deadline_ns <= engine->now_ns)
        (void)fail(&err, SERVERD_TIMEOUT, "the request's deadline is over after %.3f s", waited);
    else
        (void)fail(&err, SERVERD_BUSY, "waited %.3f s in the queue, at most %.3f s allowed", waited,
                   (double)engine->options.queue_timeout_ns * 1e-9);
    job_fail(engine, job, &err);
}

void engine_adopt(struct engine *engine, struct job *inbox)
{
    while (inbox) {
        struct job *job = inbox;
        inbox = job->inbox_next;
        live_insert(engine, job);
        waiting_insert(engine, job->sequences);
        uint64_t deadline = job_deadline(engine, job);
        if (deadline < engine->next_deadline_ns)
            engine->next_deadline_ns = deadline;
    }
}

static void drop_queued(struct engine *engine)
{
    serverd_error err;
    (void)fail(&err, SERVERD_BUSY, "the server is shutting down");
    for (struct job *job = engine->live; job; job = job->live_next)
        if (job->is_queued)
            job_fail(engine, job, &err);
}

static void check_cancels_and_deadlines(struct engine *engine)
{
    bool has_cancels = atomic_exchange(&engine->has_cancels, false);
    if (!has_cancels && engine->now_ns < engine->next_deadline_ns)
        return;
    engine->next_deadline_ns = UINT64_MAX;
    for (struct job *job = engine->live; job; job = job->live_next) {
        uint64_t deadline = job_deadline(engine, job);
        if (atomic_load(&job->is_cancelled))
            job_finish(engine, job);
        else if (deadline <= engine->now_ns)
            expire(engine, job);
        else if (deadline < engine->next_deadline_ns)
            engine->next_deadline_ns = deadline;
    }
}

/* ---- pages ------------------------------------------------------------------------------- */

bool engine_take_pages(struct engine *engine, struct sequence *s, uint32_t n_pages,
                       serverd_error *err)
{
    if (n_pages <= s->n_pages)
        return true;
    uint32_t n = n_pages - s->n_pages;
    struct page_id *added = s->page + s->n_pages;
    if (page_pool_take(engine->pool, n, added, err))
        return false;
    s->n_pages = n_pages;
    for (uint32_t i = 0; i < n; i++)
        engine->page_index[i] = added[i].index;
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

static void lower_reserve(struct engine *engine)
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

static struct sequence *choose_victim(const struct engine *engine, uint32_t *n_active)
{
    struct sequence *victim = NULL;
    *n_active = 0;
    for (uint32_t i = 0; i < engine->n_running; i++) {
        struct sequence *s = engine->running[i];
        if (s->state != SEQUENCE_RUNNING || s->job->is_ending)
            continue;
        ++*n_active;
        if (!victim || sequence_comes_before(victim, s))
            victim = s;
    }
    return victim;
}

static void preempt(struct engine *engine, struct sequence *s)
{
    raise_reserve(engine);
    engine_wait(engine, s);
    metrics_add(engine->options.metrics, METRIC_PREEMPTIONS, 1);
}

/* Pages for all tokens of the sequence; younger ones give theirs up for it, or it gives up. */
static void secure_sequence(struct engine *engine, struct sequence *s)
{
    uint32_t n_pages = pages_for(sequence_n_tokens(s));
    while (s->state == SEQUENCE_RUNNING && !s->job->is_ending) {
        serverd_error err;
        if (engine_take_pages(engine, s, n_pages, &err))
            return;
        uint32_t n_active;
        struct sequence *victim = choose_victim(engine, &n_active);
        if (!victim || s->job->is_ending)
            return;
        if (n_active == 1 && s->n_pages == page_pool_n_pages(engine->pool)) {
            engine_finish_choice(engine, s, FINISH_LENGTH,
                                 &(struct text_step){.stop_index = -1, .release = s->n_bytes}, -1);
            return;
        }
        preempt(engine, victim);
    }
}

static void secure_pages(struct engine *engine)
{
    if (engine->is_encoder)
        return;
    for (uint32_t i = 0; i < engine->n_running; i++)
        secure_sequence(engine, engine->running[i]);
    compact_running(engine);
}

/* ---- admission --------------------------------------------------------------------------- */

static bool fits(const struct engine *engine, const struct sequence *s)
{
    if (engine->is_encoder || engine->n_running == 0)
        return true;
    uint64_t n_pages = pages_for(sequence_n_tokens(s) + reserve_tokens(engine, s));
    for (uint32_t i = 0; i < engine->n_running; i++)
        n_pages += pages_for(reserve_tokens(engine, engine->running[i]));
    return n_pages <= page_pool_n_free(engine->pool);
}

static void start(struct engine *engine, struct sequence *s)
{
    struct job *job = s->job;
    serverd_error err;
    waiting_remove(engine, s);
    s->state = SEQUENCE_RUNNING;
    engine->running[engine->n_running++] = s;
    if (job->is_queued) {
        engine_unqueue(engine, job);
        job->times.admitted_ns = engine->now_ns;
        metrics_observe(engine->options.metrics, METRIC_QUEUE_TIME,
                        (double)(engine->now_ns - job->times.arrival_ns) * 1e-9);
        if (sequence_prepare(s, &engine->limits, &err)) {
            job_fail(engine, job, &err);
            return;
        }
    }
    if (!engine->is_encoder && !engine_take_pages(engine, s, pages_for(sequence_n_tokens(s)), &err))
        job_fail(engine, job, &err); /* nothing else runs: more than the whole pool */
}

static void admit(struct engine *engine)
{
    while (engine->waiting && engine->n_running < engine->max_running &&
           fits(engine, engine->waiting))
        start(engine, engine->waiting);
    engine_sweep(engine);
}

/* ---- the batch --------------------------------------------------------------------------- */

static void add_slice(struct engine *engine, struct sequence *s, uint32_t n_rows)
{
    engine->slice[engine->n_slices++] = (struct slice){s, n_rows};
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Rows of one sequence, at most `budget`; scored rows take logit rows from *n_spare. */
static uint32_t take_rows(const struct sequence *s, uint32_t budget, uint32_t *n_spare)
{
    uint32_t n = min_u32(sequence_n_left(s), budget);
    if (n > 0 && s->job->request->wants_prompt_logprobs) {
        n = min_u32(n, *n_spare + 1); /* every running sequence has one logit row for itself */
        *n_spare -= n - 1;
    }
    return n;
}

/* An encoder's rows see each other, so a sequence runs whole. */
static void plan_encoder(struct engine *engine)
{
    uint32_t n_rows = 0;
    for (uint32_t i = 0; i < engine->n_running; i++) {
        uint32_t n = sequence_n_left(engine->running[i]);
        if (n_rows + n > engine->max_rows)
            break;
        add_slice(engine, engine->running[i], n);
        n_rows += n;
    }
}

/* Decode rows first. Then prefill in the order of admission; the first keeps at least half of
 * the chunk, so that short prompts behind a long one get on too. */
static void plan_decoder(struct engine *engine)
{
    uint32_t n_prefilling = 0, n_left_others = 0;
    struct sequence *first = NULL;
    for (uint32_t i = 0; i < engine->n_running; i++) {
        struct sequence *s = engine->running[i];
        uint32_t n_left = sequence_n_left(s);
        if (n_left == 1) {
            add_slice(engine, s, 1);
            continue;
        }
        n_prefilling++;
        if (!first)
            first = s;
        else
            n_left_others =
                min_u32(n_left_others + min_u32(n_left, engine->max_rows), engine->max_rows);
    }
    if (n_prefilling == 0)
        return;
    uint32_t budget = min_u32(engine->options.prefill_chunk, engine->max_rows - engine->n_slices);
    uint32_t n_spare = engine->max_logit_rows - engine->n_running;
    uint32_t for_others = min_u32(n_left_others, budget / 2);
    uint32_t n = take_rows(first, budget - for_others, &n_spare);
    add_slice(engine, first, n);
    budget -= n;
    for (uint32_t i = 0; i < engine->n_running && budget > 0; i++) {
        struct sequence *s = engine->running[i];
        if (s == first || sequence_n_left(s) == 1)
            continue;
        n = take_rows(s, budget, &n_spare);
        add_slice(engine, s, n);
        budget -= n;
    }
}

static struct sequence *find_suspect(const struct engine *engine)
{
    for (uint32_t i = 0; i < engine->n_running; i++)
        if (engine->running[i]->n_failures > 0)
            return engine->running[i];
    return NULL;
}

static void plan(struct engine *engine)
{
    engine->n_slices = 0;
    struct sequence *suspect = find_suspect(engine);
    if (suspect) {
        uint32_t n_spare = engine->max_logit_rows - engine->n_running;
        uint32_t budget = engine->is_encoder
                              ? engine->max_rows
                              : min_u32(engine->options.prefill_chunk, engine->max_rows);
        add_slice(engine, suspect, take_rows(suspect, budget, &n_spare));
    } else if (engine->is_encoder) {
        plan_encoder(engine);
    } else {
        plan_decoder(engine);
    }
}

bool slice_wants_logits(const struct slice *slice, uint32_t position)
{
    const struct sequence *s = slice->sequence;
    const struct request *r = s->job->request;
    if (r->wants_prompt_logprobs && position + 1 < r->n_prompt && position >= s->n_scored)
        return true;
    return r->max_new_tokens > 0 && position + 1 == sequence_n_tokens(s);
}

static void fill_rows(struct engine *engine, uint32_t index, serverd_batch *batch)
{
    const struct slice *slice = &engine->slice[index];
    const struct sequence *s = slice->sequence;
    for (uint32_t i = 0; i < slice->n_rows; i++) {
        uint32_t row = batch->n_rows++, position = s->n_computed + i;
        engine->token[row] = sequence_token(s, position);
        engine->position[row] = (int32_t)position;
        engine->row_seq[row] = index;
        if (!engine->is_encoder && slice_wants_logits(slice, position))
            engine->logit_row[batch->n_logit_rows++] = row;
    }
    uint32_t *table = engine->page_table + (size_t)index * engine->max_pages;
    uint32_t n_used = engine->is_encoder ? 0 : pages_for(s->n_computed + slice->n_rows);
    assert(n_used <= s->n_pages);
    for (uint32_t i = 0; i < n_used; i++) {
        assert(page_pool_is_live(engine->pool, s->page[i]));
        table[i] = s->page[i].index;
    }
}

static serverd_batch build(struct engine *engine)
{
    serverd_batch batch = {
        .struct_bytes = sizeof batch,
        .n_seqs = engine->n_slices,
        .token = engine->token,
        .position = engine->position,
        .row_seq = engine->row_seq,
        .page_table = engine->is_encoder ? NULL : engine->page_table,
        .max_pages = engine->is_encoder ? 0 : engine->max_pages,
        .logit_row = engine->logit_row,
        .step = atomic_load_explicit(&engine->shared.n_steps, memory_order_relaxed),
    };
    for (uint32_t i = 0; i < engine->n_slices; i++)
        fill_rows(engine, i, &batch);
    return batch;
}

/* ---- execution --------------------------------------------------------------------------- */

/* The keys and values of the batch's sequences are undefined: compute them again from their
 * tokens, one sequence at a time, which also shows whose fault it was. */
static void step_failed(struct engine *engine, const serverd_error *err)
{
    log_warn(engine->options.log, "engine", "step failed (%s): %s", status_name(err->code),
             err->text);
    if (err->code == SERVERD_DEVICE_LOST) {
        atomic_store(&engine->shared.is_lost, true);
        engine_end_all(engine, err->code, err->text);
        return;
    }
    bool is_alone = engine->n_slices == 1;
    for (uint32_t i = 0; i < engine->n_slices; i++) {
        struct sequence *s = engine->slice[i].sequence;
        s->n_computed = 0;
        s->n_failures++;
        if (is_alone && s->n_failures >= MAX_FAILURES)
            job_fail(engine, s->job, err);
    }
}

static void measure(struct engine *engine, uint64_t begin_ns, const serverd_batch *batch)
{
    struct metrics *metrics = engine->options.metrics;
    double seconds = (double)(engine->now_ns - begin_ns) * 1e-9;
    metrics_add(metrics, METRIC_STEPS, 1);
    metrics_set(metrics, METRIC_BATCH_ROWS, batch->n_rows);
    metrics_observe(metrics, METRIC_STEP_TIME, seconds);
    if (seconds <= 0)
        return;
    /* Mean over the last RATE_SECONDS of steps. */
    const double RATE_SECONDS = 5;
    double rate = atomic_load_explicit(&engine->shared.tokens_per_second, memory_order_relaxed);
    double now = batch->n_rows / seconds;
    rate = rate > 0 ? rate + (now - rate) * seconds / (seconds + RATE_SECONDS) : now;
    atomic_store_explicit(&engine->shared.tokens_per_second, rate, memory_order_relaxed);
}

/* False if there was nothing to run. */
static bool run(struct engine *engine)
{
    plan(engine);
    if (engine->n_slices == 0)
        return false;
    serverd_batch batch = build(engine);
    serverd_error err;
    uint64_t begin_ns = engine->now_ns;
    serverd_status status = runtime_execute(engine->options.runtime, &batch, engine->out, &err);
    atomic_fetch_add_explicit(&engine->shared.n_steps, 1, memory_order_relaxed);
    engine->now_ns = clock_now_ns(engine->options.clock);
    if (status)
        step_failed(engine, &err);
    else
        engine_commit(engine);
    measure(engine, begin_ns, &batch);
    lower_reserve(engine);
    engine_sweep(engine);
    compact_running(engine);
    return true;
}

static void publish(struct engine *engine)
{
    struct shared_status *s = &engine->shared;
    uint32_t n_pages = page_pool_n_pages(engine->pool), n_free = page_pool_n_free(engine->pool);
    atomic_store_explicit(&s->n_running, engine->n_running, memory_order_relaxed);
    atomic_store_explicit(&s->n_free_pages, n_free, memory_order_relaxed);
    struct metrics *metrics = engine->options.metrics;
    if (!metrics)
        return;
    metrics_set(metrics, METRIC_REQUESTS_RUNNING, engine->n_running);
    metrics_set(metrics, METRIC_REQUESTS_WAITING, atomic_load(&s->n_queued));
    metrics_set(metrics, METRIC_REQUESTS_WAITING_TOKENS, (double)atomic_load(&s->n_queued_tokens));
    metrics_set(metrics, METRIC_KV_PAGES_TOTAL, n_pages);
    metrics_set(metrics, METRIC_KV_PAGES_FREE, n_free);
    metrics_set(metrics, METRIC_KV_USAGE, n_pages ? 1.0 - (double)n_free / n_pages : 0.0);
}

bool engine_step(struct engine *engine)
{
    engine->now_ns = clock_now_ns(engine->options.clock);
    atomic_store_explicit(&engine->shared.heartbeat_ns, engine->now_ns, memory_order_relaxed);
    struct job *inbox;
    engine_take_inbox(engine, &inbox);
    engine_adopt(engine, inbox);
    if (atomic_load(&engine->asks_drain))
        drop_queued(engine);
    check_cancels_and_deadlines(engine);
    bool has_ended = engine->ending != NULL;
    engine_sweep(engine);
    if (atomic_load(&engine->shared.is_lost) && engine->live) {
        engine_end_all(engine, SERVERD_DEVICE_LOST, "the device is lost");
        has_ended = true;
    }
    secure_pages(engine);
    engine_sweep(engine); /* what had all pages, or could not get its page zeroed */
    admit(engine);
    bool has_run = run(engine);
    has_ended |= engine->n_events > 0;
    engine_flush(engine);
    publish(engine);
    return has_run || has_ended;
}

/* ---- checks ------------------------------------------------------------------------------ */

serverd_status engine_check(const struct engine *engine, serverd_error *err)
{
    if (page_pool_check(engine->pool, err))
        return err->code;
    uint32_t n_pages = 0, n_running = 0, n_waiting = 0, n_queued = 0;
    for (const struct job *job = engine->live; job; job = job->live_next) {
        n_queued += job->is_queued;
        for (const struct sequence *s = job->sequences; s; s = s->sibling) {
            n_pages += s->n_pages;
            n_running += s->state == SEQUENCE_RUNNING;
            n_waiting += s->state == SEQUENCE_WAITING;
            for (uint32_t i = 0; i < s->n_pages; i++)
                if (!page_pool_is_live(engine->pool, s->page[i]))
                    return fail(err, SERVERD_INTERNAL, "request %" PRIu64 ": stale page %u",
                                job->request->id, s->page[i].index);
        }
    }
    uint32_t n_listed = 0;
    for (const struct sequence *s = engine->waiting; s; s = s->next)
        n_listed++;
    if (n_pages != page_pool_n_private(engine->pool) || n_running != engine->n_running ||
        n_waiting != n_listed)
        return fail(err, SERVERD_INTERNAL,
                    "%u pages held, %u private; %u sequences run, %u listed; %u wait, %u listed",
                    n_pages, page_pool_n_private(engine->pool), n_running, engine->n_running,
                    n_waiting, n_listed);
    if (n_queued > atomic_load(&engine->shared.n_queued))
        return fail(err, SERVERD_INTERNAL, "%u requests queued, %u counted", n_queued,
                    atomic_load(&engine->shared.n_queued));
    return SERVERD_OK;
}
