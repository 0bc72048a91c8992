#include "frontend_dsl/fork_internal.h"

#include "base/numeric.h"
#include "frontend_dsl/group_internal.h"
#include "frontend_dsl/variables_internal.h"

#include <string.h>

/* ---- beginning ------------------------------------------------------------------------------- */

/* What of the state is not computed yet goes to the engine at once, for all branches (K4). Nobody
 * waits for it but the operations behind it. */
static void compute_pending(lua_State *L, struct dsl_state *state)
{
    const struct dsl_prefix *prefix = state->prefix;
    const uint32_t n_computed = !prefix              ? 0
                                : prefix->is_pending ? state->n_base
                                                     : state_n_held(state, state->tokens.n);
    if (state->tokens.n <= n_computed)
        return;
    op_forget_last(L);
    (void)run_budget_left(L);
    struct dsl_op *op = op_create(L, state, OP_FORK, 1);
    trace_begin(L, op, NULL);
    struct request *r = op_request(L, op, 0, state->tokens.n, NULL, 0, true);
    if (r->n_prompt >= op->run->setup.model.context_size)
        dsl_raise(L, "context_length_exceeded", "the state has %u tokens, the context %u",
                  r->n_prompt, op->run->setup.model.context_size);
    task_of(L)->op = NULL;
    op->task = NULL;
    state_set_prefix(state, prefix_ref(op->becomes[0]));
    state->n_base = state->tokens.n;
    op_queue(op);
}

/* n branches of the state; pushes their group's handle. */
static struct dsl_group *fork_group(lua_State *L, struct dsl_state *parent, uint32_t n)
{
    state_flush(L, parent);
    if (n > 0 && parent->tokens.n > 0)
        compute_pending(L, parent);
    struct dsl_group *group = group_create(L, n);
    group->parent = state_ref(parent);
    (void)lua_getiuservalue(L, -1, 1);
    for (uint32_t i = 0; i < n; i++) {
        struct dsl_state *child = state_fork(L, parent);
        group->member[i].state = state_ref(child);
        lua_rawseti(L, -2, i + 1);
        run_emit(parent->run, "branch.created", child->branch.path, "{s:s}", "parent",
                 parent->branch.path);
    }
    lua_pop(L, 1);
    return group;
}

static uint32_t check_count(lua_State *L, int index)
{
    const struct dsl_run *run = run_of(L);
    int is_number;
    const lua_Integer n = lua_tointegerx(L, index, &is_number);
    if (!is_number || n < 1)
        dsl_raise(L, "invalid_option", "the number of branches has to be 1 or more");
    if (n > run->limits.max_branches)
        dsl_raise(L, "branch_limit", "more than %u branches at a time (max_branches)",
                  run->limits.max_branches);
    return (uint32_t)n;
}

static void check_function(lua_State *L, int index)
{
    if (lua_type(L, index) != LUA_TFUNCTION)
        dsl_raise(L, "invalid_option", "argument %d has to be a function", index);
}

int state_fork_method(lua_State *L)
{
    lua_settop(L, 3);
    struct dsl_state *parent = state_check(L, 1);
    const uint32_t n = check_count(L, 2);
    if (!lua_isnil(L, 3))
        check_function(L, 3);
    struct dsl_group *group = fork_group(L, parent, n);
    if (!lua_isnil(L, 3))
        group_begin(L, group, 4, 3);
    lua_settop(L, 4);
    return 1;
}

int state_copy(lua_State *L)
{
    lua_settop(L, 1);
    (void)fork_group(L, state_check(L, 1), 1);
    (void)lua_getiuservalue(L, 2, 1);
    lua_rawgeti(L, -1, 1);
    return 1;
}

int group_run(lua_State *L)
{
    lua_settop(L, 2);
    struct dsl_group *group = group_get(L, 1);
    check_function(L, 2);
    for (uint32_t i = 0; i < group->n; i++)
        if (group->member[i].state && group->member[i].state->is_released)
            group->member[i].has_begun = true; /* it is over before it began */
    group_begin(L, group, 1, 2);
    lua_settop(L, 1);
    return 1;
}

/* ---- join ------------------------------------------------------------------------------------ */

enum join_mode { JOIN_WAIT, JOIN_GATHER, JOIN_CONCAT };

struct join_options {
    enum join_mode mode;
    bool vars;
    const char *sep; /* on the stack */
    size_t n_sep;
};

static enum join_mode mode_of(lua_State *L, int index)
{
    static const char *const names[] = {"wait", "gather", "concat"};
    const char *name = lua_type(L, index) == LUA_TSTRING ? lua_tostring(L, index) : "";
    if (lua_isnil(L, index))
        return JOIN_WAIT;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0)
            return (enum join_mode)i;
    dsl_raise(L, "invalid_option", "a mode of join is wait, gather or concat");
}

