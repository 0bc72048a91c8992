#include "server/exchange.h"

#include "base/hash.h"
#include "base/numeric.h"
#include "server/data/data_thread.h"
#include "server/request/json_body.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Events that may wait for a reader. A client that lets more than these pile up reads too
 * slowly, and its requests are cancelled. */
#define MAX_WAITING_EVENTS 65536u

/* No request of an engine has this number: nothing to cancel. */
#define NO_REQUEST 0u

/* A reply that is no stream is made in bites of this many events. */
#define EVENTS_PER_WAKE 64u

/* ---- event queues ------------------------------------------------------------------------------
 */

void event_free(struct event *event)
{
    free(event->logprobs);
    free(event->embedding);
    free(event->message);
    inspection_destroy(event->inspection);
}

bool event_queue_push(struct event_queue *queue, const struct event *event)
{
    if (queue->n == queue->cap && queue->first >= queue->n - queue->first) {
        /* at least half has been taken: moving the rest costs less than it took to get here */
        queue->n -= queue->first;
        if (queue->n > 0)
            memmove(queue->items, queue->items + queue->first, queue->n * sizeof *queue->items);
        queue->first = 0;
    }
    if (queue->n == queue->cap) {
        size_t cap = max_size(16, queue->cap * 2), bytes;
        struct event *bigger =
            size_mul(cap, sizeof *bigger, &bytes) ? realloc(queue->items, bytes) : NULL;
        if (!bigger)
            return false;
        queue->items = bigger;
        queue->cap = cap;
    }
    queue->items[queue->n++] = *event;
    return true;
}

void event_queue_deinit(struct event_queue *queue)
{
    while (queue->first < queue->n)
        event_free(&queue->items[queue->first++]);
    free(queue->items);
    *queue = (struct event_queue){0};
}

/* ---- life --------------------------------------------------------------------------------------
 */

struct exchange *exchange_create(struct server *server)
{
    struct exchange *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->server = server;
    atomic_init(&x->references, 1);
    (void)pthread_mutex_init(&x->lock, NULL);
    buffer_init(&x->body, server->context.options->max_body);
    buffer_init(&x->reply, SIZE_MAX / 2);
    buffer_init(&x->ignored_fields, 1 * KIB);
    buffer_init(&x->own_body, 0);
    x->arrival_ns = clock_now_ns(server->context.clock);
    x->max_priority = INT32_MAX;
    x->reply_file.fd = -1;
    return x;
}

/* All requests are accounted for, or will never be; under x->lock or by the last reference. */
static void settle_tokens(struct exchange *x)
{
    if (x->n_reserved > 0)
        rate_limit_settle(x->limit, RATE_TOKENS, x->n_reserved,
                          x->summary.n_prompt + x->summary.n_output,
                          clock_now_ns(x->server->context.clock));
    x->n_reserved = 0;
}

void exchange_unref(struct exchange *x)
{
    if (atomic_fetch_sub(&x->references, 1) != 1)
        return;
    request_log_write(x);
    settle_tokens(x);
    rate_limit_unref(x->limit);
    if (x->encoder_state)
        x->encoder.destroy(x->encoder_state);
    exchange_leave_model(x);
    event_queue_deinit(&x->queue);
    buffer_deinit(&x->body);
    buffer_deinit(&x->reply);
    file_close(&x->reply_file);
    upload_destroy(x->upload);
    buffer_deinit(&x->ignored_fields);
    buffer_deinit(&x->own_body);
    (void)pthread_mutex_destroy(&x->lock);
    json_decref(x->json);
    free(x->request_ids);
    free(x->path_rest);
    free(x->target);
    free(x);
}

void exchange_make_request_id(struct exchange *x)
{
    uint8_t random[16] = {0};
    serverd_error ignored; /* an id without randomness is still an id */
    (void)random_bytes(random, sizeof random, &ignored);
    memcpy(x->request_id, "req_", 4);
    for (size_t i = 0; i < sizeof random; i++)
        (void)snprintf(x->request_id + 4 + 2 * i, 3, "%02x", random[i]);
}

/* ---- the request -------------------------------------------------------------------------------
 */

const struct server_context *exchange_context(const struct exchange *x)
{
    return &x->server->context;
}

const struct served_model *exchange_model(const struct exchange *x)
{
    return x->model;
}

