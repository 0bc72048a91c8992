/* Several models in one server: who gets which, how they come and go, and what waits meanwhile. The
 * models are engines on the null delegate, opened by a table of functions that can be held up and
 * made to fail. */
#include "edge_fixture.h"

#include "base/limits.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "server/server_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_MODELS = 4, WAIT_MS = 10000, N_CLIENTS = 4, N_CALLS = 60 };

#define PATH "/v1/completions"

/* One of the models, as the opener sees it. */
struct tested {
    _Atomic bool is_held; /* its load goes no further */
    _Atomic int failure;  /* enum serverd_status; 0: it loads */
    _Atomic uint64_t bytes;
    _Atomic uint32_t n_begun, n_opened, n_closed;
};

struct opened {
    struct tested *tested;
    struct runtime *runtime;
    struct engine *engine;
    struct worker_pool *workers;
    struct served_model served;
};

struct world {
    struct edge *edge;
    const char *device;
    struct tested models[N_MODELS];
    struct model_config configs[N_MODELS];
};

/* ---- the opener ----------------------------------------------------------------------------- */

static void must(serverd_status status, const serverd_error *err)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err->text);
}

static struct engine *create_engine(struct world *world, struct runtime *runtime)
{
    serverd_error err;
    struct engine *engine;
    const struct engine_options options = {
        .has_prefix_cache = true,
        .runtime = runtime,
        .tokenizer = world->edge->tokenizer,
        .clock = &world->edge->clock,
        .metrics = world->edge->metrics,
        .sink = server_event_sink(world->edge->server),
        .context_size = EDGE_CONTEXT,
        .max_running = EDGE_MAX_RUNNING,
        .prefill_chunk = 64,
        .max_queue = 64,
        .max_queue_tokens = 1000000,
        .queue_timeout_ns = UINT64_C(600000000000),
    };
    must(engine_create(&options, &engine, &err), &err);
    must(engine_start(engine, &err), &err);
    return engine;
}

static struct opened *open_engine(struct world *world, const struct model_config *config)
{
    serverd_error err;
    struct opened *opened = calloc(1, sizeof *opened);
    assert_non_null(opened);
    must(worker_pool_create(1, &opened->workers, &err), &err);
    const struct runtime_options options = {
        .delegates = builtin_delegates,
        .n_delegates = n_builtin_delegates,
        .device = world->device,
        .pool = opened->workers,
        .clock = &system_clock,
        .limits = {.struct_bytes = sizeof(serverd_limits),
                   .max_rows = 64 + EDGE_MAX_RUNNING,
                   .max_logit_rows = EDGE_MAX_RUNNING + 16,
                   .max_seqs = EDGE_MAX_RUNNING,
                   .max_context = EDGE_CONTEXT},
        .kv_dtype = DTYPE_F32,
    };
    must(runtime_open(world->edge->program, &options, &opened->runtime, &err), &err);
    opened->engine = create_engine(world, opened->runtime);
    opened->served = (struct served_model){.name = config->name,
                                           .aliases = config->aliases,
                                           .created = 1600000000,
                                           .program = world->edge->program,
                                           .tokenizer = world->edge->tokenizer,
                                           .engine = opened->engine,
                                           .context_size = EDGE_CONTEXT,
                                           .device = "null",
                                           .fingerprint = "fp_test"};
    return opened;
}

static serverd_status open_model(void *context, const struct model_config *config,
                                 struct model_load *load, void **model,
                                 const struct served_model **served, serverd_error *err)
{
    struct world *world = context;
    struct tested *tested = &world->models[config->name[0] - 'a'];
    model_load_progress(load, 0.5);
    atomic_fetch_add(&tested->n_begun, 1);
    while (atomic_load(&tested->is_held))
        (void)usleep(1000);
    const int failure = atomic_load(&tested->failure);
    if (failure) {
        *err = (serverd_error){.code = (serverd_status)failure, .text = "/secret/path: broken"};
        return err->code;
    }
    serverd_status status = model_load_reserve(load, atomic_load(&tested->bytes), err);
    if (status != SERVERD_OK)
        return status;
    struct opened *opened = open_engine(world, config);
    opened->tested = tested;
    atomic_fetch_add(&tested->n_opened, 1);
    *model = opened;
    *served = &opened->served;
    return SERVERD_OK;
}

