/* Requests without a connection: the same replies and streams as over HTTP, one end for each of
 * them whatever happens, and a place behind those of clients. */
#include "edge_fixture.h"

#include "base/hash.h"
#include "base/limits.h"
#include "server/detached.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SLOW    "null:min_token=10;step_us=5000"
#define PATH    "/v1/completions"
#define SHORT   "{\"prompt\":\"x\",\"seed\":1,\"max_tokens\":8,\"ignore_eos\":true}"
#define STREAM  "{\"prompt\":\"x\",\"seed\":1,\"max_tokens\":8,\"ignore_eos\":true,\"stream\":true}"
#define ENDLESS "{\"prompt\":\"x\",\"max_tokens\":500,\"ignore_eos\":true}"
#define SCHEMA                                                                                     \
    "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":4,\"response_format\":{\"type\":\"json_"   \
    "schema\","                                                                                    \
    "\"json_schema\":{\"name\":\"a\",\"schema\":{\"type\":\"integer\"}}}}"

enum { N_MANY = 64, N_THREADS = 4, WAIT_MS = 10000 };

/* What came of one request. */
struct outcome {
    _Atomic uint32_t n_ends;
    int status;
    uint32_t retry_after_ms;
    bool has_failed;
    struct buffer bytes; /* of the stream, then of the reply */
    uint32_t n_frames;
};

static void on_frames(void *context, const char *bytes, size_t n)
{
    struct outcome *o = context;
    assert_int_equal(atomic_load(&o->n_ends), 0);
    assert_true(n > 2 && strncmp(bytes + n - 2, "\n\n", 2) == 0);
    buffer_append(&o->bytes, bytes, n);
    o->n_frames++;
}

static void on_end(void *context, const struct detached_result *result)
{
    struct outcome *o = context;
    o->status = result->status;
    o->retry_after_ms = result->retry_after_ms;
    o->has_failed = result->has_failed;
    assert_int_equal(strlen(result->bytes), result->n);
    assert_int_equal(strncmp(result->request_id, "req_", 4), 0);
    buffer_append(&o->bytes, result->bytes, result->n);
    atomic_fetch_add(&o->n_ends, 1);
}

static void outcome_init(struct outcome *o)
{
    *o = (struct outcome){0};
    buffer_init(&o->bytes, 64 * MIB);
}

static uint64_t submit_for(struct edge *edge, struct outcome *o, uint64_t tenant, const char *path,
                           const char *body, int32_t max_priority)
{
    const bool streams = strstr(body, "\"stream\":true") != NULL;
    const struct detached_request request = {
        .method = "POST",
        .path = path,
        .body = body,
        .n_body = strlen(body),
        .tenant = tenant,
        .max_priority = max_priority,
        .sink = {streams ? on_frames : NULL, on_end, o},
    };
    outcome_init(o);
    uint64_t number = detached_submit(edge->server, &request);
    assert_true(number != 0);
    return number;
}

static uint64_t submit(struct edge *edge, struct outcome *o, const char *path, const char *body)
{
    return submit_for(edge, o, 0, path, body, INT32_MAX);
}

static void wait_for_end(struct outcome *o)
{
    for (int ms = 0; ms < WAIT_MS && atomic_load(&o->n_ends) == 0; ms++)
        (void)usleep(1000);
    assert_int_equal(atomic_load(&o->n_ends), 1);
}

static int status_of(struct edge *edge, const char *path, const char *body)
{
    struct outcome o;
    (void)submit(edge, &o, path, body);
    wait_for_end(&o);
    buffer_deinit(&o.bytes);
    return o.status;
}

static int start(void **state)
{
    *state = edge_create(&(struct edge_setup){.options = {"http-threads=2"}});
    return 0;
}

static int stop(void **state)
{
    edge_destroy(*state);
    return 0;
}

/* ---- replies -------------------------------------------------------------------------------- */

/* Two bodies are the same but for id and time. */
static void assert_same_json(const char *a, const char *b)
{
    static const char *const random[] = {"id", "created"};
    json_t *first = json_loads(a, 0, NULL), *second = json_loads(b, 0, NULL);
    assert_non_null(first);
    assert_non_null(second);
    for (size_t i = 0; i < 2; i++) {
        (void)json_object_del(first, random[i]);
        (void)json_object_del(second, random[i]);
    }
    assert_true(json_equal(first, second));
    json_decref(first);
    json_decref(second);
}

static char *over_http(struct edge *edge, const char *path, const char *body)
{
    int fd = client_connect(edge);
    client_post(fd, path, "", body);
    char *reply = client_read_reply(fd, true);
    assert_non_null(reply);
    (void)close(fd);
    return reply;
}