const char *exchange_body(const struct exchange *x, size_t *n)
{
    *n = x->body.len;
    return buffer_str(&x->body);
}

bool exchange_take_json(struct exchange *x, json_t **out, struct api_error *e)
{
    *out = x->json;
    x->json = NULL;
    return *out || json_body_parse(buffer_str(&x->body), x->body.len, out, e);
}

const char *exchange_path_rest(const struct exchange *x)
{
    return x->path_rest;
}

const char *exchange_header(const struct exchange *x, const char *name)
{
    return x->mhd ? MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, name) : NULL;
}

const char *exchange_request_id(const struct exchange *x)
{
    return x->request_id;
}

const char *exchange_reply_id(const struct exchange *x)
{
    return x->reply_id;
}

uint64_t exchange_arrival_ns(const struct exchange *x)
{
    return x->arrival_ns;
}

/* What stands behind "name=" in the query string, n bytes; NULL: nothing. */
static const char *query_value(const struct exchange *x, const char *name, size_t *n)
{
    const char *at = x->target ? strchr(x->target, '?') : NULL;
    size_t len = strlen(name);
    while (at && *at != '\0' && *at != '#') {
        at++; /* the mark in front */
        *n = strcspn(at, "&#");
        if (*n > len && strncmp(at, name, len) == 0 && at[len] == '=') {
            *n -= len + 1;
            return at + len + 1;
        }
        at += *n;
    }
    return NULL;
}

bool exchange_query_u32(const struct exchange *x, const char *name, uint32_t least, uint32_t most,
                        uint32_t *value, struct api_error *e)
{
    char digits[16];
    size_t n;
    uint64_t number;
    const char *text = query_value(x, name, &n);
    if (!text)
        return true;
    (void)snprintf(digits, sizeof digits, "%.*s", (int)min_size(n, sizeof digits), text);
    if (n >= sizeof digits || !parse_u64(digits, least, most, &number)) {
        api_error_set(e, "invalid_value", name, "%s has to be a number from %u to %u.", name, least,
                      most);
        return false;
    }
    *value = (uint32_t)number;
    return true;
}

bool exchange_query_text(const struct exchange *x, const char *name, char *out, size_t size)
{
    size_t n = 0;
    const char *text = query_value(x, name, &n);
    if (text && n >= size)
        return false;
    out[text ? route_decode(text, n, out) : 0] = '\0';
    return true;
}

/* Names come from requests: only clean ones are repeated. */
void exchange_ignored_field(struct exchange *x, const char *name)
{
    const char *labels[] = {x->route ? x->route->path : ""};
    metrics_add_labelled(x->server->context.metrics, METRIC_UNKNOWN_FIELDS, labels, 1);
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.");
    if (n == 0 || n > 64 || name[n] != '\0' || x->ignored_fields.is_failed)
        return;
    buffer_printf(&x->ignored_fields, "%s%s", x->ignored_fields.len ? ", " : "", name);
}

/* ---- whole replies -----------------------------------------------------------------------------
 */

void exchange_reply(struct exchange *x, int status, const char *content_type, struct buffer *body)
{
    buffer_deinit(&x->reply);
    x->reply = *body;
    buffer_init(body, 0);
    x->status = status;
    (void)snprintf(x->content_type, sizeof x->content_type, "%s", content_type);
    x->phase = PHASE_REPLIED;
    if (x->reply.is_failed) { /* no memory: the status alone has to say it */
        x->status = 500;
        buffer_deinit(&x->reply);
        buffer_init(&x->reply, 0);
    }
}

void exchange_attach_file(struct exchange *x, const char *content_type, struct file *file)
{
    file_close(&x->reply_file);
    x->reply_file = *file;
    file->fd = -1;
    (void)snprintf(x->content_type, sizeof x->content_type, "%s", content_type);
}

/* Also below paths that are none of its endpoints, and for methods that they do not have. */
static bool speaks_anthropic(const struct exchange *x)
{
    const char *path = x->route ? x->route->path : x->target ? x->target : "";
    if (strncmp(path, "/v1/", 4) == 0 || strncmp(path, "/v3/", 4) == 0)
        path += 3;
    return strncmp(path, "/messages", 9) == 0;
}

