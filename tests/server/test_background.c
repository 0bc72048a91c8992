/* Responses that are made in the background: their object while it is made, their stream from any
 * place on, their end. */
#include "edge_fixture.h"

#include "base/limits.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOW "null:min_token=10;step_us=3000"

#define TEMPLATE "{% for m in messages %}{{ m.content }}{% endfor %}"

enum { WAIT_MS = 10000 };

static char *talk(struct edge *edge, const char *method, const char *path, const char *body)
{
    char text[2048];
    (void)snprintf(text, sizeof text,
                   "%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
                   "%zu\r\n\r\n%s",
                   method, path, strlen(body), body);
    int fd = client_connect(edge);
    client_send_text(fd, text);
    char *reply = client_read_reply(fd, true);
    assert_non_null(reply);
    (void)close(fd);
    return reply;
}

/* The reply's object; *status: of HTTP. */
static json_t *ask(struct edge *edge, const char *method, const char *path, const char *body,
                   int *status)
{
    char *reply = talk(edge, method, path, body);
    *status = reply_status(reply);
    const char *begin = strstr(reply, "\r\n\r\n");
    json_t *root = begin ? json_loads(begin + 4, JSON_ALLOW_NUL, NULL) : NULL;
    if (!root)
        fail_msg("%s", reply);
    free(reply);
    return root;
}

static const char *text_of(const json_t *root, const char *name)
{
    const char *text = json_string_value(json_object_get(root, name));
    return text ? text : "";
}

static void post(struct edge *edge, const char *members, char id[64])
{
    char body[512];
    int status;
    (void)snprintf(body, sizeof body,
                   "{\"input\":\"x\",\"background\":true,\"ignore_eos\":true,\"temperature\":0%s}",
                   members);
    json_t *root = ask(edge, "POST", "/v1/responses", body, &status);
    assert_int_equal(status, 200);
    assert_string_equal(text_of(root, "status"), "queued");
    assert_true(json_is_true(json_object_get(root, "background")));
    assert_true(json_is_null(json_object_get(root, "usage")));
    (void)snprintf(id, 64, "%s", text_of(root, "id"));
    json_decref(root);
}

static json_t *look(struct edge *edge, const char *id)
{
    char path[128];
    int status;
    (void)snprintf(path, sizeof path, "/v1/responses/%s", id);
    json_t *root = ask(edge, "GET", path, "", &status);
    assert_int_equal(status, 200);
    assert_string_equal(text_of(root, "id"), id);
    return root;
}

static json_t *wait_for(struct edge *edge, const char *id, const char *status)
{
    for (int ms = 0; ms < WAIT_MS; ms += 5) {
        json_t *root = look(edge, id);
        if (strcmp(text_of(root, "status"), status) == 0)
            return root;
        json_decref(root);
        (void)usleep(5000);
    }
    fail_msg("it never became %s", status);
    return NULL;
}

static int start(void **state)
{
    *state = edge_create(&(struct edge_setup){
        .device = SLOW, .options = {"http-threads=2"}, .chat_template = TEMPLATE});
    return 0;
}

static int stop(void **state)
{
    edge_destroy(*state);
    return 0;
}

static void it_is_made_while_nobody_waits(void **state)
{
    struct edge *edge = *state;
    char id[64], body[256];
    int status;
    post(edge, ",\"max_output_tokens\":12", id);
    json_t *root = wait_for(edge, id, "incomplete");
    assert_true(json_is_true(json_object_get(root, "background")));
    assert_int_equal(json_array_size(json_object_get(root, "output")), 1);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(root, "usage"), "output_tokens")), 12);
    json_decref(root);
    (void)snprintf(body, sizeof body,
                   "{\"input\":\"y\",\"previous_response_id\":\"%s\",\"max_output_tokens\":2}", id);
    json_decref(ask(edge, "POST", "/v1/responses", body, &status));
    assert_int_equal(status, 200);
    edge_wait_idle(edge);
}

