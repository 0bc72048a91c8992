/* What the edge says to one request, well-formed or not: status, headers, and what becomes of
 * the connection. */
#include "edge_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define HOST  "Host: x\r\n"
#define POST  "POST /v1/completions HTTP/1.1\r\n"
#define JSON  "Content-Type: application/json\r\n"
#define BODY  "{\"prompt\":\"x\",\"max_tokens\":1}" /* 29 bytes */
#define LEN   "Content-Length: 29\r\n"
#define NEXT  "GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
#define CLOSE "Connection: close\r\n"

/* ---- refusals ------------------------------------------------------------------------------- */

struct refusal {
    const char *name, *bytes;
    size_t n; /* 0: the text's length */
    int status;
    bool ends; /* nothing that follows on the connection is answered */
};

#define NUL_VALUE POST HOST JSON "X-A: b\0c\r\n" LEN "\r\n" BODY
#define NUL_LINE  POST HOST JSON LEN "X-A: b\0\r\n\r\n" BODY

static const struct refusal refusals[] = {
    {"two lengths", POST HOST JSON "Content-Length: 5\r\n" LEN "\r\n" BODY, 0, 400, true},
    {"two equal lengths", POST HOST JSON LEN LEN "\r\n" BODY, 0, 400, true},
    {"length and chunked", POST HOST JSON LEN "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400,
     true},
    {"gzip, chunked", POST HOST JSON "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 0, 501,
     true},
    {"xchunked", POST HOST JSON "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0, 501, true},
    {"two codings",
     POST HOST JSON "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0,
     400, true},
    {"chunked in 1.0",
     "POST /v1/completions HTTP/1.0\r\n" HOST JSON "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0,
     400, true},
    {"space before the colon", POST HOST JSON "Content-Length : 29\r\n\r\n" BODY, 0, 400, true},
    {"folded value", POST HOST JSON "X-A: b\r\n c\r\n" LEN "\r\n" BODY, 0, 400, true},
    {"length folded away", POST HOST JSON "Content-Length: 5\r\n x\r\n" LEN "\r\n" BODY, 0, 400,
     true},
    {"length folded together", POST HOST JSON "Content-: 29\r\n Length\r\n\r\n" BODY, 0, 400, true},
    {"empty name", POST HOST JSON ": y\r\n" LEN "\r\n" BODY, 0, 400, true},
    {"NUL in a value", NUL_VALUE, sizeof NUL_VALUE - 1, 400, true},
    {"NUL at a value's end", NUL_LINE, sizeof NUL_LINE - 1, 400, true},
    {"bare LF", POST HOST JSON "X-A: b\n" LEN "\r\n" BODY, 0, 400, true},
    {"bare CR", POST HOST JSON "X-A: b\rc\r\n" LEN "\r\n" BODY, 0, 400, true},
    {"control character", POST HOST JSON "X-A: b\x01\r\n" LEN "\r\n" BODY, 0, 400, true},
    {"odd header name", POST HOST JSON "X(A): b\r\n" LEN "\r\n" BODY, 0, 400, true},
    {"no host", POST JSON LEN "\r\n" BODY, 0, 400, true},
    {"two hosts", POST HOST "Host: y\r\n" JSON LEN "\r\n" BODY, 0, 400, true},
    {"length over the limit", POST HOST JSON "Content-Length: 999999999\r\n\r\n", 0, 413, true},
    {"no length", POST HOST JSON "\r\n", 0, 411, true},
    {"odd expectation", POST HOST JSON "Expect: 200-maybe\r\n" LEN "\r\n" BODY, 0, 417, true},
    {"two expectations",
     POST HOST JSON "Expect: 100-continue\r\nExpect: 100-continue\r\n" LEN "\r\n" BODY, 0, 400,
     true},
    {"two types", POST HOST JSON JSON LEN "\r\n" BODY, 0, 400, true},
    {"two keys",
     POST HOST JSON "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n" LEN "\r\n" BODY, 0,
     400, true},
    {"compressed body", POST HOST JSON "Content-Encoding: gzip\r\n" LEN "\r\n" BODY, 0, 415, false},
    {"form", POST HOST "Content-Type: text/plain\r\n" LEN "\r\n" BODY, 0, 415, false},
    {"no type", POST HOST LEN "\r\n" BODY, 0, 415, false},
    {"no slash", "GET version HTTP/1.1\r\n" HOST "\r\n", 0, 400, true},
    {"asterisk", "GET * HTTP/1.1\r\n" HOST "\r\n", 0, 400, true},
    {"escaped NUL", "GET /health%00 HTTP/1.1\r\n" HOST "\r\n", 0, 400, true},
    {"bad escape", "GET /health%zz HTTP/1.1\r\n" HOST "\r\n", 0, 400, true},
    {"cut escape", "GET /health%a HTTP/1.1\r\n" HOST "\r\n", 0, 400, true},
    {"dots", "GET /v1/../health HTTP/1.1\r\n" HOST "\r\n", 0, 404, false},
    {"escaped dots", "GET /v1/%2e%2e/health HTTP/1.1\r\n" HOST "\r\n", 0, 404, false},
    {"escaped slash", "GET /v1%2fmodels HTTP/1.1\r\n" HOST "\r\n", 0, 404, false},
    {"backslash", "GET /v1\\models HTTP/1.1\r\n" HOST "\r\n", 0, 404, false},
    {"unknown path", "GET /nothing HTTP/1.1\r\n" HOST "\r\n", 0, 404, false},
    {"body on GET", "GET /version HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc", 0, 400, true},
    {"unknown method", "BREW /version HTTP/1.1\r\n" HOST "\r\n", 0, 501, true},
    {"lower case method", "get /version HTTP/1.1\r\n" HOST "\r\n", 0, 501, true},
    {"method is no token", "G@T /version HTTP/1.1\r\n" HOST "\r\n", 0, 400, true},
    {"wrong method", "DELETE /v1/models HTTP/1.1\r\n" HOST "\r\n", 0, 405, false},
    {"GET on a POST route", "GET /v1/completions HTTP/1.1\r\n" HOST "\r\n", 0, 405, false},
    {"version 1.2", "GET /version HTTP/1.2\r\n" HOST "\r\n", 0, 505, true},
};

static int start(void **state)
{
    *state = edge_create(&(struct edge_setup){.keys = NULL});
    return 0;
}

static int stop(void **state)
{
    edge_destroy(*state);
    return 0;
}

static int n_replies(const char *text)
{
    int n = 0;
    while ((text = strstr(text, "HTTP/1.1 "))) {
        text += 9;
        n += *text >= '1' && *text <= '5';
    }
    return n;
}

static void malformed_requests_get_their_status_and_an_envelope(void **state)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        char *reply = client_talk(*state, r->bytes, r->n ? r->n : strlen(r->bytes));
        if (reply_status(reply) != r->status || n_replies(reply) != 1 ||
            !strstr(reply, "\r\n\r\n{\"error\":{\"message\":\""))
            fail_msg("%s: wanted %d, got %s", r->name, r->status, reply);
        free(reply);
    }
}

