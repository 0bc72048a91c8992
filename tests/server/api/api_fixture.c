#include "api_fixture.h"

#include "compiler/compile.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "server/endpoints.h"
#include "support/synthetic_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define CONTEXT     512u
#define MAX_RUNNING 8u
#define MAX_ROWS    (CONTEXT + MAX_RUNNING)

static void must(serverd_status status, const serverd_error *err)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err->text);
}

/* ---- a clock that stands still ------------------------------------------------------------- */

static uint64_t now_ns(void *context)
{
    (void)context;
    return UINT64_C(1000000000000);
}

static int64_t wall_seconds(void *context)
{
    (void)context;
    return 1700000000;
}

static const struct clock still_clock = {.now_ns = now_ns, .wall_seconds = wall_seconds};

/* ---- the world ----------------------------------------------------------------------------- */

static void compile_synthetic(struct api_world *world, const char *arch)
{
    struct buffer bytes;
    struct program *program;
    serverd_error err;
    char path[64];
    buffer_init(&bytes, 64 * MIB);
    must(synthetic_model(arch, "F32", &bytes, &err), &err);
    int fd = memfd_create("model", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes.data, bytes.len), (ssize_t)bytes.len);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const struct compile_options options = {.path = path};
    must(compile_model(&options, &program, &err), &err);
    world->program = program;
    (void)close(fd);
    buffer_deinit(&bytes);
}

static void compile_template(struct api_world *world, const char *chat_template)
{
    const struct program_template *own = program_find_template(world->program, "default");
    serverd_error err;
    size_t n = own ? own->len : 0;
    world->model.chat_template_source = own ? own->source : NULL;
    if (chat_template) {
        world->model.chat_template_source = chat_template;
        n = strlen(chat_template);
    }
    if (world->model.chat_template_source)
        must(chat_template_compile(world->model.chat_template_source, n, &world->chat_template,
                                   &err),
             &err);
}

static void open_runtime(struct api_world *world)
{
    serverd_error err;
    const struct runtime_options options = {
        .delegates = builtin_delegates,
        .n_delegates = n_builtin_delegates,
        .device = "null:min_token=7",
        .pool = world->workers,
        .clock = &still_clock,
        .limits = {.struct_bytes = sizeof(serverd_limits),
                   .max_rows = MAX_ROWS,
                   .max_logit_rows = MAX_RUNNING + 16,
                   .max_seqs = MAX_RUNNING,
                   .max_context = CONTEXT},
        .kv_dtype = DTYPE_F32,
    };
    must(runtime_open(world->program, &options, &world->runtime, &err), &err);
}

static void deliver(void *context, const struct event *events, uint32_t n)
{
    (void)context;
    for (uint32_t i = 0; i < n; i++)
        exchange_deliver(events[i].user, &events[i]);
}

static void create_engine(struct api_world *world, bool has_prefix_cache)
{
    serverd_error err;
    const struct engine_options options = {
        .runtime = world->runtime,
        .tokenizer = world->tokenizer,
        .clock = &still_clock,
        .metrics = world->metrics,
        .has_prefix_cache = has_prefix_cache,
        .sink = {deliver, world},
        .context_size = CONTEXT,
        .max_running = MAX_RUNNING,
        .prefill_chunk = CONTEXT,
        .max_queue = 512,
        .max_queue_tokens = 1000000,
    };
    must(engine_create(&options, &world->engine, &err), &err);
}

struct world_options {
    bool has_prefix_cache, fills_in;
};