/* The data of the events of a stream's reply. */
static json_t *events(const char *reply)
{
    json_t *list = json_array();
    for (const char *at = reply; (at = strstr(at, "\ndata: ")); at++) {
        json_t *data = json_loads(at + 7, JSON_ALLOW_NUL | JSON_DISABLE_EOF_CHECK, NULL);
        assert_non_null(data);
        (void)json_array_append_new(list, data);
    }
    return list;
}

static json_t *follow(struct edge *edge, const char *id, const char *query)
{
    char path[192];
    (void)snprintf(path, sizeof path, "/v1/responses/%s?stream=true%s", id, query);
    int fd = client_connect(edge);
    char text[512];
    (void)snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    client_send_text(fd, text);
    char *reply = client_read_reply(fd, true);
    assert_non_null(reply);
    assert_int_equal(reply_status(reply), 200);
    assert_non_null(strstr(reply, "text/event-stream"));
    json_t *list = events(reply);
    free(reply);
    (void)close(fd);
    return list;
}

static void its_stream_can_be_followed_from_any_place(void **state)
{
    struct edge *edge = *state;
    char id[64];
    post(edge, ",\"max_output_tokens\":40", id);
    json_t *live = follow(edge, id, ""); /* from the first event to the last */
    size_t n = json_array_size(live);
    assert_true(n > 10);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(
            json_integer_value(json_object_get(json_array_get(live, i), "sequence_number")), i);
    const json_t *last = json_array_get(live, n - 1);
    assert_string_equal(text_of(last, "type"), "response.incomplete");
    assert_string_equal(text_of(json_object_get(last, "response"), "id"), id);
    json_t *again = follow(edge, id, ""), *rest = follow(edge, id, "&starting_after=6");
    assert_true(json_equal(live, again));
    assert_int_equal(json_array_size(rest), n - 7);
    assert_true(json_equal(json_array_get(rest, 0), json_array_get(live, 7)));
    json_decref(rest);
    json_decref(again);
    json_decref(live);
    edge_wait_idle(edge);
}

static void several_follow_and_some_leave(void **state)
{
    struct edge *edge = *state;
    char id[64], text[256];
    int fds[3];
    post(edge, ",\"max_output_tokens\":60", id);
    (void)snprintf(text, sizeof text,
                   "GET /v1/responses/%s?stream=true HTTP/1.1\r\nHost: x\r\n\r\n", id);
    for (int i = 0; i < 3; i++) {
        fds[i] = client_connect(edge);
        client_send_text(fds[i], text);
    }
    assert_true(client_wait_for(fds[0], "output_text.delta"));
    (void)close(fds[0]);
    for (int i = 1; i < 3; i++) {
        char *reply = client_read_reply(fds[i], true);
        assert_non_null(reply);
        assert_non_null(strstr(reply, "event: response.incomplete"));
        free(reply);
        (void)close(fds[i]);
    }
    json_decref(wait_for(edge, id, "incomplete"));
    edge_wait_idle(edge);
}

/* Clients that lose their connections come back again and again. */
static void who_leaves_makes_room_for_others(void **state)
{
    struct edge *edge = *state;
    char id[64], text[256];
    post(edge, ",\"max_output_tokens\":480", id);
    (void)snprintf(text, sizeof text,
                   "GET /v1/responses/%s?stream=true HTTP/1.1\r\nHost: x\r\n\r\n", id);
    for (uint32_t i = 0; i < 2 * LIMIT_FOLLOWERS; i++) {
        int fd = client_connect(edge);
        client_send_text(fd, text);
        assert_true(client_wait_for(fd, "output_text.delta"));
        (void)close(fd);
        for (int ms = 0; ms < WAIT_MS && server_n_active(edge->server) > 1; ms += 5)
            (void)usleep(5000);
        (void)usleep(20000); /* some events more */
    }
    edge_wait_idle(edge);
}

