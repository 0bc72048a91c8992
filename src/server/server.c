#include "server/server.h"

#include "base/error.h"
#include "base/numeric.h"
#include "frontend_dsl/run.h"
#include "server/data/data_thread.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECOND_NS         UINT64_C(1000000000)
#define HEAD_SECONDS      10u /* for a whole head */
#define BODY_GRACE        5u  /* seconds before a body's rate counts */
#define BODY_BYTES_SECOND 1024u
#define LATE_TICK         3u /* a tick so late says that nobody had a processor for a while */
#define PING_SECONDS      15u
#define STALLED_SECONDS   60u /* a stream that takes nothing for so long is dropped */
#define NEXT_LINE_SECONDS 85u /* from one reply to the next request's first line */
#define END_MS            500 /* for the last words of aborted replies */

/* ---- life --------------------------------------------------------------------------------------
 */

static serverd_status open_data(struct server *server, const char *folder, serverd_error *err)
{
    const struct server_context *context = &server->context;
    if (!folder || data_thread_create(server, folder, &server->data, err) == SERVERD_OK)
        return SERVERD_OK;
    if (context->options->data_path)
        return err->code;
    log_warn(context->log, "server", "no files and batches: %s", err->text);
    return SERVERD_OK;
}

serverd_status server_create(const struct server_options *options, struct server **out,
                             serverd_error *err)
{
    struct server *server = calloc(1, sizeof *server);
    if (!server)
        return fail(err, SERVERD_NOMEM, "server: no memory");
    server->context = options->context;
    server->commit = options->commit ? options->commit : "unknown";
    server->created = clock_wall_seconds(options->context.clock);
    server->started_ns = clock_now_ns(options->context.clock);
    (void)pthread_mutex_init(&server->lock, NULL);
    job_thread_init(&server->jobs, server);
    job_thread_init(&server->compilers, server);
    worker_init(&server->detached, server);
    model_set_init(&server->models, server);
    response_store_init(&server->responses);
    background_set_init(&server->background);
    server->hangup_fd = epoll_create1(EPOLL_CLOEXEC);
    server->models.opener = options->opener;
    serverd_status status =
        server->hangup_fd >= 0 ? SERVERD_OK : fail(err, SERVERD_INTERNAL, "server: epoll: %m");
    for (uint32_t i = 0; i < options->n_models && status == SERVERD_OK; i++)
        status = model_set_add(&server->models, &options->models[i], err);
    if (status == SERVERD_OK && options->context.options->api_key_file)
        status = server_reload_keys(server, err);
    if (status == SERVERD_OK)
        status = server_reload_certificate(server, err);
    if (status == SERVERD_OK)
        status = job_thread_start(&server->jobs, err);
    if (status == SERVERD_OK)
        status = job_thread_start(&server->compilers, err);
    if (status == SERVERD_OK)
        status = worker_start(&server->detached, err);
    if (status == SERVERD_OK)
        status = open_data(server, options->data_folder, err);
    if (status == SERVERD_OK)
        status = programs_create(server, &server->programs, err);
    if (status == SERVERD_OK)
        status = http_start(server, err);
    if (status != SERVERD_OK) {
        server_destroy(server);
        return status;
    }
    *out = server;
    return SERVERD_OK;
}

static void dispatch(struct server *server)
{
    for (uint32_t i = 0; i < server->n_workers; i++)
        worker_dispatch(&server->workers[i]);
    worker_dispatch(&server->detached);
}

/* Every suspended connection goes on and ends. */
static void abort_live(struct server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    for (struct exchange *x = server->live; x; x = x->next_live)
        exchange_abort(x);
    (void)pthread_mutex_unlock(&server->lock);
    for (int ms = 0; ms < END_MS && server_n_active(server) > 0; ms += 5)
        (void)usleep(5000);
}

void server_end_requests(struct server *server)
{
    atomic_store(&server->is_draining, true);
    job_thread_stop(&server->jobs);
    job_thread_stop(&server->compilers);
    data_thread_stop(server->data);
    programs_stop(server->programs);
    dispatch(server); /* what the engine and the jobs have said comes before the end */
    abort_live(server);
}

