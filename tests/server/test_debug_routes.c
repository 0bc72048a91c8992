/* The routes of operators, through sockets: who may use them, what they show of a running engine,
 * clients that leave; and the log's line for each request. */
#include "edge_fixture.h"
#include "server/server_internal.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOW "null:min_token=10;step_us=2000"
#define PATH "/v1/completions"
#define PROMPT                                                                                     \
    "the quick brown fox jumps over the lazy dog and then the dog jumps over the quick fox while " \
    "zebras, yaks and walruses look on: who would have thought of that in the year 1984?"
#define SHORT   "{\"prompt\":\"" PROMPT "\",\"max_tokens\":30,\"ignore_eos\":true}"
#define ENDLESS "{\"prompt\":\"" PROMPT "\",\"max_tokens\":400,\"ignore_eos\":true,\"stream\":true}"
#define CACHE   "GET /debug/kvcache HTTP/1.1\r\nHost: x\r\n"
#define TRACE   "POST /debug/trace HTTP/1.1\r\nHost: x\r\n"

static struct edge *slow_edge(void)
{
    return edge_create(&(struct edge_setup){.device = SLOW});
}

static void send_head(int fd, const char *method, const char *target)
{
    char head[256];
    (void)snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", method, target);
    client_send_text(fd, head);
}

/* The client stays until it has its answer: who closes a half has left. */
static int status_of(const struct edge *edge, const char *head)
{
    int fd = client_connect(edge);
    client_send_text(fd, head);
    char *reply = client_read_reply(fd, true);
    int status = reply_status(reply);
    free(reply);
    (void)close(fd);
    return status;
}

/* The JSON of one reply on the connection. */
static json_t *read_json(int fd)
{
    json_error_t e;
    char *reply = client_read_reply(fd, true);
    assert_int_equal(reply_status(reply), 200);
    json_t *root = json_loads(strstr(reply, "\r\n\r\n") + 4, 0, &e);
    if (!root)
        fail_msg("%s: %s", e.text, reply);
    free(reply);
    return root;
}

static json_t *get_json(const struct edge *edge, const char *method, const char *target)
{
    int fd = client_connect(edge);
    send_head(fd, method, target);
    json_t *root = read_json(fd);
    (void)close(fd);
    return root;
}

static json_int_t number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    if (!json_is_integer(value))
        fail_msg("%s is no integer", name);
    return json_integer_value(value);
}

static int start_stream(const struct edge *edge)
{
    int fd = client_connect(edge);
    client_post(fd, PATH, "", ENDLESS);
    assert_true(client_wait_for(fd, "data: "));
    return fd;
}

/* ---- who may -------------------------------------------------------------------------------- */

static void only_administrators_may_look(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){
        .keys = "plain\nnamed name=alice\nboss admin name=root\nlone\tadmin\n"});
    assert_int_equal(server_n_keys(edge->server), 4);
    assert_int_equal(status_of(edge, CACHE "\r\n"), 401);
    assert_int_equal(status_of(edge, CACHE "x-api-key: wrong\r\n\r\n"), 401);
    assert_int_equal(status_of(edge, CACHE "x-api-key: plain\r\n\r\n"), 403);
    assert_int_equal(status_of(edge, CACHE "x-api-key: named\r\n\r\n"), 403);
    assert_int_equal(status_of(edge, TRACE "x-api-key: named\r\n\r\n"), 403);
    assert_int_equal(status_of(edge, CACHE "x-api-key: boss\r\n\r\n"), 200);
    assert_int_equal(status_of(edge, CACHE "x-api-key: lone\r\n\r\n"), 200);
    assert_int_equal(status_of(edge, "GET /v1/models HTTP/1.1\r\nHost: x\r\n"
                                     "x-api-key: boss\r\n\r\n"),
                     200);
    serverd_error err;
    static const char *const broken[] = {"a admim\n", "a name=\n", "a name=x name\n",
                                         "a name=a-name-of-far-too-many-characters-for-it\n"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        edge_write_keys(edge, broken[i]);
        assert_int_not_equal(server_reload_keys(edge->server, &err), SERVERD_OK);
        assert_null(strstr(err.text, "admim"));
    }
    edge_destroy(edge);
}

