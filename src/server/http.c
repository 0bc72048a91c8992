/* libmicrohttpd: connections, the calls of one request, replies, streams.
 *
 * The library calls handle_request for a head (first call), for each piece of the body, and at
 * the end of the body. A reply that is queued in the first call ends the connection, so only
 * broken requests are answered there; others are answered in the last call. While events are
 * awaited the connection is suspended; when they are delivered it is resumed, and the last call
 * comes again, or the stream's reader is called again. */
#include "base/error.h"
#include "base/numeric.h"
#include "server/data/data_thread.h"
#include "server/request_policy.h"
#include "server/server_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define IDLE_SECONDS     75u
#define LISTEN_BACKLOG   4096u
#define RESERVED_SOCKETS 16u /* connections above the limit, so that they can get their 503 */
#define KNOWN_LIBRARY    0x00097500u /* whose parser request_policy.c knows */
#define SWALLOW_BYTES    MIB /* of a chunked body over the limit, before the connection ends */
#define STREAM_BLOCK     (16 * KIB)
#define TLS_PRIORITIES   "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

/* ---- connections -------------------------------------------------------------------------------
 */

static void open_connection(struct server *server, struct MHD_Connection *mhd, void **context)
{
    struct connection *c = calloc(1, sizeof *c);
    *context = c;
    if (!c)
        return; /* its requests are refused */
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    c->server = server;
    c->fd = info ? info->connect_fd : -1;
    c->opened_ns = clock_now_ns(server->context.clock);
    c->head_began_ns = c->opened_ns;
    c->idle_since_ns = 0;
    int on = 1; /* frames are small and must not wait for each other */
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)pthread_mutex_lock(&server->lock);
    c->certificate = certificate_ref(server->certificate);
    c->next = server->connections;
    if (c->next)
        c->next->previous = c;
    server->connections = c;
    server->n_connections++;
    (void)pthread_mutex_unlock(&server->lock);
    const union MHD_ConnectionInfo *tls =
        c->certificate ? MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION) : NULL;
    if (tls)
        certificate_use(c->certificate, tls->tls_session);
}

/* Runs before the library closes the socket. */
static void close_connection(struct server *server, struct connection *c)
{
    if (!c)
        return;
    (void)pthread_mutex_lock(&server->lock);
    if (c->previous)
        c->previous->next = c->next;
    else
        server->connections = c->next;
    if (c->next)
        c->next->previous = c->previous;
    server->n_connections--;
    (void)pthread_mutex_unlock(&server->lock);
    certificate_unref(c->certificate);
    free(c);
}

static void on_connection(void *context, struct MHD_Connection *mhd, void **socket_context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct server *server = ((struct http_worker *)context)->server;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        open_connection(server, mhd, socket_context);
    } else {
        close_connection(server, *socket_context);
        *socket_context = NULL;
    }
}

static struct connection *connection_of(struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* Times that the tick looks at. */
static void set_times(struct exchange *x, uint64_t head, uint64_t body)
{
    if (!x->connection)
        return;
    (void)pthread_mutex_lock(&x->server->lock);
    x->connection->head_began_ns = head;
    x->connection->idle_since_ns = 0;
    x->connection->body_began_ns = body;
    x->connection->body_bytes = 0;
    (void)pthread_mutex_unlock(&x->server->lock);
}

static void set_idle(struct exchange *x)
{
    set_times(x, 0, 0);
    (void)pthread_mutex_lock(&x->server->lock);
    x->connection->idle_since_ns = clock_now_ns(x->server->context.clock);
    (void)pthread_mutex_unlock(&x->server->lock);
}

/* ---- a client that hangs up while its connection is suspended
 * -------------------------------------- */

static void watch_hangup(struct exchange *x)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLONESHOT,
                                .data.u64 = x->number};
    if (x->connection &&
        epoll_ctl(x->server->hangup_fd, EPOLL_CTL_ADD, x->connection->fd, &event) != 0 &&
        errno == EEXIST)
        (void)epoll_ctl(x->server->hangup_fd, EPOLL_CTL_MOD, x->connection->fd, &event);
}

static void unwatch_hangup(struct exchange *x)
{
    if (x->connection)
        (void)epoll_ctl(x->server->hangup_fd, EPOLL_CTL_DEL, x->connection->fd, NULL);
}

/* ---- the begin and the end of a request
 * -------------------------------------------------------------- */