static void set_join_option(lua_State *L, struct dsl_group *group, struct join_options *o,
                            const char *key)
{
    if (strcmp(key, "mode") == 0) {
        o->mode = mode_of(L, -1);
    } else if (strcmp(key, "vars") == 0) {
        o->vars = lua_toboolean(L, -1);
    } else if (strcmp(key, "sep") == 0 && lua_type(L, -1) == LUA_TSTRING) {
        o->sep = lua_tolstring(L, -1, &o->n_sep); /* the table keeps it */
    } else if (strcmp(key, "on_error") == 0 && lua_type(L, -1) == LUA_TSTRING) {
        group->keeps_errors = strcmp(lua_tostring(L, -1), "keep") == 0;
        if (!group->keeps_errors && strcmp(lua_tostring(L, -1), "cancel") != 0)
            dsl_raise(L, "invalid_option", "on_error is cancel or keep");
    } else if (strcmp(key, "first") == 0 && lua_isinteger(L, -1) && lua_tointeger(L, -1) > 0) {
        const lua_Integer n = lua_tointeger(L, -1);
        group->first = n > group->n ? group->n : (uint32_t)n;
    } else {
        dsl_raise(L, "invalid_option", "join: %.64s is no option, or has no such value", key);
    }
}

/* Of the options at index 2: nothing, a mode, or a table, mode first or named. */
static void read_join_options(lua_State *L, struct dsl_group *group, struct join_options *o)
{
    *o = (struct join_options){0};
    group->first = 0;
    group->keeps_errors = false;
    if (lua_type(L, 2) != LUA_TTABLE) {
        o->mode = mode_of(L, 2);
        return;
    }
    for (lua_pushnil(L); lua_next(L, 2); lua_pop(L, 1)) {
        if (lua_type(L, -2) == LUA_TSTRING)
            set_join_option(L, group, o, lua_tostring(L, -2));
        else
            set_join_option(L, group, o, "mode");
    }
}

static struct dsl_state *parent_of(lua_State *L, const struct dsl_group *group)
{
    struct dsl_state *parent = group->parent;
    if (!parent || parent->is_released)
        dsl_raise(L, "released", "the state that was forked was released");
    if (parent->op)
        dsl_raise(L, "state_busy", "the state that was forked has an operation in flight");
    return parent;
}

/* Whether the branch's variable (on top of the stack, below it the name) is new or changed. */
static bool is_changed(lua_State *L, const struct dsl_state *branch)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, branch->base);
    lua_pushvalue(L, -3);
    lua_rawget(L, -2);
    const bool is_same = lua_rawequal(L, -1, -3);
    lua_pop(L, 2);
    return !is_same;
}

/* Variables that are new or changed in a branch become lists in the parent, an item for each
 * branch; false where it has none. */
static void gather(lua_State *L, const struct dsl_group *group, struct dsl_state *parent)
{
    lua_newtable(L); /* the lists by name */
    const int lists = lua_gettop(L);
    for (uint32_t i = 0; i < group->n; i++) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, group->member[i].state->variables);
        for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
            if (!is_changed(L, group->member[i].state))
                continue;
            lua_pushvalue(L, -2);
            if (lua_rawget(L, lists) != LUA_TNIL) {
                lua_pop(L, 1);
                continue;
            }
            lua_pop(L, 1);
            lua_pushvalue(L, -2);
            lua_createtable(L, (int)group->n, 0);
            lua_rawset(L, lists);
        }
        lua_pop(L, 1);
    }
    state_push_variables(L, parent);
    for (lua_pushnil(L); lua_next(L, lists);) {
        for (uint32_t i = 0; i < group->n; i++) {
            lua_rawgeti(L, LUA_REGISTRYINDEX, group->member[i].state->variables);
            lua_pushvalue(L, -3);
            if (lua_rawget(L, -2) == LUA_TNIL) {
                lua_pop(L, 1);
                lua_pushboolean(L, false);
            }
            lua_rawseti(L, -3, i + 1);
            lua_pop(L, 1);
        }
        lua_pushvalue(L, -2); /* variables, name, list, name */
        lua_insert(L, -2);
        lua_rawset(L, -4);
    }
    lua_settop(L, lists - 1);
}

