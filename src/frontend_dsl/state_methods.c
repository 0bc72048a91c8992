/* Lua's handles of states, and the methods that say nothing to the model. */
#include "base/numeric.h"
#include "frontend_dsl/chat_tools_internal.h"
#include "frontend_dsl/fork_internal.h"
#include "frontend_dsl/gen_internal.h"
#include "frontend_dsl/roles_internal.h"
#include "frontend_dsl/scratch_internal.h"
#include "frontend_dsl/select_internal.h"
#include "frontend_dsl/tools_internal.h"
#include "frontend_dsl/variables_internal.h"

#include <string.h>

#define STATE "dsl.state"

/* ---- handles --------------------------------------------------------------------------------- */

void state_push(lua_State *L, struct dsl_state *state)
{
    struct dsl_state **handle = lua_newuserdatauv(L, sizeof(struct dsl_state *), 0);
    *handle = state;
    luaL_setmetatable(L, STATE);
}

struct dsl_state *state_get(lua_State *L, int index)
{
    return *(struct dsl_state **)luaL_checkudata(L, index, STATE);
}

struct dsl_state *state_check(lua_State *L, int index)
{
    struct dsl_state *state = state_get(L, index);
    (void)task_of(L);
    if (state->is_released)
        dsl_raise(L, "released", "the state was released");
    if (state->op)
        dsl_raise(L, "state_busy", "an operation of another task on the state is in flight");
    return state;
}

static int collect(lua_State *L)
{
    struct dsl_state *state = *(struct dsl_state **)lua_touserdata(L, 1);
    if (state->n_refs == 1)
        state_release(state);
    state_unref(state);
    return 0;
}

/* s.v: the variables; else a method. */
static int index_of_state(lua_State *L)
{
    if (lua_type(L, 2) == LUA_TSTRING && strcmp(lua_tostring(L, 2), "v") == 0) {
        state_push_variables(L, state_check(L, 1));
        return 1;
    }
    lua_pushvalue(L, 2);
    (void)lua_rawget(L, lua_upvalueindex(1));
    return 1;
}

static int text_of_state(lua_State *L)
{
    lua_pushfstring(L, "state %s", state_get(L, 1)->branch.path);
    return 1;
}

static int is_same_state(lua_State *L)
{
    lua_pushboolean(L, state_get(L, 1) == state_get(L, 2));
    return 1;
}

/* ---- texts ----------------------------------------------------------------------------------- */

static const char *check_literal(lua_State *L, int index, size_t *n)
{
    const int type = lua_type(L, index);
    if (type != LUA_TSTRING && type != LUA_TNUMBER)
        dsl_raise(L, "invalid_option", "a literal is a string or a number, not a %s",
                  luaL_typename(L, index));
    return lua_tolstring(L, index, n);
}

static int state_add_method(lua_State *L)
{
    struct dsl_state *state = state_check(L, 1);
    const int n_arguments = lua_gettop(L);
    roles_settle(L, state);
    for (int i = 2; i <= n_arguments; i++) {
        size_t n;
        const char *text = check_literal(L, i, &n);
        sandbox_charge(L, n / 16);
        state_add(L, state, text, n);
    }
    lua_settop(L, 1);
    return 1;
}

static int state_special(lua_State *L)
{
    struct dsl_state *state = state_check(L, 1);
    size_t n;
    const char *text = check_literal(L, 2, &n);
    roles_settle(L, state);
    state_flush(L, state);
    state_append_text(L, state, text, n, TOKENIZER_PARSE_SPECIAL);
    lua_settop(L, 1);
    return 1;
}

static int state_image(lua_State *L)
{
    (void)state_check(L, 1);
    dsl_raise(L, "unsupported", "the model takes no images");
}

static int state_text_method(lua_State *L)
{
    struct dsl_state *state = state_check(L, 1);
    struct buffer *text = scratch_buffer(L, LIMIT_DSL_OPEN_BYTES);
    state_text(state, text);
    sandbox_charge(L, text->len / 16);
    if (text->is_failed)
        raise_memory(L);
    lua_pushlstring(L, buffer_str(text), text->len);
    lua_insert(L, -2);
    scratch_pop(L);
    return 1;
}

static int state_len(lua_State *L)
{
    struct dsl_state *state = state_check(L, 1);
    struct token_list *tokens = scratch_tokens(L, state->tokens.limit);
    if (state->open.len > 0)
        state_tokenise(L, state, state->open.data, state->open.len, 0, tokens);
    const lua_Integer n = (lua_Integer)state->tokens.n + tokens->n;
    scratch_pop(L);
    lua_pushinteger(L, n);
    return 1;
}

/* ---- scope ----------------------------------------------------------------------------------- */