static void a_reply_is_that_of_a_client(void **state)
{
    static const char *const bodies[] = {SHORT,
                                         SCHEMA,
                                         "{\"prompt\":\"x\",\"n\":3,\"seed\":1}",
                                         "{\"prompt\":7}",
                                         "{",
                                         "{\"prompt\":\"x\",\"n\":1000}"};
    struct edge *edge = *state;
    struct outcome o;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        free(over_http(edge, PATH, bodies[i])); /* what it says of the cache is the same from now */
        char *reply = over_http(edge, PATH, bodies[i]);
        (void)submit(edge, &o, PATH, bodies[i]);
        wait_for_end(&o);
        assert_int_equal(o.status, reply_status(reply));
        assert_same_json(buffer_str(&o.bytes), strstr(reply, "\r\n\r\n") + 4);
        assert_int_equal(o.n_frames, 0);
        buffer_deinit(&o.bytes);
        free(reply);
    }
    edge_wait_idle(edge);
}

/* The text of a stream's frames: how it is cut is a matter of time. */
static void append_texts(const char *frames, struct buffer *out)
{
    for (const char *at = frames; (at = strstr(at, "\"text\":\"")); at++)
        buffer_append(out, at + 8, strcspn(at + 8, "\""));
}

static void a_stream_is_that_of_a_client(void **state)
{
    struct edge *edge = *state;
    struct outcome o;
    struct buffer ours, theirs;
    buffer_init(&ours, MIB);
    buffer_init(&theirs, MIB);
    char *reply = over_http(edge, PATH, STREAM);
    (void)submit(edge, &o, PATH, STREAM);
    wait_for_end(&o);
    assert_int_equal(o.status, 200);
    assert_false(o.has_failed);
    assert_true(o.n_frames > 0);
    assert_non_null(strstr(buffer_str(&o.bytes), "data: [DONE]\n\n"));
    append_texts(buffer_str(&o.bytes), &ours);
    append_texts(reply, &theirs);
    assert_true(ours.len > 0);
    assert_string_equal(buffer_str(&ours), buffer_str(&theirs));
    buffer_deinit(&ours);
    buffer_deinit(&theirs);
    buffer_deinit(&o.bytes);
    free(reply);
    edge_wait_idle(edge);
}

static void what_cannot_be_is_refused(void **state)
{
    struct edge *edge = *state;
    struct outcome o;
    assert_int_equal(status_of(edge, "/v1/nothing", SHORT), 404);
    assert_int_equal(status_of(edge, "/v1/models", SHORT), 405);
    assert_int_equal(status_of(edge, "/v1/../x", SHORT), 404);
    const struct detached_request request = {.method = "POST",
                                             .path = PATH,
                                             .body = STREAM,
                                             .n_body = strlen(STREAM),
                                             .max_priority = INT32_MAX,
                                             .sink = {NULL, on_end, &o}};
    outcome_init(&o);
    assert_true(detached_submit(edge->server, &request) != 0);
    wait_for_end(&o);
    assert_int_equal(o.status, 400);
    assert_non_null(strstr(buffer_str(&o.bytes), "\"param\":\"stream\""));
    buffer_deinit(&o.bytes);
    edge_wait_idle(edge);
}

static void without_a_model_it_is_told_to_come_again(void **state)
{
    (void)state;
    struct edge *edge =
        edge_create(&(struct edge_setup){.is_loading = true, .options = {"max-body=1024"}});
    char large[2048];
    struct outcome o;
    (void)submit(edge, &o, PATH, SHORT);
    wait_for_end(&o);
    assert_int_equal(o.status, 503);
    assert_non_null(strstr(buffer_str(&o.bytes), "model_loading"));
    assert_true(o.retry_after_ms > 0);
    buffer_deinit(&o.bytes);
    edge_publish(edge);
    assert_int_equal(status_of(edge, PATH, SHORT), 200);
    memset(large, ' ', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    assert_int_equal(status_of(edge, PATH, large), 413);
    edge_destroy(edge);
}

static uint64_t tenant_of(const char *key)
{
    uint8_t digest[32];
    uint64_t tenant;
    sha256_bytes(key, strlen(key), digest);
    memcpy(&tenant, digest, sizeof tenant);
    return tenant;
}

static void it_has_its_owners_limits_while_the_key_is_valid(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.keys = "one rpm=2\ntwo\n"});
    static const int expected[] = {200, 200, 429};
    struct outcome o;
    serverd_error err;
    for (size_t i = 0; i < 3; i++) {
        (void)submit_for(edge, &o, tenant_of("one"), PATH, SHORT, INT32_MAX);
        wait_for_end(&o);
        assert_int_equal(o.status, expected[i]);
        assert_true((o.retry_after_ms > 0) == (expected[i] == 429));
        buffer_deinit(&o.bytes);
    }
    assert_int_equal(status_of(edge, PATH, SHORT), 401); /* nobody's */
    edge_write_keys(edge, "one\n");
    assert_int_equal(server_reload_keys(edge->server, &err), SERVERD_OK);
    (void)submit_for(edge, &o, tenant_of("two"), PATH, SHORT, INT32_MAX);
    wait_for_end(&o);
    assert_int_equal(o.status, 401);
    buffer_deinit(&o.bytes);
    edge_destroy(edge);
}

/* ---- ends ----------------------------------------------------------------------------------- */

