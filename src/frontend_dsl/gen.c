#include "frontend_dsl/gen_internal.h"

#include "base/numeric.h"
#include "frontend_dsl/chat_tools_internal.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/roles_internal.h"
#include "frontend_dsl/scratch_internal.h"
#include "frontend_dsl/select_internal.h"
#include "frontend_dsl/variables_internal.h"
#include "grammar/matcher.h"
#include "text/output_formats.h"

#include <string.h>

enum { SELF = 1, OPTIONS, N_ARGUMENTS = OPTIONS };

/* ---- its end --------------------------------------------------------------------------------- */

/* How many tokens stay: those before what overlaps a stop. `rest`: the text that a token straddling
 * the stop has before it (K2). */
static uint32_t n_kept(const struct dsl_op *op, const struct op_choice *choice, const char **rest,
                       size_t *n_rest)
{
    const struct tokenizer *tokenizer = op->run->setup.model.tokenizer;
    uint64_t at = 0;
    *n_rest = 0;
    for (uint32_t i = 0; i < choice->n; i++) {
        const struct op_token *token = &choice->token[i];
        uint32_t n;
        const char *piece = tokenizer_piece(tokenizer, token->id, &n);
        if (token->is_hidden)
            return i;
        if (tokenizer_is_control(tokenizer, token->id))
            n = 0;
        if (at + n > choice->release) {
            *rest = piece;
            *n_rest = (size_t)(choice->release - at);
            return i;
        }
        at += n;
    }
    return choice->n;
}

static const char *matched_stop(const struct gen_plan *plan, const struct op_choice *choice)
{
    const size_t n = gen_n_items(plan->options.stop);
    const size_t i = (size_t)choice->stop_index;
    if (choice->stop_index < 0)
        return NULL;
    return json_string_value(i < n ? gen_item(plan->options.stop, i)
                                   : gen_item(plan->options.stop_regex, i - n));
}

/* What the stop matched, if that is kept: of a pattern all text from where it begins. */
static void keep_stop(lua_State *L, struct dsl_state *state, const struct gen_plan *plan,
                      const struct op_choice *choice)
{
    const struct tokenizer *tokenizer = state->run->setup.model.tokenizer;
    const size_t i = (size_t)choice->stop_index;
    uint64_t at = 0;
    if (choice->stop_index < 0 || !plan->options.keep_stop)
        return;
    if (i < gen_n_items(plan->options.stop)) {
        const json_t *item = gen_item(plan->options.stop, i);
        state_add(L, state, json_string_value(item), json_string_length(item));
        return;
    }
    for (uint32_t t = 0; t < choice->n && !choice->token[t].is_hidden; t++) {
        uint32_t n;
        const char *piece = tokenizer_piece(tokenizer, choice->token[t].id, &n);
        if (tokenizer_is_control(tokenizer, choice->token[t].id))
            continue;
        const uint64_t skip = choice->release > at ? choice->release - at : 0;
        if (skip < n)
            state_add(L, state, piece + skip, n - (size_t)skip);
        at += n;
    }
}

/* The state goes on behind the first choice. */
static void extend(lua_State *L, struct dsl_state *state, struct dsl_op *op,
                   const struct gen_plan *plan)
{
    const struct op_choice *choice = &op->choices[0];
    const char *rest = "";
    size_t n_rest;
    const uint32_t kept = n_kept(op, choice, &rest, &n_rest);
    for (uint32_t i = 0; i < kept; i++)
        state_append_tokens(L, state, &choice->token[i].id, 1);
    state->n_base = state->tokens.n;
    state_set_prefix(state, prefix_ref(op->becomes[0]));
    /* what a stop has taken away was computed, too, but is of no use */
    state->prefix->n_held = min_u32(state->prefix->n_held, state->tokens.n);
    if (n_rest > 0) {
        state_add(L, state, rest, n_rest);
        state->run->usage.retokenized_tokens++;
    }
    keep_stop(L, state, plan, choice);
}

/* Tokens that the grammar left no choice about. */
static uint32_t count_forced(const struct op_choice *choice)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < choice->n; i++)
        n += choice->token[i].is_forced;
    return n;
}

static bool is_whole(const struct gen_plan *plan, const struct buffer *text)
{
    if (!plan->grammar)
        return true;
    struct matcher *matcher = matcher_create(plan->grammar);
    const bool is_good =
        matcher && matcher_accept(matcher, buffer_str(text), text->len) && matcher_may_end(matcher);
    if (matcher)
        matcher_destroy(matcher);
    return is_good;
}

static void push_logprobs(lua_State *L, const struct op_choice *choice)
{
    lua_createtable(L, (int)choice->n, 0);
    for (uint32_t i = 0; i < choice->n; i++) {
        const struct logprobs *l = choice->token[i].logprobs;
        lua_pushnumber(L, l ? (lua_Number)l->chosen.logprob : 0);
        lua_rawseti(L, -2, i + 1);
    }
}

