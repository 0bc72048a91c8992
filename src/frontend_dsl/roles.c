#include "frontend_dsl/roles_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "frontend_dsl/scratch_internal.h"
#include "text/chat_template.h"
#include "text/template_json.h"
#include "text/template_value.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Around the number of a body. It is no UTF-8 byte, so no text has it. */
#define PLACEHOLDER '\xfe'

/* A rendering, cut at its placeholders. */
struct rendering {
    const struct buffer *text;
    struct span {
        size_t begin, end; /* of the mark in front of the body; end is where the body is */
        bool is_there;     /* the template shows this body */
    } * mark;              /* [n_turns] */
    size_t closing;        /* where what follows the last body begins */
};

/* ---- what the template gets ------------------------------------------------------------------ */

struct maker {
    lua_State *L;
    struct arena *arena;
    const struct dsl_model *model;
};

static struct template_value *keep(const struct maker *m, struct template_value *value)
{
    if (!value)
        raise_memory(m->L);
    return value;
}

static void set(const struct maker *m, struct template_value *map, const char *key,
                struct template_value *value)
{
    if (!template_map_set(m->arena, map, key, strlen(key), value))
        raise_memory(m->L);
}

static void set_text(const struct maker *m, struct template_value *map, const char *key,
                     const char *text, size_t n)
{
    set(m, map, key, keep(m, template_string(m->arena, text, n)));
}

static void set_token(const struct maker *m, struct template_value *globals, const char *name,
                      int32_t id)
{
    uint32_t n = 0;
    const char *text = id >= 0 ? tokenizer_piece(m->model->tokenizer, id, &n) : "";
    set_text(m, globals, name, text, n);
}

static struct template_value *make_turn(const struct maker *m, const struct dsl_turn *turn,
                                        uint32_t number)
{
    char body[16];
    struct template_value *out = keep(m, template_map(m->arena));
    const bool is_developer = strcmp(turn->role, "developer") == 0;
    const bool knows_developer =
        m->model->chat_template_source && strstr(m->model->chat_template_source, "developer");
    const char *role = is_developer && !knows_developer ? "system" : turn->role;
    const int n = snprintf(body, sizeof body, "%cb%u%c", PLACEHOLDER, number, PLACEHOLDER);
    set_text(m, out, "role", role, strlen(role));
    set_text(m, out, "content", body, (size_t)n);
    if (turn->name)
        set_text(m, out, "name", turn->name, strlen(turn->name));
    if (turn->call_id)
        set_text(m, out, "tool_call_id", turn->call_id, strlen(turn->call_id));
    return out;
}

static struct template_value *make_globals(const struct maker *m, const struct dsl_state *state,
                                           uint32_t n_turns, bool prompts)
{
    const struct vocabulary *v = tokenizer_vocabulary(m->model->tokenizer);
    struct template_value *globals = keep(m, template_map(m->arena));
    struct template_value *messages = keep(m, template_list(m->arena));
    for (uint32_t i = 0; i < n_turns; i++)
        if (!template_list_add(m->arena, messages, make_turn(m, &state->turns[i], i)))
            raise_memory(m->L);
    set(m, globals, "messages", messages);
    set(m, globals, "tools",
        keep(m, state->tools ? template_from_json(m->arena, m->model->tokenizer, state->tools)
                             : template_none(m->arena)));
    set(m, globals, "documents", keep(m, template_none(m->arena)));
    set(m, globals, "add_generation_prompt", keep(m, template_bool(m->arena, prompts)));
    set_token(m, globals, "bos_token", v->bos);
    set_token(m, globals, "eos_token", v->eos);
    set_token(m, globals, "pad_token", v->padding);
    set_token(m, globals, "unk_token", v->unknown);
    return globals;
}

/* ---- rendering ------------------------------------------------------------------------------- */

/* The placeholder of that number from `from` on; SIZE_MAX: there is none. */
static size_t find_body(const struct buffer *text, size_t from, uint32_t number, size_t *n)
{
    char body[16];
    const int len = snprintf(body, sizeof body, "%cb%u%c", PLACEHOLDER, number, PLACEHOLDER);
    const char *data = buffer_str(text);
    const char *at = memmem(data + from, text->len - from, body, (size_t)len);
    *n = (size_t)len;
    return at ? (size_t)(at - data) : SIZE_MAX;
}