static void without_keys_only_loopback_servers_show_it(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){0});
    assert_int_equal(status_of(edge, CACHE "\r\n"), 200);
    edge->server->is_local = false; /* as with --insecure on another address */
    assert_int_equal(status_of(edge, CACHE "\r\n"), 403);
    assert_int_equal(status_of(edge, TRACE "\r\n"), 403);
    edge->server->is_local = true;
    edge_destroy(edge);
}

static void odd_queries_are_refused(void **state)
{
    (void)state;
    static const char *const targets[] = {
        "GET /debug/kvcache?limit=0",       "GET /debug/kvcache?limit=10001",
        "GET /debug/kvcache?limit=x",       "GET /debug/kvcache?tokens=2",
        "POST /debug/trace?steps=0",        "POST /debug/trace?steps=-1",
        "POST /debug/trace?ops=2",          "POST /debug/trace?ops=",
        "POST /debug/trace?seconds=61",     "POST /debug/trace?a=b&seconds=",
        "POST /debug/trace?steps=10001",    "POST /debug/trace?seconds=1&steps=1e3",
        "GET /debug/kvcache?limit=1%30&x=", "GET /debug/kvcache?limit=99999999999999999999"};
    struct edge *edge = edge_create(&(struct edge_setup){0});
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        char head[256];
        (void)snprintf(head, sizeof head, "%s HTTP/1.1\r\nHost: x\r\n\r\n", targets[i]);
        assert_int_equal(status_of(edge, head), 400);
    }
    assert_int_equal(status_of(edge, "GET /debug/trace HTTP/1.1\r\nHost: x\r\n\r\n"), 405);
    edge_destroy(edge);
}

/* ---- the KV cache --------------------------------------------------------------------------- */

static void check_pages(const json_t *root)
{
    const json_t *pages = json_object_get(root, "pages");
    assert_int_equal(number(pages, "free") + number(pages, "private") + number(pages, "locked") +
                         number(pages, "evictable"),
                     number(pages, "total"));
    const json_t *windows = json_object_get(root, "window_pages");
    assert_int_equal(number(windows, "free") + number(windows, "pinned") +
                         number(windows, "middle") + number(windows, "kept"),
                     number(windows, "total"));
    assert_int_equal(number(windows, "dropped_middle") + number(windows, "dropped_kept"), 0);
}

static void the_cache_is_shown_while_requests_run_and_when_idle(void **state)
{
    (void)state;
    struct edge *edge = slow_edge();
    json_t *root = get_json(edge, "GET", "/debug/kvcache");
    assert_int_equal(json_array_size(json_object_get(root, "namespaces")), 0);
    json_decref(root);
    int stream = start_stream(edge);
    root = get_json(edge, "GET", "/debug/kvcache?tokens=1&limit=100");
    check_pages(root);
    assert_true(number(json_object_get(root, "pages"), "locked") >= 3);
    json_t *space = json_array_get(json_object_get(root, "namespaces"), 0);
    json_t *nodes = json_object_get(space, "nodes"), *node;
    size_t i;
    json_int_t n_pages = 0;
    json_array_foreach(nodes, i, node)
    {
        assert_int_equal(number(node, "id"), i + 1);
        assert_true(number(node, "locks") > 0);
        assert_int_equal(number(node, "n_tokens"), 16 * number(node, "n_pages"));
        assert_int_equal(json_array_size(json_object_get(node, "tokens")),
                         number(node, "n_tokens"));
        n_pages += number(node, "n_pages");
    }
    assert_int_equal(n_pages, number(space, "n_pages"));
    assert_int_equal(n_pages, number(json_object_get(root, "pages"), "locked"));
    json_decref(root);
    (void)close(stream);
    edge_wait_idle(edge);
    root = get_json(edge, "GET", "/debug/kvcache");
    check_pages(root);
    assert_int_equal(number(json_object_get(root, "pages"), "locked"), 0);
    assert_int_equal(number(json_object_get(root, "counters"), "requests"), 1);
    node = json_array_get(
        json_object_get(json_array_get(json_object_get(root, "namespaces"), 0), "nodes"), 0);
    assert_int_equal(json_array_size(json_object_get(node, "tokens")), 8);
    json_decref(root);
    edge_destroy(edge);
}

/* ---- the trace ------------------------------------------------------------------------------ */

struct slice {
    const char *name;
    double begin, end;
};

