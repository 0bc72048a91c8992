/* Generated replies: streams, clients that leave or read slowly, many at once, the end. */
#include "edge_fixture.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOW     "null:min_token=10;step_us=5000"
#define PATH     "/v1/completions"
#define SHORT    "{\"prompt\":\"x\",\"max_tokens\":8,\"ignore_eos\":true}"
#define STREAM   "{\"prompt\":\"x\",\"max_tokens\":8,\"ignore_eos\":true,\"stream\":true}"
#define ENDLESS  "{\"prompt\":\"x\",\"max_tokens\":500,\"ignore_eos\":true,\"stream\":true}"
#define ENDLESS1 "{\"prompt\":\"x\",\"max_tokens\":500,\"ignore_eos\":true}"
#define ENDLESS4 "{\"prompt\":\"x\",\"max_tokens\":500,\"ignore_eos\":true,\"stream\":true,\"n\":4}"

enum { N_CLIENTS = 12, N_ROUNDS = 12 };

static struct edge *edge_with(const char *device, const char *option, const char *second)
{
    return edge_create(&(struct edge_setup){.device = device, .options = {option, second}});
}

static int start(void **state)
{
    *state = edge_with(SLOW, NULL, NULL);
    return 0;
}

static int start_fast(void **state)
{
    *state = edge_with(NULL, "http-threads=3", NULL);
    return 0;
}

static int stop(void **state)
{
    edge_destroy(*state);
    return 0;
}

static void reset_and_close(int fd)
{
    const struct linger now = {.l_onoff = 1};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    (void)close(fd);
}

/* ---- replies -------------------------------------------------------------------------------- */

static void a_stream_ends_with_its_mark_and_keeps_the_connection(void **state)
{
    int fd = client_connect(*state);
    for (int i = 0; i < 3; i++) {
        client_post(fd, PATH, "", STREAM);
        char *reply = client_read_reply(fd, true);
        assert_int_equal(reply_status(reply), 200);
        assert_non_null(strstr(reply, "\r\nContent-Type: text/event-stream"));
        assert_non_null(strstr(reply, "\r\nCache-Control: no-cache\r\n"));
        assert_non_null(strstr(reply, "data: [DONE]\n\n"));
        free(reply);
    }
    (void)close(fd);
    edge_wait_idle(*state);
}

static void requests_behind_a_stream_wait_for_its_end(void **state)
{
    int fd = client_connect(*state);
    client_post(fd, PATH, "", STREAM);
    client_post(fd, PATH, "Connection: close\r\n", SHORT);
    char *reply = client_read_all(fd);
    const char *done = strstr(reply, "data: [DONE]\n\n");
    assert_non_null(done);
    assert_non_null(strstr(done, "HTTP/1.1 200"));
    free(reply);
    (void)close(fd);
    edge_wait_idle(*state);
}

static void a_stream_for_http_1_0_ends_with_the_connection(void **state)
{
    int fd = client_connect(*state);
    client_send_text(
        fd, "POST " PATH " HTTP/1.0\r\nContent-Type: application/json\r\n"
            "Content-Length: 67\r\n\r\n"
            "{\"prompt\":\"x\",\"max_tokens\":8,\"ignore_eos\":true,\"stream\":true      }");
    char *reply = client_read_all(fd);
    assert_non_null(strstr(reply, "data: [DONE]\n\n"));
    assert_null(strcasestr(reply, "chunked"));
    free(reply);
    (void)close(fd);
}

/* ---- clients that leave --------------------------------------------------------------------- */

static void leave(struct edge *edge, const char *body, bool reads, void (*how)(int fd))
{
    int fd = client_connect(edge);
    client_post(fd, PATH, "", body);
    assert_true(edge_waits_for_running(edge, strstr(body, "\"n\":4") ? 4 : 1));
    if (reads)
        assert_true(client_wait_for(fd, "data: "));
    how(fd);
    edge_wait_idle(edge);
}

static void close_now(int fd)
{
    (void)close(fd);
}

static void a_client_that_leaves_frees_its_pages(void **state)
{
    struct edge *edge = *state;
    static const char *const bodies[] = {ENDLESS, ENDLESS1, ENDLESS4};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        bool streams = strstr(bodies[i], "stream") != NULL;
        leave(edge, bodies[i], false, close_now);
        leave(edge, bodies[i], false, reset_and_close);
        leave(edge, bodies[i], streams, close_now);
        leave(edge, bodies[i], streams, reset_and_close);
    }
    assert_true(edge_metric(edge, "outcome=\"cancelled\"} ") == 12);
}