static struct api_world *create(const char *arch, const char *chat_template,
                                struct world_options options)
{
    serverd_error err;
    struct api_world *world = calloc(1, sizeof *world);
    assert_non_null(world);
    must(options_init(&world->options, &err), &err);
    world->metrics = metrics_create();
    compile_synthetic(world, arch);
    compile_template(world, chat_template);
    if (options.fills_in) {
        struct vocabulary *v = &world->program->vocabulary;
        v->fim_prefix = API_FIM_PREFIX;
        v->fim_suffix = API_FIM_SUFFIX;
        v->fim_middle = API_FIM_MIDDLE;
        v->fim_repo = API_FIM_REPOSITORY;
        v->fim_separator = API_FIM_FILE;
    }
    must(tokenizer_create(&world->program->vocabulary, &world->tokenizer, &err), &err);
    must(output_formats_init(&world->model.output, world->tokenizer,
                             world->model.chat_template_source, NULL, NULL, &err),
         &err);
    must(worker_pool_create(1, &world->workers, &err), &err);
    open_runtime(world);
    create_engine(world, options.has_prefix_cache);
    world->model.name = "tiny";
    world->model.created = 1600000000;
    world->model.program = world->program;
    world->model.tokenizer = world->tokenizer;
    world->model.chat_template = world->chat_template;
    world->model.engine = world->engine;
    world->model.context_size = CONTEXT;
    world->model.device = "null";
    (void)snprintf(world->model.fingerprint, sizeof world->model.fingerprint, "fp_test");
    world->server.context = (struct server_context){
        .options = &world->options, .clock = &still_clock, .metrics = world->metrics};
    response_store_init(&world->server.responses);
    model_set_init(&world->server.models, &world->server);
    job_thread_init(&world->server.compilers, &world->server);
    model_set_publish(&world->server.models, &world->model);
    return world;
}

struct api_world *api_world_create(const char *arch, const char *chat_template)
{
    return create(arch, chat_template, (struct world_options){0});
}

struct api_world *api_world_create_with_cache(const char *arch)
{
    return create(arch, NULL, (struct world_options){.has_prefix_cache = true});
}

struct api_world *api_world_create_for_fill_in(const char *arch, const char *chat_template)
{
    return create(arch, chat_template, (struct world_options){.fills_in = true});
}

void api_world_destroy(struct api_world *world)
{
    api_world_check_idle(world);
    response_store_deinit(&world->server.responses);
    engine_destroy(world->engine);
    job_thread_deinit(&world->server.compilers);
    model_set_deinit(&world->server.models);
    runtime_close(world->runtime);
    worker_pool_destroy(world->workers);
    output_formats_deinit(&world->model.output);
    tokenizer_destroy(world->tokenizer);
    if (world->chat_template)
        chat_template_destroy(world->chat_template);
    program_unref(world->program);
    metrics_destroy(world->metrics);
    options_deinit(&world->options);
    free(world);
}

void api_world_check_idle(struct api_world *world)
{
    serverd_error err;
    struct engine_status status;
    while (engine_step(world->engine)) {
    }
    must(engine_check(world->engine, &err), &err);
    engine_status(world->engine, &status);
    assert_int_equal(status.n_running, 0);
    assert_int_equal(status.n_waiting, 0);
    assert_int_equal(status.n_free_pages, status.n_pages);
}

/* ---- calls --------------------------------------------------------------------------------- */