/* A branch whose own tokens can go behind the parent. */
static void check_suffix(lua_State *L, const struct dsl_state *branch)
{
    if (branch->is_released)
        dsl_raise(L, "released", "branch %s was released", branch->branch.path);
    if (branch->has_other_past)
        dsl_raise(L, "template_error",
                  "the chat template has rewritten what branch %s shares with the others",
                  branch->branch.path);
}

/* What the branches have written goes behind the parent, one after the other; the first one's keys
 * and values with it (K8). */
static void concat(lua_State *L, const struct dsl_group *group, struct dsl_state *parent,
                   const struct join_options *o)
{
    bool is_first = true;
    for (uint32_t i = 0; i < group->n; i++)
        if (group->member[i].status == TASK_DONE)
            check_suffix(L, group->member[i].state);
    for (uint32_t i = 0; i < group->n; i++) {
        struct dsl_state *branch = group->member[i].state;
        if (group->member[i].status != TASK_DONE)
            continue;
        if (!is_first && o->sep)
            state_add(L, parent, o->sep, o->n_sep);
        state_flush(L, parent);
        state_flush(L, branch);
        const bool is_at_fork = parent->tokens.n == branch->n_fork;
        const uint32_t n_parent = parent->tokens.n;
        state_append_tokens(L, parent, branch->tokens.id + branch->n_fork,
                            branch->tokens.n - branch->n_fork);
        if (is_first && is_at_fork && branch->prefix && branch->n_base > branch->n_fork) {
            state_set_prefix(parent, prefix_ref(branch->prefix));
            parent->n_base = n_parent + (branch->n_base - branch->n_fork);
        }
        is_first = false;
    }
}

static int join_end(lua_State *L, int status, lua_KContext ctx)
{
    struct dsl_group *group = group_get(L, 1);
    struct join_options options;
    (void)status;
    (void)ctx;
    group_end_wait(L, group);
    read_join_options(L, group, &options);
    group_push_results(L, group);
    if (options.mode == JOIN_WAIT)
        return 1;
    struct dsl_state *parent = parent_of(L, group);
    if (options.mode == JOIN_CONCAT)
        concat(L, group, parent, &options);
    if (options.mode == JOIN_GATHER || options.vars)
        gather(L, group, parent);
    group_release(group);
    return 1;
}

int group_join(lua_State *L)
{
    struct join_options options;
    lua_settop(L, 2);
    struct dsl_group *group = group_get(L, 1);
    read_join_options(L, group, &options);
    return group_wait(L, group, 0, join_end);
}

/* ---- map and parallel ------------------------------------------------------------------------ */

static int results_end(lua_State *L, int status, lua_KContext ctx)
{
    struct dsl_group *group = group_get(L, (int)ctx);
    (void)status;
    group_end_wait(L, group);
    group_push_results(L, group);
    group_release(group);
    return 1;
}

/* A task for each item of the list at index `list`: fn([branch,] item, i). */
static void begin_items(lua_State *L, struct dsl_group *group, int list, int fn)
{
    const int handle = lua_gettop(L);
    (void)lua_getiuservalue(L, handle, 1);
    tasks_check_room(L, group->n);
    for (uint32_t i = 0; i < group->n; i++) {
        const bool is_branch = group->member[i].state != NULL;
        lua_pushvalue(L, fn);
        if (is_branch)
            lua_rawgeti(L, handle + 1, i + 1);
        lua_rawgeti(L, list, i + 1);
        lua_pushinteger(L, i + 1);
        (void)task_create(L, group->run, group, i, is_branch ? 3 : 2);
    }
    lua_pop(L, 1);
}

static uint32_t check_list(lua_State *L, int index)
{
    const struct dsl_run *run = run_of(L);
    sandbox_look_through(L, index);
    if (lua_type(L, index) != LUA_TTABLE)
        dsl_raise(L, "invalid_option", "argument %d has to be a list", index);
    const lua_Unsigned n = lua_rawlen(L, index);
    if (n > run->limits.max_branches)
        dsl_raise(L, "branch_limit", "more than %u branches at a time (max_branches)",
                  run->limits.max_branches);
    return (uint32_t)n;
}

int state_map(lua_State *L)
{
    lua_settop(L, 3);
    struct dsl_state *parent = state_check(L, 1);
    const uint32_t n = check_list(L, 2);
    check_function(L, 3);
    struct dsl_group *group = fork_group(L, parent, n);
    begin_items(L, group, 2, 3);
    return group_wait(L, group, 4, results_end);
}

int global_parallel(lua_State *L)
{
    lua_settop(L, 2);
    const uint32_t n = check_list(L, 1);
    check_function(L, 2);
    struct dsl_group *group = group_create(L, n);
    begin_items(L, group, 1, 2);
    return group_wait(L, group, 3, results_end);
}