static struct slice slice_of(const json_t *event)
{
    double begin = json_number_value(json_object_get(event, "ts"));
    return (struct slice){json_string_value(json_object_get(event, "name")), begin,
                          begin + json_number_value(json_object_get(event, "dur"))};
}

/* Every step holds its four parts, one behind the other, and steps do not overlap. */
static uint32_t check_slices(const json_t *events)
{
    static const char *const parts[] = {"schedule", "compute", "sample", "emit"};
    const double slack = 0.0015; /* digits of three places are cut */
    struct slice step = {0};
    double at = 0.0;
    uint32_t n_steps = 0, part = 4;
    size_t i;
    json_t *event;
    json_array_foreach((json_t *)events, i, event)
    {
        const char *cat = json_string_value(json_object_get(event, "cat"));
        if (strcmp(json_string_value(json_object_get(event, "ph")), "X") != 0 ||
            strcmp(cat ? cat : "", "engine") != 0)
            continue;
        struct slice slice = slice_of(event);
        if (part == 4) {
            assert_string_equal(slice.name, "step");
            assert_true(slice.begin >= step.end - slack);
            step = slice;
            at = step.begin;
            part = 0;
            n_steps++;
            continue;
        }
        assert_string_equal(slice.name, parts[part]);
        assert_true(slice.begin >= at - slack && slice.begin <= at + slack);
        assert_true(slice.end <= step.end + 2 * slack);
        at = slice.end;
        part++;
    }
    assert_int_equal(part, 4);
    return n_steps;
}

static void a_trace_shows_steps_and_requests(void **state)
{
    (void)state;
    struct edge *edge = slow_edge();
    int trace = client_connect(edge), stream = start_stream(edge), other = client_connect(edge);
    send_head(trace, "POST", "/debug/trace?steps=60&seconds=20");
    client_post(other, PATH, "", SHORT);
    free(client_read_reply(other, true));
    json_t *root = read_json(trace), *event;
    const json_t *events = json_object_get(root, "traceEvents");
    assert_int_equal(check_slices(events), 60);
    assert_int_equal(number(json_object_get(root, "otherData"), "steps"), 60);
    uint32_t n_begun = 0, n_ended = 0, n_requests = 0;
    size_t i;
    json_array_foreach(events, i, event)
    {
        const char *kind = json_string_value(json_object_get(event, "ph"));
        n_begun += *kind == 'b';
        n_ended += *kind == 'e';
        n_requests += *kind == 'b' &&
                      strcmp(json_string_value(json_object_get(event, "name")), "request") == 0;
    }
    assert_int_equal(n_begun, n_ended);
    assert_int_equal(n_requests, 2);
    assert_int_equal(n_begun, 8); /* queued, prefill and decode of both */
    json_decref(root);
    (void)close(trace);
    (void)close(stream);
    (void)close(other);
    edge_wait_idle(edge);
    edge_destroy(edge);
}

/* The test double tells nothing of its nodes: each step is one operation of one worker, which lies
 * in its step, and waits before and behind it. */
static void a_trace_shows_operations(void **state)
{
    (void)state;
    struct edge *edge = slow_edge();
    int trace = client_connect(edge), stream = start_stream(edge);
    send_head(trace, "POST", "/debug/trace?ops=1&steps=20&seconds=20");
    json_t *root = read_json(trace), *event;
    json_t *events = json_object_get(root, "traceEvents");
    assert_int_equal(check_slices(events), 20);
    const json_t *about = json_object_get(root, "otherData");
    assert_int_equal(number(about, "events_lost"), 0);
    struct slice steps[20];
    size_t i, n_steps = 0, n_ops = 0;
    json_array_foreach(events, i, event)
    {
        const char *cat = json_string_value(json_object_get(event, "cat"));
        const json_t *args = json_object_get(event, "args");
        if (cat && strcmp(cat, "execute") == 0) {
            assert_true(n_steps < 20);
            assert_int_equal(number(args, "step"), n_steps);
            steps[n_steps++] = slice_of(event);
        }
        if (!cat || strcmp(cat, "op") != 0)
            continue;
        struct slice op = slice_of(event);
        json_int_t step = number(args, "step");
        assert_true(step >= 0 && step < 20);
        assert_true(op.begin >= steps[step].begin - 0.0015 && op.end <= steps[step].end + 0.003);
        assert_int_equal(number(args, "nodes"), number(about, "nodes"));
        assert_true(json_array_size(json_object_get(args, "tensors")) > 0);
        assert_string_equal(json_string_value(json_object_get(args, "delegate")), "null");
        n_ops++;
    }
    assert_int_equal(n_steps, 20);
    assert_int_equal(n_ops, 20);
    json_decref(root);
    (void)close(trace);
    (void)close(stream);
    edge_destroy(edge);
}