/* Bytes of tokens first..end-1. What a tokenizer puts in front of a text is none of it. */
static void add_pieces(const struct dsl_state *state, uint32_t first, uint32_t end,
                       struct buffer *out)
{
    const struct tokenizer *tokenizer = state->run->setup.model.tokenizer;
    const int32_t *id = state->tokens.id;
    if (first == 0 || (first == 1 && id[0] == state->run->begin_token)) {
        tokenizer_decode(tokenizer, id + first, end - first, true, out);
        return;
    }
    for (uint32_t i = first; i < end; i++) {
        uint32_t n;
        const char *piece = tokenizer_piece(tokenizer, id[i], &n);
        if (!tokenizer_is_control(tokenizer, id[i]))
            buffer_append(out, piece, n);
    }
}

void state_push_text(lua_State *L, const struct dsl_state *state, uint32_t first, uint32_t end,
                     size_t n_skipped)
{
    struct buffer *bytes = scratch_buffer(L, LIMIT_DSL_OPEN_BYTES);
    struct buffer *text = scratch_buffer(L, LIMIT_DSL_OPEN_BYTES);
    if (end > first)
        add_pieces(state, first, end, bytes);
    if (end == state->tokens.n)
        buffer_append(bytes, buffer_str(&state->open), state->open.len);
    n_skipped = min_size(n_skipped, bytes->len);
    append_utf8(text, buffer_str(bytes) + n_skipped, bytes->len - n_skipped);
    if (text->is_failed || bytes->is_failed)
        raise_memory(L);
    sandbox_charge(L, bytes->len / 16);
    lua_pushlstring(L, buffer_str(text), text->len);
    lua_insert(L, -3);
    scratch_pop(L);
    scratch_pop(L);
}

/* What there was before a scope, in a continuation's number: tokens, and bytes of the literal
 * behind them, which stays one piece with what the scope adds. */
#define SCOPE_SHIFT 32
_Static_assert(sizeof(lua_KContext) == 8 && LIMIT_DSL_OPEN_BYTES < UINT64_C(1) << SCOPE_SHIFT,
               "both fit");

static int scope_end(lua_State *L, int status, lua_KContext ctx)
{
    struct dsl_state *state = state_check(L, 1);
    (void)status;
    const uint32_t n_tokens = (uint32_t)(ctx >> SCOPE_SHIFT);
    state_push_text(L, state, min_u32(n_tokens, state->tokens.n), state->tokens.n, (uint32_t)ctx);
    state_set_variable(L, state, lua_tostring(L, 2));
    lua_settop(L, 1);
    return 1;
}

static int state_scope(lua_State *L)
{
    lua_settop(L, 3);
    struct dsl_state *state = state_check(L, 1);
    (void)luaL_checkstring(L, 2);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    const lua_KContext before =
        (lua_KContext)state->tokens.n << SCOPE_SHIFT | (lua_KContext)state->open.len;
    lua_pushvalue(L, 1);
    lua_callk(L, 1, 0, before, scope_end);
    return scope_end(L, LUA_OK, before);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static int gone(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    (void)ctx;
    return sandbox_yield(L, 0, gone); /* a task that was cancelled is not resumed */
}

/* Its task and operation stop, its pins go. */
static int state_cancel(lua_State *L)
{
    struct dsl_state *state = state_get(L, 1);
    struct dsl_task *own = state->task;
    (void)task_of(L);
    if (state->op && (state->op->task != own || own == own->run->main))
        op_cancel(state->op); /* who waits for it gets an error */
    state_release(state);
    lua_settop(L, 1);
    if (!own || own == own->run->main)
        return 1;
    const bool is_me = own == task_of(L);
    task_cancel(own);
    return is_me ? gone(L, LUA_OK, 0) : 1;
}

/* ---- the table ------------------------------------------------------------------------------- */

static const luaL_Reg methods[] = {
    {"add", state_add_method},
    {"special", state_special},
    {"open", state_open_role},
    {"close", state_close_role},
    {"system", state_system},
    {"user", state_user},
    {"assistant", state_assistant},
    {"image", state_image},
    {"get", state_get_variable},
    {"set", state_set},
    {"meta", state_meta},
    {"scope", state_scope},
    {"text", state_text_method},
    {"messages", state_messages},
    {"len", state_len},
    {"fork", state_fork_method},
    {"copy", state_copy},
    {"map", state_map},
    {"call", state_call},
    {"cancel", state_cancel},
    {"release", state_cancel},
    {"gen", state_gen},
    {"select", state_select},
    {"score", state_score},
    {"call_tools", state_call_tools},
    {NULL, NULL},
};

void state_open_methods(lua_State *L)
{
    (void)luaL_newmetatable(L, STATE);
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, text_of_state);
    lua_setfield(L, -2, "__tostring");
    lua_pushcfunction(L, is_same_state);
    lua_setfield(L, -2, "__eq");
    luaL_newlib(L, methods);
    lua_pushcclosure(L, index_of_state, 1);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, false);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}
