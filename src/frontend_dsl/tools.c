#include "frontend_dsl/tools_internal.h"

#include "base/limits.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/sandbox_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct dsl_tool *check_tool(lua_State *L, int index)
{
    const char *name = luaL_checkstring(L, index);
    const struct dsl_tool *tool = dsl_program_tool(task_of(L)->module->program, name);
    if (!tool)
        dsl_raise(L, "tool_error", "the program has no tool %.64s", name);
    return tool;
}

/* The arguments at index, with defaults; pushes what keeps them. */
static json_t *check_arguments(lua_State *L, const struct type_spec *params, int index,
                               const char *code)
{
    struct dsl_error err;
    json_t *complete = NULL, *given = NULL;
    const size_t most = (size_t)run_of(L)->limits.max_args_kb * KIB;
    if (lua_isnoneornil(L, index))
        lua_pushnil(L);
    else
        given = dsl_json_check(L, index, most, code);
    if (json_is_array(given) && json_array_size(given) == 0)
        given = NULL; /* an empty table */
    dsl_error_init(&err);
    if (type_spec_complete(params, given, "args", code, &complete, &err)) {
        dsl_error_push(L, &err);
        dsl_error_deinit(&err);
        (void)lua_error(L);
    }
    dsl_json_guard(L, complete);
    lua_remove(L, -2);
    return complete;
}

int global_tool_schema(lua_State *L)
{
    json_t *schema = type_spec_schema(check_tool(L, 1)->params);
    if (!schema)
        raise_memory(L);
    dsl_json_guard(L, schema);
    dsl_json_push(L, schema);
    return 1;
}

/* ---- tools of the program -------------------------------------------------------------------- */

/* An error that says nothing but that the function failed is the tool's. */
static int tool_returned(lua_State *L, int status, lua_KContext ctx)
{
    struct dsl_error err;
    (void)ctx;
    if (status == LUA_OK || status == LUA_YIELD)
        return 1;
    sandbox_check_caught(L, status);
    dsl_error_init(&err);
    dsl_error_read(L, -1, &err);
    if (strcmp(err.code, "runtime_error") != 0) {
        dsl_error_deinit(&err);
        return lua_error(L);
    }
    (void)snprintf(err.code, sizeof err.code, "tool_error");
    dsl_error_push(L, &err);
    dsl_error_deinit(&err);
    return lua_error(L);
}

static int run_tool(lua_State *L, const struct dsl_tool *tool, const json_t *arguments)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, task_of(L)->module->table);
    lua_getfield(L, -1, "tools");
    lua_getfield(L, -1, tool->name);
    lua_getfield(L, -1, "run");
    dsl_json_push(L, arguments);
    return tool_returned(L, lua_pcallk(L, 1, 1, 0, 0, tool_returned), 0);
}

/* ---- external tools -------------------------------------------------------------------------- */

static void unlink_call(struct dsl_run *run, struct dsl_tool_call *call)
{
    struct dsl_tool_call **link = &run->calls;
    call->task->tool = NULL;
    (void)pthread_mutex_lock(&run->lock);
    while (*link != call)
        link = &(*link)->next;
    *link = call->next;
    if (!call->next)
        run->last_call = link;
    (void)pthread_mutex_unlock(&run->lock);
}

void tool_call_abandon(struct dsl_tool_call *call)
{
    unlink_call(call->task->run, call);
    tool_call_destroy(call);
}

static int external_returned(lua_State *L, int status, lua_KContext ctx)
{
    struct dsl_run *run = run_of(L);
    struct dsl_task *task = task_of(L);
    struct dsl_tool_call *call = task->tool;
    struct dsl_error err;
    (void)status;
    (void)ctx;
    unlink_call(run, call);
    json_t *output = call->output;
    const bool is_answer = call->status == TOOL_ANSWERED;
    dsl_error_init(&err);
    if (call->status == TOOL_TIMEOUT)
        dsl_error_set(&err, "tool_timeout", "no output of %s came within %u s", call->name,
                      run->limits.tool_wait_s);
    else if (!is_answer)
        dsl_error_set(&err, "tool_error", "%s", call->error);
    call->output = NULL;
    tool_call_destroy(call);
    if (is_answer) {
        dsl_json_guard(L, output);
        dsl_json_push(L, output);
        return 1;
    }
    dsl_error_push(L, &err);
    dsl_error_deinit(&err);
    return lua_error(L);
}

void tool_call_destroy(struct dsl_tool_call *call)
{
    free(call->name);
    free(call->branch);
    free(call->error);
    json_decref(call->arguments);
    json_decref(call->output);
    free(call);
}

