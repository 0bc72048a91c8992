#include "scheduler/engine.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "scheduler/engine_internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIN_RETRY_MS     50.0
#define MAX_RETRY_MS     60000.0
#define UNKNOWN_RETRY_MS 1000u /* before anything was measured */

/* An idle thread shows life this often; one that has work it cannot start yet looks sooner. */
#define IDLE_WAIT_NS    1000000000u
#define BLOCKED_WAIT_NS 10000000u
#define SAVE_WAIT_NS    5000000u /* between pages that go to the disk */

/* ---- life -------------------------------------------------------------------------------- */

static bool take_array(void *out, size_t n, size_t size)
{
    void *memory = calloc(max_size(n, 1), size); /* checks the product */
    memcpy(out, &memory, sizeof memory);
    return memory != NULL;
}

/* All memory of a step. */
static bool take_memory(struct engine *e)
{
    size_t n_out = e->is_encoder ? e->max_running : e->max_logit_rows;
    /* Every choice's token, finish and end, a chunk of scored prompt; more is delivered twice. */
    e->n_adapters = runtime_limits(e->options.runtime)->max_adapters;
    e->events_cap = 3 * e->max_running + e->max_logit_rows + LIMIT_CHOICES;
    e->n_buckets = 1;
    while (e->n_buckets < e->options.max_queue + e->max_running && e->n_buckets < 1u << 16)
        e->n_buckets *= 2;
    const uint32_t n_windows = runtime_n_window_pages(e->options.runtime);
    e->has_windows = n_windows > 0;
    e->window_span = runtime_window_span(e->options.runtime);
    e->pool = page_pool_create(runtime_n_pages(e->options.runtime), n_windows);
    bool has_tree = e->options.has_prefix_cache && !e->is_encoder;
    e->tree = has_tree && e->pool ? radix_tree_create(e->pool, e->window_span) : NULL;
    e->scratch = e->is_encoder ? NULL : sampling_scratch_create(e->width);
    struct runtime *draft = e->is_encoder ? NULL : e->options.draft_runtime;
    e->draft_model = draft ? draft_model_create(draft, e->options.clock, e->width) : NULL;
    return e->pool && (!has_tree || (e->tree && handles_create(e))) &&
           (e->scratch || e->is_encoder) && (e->draft_model || !draft) &&
           take_array(&e->running, e->max_running, sizeof *e->running) &&
           take_array(&e->slice, e->max_running, sizeof *e->slice) &&
           take_array(&e->leaders, e->max_running, sizeof *e->leaders) &&
           take_array(&e->events, e->events_cap, sizeof *e->events) &&
           take_array(&e->token, e->max_rows, sizeof *e->token) &&
           take_array(&e->position, e->max_rows, sizeof *e->position) &&
           take_array(&e->row_seq, e->max_rows, sizeof *e->row_seq) &&
           take_array(&e->segment, e->max_rows, sizeof *e->segment) &&
           take_array(&e->logit_row, e->max_logit_rows, sizeof *e->logit_row) &&
           (e->is_encoder || draws_init(e)) &&
           take_array(&e->adapter_slot, e->max_running, sizeof *e->adapter_slot) &&
           take_array(&e->adapter_scale, e->max_running, sizeof *e->adapter_scale) &&
           take_array(&e->adapters, e->n_adapters, sizeof *e->adapters) &&
           take_array(&e->page_index, e->max_pages, sizeof *e->page_index) &&
           take_array(&e->prefix, e->limits.context_size, sizeof *e->prefix) &&
           take_array(&e->page_table, (size_t)e->max_running * e->max_pages,
                      sizeof *e->page_table) &&
           (!e->has_windows || take_array(&e->window_table, (size_t)e->max_running * e->max_pages,
                                          sizeof *e->window_table)) &&
           take_array(&e->out, n_out * e->width, sizeof *e->out) &&
           take_array(&e->bucket, e->n_buckets, sizeof *e->bucket);
}