static void close_model(void *context, void *model)
{
    struct opened *opened = model;
    struct engine_status status;
    (void)context;
    engine_status(opened->engine, &status);
    for (int i = 0; status.n_running > 0 && i < 1000; i++) { /* counted at the end of a step */
        (void)usleep(1000);
        engine_status(opened->engine, &status);
    }
    assert_int_equal(status.n_running, 0);
    assert_int_equal(status.n_waiting, 0);
    engine_destroy(opened->engine);
    runtime_close(opened->runtime);
    worker_pool_destroy(opened->workers);
    atomic_fetch_add(&opened->tested->n_closed, 1);
    free(opened);
}

/* ---- the world: models a, b, c, d; b is also beta, d has an adapter in its configuration ------
 */

struct world_setup {
    const char *device;
    const char *options[4];
    const char *keys;
    bool is_held; /* the first load */
    int failure;  /* of a */
};

static bool is_loaded(struct world *world, char name)
{
    struct tested *tested = &world->models[name - 'a'];
    return atomic_load(&tested->n_opened) > atomic_load(&tested->n_closed);
}

static void wait_until(bool (*is_true)(struct world *world, char name), struct world *world,
                       char name)
{
    for (int ms = 0; ms < WAIT_MS && !is_true(world, name); ms++)
        (void)usleep(1000);
    assert_true(is_true(world, name));
}

static bool is_tried(struct world *world, char name)
{
    return atomic_load(&world->models[name - 'a'].n_begun) > 0;
}

static bool is_gone(struct world *world, char name)
{
    return !is_loaded(world, name);
}

/* A reply may be there a moment before its request has ended. */
static bool is_unused(struct world *world, char name)
{
    struct model_set *set = &world->edge->server->models;
    (void)pthread_mutex_lock(&set->mutex);
    bool is_unused = set->entries[name - 'a']->n_references == 0;
    (void)pthread_mutex_unlock(&set->mutex);
    return is_unused;
}

static bool is_awaited(struct world *world, char name)
{
    struct model_set *set = &world->edge->server->models;
    (void)name;
    (void)pthread_mutex_lock(&set->mutex);
    bool is_awaited = set->n_awaiting > 0;
    (void)pthread_mutex_unlock(&set->mutex);
    return is_awaited;
}

static bool is_not_awaited(struct world *world, char name)
{
    return !is_awaited(world, name);
}

static struct world *world_create(const struct world_setup *setup)
{
    static const char *const names[N_MODELS] = {"a", "b", "c", "d"};
    struct world *world = calloc(1, sizeof *world);
    serverd_error err;
    assert_non_null(world);
    world->device = setup->device ? setup->device : "null:min_token=10";
    for (uint32_t i = 0; i < N_MODELS; i++)
        world->configs[i] = (struct model_config){.name = names[i]};
    world->configs[1].aliases = "beta, bee";
    world->configs[3].adapters = "other=/y,style=/x:0.5";
    atomic_store(&world->models[0].is_held, setup->is_held);
    atomic_store(&world->models[0].failure, setup->failure);
    struct edge_setup edge = {
        .is_loading = true,
        .keys = setup->keys,
        .models = world->configs,
        .n_models = N_MODELS,
        .opener = {.open = open_model, .close = close_model, .context = world}};
    memcpy(edge.options, setup->options, sizeof setup->options);
    world->edge = edge_create(&edge);
    must(server_start_models(world->edge->server, &err), &err);
    if (!setup->is_held && !setup->failure)
        wait_until(is_loaded, world, 'a');
    return world;
}