static void push_top(lua_State *L, const struct op_choice *choice)
{
    lua_createtable(L, (int)choice->n, 0);
    for (uint32_t i = 0; i < choice->n; i++) {
        const struct logprobs *l = choice->token[i].logprobs;
        lua_newtable(L);
        for (uint32_t k = 0; l && k < l->n_top; k++) {
            lua_createtable(L, 0, 2);
            lua_pushinteger(L, l->top[k].token);
            lua_setfield(L, -2, "token");
            lua_pushnumber(L, (lua_Number)l->top[k].logprob);
            lua_setfield(L, -2, "logprob");
            lua_rawseti(L, -2, k + 1);
        }
        lua_rawseti(L, -2, i + 1);
    }
}

static void push_usage(lua_State *L, const struct dsl_op *op, const struct op_choice *choice)
{
    const struct {
        const char *name;
        uint32_t n;
    } counts[] = {{"prompt_tokens", op->row.prompt},
                  {"reused_tokens", op->row.reused},
                  {"prefill_tokens", op->row.prefill},
                  {"completion_tokens", choice->n}};
    const int n = sizeof counts / sizeof *counts;
    lua_createtable(L, 0, n);
    for (int i = 0; i < n; i++) {
        lua_pushinteger(L, counts[i].n);
        lua_setfield(L, -2, counts[i].name);
    }
}

static const char *finish_name(const struct op_choice *choice)
{
    return choice->finish == FINISH_STOP ? "stop" : "length";
}

/* What meta(name) gives, pushed. */
static void push_meta(lua_State *L, const struct dsl_op *op, const struct gen_plan *plan,
                      const struct output_split *split)
{
    const struct op_choice *choice = &op->choices[0];
    const char *stop = matched_stop(plan, choice);
    const char *ignored;
    size_t n_ignored;
    const uint32_t kept = n_kept(op, choice, &ignored, &n_ignored);
    lua_createtable(L, 0, 8);
    lua_pushlstring(L, buffer_str(split->text), split->text->len);
    lua_setfield(L, -2, "text");
    if (split->reasoning) {
        lua_pushlstring(L, buffer_str(split->reasoning), split->reasoning->len);
        lua_setfield(L, -2, "reasoning");
    }
    lua_createtable(L, (int)kept, 0);
    for (uint32_t i = 0; i < kept; i++) {
        lua_pushinteger(L, choice->token[i].id);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "tokens");
    if (plan->options.wants_logprobs) {
        push_logprobs(L, choice);
        lua_setfield(L, -2, "logprobs");
        push_top(L, choice);
        lua_setfield(L, -2, "top_logprobs");
    }
    lua_pushstring(L, finish_name(choice));
    lua_setfield(L, -2, "finish_reason");
    if (stop)
        lua_pushstring(L, stop);
    else if (choice->stop_token >= 0 && !choice->is_end_token)
        lua_pushinteger(L, choice->stop_token);
    else
        lua_pushnil(L);
    lua_setfield(L, -2, "matched_stop");
    push_usage(L, op, choice);
    lua_setfield(L, -2, "usage");
    lua_pushinteger(L, (lua_Integer)plan->seed);
    lua_setfield(L, -2, "seed");
}

/* What the choice said as the value that was asked for, pushed; its JSON is guarded below it. */
static json_t *push_value(lua_State *L, const struct gen_plan *plan, const struct op_choice *choice,
                          const struct buffer *text)
{
    /* a grammar that is given beside tools is about calls, too */
    const struct buffer *held = plan->options.tools ? &choice->text : text;
    if (text->is_failed || held->is_failed)
        raise_memory(L);
    json_t *json =
        is_whole(plan, held) ? gen_value(plan->value, buffer_str(text), text->len) : NULL;
    if (!json) {
        lua_pushlstring(L, buffer_str(text), text->len);
        dsl_raise_with_detail(L, "incomplete", "the output was cut short after %u tokens",
                              choice->n);
    }
    dsl_json_guard(L, json);
    dsl_json_push(L, json);
    return json;
}

/* What was said apart from reasoning and calls; pushes what it lies in. */
static void split(lua_State *L, const struct dsl_op *op, const struct gen_plan *plan,
                  struct op_choice *choice, struct output_split *out)
{
    *out = (struct output_split){.text = &choice->text};
    if (plan->splits)
        chat_tools_split(L, op, choice, plan->options.tools != NULL, plan->is_reasoning_open, out);
}

