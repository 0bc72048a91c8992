#include "tools/run_program/connection.h"

#include "base/buffer.h"
#include "base/error.h"
#include "tools/http_client.h"
#include "tools/sse.h"

#include <curl/curl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define CONNECT_SECONDS 10L
#define TELL_SECONDS    5L

struct connection {
    CURL *easy;
    CURLM *multi;
    struct curl_slist *headers;
    char *url; /* without a / or /v1 at its end */
    int signals;
    bool is_interrupted;
};

/* One request on its way. */
struct exchange {
    struct connection *connection;
    struct buffer body; /* of a reply that is no stream */
    struct sse_parser sse;
    connection_event on_event;
    void *context;
    bool is_stream, is_done, is_stopped;
    bool is_tell; /* signals do not end it */
    serverd_status status;
    serverd_error *err;
};

/* ---- life ---- */

static bool watch_signals(struct connection *connection)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return false;
    connection->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return connection->signals >= 0;
}

serverd_status connection_open(const char *url, const char *api_key, struct connection **out,
                               serverd_error *err)
{
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        return fail(err, SERVERD_INVALID, "--server: \"%.100s\" does not begin with http://", url);
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        return fail(err, SERVERD_NOMEM, "HTTP client: no memory");
    connection->signals = -1;
    bool is_made =
        curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK &&
        (connection->easy = curl_easy_init()) && (connection->multi = curl_multi_init()) &&
        (connection->url = http_client_base_url(url)) &&
        http_client_add_headers(&connection->headers, api_key) && watch_signals(connection);
    if (!is_made) {
        connection_close(connection);
        return fail(err, SERVERD_NOMEM, "HTTP client: cannot be set up");
    }
    *out = connection;
    return SERVERD_OK;
}

void connection_close(struct connection *connection)
{
    if (!connection)
        return;
    curl_easy_cleanup(connection->easy);
    if (connection->multi)
        (void)curl_multi_cleanup(connection->multi); /* nothing can be done about a failure */
    curl_slist_free_all(connection->headers);
    free(connection->url);
    if (connection->signals >= 0)
        (void)close(connection->signals);
    free(connection);
}

int connection_signal_fd(const struct connection *connection)
{
    return connection->signals;
}

bool connection_interrupted(struct connection *connection)
{
    struct signalfd_siginfo info;
    if (read(connection->signals, &info, sizeof info) == (ssize_t)sizeof info)
        connection->is_interrupted = true;
    return connection->is_interrupted;
}

/* ---- what comes ---- */

static void on_sse(void *context, const char *text, size_t n)
{
    struct exchange *exchange = context;
    json_error_t at;
    if (exchange->status != SERVERD_OK || exchange->is_stopped)
        return;
    if (n == 6 && memcmp(text, "[DONE]", 6) == 0) {
        exchange->is_done = true;
        return;
    }
    json_t *data = json_loadb(text, n, JSON_ALLOW_NUL, &at);
    if (!data)
        exchange->status = fail(exchange->err, RUN_UNREACHABLE,
                                "the server sent an event that is no JSON: %.100s", text);
    else if (!exchange->on_event(exchange->context, buffer_str(&exchange->sse.name), data))
        exchange->is_stopped = true;
    json_decref(data);
}

static bool is_event_stream(CURL *easy)
{
    char *type = NULL;
    static const char wanted[] = "text/event-stream";
    return curl_easy_getinfo(easy, CURLINFO_CONTENT_TYPE, &type) == CURLE_OK && type &&
           strncasecmp(type, wanted, sizeof wanted - 1) == 0;
}

static size_t on_bytes(char *bytes, size_t size, size_t n, void *context)
{
    struct exchange *exchange = context;
    exchange->is_stream = exchange->on_event && is_event_stream(exchange->connection->easy);
    if (!exchange->is_stream) {
        buffer_append(&exchange->body, bytes, size * n);
        return exchange->body.is_failed ? 0 : size * n;
    }
    serverd_error ignored;
    if (sse_push(&exchange->sse, bytes, size * n, &ignored) != SERVERD_OK)
        exchange->status =
            fail(exchange->err, RUN_UNREACHABLE, "the server's reply: %.300s", ignored.text);
    return exchange->status != SERVERD_OK || exchange->is_stopped ? 0 : size * n;
}

/* ---- a request ---- */

static void set_up(struct exchange *exchange, const char *method, const char *url, const char *body)
{
    CURL *easy = exchange->connection->easy;
    curl_easy_reset(easy); /* connections stay */
    /* these fail only for options that libcurl was built without, or without memory: then the
     * request fails */
    (void)curl_easy_setopt(easy, CURLOPT_URL, url);
    (void)curl_easy_setopt(easy, CURLOPT_HTTPHEADER, exchange->connection->headers);
    (void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_bytes);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, exchange);
    if (body) {
        (void)curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
        (void)curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
    }
    if (strcmp(method, "GET") != 0)
        (void)curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
    if (exchange->is_tell)
        (void)curl_easy_setopt(easy, CURLOPT_TIMEOUT, TELL_SECONDS);
}

