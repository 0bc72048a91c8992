#include "scheduler/engine.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "scheduler/engine_internal.h"

#include <inttypes.h>
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

/* ---- submit and cancel ------------------------------------------------------------------- */

static struct job **bucket_of(struct engine *engine, uint64_t id)
{
    return &engine->bucket[id & (engine->n_buckets - 1)];
}

static serverd_status check_kind(const struct engine *engine, const struct request *r,
                                 serverd_error *err)
{
    if (engine->is_encoder != r->wants_embedding)
        return fail(err, SERVERD_UNSUPPORTED,
                    engine->is_encoder ? "the model makes embeddings and cannot generate text"
                                       : "the model generates text and cannot make embeddings");
    if (r->n_first_segment > 0 && !engine->is_encoder)
        return fail(err, SERVERD_UNSUPPORTED, "the model generates text and takes no pairs");
    if (engine->is_encoder && (r->max_new_tokens > 0 || r->wants_prompt_logprobs))
        return fail(err, SERVERD_UNSUPPORTED, "the model cannot generate or score text");
    return SERVERD_OK;
}

static serverd_status check_prompt(const struct engine *engine, const struct request *r,
                                   serverd_error *err)
{
    uint32_t most = engine->limits.context_size - (r->max_new_tokens > 0);
    if (engine->is_encoder)
        most = min_u32(most, engine->max_rows);
    else
        most =
            (uint32_t)min_size(most, (size_t)page_pool_n_pages(engine->pool) * SERVERD_PAGE_TOKENS);
    if (r->n_prompt == 0 || r->n_prompt > most)
        return fail(err, SERVERD_INVALID, "prompt: %u tokens, allowed 1 to %u", r->n_prompt, most);
    for (uint32_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || (uint32_t)r->prompt[i] >= engine->limits.n_vocab)
            return fail(err, SERVERD_INVALID, "prompt: token %u is %d, allowed 0 to %u", i,
                        r->prompt[i], engine->limits.n_vocab - 1);
    return SERVERD_OK;
}

static serverd_status check_request(const struct engine *engine, const struct request *r,
                                    serverd_error *err)
{
    if (check_kind(engine, r, err) || check_prompt(engine, r, err))
        return err->code;
    if (r->n_choices == 0 || r->n_choices > LIMIT_CHOICES)
        return fail(err, SERVERD_INVALID, "n: %u choices, allowed 1 to %u", r->n_choices,
                    LIMIT_CHOICES);
    if (r->wants_prompt_logprobs && (r->score_from == 0 || r->score_from > r->n_prompt))
        return fail(err, SERVERD_INVALID, "scores from token %u on: allowed 1 to %u", r->score_from,
                    r->n_prompt);
    if (r->n_top_logprobs > LIMIT_TOP_LOGPROBS)
        return fail(err, SERVERD_INVALID, "top_logprobs: %u, at most %u allowed", r->n_top_logprobs,
                    LIMIT_TOP_LOGPROBS);
    if (r->n_stops > LIMIT_STOPS || r->n_stop_tokens > LIMIT_STOP_TOKEN_IDS)
        return fail(err, SERVERD_INVALID,
                    "stop: %u strings and %u token ids, at most %u and %u allowed", r->n_stops,
                    r->n_stop_tokens, LIMIT_STOPS, LIMIT_STOP_TOKEN_IDS);
    if (r->n_stop_patterns > LIMIT_STOP_PATTERNS)
        return fail(err, SERVERD_INVALID, "stop_regex: %u patterns, at most %u allowed",
                    r->n_stop_patterns, LIMIT_STOP_PATTERNS);
    for (uint32_t i = 0; i < r->n_stops; i++)
        if (r->stops[i].len == 0 || r->stops[i].len > LIMIT_STOP_BYTES)
            return fail(err, SERVERD_INVALID, "stop: string %u has %u bytes, allowed 1 to %u", i,
                        r->stops[i].len, LIMIT_STOP_BYTES);
    if (r->n_next_tokens > LIMIT_NEXT_TOKENS || (r->n_next_tokens > 0 && engine->is_encoder))
        return fail(err, SERVERD_INVALID, "log probabilities of %u next tokens, at most %u allowed",
                    r->n_next_tokens, engine->is_encoder ? 0 : LIMIT_NEXT_TOKENS);
    for (uint32_t i = 0; i < r->n_next_tokens; i++)
        if (r->next_tokens[i] < 0 || (uint32_t)r->next_tokens[i] >= engine->limits.n_vocab)
            return fail(err, SERVERD_INVALID, "next token %u is %d, allowed 0 to %u", i,
                        r->next_tokens[i], engine->limits.n_vocab - 1);
    if (engine->is_encoder)
        return SERVERD_OK;
    return sampling_params_check(&r->sampling, engine->limits.n_vocab, err);
}