static void a_cancelled_one_ends_once_and_frees_its_pages(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.device = SLOW});
    struct outcome o;
    uint64_t number = submit(edge, &o, PATH, ENDLESS);
    assert_true(edge_waits_for_running(edge, 1));
    detached_cancel(edge->server, number + 1000); /* nobody */
    detached_cancel(edge->server, number);
    detached_cancel(edge->server, number);
    wait_for_end(&o);
    assert_int_equal(o.status, 0);
    assert_int_equal(o.bytes.len, 0);
    edge_wait_idle(edge);
    detached_cancel(edge->server, number);
    assert_true(edge_metric(edge, "outcome=\"cancelled\"} ") == 1);
    buffer_deinit(&o.bytes);
    edge_destroy(edge);
}

struct crowd {
    struct edge *edge;
    unsigned seed;
    struct outcome outcomes[N_MANY];
};

static void *submit_and_cancel(void *context)
{
    static const char *const bodies[] = {SHORT, STREAM, ENDLESS, SCHEMA, "{}"};
    struct crowd *crowd = context;
    for (size_t i = 0; i < N_MANY; i++) {
        const char *body = bodies[(unsigned)rand_r(&crowd->seed) % 5];
        uint64_t number = submit(crowd->edge, &crowd->outcomes[i], PATH, body);
        if (rand_r(&crowd->seed) % 2 == 0)
            detached_cancel(crowd->edge->server, number);
    }
    return NULL;
}

static void check_crowd(struct crowd *crowd)
{
    for (size_t i = 0; i < N_MANY; i++) {
        assert_int_equal(atomic_load(&crowd->outcomes[i].n_ends), 1);
        buffer_deinit(&crowd->outcomes[i].bytes);
    }
}

static void let_crowds_loose(struct edge *edge, struct crowd *crowds)
{
    pthread_t threads[N_THREADS];
    for (unsigned i = 0; i < N_THREADS; i++) {
        crowds[i] = (struct crowd){.edge = edge, .seed = i};
        assert_int_equal(pthread_create(&threads[i], NULL, submit_and_cancel, &crowds[i]), 0);
    }
    for (size_t i = 0; i < N_THREADS; i++)
        (void)pthread_join(threads[i], NULL);
}

static void each_of_many_ends_once(void **state)
{
    struct edge *edge = *state;
    struct crowd *crowds = calloc(N_THREADS, sizeof *crowds);
    assert_non_null(crowds);
    let_crowds_loose(edge, crowds);
    for (size_t i = 0; i < N_THREADS; i++)
        for (size_t k = 0; k < N_MANY; k++)
            wait_for_end(&crowds[i].outcomes[k]);
    edge_wait_idle(edge);
    for (size_t i = 0; i < N_THREADS; i++)
        check_crowd(&crowds[i]);
    free(crowds);
}

static void each_ends_once_when_the_server_does(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.device = SLOW});
    struct crowd *crowds = calloc(N_THREADS, sizeof *crowds);
    assert_non_null(crowds);
    let_crowds_loose(edge, crowds);
    edge_destroy(edge);
    for (size_t i = 0; i < N_THREADS; i++)
        check_crowd(&crowds[i]);
    free(crowds);
}

/* ---- priority ------------------------------------------------------------------------------- */

static void clients_do_not_wait_for_those_of_low_priority(void **state)
{
    (void)state;
    struct edge *edge = edge_create(&(struct edge_setup){.device = SLOW});
    struct outcome low[2 * EDGE_MAX_RUNNING];
    uint64_t numbers[2 * EDGE_MAX_RUNNING];
    for (size_t i = 0; i < 2 * EDGE_MAX_RUNNING; i++)
        numbers[i] = submit_for(edge, &low[i], 0, PATH, ENDLESS, -1000);
    assert_true(edge_waits_for_running(edge, EDGE_MAX_RUNNING));
    char *reply = over_http(edge, PATH, SHORT);
    assert_int_equal(reply_status(reply), 200);
    free(reply);
    for (size_t i = 0; i < 2 * EDGE_MAX_RUNNING; i++) {
        assert_int_equal(atomic_load(&low[i].n_ends), 0); /* a whole one takes 2.5 s */
        detached_cancel(edge->server, numbers[i]);
    }
    for (size_t i = 0; i < 2 * EDGE_MAX_RUNNING; i++) {
        wait_for_end(&low[i]);
        buffer_deinit(&low[i].bytes);
    }
    edge_wait_idle(edge);
    edge_destroy(edge);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_reply_is_that_of_a_client, start, stop),
        cmocka_unit_test_setup_teardown(a_stream_is_that_of_a_client, start, stop),
        cmocka_unit_test_setup_teardown(what_cannot_be_is_refused, start, stop),
        cmocka_unit_test(without_a_model_it_is_told_to_come_again),
        cmocka_unit_test(it_has_its_owners_limits_while_the_key_is_valid),
        cmocka_unit_test(a_cancelled_one_ends_once_and_frees_its_pages),
        cmocka_unit_test_setup_teardown(each_of_many_ends_once, start, stop),
        cmocka_unit_test(each_ends_once_when_the_server_does),
        cmocka_unit_test(clients_do_not_wait_for_those_of_low_priority),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