/* The request line is there: what the library passes here becomes the request's context. */
static void *begin_request(void *context, const char *target, struct MHD_Connection *mhd)
{
    struct http_worker *worker = context;
    struct exchange *x = exchange_create(worker->server);
    if (!x)
        return NULL;
    x->worker = worker;
    x->mhd = mhd;
    x->connection = connection_of(mhd);
    x->target_at = target;
    x->target_len = target ? strlen(target) : 0;
    x->target = strdup(target ? target : "");
    if (!x->target || !x->connection) {
        exchange_unref(x);
        return NULL;
    }
    set_times(x, x->arrival_ns, 0);
    server_add_live(x);
    return x;
}

static bool is_gone(struct exchange *x)
{
    (void)pthread_mutex_lock(&x->lock);
    bool gone = x->is_gone;
    (void)pthread_mutex_unlock(&x->lock);
    return gone;
}

/* A client that closed its half together with its request: the library has read that request and
 * waits for news of the socket, which would be none. Shutting down once more is news. */
static void notice_half_close(const struct exchange *x)
{
    char byte;
    if (recv(x->connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        (void)shutdown(x->connection->fd, SHUT_RD);
}

static void end_request(void *context, struct MHD_Connection *mhd, void **request_context,
                        enum MHD_RequestTerminationCode how)
{
    (void)context, (void)mhd;
    struct exchange *x = *request_context;
    *request_context = NULL;
    if (!x)
        return;
    unwatch_hangup(x);
    if (how != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        exchange_abandon(x);
    request_count(x);
    x->end_ns = clock_now_ns(x->server->context.clock);
    if (x->has_begun)
        atomic_fetch_sub(&x->server->n_streams, 1);
    set_idle(x);
    notice_half_close(x);
    server_remove_live(x);
    x->mhd = NULL;
    exchange_unref(x);
}

/* ---- replies
 * ------------------------------------------------------------------------------------- */

static struct MHD_Response *response_of_bytes(struct exchange *x)
{
    size_t n;
    char *bytes = buffer_take(&x->reply, &n);
    struct MHD_Response *response =
        MHD_create_response_from_buffer(bytes ? n : 0, bytes ? bytes : (char *)"",
                                        bytes ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!response)
        free(bytes);
    return response;
}

static struct MHD_Response *response_of_file(struct exchange *x)
{
    struct MHD_Response *response =
        MHD_create_response_from_fd64(x->reply_file.bytes, x->reply_file.fd);
    if (response)
        x->reply_file.fd = -1; /* the response's */
    return response;
}

static enum MHD_Result queue_reply(struct exchange *x)
{
    struct MHD_Response *response =
        x->reply_file.fd >= 0 ? response_of_file(x) : response_of_bytes(x);
    if (!response)
        return MHD_NO;
    reply_headers_add(x, response);
    enum MHD_Result result = MHD_queue_response(x->mhd, (unsigned)x->status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result queue_refusal(struct exchange *x)
{
    exchange_fail(x, &x->refusal);
    return queue_reply(x);
}

/* ---- streams
 * ------------------------------------------------------------------------------------- */

static void suspend(struct exchange *x)
{
    x->is_suspended = true;
    MHD_suspend_connection(x->mhd);
}

static ssize_t read_stream(void *context, uint64_t position, char *out, size_t max)
{
    (void)position;
    struct exchange *x = context;
    for (;;) {
        if (is_gone(x))
            return MHD_CONTENT_READER_END_WITH_ERROR;
        if (x->reply.len == 0) /* a slow reader gets several tokens per event */
            (void)exchange_advance(x);
        if (x->reply.len > 0) {
            size_t n = min_size(max, x->reply.len);
            memcpy(out, x->reply.data, n);
            buffer_consume(&x->reply, n);
            x->last_write_ns = clock_now_ns(x->server->context.clock);
            return (ssize_t)n;
        }
        if (x->is_ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        (void)pthread_mutex_lock(&x->lock);
        bool sleeps = exchange_may_sleep(x);
        if (sleeps)
            suspend(x);
        (void)pthread_mutex_unlock(&x->lock);
        if (sleeps)
            return 0;
    }
}

static void end_stream(void *context)
{
    exchange_unref(context);
}

static enum MHD_Result queue_stream(struct exchange *x)
{
    atomic_fetch_add(&x->references, 1); /* the response's */
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, x, end_stream);
    if (!response) {
        exchange_unref(x);
        return MHD_NO;
    }
    x->has_begun = true;
    x->status = 200;
    x->last_write_ns = clock_now_ns(x->server->context.clock);
    (void)snprintf(x->content_type, sizeof x->content_type, "text/event-stream; charset=utf-8");
    atomic_fetch_add(&x->server->n_streams, 1);
    (void)MHD_add_response_header(response, "Cache-Control", "no-cache");
    (void)MHD_add_response_header(response, "X-Accel-Buffering", "no");
    reply_headers_add(x, response);
    enum MHD_Result result = MHD_queue_response(x->mhd, 200, response);
    MHD_destroy_response(response);
    return result;
}

/* ---- the calls of one request
 * ---------------------------------------------------------------------- */

static void choose_request_id(struct exchange *x)
{
    const char *sent = exchange_header(x, "x-request-id");
    size_t n = sent ? strspn(sent, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                   "0123456789._-")
                    : 0;
    if (n > 0 && n <= LIMIT_REQUEST_ID_BYTES && sent[n] == '\0') {
        memcpy(x->request_id, sent, n + 1);
        return;
    }
    exchange_make_request_id(x);
}

void request_refuse_without_model(struct exchange *x)
{
    struct server *server = x->server;
    if (atomic_load(&server->is_draining) && !(x->route->flags & WHILE_DRAINING)) {
        api_error_set(&x->refusal, "draining", NULL, "The server takes no new requests now.");
    } else if (atomic_load(&server->has_failed)) {
        api_error_set(&x->refusal, "model_unavailable", NULL, "The model could not be loaded.");
    } else if (model_set_is_starting(&server->models)) {
        uint32_t permille = atomic_load(&server->progress_permille);
        api_error_set(&x->refusal, "model_loading", NULL, "The model is being loaded (%u %%).",
                      permille / 10);
        x->refusal.retry_after_ms = model_set_forecast_ms(&server->models);
    }
}

/* What can be said before the body: the rest of policy, route and key. */
static void look_at_request(struct exchange *x, const char *method)
{
    struct server *server = x->server;
    if (atomic_load(&server->n_connections) > (uint32_t)server->context.options->max_connections) {
        x->is_last = true;
        api_error_set(&x->refusal, "too_many_connections", NULL,
                      "The server has too many open connections.");
        return;
    }
    if (strcmp(method, "OPTIONS") == 0) {
        struct buffer empty;
        buffer_init(&empty, 0);
        exchange_reply(x, 204, "text/plain", &empty);
        (void)snprintf(x->allow, sizeof x->allow, "GET, HEAD, POST, OPTIONS");
        return;
    }
    if (!route_find(x, method) || !auth_check(x))
        return;
    if (x->route->flags & NEEDS_MODEL)
        request_refuse_without_model(x);
}

/* A form goes to the disk as it comes. True: there is one, and it is refused. */
static bool begin_upload(struct exchange *x)
{
    struct data_thread *data = x->server->data;
    if (x->refusal.http_status != 0 || !x->route || !(x->route->flags & FORM_BODY))
        return false;
    if (data)
        x->upload = upload_create(x->mhd, data_thread_files(data),
                                  x->server->context.options->max_file, &x->refusal);
    else
        api_error_set(&x->refusal, "feature_disabled", NULL,
                      "This server keeps no files: it has no --data-path.");
    return x->refusal.http_status != 0;
}

/* First call. */
static enum MHD_Result take_head(struct exchange *x, const char *method, const char *version)
{
    x->has_seen_head = true;
    choose_request_id(x);
    set_times(x, 0, 0);
    (void)snprintf(x->content_type, sizeof x->content_type, "application/json");
    if (policy_refuses_head(x, method, version))
        return queue_refusal(x);
    look_at_request(x, method);
    if (policy_refuses_body(x) || (begin_upload(x) && policy_refuses_body(x)))
        return queue_refusal(x);
    set_times(x, 0, clock_now_ns(x->server->context.clock));
    return MHD_YES;
}

static enum MHD_Result take_body(struct exchange *x, const char *bytes, size_t n)
{
    if (x->connection) {
        (void)pthread_mutex_lock(&x->server->lock);
        x->connection->body_bytes += n;
        (void)pthread_mutex_unlock(&x->server->lock);
    }
    if (x->refusal.http_status != 0)
        return x->is_swallowing && x->connection &&
                       x->connection->body_bytes > x->max_body + SWALLOW_BYTES
                   ? MHD_NO
                   : MHD_YES;
    if (x->upload) {
        x->is_swallowing = !upload_take(x->upload, bytes, n, &x->refusal);
        return MHD_YES;
    }
    if (n > x->max_body - min_size(x->max_body, x->body.len)) {
        api_error_set(&x->refusal, "request_too_large", NULL,
                      "The body has more than the %zu bytes that are allowed.", x->max_body);
        x->is_swallowing = true;
        buffer_deinit(&x->body);
        return MHD_YES;
    }
    buffer_append(&x->body, bytes, n);
    return x->body.is_failed ? MHD_NO : MHD_YES;
}

/* Calls the handler. False: the exchange has to wait for its model first. */
static bool dispatch(struct exchange *x)
{
    set_times(x, 0, 0);
    if (x->refusal.http_status != 0) {
        exchange_fail(x, &x->refusal);
    } else if (x->phase != PHASE_REPLIED) {
        const enum model_choice choice = exchange_choose_model(x);
        if (choice == MODEL_AWAITED)
            return false;
        if (choice == MODEL_CHOSEN)
            x->route->handler(x);
    }
    if (x->phase == PHASE_GENERATING)
        watch_hangup(x);
    x->is_dispatched = true;
    return true;
}

/* False: its model has come meanwhile, or it has to end. */
static bool sleeps_for_model(struct exchange *x)
{
    watch_hangup(x);
    (void)pthread_mutex_lock(&x->lock);
    const bool sleeps = x->is_awaiting && !x->is_aborted;
    if (sleeps)
        suspend(x);
    (void)pthread_mutex_unlock(&x->lock);
    return sleeps;
}

/* Last call; comes again after each resumption. */
static enum MHD_Result answer(struct exchange *x)
{
    while (!x->is_dispatched) {
        if (is_gone(x))
            return MHD_NO;
        if (!dispatch(x) && sleeps_for_model(x))
            return MHD_YES;
    }
    while (x->phase == PHASE_GENERATING) {
        if (is_gone(x))
            return MHD_NO;
        if (exchange_advance(x)) {
            if (x->phase == PHASE_REPLIED)
                break; /* it failed before its first byte */
            if (x->is_stream)
                return queue_stream(x);
            x->status = 200;
            break;
        }
        (void)pthread_mutex_lock(&x->lock);
        bool sleeps = exchange_may_sleep(x);
        if (sleeps)
            suspend(x);
        (void)pthread_mutex_unlock(&x->lock);
        if (sleeps)
            return MHD_YES;
    }
    return queue_reply(x);
}

static enum MHD_Result handle_request(void *context, struct MHD_Connection *mhd, const char *url,
                                      const char *method, const char *version, const char *upload,
                                      size_t *upload_size, void **request_context)
{
    (void)context, (void)mhd, (void)url;
    struct exchange *x = *request_context;
    if (!x)
        return MHD_NO;
    if (!x->has_seen_head)
        return take_head(x, method, version);
    if (*upload_size > 0) {
        size_t n = *upload_size;
        *upload_size = 0;
        return take_body(x, upload, n);
    }
    return answer(x);
}

/* ---- start and stop
 * -------------------------------------------------------------------------------- */

static serverd_status resolve(const struct options *options, struct sockaddr_storage *out,
                              serverd_error *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found;
    char port[16];
    (void)snprintf(port, sizeof port, "%d", (int)options->port);
    int code = getaddrinfo(options->host, port, &hints, &found);
    if (code != 0)
        return fail(err, SERVERD_INVALID, "host: %.200s: %s", options->host, gai_strerror(code));
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return SERVERD_OK;
}

static bool is_loopback(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)address;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *in6 = (const void *)address;
    return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

static uint16_t bound_port(struct MHD_Daemon *daemon)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info ? info->port : 0;
}

static int listening_fd(struct MHD_Daemon *daemon)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_LISTEN_FD);
    return info ? info->listen_fd : -1;
}

/* The first worker binds; the others take connections from the same socket. The library's
 * daemons are run by the workers' own threads, which so wait for events and sockets at once. */
static bool start_daemon(struct http_worker *worker, const struct sockaddr_storage *address)
{
    const struct server *server = worker->server;
    const struct options *options = server->context.options;
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC;
    if (address->ss_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    if (server->certificate)
        flags |= MHD_USE_TLS;
    intptr_t n_connections =
        ((intptr_t)options->max_connections + RESERVED_SOCKETS) / server->n_workers + 1;
    bool is_first = worker == server->workers;
    struct MHD_OptionItem where = {MHD_OPTION_SOCK_ADDR, 0, (void *)address};
    if (!is_first) {
        int fd = fcntl(listening_fd(server->workers[0].daemon), F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            return false;
        where = (struct MHD_OptionItem){MHD_OPTION_LISTEN_SOCKET, fd, NULL};
    }
    struct MHD_OptionItem items[] = {
        where,
        {MHD_OPTION_CONNECTION_LIMIT, n_connections, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, LIMIT_CONNECTION_POOL, NULL},
        {MHD_OPTION_LISTEN_BACKLOG_SIZE, LISTEN_BACKLOG, NULL},
        {MHD_OPTION_STRICT_FOR_CLIENT, 0, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)end_request, worker},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, worker},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)begin_request, worker},
        {MHD_OPTION_END, 0, NULL},
    };
    /* the library wants a certificate of its own, which connections do not use */
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)TLS_PRIORITIES},
        {MHD_OPTION_HTTPS_MEM_CERT, 0,
         server->certificate ? (void *)certificate_pem(server->certificate) : NULL},
        {MHD_OPTION_HTTPS_MEM_KEY, 0,
         server->certificate ? (void *)certificate_key_pem(server->certificate) : NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    worker->daemon = MHD_start_daemon(
        flags, (uint16_t)options->port, NULL, NULL, handle_request, worker, MHD_OPTION_ARRAY, items,
        server->certificate ? MHD_OPTION_ARRAY : MHD_OPTION_END, tls, MHD_OPTION_END);
    if (!worker->daemon && !is_first)
        (void)close((int)where.value);
    return worker->daemon != NULL;
}