static void world_destroy(struct world *world)
{
    edge_destroy(world->edge);
    for (uint32_t i = 0; i < N_MODELS; i++)
        assert_int_equal(atomic_load(&world->models[i].n_opened),
                         atomic_load(&world->models[i].n_closed));
    free(world);
}

/* ---- calls ---------------------------------------------------------------------------------- */

static int begin(struct world *world, const char *path, const char *body)
{
    int fd = client_connect(world->edge);
    assert_true(fd >= 0);
    client_post(fd, path, "", body);
    return fd;
}

static char *end(int fd)
{
    char *reply = client_read_reply(fd, true);
    (void)close(fd);
    assert_non_null(reply);
    return reply;
}

static char *call(struct world *world, const char *path, const char *body)
{
    return end(begin(world, path, body));
}

static char *get(struct world *world, const char *path)
{
    char head[256];
    (void)snprintf(head, sizeof head, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    int fd = client_connect(world->edge);
    client_send_text(fd, head);
    return end(fd);
}

static void body_for(char out[256], const char *model, const char *more)
{
    (void)snprintf(out, 256, "{\"model\":\"%s\",\"prompt\":\"x\",\"max_tokens\":2%s}", model, more);
}

static int begin_for(struct world *world, const char *model, const char *more)
{
    char body[256];
    body_for(body, model, more);
    return begin(world, PATH, body);
}

/* The reply has the status, and what it says. */
static void check(char *reply, int status, const char *text)
{
    if (reply_status(reply) != status || !strstr(reply, text))
        fail_msg("not %d with %s: %s", status, text, reply);
    free(reply);
}

static void check_for(struct world *world, const char *model, int status, const char *text)
{
    check(end(begin_for(world, model, "")), status, text);
}

static void order(struct world *world, const char *what, const char *model, int status)
{
    char path[64], body[64];
    (void)snprintf(path, sizeof path, "/models/%s", what);
    (void)snprintf(body, sizeof body, "{\"model\":\"%s\"}", model);
    check(call(world, path, body), status, "");
}

static void hold(struct world *world, char name, bool is_held)
{
    atomic_store(&world->models[name - 'a'].is_held, is_held);
}

#define LONG ",\"max_tokens\":400,\"ignore_eos\":true,\"stream\":true"

/* A stream of the model that goes on for a while; its first event has come. */
static int begin_stream(struct world *world, const char *model)
{
    int fd = begin_for(world, model, LONG);
    assert_true(client_wait_for(fd, "data: "));
    return fd;
}

/* ---- names ---------------------------------------------------------------------------------- */

static void requests_get_the_model_that_they_name(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    static const char *const cases[][2] = {
        {"b", "\"model\":\"b\""}, {"beta", "\"model\":\"b\""}, {"bee", "\"model\":\"b\""},
        {"a", "\"model\":\"a\""}, {"", "\"model\":\"a\""},     {"default", "\"model\":\"a\""},
        {"c", "\"model\":\"c\""}, {"b", "\"model\":\"b\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_for(world, cases[i][0], 200, cases[i][1]);
    check(call(world, PATH, "{\"prompt\":\"x\",\"max_tokens\":1}"), 200, "\"model\":\"a\"");
    check(call(world, PATH, "{\"model\":null,\"prompt\":\"x\",\"max_tokens\":1}"), 200,
          "\"model\":\"a\"");
    world_destroy(world);
}

static void names_that_nobody_has_are_not_found(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    static const char *const names[] = {"e",  "A", "a ",      "a:nothing",
                                        "b:", ":", "e:style", "beta,bee"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_for(world, names[i], 404, "model_not_found");
    /* an adapter of the configuration names its model, which is loaded to say that it has none */
    check_for(world, "style", 404, "model_not_found");
    assert_true(is_loaded(world, 'd'));
    assert_false(is_loaded(world, 'c'));
    check(call(world, "/models/load", "{\"model\":\"e\"}"), 404, "model_not_found");
    check(call(world, "/models/load", "{}"), 400, "missing_required_parameter");
    world_destroy(world);
}

static void names_have_to_differ(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    struct model_set *set = &world->edge->server->models;
    serverd_error err;
    static const struct model_config bad[] = {
        {.name = "a"}, {.name = "bee"}, {.name = "default"}, {.name = "e", .aliases = "x,beta"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(model_set_add(set, &bad[i], &err), SERVERD_INVALID);
    assert_int_equal(set->n, N_MODELS);
    world_destroy(world);
}

static void looking_loads_nothing_and_is_no_use(void **state)
{
    (void)state;
    struct world *world =
        world_create(&(struct world_setup){.options = {"models-idle-timeout=60"}});
    check(get(world, "/get_model_info?model=bee"), 503, "model_unavailable");
    check(get(world, "/get_model_info?model=zz"), 404, "model_not_found");
    check_for(world, "bee", 200, "\"model\":\"b\"");
    check(get(world, "/get_model_info?model=bee"), 200, "\"served_model_name\":\"b\"");
    check(get(world, "/get_model_info?model=%62"), 200, "\"served_model_name\":\"b\"");
    check(get(world, "/get_model_info"), 200, "\"served_model_name\":\"a\"");
    order(world, "unload", "a", 202);
    wait_until(is_gone, world, 'a');
    check(get(world, "/get_model_info"), 200, "\"served_model_name\":\"b\"");
    wait_until(is_unused, world, 'b');
    edge_advance(world->edge, 40);
    check(get(world, "/v1/loads"), 200, "\"model\":\"b\"");
    edge_advance(world->edge, 30);
    wait_until(is_gone, world, 'b');
    check(get(world, "/v1/loads"), 503, "model_unavailable");
    assert_false(is_loaded(world, 'a'));
    world_destroy(world);
}

/* It needs no key, so it must not decide what is in memory. */
static void a_probe_loads_nothing_and_is_no_use(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    check(get(world, "/health_generate?model=b"), 200, "ok");
    order(world, "unload", "a", 202);
    wait_until(is_gone, world, 'a');
    check(get(world, "/health_generate"), 200, "ok"); /* as /health */
    check(get(world, "/health_generate"), 200, "ok");
    assert_int_equal(atomic_load(&world->models[0].n_begun), 1);
    assert_int_equal(atomic_load(&world->models[1].n_begun), 0);
    world_destroy(world);
}

static void the_list_shows_what_is_loaded(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    char *list = get(world, "/v1/models");
    const char *a = strstr(list, "{\"id\":\"a\""), *b = strstr(list, "{\"id\":\"b\""),
               *beta = strstr(list, "{\"id\":\"beta\""), *d = strstr(list, "{\"id\":\"d\"");
    assert_true(a && b > a && beta > b && d > beta);
    const char *loaded = strstr(list, "\"loaded\":true");
    assert_true(loaded > a && loaded < b);
    assert_non_null(strstr(b, "\"status\":{\"value\":\"unloaded\"},\"meta\":{\"loaded\":false}}"));
    free(list);
    check(get(world, "/v1/models/beta"), 200, "\"root\":\"b\"");
    int fd = client_connect(world->edge);
    client_send_text(fd, "GET /v1/models HTTP/1.1\r\nHost: x\r\nanthropic-version: 1\r\n\r\n");
    check(end(fd), 200, "],\"has_more\":false,\"first_id\":\"a\",\"last_id\":\"d\"}");
    hold(world, 'b', true);
    order(world, "load", "beta", 202);
    check(get(world, "/v1/models/b"), 200, "\"status\":{\"value\":\"loading\"}");
    hold(world, 'b', false);
    wait_until(is_loaded, world, 'b');
    world_destroy(world);
}

/* ---- loading on demand ---------------------------------------------------------------------- */

static void a_request_waits_for_its_model_while_others_go_on(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    hold(world, 'b', true);
    int fd = begin_for(world, "b", ""), second = begin_for(world, "beta", ",\"stream\":true");
    wait_until(is_tried, world, 'b');
    for (int i = 0; i < 5; i++)
        check_for(world, "a", 200, "\"model\":\"a\"");
    int third = begin_for(world, "c", ""); /* one load at a time */
    (void)usleep(20000);
    assert_false(is_tried(world, 'c'));
    hold(world, 'b', false);
    check(end(fd), 200, "\"model\":\"b\"");
    check(end(second), 200, "data: [DONE]");
    check(end(third), 200, "\"model\":\"c\"");
    assert_int_equal(world->models[1].n_opened, 1);
    wait_until(is_not_awaited, world, 0);
    world_destroy(world);
}

static void few_requests_wait(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){.options = {"max-queue=1"}});
    hold(world, 'b', true);
    int fd = begin_for(world, "b", "");
    wait_until(is_tried, world, 'b');
    char *reply = end(begin_for(world, "c", ""));
    assert_non_null(strstr(reply, "Retry-After: "));
    check(reply, 503, "model_loading");
    hold(world, 'b', false);
    check(end(fd), 200, "\"model\":\"b\"");
    check_for(world, "c", 200, "\"model\":\"c\"");
    world_destroy(world);
}

static void waiting_has_an_end(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){.options = {"queue-timeout=30"}});
    hold(world, 'b', true);
    int fd = begin_for(world, "b", "");
    wait_until(is_tried, world, 'b');
    edge_advance(world->edge, 31);
    check(end(fd), 503, "model_loading");
    hold(world, 'b', false);
    wait_until(is_loaded, world, 'b');
    world_destroy(world);
}

static void a_client_that_leaves_waits_no_more(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    hold(world, 'b', true);
    for (int i = 0; i < 3; i++) {
        int fd = begin_for(world, "b", "");
        wait_until(is_awaited, world, 0);
        (void)close(fd);
        wait_until(is_not_awaited, world, 0);
    }
    hold(world, 'b', false);
    check_for(world, "b", 200, "\"model\":\"b\"");
    world_destroy(world);
}

static void a_request_behind_it_on_the_connection_is_answered(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    char body[256];
    int fd = begin_for(world, "b", "");
    body_for(body, "c", "");
    client_post(fd, PATH, "Connection: close\r\n", body);
    char *replies = client_read_all(fd);
    const char *b = strstr(replies, "\"model\":\"b\""), *c = strstr(replies, "\"model\":\"c\"");
    assert_true(b && c > b);
    free(replies);
    (void)close(fd);
    world_destroy(world);
}

/* ---- failures ------------------------------------------------------------------------------- */

static void a_broken_model_is_unavailable_and_others_are_not(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    struct tested *b = &world->models[1];
    atomic_store(&b->failure, SERVERD_CORRUPT);
    char *reply = end(begin_for(world, "b", ""));
    assert_null(strstr(reply, "secret")); /* for the log alone */
    check(reply, 503, "model_unavailable");
    check_for(world, "b", 503, "model_unavailable");
    assert_int_equal(b->n_begun, 1); /* not tried again at once */
    check_for(world, "a", 200, "\"model\":\"a\"");
    check_for(world, "c", 200, "\"model\":\"c\"");
    check(get(world, "/v1/models/b"), 200, "\"status\":{\"value\":\"failed\"}");
    check(get(world, "/health"), 200, "ok");
    edge_advance(world->edge, 11);
    check_for(world, "b", 503, "model_unavailable");
    assert_int_equal(b->n_begun, 2);
    atomic_store(&b->failure, 0);
    order(world, "load", "b", 202); /* at once */
    wait_until(is_loaded, world, 'b');
    check_for(world, "b", 200, "\"model\":\"b\"");
    world_destroy(world);
}

static void without_its_default_the_server_serves_others(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){.failure = SERVERD_CORRUPT});
    check_for(world, "b", 200, "\"model\":\"b\"");
    check(get(world, "/ready"), 200, "ok");
    check_for(world, "", 503, "model_unavailable");
    world_destroy(world);
}

