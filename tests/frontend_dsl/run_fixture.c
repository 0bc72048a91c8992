#include "run_fixture.h"

#include "grammar/token_trie.h"
#include "kernels/builtin.h"
#include "program/dtype.h"
#include "support/synthetic_program.h"
#include "text/chat_template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHATML                                                                                     \
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"                                \
    "{{ message.content }}<|im_end|>\n{% endfor %}"                                                \
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

enum { N_RUNNING = 64, CHUNK = 256, MAX_STEPS = 20000 };

static serverd_error err;

static void must(serverd_status status)
{
    if (status != SERVERD_OK)
        fail_msg("%s", err.text);
}

/* ---- the world ------------------------------------------------------------------------------- */

static void deliver(void *context, const struct event *events, uint32_t n)
{
    (void)context;
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(events[i].owner, OWNER_PROGRAM);
        dsl_run_post(&events[i]);
    }
}

static uint64_t now(void *context)
{
    struct dsl_world *world = context;
    return world->now_ns += 1000;
}

static int64_t wall(void *context)
{
    (void)context;
    return 1700000000;
}

static const struct token_trie *find_trie(void *context, serverd_error *e)
{
    struct dsl_world *world = context;
    if (!world->trie && token_trie_of_tokenizer(world->tokenizer, &world->trie, e))
        return NULL;
    return world->trie;
}

static void open_engine(struct dsl_world *world, const struct dsl_world_options *options)
{
    const uint32_t context = options->context > 0 ? options->context : 1024;
    const struct runtime_options runtime = {.delegates = builtin_delegates,
                                            .n_delegates = n_builtin_delegates,
                                            .device = "cpu",
                                            .pool = world->pool,
                                            .n_pages = options->n_pages,
                                            .limits = {.max_rows = CHUNK + N_RUNNING,
                                                       .max_logit_rows = CHUNK + N_RUNNING,
                                                       .max_seqs = N_RUNNING,
                                                       .max_context = context},
                                            .kv_dtype = DTYPE_F16};
    must(runtime_open(world->program, &runtime, &world->runtime, &err));
    const struct engine_options engine = {.runtime = world->runtime,
                                          .tokenizer = world->tokenizer,
                                          .clock = &world->clock,
                                          .sink = {deliver, world},
                                          .context_size = context,
                                          .max_running = N_RUNNING,
                                          .prefill_chunk = CHUNK,
                                          .has_prefix_cache = !options->has_no_prefix_cache,
                                          .max_queue =
                                              options->max_queue > 0 ? options->max_queue : 10000,
                                          .max_queue_tokens = 10000000};
    must(engine_create(&engine, &world->engine, &err));
    world->model = (struct dsl_model){.engine = world->engine,
                                      .tokenizer = world->tokenizer,
                                      .output = &world->output,
                                      .name = "tiny",
                                      .context_size = context,
                                      .memo = world->memo,
                                      .trie = find_trie,
                                      .grammar_context = world};
}

struct dsl_world *dsl_world_create(const struct dsl_world_options *options)
{
    struct dsl_world *world = calloc(1, sizeof *world);
    const char *source = options->chat_template ? options->chat_template : CHATML;
    world->clock = (struct clock){now, wall, world};
    world->now_ns = 1000000000;
    world->events = json_array();
    world->program = synthetic_program(options->arch ? options->arch : "llama", "Q8_0");
    must(worker_pool_create(2, &world->pool, &err));
    must(tokenizer_create(&world->program->vocabulary, &world->tokenizer, &err));
    must(output_formats_init(&world->output, world->tokenizer, source, NULL, NULL, &err));
    world->memo = score_memo_create();
    open_engine(world, options);
    if (*source) {
        must(chat_template_compile(source, strlen(source), &world->chat_template, &err));
        world->model.chat_template = world->chat_template;
        world->model.chat_template_source = source;
    }
    return world;
}