static int wait_for_client(lua_State *L, const struct dsl_tool *tool, json_t *arguments)
{
    struct dsl_run *run = run_of(L);
    struct dsl_task *task = task_of(L);
    if (!lua_isyieldable(L))
        return sandbox_yield(L, 0, external_returned); /* raises */
    struct dsl_tool_call *call = calloc(1, sizeof *call);
    if (!call)
        raise_memory(L);
    *call = (struct dsl_tool_call){.name = strdup(tool->name),
                                   .branch = strdup(task_path(task)),
                                   .arguments = json_incref(arguments),
                                   .task = task,
                                   .begin_ns = clock_now_ns(run->setup.clock)};
    (void)snprintf(call->id, sizeof call->id, "call_%016" PRIx64,
                   dsl_seed(run->setup.seed, "tool", ++run->n_calls));
    if (!call->name || !call->branch) {
        tool_call_destroy(call);
        raise_memory(L);
    }
    (void)pthread_mutex_lock(&run->lock);
    *run->last_call = call;
    run->last_call = &call->next;
    (void)pthread_mutex_unlock(&run->lock);
    task->tool = call;
    task->status = TASK_BLOCKED;
    run_emit(run, "tool.call", call->branch, "{s:s, s:s, s:O}", "id", call->id, "name", call->name,
             "arguments", arguments);
    return sandbox_yield(L, 0, external_returned);
}

int global_call_tool(lua_State *L)
{
    lua_settop(L, 2);
    const struct dsl_tool *tool = check_tool(L, 1);
    json_t *arguments = check_arguments(L, tool->params, 2, "invalid_tool_arguments");
    return tool->is_external ? wait_for_client(L, tool, arguments) : run_tool(L, tool, arguments);
}

/* ---- programs -------------------------------------------------------------------------------- */

struct dsl_module *module_create(struct dsl_run *run, struct dsl_program *program)
{
    struct dsl_module *module = calloc(1, sizeof *module);
    if (!module)
        return NULL;
    *module = (struct dsl_module){
        .program = dsl_program_ref(program), .table = LUA_NOREF, .next = run->modules};
    run->modules = module;
    return module;
}

/* What is called needs to know at its end; a userdata at index 3. */
struct called {
    struct dsl_module *module, *caller;
    struct dsl_state *state; /* whose variables were put aside; NULL: a new one's */
    int variables, metas;
};

enum { NAME = 1, ARGUMENTS, CALLED, TARGET };

static struct dsl_module *find_module(lua_State *L, const char *name)
{
    struct dsl_run *run = run_of(L);
    const struct dsl_run_host *host = &run->setup.host;
    for (struct dsl_module *m = run->modules; m; m = m->next)
        if (strcmp(m->program->name, name) == 0 && m->is_named)
            return m; /* a run keeps the version that it began with */
    struct dsl_program *program =
        host->find_program ? host->find_program(host->context, name) : NULL;
    if (!program)
        dsl_raise(L, "program_not_found", "there is no program %.64s", name);
    struct dsl_module *module = module_create(run, program);
    dsl_program_unref(program);
    if (!module)
        raise_memory(L);
    module->is_named = true;
    return module;
}

/* Globals of its own, pushed: a copy, libraries too. */
static void push_globals(lua_State *L)
{
    lua_newtable(L);
    lua_pushglobaltable(L);
    for (lua_pushnil(L); lua_next(L, -2);) {
        if (lua_type(L, -1) == LUA_TTABLE) {
            lua_newtable(L);
            for (lua_pushnil(L); lua_next(L, -3);) {
                lua_pushvalue(L, -2);
                lua_insert(L, -2);
                lua_rawset(L, -4);
            }
            if (lua_getmetatable(L, -2))
                lua_setmetatable(L, -2);
            lua_remove(L, -2);
        }
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, -5);
    }
    lua_pop(L, 1);
}

static void put_back(lua_State *L, const struct called *c)
{
    struct dsl_task *task = task_of(L);
    task->module = c->caller;
    task->call_depth--;
    if (!c->state)
        return;
    luaL_unref(L, LUA_REGISTRYINDEX, c->state->variables);
    luaL_unref(L, LUA_REGISTRYINDEX, c->state->metas);
    c->state->variables = c->variables;
    c->state->metas = c->metas;
}