/* False: a body stands before an earlier one, or twice. */
static bool cut(struct rendering *r, uint32_t n_turns)
{
    size_t at = 0, n;
    for (uint32_t i = 0; i < n_turns; i++) {
        const size_t body = find_body(r->text, 0, i, &n);
        r->mark[i] = (struct span){at, at, false};
        if (body == SIZE_MAX)
            continue;
        if (body < at || find_body(r->text, body + n, i, &n) != SIZE_MAX)
            return false;
        r->mark[i] = (struct span){at, body, true};
        at = body + n;
    }
    r->closing = at;
    return true;
}

/* The first n_turns turns, with the head of an assistant's turn behind them if it `prompts`. False:
 * the template refuses them (*err). Pushes what the rendering lies in. */
static bool render(lua_State *L, const struct dsl_state *state, uint32_t n_turns, bool prompts,
                   struct rendering *out, serverd_error *err)
{
    const struct dsl_run *run = state->run;
    const struct dsl_model *model = &run->setup.model;
    struct template_budget budget = template_budget_default();
    budget.max_output = LIMIT_DSL_OPEN_BYTES;
    if (!model->chat_template)
        dsl_raise(L, "no_chat_template", "the model has no chat template");
    struct buffer *text = scratch_buffer(L, LIMIT_DSL_OPEN_BYTES);
    out->text = text;
    out->mark = scratch_array(L, n_turns + 1, sizeof *out->mark);
    const struct maker m = {L, scratch_arena(L, LIMIT_TEMPLATE_MEMORY), model};
    const struct template_value *globals = make_globals(&m, state, n_turns, prompts);
    const serverd_status status = chat_template_render(model->chat_template, m.arena, globals,
                                                       &budget, run->setup.clock, text, err);
    scratch_pop(L); /* the arena */
    sandbox_charge(L, 100 + text->len / 16);
    if (status == SERVERD_NOMEM)
        raise_memory(L);
    if (status == SERVERD_OK && !cut(out, n_turns)) {
        (void)fail(err, SERVERD_INVALID, "it does not keep the order of messages");
        return false;
    }
    return status == SERVERD_OK;
}

/* ---- the state's tokens ---------------------------------------------------------------------- */

static bool is_mark(const struct dsl_turn *turn, const struct rendering *r, const struct span *span)
{
    const size_t n = span->end - span->begin;
    if (!turn->mark || !span->is_there)
        return !turn->mark && !span->is_there;
    return strlen(turn->mark) == n && memcmp(turn->mark, buffer_str(r->text) + span->begin, n) == 0;
}

static void keep_mark(lua_State *L, struct dsl_turn *turn, const char *text, size_t n)
{
    free(turn->mark);
    turn->mark = strndup(text, n);
    if (!turn->mark)
        raise_memory(L);
}

/* Marks are tokenised each for itself. In front of everything there may be a begin token; behind
 * other text it is dropped. */
static void add_mark(lua_State *L, const struct dsl_state *state, const char *text, size_t n,
                     struct token_list *list)
{
    const struct tokenizer *tokenizer = state->run->setup.model.tokenizer;
    const int32_t begin = state->run->begin_token;
    uint32_t n_bos = 0;
    const char *bos = begin >= 0 ? tokenizer_piece(tokenizer, begin, &n_bos) : "";
    if (list->n > 0 && n_bos > 0 && n >= n_bos && memcmp(text, bos, n_bos) == 0) {
        text += n_bos;
        n -= n_bos;
    }
    if (n > 0)
        state_tokenise_behind(L, state, text, n, TOKENIZER_PARSE_SPECIAL, list);
}

static void append_mark(lua_State *L, struct dsl_state *state, const char *text, size_t n)
{
    const uint32_t n_before = state->tokens.n;
    add_mark(L, state, text, n, &state->tokens);
    state->run->usage.prompt_tokens += state->tokens.n - n_before;
}