static void at_the_start_others_load_behind_the_default(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){.is_held = true});
    wait_until(is_tried, world, 'a');
    check(get(world, "/ready"), 503, "\"progress\":0.500");
    edge_advance(world->edge, 8); /* half of it: as long again */
    check(get(world, "/health"), 503, "\r\nRetry-After-Ms: 80");
    int fd = begin_for(world, "b", ""), first = begin_for(world, "a", "");
    (void)usleep(20000);
    hold(world, 'a', false);
    check(end(fd), 200, "\"model\":\"b\"");
    check(end(first), 200, "\"model\":\"a\"");
    check(get(world, "/ready"), 200, "ok");
    world_destroy(world);
}

/* ---- room ----------------------------------------------------------------------------------- */

static void the_least_recently_used_makes_room(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){.options = {"models-memory=100M"}});
    for (uint32_t i = 0; i < N_MODELS; i++)
        atomic_store(&world->models[i].bytes, 40 * MIB);
    check_for(world, "b", 200, "\"model\":\"b\"");
    check_for(world, "a", 200, "\"model\":\"a\""); /* a was granted nothing */
    check_for(world, "c", 200, "\"model\":\"c\"");
    check_for(world, "d", 200, "\"model\":\"d\"");
    assert_true(!is_loaded(world, 'b') && is_loaded(world, 'c'));
    check_for(world, "b", 200, "\"model\":\"b\"");
    assert_true(is_loaded(world, 'b') && is_loaded(world, 'd'));
    atomic_store(&world->models[2].bytes, 101 * MIB);
    check_for(world, "c", 503, "models-memory");
    world_destroy(world);
}

