#include "tools/bench/http_load.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/limits.h"
#include "tools/http_client.h"
#include "tools/sse.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_LIMIT (4 * MIB)
#define ERROR_LIMIT (64 * KIB) /* of a reply that is no stream */

struct transfer {
    struct load_client *client;
    CURL *easy;
    struct record *record; /* NULL: free */
    struct sse_parser sse;
    struct buffer error_body;
    struct transfer *next; /* of the free ones, or of all */
    struct transfer *next_free;
};

struct load_client {
    CURLM *multi;
    struct curl_slist *headers;
    char *url; /* without a / or /v1 at its end */
    double timeout_s;
    uint64_t begin_ns;
    struct transfer *all, *free;
    uint32_t n_running;
};

double load_client_now(const struct load_client *client)
{
    return (double)(clock_now_ns(&system_clock) - client->begin_ns) * 1e-9;
}

uint32_t load_client_n_running(const struct load_client *client)
{
    return client->n_running;
}

void load_client_begin(struct load_client *client)
{
    client->begin_ns = clock_now_ns(&system_clock);
}

/* ---- life ---- */

serverd_status load_client_create(const struct load_client_options *options,
                                  struct load_client **out, serverd_error *err)
{
    if (strncmp(options->url, "http://", 7) != 0 && strncmp(options->url, "https://", 8) != 0)
        return fail(err, SERVERD_INVALID, "--url: \"%.100s\" does not begin with http://",
                    options->url);
    struct load_client *client = calloc(1, sizeof *client);
    bool is_made = client && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    if (is_made) {
        client->multi = curl_multi_init();
        client->url = http_client_base_url(options->url);
        client->timeout_s = options->timeout_s;
        load_client_begin(client);
        is_made = client->multi && client->url &&
                  http_client_add_headers(&client->headers,
                                          options->api_key ? options->api_key : "none") &&
                  curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, (long)LOAD_MAX_RUNNING) ==
                      CURLM_OK;
    }
    if (!is_made) {
        load_client_destroy(client);
        return fail(err, SERVERD_NOMEM, "HTTP client: no memory");
    }
    *out = client;
    return SERVERD_OK;
}

void load_client_destroy(struct load_client *client)
{
    if (!client)
        return;
    for (struct transfer *t = client->all, *next; t; t = next) {
        next = t->next;
        if (t->record)
            (void)curl_multi_remove_handle(client->multi, t->easy); /* it is being dropped */
        curl_easy_cleanup(t->easy);
        sse_deinit(&t->sse);
        buffer_deinit(&t->error_body);
        free(t);
    }
    if (client->multi)
        (void)curl_multi_cleanup(client->multi); /* nothing can be done about a failure */
    curl_slist_free_all(client->headers);
    free(client->url);
    free(client);
}

/* ---- one request ---- */

static void on_event(void *context, const char *data, size_t n)
{
    struct transfer *transfer = context;
    record_event(transfer->record, data, n, load_client_now(transfer->client));
}

static size_t on_bytes(char *bytes, size_t size, size_t n, void *context)
{
    struct transfer *transfer = context;
    struct record *record = transfer->record;
    serverd_error err;
    if (record->http_status == 0 &&
        curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &record->http_status) != CURLE_OK)
        return 0;
    if (record->http_status != 200) {
        buffer_append(&transfer->error_body, bytes, size * n);
        return size * n; /* a failed buffer is cut, which does for a message */
    }
    if (sse_push(&transfer->sse, bytes, size * n, &err) != SERVERD_OK) {
        record_fail(record, "%s", err.text);
        return 0;
    }
    return size * n;
}

static void set_common(CURL *easy, const struct load_client *client, const char *url,
                       double timeout_s)
{
    /* these fail only for options that libcurl was built without */
    (void)curl_easy_setopt(easy, CURLOPT_URL, url);
    (void)curl_easy_setopt(easy, CURLOPT_HTTPHEADER, client->headers);
    (void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(timeout_s * 1000));
}

static struct transfer *take_transfer(struct load_client *client)
{
    struct transfer *transfer = client->free;
    if (transfer) {
        client->free = transfer->next_free;
        sse_deinit(&transfer->sse);
    } else {
        transfer = calloc(1, sizeof *transfer);
        if (transfer && !(transfer->easy = curl_easy_init())) {
            free(transfer);
            return NULL;
        }
        if (!transfer)
            return NULL;
        transfer->client = client;
        transfer->next = client->all;
        client->all = transfer;
        buffer_init(&transfer->error_body, ERROR_LIMIT);
    }
    sse_init(&transfer->sse, EVENT_LIMIT, on_event, transfer);
    buffer_reset(&transfer->error_body);
    return transfer;
}

static void give_transfer(struct load_client *client, struct transfer *transfer)
{
    transfer->record = NULL;
    transfer->next_free = client->free;
    client->free = transfer;
}

