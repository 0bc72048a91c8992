#include "base/error.h"
#include "scheduler/engine_internal.h"

#include <inttypes.h>

/* A sequence is given up when steps that hold it have failed this often in a row; from the first
 * failure on it runs alone, so that it cannot fail others. */
#define MAX_FAILURES 3u

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
    double waited = seconds_between(job->times.arrival_ns, engine->now_ns);
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

/* ---- execution --------------------------------------------------------------------------- */

/* The keys and values of the batch's sequences are undefined: compute them again from their
 * tokens, one sequence at a time, which also shows whose fault it was. */
static void step_failed(struct engine *engine, const serverd_error *err)
{
    log_debug(engine->options.log, "engine", "step failed (%s): %s", status_name(err->code),
              err->text);
    metrics_add(engine->options.metrics, METRIC_STEP_FAILURES, 1);
    if (err->code == SERVERD_DEVICE_LOST) {
        atomic_store(&engine->shared.is_lost, true);
        engine_end_all(engine, err->code, err->text);
        return;
    }
    bool is_alone = engine->n_slices == 1;
    for (uint32_t i = 0; i < engine->n_slices; i++) {
        struct sequence *s = engine->slice[i].sequence;
        /* pages of the tree were not written to */
        s->n_computed = s->n_shared * SERVERD_PAGE_TOKENS;
        s->n_failures++;
        if (is_alone && s->n_failures >= MAX_FAILURES)
            job_fail(engine, s->job, err);
    }
}

static void measure(struct engine *engine, uint64_t begin_ns, const serverd_batch *batch)
{
    struct metrics *metrics = engine->options.metrics;
    double seconds = seconds_between(begin_ns, engine->now_ns);
    metrics_add(metrics, METRIC_STEPS, 1);
    metrics_set(metrics, METRIC_BATCH_ROWS, batch->n_rows);
    metrics_observe(metrics, METRIC_STEP_TIME, seconds);
    if (seconds <= 0)
        return;
    engine_learn_cost(engine, seconds);
    if (engine->n_prefill_rows == 0)
        engine_learn_row_cost(engine, batch->n_rows, seconds);
    /* Mean over the last RATE_SECONDS of steps. */
    const double RATE_SECONDS = 5;
    double rate = atomic_load_explicit(&engine->shared.tokens_per_second, memory_order_relaxed);
    double now = (batch->n_rows - engine->n_rejected_rows) / seconds;
    rate = rate > 0 ? rate + (now - rate) * seconds / (seconds + RATE_SECONDS) : now;
    atomic_store_explicit(&engine->shared.tokens_per_second, rate, memory_order_relaxed);
}

/* False if there was nothing to run. */
static bool run(struct engine *engine)
{
    engine_plan(engine);
    if (engine->n_slices == 0)
        return false;
    serverd_batch batch = engine_build(engine);
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
    engine_lower_reserve(engine);
    engine_sweep(engine);
    engine_compact(engine);
    return true;
}

static void publish(struct engine *engine)
{
    struct shared_status *s = &engine->shared;
    uint32_t n_pages = page_pool_n_pages(engine->pool), n_free = engine_n_available(engine);
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
    struct job *inbox;
    engine_take_inbox(engine, &inbox);
    engine->now_ns = clock_now_ns(engine->options.clock); /* after all arrivals */
    atomic_store_explicit(&engine->shared.heartbeat_ns, engine->now_ns, memory_order_relaxed);
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
    engine_secure_pages(engine);
    engine_sweep(engine); /* what had all pages, or could not get its page zeroed */
    engine_admit(engine);
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
    if (engine->tree && radix_tree_check(engine->tree, err))
        return err->code;
    uint32_t n_pages = 0, n_running = 0, n_waiting = 0, n_queued = 0;
    for (const struct job *job = engine->live; job; job = job->live_next) {
        n_queued += job->is_queued;
        for (const struct sequence *s = job->sequences; s; s = s->sibling) {
            n_pages += s->n_pages - s->n_shared;
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