/* All choices' values as one, pushed. */
static json_t *push_values(lua_State *L, const struct gen_plan *plan, struct dsl_op *op,
                           const struct output_split *first)
{
    struct output_split other;
    if (plan->options.n == 1)
        return push_value(L, plan, &op->choices[0], first->text);
    json_t *all = json_array();
    dsl_json_guard(L, all);
    lua_createtable(L, (int)plan->options.n, 0);
    const int list = lua_gettop(L);
    for (uint32_t i = 0; i < plan->options.n; i++) {
        split(L, op, plan, &op->choices[i], &other);
        (void)json_array_append(all, push_value(L, plan, &op->choices[i], other.text));
        lua_rawseti(L, list, i + 1);
        lua_settop(L, list);
    }
    return all;
}

static void emit_done(struct dsl_op *op, const struct gen_plan *plan, json_t *value,
                      const struct output_split *said)
{
    const struct op_choice *choice = &op->choices[0];
    const char *path = op->state->branch.path;
    if (!plan->options.name)
        return;
    if (plan->splits && plan->options.stream && said->text->len > 0 &&
        run_streams(op->run, plan->options.name)) /* it could not be told apart before */
        run_emit(op->run, "var.delta", path, "{s:s, s:s%}", "name", plan->options.name, "delta",
                 buffer_str(said->text), said->text->len);
    run_emit(op->run, "var.done", path, "{s:s, s:O?, s:s, s:{s:i, s:i, s:i, s:i}}", "name",
             plan->options.name, "value", value, "finish_reason", finish_name(choice), "usage",
             "prompt_tokens", (int)op->row.prompt, "reused_tokens", (int)op->row.reused,
             "prefill_tokens", (int)op->row.prefill, "completion_tokens", (int)choice->n);
}

static int gen_end(lua_State *L, int status, lua_KContext ctx)
{
    const struct gen_plan *plan = (const struct gen_plan *)ctx;
    struct dsl_op *op = op_end_wait(L);
    struct dsl_state *state = op->state;
    struct output_split said;
    (void)status;
    op_count(op, 0, 0);
    op->row.completion = op->requests[0].end.n_output;
    for (uint32_t i = 0; i < op->n_choices; i++)
        state->run->usage.forced_tokens += count_forced(&op->choices[i]);
    trace_end(op);
    extend(L, state, op, plan);
    split(L, op, plan, &op->choices[0], &said);
    if (plan->options.name) {
        push_meta(L, op, plan, &said);
        state_set_meta(L, state, plan->options.name);
    }
    if (chat_tools_are_required(&plan->options) && said.n_calls == 0)
        dsl_raise(L, "incomplete", "the model has called no tool");
    json_t *value = push_values(L, plan, op, &said);
    const int at = lua_gettop(L);
    emit_done(op, plan, value, &said);
    if (plan->options.name) {
        lua_pushvalue(L, at);
        state_set_variable(L, state, plan->options.name);
    }
    if (plan->options.tools)
        dsl_json_push(L, said.calls);
    op_destroy(op);
    return lua_gettop(L) - at + 1;
}

static void emit_start(struct dsl_op *op, const struct gen_plan *plan)
{
    const char *name = plan->options.name;
    if (!name)
        return;
    run_emit(op->run, "var.start", op->state->branch.path, "{s:s, s:i}", "name", name, "line",
             op->row.line);
    if (plan->options.stream && !plan->splits && run_streams(op->run, name))
        op->name = strdup(name);
}

/* Whether the text so far ends inside of reasoning. */
static bool ends_in_reasoning(lua_State *L, const struct dsl_state *state)
{
    const struct output_formats *output = state->run->setup.model.output;
    if (!output || !output->reasoning)
        return false;
    struct buffer *text = scratch_buffer(L, LIMIT_DSL_OPEN_BYTES);
    state_text(state, text);
    const bool is_open = reasoning_is_open(output->reasoning, buffer_str(text), text->len);
    sandbox_charge(L, text->len / 16);
    lua_pop(L, 1);
    return is_open;
}

int state_gen(lua_State *L)
{
    lua_settop(L, N_ARGUMENTS);
    struct dsl_state *state = state_check(L, SELF);
    struct gen_plan *plan = lua_newuserdatauv(L, sizeof *plan, 0);
    *plan = (struct gen_plan){0};
    gen_options_read(L, OPTIONS, &plan->options);
    const struct gen_options *o = &plan->options;
    if (o->choices)
        return select_as_gen(L, o);
    run_count_gen(L);
    if (o->tools) {
        plan->tools = chat_tools_list(L, o);
        roles_show_tools(L, state, plan->tools);
    }
    roles_settle(L, state);
    state_begin(L, state);
    plan->splits = o->tools || (o->reasoning && strcmp(o->reasoning, "separate") == 0);
    plan->is_reasoning_open = plan->splits && ends_in_reasoning(L, state);
    struct dsl_op *op = gen_operation(L, state, plan);
    state->n_ops++;
    emit_start(op, plan);
    return task_wait_op(L, op, (lua_KContext)plan, gen_end);
}