void server_destroy(struct server *server)
{
    if (!server)
        return;
    server_end_requests(server);
    http_stop(server);
    worker_stop(&server->detached);
    detached_end_all(server);
    worker_deinit(&server->detached);
    data_thread_destroy(server->data);
    programs_destroy(server->programs);
    job_thread_deinit(&server->jobs);
    job_thread_deinit(&server->compilers);
    background_set_deinit(&server->background);
    response_store_deinit(&server->responses);
    key_set_unref(server->keys);
    certificate_unref(server->certificate);
    if (server->hangup_fd >= 0)
        (void)close(server->hangup_fd);
    (void)pthread_mutex_destroy(&server->lock);
    model_set_deinit(&server->models);
    free(server);
}

uint16_t server_port(const struct server *server)
{
    return server->port;
}

uint32_t server_n_keys(const struct server *server)
{
    struct server *s = (struct server *)server;
    (void)pthread_mutex_lock(&s->lock);
    uint32_t n = s->keys ? s->keys->n : 0;
    (void)pthread_mutex_unlock(&s->lock);
    return n;
}

serverd_status server_reload_keys(struct server *server, serverd_error *err)
{
    const char *path = server->context.options->api_key_file;
    struct key_set *keys = NULL;
    if (!path)
        return SERVERD_OK;
    serverd_status status = key_set_read(path, &keys, err);
    if (status != SERVERD_OK)
        return status;
    (void)pthread_mutex_lock(&server->lock);
    struct key_set *old = server->keys;
    status = key_set_limit(keys, old, clock_now_ns(server->context.clock), err);
    if (status == SERVERD_OK)
        server->keys = keys;
    (void)pthread_mutex_unlock(&server->lock);
    key_set_unref(status == SERVERD_OK ? old : keys);
    return status;
}

serverd_status server_reload_certificate(struct server *server, serverd_error *err)
{
    const struct options *options = server->context.options;
    struct certificate *certificate = NULL;
    if (!options->tls_cert && !options->tls_key)
        return SERVERD_OK;
    if (!options->tls_cert || !options->tls_key)
        return fail(err, SERVERD_INVALID, "%s: %s is missing, they go together",
                    options->tls_cert ? "tls-cert" : "tls-key",
                    options->tls_cert ? "tls-key" : "tls-cert");
    serverd_status status =
        certificate_read(options->tls_cert, options->tls_key, &certificate, err);
    if (status != SERVERD_OK)
        return status;
    (void)pthread_mutex_lock(&server->lock);
    struct certificate *old = server->certificate;
    server->certificate = certificate;
    (void)pthread_mutex_unlock(&server->lock);
    certificate_unref(old);
    return SERVERD_OK;
}

bool server_has_tls(const struct server *server)
{
    return server->context.options->tls_cert != NULL;
}

/* ---- the model ----------------------------------------------------------------------------------
 */

void server_set_progress(struct server *server, double share)
{
    double permille = share < 0.0 ? 0.0 : share > 1.0 ? 1000.0 : share * 1000.0;
    atomic_store(&server->progress_permille, (uint32_t)permille);
}

void server_publish(struct server *server, const struct served_model *model)
{
    atomic_store(&server->progress_permille, 1000);
    model_set_publish(&server->models, model);
}

void server_set_failed(struct server *server)
{
    atomic_store(&server->has_failed, true);
}

/* ---- events -------------------------------------------------------------------------------------
 */

/* Engine thread, job thread. What belongs to a program's run goes to its mailbox. An exchange lives
 * until its END is delivered, so each event's still does. */
void server_put_events(struct server *server, const struct event *events, uint32_t n)
{
    bool has_program_events = false;
    for (uint32_t i = 0; i < n; i++) {
        if (events[i].owner == OWNER_PROGRAM) {
            dsl_run_post(&events[i]);
            has_program_events = true;
            continue;
        }
        /* a reply with a hole must not look whole; if an END is lost, the tick ends the reply */
        struct exchange *x = events[i].user;
        if (!worker_post(x->worker, &events[i])) {
            struct event lost = events[i];
            atomic_store(&x->has_lost, true);
            event_free(&lost);
        }
    }
    if (has_program_events)
        programs_kick(server->programs);
    for (uint32_t i = 0; i < server->n_workers; i++)
        worker_wake(&server->workers[i]);
    worker_wake(&server->detached);
}

static void put_events(void *context, const struct event *events, uint32_t n)
{
    server_put_events(context, events, n);
}