static void a_trace_of_an_idle_engine_ends_with_its_time(void **state)
{
    (void)state;
    struct edge *edge = slow_edge();
    int fd = client_connect(edge);
    send_head(fd, "POST", "/debug/trace?seconds=30");
    (void)usleep(50000);
    edge_advance(edge, 31);
    json_t *root = read_json(fd);
    assert_int_equal(check_slices(json_object_get(root, "traceEvents")), 0);
    json_decref(root);
    (void)close(fd);
    edge_destroy(edge);
}

static bool is_traced_again(const struct edge *edge)
{
    for (int i = 0; i < 200; i++) {
        int fd = client_connect(edge);
        send_head(fd, "POST", "/debug/trace?steps=1&seconds=1");
        char *reply = client_read_reply(fd, true);
        int status = reply_status(reply);
        free(reply);
        (void)close(fd);
        if (status == 200)
            return true;
        assert_int_equal(status, 429);
        (void)usleep(10000);
    }
    return false;
}

static void clients_that_leave_a_trace_end_it(void **state)
{
    (void)state;
    struct edge *edge = slow_edge();
    int stream = start_stream(edge);
    for (int i = 0; i < 5; i++) {
        int fd = client_connect(edge);
        send_head(fd, "POST", "/debug/trace?steps=10000&seconds=60");
        (void)usleep(i * 3000u);
        (void)close(fd);
        assert_true(is_traced_again(edge));
    }
    (void)close(stream);
    edge_wait_idle(edge);
    edge_destroy(edge);
}

static void the_end_does_not_wait_for_a_trace(void **state)
{
    (void)state;
    for (int drains = 0; drains < 2; drains++) {
        struct edge *edge = slow_edge();
        int fd = client_connect(edge);
        send_head(fd, "POST", "/debug/trace?steps=10000&seconds=60");
        (void)usleep(50000);
        if (drains) { /* what there is of it is given out */
            server_drain(edge->server);
            engine_drain(edge->engine);
            json_t *root = read_json(fd);
            assert_non_null(json_object_get(root, "traceEvents"));
            json_decref(root);
        } else {
            engine_stop(edge->engine);
            char *reply = client_read_reply(fd, true);
            assert_int_equal(reply_status(reply), 503);
            free(reply);
        }
        edge_destroy(edge);
        (void)close(fd);
    }
}

/* ---- the log -------------------------------------------------------------------------------- */

/* The line of a request; its id is what the client chose. */
static json_t *logged(int fd, const char *id)
{
    static char text[1 << 16];
    static size_t n;
    char wanted[64];
    (void)snprintf(wanted, sizeof wanted, "\"id\":\"%s\"", id);
    for (int i = 0; i < 500; i++) {
        char *at = strstr(text, wanted);
        if (at && strchr(at, '\n')) {
            while (at > text && at[-1] != '\n')
                at--;
            json_t *line = json_loads(at, JSON_DISABLE_EOF_CHECK, NULL);
            assert_non_null(line);
            return line;
        }
        ssize_t got = read(fd, text + n, sizeof text - 1 - n); /* the log's end writes or waits */
        if (got > 0)
            n += (size_t)got;
        text[n] = '\0';
    }
    fail_msg("no line of %s: %s", id, text);
    return NULL;
}