/* Is there room, and time, for a request behind n_before others that come with it? n_new_tokens: of
 * all these prompts. Needs the mutex. */
static serverd_status check_room(const struct engine *engine, const struct request *r,
                                 uint32_t n_before, uint64_t n_new_tokens, uint64_t now_ns,
                                 serverd_error *err)
{
    const struct shared_status *s = &engine->shared;
    if (atomic_load(&s->is_lost))
        return fail(err, SERVERD_DEVICE_LOST, "the device is lost");
    if (atomic_load(&s->is_draining))
        return fail(err, SERVERD_UNSUPPORTED, "the server is shutting down");
    if (r->deadline_ns && r->deadline_ns <= now_ns)
        return fail(err, SERVERD_TIMEOUT, "the request's deadline is over");
    uint32_t n_queued = atomic_load(&s->n_queued) + n_before;
    if (n_queued == 0)
        return SERVERD_OK; /* the token bound never refuses a prompt that has the queue alone */
    uint64_t n_tokens = atomic_load(&s->n_queued_tokens) + n_new_tokens;
    if (n_queued >= engine->options.max_queue || n_tokens > engine->options.max_queue_tokens)
        return fail(err, SERVERD_BUSY,
                    "the queue is full: %u requests, %" PRIu64
                    " prompt tokens with this one; %u and %" PRIu64 " allowed",
                    n_queued, n_tokens, engine->options.max_queue,
                    engine->options.max_queue_tokens);
    uint64_t forecast_ns = (uint64_t)engine_retry_after_ms(engine) * 1000000u;
    if (r->deadline_ns && atomic_load(&s->tokens_per_second) > 0 &&
        now_ns + forecast_ns > r->deadline_ns)
        return fail(err, SERVERD_BUSY, "the queue is too long to start before the deadline");
    return SERVERD_OK;
}

static struct job *make_job(struct request *request)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    job->request = request;
    job->n_open = request->n_choices;
    job->is_queued = true;
    job->sequences = sequence_create(job, 0);
    if (job->sequences)
        return job;
    free(job);
    return NULL;
}

/* A list by inbox_next. */
static void free_unsubmitted(struct job *jobs)
{
    while (jobs) {
        struct job *job = jobs;
        jobs = job->inbox_next;
        sequence_destroy(job->sequences);
        free(job);
    }
}

/* Needs the mutex. */
static void enqueue(struct engine *engine, struct job *job)
{
    uint64_t id = ++engine->last_id;
    job->request->id = id;
    job->hash_next = *bucket_of(engine, id);
    *bucket_of(engine, id) = job;
    *engine->inbox_end = job;
    engine->inbox_end = &job->inbox_next;
    atomic_fetch_add(&engine->shared.n_queued, 1);
    atomic_fetch_add(&engine->shared.n_queued_tokens, job->request->n_prompt);
    engine_wake(engine);
}