static void a_client_that_leaves_the_queue_is_forgotten(void **state)
{
    struct edge *edge = *state;
    int fds[EDGE_MAX_RUNNING + 4];
    for (int i = 0; i < EDGE_MAX_RUNNING + 4; i++) {
        fds[i] = client_connect(edge);
        client_post(fds[i], PATH, "", ENDLESS);
    }
    assert_true(edge_waits_for_running(edge, EDGE_MAX_RUNNING));
    for (int i = EDGE_MAX_RUNNING + 3; i >= 0; i--)
        (void)close(fds[i]);
    edge_wait_idle(edge);
}

static void half_a_close_is_a_close(void **state)
{
    struct edge *edge = *state;
    int fd = client_connect(edge);
    client_post(fd, PATH, "", ENDLESS);
    assert_true(client_wait_for(fd, "data: "));
    (void)shutdown(fd, SHUT_WR);
    char *rest = client_read_all(fd);
    assert_null(strstr(rest, "[DONE]"));
    free(rest);
    (void)close(fd);
    edge_wait_idle(edge);
}

/* ---- time ----------------------------------------------------------------------------------- */

static void a_slow_reader_delays_nobody_and_is_dropped(void **state)
{
    (void)state;
    struct edge *edge = edge_with(NULL, NULL, NULL);
    int slow = client_connect(edge), small = 2048;
    (void)setsockopt(slow, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    for (int i = 0; i < 40; i++) /* more than the sockets hold */
        client_post(slow, PATH, "", ENDLESS4);
    (void)usleep(200000);
    int fd = client_connect(edge);
    client_post(fd, PATH, "", SHORT);
    char *reply = client_read_reply(fd, true);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    (void)close(fd);
    /* until the sockets are full, which takes a while where the engine is slow */
    for (int i = 0; i < 1200 && server_n_active(edge->server) > 0; i++) {
        edge_advance(edge, 61);
        (void)usleep(50000);
    }
    edge_wait_idle(edge);
    (void)close(slow);
    edge_destroy(edge);
}

#define SILENT "null:min_token=10;step_us=400000"

static void a_stream_that_is_silent_is_pinged(void **state)
{
    (void)state;
    static const struct {
        const char *path, *body, *ping;
    } rows[] = {
        {PATH, ENDLESS, ": ping\n\n"},
        {"/v1/messages",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":400,"
         "\"ignore_eos\":true,\"stream\":true}",
         "event: ping\ndata: {\"type\":\"ping\"}\n\n"},
    };
    struct edge *edge = edge_create(
        &(struct edge_setup){.device = SILENT, .chat_template = "{{ messages[0].content }}"});
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int fd = client_connect(edge);
        client_post(fd, rows[i].path, "", rows[i].body);
        assert_true(client_wait_for(fd, "data: "));
        edge_advance(edge, 20);
        assert_true(client_wait_for(fd, rows[i].ping));
        (void)close(fd);
        edge_wait_idle(edge);
    }
    edge_destroy(edge);
}

/* Its clients take every line for data. */
static void a_silent_stream_of_sglang_stays_silent(void **state)
{
    (void)state;
    struct edge *edge = edge_with(SILENT, NULL, NULL);
    int fd = client_connect(edge);
    client_post(fd, "/generate", "Connection: close\r\n",
                "{\"text\":\"x\",\"stream\":true,\"sampling_params\":{\"max_new_tokens\":3,"
                "\"ignore_eos\":true}}");
    for (int i = 0; i < 8; i++) { /* at least one step is in the midst of it */
        (void)usleep(150000);
        edge_advance(edge, 20);
    }
    char *reply = client_read_all(fd);
    assert_int_equal(reply_status(reply), 200);
    assert_non_null(strstr(reply, "[DONE]"));
    assert_null(strstr(reply, "ping"));
    free(reply);
    (void)close(fd);
    edge_wait_idle(edge);
    edge_destroy(edge);
}

/* ---- refusals of the engine ----------------------------------------------------------------- */

#define PROMPTS "\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\",\"j\"]"