void dsl_world_destroy(struct dsl_world *world)
{
    engine_destroy(world->engine);
    runtime_close(world->runtime);
    score_memo_destroy(world->memo);
    output_formats_deinit(&world->output);
    if (world->chat_template)
        chat_template_destroy(world->chat_template);
    if (world->trie)
        token_trie_destroy(world->trie);
    tokenizer_destroy(world->tokenizer);
    worker_pool_destroy(world->pool);
    program_unref(world->program);
    json_decref(world->events);
    free(world);
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void emit(void *context, const char *event, json_t *data)
{
    struct dsl_world *world = context;
    json_object_set_new(data, "event", json_string(event));
    json_array_append_new(world->events, data);
}

static struct dsl_program *find_program(void *context, const char *name)
{
    const struct dsl_world *world = context;
    for (const struct named_program *p = world->programs; p && p->name; p++)
        if (strcmp(p->name, name) == 0)
            return must_read(p->name, p->source);
    return NULL;
}

struct run_options run_options_default(void)
{
    return (struct run_options){.seed = 7, .limits = dsl_limits_default()};
}

struct dsl_program *must_read(const char *name, const char *source)
{
    struct dsl_program *program;
    struct dsl_error error;
    const struct dsl_limits limits = dsl_limits_default();
    dsl_error_init(&error);
    if (dsl_program_read(name, source, strlen(source), &limits, &program, &error))
        fail_msg("%s: %s, line %d", error.code, error.message, error.line);
    return program;
}

static json_t *parse(const char *text)
{
    json_error_t error;
    json_t *value = text ? json_loads(text, JSON_DECODE_ANY, &error) : NULL;
    if (text && !value)
        fail_msg("%s: %s", text, error.text);
    return value;
}

struct dsl_run *run_create(struct dsl_world *world, const char *source,
                           const struct run_options *options)
{
    struct dsl_program *program = must_read("test", source);
    struct dsl_error error;
    struct dsl_run *run = NULL;
    _Atomic size_t *memory = options->memory_bytes > 0 ? &world->lua_bytes : NULL;
    json_t *args = parse(options->args), *sampling = parse(options->sampling);
    const struct dsl_run_setup setup = {
        .program = program,
        .args = args,
        .model = world->model,
        .seed = options->seed,
        .sampling = sampling,
        .limits = options->limits,
        .rank = options->rank,
        .cache_space = options->cache_space,
        .wants_deltas = options->wants_deltas,
        .wants_trace = true,
        .host = {.emit = emit, .find_program = find_program, .context = world},
        .clock = &world->clock,
        .memory_total = memory,
        .memory_total_limit = options->memory_bytes};
    dsl_error_init(&error);
    if (dsl_run_create(&setup, &run, &error) && !memory)
        fail_msg("%s: %s", error.code, error.message);
    dsl_error_deinit(&error);
    json_decref(args);
    json_decref(sampling);
    dsl_program_unref(program);
    return run;
}

enum dsl_progress run_advance(struct dsl_world *world, struct dsl_run *run)
{
    for (uint32_t i = 0; i < MAX_STEPS; i++) {
        const enum dsl_progress progress = dsl_run_advance(run, 1000000);
        if (progress == DSL_RUN_ENDED || progress == DSL_RUN_NEEDS_TOOLS)
            return progress;
        if (progress == DSL_RUN_BLOCKED && !engine_step(world->engine)) {
            const uint64_t at = dsl_run_timer_ns(run);
            if (at == UINT64_MAX)
                fail_msg("the run is blocked, and nothing happens");
            world->now_ns = at;
        }
    }
    fail_msg("the run does not end");
    return DSL_RUN_ENDED;
}

json_t *run_source(struct dsl_world *world, const char *source, const struct run_options *options)
{
    struct dsl_run *run = run_create(world, source, options);
    struct engine_status status;
    assert_int_equal(run_advance(world, run), DSL_RUN_ENDED);
    json_t *object = dsl_run_object(run, true, true);
    assert_non_null(object);
    dsl_run_destroy(run);
    while (engine_step(world->engine))
        ;
    must(engine_check(world->engine, &err));
    engine_status(world->engine, &status);
    assert_int_equal(status.n_handles, 0);
    return object;
}

json_t *run_body_as(struct dsl_world *world, const char *body, const struct run_options *options)
{
    char source[16384];
    (void)snprintf(source, sizeof source,
                   "return program{\n args = {x = {type = \"json\", default = 0}},\n"
                   " main = function(s, a) %s\n end}",
                   body);
    return run_source(world, source, options);
}

json_t *run_body(struct dsl_world *world, const char *body)
{
    const struct run_options options = run_options_default();
    return run_body_as(world, body, &options);
}

json_t *value_of_body(struct dsl_world *world, const char *body)
{
    json_t *object = run_body(world, body);
    json_t *value = json_incref(json_object_get(object, "value"));
    const json_t *error = json_object_get(object, "error");
    if (!json_is_null(error)) {
        char *text = json_dumps(error, 0);
        fail_msg("%s", text);
    }
    check_counts(object);
    json_decref(object);
    return value;
}

void must_fail(struct dsl_world *world, const char *body, const char *code)
{
    json_t *object = run_body(world, body);
    const char *found =
        json_string_value(json_object_get(json_object_get(object, "error"), "code"));
    if (!found || strcmp(found, code) != 0) {
        char *text = json_dumps(object, 0);
        fail_msg("expected %s: %s", code, text);
    }
    json_decref(object);
}

void must_equal(json_t *value, const char *expected)
{
    json_t *other = parse(expected);
    if (!json_equal(value, other)) {
        char *text = json_dumps(value, JSON_ENCODE_ANY);
        fail_msg("found %s, expected %s", text, expected);
    }
    json_decref(other);
    json_decref(value);
}

/* ---- counts ---------------------------------------------------------------------------------- */

static const json_t *row_of(const json_t *object, int row)
{
    const json_t *found = json_array_get(json_object_get(object, "trace"), (size_t)row);
    if (!found)
        fail_msg("the trace has no row %d", row);
    return found;
}

int trace_count(const json_t *object)
{
    return (int)json_array_size(json_object_get(object, "trace"));
}

long trace_field(const json_t *object, int row, const char *field)
{
    const json_t *value = json_object_get(row_of(object, row), field);
    assert_true(json_is_integer(value));
    return (long)json_integer_value(value);
}

const char *trace_text(const json_t *object, int row, const char *field)
{
    return json_string_value(json_object_get(row_of(object, row), field));
}

static bool has_earlier(const json_t *object, int row)
{
    for (int i = 0; i < row; i++)
        if (strcmp(trace_text(object, i, "branch"), trace_text(object, row, "branch")) == 0)
            return true;
    return false;
}

void check_counts(const json_t *object)
{
    for (int i = 0; i < trace_count(object); i++) {
        const long prompt = trace_field(object, i, "prompt");
        const long reused = trace_field(object, i, "reused");
        const long prefill = trace_field(object, i, "prefill");
        const long added = trace_field(object, i, "appended") + trace_field(object, i, "carry");
        if (prompt != reused + prefill || (has_earlier(object, i) && prefill != added)) {
            char *text = json_dumps(row_of(object, i), 0);
            fail_msg("row %d: %s", i, text);
        }
    }
}