static void add_tokens(lua_State *L, struct token_list *list, const int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!token_list_add(list, tokens[i]))
            dsl_raise(L, "context_length_exceeded",
                      "the turns as the chat template writes them now have more than %u tokens",
                      list->limit);
}

/* Where a turn's body is going to be. */
struct place {
    uint32_t begin, end;
};

/* The state's tokens made again from marks and bodies, but for what the last turn's body, which is
 * open, will get. The state stays as it is: there may be no room. Pushes what the places lie in. */
static struct place *lay_out(lua_State *L, const struct dsl_state *state, const struct rendering *r,
                             struct token_list *out)
{
    const int32_t *id = state->tokens.id;
    struct place *place = scratch_array(L, state->n_turns, sizeof *place);
    add_tokens(L, out, id, state->n_head);
    for (uint32_t i = 0; i < state->n_turns; i++) {
        const struct dsl_turn *turn = &state->turns[i];
        const struct span *span = &r->mark[i];
        const bool is_open = i + 1 == state->n_turns && state->has_open_turn;
        const uint32_t end = is_open ? state->tokens.n : turn->end;
        if (span->is_there)
            add_mark(L, state, buffer_str(r->text) + span->begin, span->end - span->begin, out);
        place[i].begin = out->n;
        if (span->is_there || is_open)
            add_tokens(L, out, id + turn->begin, end - turn->begin);
        place[i].end = out->n;
    }
    return place;
}

/* How many tokens both begin with. */
static uint32_t count_common(const struct token_list *a, const struct token_list *b)
{
    uint32_t n = 0;
    while (n < a->n && n < b->n && a->id[n] == b->id[n])
        n++;
    return n;
}

/* The template writes earlier turns in another way now: the state gets the tokens that they have
 * so. */
static void rewrite(lua_State *L, struct dsl_state *state, const struct rendering *r)
{
    if (state->has_text_between)
        dsl_raise(L, "template_error",
                  "the chat template rewrites earlier turns, and there is text between them");
    struct token_list *made = scratch_tokens(L, state->tokens.limit);
    const struct place *place = lay_out(L, state, r, made);
    const struct token_list before = state->tokens;
    const uint32_t n_common = count_common(&before, made);
    state->tokens = *made;
    *made = before;
    state->n_base = min_u32(state->n_base, n_common);
    state->n_ahead = 0;
    state->has_other_past |= n_common < state->n_fork;
    /* literal text that there was before is none that the run has in addition */
    if (state->tokens.n > before.n)
        state->run->usage.prompt_tokens += state->tokens.n - before.n;
    for (uint32_t i = 0; i < state->n_turns; i++) {
        struct dsl_turn *turn = &state->turns[i];
        const struct span *span = &r->mark[i];
        turn->begin = place[i].begin;
        turn->end = place[i].end;
        free(turn->mark);
        turn->mark = NULL;
        if (span->is_there)
            keep_mark(L, turn, buffer_str(r->text) + span->begin, span->end - span->begin);
    }
    lua_pop(L, 1);
    scratch_pop(L); /* the tokens that there were */
}

/* Marks 0..n-1 stand as they did. */
static bool are_kept(const struct dsl_state *state, const struct rendering *r, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!is_mark(&state->turns[i], r, &r->mark[i]))
            return false;
    return true;
}

/* The last turn, which is open and has no mark yet, gets it. */
static void place_last(lua_State *L, struct dsl_state *state, const struct rendering *r)
{
    const uint32_t last = state->n_turns - 1;
    struct dsl_turn *turn = &state->turns[last];
    const struct span *span = &r->mark[last];
    const char *text = buffer_str(r->text) + span->begin;
    const size_t n = span->end - span->begin;
    const size_t n_closed = state->closing ? strlen(state->closing) : 0;
    const bool goes_on =
        n >= n_closed && (n_closed == 0 || memcmp(text, state->closing, n_closed) == 0);
    if (!are_kept(state, r, last) || !goes_on) {
        rewrite(L, state, r);
        return;
    }
    if (span->is_there) {
        append_mark(L, state, text + n_closed, n - n_closed);
        keep_mark(L, turn, text, n);
    }
    turn->begin = turn->end = state->tokens.n;
}