static void a_busy_model_never_makes_room(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){
        .device = "null:min_token=10,step_us=1000", .options = {"models-max=1"}});
    int stream = begin_stream(world, "a"), waiting = begin_for(world, "b", "");
    wait_until(is_tried, world, 'b');
    (void)usleep(30000);
    assert_true(is_loaded(world, 'a') && !is_loaded(world, 'b'));
    check_for(world, "a", 200, "\"model\":\"a\"");
    assert_true(client_wait_for(stream, "data: [DONE]"));
    (void)close(stream);
    check(end(waiting), 200, "\"model\":\"b\"");
    assert_false(is_loaded(world, 'a'));
    check_for(world, "a", 200, "\"model\":\"a\"");
    assert_false(is_loaded(world, 'b'));
    world_destroy(world);
}

static void no_room_for_long_is_no_failure(void **state)
{
    (void)state;
    struct world *world =
        world_create(&(struct world_setup){.device = "null:min_token=10,step_us=3000",
                                           .options = {"models-max=1", "queue-timeout=20"}});
    int stream = begin_stream(world, "a"), waiting = begin_for(world, "b", "");
    wait_until(is_tried, world, 'b');
    edge_advance(world->edge, 21);
    check(end(waiting), 503, "model_loading");
    (void)close(stream);
    check_for(world, "b", 200, "\"model\":\"b\"");
    world_destroy(world);
}