static int call_returned(lua_State *L, int status, lua_KContext ctx)
{
    const struct called *c = (const struct called *)ctx;
    const struct type_spec *returns = c->module->program->returns;
    struct dsl_error err;
    put_back(L, c);
    if (!c->state) /* the call's own: nobody else has it */
        state_release(state_get(L, TARGET));
    if (status != LUA_OK && status != LUA_YIELD) {
        sandbox_check_caught(L, status);
        return lua_error(L);
    }
    const size_t most = (size_t)run_of(L)->limits.max_result_kb * KIB;
    const json_t *value = dsl_json_check(L, lua_gettop(L), most, "bad_return_value");
    if (returns) {
        json_t *complete = NULL;
        dsl_error_init(&err);
        if (type_spec_complete(returns, value, "result", "bad_return_value", &complete, &err)) {
            dsl_error_push(L, &err);
            dsl_error_deinit(&err);
            return lua_error(L);
        }
        dsl_json_guard(L, complete);
        value = complete;
    }
    dsl_json_push(L, value);
    return 1;
}

/* The module's main, with the state at TARGET. */
static int call_main(lua_State *L, struct called *c)
{
    struct dsl_task *task = task_of(L);
    struct dsl_state *state = state_check(L, TARGET);
    const struct dsl_program *program = c->module->program;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->module->table);
    lua_getfield(L, -1, "main");
    lua_pushvalue(L, TARGET);
    const json_t *arguments = check_arguments(L, program->args, ARGUMENTS, "invalid_arguments");
    dsl_json_push_readonly(L, arguments);
    lua_remove(L, -2);
    if (lua_toboolean(L, TARGET + 1)) { /* the caller's state: its variables wait */
        lua_newtable(L);
        const int variables = luaL_ref(L, LUA_REGISTRYINDEX);
        lua_newtable(L);
        const int metas = luaL_ref(L, LUA_REGISTRYINDEX);
        c->state = state;
        c->variables = state->variables;
        c->metas = state->metas;
        state->variables = variables;
        state->metas = metas;
    }
    c->caller = task->module;
    task->module = c->module;
    task->call_depth++;
    const int status = lua_pcallk(L, 2, 1, 0, (lua_KContext)c, call_returned);
    return call_returned(L, status, (lua_KContext)c);
}

/* The chunk has returned its program. */
static int chunk_returned(lua_State *L, int status, lua_KContext ctx)
{
    struct called *c = (struct called *)ctx;
    (void)status;
    if (lua_type(L, -1) != LUA_TTABLE)
        dsl_raise(L, "bad_program", "%s returns no program", c->module->program->name);
    luaL_unref(L, LUA_REGISTRYINDEX, c->module->table);
    c->module->table = luaL_ref(L, LUA_REGISTRYINDEX);
    return call_main(L, c);
}

/* Stack: name, arguments, called, state, whether that is the caller's. */
static int call_program(lua_State *L, struct called *c)
{
    const struct dsl_run *run = run_of(L);
    const struct dsl_program *program;
    if (task_of(L)->call_depth >= run->limits.max_call_depth)
        dsl_raise(L, "call_depth", "calls are more than %u deep (max_call_depth)",
                  run->limits.max_call_depth);
    c->module = find_module(L, luaL_checkstring(L, NAME));
    if (c->module->table != LUA_NOREF)
        return call_main(L, c);
    program = c->module->program;
    char name[DSL_NAME_BYTES + 1];
    (void)snprintf(name, sizeof name, "=%s", program->name);
    sandbox_charge(L, program->n_source / 16);
    if (luaL_loadbufferx(L, program->source, program->n_source, name, "t") != LUA_OK)
        return lua_error(L);
    push_globals(L);
    (void)lua_setupvalue(L, -2, 1);
    lua_callk(L, 0, 1, (lua_KContext)c, chunk_returned);
    return chunk_returned(L, LUA_OK, (lua_KContext)c);
}

static struct called *push_called(lua_State *L)
{
    struct called *c = lua_newuserdatauv(L, sizeof *c, 0);
    *c = (struct called){.variables = LUA_NOREF, .metas = LUA_NOREF};
    return c;
}

int global_call(lua_State *L)
{
    lua_settop(L, 2);
    struct called *c = push_called(L);
    (void)state_create(L, run_of(L), task_branch(task_of(L)));
    lua_pushboolean(L, false);
    return call_program(L, c);
}

int state_call(lua_State *L)
{
    lua_settop(L, 3);
    (void)state_check(L, 1);
    lua_rotate(L, 1, -1); /* name, arguments, state */
    struct called *c = push_called(L);
    lua_insert(L, CALLED);
    lua_pushboolean(L, true);
    return call_program(L, c);
}