/* NULL: no memory for one of them. */
static struct job *make_jobs(struct request *const *requests, uint32_t n, uint64_t now_ns)
{
    struct job *first = NULL;
    for (uint32_t i = n; i-- > 0;) {
        struct job *job = make_job(requests[i]);
        if (!job) {
            free_unsubmitted(first);
            return NULL;
        }
        job->times.arrival_ns = requests[i]->arrival_ns ? requests[i]->arrival_ns : now_ns;
        job->inbox_next = first;
        first = job;
    }
    return first;
}

/* Needs the mutex. */
static serverd_status enqueue_all(struct engine *engine, struct job *jobs, uint32_t n,
                                  uint64_t now_ns, uint64_t *ids, serverd_error *err)
{
    uint64_t n_tokens = 0;
    uint32_t n_before = 0;
    for (const struct job *job = jobs; job; job = job->inbox_next, n_before++) {
        n_tokens += job->request->n_prompt;
        if (check_room(engine, job->request, n_before, n_tokens, now_ns, err) ||
            adapters_check(engine, job->request, err))
            return err->code;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct job *job = jobs;
        jobs = job->inbox_next;
        job->inbox_next = NULL;
        adapters_claim(engine, job);
        enqueue(engine, job);
        ids[i] = job->request->id; /* after the unlock the request may be gone */
    }
    return SERVERD_OK;
}

serverd_status engine_submit_all(struct engine *engine, struct request *const *requests, uint32_t n,
                                 uint64_t *ids, serverd_error *err)
{
    for (uint32_t i = 0; i < n; i++)
        if (check_request(engine, requests[i], err))
            return err->code;
    uint64_t now_ns = clock_now_ns(engine->options.clock);
    struct job *jobs = make_jobs(requests, n, now_ns);
    if (!jobs && n > 0)
        return fail(err, SERVERD_NOMEM, "no memory for %u requests", n);
    (void)pthread_mutex_lock(&engine->mutex);
    serverd_status status = enqueue_all(engine, jobs, n, now_ns, ids, err);
    (void)pthread_mutex_unlock(&engine->mutex);
    if (status) {
        const char *reason = status_name(status);
        metrics_add_labelled(engine->options.metrics, METRIC_REJECTED, &reason, n);
        free_unsubmitted(jobs);
    }
    return status;
}

serverd_status engine_submit(struct engine *engine, struct request *request, uint64_t *id,
                             serverd_error *err)
{
    return engine_submit_all(engine, &request, 1, id, err);
}

void engine_cancel(struct engine *engine, uint64_t request_id)
{
    (void)pthread_mutex_lock(&engine->mutex);
    struct job *job = *bucket_of(engine, request_id);
    while (job && job->request->id != request_id)
        job = job->hash_next;
    if (job) {
        atomic_store(&job->is_cancelled, true);
        atomic_store(&engine->has_cancels, true);
        engine_wake(engine);
    } else {
        engine_cancel_inspection(engine, request_id);
    }
    (void)pthread_mutex_unlock(&engine->mutex);
}

void engine_take_inbox(struct engine *engine, struct job **out)
{
    (void)pthread_mutex_lock(&engine->mutex);
    *out = engine->inbox;
    engine->inbox = NULL;
    engine->inbox_end = &engine->inbox;
    (void)pthread_mutex_unlock(&engine->mutex);
}

void engine_forget(struct engine *engine, struct job *job)
{
    (void)pthread_mutex_lock(&engine->mutex);
    struct job **link = bucket_of(engine, job->request->id);
    while (*link != job)
        link = &(*link)->hash_next;
    *link = job->hash_next;
    (void)pthread_mutex_unlock(&engine->mutex);
}

void engine_unqueue(struct engine *engine, struct job *job)
{
    if (!job->is_queued)
        return;
    job->is_queued = false;
    (void)pthread_mutex_lock(&engine->mutex);
    atomic_fetch_sub(&engine->shared.n_queued, 1);
    atomic_fetch_sub(&engine->shared.n_queued_tokens, job->request->n_prompt);
    (void)pthread_mutex_unlock(&engine->mutex);
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