static serverd_status start_workers(struct server *server, const struct sockaddr_storage *address,
                                    serverd_error *err)
{
    const struct options *options = server->context.options;
    uint32_t n = (uint32_t)options->http_threads;
    server->workers = calloc(n, sizeof *server->workers);
    if (!server->workers)
        return fail(err, SERVERD_NOMEM, "server: no memory");
    for (uint32_t i = 0; i < n; i++)
        worker_init(&server->workers[i], server);
    server->n_workers = n;
    for (uint32_t i = 0; i < n; i++)
        if (!start_daemon(&server->workers[i], address))
            return fail(err, SERVERD_INVALID, "cannot listen on %.200s port %d: %s", options->host,
                        (int)options->port, strerror(errno));
    for (uint32_t i = 0; i < n; i++)
        if (worker_start(&server->workers[i], err))
            return err->code;
    return SERVERD_OK;
}

serverd_status http_start(struct server *server, serverd_error *err)
{
    const struct options *options = server->context.options;
    struct sockaddr_storage address = {0};
    serverd_status status = resolve(options, &address, err);
    if (status != SERVERD_OK)
        return status;
    server->is_local = is_loopback(&address);
    if (!server->is_local && !server->keys && !options->insecure)
        return fail(err, SERVERD_INVALID,
                    "host: %.200s can be reached from other machines: give --api-key-file, or "
                    "--insecure to serve without keys",
                    options->host);
    server->checks_bytes =
        MHD_VERSION >> 8 == KNOWN_LIBRARY >> 8 && strncmp(MHD_get_version(), "0.9.75", 6) == 0;
    if (!server->checks_bytes)
        log_warn(server->context.log, "server",
                 "libmicrohttpd is %s, not 0.9.75: heads are not checked byte by byte",
                 MHD_get_version());
    status = start_workers(server, &address, err);
    if (status == SERVERD_OK)
        server->port = bound_port(server->workers[0].daemon);
    return status;
}

void http_quiesce(struct server *server)
{
    for (uint32_t i = 0; i < server->n_workers; i++)
        worker_quiesce(&server->workers[i]);
}

void http_stop(struct server *server)
{
    for (uint32_t i = 0; i < server->n_workers; i++)
        worker_stop(&server->workers[i]);
    /* all threads have ended: what ends below belongs to this one */
    for (uint32_t i = 0; i < server->n_workers; i++) {
        struct http_worker *worker = &server->workers[i];
        if (worker->daemon)
            MHD_stop_daemon(worker->daemon);
        worker->daemon = NULL;
        if (worker->listen_fd >= 0)
            (void)close(worker->listen_fd);
        worker->listen_fd = -1;
    }
    for (uint32_t i = 0; i < server->n_workers; i++)
        worker_deinit(&server->workers[i]);
    free(server->workers);
    server->workers = NULL;
    server->n_workers = 0;
}