static void nothing_rides_behind_a_refused_head(void **state)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        size_t n = r->n ? r->n : strlen(r->bytes), n_next = strlen(NEXT);
        char *both = malloc(n + n_next);
        assert_non_null(both);
        memcpy(both, r->bytes, n);
        memcpy(both + n, NEXT, n_next);
        char *reply = client_talk(*state, both, n + n_next);
        if (n_replies(reply) != (r->ends ? 1 : 2))
            fail_msg("%s: %s", r->name, reply);
        free(reply);
        free(both);
    }
}

static void check_filled(struct edge *edge, const char *before, size_t n, const char *after,
                         int status)
{
    struct buffer b;
    buffer_init(&b, MIB);
    buffer_append_str(&b, before);
    for (size_t i = 0; i < n; i++)
        buffer_append_char(&b, 'a');
    buffer_append_str(&b, after);
    assert_int_equal(client_status(edge, buffer_str(&b)), status);
    buffer_deinit(&b);
}

/* The library answers these itself, and says the status line twice. */
static void lengths_and_versions_that_are_none_end_the_connection(void **state)
{
    static const char *const lengths[] = {
        "-1", "0x1d", "29,29", "29 29", "+29", "", "99999999999999999999999999"};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char head[512];
        (void)snprintf(head, sizeof head, POST HOST JSON "Content-Length: %s\r\n\r\n" BODY NEXT,
                       lengths[i]);
        char *reply = client_talk(*state, head, strlen(head));
        if (reply_status(reply) != 400 && reply_status(reply) != 413)
            fail_msg("%s: %s", lengths[i], reply);
        assert_null(strstr(reply, " 200 "));
        free(reply);
    }
    assert_int_equal(client_status(*state, "GET /version HTTP/3.0\r\n" HOST "\r\n"), 505);
}