static const struct route routes[] = {
    {"GET", "/v1/models", endpoint_models_list, SCOPE_INFER, 0},
    {"GET", "/v1/models/{id}", endpoint_models_get, SCOPE_INFER, 0},
    {"POST", "/v1/chat/completions", endpoint_chat_completions, SCOPE_INFER,
     NEEDS_MODEL | JSON_BODY},
    {"POST", "/v1/completions", endpoint_completions, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/v1/embeddings", endpoint_embeddings, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/v1/rerank", endpoint_rerank, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/v2/rerank", endpoint_rerank_v2, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/reranking", endpoint_rerank, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/v1/score", endpoint_score, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/tokenize", endpoint_tokenize, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/detokenize", endpoint_detokenize, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/apply-template", endpoint_apply_template, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/v1/messages", endpoint_messages, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/v1/messages/count_tokens", endpoint_count_tokens, SCOPE_INFER,
     NEEDS_MODEL | JSON_BODY},
    {"POST", "/v1/responses", endpoint_responses, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/v1/responses/input_tokens", endpoint_responses_input_tokens, SCOPE_INFER,
     NEEDS_MODEL | JSON_BODY},
    {"POST", "/v1/chat/completions/input_tokens", endpoint_chat_input_tokens, SCOPE_INFER,
     NEEDS_MODEL | JSON_BODY},
    {"POST", "/generate", endpoint_generate, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/completion", endpoint_llama_completion, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
    {"POST", "/infill", endpoint_infill, SCOPE_INFER, NEEDS_MODEL | JSON_BODY},
};

/* The route, and what stands in the place of "{id}". */
static const struct route *find_route(const char *path, const char **rest)
{
    const char *models = "/v1/models/";
    *rest = NULL;
    if (strncmp(path, models, strlen(models)) == 0) {
        *rest = path + strlen(models);
        return &routes[1];
    }
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (strcmp(routes[i].path, path) == 0)
            return &routes[i];
    fail_msg("%s is no route", path);
    return NULL;
}

static void take_bytes(struct exchange *x, struct buffer *out)
{
    buffer_append(out, buffer_str(&x->reply), x->reply.len);
    buffer_reset(&x->reply);
    x->has_begun = true;
}

/* What the job thread would do. */
static void run_jobs(struct api_world *world)
{
    struct job_thread *jobs = &world->server.compilers;
    for (; jobs->n > 0; jobs->n--) {
        const struct server_job job = jobs->jobs[jobs->first];
        jobs->first = (jobs->first + 1) % LIMIT_SERVER_JOBS;
        job.work(job.x, false);
    }
}

/* Steps the engine until the exchange has all its bytes. */
static bool run(struct api_world *world, struct exchange *x, uint32_t max_steps, struct buffer *out)
{
    for (uint32_t step = 0; !x->is_ended; step++) {
        if (step == max_steps) {
            exchange_abandon(x);
            return false;
        }
        bool did_step = engine_step(world->engine);
        /* as the HTTP thread does: a step may have more events than one round encodes */
        while (exchange_advance(x) && x->is_stream && !x->is_ended)
            take_bytes(x, out);
        if (x->phase == PHASE_REPLIED)
            break;
        assert_true(did_step || x->is_ended);
    }
    return true;
}

static struct api_reply call(struct api_world *world, const char *path, const char *body, size_t n,
                             uint32_t max_steps)
{
    const char *rest;
    struct buffer out;
    struct api_reply reply = {0};
    struct exchange *x = exchange_create(&world->server);
    assert_non_null(x);
    buffer_init(&out, 512 * MIB);
    x->route = find_route(path, &rest);
    x->path_rest = rest ? strdup(rest) : NULL;
    buffer_append(&x->body, body, n);
    if (exchange_choose_model(x) == MODEL_CHOSEN)
        x->route->handler(x);
    run_jobs(world);
    assert_true(x->phase == PHASE_REPLIED || x->phase == PHASE_GENERATING);
    reply.status = 200;
    if (x->phase == PHASE_GENERATING)
        reply.was_aborted = !run(world, x, max_steps, &out);
    if (x->phase == PHASE_REPLIED)
        reply.status = x->status;
    take_bytes(x, &out);
    (void)snprintf(reply.ignored, sizeof reply.ignored, "%s", buffer_str(&x->ignored_fields));
    exchange_unref(x);
    api_world_check_idle(world);
    assert_false(out.is_failed);
    buffer_append_char(&out, '\0'); /* so that there are bytes to take */
    reply.body = buffer_take(&out, &reply.len);
    reply.len--;
    return reply;
}

struct api_reply api_call(struct api_world *world, const char *path, const char *body, size_t n)
{
    return call(world, path, body, n, UINT32_MAX);
}

struct api_reply api_post(struct api_world *world, const char *path, const char *body)
{
    return call(world, path, body, strlen(body), UINT32_MAX);
}

struct api_reply api_call_and_leave(struct api_world *world, const char *path, const char *body,
                                    size_t n, uint32_t max_steps)
{
    return call(world, path, body, n, max_steps);
}

void api_reply_hide_ids(struct api_reply *reply)
{
    static const char *const prefixes[] = {"\"chatcmpl-", "\"cmpl-", "\"rerank-", "\"score-"};
    for (size_t p = 0; p < sizeof prefixes / sizeof *prefixes; p++) {
        char *at = reply->body;
        while ((at = strstr(at, prefixes[p]))) {
            at += strlen(prefixes[p]);
            char *end = strchr(at, '"');
            if (!end)
                return;
            assert_int_equal(end - at, 24);
            memcpy(at, "ID", 2);
            memmove(at + 2, end, strlen(end) + 1);
        }
    }
    reply->len = strlen(reply->body);
}