/* Marks as the template writes them for all turns of the state, the last one open. */
static bool render_open(lua_State *L, const struct dsl_state *state, struct rendering *out,
                        serverd_error *err)
{
    const uint32_t last = state->n_turns - 1;
    const bool prompts = strcmp(state->turns[last].role, "assistant") == 0;
    if (!render(L, state, prompts ? last : state->n_turns, prompts, out, err))
        return false;
    if (prompts) /* what the template puts in front of the model's turn */
        out->mark[last] = (struct span){out->closing, out->text->len, true};
    return true;
}

static void add_turn(lua_State *L, struct dsl_state *state, const char *role, const char *name,
                     const char *call_id)
{
    if (state->n_turns == LIMIT_MESSAGES)
        dsl_raise(L, "role_nesting", "more than %u turns", LIMIT_MESSAGES);
    if (state->n_turns == state->turns_cap) {
        const uint32_t cap = (uint32_t)max_size(8, (size_t)state->turns_cap * 2);
        struct dsl_turn *bigger = realloc(state->turns, cap * sizeof *bigger);
        if (!bigger)
            raise_memory(L);
        state->turns = bigger;
        state->turns_cap = cap;
    }
    struct dsl_turn *turn = &state->turns[state->n_turns];
    *turn = (struct dsl_turn){.begin = state->tokens.n, .end = state->tokens.n};
    (void)snprintf(turn->role, sizeof turn->role, "%s", role);
    turn->name = name ? strdup(name) : NULL;
    turn->call_id = call_id ? strdup(call_id) : NULL;
    state->n_turns++;
}

static void drop_last_turn(struct dsl_state *state)
{
    struct dsl_turn *turn = &state->turns[--state->n_turns];
    free(turn->mark);
    free(turn->name);
    free(turn->call_id);
}

/* The last turn, which was added, begins: with a light userdata of its state. */
static int begin_turn(lua_State *L)
{
    struct dsl_state *state = lua_touserdata(L, 1);
    struct rendering r;
    serverd_error err;
    const bool is_good = render_open(L, state, &r, &err);
    /* some templates want a user's turn behind the system's: then the mark follows */
    const bool may_wait = state->n_turns == 1 && strcmp(state->turns[0].role, "assistant") != 0;
    if (!is_good && !may_wait)
        dsl_raise(L, "template_error", "the chat template refuses the turns: %s", err.text);
    state->has_open_turn = true;
    if (is_good)
        place_last(L, state, &r);
    return 0;
}

void roles_open(lua_State *L, struct dsl_state *state, const char *role, const char *name,
                const char *call_id)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool", "developer"};
    bool is_known = false;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        is_known |= strcmp(roles[i], role) == 0;
    if (!is_known)
        dsl_raise(L, "invalid_option", "no role %.32s", role);
    if (state->has_open_turn)
        dsl_raise(L, "role_nesting", "a turn of %s is open", state->turns[state->n_turns - 1].role);
    state_flush(L, state);
    lua_pushcfunction(L, begin_turn);
    lua_pushlightuserdata(L, state);
    if (state->n_turns == 0)
        state->n_head = state->tokens.n;
    add_turn(L, state, role, name, call_id);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) { /* the state is as if nobody had asked */
        state->has_open_turn = false;
        drop_last_turn(state);
        (void)lua_error(L);
    }
    state->wants_closing = false;
    free(state->closing);
    state->closing = NULL;
}

void roles_close(lua_State *L, struct dsl_state *state)
{
    if (!state->has_open_turn)
        dsl_raise(L, "role_nesting", "no turn is open");
    state_flush(L, state);
    state->turns[state->n_turns - 1].end = state->tokens.n;
    state->has_open_turn = false;
    state->wants_closing = true;
}

