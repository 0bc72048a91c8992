/* Requests that another request ends by name: whose, which, and what their clients hear of it. */
#include "edge_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOW "null:min_token=10;step_us=5000"
#define KEYS "key-a name=a\nkey-b name=b\nkey-r name=root admin scope=infer,admin\n"

static int start(void **state)
{
    *state = edge_create(&(struct edge_setup){.device = SLOW, .keys = KEYS});
    return 0;
}

static int stop(void **state)
{
    edge_destroy(*state);
    return 0;
}

/* A request that would go on for a long time; members: more of its body. */
static int begin(struct edge *edge, const char *path, const char *key, const char *members)
{
    char headers[128], body[512];
    int fd = client_connect(edge);
    const char *format =
        strcmp(path, "/generate") == 0
            ? "{\"text\":\"x\",\"sampling_params\":{\"max_new_tokens\":490,\"ignore_eos\":true}%s}"
            : "{\"prompt\":\"x\",\"max_tokens\":490,\"ignore_eos\":true%s}";
    (void)snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\nX-Request-Id: of-%s\r\n",
                   key, key);
    (void)snprintf(body, sizeof body, format, members);
    client_post(fd, path, headers, body);
    return fd;
}

/* What /abort_request says to the body. */
static void abort_with(struct edge *edge, const char *key, const char *body, int status,
                       const char *text)
{
    char headers[128];
    int fd = client_connect(edge);
    (void)snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", key);
    client_post(fd, "/abort_request", headers, body);
    char *reply = client_read_reply(fd, true);
    if (!reply || reply_status(reply) != status || !strstr(reply, text))
        fail_msg("%s: %s", body, reply ? reply : "no reply");
    free(reply);
    (void)close(fd);
}

static void check_end(int fd, int status, const char *text)
{
    char *reply = client_read_reply(fd, true);
    if (!reply || reply_status(reply) != status || !strstr(reply, text))
        fail_msg("not %d with %s: %s", status, text, reply ? reply : "no reply");
    free(reply);
    (void)close(fd);
}

static void a_stream_ends_with_what_it_has(void **state)
{
    struct edge *edge = *state;
    int fd = begin(edge, "/generate", "key-a", ",\"stream\":true,\"rid\":\"mine\"");
    assert_true(client_wait_for(fd, "\"completion_tokens\":2"));
    abort_with(edge, "key-a", "{\"rid\":\"mine\"}", 200, "{\"aborted\":1}");
    assert_true(client_wait_for(fd, "\"finish_reason\":{\"type\":\"abort\",\"message\":"));
    (void)close(fd);
    edge_wait_idle(edge);
}

static void a_whole_reply_has_what_was_made(void **state)
{
    struct edge *edge = *state;
    int fd = begin(edge, "/generate", "key-a", ",\"rid\":\"mine\"");
    assert_true(edge_waits_for_running(edge, 1));
    abort_with(edge, "key-a", "{\"rid\":\"mine\"}", 200, "{\"aborted\":1}");
    check_end(fd, 200, "\"finish_reason\":{\"type\":\"abort\"");
    edge_wait_idle(edge);
}

static void other_dialects_hear_of_it_as_an_error(void **state)
{
    struct edge *edge = *state;
    int whole = begin(edge, "/v1/completions", "key-a", "");
    int stream = begin(edge, "/v1/completions", "key-a", ",\"stream\":true");
    assert_true(client_wait_for(stream, "\"text\""));
    assert_true(edge_waits_for_running(edge, 2));
    abort_with(edge, "key-a", "{\"rid\":\"of-key-a\"}", 200, "{\"aborted\":2}");
    check_end(whole, 400, "The request was aborted.");
    assert_true(
        client_wait_for(stream, "data: {\"error\":{\"message\":\"The request was aborted."));
    (void)close(stream);
    edge_wait_idle(edge);
}

static void what_waits_in_the_queue_ends_too(void **state)
{
    struct edge *edge = *state;
    int running[EDGE_MAX_RUNNING];
    for (int i = 0; i < EDGE_MAX_RUNNING; i++)
        running[i] = begin(edge, "/v1/completions", "key-b", ",\"stream\":true");
    assert_true(edge_waits_for_running(edge, EDGE_MAX_RUNNING));
    int waiting = begin(edge, "/generate", "key-a", ",\"rid\":\"mine\"");
    struct engine_status status;
    do {
        (void)usleep(1000);
        engine_status(edge->engine, &status);
    } while (status.n_waiting == 0);
    abort_with(edge, "key-a", "{\"rid\":\"mine\"}", 200, "{\"aborted\":1}");
    check_end(waiting, 200, "\"text\":\"\"");
    for (int i = 0; i < EDGE_MAX_RUNNING; i++)
        (void)close(running[i]);
    edge_wait_idle(edge);
}

static void only_ones_own_requests_end(void **state)
{
    struct edge *edge = *state;
    int fd = begin(edge, "/generate", "key-a", ",\"stream\":true,\"rid\":\"mine\"");
    assert_true(client_wait_for(fd, "\"completion_tokens\":1"));
    abort_with(edge, "key-b", "{\"rid\":\"mine\"}", 200, "{\"aborted\":0}");
    abort_with(edge, "key-b", "{\"abort_all\":true}", 403, "insufficient_scope");
    abort_with(edge, "key-a", "{\"rid\":\"other\"}", 200, "{\"aborted\":0}");
    assert_true(client_wait_for(fd, "\"completion_tokens\":9")); /* it goes on */
    abort_with(edge, "key-r", "{\"rid\":\"mine\"}", 200, "{\"aborted\":1}");
    assert_true(client_wait_for(fd, "\"abort\""));
    (void)close(fd);
    edge_wait_idle(edge);
}

static void administrators_end_all(void **state)
{
    struct edge *edge = *state;
    int a = begin(edge, "/generate", "key-a", ""), b = begin(edge, "/generate", "key-b", "");
    assert_true(edge_waits_for_running(edge, 2));
    abort_with(edge, "key-r", "{\"abort_all\":true}", 200, "{\"aborted\":2}");
    check_end(a, 200, "\"abort\"");
    check_end(b, 200, "\"abort\"");
    edge_wait_idle(edge);
}

static void odd_bodies_are_refused(void **state)
{
    struct edge *edge = *state;
    abort_with(edge, "key-a", "{}", 400, "missing_required_parameter");
    abort_with(edge, "key-a", "{\"rid\":\"\"}", 400, "missing_required_parameter");
    abort_with(edge, "key-a", "{\"rid\":5}", 400, "invalid_type");
    abort_with(edge, "key-r", "{\"abort_all\":\"true\"}", 400, "invalid_type");
    abort_with(edge, "key-r", "{\"abort_all\":false}", 400, "missing_required_parameter");
}

#define FACT(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FACT(a_stream_ends_with_what_it_has),
        FACT(a_whole_reply_has_what_was_made),
        FACT(other_dialects_hear_of_it_as_an_error),
        FACT(what_waits_in_the_queue_ends_too),
        FACT(only_ones_own_requests_end),
        FACT(administrators_end_all),
        FACT(odd_bodies_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
