#include "frontend_dsl/variables_internal.h"

#include <inttypes.h>

/* ---- variables ------------------------------------------------------------------------------- */

static void set_field(lua_State *L, int table, const char *name)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, table);
    lua_pushstring(L, name);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    lua_pop(L, 2);
}

void state_set_variable(lua_State *L, struct dsl_state *state, const char *name)
{
    set_field(L, state->variables, name);
}

void state_set_meta(lua_State *L, struct dsl_state *state, const char *name)
{
    set_field(L, state->metas, name);
}

void state_push_variables(lua_State *L, const struct dsl_state *state)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, state->variables);
}

static int push_known(lua_State *L, int table)
{
    const char *name = luaL_checkstring(L, 2);
    lua_rawgeti(L, LUA_REGISTRYINDEX, table);
    lua_pushvalue(L, 2);
    if (lua_rawget(L, -2) == LUA_TNIL)
        dsl_raise(L, "unknown_variable", "the state has no variable %.64s", name);
    return 1;
}

int state_get_variable(lua_State *L)
{
    return push_known(L, state_check(L, 1)->variables);
}

int state_meta(lua_State *L)
{
    return push_known(L, state_check(L, 1)->metas);
}

int state_set(lua_State *L)
{
    struct dsl_state *state = state_check(L, 1);
    const char *name = luaL_checkstring(L, 2);
    lua_settop(L, 3);
    state_set_variable(L, state, name);
    lua_pushvalue(L, 1);
    return 1;
}

/* ---- budgets --------------------------------------------------------------------------------- */

uint64_t run_budget_left(lua_State *L)
{
    const struct dsl_run *run = run_of(L);
    const uint64_t most = run->limits.max_total_tokens;
    const uint64_t used = run->usage.prompt_tokens + run->usage.completion_tokens + run->n_reserved;
    if (used >= most)
        dsl_raise(L, "budget_exceeded",
                  "the run's %" PRIu64 " tokens are used up (max_total_tokens)", most);
    return most - used;
}

void run_count_gen(lua_State *L)
{
    struct dsl_run *run = run_of(L);
    op_forget_last(L);
    (void)run_budget_left(L);
    if (run->usage.gens >= run->limits.max_gens)
        dsl_raise(L, "gen_limit", "more than %u operations (max_gens)", run->limits.max_gens);
    run->usage.gens++;
}