static void expect_events(void *context)
{
    programs_expect(((struct server *)context)->programs);
}

struct event_sink server_event_sink(struct server *server)
{
    return (struct event_sink){.deliver = put_events, .expect = expect_events, .context = server};
}

/* ---- models -------------------------------------------------------------------------------------
 */

serverd_status server_start_models(struct server *server, serverd_error *err)
{
    return model_set_start(&server->models, err);
}

serverd_status server_add_model(struct server *server, const struct model_config *config,
                                serverd_error *err)
{
    return model_set_add(&server->models, config, err);
}

void server_mark_model(struct server *server, const char *name, bool is_there)
{
    model_set_mark(&server->models, name, is_there);
}

bool server_stop_models(struct server *server)
{
    return model_set_stop(&server->models);
}

void server_wake_awaiting(struct server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    for (struct exchange *x = server->live; x; x = x->next_live) {
        (void)pthread_mutex_lock(&x->lock);
        const bool goes_on = x->is_awaiting;
        if (goes_on) {
            x->is_awaiting = false;
            exchange_wake(x);
        }
        (void)pthread_mutex_unlock(&x->lock);
        if (goes_on && x->worker)
            worker_ring(x->worker);
    }
    (void)pthread_mutex_unlock(&server->lock);
}

/* ---- exchanges that are served -----------------------------------------------------------------
 */

void server_add_live(struct exchange *x)
{
    struct server *server = x->server;
    (void)pthread_mutex_lock(&server->lock);
    x->next_live = server->live;
    if (x->next_live)
        x->next_live->previous_live = x;
    server->live = x;
    server->n_live++;
    x->number = ++server->n_exchanges;
    (void)pthread_mutex_unlock(&server->lock);
}

void server_remove_live(struct exchange *x)
{
    struct server *server = x->server;
    (void)pthread_mutex_lock(&server->lock);
    if (x->previous_live)
        x->previous_live->next_live = x->next_live;
    else
        server->live = x->next_live;
    if (x->next_live)
        x->next_live->previous_live = x->previous_live;
    server->n_live--;
    (void)pthread_mutex_unlock(&server->lock);
}

struct exchange *server_find_live(struct server *server, uint64_t number)
{
    (void)pthread_mutex_lock(&server->lock);
    struct exchange *x = server->live;
    while (x && x->number != number)
        x = x->next_live;
    if (x)
        atomic_fetch_add(&x->references, 1);
    (void)pthread_mutex_unlock(&server->lock);
    return x;
}

/* ---- time ---------------------------------------------------------------------------------------
 */

int server_hangup_fd(const struct server *server)
{
    return server->hangup_fd;
}

void server_check_hangups(struct server *server)
{
    struct epoll_event events[64];
    int n = epoll_wait(server->hangup_fd, events, 64, 0);
    for (int i = 0; i < n; i++) {
        struct exchange *x = server_find_live(server, events[i].data.u64);
        if (!x)
            continue;
        exchange_abandon(x);
        exchange_abort(x); /* the library notices the closed socket once it may look again */
        exchange_unref(x);
    }
}

/* A head that takes too long, a body that trickles. */
static bool is_too_slow(const struct connection *c, uint64_t now)
{
    if (c->head_began_ns != 0 && now > c->head_began_ns &&
        now - c->head_began_ns > HEAD_SECONDS * SECOND_NS)
        return true;
    if (c->idle_since_ns != 0 && now > c->idle_since_ns &&
        now - c->idle_since_ns > NEXT_LINE_SECONDS * SECOND_NS)
        return true;
    if (c->body_began_ns == 0 || now < c->body_began_ns)
        return false;
    uint64_t seconds = (now - c->body_began_ns) / SECOND_NS;
    return seconds > BODY_GRACE && c->body_bytes < (seconds - BODY_GRACE) * BODY_BYTES_SECOND;
}

/* Ends a client that is too slow; but not if bytes of it wait here, for then this side is, nor at a
 * late tick: the client may not have had a processor, either, and has until the next one.
 *
 * A client that closed its half in the midst of a request, or of the next one's first line: the
 * library hears of it only if the news does not come together with bytes; shutting down once more
 * is news of its own. */