static void long_targets_and_heads_are_refused(void **state)
{
    check_filled(*state, "GET /", 2047, " HTTP/1.1\r\n" HOST "\r\n", 404);
    check_filled(*state, "GET /", 2048, " HTTP/1.1\r\n" HOST "\r\n", 414);
    check_filled(*state, "GET / HTTP/1.1\r\n" HOST "X-A: ", 20000, "\r\n\r\n", 431);
}

static void check_headers(struct edge *edge, int n, int status)
{
    struct buffer b;
    buffer_init(&b, MIB);
    buffer_append_str(&b, "GET /version HTTP/1.1\r\n" HOST);
    for (int i = 1; i < n; i++)
        buffer_printf(&b, "X-%d: y\r\n", i);
    buffer_append_str(&b, "\r\n");
    assert_int_equal(client_status(edge, buffer_str(&b)), status);
    buffer_deinit(&b);
}

static void more_than_64_headers_are_refused(void **state)
{
    check_headers(*state, 40, 200);
    check_headers(*state, 65, 431);
    check_headers(*state, 200, 431);
}

/* ---- what is answered ----------------------------------------------------------------------- */

static void odd_but_legal_heads_are_understood(void **state)
{
    static const char *const heads[] = {
        "GET /version HTTP/1.1\r\nHost:x\r\n\r\n",
        "GET /version HTTP/1.1\r\nHost: \t x\r\nX-Empty:\r\nX-Blank: \r\n\r\n",
        "GET /version HTTP/1.1\r\nHOST: x\r\nX-A: a\tb \"c\" \x80\xff\r\n\r\n",
        "GET /version HTTP/1.0\r\n\r\n",
        "GET /version?a=b&c=%20 HTTP/1.1\r\n" HOST "\r\n",
        "GET /version/ HTTP/1.1\r\n" HOST "\r\n",
        "GET /%76ersion HTTP/1.1\r\n" HOST "\r\n",
        "GET /version HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n",
        "GET /version HTTP/1.1\r\n" HOST "Cookie: a=b\r\nUpgrade: websocket\r\n\r\n",
        "\r\nGET /version HTTP/1.1\r\n" HOST "\r\n",
    };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        int status = client_status(*state, heads[i]);
        if (status != 200)
            fail_msg("head %zu: %d", i, status);
    }
}

static void aliases_lead_to_the_same_routes(void **state)
{
    static const char *const targets[] = {"/v1/models",       "/models",         "/v3/models",
                                          "/v1/models/",      "/v1/models/tiny", "/models/tiny",
                                          "/v1/models/%74iny"};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        char head[128];
        (void)snprintf(head, sizeof head, "GET %s HTTP/1.1\r\n" HOST "\r\n", targets[i]);
        if (client_status(*state, head) != 200)
            fail_msg("%s", targets[i]);
    }
}

static void health_version_and_metrics_are_there(void **state)
{
    static const char *const paths[] = {"/health", "/ping",    "/health/live", "/ready",
                                        "/",       "/version", "/metrics",     "/health/ready"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char head[128];
        (void)snprintf(head, sizeof head, "GET %s HTTP/1.1\r\n" HOST CLOSE "\r\n", paths[i]);
        char *reply = client_talk(*state, head, strlen(head));
        assert_int_equal(reply_status(reply), 200);
        assert_non_null(strstr(reply, "X-Content-Type-Options: nosniff"));
        free(reply);
    }
}