static void all_choices_of_a_request_or_none(void **state)
{
    (void)state;
    struct edge *edge = edge_with(SLOW, "max-queue=8", NULL);
    int busy[16];
    for (int i = 0; i < 16; i++) {
        busy[i] = client_connect(edge);
        client_post(busy[i], PATH, "", ENDLESS);
    }
    assert_true(edge_waits_for_running(edge, EDGE_MAX_RUNNING));
    (void)usleep(100000);
    int fd = client_connect(edge);
    char *reply;
    for (int has_grammar = 0; has_grammar < 2; has_grammar++) {
        client_post(fd, PATH, "",
                    has_grammar ? "{" PROMPTS ",\"max_tokens\":4,\"regex\":\"[a-f]{9}\"}"
                                : "{" PROMPTS ",\"max_tokens\":4}");
        reply = client_read_reply(fd, true);
        assert_int_equal(reply_status(reply), 429);
        assert_non_null(strstr(reply, "\r\nRetry-After: "));
        assert_non_null(strstr(reply, "\"rate_limit_exceeded\""));
        free(reply);
    }
    assert_true(edge_metric(edge, "outcome=\"cancelled\"} ") == 0);
    for (int i = 0; i < 16; i++)
        (void)close(busy[i]);
    edge_wait_idle(edge);
    client_post(fd, PATH, "", SHORT); /* the refused client's connection lives */
    reply = client_read_reply(fd, true);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    (void)close(fd);
    edge_destroy(edge);
}

/* ---- many at once --------------------------------------------------------------------------- */

struct visitor {
    struct edge *edge;
    uint32_t seed;
    int n_whole, n_left;
};

static uint32_t draw(struct visitor *v, uint32_t n)
{
    v->seed = v->seed * 1664525u + 1013904223u;
    return (v->seed >> 16) % n;
}

/* Sends a request and leaves at some moment, or takes the whole reply. */
static void *visit(void *context)
{
    struct visitor *v = context;
    static const char *const bodies[] = {SHORT, STREAM, ENDLESS, ENDLESS1, ENDLESS4};
    for (int i = 0; i < N_ROUNDS; i++) {
        int fd = client_connect(v->edge);
        uint32_t body = draw(v, 5);
        client_post(fd, PATH, "", bodies[body]);
        if (body < 2) {
            char *reply = client_read_reply(fd, true);
            v->n_whole += reply_status(reply) == 200 &&
                          strstr(reply, body == 1 ? "data: [DONE]" : "\"finish_reason\"") != NULL;
            free(reply);
            (void)close(fd);
            continue;
        }
        v->n_left++;
        (void)usleep(draw(v, 4000));
        if (draw(v, 2))
            (void)client_is_closed(fd, (int)draw(v, 3));
        if (draw(v, 2))
            reset_and_close(fd);
        else
            (void)close(fd);
    }
    return NULL;
}

