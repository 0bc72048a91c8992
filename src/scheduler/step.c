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
        if (!tenant_join(engine, job)) {
            serverd_error err;
            (void)fail(&err, SERVERD_NOMEM, "no memory for a request's tenant");
            job->sequences->state = SEQUENCE_DONE; /* it is in no list */
            job_fail(engine, job, &err);
            continue;
        }
        queue_arrive(engine, job->sequences);
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
        if (job->is_queued && job->request->owner != OWNER_PROGRAM)
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
        else if (!windows_go_back(engine, s))
            engine_wait(engine, s);
    }
}

static void measure(struct engine *engine, uint64_t begin_ns, const serverd_batch *batch)
{
    struct metrics *metrics = engine->options.metrics;
    double seconds = seconds_between(begin_ns, engine->now_ns);
    metrics_add(metrics, METRIC_STEPS, 1);
    double own = seconds - engine->draft_seconds; /* without the draft model */
    if (own <= 0)
        return;
    if (engine->work.n_prefill > 0 || batch->n_rows == engine->work.n_decode)
        cost_learn(&engine->cost, &engine->work, own);
    if (engine->work.n_prefill == 0)
        engine_learn_row_cost(engine, batch->n_rows, own);
    /* Mean over the last RATE_SECONDS of steps. */
    const double RATE_SECONDS = 5;
    double rate = atomic_load_explicit(&engine->shared.tokens_per_second, memory_order_relaxed);
    double now = (batch->n_rows - engine->n_rejected_rows) / seconds;
    rate = rate > 0 ? rate + (now - rate) * seconds / (seconds + RATE_SECONDS) : now;
    atomic_store_explicit(&engine->shared.tokens_per_second, rate, memory_order_relaxed);
}

/* The device computes, and this thread would wait: what the step before has come to is delivered.
 */
static void deliver_meanwhile(void *context)
{
    struct engine *engine = context;
    engine->delivers_meanwhile = true;
    engine_flush(engine);
    tier_settle(engine);
}

void engine_use_waits(struct engine *engine)
{
    runtime_set_meanwhile(engine->options.runtime, deliver_meanwhile, engine);
}

/* False if there was nothing to run. */
static bool run(struct engine *engine)
{
    engine->delivers_meanwhile = false;
    engine_plan(engine);
    if (engine->n_slices == 0)
        return false;
    serverd_batch batch = engine_build(engine);
    serverd_error err;
    uint64_t begin_ns = engine->now_ns;
    engine->step.n_rows = batch.n_rows;
    engine->step.scheduled_ns = clock_now_ns(engine->options.clock);
    serverd_status status = runtime_execute(engine->options.runtime, &batch, engine->out, &err);
    atomic_fetch_add_explicit(&engine->shared.n_steps, 1, memory_order_relaxed);
    engine->step.computed_ns = engine->now_ns = clock_now_ns(engine->options.clock);
    if (status) {
        step_failed(engine, &err);
    } else {
        if (engine->options.sink.expect)
            engine->options.sink.expect(engine->options.sink.context);
        engine_commit(engine);
    }
    measure(engine, begin_ns, &batch);
    engine_lower_reserve(engine);
    engine_sweep(engine);
    engine_compact(engine);
    engine->step.sampled_ns = clock_now_ns(engine->options.clock);
    return true;
}

/* The events of the step have been handed over. */
static void measure_phases(struct engine *engine)
{
    struct metrics *metrics = engine->options.metrics;
    struct step_record *step = &engine->step;
    step->emitted_ns = clock_now_ns(engine->options.clock);
    metrics_observe(metrics, METRIC_STEP_SCHEDULE,
                    seconds_between(step->begin_ns, step->scheduled_ns) - engine->draft_seconds);
    if (engine->draft_seconds > 0)
        metrics_observe(metrics, METRIC_STEP_DRAFT, engine->draft_seconds);
    metrics_observe(metrics, METRIC_STEP_COMPUTE,
                    seconds_between(step->scheduled_ns, step->computed_ns));
    metrics_observe(metrics, METRIC_STEP_SAMPLE,
                    seconds_between(step->computed_ns, step->sampled_ns));
    metrics_observe(metrics, METRIC_STEP_EMIT, seconds_between(step->sampled_ns, step->emitted_ns));
    if (engine->trace)
        engine_trace_step(engine);
}

/* What the tree did since the last time. */
static void publish_tree(struct engine *engine, const struct radix_stats *now)
{
    static const char *const kinds[] = {[RADIX_PROMPT] = "prompt", [RADIX_OUTPUT] = "output"};
    struct metrics *metrics = engine->options.metrics;
    struct radix_stats *seen = &engine->seen_stats;
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        uint64_t n_pages = now->n_evicted[kind] - seen->n_evicted[kind];
        if (n_pages > 0)
            metrics_add_labelled(metrics, METRIC_EVICTED_TOKENS, &kinds[kind],
                                 (double)(n_pages * SERVERD_PAGE_TOKENS));
    }
    if (now->n_duplicates > seen->n_duplicates)
        metrics_add(metrics, METRIC_DUPLICATE_PAGES,
                    (double)(now->n_duplicates - seen->n_duplicates));
    *seen = *now;
}