static void what_the_server_is_can_be_asked(void **state)
{
    static const struct {
        const char *path, *text;
    } rows[] = {{"/version", "\",\"commit\":\"unknown\"}"},
                {"/", "\nPOST /v1/responses\n"},
                {"/", "\nGET /tokenizer_info\n"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char head[128];
        (void)snprintf(head, sizeof head, "GET %s HTTP/1.1\r\n" HOST CLOSE "\r\n", rows[i].path);
        char *reply = client_talk(*state, head, strlen(head));
        if (reply_status(reply) != 200 || !strstr(reply, rows[i].text))
            fail_msg("%s: %s", rows[i].path, reply);
        free(reply);
    }
}

static void head_is_get_without_a_body(void **state)
{
    static const char get[] = "GET /version HTTP/1.1\r\n" HOST CLOSE "\r\n";
    static const char head[] = "HEAD /version HTTP/1.1\r\n" HOST CLOSE "\r\n";
    char *whole = client_talk(*state, get, sizeof get - 1);
    char *reply = client_talk(*state, head, sizeof head - 1);
    const char *length = strstr(whole, "Content-Length: ");
    assert_int_equal(reply_status(reply), 200);
    assert_string_equal(strstr(reply, "\r\n\r\n"), "\r\n\r\n");
    assert_non_null(length);
    assert_memory_equal(strstr(reply, "Content-Length: "), length, 18);
    free(whole);
    free(reply);
}

static void a_wrong_method_names_the_allowed_ones(void **state)
{
    static const char head[] = "DELETE /v1/models HTTP/1.1\r\n" HOST CLOSE "\r\n";
    char *reply = client_talk(*state, head, sizeof head - 1);
    assert_non_null(strstr(reply, "\r\nAllow: GET, HEAD, OPTIONS\r\n"));
    free(reply);
}

static void errors_have_the_form_of_their_dialect(void **state)
{
    static const char *const anthropic[] = {"GET /v1/messages", "GET /messages/",
                                            "GET /v1/messages/batches", "PUT /v3/messages?beta=1"};
    static const char *const openai[] = {"GET /v1/chat/completions", "GET /v1/nothing",
                                         "GET /v1/mess"};
    char head[128];
    for (size_t i = 0; i < 7; i++) {
        const bool is_openai = i >= 4;
        (void)snprintf(head, sizeof head, "%s HTTP/1.1\r\n" HOST CLOSE "\r\n",
                       is_openai ? openai[i - 4] : anthropic[i]);
        char *reply = client_talk(*state, head, strlen(head));
        if (!strstr(reply, is_openai ? "\r\n\r\n{\"error\":{" : "\r\n\r\n{\"type\":\"error\","))
            fail_msg("%s: %s", head, reply);
        free(reply);
    }
}

static void options_need_no_body_and_show_no_foreign_origin(void **state)
{
    static const char head[] =
        "OPTIONS * HTTP/1.1\r\n" HOST "Origin: https://evil.example\r\n" CLOSE "\r\n";
    char *reply = client_talk(*state, head, sizeof head - 1);
    assert_int_equal(reply_status(reply), 204);
    assert_non_null(strstr(reply, "\r\nAllow: "));
    assert_null(strcasestr(reply, "access-control"));
    free(reply);
}

static void request_ids_are_echoed_if_clean(void **state)
{
    static const char clean[] =
        "GET /version HTTP/1.1\r\n" HOST "X-Request-Id: a-B_3.\r\n" CLOSE "\r\n";
    static const char odd[] = "GET /version HTTP/1.1\r\n" HOST "X-Request-Id: a b\r\n" CLOSE "\r\n";
    char *reply = client_talk(*state, clean, sizeof clean - 1);
    assert_non_null(strstr(reply, "\r\nX-Request-Id: a-B_3.\r\n"));
    free(reply);
    reply = client_talk(*state, odd, sizeof odd - 1);
    assert_non_null(strstr(reply, "\r\nX-Request-Id: req_"));
    free(reply);
}

/* ---- connections ---------------------------------------------------------------------------- */

static void a_connection_serves_many_requests(void **state)
{
    int fd = client_connect(*state);
    for (int i = 0; i < 20; i++) {
        client_post(fd, "/v1/completions", "", BODY);
        char *reply = client_read_reply(fd, true);
        assert_int_equal(reply_status(reply), 200);
        free(reply);
    }
    (void)close(fd);
}

static void a_refused_key_or_path_keeps_the_connection(void **state)
{
    int fd = client_connect(*state);
    client_post(fd, "/v1/nothing", "", BODY);
    char *reply = client_read_reply(fd, true);
    assert_int_equal(reply_status(reply), 404);
    free(reply);
    client_post(fd, "/v1/completions", "", BODY);
    reply = client_read_reply(fd, true);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    (void)close(fd);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    static const char three[] =
        NEXT POST HOST JSON LEN "\r\n" BODY "GET /health HTTP/1.1\r\n" HOST CLOSE "\r\n";
    int fd = client_connect(*state);
    client_send_text(fd, three);
    char *reply = client_read_all(fd);
    assert_int_equal(n_replies(reply), 3);
    const char *version = strstr(reply, "{\"version\""), *text = strstr(reply, "text_completion");
    assert_true(version && text && version < text && text < strstr(reply, "{\"status\":\"ok\"}"));
    free(reply);
    (void)close(fd);
}

static void a_request_byte_by_byte_is_understood(void **state)
{
    static const char request[] = POST HOST JSON "X-Empty:\r\n" CLOSE LEN "\r\n" BODY;
    int fd = client_connect(*state);
    for (size_t i = 0; i < sizeof request - 1; i++) {
        client_send(fd, request + i, 1);
        (void)usleep(200);
    }
    char *reply = client_read_all(fd);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    (void)close(fd);
}

static void a_chunked_body_is_read_and_ends_the_connection(void **state)
{
    static const char request[] =
        POST HOST JSON "Transfer-Encoding: chunked\r\n\r\n"
                       "5;x=y\r\n{\"pro\r\n18\r\nmpt\":\"x\",\"max_tokens\":1}\r\n0\r\n\r\n" NEXT;
    int fd = client_connect(*state);
    client_send_text(fd, request);
    char *reply = client_read_all(fd);
    assert_int_equal(reply_status(reply), 200);
    assert_int_equal(n_replies(reply), 1);
    assert_non_null(strstr(reply, "\r\nConnection: close\r\n"));
    free(reply);
    (void)close(fd);
}

static void expectations_are_met_before_the_body(void **state)
{
    int fd = client_connect(*state);
    client_send_text(fd, POST HOST JSON "Expect: 100-continue\r\n" LEN "\r\n");
    char *reply = client_read_reply(fd, false);
    assert_int_equal(reply_status(reply), 100);
    free(reply);
    client_send_text(fd, BODY);
    reply = client_read_reply(fd, true);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    (void)close(fd);
}

static void a_chunked_body_over_the_limit_is_refused(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.options = {"max-body=1024"}});
    char chunk[600];
    memset(chunk, ' ', sizeof chunk);
    int fd = client_connect(edge);
    client_send_text(fd, POST HOST JSON "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 10; i++) {
        client_send_text(fd, "258\r\n");
        client_send(fd, chunk, sizeof chunk);
        client_send_text(fd, "\r\n");
    }
    client_send_text(fd, "0\r\n\r\n");
    char *reply = client_read_all(fd);
    assert_int_equal(reply_status(reply), 413);
    free(reply);
    (void)close(fd);

    /* one that does not end is cut off */
    fd = client_connect(edge);
    client_send_text(fd, POST HOST JSON "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 10000 && !client_is_closed(fd, 0); i++) {
        client_send_text(fd, "258\r\n");
        client_send(fd, chunk, sizeof chunk);
        client_send_text(fd, "\r\n");
    }
    assert_true(client_is_closed(fd, 5000));
    (void)close(fd);
    edge_destroy(edge);
}