void exchange_fail(struct exchange *x, const struct api_error *e)
{
    struct buffer body;
    buffer_init(&body, 16 * KIB);
    if (speaks_anthropic(x))
        api_error_write_anthropic(e, x->request_id, &body);
    else
        api_error_write(e, &body);
    x->retry_after_ms = e->retry_after_ms;
    exchange_reply(x, e->http_status, "application/json", &body);
}

/* ---- generated replies --------------------------------------------------------------------------
 */

/* What the engine's refusal of a request means to its client. A drain that was there when it was
 * asked may be over by now. */
static void submit_error(struct exchange *x, const serverd_error *err, bool was_draining,
                         struct api_error *e)
{
    struct engine *engine = exchange_model(x)->engine;
    switch (err->code) {
    case SERVERD_BUSY: {
        uint32_t ms = engine_retry_after_ms(engine);
        api_error_set(e, "rate_limit_exceeded", NULL,
                      "The server is full. Please try again in %.1fs.", ms / 1000.0);
        e->retry_after_ms = ms;
        break;
    }
    case SERVERD_UNSUPPORTED:
        was_draining |= atomic_load(&x->server->is_draining);
        api_error_set(e, was_draining ? "draining" : "unsupported_value", NULL, "%s", err->text);
        break;
    default:
        api_error_from(e, err);
    }
}

/* An EVENT_END that is no success. */
static void end_error(struct exchange *x, const struct event *event, struct api_error *e)
{
    serverd_error err = {.code = event->status};
    (void)snprintf(err.text, sizeof err.text, "%s", event->message ? event->message : "");
    api_error_from(e, &err);
    if (event->status == SERVERD_BUSY) {
        bool is_draining = atomic_load(&x->server->is_draining);
        const char *code = x->busy_code ? x->busy_code : "queue_timeout";
        api_error_set(e, is_draining && !x->busy_code ? "draining" : code, NULL, "%s", err.text);
        if (e->retry_after_ms > 0)
            e->retry_after_ms = engine_retry_after_ms(exchange_model(x)->engine);
    }
}

static void cancel_all(struct exchange *x)
{
    const struct served_model *model = x->model;
    (void)pthread_mutex_lock(&x->lock);
    for (uint32_t i = 0; model && i < x->n_requests; i++)
        engine_cancel(model->engine, x->request_ids[i]);
    (void)pthread_mutex_unlock(&x->lock);
    if (x->leave) /* set before anybody else knew of the exchange */
        x->leave(x->encoder_state);
}

/* The engine has a part in the exchange before it is asked, since its answer may come at once. */
static void begin_share(struct exchange *x)
{
    atomic_fetch_add(&x->references, 1); /* the engine's, until EVENT_END */
    (void)pthread_mutex_lock(&x->lock);
    x->n_open++;
    (void)pthread_mutex_unlock(&x->lock);
}

/* The engine has taken it, or not: then it never had a part. */
static void settle_share(struct exchange *x, serverd_status status, uint64_t id)
{
    (void)pthread_mutex_lock(&x->lock);
    if (status == SERVERD_OK)
        x->request_ids[x->n_requests++] = id;
    else
        x->n_open--;
    (void)pthread_mutex_unlock(&x->lock);
    if (status != SERVERD_OK)
        exchange_unref(x);
}

/* ---- tokens of the key's limit ---- */

/* What the requests can take at most. */
static uint64_t count_tokens(struct request *const *requests, uint32_t n)
{
    uint64_t n_tokens = 0;
    for (uint32_t i = 0; i < n; i++)
        n_tokens +=
            requests[i]->n_prompt + (uint64_t)requests[i]->n_choices * requests[i]->max_new_tokens;
    return n_tokens;
}

static bool reserve_tokens(struct exchange *x, struct request *const *requests, uint32_t n,
                           struct api_error *e)
{
    uint64_t n_taken;
    uint32_t wait_ms;
    if (!rate_limit_take(x->limit, RATE_TOKENS, count_tokens(requests, n),
                         clock_now_ns(x->server->context.clock), &n_taken, &wait_ms)) {
        auth_refuse_rate(x, RATE_TOKENS, wait_ms, e);
        return false;
    }
    (void)pthread_mutex_lock(&x->lock);
    x->n_reserved = n_taken;
    (void)pthread_mutex_unlock(&x->lock);
    return true;
}

/* ---- submitting ---- */