static void clients_that_come_and_go_harm_nobody(void **state)
{
    struct edge *edge = *state;
    pthread_t threads[N_CLIENTS];
    struct visitor visitors[N_CLIENTS];
    serverd_error err;
    for (uint32_t i = 0; i < N_CLIENTS; i++) {
        visitors[i] = (struct visitor){.edge = edge, .seed = 77 + i};
        assert_int_equal(pthread_create(&threads[i], NULL, visit, &visitors[i]), 0);
    }
    for (int i = 0; i < N_CLIENTS; i++) {
        (void)pthread_join(threads[i], NULL);
        assert_int_equal(visitors[i].n_whole + visitors[i].n_left, N_ROUNDS);
    }
    edge_wait_idle(edge);
    engine_stop(edge->engine);
    if (engine_check(edge->engine, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
}

/* ---- the end -------------------------------------------------------------------------------- */

static void draining_finishes_what_runs_and_refuses_the_rest(void **state)
{
    struct edge *edge = *state;
    int running = client_connect(edge), kept = client_connect(edge);
    client_send_text(kept, "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
    char *reply = client_read_reply(kept, true);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    client_post(running, PATH, "", STREAM);
    assert_true(edge_waits_for_running(edge, 1));
    server_drain(edge->server);
    engine_drain(edge->engine);
    int late = client_connect(edge); /* it may come just before the thread stops to listen */
    if (late >= 0 && !client_is_closed(late, 500)) {
        client_post(late, PATH, "", SHORT);
        reply = client_read_reply(late, true);
        const int status = reply_status(reply);
        assert_true(status == 503 || status == 0); /* 0: nobody had taken the connection yet */
        free(reply);
    }
    if (late >= 0)
        (void)close(late);
    client_post(kept, PATH, "", SHORT);
    reply = client_read_reply(kept, true);
    assert_int_equal(reply_status(reply), 503);
    assert_non_null(strstr(reply, "\"draining\""));
    assert_non_null(strstr(reply, "\r\nConnection: close\r\n"));
    free(reply);
    assert_true(client_is_closed(kept, 5000));
    reply = client_read_reply(running, true);
    assert_non_null(strstr(reply, "data: [DONE]\n\n"));
    free(reply);
    (void)close(kept);
    (void)close(running);
    edge_wait_idle(edge);
}

static void stopping_ends_streams_with_an_error_and_their_last_chunk(void **state)
{
    (void)state;
    struct edge *edge = edge_with(SLOW, "http-threads=2", NULL);
    int streams[6], whole = client_connect(edge);
    for (int i = 0; i < 6; i++) {
        streams[i] = client_connect(edge);
        client_post(streams[i], PATH, "", ENDLESS);
        assert_true(client_wait_for(streams[i], "data: "));
    }
    client_post(whole, PATH, "", ENDLESS1);
    assert_true(edge_waits_for_running(edge, 7));
    edge_destroy(edge);
    for (int i = 0; i < 6; i++) {
        char *rest = client_read_all(streams[i]);
        assert_non_null(strstr(rest, "\"error\""));
        assert_non_null(strstr(rest, "\r\n0\r\n"));
        free(rest);
        (void)close(streams[i]);
    }
    char *reply = client_read_all(whole);
    assert_int_equal(reply_status(reply), 503);
    free(reply);
    (void)close(whole);
}

static void stopping_without_events_ends_suspended_connections(void **state)
{
    (void)state;
    struct edge *edge = edge_with(SLOW, NULL, NULL);
    int fd = client_connect(edge), half = client_connect(edge);
    client_post(fd, PATH, "", ENDLESS);
    client_send_text(half, "POST " PATH " HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n");
    assert_true(edge_waits_for_running(edge, 1));
    edge_stop_loop(edge);
    edge_destroy(edge);
    assert_true(client_is_closed(fd, 2000));
    assert_true(client_is_closed(half, 2000));
    (void)close(fd);
    (void)close(half);
}

static void *read_keys_often(void *context)
{
    struct edge *edge = context;
    serverd_error err;
    for (int i = 0; i < 200; i++)
        (void)server_reload_keys(edge->server, &err);
    return NULL;
}

static void keys_are_read_again_under_load(void **state)
{
    (void)state;
    pthread_t thread;
    struct edge *edge =
        edge_create(&(struct edge_setup){.keys = "key\n", .options = {"http-threads=2"}});
    assert_int_equal(pthread_create(&thread, NULL, read_keys_often, edge), 0);
    int fd = client_connect(edge);
    for (int i = 0; i < 50; i++) {
        client_post(fd, PATH, i % 2 ? "X-Api-Key: key\r\n" : "X-Api-Key: other\r\n", SHORT);
        char *reply = client_read_reply(fd, true);
        assert_int_equal(reply_status(reply), i % 2 ? 200 : 401);
        free(reply);
    }
    (void)pthread_join(thread, NULL);
    (void)close(fd);
    edge_destroy(edge);
}

int main(void)
{
#define FACT(f, s) cmocka_unit_test_setup_teardown(f, s, stop)
    const struct CMUnitTest tests[] = {
        FACT(a_stream_ends_with_its_mark_and_keeps_the_connection, start),
        FACT(requests_behind_a_stream_wait_for_its_end, start),
        FACT(a_stream_for_http_1_0_ends_with_the_connection, start),
        FACT(a_client_that_leaves_frees_its_pages, start),
        FACT(a_client_that_leaves_the_queue_is_forgotten, start),
        FACT(half_a_close_is_a_close, start),
        cmocka_unit_test(a_slow_reader_delays_nobody_and_is_dropped),
        cmocka_unit_test(a_stream_that_is_silent_is_pinged),
        cmocka_unit_test(a_silent_stream_of_sglang_stays_silent),
        cmocka_unit_test(all_choices_of_a_request_or_none),
        FACT(clients_that_come_and_go_harm_nobody, start_fast),
        FACT(draining_finishes_what_runs_and_refuses_the_rest, start),
        cmocka_unit_test(stopping_ends_streams_with_an_error_and_their_last_chunk),
        cmocka_unit_test(stopping_without_events_ends_suspended_connections),
        cmocka_unit_test(keys_are_read_again_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