static void it_can_be_cancelled(void **state)
{
    struct edge *edge = *state;
    char id[64], path[128];
    int status;
    post(edge, ",\"max_output_tokens\":480", id);
    json_decref(wait_for(edge, id, "in_progress"));
    (void)snprintf(path, sizeof path, "/v1/responses/%s/cancel", id);
    json_t *root = ask(edge, "POST", path, "", &status);
    assert_int_equal(status, 200);
    assert_string_equal(text_of(root, "status"), "cancelled");
    json_decref(root);
    edge_wait_idle(edge);
    json_t *list = follow(edge, id, "");
    const json_t *last = json_array_get(list, json_array_size(list) - 1);
    assert_string_equal(text_of(last, "type"), "response.failed");
    assert_string_equal(text_of(json_object_get(last, "response"), "status"), "cancelled");
    json_decref(list);
    json_decref(ask(edge, "POST", path, "", &status)); /* again */
    assert_int_equal(status, 200);
    json_decref(look(edge, id));
}

static void deleting_ends_it(void **state)
{
    struct edge *edge = *state;
    char id[64], path[128];
    int status;
    for (int is_done = 0; is_done < 2; is_done++) {
        post(edge, is_done ? ",\"max_output_tokens\":2" : ",\"max_output_tokens\":480", id);
        json_decref(wait_for(edge, id, is_done ? "incomplete" : "in_progress"));
        (void)snprintf(path, sizeof path, "/v1/responses/%s", id);
        json_decref(ask(edge, "DELETE", path, "", &status));
        assert_int_equal(status, 200);
        edge_wait_idle(edge);
        json_decref(ask(edge, "GET", path, "", &status));
        assert_int_equal(status, 404);
        json_decref(ask(edge, "DELETE", path, "", &status));
        assert_int_equal(status, 404);
    }
}

static void it_expires(void **state)
{
    struct edge *edge = *state;
    char id[64], path[128];
    int status;
    post(edge, ",\"max_output_tokens\":2", id);
    json_decref(wait_for(edge, id, "incomplete"));
    edge_advance(edge, 3601);
    for (int is_stream = 0; is_stream < 2; is_stream++) {
        (void)snprintf(path, sizeof path, "/v1/responses/%s%s", id,
                       is_stream ? "?stream=true" : "");
        json_decref(ask(edge, "GET", path, "", &status));
        assert_int_equal(status, 404);
    }
}

static void a_stream_may_begin_at_once(void **state)
{
    struct edge *edge = *state;
    char *reply = talk(edge, "POST", "/v1/responses",
                       "{\"input\":\"x\",\"background\":true,\"stream\":true,\"ignore_eos\":true,"
                       "\"max_output_tokens\":5}");
    assert_int_equal(reply_status(reply), 200);
    json_t *list = events(reply);
    assert_string_equal(text_of(json_array_get(list, 0), "type"), "response.created");
    assert_string_equal(text_of(json_array_get(list, json_array_size(list) - 1), "type"),
                        "response.incomplete");
    json_decref(list);
    free(reply);
    edge_wait_idle(edge);
}