/* Submits requests[0..n-1]; on a refusal the earlier ones are for the caller to cancel. */
static bool submit_all(struct exchange *x, struct request **requests, uint32_t n,
                       struct api_error *e)
{
    serverd_error err;
    if (!reserve_tokens(x, requests, n, e))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        requests[i]->user = x;
        requests[i]->user_index = i;
        requests[i]->arrival_ns = x->arrival_ns;
        if (requests[i]->priority > x->max_priority)
            requests[i]->priority = x->max_priority;
        begin_share(x);
        uint64_t id = 0;
        const bool is_draining = atomic_load(&x->server->is_draining);
        serverd_status status = engine_submit(exchange_model(x)->engine, requests[i], &id, &err);
        settle_share(x, status, id);
        if (status != SERVERD_OK) {
            submit_error(x, &err, is_draining, e);
            return false;
        }
        requests[i] = NULL;
    }
    return true;
}

/* Others may cancel it from now on. */
static void allow_cancel(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->server->lock);
    x->may_be_cancelled = true;
    (void)pthread_mutex_unlock(&x->server->lock);
}

/* False: no memory. */
static bool begin_generating(struct exchange *x, uint32_t n_requests,
                             const struct reply_encoder *encoder, void *state, bool is_stream)
{
    x->encoder = *encoder;
    x->encoder_state = state;
    x->is_stream = is_stream;
    x->phase = PHASE_GENERATING;
    x->request_ids = calloc(max_size(n_requests, 1), sizeof *x->request_ids);
    if (x->request_ids)
        allow_cancel(x);
    return x->request_ids != NULL;
}

static bool is_wanted(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    bool is_wanted = !x->is_gone && !x->is_aborted && !x->is_cancelled;
    (void)pthread_mutex_unlock(&x->lock);
    return is_wanted;
}

/* Who cancelled while requests were being submitted could not know all of them. */
static void cancel_unwanted(struct exchange *x)
{
    if (!is_wanted(x))
        cancel_all(x);
}

static void cancelled_error(struct api_error *e)
{
    api_error_set(e, "bad_request", NULL, "The request was aborted.");
}

static void destroy_requests(struct request **requests, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (requests[i])
            request_destroy(requests[i]);
    free(requests);
}

void exchange_generate(struct exchange *x, struct request **requests, uint32_t n_requests,
                       const struct reply_encoder *encoder, void *state, bool is_stream)
{
    struct api_error e;
    bool is_good = begin_generating(x, n_requests, encoder, state, is_stream);
    if (!is_good)
        (void)api_error_no_memory(&e);
    else
        is_good = submit_all(x, requests, n_requests, &e);
    if (!is_good) {
        (void)pthread_mutex_lock(&x->lock);
        x->is_aborted = true; /* events of those that were submitted are dropped */
        (void)pthread_mutex_unlock(&x->lock);
        cancel_all(x);
        exchange_fail(x, &e);
    } else {
        cancel_unwanted(x);
    }
    destroy_requests(requests, n_requests);
}

/* ---- behind a preparation ---- */

/* The job thread's share ends; the error is the reply, NULL: there is none. */
static void end_preparation(struct exchange *x, const struct api_error *e)
{
    const struct event end = {.kind = EVENT_END,
                              .status = SERVERD_INTERNAL,
                              .user = x,
                              .token = -1,
                              .stop_token = -1,
                              .stop_index = -1};
    if (e)
        x->job_error = *e;
    (void)pthread_mutex_lock(&x->lock);
    x->is_preparing = false;
    if (!e) {
        x->n_open--;
        exchange_wake(x); /* events may wait */
    }
    (void)pthread_mutex_unlock(&x->lock);
    struct http_worker *worker = x->worker; /* the exchange may go with its share */
    if (e)
        exchange_deliver(x, &end);
    else
        exchange_unref(x);
    if (worker)
        worker_ring(worker);
}

static void prepare(struct exchange *x, bool is_stopping)
{
    const struct exchange_preparation *p = &x->preparation;
    struct api_error e;
    bool is_good = !is_stopping && is_wanted(x);
    if (is_stopping)
        api_error_set(&e, "draining", NULL, "The server takes no new requests now.");
    else if (!is_good)
        cancelled_error(&e);
    is_good = is_good && p->prepare(p->context, x, x->prepared, x->n_prepared, &e) &&
              submit_all(x, x->prepared, x->n_prepared, &e);
    if (is_good)
        cancel_unwanted(x);
    destroy_requests(x->prepared, x->n_prepared);
    x->prepared = NULL;
    p->drop(p->context);
    end_preparation(x, is_good ? NULL : &e);
}