static void hosts_outside_the_list_are_refused(void **state)
{
    (void)state;
    struct edge *edge =
        edge_create(&(struct edge_setup){.options = {"allowed-hosts=localhost, [::1]"}});
    assert_int_equal(client_status(edge, "GET /version HTTP/1.1\r\nHost: LOCALHOST:80\r\n\r\n"),
                     200);
    assert_int_equal(client_status(edge, "GET /version HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"), 200);
    assert_int_equal(client_status(edge, "GET /version HTTP/1.1\r\nHost: evil\r\n\r\n"), 421);
    assert_int_equal(client_status(edge, "GET /version HTTP/1.1\r\nHost: localhos\r\n\r\n"), 421);
    assert_int_equal(client_status(edge, "GET /version HTTP/1.1\r\nHost: \r\n\r\n"), 421);
    edge_destroy(edge);
}

static void listed_origins_get_cors_headers(void **state)
{
    (void)state;
    static const char good[] =
        "OPTIONS /v1/completions HTTP/1.1\r\n" HOST "Origin: https://a.example\r\n"
        "Access-Control-Request-Method: POST\r\n" CLOSE "\r\n";
    static const char bad[] =
        "GET /version HTTP/1.1\r\n" HOST "Origin: https://a.example.evil\r\n" CLOSE "\r\n";
    struct edge *edge = edge_create(&(struct edge_setup){
        .options = {"cors-origins=https://b.example,https://a.example"}, .keys = "secret\n"});
    char *reply = client_talk(edge, good, sizeof good - 1);
    assert_int_equal(reply_status(reply), 204);
    assert_non_null(strstr(reply, "\r\nAccess-Control-Allow-Origin: https://a.example\r\n"));
    assert_non_null(strstr(reply, "\r\nVary: Origin\r\n"));
    assert_non_null(strstr(reply, "\r\nAccess-Control-Allow-Headers: Authorization"));
    free(reply);
    reply = client_talk(edge, bad, sizeof bad - 1);
    assert_null(strcasestr(reply, "access-control"));
    free(reply);
    edge_destroy(edge);
}