static void publish_windows(struct engine *engine, const struct window_counts *now)
{
    static const char *const kinds[] = {"middle", "kept"};
    struct metrics *metrics = engine->options.metrics;
    struct window_counts *seen = &engine->seen_windows;
    const uint64_t n_dropped[] = {now->n_middle_dropped - seen->n_middle_dropped,
                                  now->n_kept_dropped - seen->n_kept_dropped};
    metrics_set(metrics, METRIC_KV_WINDOW_PAGES_TOTAL, now->n_pages);
    metrics_set(metrics, METRIC_KV_WINDOW_PAGES_FREE, now->n_free);
    metrics_set(metrics, METRIC_KV_WINDOW_PAGES_PINNED, now->n_pinned);
    metrics_set(metrics, METRIC_KV_WINDOW_PAGES_MIDDLE, now->n_middle);
    metrics_set(metrics, METRIC_KV_WINDOW_PAGES_KEPT, now->n_kept);
    for (size_t kind = 0; kind < 2; kind++)
        if (n_dropped[kind] > 0)
            metrics_add_labelled(metrics, METRIC_DROPPED_WINDOW_PAGES, &kinds[kind],
                                 (double)n_dropped[kind]);
    *seen = *now;
}

static void publish(struct engine *engine)
{
    struct shared_status *s = &engine->shared;
    const struct cache_totals cache = engine_cache_totals(engine);
    uint32_t n_used = cache.n_private + cache.n_locked;
    atomic_store_explicit(&s->n_running, engine->n_running, memory_order_relaxed);
    atomic_store_explicit(&s->n_free_pages, engine_n_available(engine), memory_order_relaxed);
    const struct handle_totals held = handles_totals(engine);
    atomic_store_explicit(&s->n_handles, held.n, memory_order_relaxed);
    atomic_store_explicit(&s->n_held_pages, held.n_pages, memory_order_relaxed);
    struct metrics *metrics = engine->options.metrics;
    if (!metrics)
        return;
    metrics_set(metrics, METRIC_REQUESTS_RUNNING, engine->n_running);
    metrics_set(metrics, METRIC_REQUESTS_WAITING, atomic_load(&s->n_queued));
    metrics_set(metrics, METRIC_REQUESTS_WAITING_TOKENS, (double)atomic_load(&s->n_queued_tokens));
    const double rate = atomic_load_explicit(&s->tokens_per_second, memory_order_relaxed);
    metrics_set(metrics, METRIC_TOKEN_RATE, engine->n_running > 0 ? rate : 0.0);
    metrics_set(metrics, METRIC_BATCH_ROWS, engine->step.n_rows);
    metrics_set(metrics, METRIC_RESERVE_RATIO, engine->reserve_ratio);
    metrics_set(metrics, METRIC_KV_PAGES_TOTAL, cache.n_pages);
    metrics_set(metrics, METRIC_KV_PAGES_FREE, cache.n_free);
    metrics_set(metrics, METRIC_KV_PAGES_PRIVATE, cache.n_private);
    metrics_set(metrics, METRIC_KV_PAGES_LOCKED, cache.n_locked);
    metrics_set(metrics, METRIC_KV_PAGES_EVICTABLE, cache.n_evictable);
    metrics_set(metrics, METRIC_PROGRAM_PINNED_PAGES, held.n_pages);
    metrics_set(metrics, METRIC_KV_USAGE, cache.n_pages ? (double)n_used / cache.n_pages : 0.0);
    metrics_set(metrics, METRIC_TREE_NODES, cache.n_nodes);
    publish_windows(engine, &cache.windows);
    publish_tree(engine, &cache.tree);
}

bool engine_step(struct engine *engine)
{
    struct job *inbox;
    engine_take_inbox(engine, &inbox);
    engine->now_ns = clock_now_ns(engine->options.clock); /* after all arrivals */
    engine->step = (struct step_record){.begin_ns = engine->now_ns};
    atomic_store_explicit(&engine->shared.heartbeat_ns, engine->now_ns, memory_order_relaxed);
    adapters_apply(engine);
    engine_adopt(engine, inbox);
    if (atomic_load(&engine->asks_drain))
        drop_queued(engine);
    check_cancels_and_deadlines(engine);
    handles_expire(engine);
    bool has_ended = engine->ending != NULL || engine->n_events > 0;
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
    if (!engine->delivers_meanwhile) {
        engine_flush(engine);
        tier_settle(engine);
    }
    if (has_run)
        measure_phases(engine);
    publish(engine);
    if (atomic_load_explicit(&engine->has_inspections, memory_order_relaxed)) {
        engine_answer_inspections(engine);
        has_ended |= engine->n_events > 0;
        engine_flush(engine);
    }
    return has_run || has_ended;
}

/* ---- checks ------------------------------------------------------------------------------ */

serverd_status engine_check(const struct engine *engine, serverd_error *err)
{
    if (page_pool_check(engine->pool, err))
        return err->code;
    if (engine->tree && radix_tree_check(engine->tree, err))
        return err->code;
    if (handles_check(engine, err) || windows_check(engine, err))
        return err->code;
    if (engine->draft_model && draft_model_audit(engine->draft_model, err))
        return err->code;
    uint32_t n_pages = handles_totals(engine).n_tails, n_running = 0, n_waiting = 0, n_queued = 0;
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
    uint32_t n_listed = queue_n_listed(engine);
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