void exchange_generate_prepared(struct exchange *x, struct request **requests, uint32_t n_requests,
                                const struct exchange_preparation *preparation,
                                const struct reply_encoder *encoder, void *state, bool is_stream)
{
    struct api_error e;
    bool is_begun = begin_generating(x, n_requests, encoder, state, is_stream);
    if (is_begun) {
        x->preparation = *preparation;
        x->prepared = requests;
        x->n_prepared = n_requests;
        x->is_preparing = true; /* nobody else knows of it yet */
        begin_share(x);
        if (job_thread_put(&x->server->compilers, &(struct server_job){.x = x, .work = prepare}))
            return;
        x->is_preparing = false;
        settle_share(x, SERVERD_BUSY, NO_REQUEST);
    }
    api_error_set(&e, "model_unavailable", NULL,
                  is_begun ? "Too many grammars are being compiled. Please try again."
                           : "The server is out of memory.");
    destroy_requests(requests, n_requests);
    preparation->drop(preparation->context);
    exchange_fail(x, &e);
}

/* A reply that one event of the engine makes. False: no memory, and the reply says so. */
static bool begin_single(struct exchange *x, const struct reply_encoder *encoder, void *state)
{
    x->encoder = *encoder;
    x->encoder_state = state;
    x->phase = PHASE_GENERATING;
    x->request_ids = calloc(1, sizeof *x->request_ids);
    if (x->request_ids)
        return true;
    const serverd_error err = {.code = SERVERD_NOMEM};
    struct api_error e;
    api_error_from(&e, &err);
    exchange_fail(x, &e);
    return false;
}

/* The engine has taken the one thing over, or not. */
static void settle_single(struct exchange *x, serverd_status status, uint64_t id,
                          const serverd_error *err)
{
    struct api_error e;
    settle_share(x, status, id);
    if (status == SERVERD_OK)
        return;
    if (status == SERVERD_BUSY)
        api_error_set(&e, "rate_limit_exceeded", NULL, "%s. Please try again in 1s.", err->text);
    else
        submit_error(x, err, false, &e);
    exchange_fail(x, &e);
}

void exchange_inspect(struct exchange *x, const struct inspection_options *options,
                      const struct reply_encoder *encoder, void *state)
{
    serverd_error err;
    uint64_t id = 0;
    struct inspection_options own = *options;
    own.user = x;
    x->busy_code = options->kind == INSPECT_FLUSH ? "busy" : NULL;
    if (!begin_single(x, encoder, state))
        return;
    begin_share(x);
    serverd_status status = engine_inspect(exchange_model(x)->engine, &own, &id, &err);
    settle_single(x, status, id, &err);
}

void exchange_unload_adapter(struct exchange *x, const char *name,
                             const struct reply_encoder *encoder, void *state)
{
    serverd_error err;
    uint64_t id = 0;
    if (!begin_single(x, encoder, state))
        return;
    begin_share(x);
    serverd_status status = engine_unload_adapter(exchange_model(x)->engine, name, x, &id, &err);
    settle_single(x, status, id, &err);
}

void exchange_follow(struct exchange *x, const struct reply_encoder *encoder, void *state)
{
    exchange_attend(x, encoder, state, NULL, true);
}

void exchange_attend(struct exchange *x, const struct reply_encoder *encoder, void *state,
                     void (*leave)(void *state), bool is_stream)
{
    if (!begin_single(x, encoder, state))
        return;
    x->is_stream = is_stream;
    begin_share(x); /* the source's, until its EVENT_END */
    settle_share(x, SERVERD_OK, NO_REQUEST);
    x->leave = leave;
    if (leave)
        allow_cancel(x);
}

void exchange_set_result(struct exchange *x, int status, uint32_t retry_after_ms,
                         struct buffer *body)
{
    buffer_deinit(&x->own_body);
    x->own_body = *body;
    buffer_init(body, 0);
    x->own_status = status;
    x->retry_after_ms = retry_after_ms;
}