/* Of a stream that somebody waits for, too: with what it cost, and all that was asked for. */
static void a_failed_response_is_a_whole_object(void **state)
{
    struct edge *edge = *state;
    int fd = client_connect(edge), status;
    client_post(fd, "/v1/responses", "X-Request-Id: mine\r\nConnection: close\r\n",
                "{\"input\":\"x\",\"instructions\":\"be\",\"stream\":true,\"ignore_eos\":true,"
                "\"temperature\":0,\"max_output_tokens\":480}");
    assert_true(client_wait_for(fd, "output_text.delta"));
    json_decref(ask(edge, "POST", "/abort_request", "{\"rid\":\"mine\"}", &status));
    assert_int_equal(status, 200);
    char *rest = client_read_all(fd);
    const char *at = strstr(rest, "event: response.failed\ndata: ");
    assert_non_null(at);
    json_t *event = json_loads(strchr(at, '{'), JSON_ALLOW_NUL | JSON_DISABLE_EOF_CHECK, NULL);
    const json_t *root = json_object_get(event, "response");
    const json_t *usage = json_object_get(root, "usage");
    assert_string_equal(text_of(root, "status"), "failed");
    assert_string_equal(text_of(root, "instructions"), "be");
    assert_string_equal(text_of(json_object_get(root, "error"), "message"),
                        "The request was aborted.");
    assert_true(json_integer_value(json_object_get(usage, "input_tokens")) > 0);
    assert_true(json_integer_value(json_object_get(usage, "output_tokens")) > 0);
    json_decref(event);
    free(rest);
    (void)close(fd);
    edge_wait_idle(edge);
}

static void what_cannot_be_is_refused(void **state)
{
    struct edge *edge = *state;
    static const struct {
        const char *method, *path, *body;
        int status;
    } rows[] = {
        {"POST", "/v1/responses", "{\"input\":\"x\",\"background\":true,\"store\":false}", 400},
        {"POST", "/v1/responses", "{\"input\":5,\"background\":true}", 400},
        {"POST", "/v1/responses", "{\"input\":\"x\",\"previous_response_id\":5}", 400},
        {"POST", "/v1/responses/resp_none/cancel", "", 404},
        {"POST", "/v1/responses/resp_none", "", 404},
        {"GET", "/v1/responses/resp_none?stream=true", "", 404},
        {"GET", "/v1/responses/resp_none?stream=true&starting_after=x", "", 400},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int status;
        json_decref(ask(edge, rows[i].method, rows[i].path, rows[i].body, &status));
        assert_int_equal(status, rows[i].status);
    }
    int status;
    json_t *root =
        ask(edge, "POST", "/v1/responses", "{\"input\":\"x\",\"max_output_tokens\":1}", &status);
    char path[128];
    (void)snprintf(path, sizeof path, "/v1/responses/%s/cancel", text_of(root, "id"));
    json_decref(root);
    json_decref(ask(edge, "POST", path, "", &status));
    assert_int_equal(status, 400); /* it was not made in the background */
}

/* Whatever is open at the end. */
static void the_server_ends_with_followers(void **state)
{
    struct edge *edge =
        edge_create(&(struct edge_setup){.device = SLOW,
                                         .options = {"http-threads=2", "drain-timeout=0"},
                                         .chat_template = TEMPLATE});
    char id[64], text[256];
    (void)state;
    post(edge, ",\"max_output_tokens\":480", id);
    (void)snprintf(text, sizeof text,
                   "GET /v1/responses/%s?stream=true HTTP/1.1\r\nHost: x\r\n\r\n", id);
    int fd = client_connect(edge);
    client_send_text(fd, text);
    assert_true(client_wait_for(fd, "output_text.delta"));
    edge_destroy(edge);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_is_made_while_nobody_waits, start, stop),
        cmocka_unit_test_setup_teardown(its_stream_can_be_followed_from_any_place, start, stop),
        cmocka_unit_test_setup_teardown(several_follow_and_some_leave, start, stop),
        cmocka_unit_test_setup_teardown(who_leaves_makes_room_for_others, start, stop),
        cmocka_unit_test_setup_teardown(it_can_be_cancelled, start, stop),
        cmocka_unit_test_setup_teardown(deleting_ends_it, start, stop),
        cmocka_unit_test_setup_teardown(it_expires, start, stop),
        cmocka_unit_test_setup_teardown(a_stream_may_begin_at_once, start, stop),
        cmocka_unit_test_setup_teardown(a_failed_response_is_a_whole_object, start, stop),
        cmocka_unit_test_setup_teardown(what_cannot_be_is_refused, start, stop),
        cmocka_unit_test(the_server_ends_with_followers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
