#include "server/detached.h"

#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the thread of detached requests -----------------------------------------------------------
 */

static bool is_gone(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    bool is_gone = x->is_gone;
    (void)pthread_mutex_unlock(&x->lock);
    return is_gone;
}

static void finish(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    x->is_suspended = false; /* nothing wakes it any more */
    if (x->is_gone)
        x->status = 0;
    (void)pthread_mutex_unlock(&x->lock);
    x->end_ns = clock_now_ns(x->server->context.clock);
    request_count(x);
    const bool has_body = x->status != 0 && !x->has_begun;
    const struct detached_result result = {
        .status = x->status,
        .bytes = has_body ? buffer_str(&x->reply) : "",
        .n = has_body ? x->reply.len : 0,
        .request_id = x->request_id,
        .retry_after_ms = x->retry_after_ms,
        .has_failed = x->has_begun && x->has_failed,
    };
    x->sink.on_end(x->sink.context, &result);
    server_remove_live(x); /* a drain waits for the call, too */
    exchange_unref(x);
}

/* Calls the handler. False: the exchange has to wait for its model first. */
static bool dispatch(struct exchange *x)
{
    struct api_error e;
    if (x->refusal.http_status != 0) {
        exchange_fail(x, &x->refusal);
    } else {
        const enum model_choice choice = exchange_choose_model(x);
        if (choice == MODEL_AWAITED)
            return false;
        if (choice == MODEL_CHOSEN)
            x->route->handler(x);
    }
    x->is_dispatched = true;
    if (x->phase != PHASE_GENERATING || !x->is_stream || x->sink.on_frames)
        return true;
    api_error_set(&e, "unsupported_value", "stream", "A stream is not possible here.");
    (void)pthread_mutex_lock(&x->lock);
    x->is_aborted = true; /* what its requests still say is dropped */
    (void)pthread_mutex_unlock(&x->lock);
    exchange_set_error(x, &e);
    return true;
}

/* False: its model has come meanwhile, or it has to end. */
static bool sleeps_for_model(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    const bool sleeps = x->is_awaiting && !x->is_aborted && !x->is_gone;
    x->is_suspended = sleeps;
    (void)pthread_mutex_unlock(&x->lock);
    return sleeps;
}

static void hand_frames_over(struct exchange *x)
{
    x->has_begun = true;
    x->status = 200;
    if (x->reply.len > 0)
        x->sink.on_frames(x->sink.context, buffer_str(&x->reply), x->reply.len);
    buffer_reset(&x->reply);
}

/* True if the reply is complete; false: events will wake the exchange. */
static bool advance(struct exchange *x)
{
    while (x->phase == PHASE_GENERATING) {
        if (is_gone(x))
            return true;
        if (exchange_advance(x)) {
            if (x->phase == PHASE_REPLIED)
                return true; /* it failed before its first byte */
            if (x->is_stream)
                hand_frames_over(x);
            if (!x->is_ended)
                continue;
            x->status = 200;
            return true;
        }
        (void)pthread_mutex_lock(&x->lock);
        x->is_suspended = exchange_may_sleep(x);
        bool is_suspended = x->is_suspended;
        (void)pthread_mutex_unlock(&x->lock);
        if (is_suspended)
            return false;
    }
    return true;
}

void detached_attend(struct exchange *x)
{
    while (!x->is_dispatched && !is_gone(x))
        if (!dispatch(x) && sleeps_for_model(x))
            return;
    if (is_gone(x) || advance(x))
        finish(x);
}

/* ---- any thread --------------------------------------------------------------------------------
 */

/* What an HTTP request is asked before its body is taken. */
static void look_at_request(struct exchange *x, const struct detached_request *request)
{
    if (!route_find(x, request->method) ||
        !auth_check_owner(x, request->tenant, request->is_counted))
        return;
    if (x->route->flags & NEEDS_MODEL)
        request_refuse_without_model(x);
    if (x->refusal.http_status == 0 && request->n_body > x->body.limit)
        api_error_set(&x->refusal, "request_too_large", NULL,
                      "The body has %zu bytes, at most %zu are allowed.", request->n_body,
                      x->body.limit);
    if (x->refusal.http_status == 0)
        buffer_append(&x->body, request->body, request->n_body);
}

uint64_t detached_submit(struct server *server, const struct detached_request *request)
{
    struct exchange *x = exchange_create(server);
    if (!x)
        return 0;
    x->worker = &server->detached;
    x->is_detached = true;
    x->sink = request->sink;
    x->max_priority = request->max_priority;
    if (request->reply_id)
        (void)snprintf(x->reply_id, sizeof x->reply_id, "%s", request->reply_id);
    x->target = strdup(request->path);
    if (x->target) {
        x->target_len = strlen(x->target);
        exchange_make_request_id(x);
        look_at_request(x, request);
    }
    if (!x->target || x->body.is_failed) {
        exchange_unref(x);
        return 0;
    }
    server_add_live(x);
    const uint64_t number = x->number;
    worker_put_ready(&server->detached, x);
    worker_ring(&server->detached);
    return number;
}

void detached_cancel(struct server *server, uint64_t number)
{
    struct exchange *x = server_find_live(server, number);
    if (!x)
        return;
    if (x->is_detached) {
        exchange_abandon(x);
        exchange_abort(x);
    }
    exchange_unref(x);
}

void detached_end_all(struct server *server)
{
    for (;;) {
        (void)pthread_mutex_lock(&server->lock);
        struct exchange *x = server->live;
        while (x && !x->is_detached)
            x = x->next_live;
        (void)pthread_mutex_unlock(&server->lock);
        if (!x)
            return;
        exchange_abandon(x);
        finish(x);
    }
}
