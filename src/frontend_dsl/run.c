#include "frontend_dsl/run.h"

#include "base/error.h"
#include "base/numeric.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/run_internal.h"
#include "frontend_dsl/tools_internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what natives find ----------------------------------------------------------------------- */

static const char run_key, program_key;

struct dsl_run *run_of(lua_State *L)
{
    (void)lua_rawgetp(L, LUA_REGISTRYINDEX, &run_key);
    struct dsl_run *run = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return run;
}

struct dsl_task *task_of(lua_State *L)
{
    struct dsl_task *task = run_of(L)->current;
    if (!task)
        dsl_raise(L, "runtime_error", "the chunk of a program may not call the model");
    return task;
}

bool run_is_heard(const struct dsl_run *run)
{
    const struct dsl_run_host *host = &run->setup.host;
    return host->emit && (!host->listens || host->listens(host->context));
}

void run_emit(struct dsl_run *run, const char *event, const char *branch, const char *format, ...)
{
    const struct dsl_run_host *host = &run->setup.host;
    va_list values;
    if (!run_is_heard(run))
        return;
    va_start(values, format);
    json_t *data = json_vpack_ex(NULL, 0, format, values);
    va_end(values);
    if (!data) /* no memory */
        return;
    (void)json_object_set_new(data, "branch", json_string(branch));
    host->emit(host->context, event, data);
}

bool run_streams(const struct dsl_run *run, const char *name)
{
    const struct dsl_run_setup *setup = &run->setup;
    bool is_listed = setup->n_streamed == 0;
    for (uint32_t i = 0; i < setup->n_streamed && !is_listed; i++)
        is_listed = strcmp(setup->streamed[i], name) == 0;
    return setup->wants_deltas && is_listed;
}

/* ---- hooks of the sandbox -------------------------------------------------------------------- */

static void on_print(void *context, lua_State *L, const char *text, size_t n)
{
    struct dsl_run *run = context;
    const size_t room = run->log.limit - run->log.len;
    (void)L;
    if (run->log_is_full)
        return;
    run->log_is_full = n + 1 > room;
    if (run->log_is_full)
        return;
    buffer_append(&run->log, text, n);
    buffer_append_char(&run->log, '\n');
    run_emit(run, "log", run->current ? task_path(run->current) : "0", "{s:s%}", "text", text, n);
}

static uint64_t on_random(void *context, lua_State *L)
{
    struct dsl_run *run = context;
    struct dsl_task *task = run->current;
    (void)L;
    return task ? seed_of_lua(task_branch(task), task->n_random++)
                : dsl_seed(run->setup.seed, "chunk", run->n_chunk_random++);
}

static const char *on_branch(void *context, lua_State *L)
{
    const struct dsl_run *run = context;
    (void)L;
    return run->current ? task_path(run->current) : NULL;
}

/* ---- main ------------------------------------------------------------------------------------ */

/* What main returned becomes the run's value. */
static int main_returned(lua_State *L, int status, lua_KContext ctx)
{
    struct dsl_run *run = run_of(L);
    const size_t most = (size_t)run->limits.max_result_kb * KIB;
    struct dsl_error error;
    (void)status;
    (void)ctx;
    json_t *value = dsl_json_check(L, 1, most, "bad_return_value"), *complete = NULL;
    if (run->setup.program->returns) {
        dsl_error_init(&error);
        if (type_spec_complete(run->setup.program->returns, value, "result", "bad_return_value",
                               &complete, &error)) {
            dsl_error_push(L, &error);
            dsl_error_deinit(&error);
            return lua_error(L);
        }
        value = complete;
    } else {
        json_incref(value);
    }
    json_decref(run->value);
    run->value = value;
    return 0;
}

/* A task's function: calls main(s, args), which lie on the stack. */
static int run_main(lua_State *L)
{
    lua_settop(L, 3);
    lua_callk(L, 2, 1, 0, main_returned);
    return main_returned(L, LUA_OK, 0);
}

