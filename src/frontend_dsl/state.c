#include "base/error.h"
#include "base/utf8.h"
#include "frontend_dsl/run_internal.h"
#include "frontend_dsl/sandbox_internal.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

/* A literal that was longer leaves no room of its length behind. */
#define OPEN_BYTES_KEPT ((size_t)4 << 10)

/* ---- prefixes -------------------------------------------------------------------------------- */

struct dsl_prefix *prefix_create(struct dsl_run *run)
{
    struct dsl_prefix *prefix = calloc(1, sizeof *prefix);
    if (!prefix)
        return NULL;
    *prefix = (struct dsl_prefix){.run = run, .n_refs = 1, .is_pending = true};
    return prefix;
}

struct dsl_prefix *prefix_ref(struct dsl_prefix *prefix)
{
    if (prefix)
        prefix->n_refs++;
    return prefix;
}

void prefix_unref(struct dsl_prefix *prefix)
{
    if (!prefix || --prefix->n_refs > 0)
        return;
    if (prefix->handle)
        engine_release_prefix(prefix->run->setup.model.engine, prefix->handle);
    free(prefix);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void link_state(struct dsl_run *run, struct dsl_state *state)
{
    state->link = run->last_state;
    *run->last_state = state;
    run->last_state = &state->next;
}

static void unlink_state(struct dsl_state *state)
{
    *state->link = state->next;
    if (state->next)
        state->next->link = state->link;
    else
        state->run->last_state = state->link;
}

static void deinit_turn(struct dsl_turn *turn)
{
    free(turn->mark);
    free(turn->name);
    free(turn->call_id);
}

/* A program may keep handles of states that it has released by the thousand. */
static void drop_text(struct dsl_state *state)
{
    for (uint32_t i = 0; i < state->n_turns; i++)
        deinit_turn(&state->turns[i]);
    free(state->turns);
    state->turns = NULL;
    state->n_turns = state->turns_cap = 0;
    state->has_open_turn = state->wants_closing = false;
    json_decref(state->tools);
    state->tools = NULL;
    free(state->closing);
    state->closing = NULL;
    token_list_deinit(&state->tokens);
    state->n_base = state->n_ahead = 0;
    state_drop_open(state);
    buffer_deinit(&state->open);
}

static void state_destroy(struct dsl_state *state)
{
    lua_State *L = sandbox_lua(state->run->sandbox);
    state_release(state);
    unlink_state(state);
    luaL_unref(L, LUA_REGISTRYINDEX, state->variables);
    luaL_unref(L, LUA_REGISTRYINDEX, state->metas);
    luaL_unref(L, LUA_REGISTRYINDEX, state->base);
    drop_text(state);
    branch_deinit(&state->branch);
    free(state);
}

struct dsl_state *state_ref(struct dsl_state *state)
{
    state->n_refs++;
    return state;
}

void state_unref(struct dsl_state *state)
{
    if (state && --state->n_refs == 0)
        state_destroy(state);
}

void state_release(struct dsl_state *state)
{
    state_set_prefix(state, NULL);
    if (!state->is_released)
        state->run->n_live_states--;
    state->is_released = true;
    if (state != state->run->root)
        drop_text(state);
}

/* A new table by reference; what was in the table `from` is in it, too. */
static int table_ref(lua_State *L, int from)
{
    lua_newtable(L);
    if (from != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, from);
        for (lua_pushnil(L); lua_next(L, -2);) {
            lua_pushvalue(L, -2);
            lua_insert(L, -2);
            lua_rawset(L, -5);
        }
        lua_pop(L, 1);
    }
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

/* States that nothing refers to any more may still be waiting for the collector. */
static void check_branches(lua_State *L, struct dsl_run *run)
{
    const uint32_t most = run->limits.max_branches;
    if (run->n_live_states > most)
        (void)lua_gc(L, LUA_GCCOLLECT);
    if (run->n_live_states > most)
        dsl_raise(L, "branch_limit", "more than %u branches at a time (max_branches)", most);
}

struct dsl_state *state_create(lua_State *L, struct dsl_run *run, struct dsl_branch *parent)
{
    check_branches(L, run);
    struct dsl_state *state = calloc(1, sizeof *state);
    if (!state)
        raise_memory(L);
    *state = (struct dsl_state){
        .run = run, .n_refs = 1, .variables = LUA_NOREF, .metas = LUA_NOREF, .base = LUA_NOREF};
    token_list_init(&state->tokens, run->setup.model.context_size);
    buffer_init(&state->open, LIMIT_DSL_OPEN_BYTES);
    link_state(run, state);
    run->n_live_states++;
    const bool is_good = branch_init(&state->branch, parent, run->setup.seed);
    state_push(L, state); /* from here on Lua owns it, whatever raises */
    if (!is_good)
        dsl_raise(L, "branch_limit", "branches are more than %u deep", LIMIT_DSL_DEPTH);
    run->usage.branches++;
    state->variables = table_ref(L, LUA_NOREF);
    state->metas = table_ref(L, LUA_NOREF);
    return state;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

int raise_memory(lua_State *L)
{
    sandbox_raise_fatal(L, "memory_limit", "there is no memory");
}

int raise_status(lua_State *L, const char *code, const serverd_error *err)
{
    if (err->code == SERVERD_NOMEM)
        raise_memory(L);
    dsl_raise(L, code, "%s", err->text);
}

static int raise_context(lua_State *L, const struct dsl_state *state)
{
    dsl_raise(L, "context_length_exceeded", "the state has more than %u tokens",
              state->tokens.limit);
}

void state_add(lua_State *L, struct dsl_state *state, const char *text, size_t n)
{
    sandbox_take_memory(L, n);
    state->n_counted += n;
    buffer_append(&state->open, text, n);
    if (!state->open.is_failed)
        return;
    state_drop_open(state);
    dsl_raise(L, "context_length_exceeded", "a literal text is longer than %zu bytes",
              LIMIT_DSL_OPEN_BYTES);
}

/* is_first: nothing stands in front of the text. */
static void tokenise(lua_State *L, const struct dsl_state *state, bool is_first, const char *text,
                     size_t n, unsigned flags, struct token_list *out)
{
    serverd_error err;
    const struct tokenizer *tokenizer = state->run->setup.model.tokenizer;
    const struct vocabulary *v = tokenizer_vocabulary(tokenizer);
    const uint32_t n_before = out->n;
    flags |= is_first ? TOKENIZER_ADD_SPECIAL : TOKENIZER_CONTINUES;
    const serverd_status status = tokenizer_encode(tokenizer, text, n, flags, out, &err);
    if (status) /* there may be a part of them */
        out->n = n_before;
    /* what a model has behind a text is not wanted: the text goes on */
    if (status == SERVERD_OK && is_first && out->n > n_before && v->eos >= 0 &&
        out->id[out->n - 1] == v->eos && v->eos != v->bos)
        out->n--;
    sandbox_charge(L, n / 16 + out->n - n_before);
    if (status == SERVERD_NOMEM)
        raise_memory(L);
    if (status)
        raise_context(L, state);
}

void state_tokenise(lua_State *L, const struct dsl_state *state, const char *text, size_t n,
                    unsigned flags, struct token_list *out)
{
    tokenise(L, state, state->tokens.n == 0, text, n, flags, out);
}

void state_tokenise_behind(lua_State *L, const struct dsl_state *state, const char *text, size_t n,
                           unsigned flags, struct token_list *list)
{
    tokenise(L, state, list->n == 0, text, n, flags, list);
}

void state_append_tokens(lua_State *L, struct dsl_state *state, const int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!token_list_add(&state->tokens, tokens[i]))
            raise_context(L, state);
}

void state_append_text(lua_State *L, struct dsl_state *state, const char *text, size_t n,
                       unsigned flags)
{
    const uint32_t n_before = state->tokens.n;
    state_tokenise(L, state, text, n, flags, &state->tokens);
    state->run->usage.prompt_tokens += state->tokens.n - n_before;
}

void state_flush(lua_State *L, struct dsl_state *state)
{
    if (state->open.len == 0)
        return;
    state_append_text(L, state, state->open.data, state->open.len, 0);
    state_drop_open(state);
}

void state_drop_open(struct dsl_state *state)
{
    if (state->n_counted > OPEN_BYTES_KEPT)
        buffer_deinit(&state->open);
    else
        buffer_reset(&state->open);
    sandbox_give_memory(state->run->sandbox, state->n_counted);
    state->n_counted = 0;
}

void state_begin(lua_State *L, struct dsl_state *state)
{
    state_flush(L, state);
    if (state->tokens.n == 0)
        state_append_text(L, state, "", 0, 0);
    if (state->tokens.n == 0)
        dsl_raise(L, "invalid_option", "the state is empty: there is nothing to go on from");
}

void append_utf8(struct buffer *out, const char *bytes, size_t n)
{
    for (size_t at = 0; at < n;) {
        uint32_t code;
        const size_t valid = utf8_valid_run(bytes + at, n - at);
        buffer_append(out, bytes + at, valid);
        at += valid;
        if (at == n)
            return;
        at += utf8_decode(bytes + at, n - at, &code);
        buffer_append_str(out, "\xef\xbf\xbd");
    }
}

void state_text(const struct dsl_state *state, struct buffer *out)
{
    const struct tokenizer *tokenizer = state->run->setup.model.tokenizer;
    const struct token_list *t = &state->tokens;
    const uint32_t first = t->n > 0 && t->id[0] == state->run->begin_token;
    struct buffer bytes;
    buffer_init(&bytes, out->limit);
    tokenizer_decode(tokenizer, t->id + first, t->n - first, false, &bytes);
    buffer_append(&bytes, buffer_str(&state->open), state->open.len);
    append_utf8(out, buffer_str(&bytes), bytes.len);
    out->is_failed = out->is_failed || bytes.is_failed;
    buffer_deinit(&bytes);
}

int32_t find_begin_token(const struct tokenizer *tokenizer)
{
    serverd_error ignored;
    struct token_list tokens;
    const struct vocabulary *v = tokenizer_vocabulary(tokenizer);
    int32_t token = -1;
    token_list_init(&tokens, 16);
    if (tokenizer_encode(tokenizer, "", 0, TOKENIZER_ADD_SPECIAL, &tokens, &ignored) ==
            SERVERD_OK &&
        tokens.n > 0 && (tokens.id[0] == v->bos || tokens.id[0] != v->eos))
        token = tokens.id[0];
    token_list_deinit(&tokens);
    return token;
}

/* ---- keys and values ------------------------------------------------------------------------- */

void state_set_prefix(struct dsl_state *state, struct dsl_prefix *prefix)
{
    struct dsl_prefix *before = state->prefix;
    state->prefix = prefix;
    prefix_unref(before);
}

uint32_t state_n_held(const struct dsl_state *state, uint32_t n)
{
    const uint32_t held = state->prefix ? state->prefix->n_held : 0;
    return held < n ? held : n;
}

/* ---- forks ----------------------------------------------------------------------------------- */

static bool copy_turns(const struct dsl_state *from, struct dsl_state *to)
{
    if (from->n_turns == 0)
        return true;
    to->turns = calloc(from->n_turns, sizeof *to->turns);
    if (!to->turns)
        return false;
    to->turns_cap = from->n_turns;
    for (uint32_t i = 0; i < from->n_turns; i++) {
        const struct dsl_turn *turn = &from->turns[i];
        struct dsl_turn *copy = &to->turns[to->n_turns++];
        *copy = *turn;
        copy->mark = turn->mark ? strdup(turn->mark) : NULL;
        copy->name = turn->name ? strdup(turn->name) : NULL;
        copy->call_id = turn->call_id ? strdup(turn->call_id) : NULL;
        if ((turn->mark && !copy->mark) || (turn->name && !copy->name) ||
            (turn->call_id && !copy->call_id))
            return false;
    }
    return true;
}

struct dsl_state *state_fork(lua_State *L, struct dsl_state *parent)
{
    state_flush(L, parent);
    struct dsl_state *state = state_create(L, parent->run, &parent->branch);
    state_append_tokens(L, state, parent->tokens.id, parent->tokens.n);
    sandbox_charge(L, parent->tokens.n / 64);
    if (!copy_turns(parent, state))
        raise_memory(L);
    state->n_base = state->n_fork = parent->tokens.n;
    state->n_head = parent->n_head;
    state->has_text_between = parent->has_text_between;
    state->closing = parent->closing ? strdup(parent->closing) : NULL;
    if (parent->closing && !state->closing)
        raise_memory(L);
    state->has_open_turn = parent->has_open_turn;
    state->wants_closing = parent->wants_closing;
    state->tools = json_incref(parent->tools);
    state_set_prefix(state, prefix_ref(parent->prefix));
    luaL_unref(L, LUA_REGISTRYINDEX, state->variables);
    luaL_unref(L, LUA_REGISTRYINDEX, state->metas);
    state->variables = state->metas = LUA_NOREF;
    state->variables = table_ref(L, parent->variables);
    state->base = table_ref(L, parent->variables);
    state->metas = table_ref(L, parent->metas);
    return state;
}