static void an_unused_model_is_unloaded_in_time(void **state)
{
    (void)state;
    struct world *world =
        world_create(&(struct world_setup){.options = {"models-idle-timeout=60"}});
    check_for(world, "b", 200, "\"model\":\"b\"");
    wait_until(is_unused, world, 'b');
    edge_advance(world->edge, 40);
    check_for(world, "a", 200, "\"model\":\"a\"");
    wait_until(is_unused, world, 'a');
    edge_advance(world->edge, 30);
    wait_until(is_gone, world, 'b');
    assert_true(is_loaded(world, 'a'));
    edge_advance(world->edge, 40);
    wait_until(is_gone, world, 'a');
    check(get(world, "/ready"), 200, "ok");
    check_for(world, "", 200, "\"model\":\"a\"");
    world_destroy(world);
}

/* ---- unloading ------------------------------------------------------------------------------ */

static void unloading_waits_for_what_runs(void **state)
{
    (void)state;
    struct world *world =
        world_create(&(struct world_setup){.device = "null:min_token=10,step_us=1000"});
    int stream = begin_stream(world, "a");
    order(world, "unload", "a", 202);
    check(get(world, "/v1/models/a"), 200, "\"status\":{\"value\":\"unloading\"}");
    int behind = begin_for(world, "a", ""); /* it has to load again for this one */
    assert_true(is_loaded(world, 'a'));
    assert_true(client_wait_for(stream, "data: [DONE]"));
    (void)close(stream);
    check(end(behind), 200, "\"model\":\"a\"");
    assert_int_equal(world->models[0].n_opened, 2);
    assert_int_equal(world->models[0].n_closed, 1);
    order(world, "unload", "a", 202);
    wait_until(is_gone, world, 'a');
    order(world, "unload", "a", 202); /* it is already */
    world_destroy(world);
}

