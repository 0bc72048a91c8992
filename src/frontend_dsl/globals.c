/* The functions of the engine's that programs see as globals. */
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/fork_internal.h"
#include "frontend_dsl/group_internal.h"
#include "frontend_dsl/scratch_internal.h"
#include "frontend_dsl/tools_internal.h"

#include <string.h>

/* emit(name, value): an event `custom` of the stream. */
static int global_emit(lua_State *L)
{
    lua_settop(L, 2);
    struct dsl_task *task = task_of(L);
    struct dsl_run *run = task->run;
    const char *name = luaL_checkstring(L, 1);
    json_t *value = NULL;
    sandbox_charge(L, 100);
    if (!lua_isnil(L, 2))
        value = dsl_json_check(L, 2, (size_t)run->limits.max_result_kb * KIB, "bad_return_value");
    run_emit(run, "custom", task_path(task), "{s:s, s:O?}", "name", name, "value", value);
    return 0;
}

static int global_elapsed(lua_State *L)
{
    const struct dsl_run *run = run_of(L);
    const uint64_t ns = clock_now_ns(run->setup.clock) - run->begin_ns;
    lua_pushnumber(L, (lua_Number)ns * 1e-9);
    return 1;
}

static void set_left(lua_State *L, const char *name, uint64_t most, uint64_t used)
{
    lua_pushinteger(L, (lua_Integer)(used < most ? most - used : 0));
    lua_setfield(L, -2, name);
}

static int global_budget_left(lua_State *L)
{
    const struct dsl_run *run = run_of(L);
    const struct dsl_limits *limits = &run->limits;
    const struct dsl_usage *usage = &run->usage;
    const struct sandbox_usage used = sandbox_usage(run->sandbox);
    op_forget_last(L);
    lua_createtable(L, 0, 5);
    set_left(L, "tokens", limits->max_total_tokens,
             usage->prompt_tokens + usage->completion_tokens + run->n_reserved);
    set_left(L, "gens", limits->max_gens, usage->gens);
    set_left(L, "branches", limits->max_branches + UINT64_C(1), run->n_live_states);
    set_left(L, "instructions", limits->instructions, used.instructions);
    set_left(L, "cpu_ms", limits->cpu_ms, used.cpu_ns / 1000000);
    return 1;
}

static int global_count_tokens(lua_State *L)
{
    size_t n;
    serverd_error err;
    const struct dsl_run *run = run_of(L);
    const char *text = luaL_checklstring(L, 1, &n);
    struct token_list *tokens = scratch_tokens(L, LIMIT_DSL_OPEN_BYTES);
    const serverd_status status =
        tokenizer_encode(run->setup.model.tokenizer, text, n, TOKENIZER_CONTINUES, tokens, &err);
    sandbox_charge(L, n / 8);
    if (status)
        raise_status(L, "invalid_option", &err);
    const lua_Integer n_tokens = tokens->n;
    scratch_pop(L);
    lua_pushinteger(L, n_tokens);
    return 1;
}

void run_open_globals(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"parallel", global_parallel},
        {"call", global_call},
        {"call_tool", global_call_tool},
        {"tool_schema", global_tool_schema},
        {"emit", global_emit},
        {"elapsed", global_elapsed},
        {"budget_left", global_budget_left},
        {"count_tokens", global_count_tokens},
    };
    scratch_open(L);
    state_open_methods(L);
    group_open_methods(L);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        lua_pushcfunction(L, functions[i].func);
        lua_setglobal(L, functions[i].name);
    }
}