static const char *string(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

static void every_request_leaves_a_line(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    struct edge *edge = edge_create(
        &(struct edge_setup){.device = SLOW, .keys = "k name=alice\n", .log_fd = fds[1]});
    int fd = client_connect(edge);
    for (int i = 0; i < 2; i++) {
        client_post(fd, PATH "?secret=1",
                    i ? "x-api-key: k\r\nx-request-id: second\r\n"
                      : "x-api-key: k\r\nx-request-id: first\r\n",
                    SHORT);
        free(client_read_reply(fd, true));
    }
    client_post(fd, PATH, "x-request-id: third\r\n", SHORT);
    free(client_read_reply(fd, true));
    client_post(fd, "/no/such%0apath?secret=1", "x-api-key: k\r\nx-request-id: fourth\r\n", "{}");
    free(client_read_reply(fd, true));
    client_send_text(fd, "GET /health HTTP/1.1\r\nHost: x\r\nx-request-id: probe\r\n\r\n");
    free(client_read_reply(fd, true));
    (void)close(fd);
    fd = client_connect(edge);
    client_post(fd, PATH, "x-api-key: k\r\nx-request-id: fifth\r\n", ENDLESS);
    assert_true(client_wait_for(fd, "data: "));
    (void)close(fd);
    edge_wait_idle(edge);

    json_t *line = logged(fds[0], "first");
    assert_string_equal(string(line, "level"), "info");
    assert_string_equal(string(line, "key"), "alice");
    assert_string_equal(string(line, "path"), PATH);
    assert_string_equal(string(line, "model"), "tiny");
    assert_string_equal(string(line, "finish"), "length");
    assert_int_equal(number(line, "status"), 200);
    json_int_t n_prompt = number(line, "prompt_tokens");
    assert_true(n_prompt > 48);
    assert_int_equal(number(line, "cached_tokens"), 0);
    assert_int_equal(number(line, "output_tokens"), 30);
    double total = json_number_value(json_object_get(line, "total_ms"));
    double parts = json_number_value(json_object_get(line, "queue_ms")) +
                   json_number_value(json_object_get(line, "prefill_ms")) +
                   json_number_value(json_object_get(line, "decode_ms"));
    assert_true(parts > 30 && parts <= total + 0.01); /* thirty steps of 2 ms */
    json_decref(line);
    line = logged(fds[0], "second");
    assert_true(number(line, "cached_tokens") >= 48);
    json_decref(line);
    line = logged(fds[0], "third"); /* has no key, and never came to the engine */
    assert_int_equal(number(line, "status"), 401);
    assert_string_equal(string(line, "finish"), "error");
    assert_null(json_object_get(line, "key"));
    assert_null(json_object_get(line, "prompt_tokens"));
    json_decref(line);
    line = logged(fds[0], "fourth");
    assert_int_equal(number(line, "status"), 404);
    assert_null(strstr(string(line, "path"), "secret"));
    json_decref(line);
    line = logged(fds[0], "fifth");
    assert_string_equal(string(line, "finish"), "cancelled");
    assert_true(number(line, "output_tokens") >= 1 && number(line, "output_tokens") < 400);
    json_decref(line);
    edge_destroy(edge);
    (void)close(fds[1]);
    char rest[4096];
    ssize_t n = read(fds[0], rest, sizeof rest - 1); /* nothing of the probe */
    rest[n > 0 ? n : 0] = '\0';
    assert_null(strstr(rest, "probe"));
    (void)close(fds[0]);
}

static void the_lines_can_be_turned_off(void **state)
{
    (void)state;
    int fds[2];
    char text[4096];
    assert_int_equal(pipe(fds), 0);
    struct edge *edge =
        edge_create(&(struct edge_setup){.options = {"request-log=false"}, .log_fd = fds[1]});
    int fd = client_connect(edge);
    client_post(fd, PATH, "x-request-id: quiet\r\n", SHORT);
    free(client_read_reply(fd, true));
    (void)close(fd);
    edge_wait_idle(edge);
    log_warn(edge->log, "test", "the end");
    edge_destroy(edge);
    (void)close(fds[1]);
    ssize_t n = read(fds[0], text, sizeof text - 1);
    assert_true(n > 0);
    text[n] = '\0';
    assert_null(strstr(text, "quiet"));
    (void)close(fds[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_administrators_may_look),
        cmocka_unit_test(without_keys_only_loopback_servers_show_it),
        cmocka_unit_test(odd_queries_are_refused),
        cmocka_unit_test(the_cache_is_shown_while_requests_run_and_when_idle),
        cmocka_unit_test(a_trace_shows_steps_and_requests),
        cmocka_unit_test(a_trace_shows_operations),
        cmocka_unit_test(a_trace_of_an_idle_engine_ends_with_its_time),
        cmocka_unit_test(clients_that_leave_a_trace_end_it),
        cmocka_unit_test(the_end_does_not_wait_for_a_trace),
        cmocka_unit_test(every_request_leaves_a_line),
        cmocka_unit_test(the_lines_can_be_turned_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
