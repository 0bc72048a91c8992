/* Jobs beside the HTTP threads: other connections go on meanwhile, their number is bounded, and
 * each ends in one answer, also when the server ends. */
#include "edge_fixture.h"

#include "server/server_internal.h"

#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LOAD   "/v1/load_lora_adapter"
#define NOFILE "{\"lora_name\":\"a\",\"lora_path\":\"/nowhere/a.gguf\"}"
#define STREAM "{\"prompt\":\"x\",\"max_tokens\":8,\"ignore_eos\":true,\"stream\":true}"

/* What one job does: it tells that it has begun, and waits until it may end. */
struct gate {
    sem_t has_begun, may_end;
    uint32_t *order, *n_done, index; /* order[n_done++] = index when it is done */
};

static bool pass_gate(void *state, const struct served_model *model, struct api_error *e)
{
    struct gate *gate = state;
    assert_non_null(model);
    (void)sem_post(&gate->has_begun);
    (void)sem_wait(&gate->may_end);
    gate->order[(*gate->n_done)++] = gate->index;
    api_error_set(e, "invalid_value", NULL, "job %u", gate->index);
    return false;
}

static void keep(void *state)
{
    (void)state; /* the test's own */
}

static void fill(struct edge *edge, struct gate *gates, uint32_t n, uint32_t *order,
                 uint32_t *n_done)
{
    for (uint32_t i = 0; i < n; i++) {
        struct exchange *x = exchange_create(edge->server);
        assert_non_null(x);
        gates[i] = (struct gate){.order = order, .n_done = n_done, .index = i};
        assert_int_equal(sem_init(&gates[i].has_begun, 0, 0), 0);
        assert_int_equal(sem_init(&gates[i].may_end, 0, 0), 0);
        x->worker = &edge->server->workers[0];
        x->model = &edge->model;
        x->encoder.destroy = keep;
        x->encoder_state = &gates[i];
        x->n_open = 1; /* with the one reference, which the end gives back */
        const struct server_job job = {.x = x, .run = pass_gate};
        assert_true(job_thread_put(&edge->server->jobs, &job));
    }
}

static uint32_t n_jobs(struct edge *edge)
{
    struct job_thread *jobs = &edge->server->jobs;
    (void)pthread_mutex_lock(&jobs->mutex);
    uint32_t n = jobs->n;
    (void)pthread_mutex_unlock(&jobs->mutex);
    return n;
}

static void close_gates(struct gate *gates, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        (void)sem_destroy(&gates[i].has_begun);
        (void)sem_destroy(&gates[i].may_end);
    }
}

static int status_of_load(struct edge *edge)
{
    int fd = client_connect(edge);
    client_post(fd, LOAD, "", NOFILE);
    char *reply = client_read_reply(fd, true);
    int status = reply_status(reply);
    free(reply);
    (void)close(fd);
    return status;
}

static void streams_go_on_while_a_job_runs(void **state)
{
    struct edge *edge = edge_create(&(struct edge_setup){0});
    struct gate gate;
    uint32_t order[1], n_done = 0;
    (void)state;
    fill(edge, &gate, 1, order, &n_done);
    (void)sem_wait(&gate.has_begun);
    int waiting = client_connect(edge), fd = client_connect(edge);
    client_post(waiting, LOAD, "", NOFILE); /* behind the job */
    for (int i = 0; i < 4; i++) {
        client_post(fd, "/v1/completions", "", STREAM);
        char *reply = client_read_reply(fd, true);
        assert_int_equal(reply_status(reply), 200);
        assert_non_null(strstr(reply, "data: [DONE]"));
        free(reply);
    }
    assert_false(client_is_closed(waiting, 50));
    assert_int_equal(n_done, 0);
    (void)sem_post(&gate.may_end);
    char *reply = client_read_reply(waiting, true);
    assert_int_equal(reply_status(reply), 400);
    assert_non_null(strstr(reply, "\"param\":\"lora_path\""));
    free(reply);
    (void)close(waiting);
    (void)close(fd);
    edge_wait_idle(edge);
    edge_destroy(edge);
    close_gates(&gate, 1);
}

static void jobs_are_bounded_and_run_in_order(void **state)
{
    struct edge *edge = edge_create(&(struct edge_setup){0});
    struct gate gates[LIMIT_SERVER_JOBS];
    uint32_t order[LIMIT_SERVER_JOBS], n_done = 0;
    (void)state;
    fill(edge, gates, LIMIT_SERVER_JOBS, order, &n_done);
    assert_int_equal(status_of_load(edge), 503);
    for (uint32_t i = 0; i < LIMIT_SERVER_JOBS; i++)
        (void)sem_post(&gates[i].may_end);
    for (int ms = 0; ms < 10000 && n_jobs(edge) > 0; ms++)
        (void)usleep(1000);
    assert_int_equal(status_of_load(edge), 400); /* there is room again */
    assert_int_equal(n_done, LIMIT_SERVER_JOBS);
    for (uint32_t i = 0; i < LIMIT_SERVER_JOBS; i++)
        assert_int_equal(order[i], i);
    edge_wait_idle(edge);
    edge_destroy(edge);
    close_gates(gates, LIMIT_SERVER_JOBS);
}

static void *open_gate(void *arg)
{
    struct gate *gate = arg;
    (void)usleep(20000); /* the end has begun by then, most often */
    (void)sem_post(&gate->may_end);
    return NULL;
}

static void jobs_that_wait_end_with_the_server(void **state)
{
    struct edge *edge = edge_create(&(struct edge_setup){0});
    struct gate gate;
    uint32_t order[1], n_done = 0;
    pthread_t opener;
    (void)state;
    fill(edge, &gate, 1, order, &n_done);
    (void)sem_wait(&gate.has_begun);
    int fd = client_connect(edge);
    client_post(fd, LOAD, "", NOFILE);
    for (int ms = 0; ms < 10000 && n_jobs(edge) < 2; ms++)
        (void)usleep(1000);
    assert_int_equal(pthread_create(&opener, NULL, open_gate, &gate), 0);
    edge_destroy(edge);
    (void)pthread_join(opener, NULL);
    char *reply = client_read_all(fd);
    assert_int_equal(reply_status(reply), 503);
    assert_non_null(strstr(reply, "draining"));
    free(reply);
    (void)close(fd);
    assert_int_equal(n_done, 1);
    close_gates(&gate, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_go_on_while_a_job_runs),
        cmocka_unit_test(jobs_are_bounded_and_run_in_order),
        cmocka_unit_test(jobs_that_wait_end_with_the_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