serverd_status load_client_start(struct load_client *client, const char *path, const char *body,
                                 size_t n, struct record *record, serverd_error *err)
{
    char url[LIMIT_OPTION_BYTES + 64];
    if (client->n_running == LOAD_MAX_RUNNING)
        return fail(err, SERVERD_BUSY, "more than %u requests in flight", LOAD_MAX_RUNNING);
    struct transfer *transfer = take_transfer(client);
    if (!transfer)
        return fail(err, SERVERD_NOMEM, "HTTP client: no memory");
    (void)snprintf(url, sizeof url, "%s%s", client->url, path);
    set_common(transfer->easy, client, url, client->timeout_s);
    (void)curl_easy_setopt(transfer->easy, CURLOPT_PRIVATE, transfer);
    (void)curl_easy_setopt(transfer->easy, CURLOPT_WRITEFUNCTION, on_bytes);
    (void)curl_easy_setopt(transfer->easy, CURLOPT_WRITEDATA, transfer);
    (void)curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n);
    transfer->record = record;
    if (curl_easy_setopt(transfer->easy, CURLOPT_COPYPOSTFIELDS, body) != CURLE_OK ||
        (record->start_s = load_client_now(client),
         curl_multi_add_handle(client->multi, transfer->easy)) != CURLM_OK) {
        give_transfer(client, transfer);
        return fail(err, SERVERD_NOMEM, "HTTP client: a request cannot be started");
    }
    client->n_running++;
    return SERVERD_OK;
}

static struct record *finish(struct load_client *client, struct transfer *transfer, CURLcode result)
{
    struct record *record = transfer->record;
    serverd_error err;
    record->end_s = load_client_now(client);
    (void)curl_multi_remove_handle(client->multi, transfer->easy); /* it is in there */
    (void)curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &record->http_status);
    if (record->http_status == 200 && sse_end(&transfer->sse, &err) != SERVERD_OK)
        record_fail(record, "%s", err.text);
    if (result != CURLE_OK)
        record_fail(record, "%s", curl_easy_strerror(result));
    else if (record->http_status != 200)
        record_fail_reply(record, buffer_str(&transfer->error_body), transfer->error_body.len);
    else if (!record->is_done)
        record_fail(record, "the stream ended without [DONE]");
    give_transfer(client, transfer);
    client->n_running--;
    return record;
}

serverd_status load_client_poll(struct load_client *client, double timeout_s, struct record **done,
                                serverd_error *err)
{
    int n_left, timeout_ms = timeout_s <= 0 ? 0 : timeout_s > 1 ? 1000 : (int)(timeout_s * 1000);
    *done = NULL;
    CURLMcode code = CURLM_OK;
    if (timeout_ms > 0)
        code = curl_multi_poll(client->multi, NULL, 0, timeout_ms, NULL);
    if (code == CURLM_OK)
        code = curl_multi_perform(client->multi, &n_left);
    if (code != CURLM_OK)
        return fail(err, SERVERD_INTERNAL, "HTTP client: %s", curl_multi_strerror(code));
    CURLMsg *message;
    while ((message = curl_multi_info_read(client->multi, &n_left))) {
        char *transfer = NULL;
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode result = message->data.result;
        if (curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer) != CURLE_OK)
            return fail(err, SERVERD_INTERNAL, "HTTP client: a request has no owner");
        *done = finish(client, (struct transfer *)(void *)transfer, result);
        break;
    }
    return SERVERD_OK;
}

/* ---- waited-for requests ---- */

static size_t on_body(char *bytes, size_t size, size_t n, void *context)
{
    if (context)
        buffer_append(context, bytes, size * n);
    return size * n;
}

serverd_status load_client_get_url(struct load_client *client, const char *url, double timeout_s,
                                   struct buffer *body, long *http_status, serverd_error *err)
{
    CURL *easy = curl_easy_init();
    if (!easy)
        return fail(err, SERVERD_NOMEM, "HTTP client: no memory");
    set_common(easy, client, url, timeout_s);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, body);
    *http_status = 0;
    if (curl_easy_perform(easy) == CURLE_OK)
        (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, http_status);
    curl_easy_cleanup(easy);
    return SERVERD_OK;
}

serverd_status load_client_get(struct load_client *client, const char *path, double timeout_s,
                               struct buffer *body, long *http_status, serverd_error *err)
{
    char url[LIMIT_OPTION_BYTES + 64];
    (void)snprintf(url, sizeof url, "%s%s", client->url, path);
    return load_client_get_url(client, url, timeout_s, body, http_status, err);
}

serverd_status load_read_key(const char *path, char **out, serverd_error *err)
{
    char *text;
    size_t len;
    serverd_status status = file_read(path, LIMIT_CONFIG_BYTES, &text, &len, err);
    if (status != SERVERD_OK)
        return error_context(err, "--api-key-file");
    for (const char *line = text; *line;) {
        size_t n = strcspn(line, "\r\n#"), end = strcspn(line, "\n");
        while (n > 0 && (line[n - 1] == ' ' || line[n - 1] == '\t'))
            n--;
        if (n > 0) {
            *out = n <= LIMIT_OPTION_BYTES ? strndup(line, n) : NULL;
            free(text);
            return *out ? SERVERD_OK : fail(err, SERVERD_NOMEM, "--api-key-file: %s", path);
        }
        line += end + (line[end] == '\n');
    }
    free(text);
    return fail(err, SERVERD_INVALID, "--api-key-file: %s: no key in it", path);
}