static void init_sync(struct engine *engine)
{
    /* These fail for want of resources only on systems whose mutexes have any; Linux' do not. */
    pthread_condattr_t attributes;
    (void)pthread_mutex_init(&engine->mutex, NULL);
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&engine->wake, &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

/* What options and the delegate's limits allow together. */
static serverd_status set_bounds(struct engine *engine, serverd_error *err)
{
    const struct engine_options *o = &engine->options;
    const serverd_limits *limits = runtime_limits(o->runtime);
    engine->is_encoder = runtime_n_pages(o->runtime) == 0;
    engine->width = runtime_output_width(o->runtime);
    engine->max_rows = limits->max_rows;
    engine->max_logit_rows = limits->max_logit_rows;
    engine->max_running =
        min_u32(min_u32(o->max_running, limits->max_seqs), min_u32(limits->max_rows, 1u << 16));
    if (!engine->is_encoder)
        engine->max_running = min_u32(engine->max_running, limits->max_logit_rows);
    engine->constraints.n_vocab = engine->width;
    engine->limits = (struct sequence_limits){
        .tokenizer = o->tokenizer,
        .n_vocab = engine->width,
        .context_size = min_u32(o->context_size, limits->max_context),
        .has_pages = !engine->is_encoder,
        .constraints = &engine->constraints,
    };
    if (engine->is_encoder)
        engine->limits.n_vocab = tokenizer_vocabulary(o->tokenizer)->n_tokens;
    engine->max_pages = pages_for(engine->limits.context_size);
    if (engine->max_running == 0 || engine->limits.context_size == 0 || o->prefill_chunk == 0 ||
        engine->width == 0)
        return fail(err, SERVERD_INVALID,
                    "engine: %u sequences, %u rows of prefill, context of %u tokens, output of "
                    "width %u: none may be 0",
                    engine->max_running, o->prefill_chunk, engine->limits.context_size,
                    engine->width);
    return SERVERD_OK;
}

serverd_status engine_create(const struct engine_options *options, struct engine **out,
                             serverd_error *err)
{
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return fail(err, SERVERD_NOMEM, "engine: no memory");
    init_sync(engine);
    engine->options = *options;
    engine->inbox_end = &engine->inbox;
    engine->reserve_ratio = 0.7;
    engine->next_deadline_ns = UINT64_MAX;
    engine->now_ns = clock_now_ns(options->clock);
    serverd_status status = set_bounds(engine, err);
    if (!status && !take_memory(engine))
        status = fail(err, SERVERD_NOMEM, "engine: no memory for %u rows, %u sequences",
                      engine->max_rows, engine->max_running);
    if (status) {
        engine_destroy(engine);
        return status;
    }
    tier_begin(engine);
    engine_use_waits(engine);
    atomic_store(&engine->shared.heartbeat_ns, engine->now_ns);
    atomic_store(&engine->shared.n_pages, page_pool_n_pages(engine->pool));
    atomic_store(&engine->shared.n_free_pages, engine_n_available(engine));
    *out = engine;
    return SERVERD_OK;
}

void engine_destroy(struct engine *engine)
{
    if (!engine)
        return;
    if (engine->events) /* created whole, or nothing can be running */
        engine_stop(engine);
    tier_destroy(engine);
    handles_destroy(engine);
    radix_tree_destroy(engine->tree);
    draft_model_destroy(engine->draft_model);
    page_pool_destroy(engine->pool);
    sampling_scratch_destroy(engine->scratch);
    constraint_memory_deinit(&engine->constraints);
    free(engine->running);
    free(engine->slice);
    free(engine->leaders);
    free(engine->events);
    free(engine->token);
    free(engine->position);
    free(engine->row_seq);
    free(engine->logit_row);
    draws_deinit(engine);
    free(engine->segment);
    free(engine->adapter_slot);
    free(engine->adapter_scale);
    free(engine->adapters);
    free(engine->page_index);
    free(engine->prefix);
    free(engine->page_table);
    free(engine->window_table);
    free(engine->out);
    free(engine->bucket);
    (void)pthread_cond_destroy(&engine->wake);
    (void)pthread_mutex_destroy(&engine->mutex);
    free(engine);
}

/* ---- the thread -------------------------------------------------------------------------- */

void engine_wake(struct engine *engine)
{
    engine->is_woken = true;
    (void)pthread_cond_signal(&engine->wake);
}

/* Until something comes or the time is over; false if the engine is to stop. */
static bool wait_for_work(struct engine *engine, uint64_t wait_ns)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + wait_ns;
    until.tv_sec += (time_t)(ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
    (void)pthread_mutex_lock(&engine->mutex);
    if (wait_ns > 0 && !engine->is_woken && !engine->is_stopping)
        (void)pthread_cond_timedwait(&engine->wake, &engine->mutex,
                                     &until); /* looks again anyway */
    engine->is_woken = false;
    bool goes_on = !engine->is_stopping;
    (void)pthread_mutex_unlock(&engine->mutex);
    return goes_on;
}

/* Ends what is left; the inbox is closed by is_stopping. */
static void end_everything(struct engine *engine)
{
    struct job *job;
    engine_take_inbox(engine, &job);
    engine->now_ns = clock_now_ns(engine->options.clock);
    engine_adopt(engine, job);
    serverd_error err;
    (void)fail(&err, SERVERD_BUSY, "the server is shutting down");
    engine_end_inspections(engine, &err);
    engine_end_all(engine, err.code, err.text);
    adapters_end(engine, &err);
    engine_flush(engine);
    tier_end(engine);
    atomic_store(&engine->shared.n_running, 0);
    atomic_store(&engine->shared.n_free_pages, engine_n_available(engine));
}

static void *engine_main(void *arg)
{
    struct engine *engine = arg;
    uint64_t wait_ns = 0;
    while (wait_for_work(engine, wait_ns)) {
        bool has_done = engine_step(engine);
        bool is_idle = !has_done && !engine->live && !engine_trace_ends(engine);
        if (is_idle && tier_save_some(engine))
            wait_ns = SAVE_WAIT_NS;
        else
            wait_ns = has_done ? 0 : is_idle ? IDLE_WAIT_NS : BLOCKED_WAIT_NS;
    }
    end_everything(engine);
    return NULL;
}

serverd_status engine_start(struct engine *engine, serverd_error *err)
{
    if (pthread_create(&engine->thread, NULL, engine_main, engine))
        return fail(err, SERVERD_NOMEM, "engine: no thread can be started");
    engine->has_thread = true;
    (void)pthread_setname_np(engine->thread, "engine"); /* for people who look at threads */
    return SERVERD_OK;
}

void engine_drain(struct engine *engine)
{
    (void)pthread_mutex_lock(&engine->mutex);
    atomic_store(&engine->shared.is_draining, true);
    atomic_store(&engine->asks_drain, true);
    engine_wake(engine);
    (void)pthread_mutex_unlock(&engine->mutex);
}

void engine_resume(struct engine *engine)
{
    (void)pthread_mutex_lock(&engine->mutex);
    if (!engine->is_stopping) {
        atomic_store(&engine->asks_drain, false);
        atomic_store(&engine->shared.is_draining, false);
    }
    (void)pthread_mutex_unlock(&engine->mutex);
}

void engine_stop(struct engine *engine)
{
    (void)pthread_mutex_lock(&engine->mutex);
    engine->is_stopping = true;
    atomic_store(&engine->shared.is_draining, true);
    engine_wake(engine);
    (void)pthread_mutex_unlock(&engine->mutex);
    if (engine->has_thread) {
        (void)pthread_join(engine->thread, NULL);
        engine->has_thread = false;
    } else {
        end_everything(engine);
    }
}

/* ---- readers ----------------------------------------------------------------------------- */

void engine_status(const struct engine *engine, struct engine_status *out)
{
    const struct shared_status *s = &engine->shared;
    *out = (struct engine_status){
        .n_running = atomic_load_explicit(&s->n_running, memory_order_relaxed),
        .n_waiting = atomic_load_explicit(&s->n_queued, memory_order_relaxed),
        .n_pages = atomic_load_explicit(&s->n_pages, memory_order_relaxed),
        .n_free_pages = atomic_load_explicit(&s->n_free_pages, memory_order_relaxed),
        .n_handles = atomic_load_explicit(&s->n_handles, memory_order_relaxed),
        .n_held_pages = atomic_load_explicit(&s->n_held_pages, memory_order_relaxed),
        .n_waiting_tokens = atomic_load_explicit(&s->n_queued_tokens, memory_order_relaxed),
        .heartbeat_ns = atomic_load_explicit(&s->heartbeat_ns, memory_order_relaxed),
        .n_steps = atomic_load_explicit(&s->n_steps, memory_order_relaxed),
        .is_draining = atomic_load_explicit(&s->is_draining, memory_order_relaxed),
        .is_lost = atomic_load_explicit(&s->is_lost, memory_order_relaxed),
        .tokens_per_second = atomic_load_explicit(&s->tokens_per_second, memory_order_relaxed),
    };
}

static uint32_t bounded_ms(double ms)
{
    return (uint32_t)(ms < MIN_RETRY_MS ? MIN_RETRY_MS : ms > MAX_RETRY_MS ? MAX_RETRY_MS : ms);
}

uint32_t engine_retry_after_ms(const struct engine *engine)
{
    const struct shared_status *s = &engine->shared;
    double interval = atomic_load_explicit(&s->admit_interval, memory_order_relaxed);
    double n_waiting = atomic_load_explicit(&s->n_queued, memory_order_relaxed);
    if (interval > 0)
        return bounded_ms(n_waiting * interval * 1e3);
    double rate = atomic_load_explicit(&s->tokens_per_second, memory_order_relaxed);
    if (rate <= 0)
        return UNKNOWN_RETRY_MS;
    double n_tokens = (double)atomic_load_explicit(&s->n_queued_tokens, memory_order_relaxed) +
                      n_waiting * atomic_load_explicit(&s->mean_output, memory_order_relaxed);
    return bounded_ms(n_tokens / rate * 1e3);
}