static void unloading_a_load_unloads_it_then(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    hold(world, 'b', true);
    order(world, "load", "b", 202);
    wait_until(is_tried, world, 'b');
    order(world, "unload", "b", 202);
    hold(world, 'b', false);
    for (int ms = 0; ms < WAIT_MS && world->models[1].n_closed == 0; ms++)
        (void)usleep(1000);
    assert_int_equal(world->models[1].n_closed, 1);
    check_for(world, "b", 200, "\"model\":\"b\"");
    world_destroy(world);
}

static void a_pinned_model_stays(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){.options = {"models-idle-timeout=1"}});
    struct model_set *set = &world->edge->server->models;
    (void)pthread_mutex_lock(&set->mutex);
    set->entries[0]->config.is_pinned = true;
    (void)pthread_mutex_unlock(&set->mutex);
    order(world, "unload", "a", 400);
    edge_advance(world->edge, 10);
    (void)usleep(100000);
    assert_true(is_loaded(world, 'a'));
    world_destroy(world);
}

static void only_administrators_load_and_unload(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){.keys = "user\nroot admin\n"});
    int fd = client_connect(world->edge);
    client_post(fd, "/models/load", "Authorization: Bearer user\r\n", "{\"model\":\"b\"}");
    check(end(fd), 403, "insufficient_scope");
    fd = client_connect(world->edge);
    client_post(fd, "/models/load", "Authorization: Bearer root\r\n", "{\"model\":\"b\"}");
    check(end(fd), 202, "\"id\":\"b\"");
    wait_until(is_loaded, world, 'b');
    world_destroy(world);
}

/* ---- the end -------------------------------------------------------------------------------- */

static void a_drain_ends_what_waits_for_a_model(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    hold(world, 'b', true);
    int fd = begin_for(world, "b", "");
    wait_until(is_awaited, world, 0);
    check(call(world, "/admin/drain", "{}"), 200, "draining");
    check(end(fd), 503, "draining");
    order(world, "load", "c", 503);
    hold(world, 'b', false);
    wait_until(is_loaded, world, 'b');
    int del = client_connect(world->edge);
    client_send_text(del, "DELETE /admin/drain HTTP/1.1\r\nHost: x\r\n\r\n");
    check(end(del), 200, "serving");
    check_for(world, "b", 200, "\"model\":\"b\"");
    world_destroy(world);
}

static void the_server_ends_while_a_model_loads(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){0});
    hold(world, 'b', true);
    int fd = begin_for(world, "b", "");
    wait_until(is_tried, world, 'b');
    server_drain(world->edge->server);
    assert_false(server_stop_models(world->edge->server));
    check(end(fd), 503, "draining");
    hold(world, 'b', false);
    for (int ms = 0; ms < WAIT_MS && !server_stop_models(world->edge->server); ms++)
        (void)usleep(1000);
    world_destroy(world);
}

/* ---- all at once ---------------------------------------------------------------------------- */

struct client {
    struct world *world;
    uint32_t seed;
    uint32_t n_wrong;
};

static uint32_t next_random(struct client *client)
{
    client->seed = client->seed * 1664525u + 1013904223u;
    return client->seed >> 16;
}