/* What the program's text returned lies at program_key of the registry. */
static int begin_main(lua_State *L)
{
    struct dsl_run *run = lua_touserdata(L, 1);
    (void)lua_rawgetp(L, LUA_REGISTRYINDEX, &program_key);
    lua_pushvalue(L, -1);
    run->modules->table = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, run_main);
    lua_getfield(L, -2, "main");
    run->root = state_ref(state_create(L, run, NULL));
    dsl_json_push_readonly(L, run->args);
    run->main = task_create(L, run, NULL, 0, 3);
    run->main->state = state_ref(run->root);
    run->root->task = run->main;
    return 0;
}

/* The slot of the program's table is made beforehand, so that filling it raises nothing. */
static int open_all(lua_State *L)
{
    lua_pushlightuserdata(L, lua_touserdata(L, 1));
    lua_rawsetp(L, LUA_REGISTRYINDEX, &run_key);
    lua_pushboolean(L, false);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &program_key);
    run_open_globals(L);
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

static serverd_status take_setup(struct dsl_run *run, const struct dsl_run_setup *setup,
                                 struct dsl_error *error)
{
    serverd_error err;
    char *text;
    run->setup = *setup;
    run->limits = setup->limits;
    run->begin_token = find_begin_token(setup->model.tokenizer);
    run->setup.program = dsl_program_ref(setup->program);
    if (dsl_limits_lower(&run->limits, setup->program->limits, &err)) {
        dsl_error_set(error, "bad_program", "%s", err.text);
        return err.code;
    }
    run->sampling = json_incref((json_t *)setup->sampling);
    text = setup->args ? json_dumps(setup->args, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    const size_t n_bytes = text ? strlen(text) : 0;
    free(text);
    if (n_bytes > (size_t)run->limits.max_args_kb * KIB) {
        dsl_error_set(error, "invalid_arguments", "the arguments are longer than %u KiB",
                      run->limits.max_args_kb);
        return SERVERD_INVALID;
    }
    return type_spec_complete(setup->program->args, setup->args, "args", "invalid_arguments",
                              &run->args, error);
}

static serverd_status make_sandbox(struct dsl_run *run, struct dsl_error *error)
{
    const struct sandbox_limits limits = {
        .memory_bytes = (size_t)run->limits.memory_mb * MIB,
        .instructions = run->limits.instructions,
        .cpu_ns = run->limits.cpu_ms * UINT64_C(1000000),
        .total_bytes = run->setup.memory_total,
        .total_limit = run->setup.memory_total_limit,
    };
    const struct sandbox_hooks hooks = {on_print, on_random, on_branch, run};
    serverd_status status = sandbox_create(&limits, &run->sandbox, error);
    if (status == SERVERD_OK) {
        sandbox_set_hooks(run->sandbox, &hooks);
        status = sandbox_protect(run->sandbox, open_all, run, 0, error);
    }
    return status;
}

serverd_status dsl_run_create(const struct dsl_run_setup *setup, struct dsl_run **out,
                              struct dsl_error *error)
{
    struct dsl_run *run = calloc(1, sizeof *run);
    if (!run) {
        dsl_error_set(error, "memory_limit", "no memory for a run");
        return SERVERD_NOMEM;
    }
    run->last_task = &run->tasks;
    run->last_op = &run->ops;
    run->last_state = &run->states;
    run->last_call = &run->calls;
    dsl_error_init(&run->error);
    buffer_init(&run->log, (size_t)setup->limits.max_log_kb * KIB);
    (void)pthread_mutex_init(&run->lock, NULL);
    run->begin_ns = clock_now_ns(setup->clock);
    serverd_status status = take_setup(run, setup, error);
    if (status == SERVERD_OK)
        status = make_sandbox(run, error);
    if (status == SERVERD_OK && !module_create(run, setup->program)) {
        dsl_error_set(error, "memory_limit", "no memory for a run");
        status = SERVERD_NOMEM;
    }
    if (status == SERVERD_OK)
        *out = run;
    else
        dsl_run_destroy(run);
    return status;
}

static void free_modules(struct dsl_run *run)
{
    for (struct dsl_module *module = run->modules, *next; module; module = next) {
        next = module->next;
        dsl_program_unref(module->program);
        free(module);
    }
}

void dsl_run_destroy(struct dsl_run *run)
{
    if (!run)
        return;
    assert(run->n_outstanding == 0);
    (void)pthread_mutex_lock(&run->lock); /* until who has posted the last event is out */
    (void)pthread_mutex_unlock(&run->lock);
    while (run->tasks)
        task_cancel(run->tasks);
    while (run->ops)
        op_destroy(run->ops);
    state_unref(run->root);
    sandbox_destroy(run->sandbox); /* the last handles of states and groups go */
    for (uint32_t i = 0; i < run->n_trace; i++)
        trace_deinit(&run->trace[i]);
    free(run->trace);
    run_drop_mail(run);
    run_drop_calls(run);
    free_modules(run);
    json_decref(run->args);
    json_decref(run->sampling);
    json_decref(run->value);
    json_decref(run->variables);
    buffer_deinit(&run->log);
    score_memo_destroy(run->own_memo);
    dsl_error_deinit(&run->error);
    dsl_program_unref(run->setup.program);
    (void)pthread_mutex_destroy(&run->lock);
    free(run);
}

static json_t *read_variables(struct dsl_run *run);

/* ---- ends ------------------------------------------------------------------------------------ */

void run_fail(struct dsl_run *run, struct dsl_error *error)
{
    if (run->is_over) {
        dsl_error_deinit(error);
        return;
    }
    run->is_over = run->has_failed = true;
    if (error->program[0] == '\0')
        (void)snprintf(error->program, sizeof error->program, "%s", run->setup.program->name);
    dsl_error_move(&run->error, error);
}

/* Main has ended, or nothing can go on: what still runs is not wanted. */
static void end_rest(struct dsl_run *run)
{
    while (run->tasks)
        task_cancel(run->tasks);
    for (struct dsl_op *op = run->ops, *next; op; op = next) {
        next = op->next;
        if (!op->is_unwanted)
            op_abandon(op);
    }
}

static void run_end(struct dsl_run *run)
{
    run->variables = read_variables(run);
    for (struct dsl_state *state = run->states; state; state = state->next)
        state_set_prefix(state, NULL);
    run->is_ended = true;
    run->status = !run->has_failed                            ? DSL_STATUS_COMPLETED
                  : strcmp(run->error.code, "cancelled") == 0 ? DSL_STATUS_CANCELLED
                                                              : DSL_STATUS_FAILED;
}

/* ---- advancing ------------------------------------------------------------------------------- */

static void run_begin(struct dsl_run *run)
{
    struct dsl_error error;
    dsl_error_init(&error);
    run->has_begun = true;
    run->status = DSL_STATUS_RUNNING;
    run_emit(run, "run.created", "0", "{s:I}", "seed", (json_int_t)run->setup.seed);
    if (dsl_program_begin(run->setup.program, run->sandbox, &run->text, &error))
        run_fail(run, &error);
}

/* The program's text goes on; behind it main is ready. False: the slice is over before. */
static bool run_text(struct dsl_run *run)
{
    struct dsl_error error;
    bool is_done = false;
    dsl_error_init(&error);
    serverd_status status =
        dsl_program_go_on(run->setup.program, run->sandbox, run->text, &is_done, &error);
    if (status == SERVERD_OK && !is_done)
        return false;
    run->text = NULL;
    if (status == SERVERD_OK) {
        lua_rawsetp(sandbox_lua(run->sandbox), LUA_REGISTRYINDEX, &program_key);
        status = sandbox_protect(run->sandbox, begin_main, run, 0, &error);
    }
    if (status)
        run_fail(run, &error);
    return true;
}

/* Nobody can go on, and nothing will come: members of a group wait for each other. */
static void fail_for_good(struct dsl_run *run)
{
    struct dsl_error error;
    dsl_error_init(&error);
    dsl_error_set(&error, "runtime_error", "all tasks wait for each other");
    run_fail(run, &error);
}

/* After the tasks: everything is blocked. */
static enum dsl_progress settle(struct dsl_run *run)
{
    if (run->is_over) {
        end_rest(run);
        if (run->n_outstanding > 0)
            return DSL_RUN_BLOCKED;
        run_end(run);
        return DSL_RUN_ENDED;
    }
    const bool has_work = run->n_outstanding > 0 || run->has_queued;
    const bool needs_tools = !has_work && run_waits_for_tools(run);
    if (needs_tools && !run->needs_tools)
        run->variables = read_variables(run); /* as who looks at the waiting run sees them */
    run_note_tools(run, needs_tools);
    run->status = needs_tools ? DSL_STATUS_REQUIRES_ACTION : DSL_STATUS_RUNNING;
    if (!has_work && !needs_tools) {
        fail_for_good(run);
        return settle(run);
    }
    return needs_tools ? DSL_RUN_NEEDS_TOOLS : DSL_RUN_BLOCKED;
}

enum dsl_progress dsl_run_advance(struct dsl_run *run, uint64_t slice_ns)
{
    if (run->is_ended)
        return DSL_RUN_ENDED;
    sandbox_begin_slice(run->sandbox, slice_ns);
    if (!run->has_begun)
        run_begin(run);
    if (run->text && !run_text(run))
        return DSL_RUN_AGAIN;
    run_take_mail(run);
    run_take_tool_results(run);
    do {
        if (!tasks_run(run))
            return DSL_RUN_AGAIN;
        if (!run->is_over)
            ops_submit(run); /* one that is refused makes its task ready */
    } while (!run->is_over && (tasks_have_ready(run) || ops_may_go(run)));
    return settle(run);
}

/* ---- what it is ------------------------------------------------------------------------------ */

enum dsl_run_status dsl_run_status(const struct dsl_run *run)
{
    return run->status;
}

struct dsl_usage dsl_run_usage(const struct dsl_run *run)
{
    return run->usage;
}

struct dsl_counters dsl_run_counters(const struct dsl_run *run)
{
    const struct sandbox_usage usage = sandbox_usage(run->sandbox);
    struct dsl_counters counters = {.instructions = usage.instructions,
                                    .cpu_ns = usage.cpu_ns,
                                    .memory_bytes = usage.bytes,
                                    .n_branches_active = run->n_live_states};
    memcpy(counters.n_ops, run->n_ops, sizeof counters.n_ops);
    return counters;
}

uint32_t dsl_run_take_gaps(struct dsl_run *run, uint64_t *gap_ns, uint32_t n)
{
    const uint32_t taken = min_u32(n, run->n_gaps);
    memcpy(gap_ns, run->gaps, taken * sizeof *gap_ns);
    memmove(run->gaps, run->gaps + taken, (run->n_gaps - taken) * sizeof *run->gaps);
    run->n_gaps -= taken;
    return taken;
}

const struct dsl_error *dsl_run_error(const struct dsl_run *run)
{
    return run->has_failed ? &run->error : NULL;
}

/* Those that have JSON. */
static int collect_variables(lua_State *L)
{
    struct dsl_run *run = lua_touserdata(L, 1);
    const size_t most = (size_t)run->limits.max_result_kb * KIB;
    (void)lua_rawgeti(L, LUA_REGISTRYINDEX, run->root->variables);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        json_t *value = NULL;
        struct dsl_error ignored;
        dsl_error_init(&ignored);
        if (lua_type(L, -2) == LUA_TSTRING &&
            dsl_json_read(L, lua_gettop(L), most, "bad_return_value", &value, &ignored) ==
                SERVERD_OK)
            (void)json_object_set_new(run->variables, lua_tostring(L, -2), value);
        dsl_error_deinit(&ignored);
    }
    return 0;
}

static json_t *read_variables(struct dsl_run *run)
{
    struct dsl_error ignored;
    dsl_error_init(&ignored);
    json_decref(run->variables);
    run->variables = json_object();
    if (run->root && run->variables && !sandbox_fatal(run->sandbox))
        (void)sandbox_protect(run->sandbox, collect_variables, run, 0, &ignored);
    dsl_error_deinit(&ignored);
    return run->variables;
}
