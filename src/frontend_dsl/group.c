/* Groups of tasks: forks with their branches, items of map and parallel; how they are joined. */
#include "frontend_dsl/group_internal.h"

#include "base/numeric.h"
#include "frontend_dsl/run_internal.h"
#include "frontend_dsl/sandbox_internal.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#define GROUP "dsl.group"

/* ---- life ------------------------------------------------------------------------------------ */

struct dsl_group *group_create(lua_State *L, uint32_t n)
{
    struct dsl_group **handle = lua_newuserdatauv(L, sizeof(struct dsl_group *), 1);
    *handle = NULL;
    luaL_setmetatable(L, GROUP);
    struct dsl_group *group = calloc(1, sizeof *group);
    if (!group)
        raise_memory(L);
    *handle = group;
    *group = (struct dsl_group){.run = run_of(L), .n_refs = 1};
    group->member = calloc(max_size(n, 1), sizeof *group->member);
    if (!group->member)
        raise_memory(L);
    for (uint32_t i = 0; i < n; i++)
        group->member[i].thread = LUA_NOREF;
    group->n = n;
    lua_createtable(L, (int)n, 0); /* the handles of the branches */
    lua_setiuservalue(L, -2, 1);
    return group;
}

struct dsl_group *group_get(lua_State *L, int index)
{
    return *(struct dsl_group **)luaL_checkudata(L, index, GROUP);
}

void group_unref(struct dsl_group *group)
{
    if (!group || --group->n_refs > 0)
        return;
    lua_State *L = sandbox_lua(group->run->sandbox);
    for (uint32_t i = 0; i < group->n; i++) {
        luaL_unref(L, LUA_REGISTRYINDEX, group->member[i].thread);
        state_unref(group->member[i].state);
        free(group->member[i].path);
    }
    state_unref(group->parent);
    free(group->member);
    free(group);
}

static int collect(lua_State *L)
{
    group_unref(*(struct dsl_group **)lua_touserdata(L, 1));
    return 0;
}

/* ---- ends of members ------------------------------------------------------------------------- */

static bool is_satisfied(const struct dsl_group *group)
{
    if (group->n_running == 0)
        return true;
    if (!group->keeps_errors && group->n_failed > 0)
        return true;
    return group->first > 0 && group->n_done >= group->first;
}

void group_member_ended(struct dsl_task *task, enum dsl_task_status status)
{
    struct dsl_group *group = task->group;
    struct dsl_member *member = &group->member[task->index];
    member->task = NULL;
    member->status = status;
    member->co = task->co;
    member->thread = task->thread;
    member->path = status == TASK_FAILED ? strdup(task_path(task)) : NULL;
    group->n_running--;
    group->n_done += status == TASK_DONE;
    group->n_failed += status == TASK_FAILED;
    if (group->joiner && is_satisfied(group))
        task_ready(group->joiner);
}

void group_cancel(struct dsl_group *group)
{
    for (uint32_t i = 0; i < group->n; i++)
        if (group->member[i].task)
            task_cancel(group->member[i].task);
}

/* ---- beginning ------------------------------------------------------------------------------- */

void group_begin(lua_State *L, struct dsl_group *group, int handle, int fn)
{
    (void)lua_getiuservalue(L, handle, 1);
    tasks_check_room(L, group->n);
    for (uint32_t i = 0; i < group->n; i++) {
        if (group->member[i].has_begun)
            continue;
        lua_pushvalue(L, fn);
        lua_rawgeti(L, -2, i + 1);
        lua_pushinteger(L, i + 1);
        (void)task_create(L, group->run, group, i, 2);
    }
    lua_pop(L, 1);
}

/* ---- joining --------------------------------------------------------------------------------- */

int group_wait(lua_State *L, struct dsl_group *group, lua_KContext ctx, lua_KFunction k)
{
    struct dsl_task *task = task_of(L);
    if (is_satisfied(group))
        return k(L, LUA_OK, ctx);
    if (group->joiner)
        dsl_raise(L, "state_busy", "another task waits for the group already");
    if (lua_isyieldable(L)) {
        group->joiner = task;
        task->joins = group;
        task->status = TASK_BLOCKED;
    }
    return sandbox_yield(L, ctx, k);
}

/* Of a member that failed: its error object, pushed. */
static void push_error(lua_State *L, const struct dsl_member *member)
{
    if (!lua_checkstack(member->co, 2))
        raise_memory(L);
    lua_pushvalue(member->co, -1);
    lua_xmove(member->co, L, 1);
    dsl_error_push_object(L, -1);
    lua_remove(L, -2);
    lua_pushliteral(L, "branch"); /* a text that was raised knows nothing of it */
    if (lua_rawget(L, -2) == LUA_TNIL && member->path) {
        lua_pushliteral(L, "branch");
        lua_pushstring(L, member->path);
        lua_rawset(L, -4);
    }
    lua_pop(L, 1);
}

static void raise_lowest(lua_State *L, const struct dsl_group *group)
{
    for (uint32_t i = 0; i < group->n; i++) {
        if (group->member[i].status != TASK_FAILED)
            continue;
        push_error(L, &group->member[i]);
        (void)lua_error(L);
    }
}

void group_end_wait(lua_State *L, struct dsl_group *group)
{
    struct dsl_task *task = task_of(L);
    task->joins = NULL;
    group->joiner = NULL;
    group_cancel(group);
    if (!group->keeps_errors && group->n_failed > 0)
        raise_lowest(L, group);
}

void group_push_results(lua_State *L, const struct dsl_group *group)
{
    lua_createtable(L, (int)group->n, 0);
    for (uint32_t i = 0; i < group->n; i++) {
        const struct dsl_member *member = &group->member[i];
        if (!member->has_begun)
            lua_pushnil(L);
        else if (member->status == TASK_FAILED)
            push_error(L, member);
        else if (member->status != TASK_DONE)
            lua_pushboolean(L, false);
        else if (lua_gettop(member->co) == 0 || !lua_checkstack(member->co, 1))
            lua_pushnil(L);
        else {
            lua_pushvalue(member->co, 1);
            lua_xmove(member->co, L, 1);
        }
        lua_rawseti(L, -2, i + 1);
    }
}

void group_release(struct dsl_group *group)
{
    for (uint32_t i = 0; i < group->n; i++)
        if (group->member[i].state)
            state_release(group->member[i].state);
}

/* ---- handles --------------------------------------------------------------------------------- */

static int index_of_group(lua_State *L)
{
    (void)group_get(L, 1);
    if (lua_isinteger(L, 2)) {
        (void)lua_getiuservalue(L, 1, 1);
        lua_pushvalue(L, 2);
        lua_rawget(L, -2);
        return 1;
    }
    lua_pushvalue(L, 2);
    (void)lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

static int length_of_group(lua_State *L)
{
    lua_pushinteger(L, group_get(L, 1)->n);
    return 1;
}

void group_open_methods(lua_State *L)
{
    static const luaL_Reg methods[] = {{"join", group_join}, {"run", group_run}, {NULL, NULL}};
    (void)luaL_newmetatable(L, GROUP);
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    luaL_newlib(L, methods);
    lua_pushcclosure(L, index_of_group, 1);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, length_of_group);
    lua_setfield(L, -2, "__len");
    lua_pushboolean(L, false);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}