/* ---- keys ----------------------------------------------------------------------------------- */

static int status_with(struct edge *edge, const char *target, const char *headers)
{
    char head[512];
    (void)snprintf(head, sizeof head, "GET %s HTTP/1.1\r\n" HOST "%s\r\n", target, headers);
    return client_status(edge, head);
}

static void keys_guard_all_but_the_public_routes(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.keys = "# ours\n  first\t\r\n\nsecond"});
    static const char *const guarded[] = {"/v1/models", "/models", "/v3/models", "/v1/models/tiny",
                                          "/metrics"};
    static const char *const open[] = {"/health", "/ready", "/version", "/"};
    assert_int_equal(server_n_keys(edge->server), 2);
    for (size_t i = 0; i < sizeof guarded / sizeof *guarded; i++) {
        assert_int_equal(status_with(edge, guarded[i], ""), 401);
        assert_int_equal(status_with(edge, guarded[i], "Authorization: Bearer wrong\r\n"), 401);
        assert_int_equal(status_with(edge, guarded[i], "Authorization: Basic first\r\n"), 401);
        assert_int_equal(status_with(edge, guarded[i], "Authorization: Bearer first\r\n"), 200);
        assert_int_equal(status_with(edge, guarded[i], "X-Api-Key: second\r\n"), 200);
        assert_int_equal(status_with(edge, guarded[i], "api-key: second\r\n"), 200);
        assert_int_equal(
            status_with(edge, guarded[i], "Authorization: Bearer first\r\nx-api-key: first\r\n"),
            200);
        assert_int_equal(
            status_with(edge, guarded[i], "Authorization: Bearer first\r\nx-api-key: second\r\n"),
            400);
    }
    for (size_t i = 0; i < sizeof open / sizeof *open; i++)
        assert_int_equal(status_with(edge, open[i], ""), 200);
    assert_int_equal(client_status(edge, POST HOST JSON LEN "\r\n" BODY), 401);
    edge_destroy(edge);
}

static void keys_are_read_again_and_a_broken_file_changes_nothing(void **state)
{
    (void)state;
    serverd_error err;
    struct edge *edge = edge_create(&(struct edge_setup){.keys = "old\n"});
    edge_write_keys(edge, "new\n");
    assert_int_equal(server_reload_keys(edge->server, &err), SERVERD_OK);
    assert_int_equal(status_with(edge, "/metrics", "x-api-key: old\r\n"), 401);
    assert_int_equal(status_with(edge, "/metrics", "x-api-key: new\r\n"), 200);
    static const char *const broken[] = {"",
                                         "# none\n",
                                         "two words\n",
                                         "caf\xc3\xa9\n",
                                         "new weight=0\n",
                                         "new weight=12345\n",
                                         "new weight=-1\n",
                                         "new weight=\n",
                                         "new weight=2 more\n"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        edge_write_keys(edge, broken[i]);
        assert_int_not_equal(server_reload_keys(edge->server, &err), SERVERD_OK);
        assert_int_equal(status_with(edge, "/metrics", "x-api-key: new\r\n"), 200);
    }
    edge_write_keys(edge, " heavy \t weight=9999 \r\n# weight=2\nlight\n");
    assert_int_equal(server_reload_keys(edge->server, &err), SERVERD_OK);
    assert_int_equal(status_with(edge, "/metrics", "x-api-key: heavy\r\n"), 200);
    assert_int_equal(status_with(edge, "/metrics", "x-api-key: light\r\n"), 200);
    assert_int_equal(status_with(edge, "/metrics", "x-api-key: weight=9999\r\n"), 401);
    edge_destroy(edge);
}