void exchange_run(struct exchange *x,
                  bool (*run)(void *state, const struct served_model *model, struct api_error *e),
                  const struct reply_encoder *encoder, void *state)
{
    if (!begin_single(x, encoder, state))
        return;
    begin_share(x); /* the job thread's, until its EVENT_END */
    if (job_thread_put(&x->server->jobs, &(struct server_job){.x = x, .run = run})) {
        settle_share(x, SERVERD_OK, NO_REQUEST);
        return;
    }
    struct api_error e;
    settle_share(x, SERVERD_BUSY, NO_REQUEST);
    api_error_set(&e, "model_unavailable", NULL,
                  "%u jobs of this kind are being done. Please try again.", LIMIT_SERVER_JOBS);
    exchange_fail(x, &e);
}

void exchange_run_with_data(struct exchange *x,
                            bool (*run)(void *state, struct data_thread *data, struct api_error *e),
                            const struct reply_encoder *encoder, void *state)
{
    struct api_error e;
    struct data_thread *data = x->server->data;
    if (!begin_single(x, encoder, state))
        return;
    if (data) {
        begin_share(x); /* the data thread's, until its EVENT_END */
        if (data_thread_put(data, x, run)) {
            settle_share(x, SERVERD_OK, NO_REQUEST);
            return;
        }
        settle_share(x, SERVERD_BUSY, NO_REQUEST);
    }
    if (data)
        api_error_set(&e, "model_unavailable", NULL, "The server is busy. Please try again.");
    else
        api_error_set(&e, "feature_disabled", NULL,
                      "This server keeps no files: it has no --data-path.");
    exchange_fail(x, &e);
}

/* ---- events: their way in -----------------------------------------------------------------------
 */

void exchange_wake(struct exchange *x)
{
    if (!x->is_suspended)
        return;
    x->is_suspended = false;
    if (x->is_detached)
        worker_put_ready(x->worker, x);
    else
        MHD_resume_connection(x->mhd);
}

bool exchange_may_sleep(const struct exchange *x)
{
    return x->queue.first == x->queue.n && !x->is_aborted && !x->needs_ping;
}

void exchange_abort(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    x->is_aborted = true;
    exchange_wake(x);
    (void)pthread_mutex_unlock(&x->lock);
    if (x->worker)
        worker_ring(x->worker);
}

void exchange_end(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    bool is_running = x->n_open > 0;
    (void)pthread_mutex_unlock(&x->lock);
    if (!is_running)
        return;
    exchange_abort(x);
    cancel_all(x);
}

void exchange_deliver(struct exchange *x, const struct event *event)
{
    struct event own = *event;
    bool is_end = event->kind == EVENT_END, is_too_slow = false;
    (void)pthread_mutex_lock(&x->lock);
    if (is_end)
        x->n_open--;
    request_summary_add(&x->summary, event);
    if (is_end && x->n_open == 0)
        settle_tokens(x);
    size_t n_waiting = x->queue.n - x->queue.first;
    if (atomic_load(&x->has_lost))
        x->is_aborted = true;
    if (x->is_gone || x->is_aborted) {
        event_free(&own);
    } else if ((!is_end && n_waiting >= MAX_WAITING_EVENTS) || !event_queue_push(&x->queue, &own)) {
        event_free(&own);
        is_too_slow = x->is_aborted = true;
    }
    if (x->is_stream || is_end || x->is_aborted || n_waiting + 1 >= EVENTS_PER_WAKE)
        exchange_wake(x);
    (void)pthread_mutex_unlock(&x->lock);
    if (is_too_slow)
        cancel_all(x);
    if (is_end)
        exchange_unref(x);
}

void exchange_abandon(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    bool was_gone = x->is_gone;
    x->is_gone = true;
    bool is_running = x->n_open > 0;
    (void)pthread_mutex_unlock(&x->lock);
    if (is_running && !was_gone)
        cancel_all(x);
}

/* ---- cancelling by name -------------------------------------------------------------------------
 */

void exchange_set_body_id(struct exchange *x, const char *id)
{
    if (strlen(id) < sizeof x->body_id)
        (void)snprintf(x->body_id, sizeof x->body_id, "%s", id);
}

static bool is_meant(const struct exchange *x, const char *id, uint64_t tenant, bool any_tenant)
{
    return x->may_be_cancelled && !x->is_detached && (any_tenant || x->tenant == tenant) &&
           (!id || strcmp(x->request_id, id) == 0 || strcmp(x->body_id, id) == 0);
}