static void call_at_random(struct client *client)
{
    static const char *const names[] = {"a", "b", "c", "d"};
    char expected[32], body[256];
    const char *name = names[next_random(client) % N_MODELS];
    const uint32_t what = next_random(client) % 8;
    int fd = client_connect(client->world->edge);
    (void)snprintf(expected, sizeof expected, "\"model\":\"%s\"", name);
    if (what == 0) {
        (void)snprintf(body, sizeof body, "{\"model\":\"%s\"}", name);
        client_post(fd, "/models/unload", "", body);
        free(client_read_reply(fd, true));
    } else {
        body_for(body, name, what > 4 ? ",\"stream\":true" : "");
        client_post(fd, PATH, "", body);
        char *reply = what == 1 ? NULL : client_read_reply(fd, true); /* 1: it leaves */
        if (what != 1 && (reply_status(reply) != 200 || !strstr(reply, expected)))
            client->n_wrong++;
        free(reply);
    }
    (void)close(fd);
}

static void *run_client(void *context)
{
    struct client *client = context;
    for (int i = 0; i < N_CALLS; i++)
        call_at_random(client);
    return NULL;
}

static void whatever_comes_and_goes_each_gets_its_model(void **state)
{
    (void)state;
    struct world *world = world_create(&(struct world_setup){.options = {"models-max=2"}});
    struct client clients[N_CLIENTS];
    pthread_t threads[N_CLIENTS];
    for (uint32_t i = 0; i < N_CLIENTS; i++) {
        clients[i] = (struct client){.world = world, .seed = 77 + i};
        assert_int_equal(pthread_create(&threads[i], NULL, run_client, &clients[i]), 0);
    }
    for (uint32_t i = 0; i < N_CLIENTS; i++) {
        (void)pthread_join(threads[i], NULL);
        if (clients[i].n_wrong > 0)
            fail_msg("seed %u: %u wrong replies", 77 + i, clients[i].n_wrong);
    }
    wait_until(is_not_awaited, world, 0);
    for (int ms = 0; ms < WAIT_MS && server_n_active(world->edge->server) > 0; ms++)
        (void)usleep(1000);
    uint32_t n_loaded = 0;
    for (char name = 'a'; name < 'a' + N_MODELS; name++) {
        wait_until(is_unused, world, name);
        n_loaded += is_loaded(world, name);
    }
    assert_true(n_loaded <= 2);
    world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_get_the_model_that_they_name),
        cmocka_unit_test(names_that_nobody_has_are_not_found),
        cmocka_unit_test(names_have_to_differ),
        cmocka_unit_test(looking_loads_nothing_and_is_no_use),
        cmocka_unit_test(a_probe_loads_nothing_and_is_no_use),
        cmocka_unit_test(the_list_shows_what_is_loaded),
        cmocka_unit_test(a_request_waits_for_its_model_while_others_go_on),
        cmocka_unit_test(few_requests_wait),
        cmocka_unit_test(waiting_has_an_end),
        cmocka_unit_test(a_client_that_leaves_waits_no_more),
        cmocka_unit_test(a_request_behind_it_on_the_connection_is_answered),
        cmocka_unit_test(a_broken_model_is_unavailable_and_others_are_not),
        cmocka_unit_test(without_its_default_the_server_serves_others),
        cmocka_unit_test(at_the_start_others_load_behind_the_default),
        cmocka_unit_test(the_least_recently_used_makes_room),
        cmocka_unit_test(a_busy_model_never_makes_room),
        cmocka_unit_test(no_room_for_long_is_no_failure),
        cmocka_unit_test(an_unused_model_is_unloaded_in_time),
        cmocka_unit_test(unloading_waits_for_what_runs),
        cmocka_unit_test(unloading_a_load_unloads_it_then),
        cmocka_unit_test(a_pinned_model_stays),
        cmocka_unit_test(only_administrators_load_and_unload),
        cmocka_unit_test(a_drain_ends_what_waits_for_a_model),
        cmocka_unit_test(the_server_ends_while_a_model_loads),
        cmocka_unit_test(whatever_comes_and_goes_each_gets_its_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