void roles_settle(lua_State *L, struct dsl_state *state)
{
    struct rendering r;
    serverd_error err;
    if (!state->wants_closing || state->has_open_turn)
        return;
    const int top = lua_gettop(L);
    state_flush(L, state);
    if (!render(L, state, state->n_turns, false, &r, &err))
        dsl_raise(L, "template_error", "the chat template refuses the turns: %s", err.text);
    if (!are_kept(state, &r, state->n_turns))
        rewrite(L, state, &r);
    const char *closing = buffer_str(r.text) + r.closing;
    append_mark(L, state, closing, r.text->len - r.closing);
    free(state->closing);
    state->closing = strndup(closing, r.text->len - r.closing);
    state->wants_closing = false;
    state->has_text_between = true;
    lua_settop(L, top);
    if (!state->closing)
        raise_memory(L);
}

void roles_show_tools(lua_State *L, struct dsl_state *state, const json_t *tools)
{
    struct rendering r;
    serverd_error err;
    if (json_equal(state->tools, tools) || (!state->tools && !tools))
        return;
    json_decref(state->tools);
    state->tools = json_deep_copy(tools);
    if (state->n_turns == 0)
        return;
    const int top = lua_gettop(L);
    state_flush(L, state);
    const bool is_good = state->has_open_turn ? render_open(L, state, &r, &err)
                                              : render(L, state, state->n_turns, false, &r, &err);
    if (!is_good)
        dsl_raise(L, "template_error", "the chat template refuses the turns: %s", err.text);
    if (!are_kept(state, &r, state->n_turns))
        rewrite(L, state, &r);
    lua_settop(L, top);
}

/* ---- methods --------------------------------------------------------------------------------- */

int state_open_role(lua_State *L)
{
    roles_open(L, state_check(L, 1), luaL_checkstring(L, 2), NULL, NULL);
    lua_settop(L, 1);
    return 1;
}

int state_close_role(lua_State *L)
{
    roles_close(L, state_check(L, 1));
    lua_settop(L, 1);
    return 1;
}

/* The body's value lies behind the state, if it has one. */
static int end_turn(lua_State *L, int status, lua_KContext ctx)
{
    struct dsl_state *state = state_check(L, 1);
    (void)status;
    (void)ctx;
    if (state->has_open_turn)
        roles_close(L, state);
    return lua_gettop(L) - 1;
}

/* open, body, close. A text is appended, a table is a gen, a function is called with the state. */
static int turn(lua_State *L, const char *role)
{
    lua_settop(L, 2);
    struct dsl_state *state = state_check(L, 1);
    const int type = lua_type(L, 2);
    if (type == LUA_TSTRING || type == LUA_TNUMBER) {
        size_t n;
        roles_open(L, state, role, NULL, NULL);
        const char *text = lua_tolstring(L, 2, &n);
        state_add(L, state, text, n);
        roles_close(L, state);
        lua_settop(L, 1);
        return 1;
    }
    if (type != LUA_TFUNCTION && type != LUA_TTABLE)
        dsl_raise(L, "invalid_option", "%s takes a text, a table of options or a function", role);
    roles_open(L, state, role, NULL, NULL);
    if (type == LUA_TTABLE) {
        lua_getfield(L, 1, "gen");
        lua_insert(L, 2); /* state, gen, options */
        lua_pushvalue(L, 1);
        lua_insert(L, 3);
        lua_callk(L, 2, LUA_MULTRET, 0, end_turn);
    } else {
        lua_pushvalue(L, 1);
        lua_callk(L, 1, LUA_MULTRET, 0, end_turn);
    }
    return end_turn(L, LUA_OK, 0);
}

int state_system(lua_State *L)
{
    return turn(L, "system");
}

int state_user(lua_State *L)
{
    return turn(L, "user");
}

int state_assistant(lua_State *L)
{
    return turn(L, "assistant");
}

/* {{role, content}, ..}. */
int state_messages(lua_State *L)
{
    struct dsl_state *state = state_check(L, 1);
    lua_createtable(L, (int)state->n_turns, 0);
    for (uint32_t i = 0; i < state->n_turns; i++) {
        const struct dsl_turn *t = &state->turns[i];
        const bool is_open = i + 1 == state->n_turns && state->has_open_turn;
        const uint32_t end = is_open ? state->tokens.n : t->end;
        lua_createtable(L, 0, 2);
        lua_pushstring(L, t->role);
        lua_setfield(L, -2, "role");
        state_push_text(L, state, t->begin, end, 0);
        lua_setfield(L, -2, "content");
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}
