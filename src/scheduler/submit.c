/* What other threads hand in: requests, checked before anything is owned, and cancels; and how the
 * engine thread takes them in and forgets them. */
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "scheduler/engine_internal.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- what may come in ------------------------------------------------------------------------ */

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
    /* what a run of a program asks for belongs to what runs already */
    if (atomic_load(&s->is_draining) && (r->owner != OWNER_PROGRAM || engine->is_stopping))
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

/* ---- submitting ------------------------------------------------------------------------------ */

static struct job **bucket_of(struct engine *engine, uint64_t id)
{
    return &engine->bucket[id & (engine->n_buckets - 1)];
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

/* ---- afterwards ------------------------------------------------------------------------------ */

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