/* ---- without a model, at the limit ---------------------------------------------------------- */

static void while_loading_requests_get_503_and_are_asked_to_come_back(void **state)
{
    (void)state;
    static const char request[] = POST HOST JSON CLOSE LEN "\r\n" BODY;
    struct edge *edge = edge_create(&(struct edge_setup){.is_loading = true});
    server_set_progress(edge->server, 0.25);
    char *reply = client_talk(edge, request, sizeof request - 1);
    assert_int_equal(reply_status(reply), 503);
    assert_non_null(strstr(reply, "\"model_loading\""));
    assert_non_null(strstr(reply, "\r\nRetry-After: 1\r\n"));
    free(reply);
    assert_int_equal(status_with(edge, "/health", ""), 503);
    assert_int_equal(status_with(edge, "/ready", ""), 503);
    assert_int_equal(status_with(edge, "/health/live", ""), 200);
    edge_publish(edge);
    assert_int_equal(status_with(edge, "/ready", ""), 200);
    int fd = client_connect(edge);
    client_send_text(fd, request);
    reply = client_read_all(fd);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    (void)close(fd);
    edge_destroy(edge);
}

static void connections_above_the_limit_get_503_and_end(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.options = {"max-connections=8"}});
    int held[8];
    for (int i = 0; i < 8; i++) {
        held[i] = client_connect(edge);
        client_send_text(held[i], NEXT);
        char *reply = client_read_reply(held[i], true);
        assert_int_equal(reply_status(reply), 200);
        free(reply);
    }
    int fd = client_connect(edge);
    client_send_text(fd, NEXT);
    char *reply = client_read_all(fd);
    assert_int_equal(reply_status(reply), 503);
    assert_non_null(strstr(reply, "too_many_connections"));
    free(reply);
    (void)close(fd);
    for (int i = 0; i < 8; i++)
        (void)close(held[i]);
    (void)usleep(50000);
    assert_int_equal(client_status(edge, NEXT), 200);
    edge_destroy(edge);
}

/* ---- time ----------------------------------------------------------------------------------- */

static void a_head_that_takes_too_long_ends_the_connection(void **state)
{
    struct edge *edge = *state;
    int silent = client_connect(edge), slow = client_connect(edge), idle = client_connect(edge);
    client_send_text(slow, "GET /version HTTP/1.1\r\nHo");
    client_send_text(idle, NEXT);
    free(client_read_reply(idle, true));
    (void)usleep(50000);
    edge_advance(edge, 5);
    assert_false(client_is_closed(slow, 100));
    edge_advance(edge, 8);
    assert_true(client_is_closed(slow, 5000));
    assert_true(client_is_closed(silent, 5000));
    assert_false(client_is_closed(idle, 100));
    edge_advance(edge, 90);
    assert_true(client_is_closed(idle, 5000));
    (void)close(silent);
    (void)close(slow);
    (void)close(idle);
}

static void a_body_that_trickles_ends_the_connection(void **state)
{
    struct edge *edge = *state;
    int slow = client_connect(edge), steady = client_connect(edge);
    char block[8192];
    memset(block, ' ', sizeof block);
    client_send_text(slow, POST HOST JSON "Content-Length: 100000\r\n\r\n{");
    client_send_text(steady, POST HOST JSON "Content-Length: 100000\r\n\r\n{");
    client_send(steady, block, sizeof block);
    (void)usleep(50000);
    edge_advance(edge, 4);
    assert_false(client_is_closed(slow, 100));
    edge_advance(edge, 5);
    assert_true(client_is_closed(slow, 5000));
    assert_false(client_is_closed(steady, 100));
    edge_advance(edge, 30);
    assert_true(client_is_closed(steady, 5000));
    (void)close(slow);
    (void)close(steady);
    edge_wait_idle(edge);
}