static void tend_connection(const struct connection *c, uint64_t now, bool is_late)
{
    char byte;
    if (c->fd < 0 || (c->head_began_ns == 0 && c->body_began_ns == 0 && c->idle_since_ns == 0))
        return;
    const ssize_t n_waiting = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n_waiting == 0)
        (void)shutdown(c->fd, SHUT_RD);
    else if (n_waiting < 0 && !is_late && is_too_slow(c, now))
        (void)shutdown(c->fd, SHUT_RDWR);
}

static bool is_pinged(const struct exchange *x)
{
    return !x->encoder.ping || *x->encoder.ping != '\0';
}

/* Streams: a sign of life when nothing was sent for a while; an end if nothing is taken. */
static void tend_stream(struct exchange *x, uint64_t now)
{
    (void)pthread_mutex_lock(&x->lock);
    uint64_t written = x->last_write_ns, quiet = now > written ? now - written : 0;
    if (x->is_suspended && quiet > PING_SECONDS * SECOND_NS && is_pinged(x)) {
        x->needs_ping = true;
        exchange_wake(x);
        worker_ring(x->worker);
    } else if (!x->is_suspended && quiet > STALLED_SECONDS * SECOND_NS) {
        /* its reader has not been called: the socket takes nothing */
        (void)shutdown(x->connection->fd, SHUT_RDWR);
    }
    (void)pthread_mutex_unlock(&x->lock);
}

/* Under the lock: is the time over that a drain gives to what runs? Once for each drain. */
static bool drain_is_over(struct server *server, uint64_t now)
{
    if (server->drain_until_ns == 0 || now < server->drain_until_ns)
        return false;
    server->drain_until_ns = 0;
    return true;
}

void server_tick(struct server *server)
{
    uint64_t now = clock_now_ns(server->context.clock);
    (void)pthread_mutex_lock(&server->lock);
    const bool is_late = now - server->ticked_ns > LATE_TICK * SECOND_NS;
    server->ticked_ns = now;
    if (drain_is_over(server, now))
        for (struct exchange *x = server->live; x; x = x->next_live)
            exchange_end(x);
    for (const struct connection *c = server->connections; c; c = c->next)
        tend_connection(c, now, is_late);
    for (struct exchange *x = server->live; x; x = x->next_live)
        if (atomic_load(&x->has_lost))
            exchange_abort(x);
        else if (x->has_begun && !x->is_detached)
            tend_stream(x, now);
    metrics_set(server->context.metrics, METRIC_HTTP_CONNECTIONS, server->n_connections);
    (void)pthread_mutex_unlock(&server->lock);
    metrics_set(server->context.metrics, METRIC_SSE_STREAMS, atomic_load(&server->n_streams));
    metrics_set(server->context.metrics, METRIC_GRAMMAR_WAITING,
                job_thread_n_jobs(&server->compilers));
    metrics_set(server->context.metrics, METRIC_LOG_DROPPED,
                (double)log_n_dropped(server->context.log));
    server_check_hangups(server);
    server_wake_awaiting(server);
    model_set_tick(&server->models);
    programs_tick(server->programs);
}

/* ---- the end
 * ------------------------------------------------------------------------------------- */

void server_pause(struct server *server, uint64_t timeout_ns)
{
    (void)pthread_mutex_lock(&server->lock);
    if (!server->is_ending) {
        atomic_store(&server->is_draining, true);
        server->drain_until_ns = clock_now_ns(server->context.clock) + timeout_ns;
        model_set_drain(&server->models);
    }
    (void)pthread_mutex_unlock(&server->lock);
    server_wake_awaiting(server);
}

bool server_resume(struct server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    const bool may = !server->is_ending;
    if (may) {
        server->drain_until_ns = 0;
        model_set_resume(&server->models);
        atomic_store(&server->is_draining, false);
    }
    (void)pthread_mutex_unlock(&server->lock);
    return may;
}

void server_drain(struct server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    const bool was_ending = server->is_ending;
    server->is_ending = true;
    atomic_store(&server->is_draining, true);
    (void)pthread_mutex_unlock(&server->lock);
    if (was_ending)
        return;
    http_quiesce(server);
    model_set_drain(&server->models);
    server_wake_awaiting(server);
}

uint32_t server_n_active(const struct server *server)
{
    struct server *s = (struct server *)server;
    (void)pthread_mutex_lock(&s->lock);
    uint32_t n = s->n_live;
    (void)pthread_mutex_unlock(&s->lock);
    return n + programs_n_open(s->programs);
}