uint32_t exchange_cancel_others(struct server *server, const char *id, uint64_t tenant,
                                bool any_tenant)
{
    uint32_t n = 0;
    (void)pthread_mutex_lock(&server->lock);
    for (struct exchange *x = server->live; x; x = x->next_live) {
        if (!is_meant(x, id, tenant, any_tenant))
            continue;
        (void)pthread_mutex_lock(&x->lock);
        const bool is_running = x->n_open > 0 && !x->is_gone && !x->is_aborted;
        x->is_cancelled = true;
        (void)pthread_mutex_unlock(&x->lock);
        n += is_running;
        cancel_all(x);
    }
    (void)pthread_mutex_unlock(&server->lock);
    return n;
}

/* ---- events: HTTP thread
 * ------------------------------------------------------------------------- */

void exchange_set_error(struct exchange *x, const struct api_error *e)
{
    x->has_failed = x->is_ended = true;
    cancel_all(x); /* what has not ended yet works for nobody */
    if (x->has_begun) {
        if (x->encoder.on_error)
            x->encoder.on_error(x->encoder_state, e, &x->reply);
        return;
    }
    buffer_reset(&x->reply);
    x->phase = PHASE_REPLIED;
    exchange_fail(x, e);
}

/* True: exchange_set_result has said what the reply is. */
static bool reply_with_result(struct exchange *x)
{
    if (x->own_status == 0 || x->has_begun)
        return false;
    x->is_ended = true;
    exchange_reply(x, x->own_status, "application/json", &x->own_body);
    return true;
}

static void encode(struct exchange *x, struct event *event)
{
    if (x->is_ended)
        return;
    const bool is_refused = event->is_cancelled && !x->encoder.shows_cancel;
    if (event->kind == EVENT_END && reply_with_result(x))
        return;
    /* behind a preparation requests may have been taken before another one was refused */
    const bool has_job_error = x->job_error.http_status != 0;
    if (event->kind == EVENT_END && (event->status != SERVERD_OK || is_refused || has_job_error)) {
        struct api_error e;
        if (has_job_error)
            e = x->job_error;
        else if (event->status != SERVERD_OK)
            end_error(x, event, &e);
        else
            cancelled_error(&e);
        exchange_set_error(x, &e);
        return;
    }
    if (x->encoder.on_event)
        x->encoder.on_event(x->encoder_state, event, &x->reply);
    if (event->kind == EVENT_END && ++x->n_ended == x->n_requests) {
        x->encoder.on_end(x->encoder_state, &x->reply);
        if (!reply_with_result(x))
            x->is_ended = true;
    }
}

/* Moves up to n events out of the queue. */
static size_t take_events(struct exchange *x, struct event *out, size_t n)
{
    size_t taken = min_size(n, x->queue.n - x->queue.first);
    if (taken > 0)
        memcpy(out, x->queue.items + x->queue.first, taken * sizeof *out);
    x->queue.first += taken;
    return taken;
}

bool exchange_advance(struct exchange *x)
{
    struct event events[32];
    for (;;) {
        (void)pthread_mutex_lock(&x->lock);
        bool is_aborted = x->is_aborted, needs_ping = x->needs_ping;
        x->needs_ping = false;
        size_t n = x->is_preparing /* not all requests are known yet */
                       ? 0
                       : take_events(x, events, sizeof events / sizeof *events);
        (void)pthread_mutex_unlock(&x->lock);
        for (size_t i = 0; i < n; i++) {
            encode(x, &events[i]);
            event_free(&events[i]);
        }
        if (n > 0 && !x->is_ended && x->is_stream && x->encoder.on_flush)
            x->encoder.on_flush(x->encoder_state, &x->reply);
        if (x->reply.is_failed && !x->is_ended)
            is_aborted = true;
        if (is_aborted && !x->is_ended) {
            struct api_error e;
            bool is_stopping = atomic_load(&x->server->is_draining);
            api_error_set(&e, is_stopping ? "draining" : "internal_error", NULL, "%s",
                          is_stopping ? "The server stops."
                                      : "The reply was not read fast enough.");
            buffer_reset(&x->reply);
            exchange_set_error(x, &e);
        }
        if (needs_ping && x->has_begun && !x->is_ended && x->reply.len == 0)
            buffer_append_str(&x->reply, x->encoder.ping ? x->encoder.ping : ": ping\n\n");
        if (x->is_ended || (x->is_stream && x->reply.len > 0))
            return true;
        if (n == 0)
            return false;
    }
}