/* ---- any bytes ------------------------------------------------------------------------------ */

static uint32_t draw(uint64_t *seed, uint32_t n)
{
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)(*seed >> 33) % n;
}

/* A good request with some bytes changed, added or missing. */
static void mutate(uint64_t *seed, struct buffer *out)
{
    static const char *const pieces[] = {
        "\r\n",     "\n",        ": ",    "Content-Length: 3\r\n",
        "{{{{{{",   "\"",        "1e999", "Transfer-Encoding: chunked\r\n",
        "\r\n\r\n", " HTTP/1.1", "%00",   "Expect: 100-continue\r\n"};
    char text[1024] = POST HOST JSON "X-A: b\r\n" CLOSE LEN "\r\n" BODY;
    size_t n = strlen(text);
    for (uint32_t left = 1 + draw(seed, 6); left > 0; left--) {
        size_t at = draw(seed, (uint32_t)n), cut = draw(seed, 20);
        const char *piece = pieces[draw(seed, sizeof pieces / sizeof *pieces)];
        size_t len = strlen(piece);
        switch (draw(seed, 3)) {
        case 0:
            text[at] = (char)draw(seed, 256);
            break;
        case 1:
            cut = cut < n - at ? cut : n - at - 1;
            memmove(text + at, text + at + cut, n - at - cut);
            n -= cut;
            break;
        default:
            memmove(text + at + len, text + at, n - at);
            memcpy(text + at, piece, len);
            n += len;
        }
    }
    buffer_append(out, text, n);
}

static void mutated_requests_harm_nobody(void **state)
{
    uint64_t seed = 20240;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 500; i++) {
        struct buffer b;
        buffer_init(&b, MIB);
        mutate(&seed, &b);
        char *reply = client_talk(*state, b.data, b.len);
        int status = reply_status(reply);
        if (status >= 500 && status != 501 && status != 505)
            fail_msg("%d: %s", i, reply);
        free(reply);
        buffer_deinit(&b);
    }
    assert_int_equal(client_status(*state, NEXT), 200);
    edge_wait_idle(*state);
}

int main(void)
{
#define FACT(f) cmocka_unit_test_setup_teardown(f, start, stop)
    const struct CMUnitTest tests[] = {
        FACT(malformed_requests_get_their_status_and_an_envelope),
        FACT(nothing_rides_behind_a_refused_head),
        FACT(lengths_and_versions_that_are_none_end_the_connection),
        FACT(long_targets_and_heads_are_refused),
        FACT(more_than_64_headers_are_refused),
        FACT(odd_but_legal_heads_are_understood),
        FACT(aliases_lead_to_the_same_routes),
        FACT(health_version_and_metrics_are_there),
        FACT(what_the_server_is_can_be_asked),
        FACT(head_is_get_without_a_body),
        FACT(a_wrong_method_names_the_allowed_ones),
        FACT(errors_have_the_form_of_their_dialect),
        FACT(options_need_no_body_and_show_no_foreign_origin),
        FACT(request_ids_are_echoed_if_clean),
        FACT(a_connection_serves_many_requests),
        FACT(a_refused_key_or_path_keeps_the_connection),
        FACT(pipelined_requests_are_answered_in_order),
        FACT(a_request_byte_by_byte_is_understood),
        FACT(a_chunked_body_is_read_and_ends_the_connection),
        FACT(expectations_are_met_before_the_body),
        FACT(a_head_that_takes_too_long_ends_the_connection),
        FACT(a_body_that_trickles_ends_the_connection),
        FACT(mutated_requests_harm_nobody),
        cmocka_unit_test(a_chunked_body_over_the_limit_is_refused),
        cmocka_unit_test(hosts_outside_the_list_are_refused),
        cmocka_unit_test(listed_origins_get_cors_headers),
        cmocka_unit_test(keys_guard_all_but_the_public_routes),
        cmocka_unit_test(keys_are_read_again_and_a_broken_file_changes_nothing),
        cmocka_unit_test(while_loading_requests_get_503_and_are_asked_to_come_back),
        cmocka_unit_test(connections_above_the_limit_get_503_and_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