/* Moves bytes until the request has ended; CURLE_ABORTED_BY_CALLBACK: a signal came. */
static CURLcode transfer(struct exchange *exchange)
{
    struct connection *connection = exchange->connection;
    struct curl_waitfd signals = {.fd = connection->signals, .events = CURL_WAIT_POLLIN};
    int n_running = 1, n_left;
    CURLcode result = CURLE_OK;
    if (curl_multi_add_handle(connection->multi, connection->easy) != CURLM_OK)
        return CURLE_OUT_OF_MEMORY;
    while (n_running > 0) {
        CURLMcode code = curl_multi_perform(connection->multi, &n_running);
        if (code == CURLM_OK && n_running > 0)
            code =
                curl_multi_poll(connection->multi, &signals, exchange->is_tell ? 0 : 1, 1000, NULL);
        if (code != CURLM_OK) {
            result = CURLE_OUT_OF_MEMORY;
            break;
        }
        if (!exchange->is_tell && connection_interrupted(connection)) {
            result = CURLE_ABORTED_BY_CALLBACK;
            break;
        }
    }
    for (CURLMsg *message; (message = curl_multi_info_read(connection->multi, &n_left));)
        if (message->msg == CURLMSG_DONE && result == CURLE_OK)
            result = message->data.result;
    (void)curl_multi_remove_handle(connection->multi, connection->easy); /* it is in there */
    return result;
}

/* What the reply was, once the transfer has ended. */
static serverd_status judge(struct exchange *exchange, CURLcode result, struct reply *out,
                            serverd_error *err)
{
    json_error_t at;
    long http_status = 0;
    if (result == CURLE_ABORTED_BY_CALLBACK)
        return fail(err, RUN_INTERRUPTED, "interrupted");
    if (exchange->status != SERVERD_OK)
        return exchange->status;
    if (exchange->body.is_failed)
        return fail(err, RUN_UNREACHABLE, "the server's reply has more than %zu bytes",
                    exchange->body.limit);
    if (result != CURLE_OK && !exchange->is_stopped && !exchange->is_done)
        return fail(err, RUN_UNREACHABLE, "%s: %s", exchange->connection->url,
                    curl_easy_strerror(result));
    if (exchange->is_stream && !exchange->is_stopped && !exchange->is_done)
        return fail(err, RUN_UNREACHABLE, "%s: the stream ended without [DONE]",
                    exchange->connection->url);
    (void)curl_easy_getinfo(exchange->connection->easy, CURLINFO_RESPONSE_CODE, &http_status);
    json_t *body = exchange->is_stream ? NULL
                                       : json_loadb(buffer_str(&exchange->body), exchange->body.len,
                                                    JSON_ALLOW_NUL | JSON_DECODE_ANY, &at);
    *out = (struct reply){.http_status = http_status, .body = body};
    return SERVERD_OK;
}

static serverd_status perform(struct exchange *exchange, const char *method, const char *path,
                              const json_t *body, struct reply *out, serverd_error *err)
{
    struct buffer url;
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    serverd_status status;
    buffer_init(&url, LIMIT_OPTION_BYTES + 512);
    buffer_printf(&url, "%s%s", exchange->connection->url, path);
    buffer_init(&exchange->body, RUN_REPLY_LIMIT);
    sse_init(&exchange->sse, RUN_REPLY_LIMIT, on_sse, exchange);
    exchange->err = err;
    if (url.is_failed || (body && !text)) {
        status = fail(err, SERVERD_NOMEM, "HTTP client: a request cannot be written");
    } else {
        set_up(exchange, method, buffer_str(&url), text);
        status = judge(exchange, transfer(exchange), out, err);
    }
    sse_deinit(&exchange->sse);
    buffer_deinit(&exchange->body);
    buffer_deinit(&url);
    free(text);
    return status;
}

serverd_status connection_ask(struct connection *connection, const char *method, const char *path,
                              const json_t *body, struct reply *out, serverd_error *err)
{
    struct exchange exchange = {.connection = connection};
    return perform(&exchange, method, path, body, out, err);
}

serverd_status connection_stream(struct connection *connection, const char *path,
                                 const json_t *body, connection_event on_event, void *context,
                                 struct reply *out, serverd_error *err)
{
    struct exchange exchange = {.connection = connection, .on_event = on_event, .context = context};
    return perform(&exchange, "POST", path, body, out, err);
}

void connection_tell(struct connection *connection, const char *method, const char *path)
{
    struct exchange exchange = {.connection = connection, .is_tell = true};
    struct reply reply;
    serverd_error ignored;
    if (perform(&exchange, method, path, NULL, &reply, &ignored) == SERVERD_OK)
        json_decref(reply.body);
}
