/* select and score, in at most two operations: the open literal with the log probabilities of all
 * first tokens behind it; then a request for each text of more tokens, all at once, behind what the
 * first one has computed. A text of one token costs no row. */
#include "frontend_dsl/select_internal.h"

#include "base/arena.h"
#include "base/numeric.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/roles_internal.h"
#include "frontend_dsl/scratch_internal.h"
#include "frontend_dsl/variables_internal.h"

#include <string.h>

#define NO_REQUEST UINT32_MAX

static const char *const methods[] = {"token_length_normalized", "joint", "greedy_token",
                                      "unconditional_likelihood_normalized"};

/* ---- options --------------------------------------------------------------------------------- */

static enum select_method method_of(lua_State *L, const char *name)
{
    for (size_t i = 0; name && i < sizeof methods / sizeof *methods; i++)
        if (strcmp(methods[i], name) == 0)
            return (enum select_method)i;
    if (name)
        dsl_raise(L, "invalid_option", "no method %.64s", name);
    return SELECT_TOKEN_LENGTH;
}

/* Pushes the plan, and its arrays. */
static struct select_plan *plan_create(lua_State *L, const json_t *choices)
{
    const size_t n = json_array_size(choices);
    if (n == 0 || n > LIMIT_NEXT_TOKENS)
        dsl_raise(L, "invalid_option", "choices has to be a list of 1 to %u strings",
                  LIMIT_NEXT_TOKENS);
    struct select_plan *plan = scratch_array(L, 1, sizeof *plan);
    plan->n = (uint32_t)n;
    plan->text = scratch_array(L, n, sizeof *plan->text);
    plan->score = scratch_array(L, n, sizeof *plan->score);
    plan->prob = scratch_array(L, n, sizeof *plan->prob);
    for (size_t i = 0; i < n; i++) {
        const json_t *choice = json_array_get(choices, i);
        if (!json_is_string(choice))
            dsl_raise(L, "invalid_option", "choices[%zu] is no string", i + 1);
        plan->text[i].text = json_string_value(choice);
        plan->text[i].n_bytes = json_string_length(choice);
    }
    return plan;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* T(c), the tokens of the open literal and the text together; pushes what they lie in. */
static void tokenise(lua_State *L, struct dsl_state *state, struct scored_text *t)
{
    struct buffer *both = scratch_buffer(L, LIMIT_DSL_OPEN_BYTES);
    struct token_list *tokens = scratch_tokens(L, state->tokens.limit);
    buffer_append(both, buffer_str(&state->open), state->open.len);
    buffer_append(both, t->text, t->n_bytes);
    if (both->is_failed)
        dsl_raise(L, "context_length_exceeded", "a choice is too long");
    state_tokenise(L, state, buffer_str(both), both->len, 0, tokens);
    t->token = scratch_array(L, tokens->n, sizeof *t->token);
    if (tokens->n > 0)
        memcpy(t->token, tokens->id, tokens->n * sizeof *t->token);
    t->n_tokens = tokens->n;
    lua_insert(L, -3); /* only the array stays */
    scratch_pop(L);
    scratch_pop(L);
}

static void tokenise_all(lua_State *L, struct dsl_state *state, struct select_plan *plan)
{
    luaL_checkstack(L, (int)(2 * plan->n) + LUA_MINSTACK, NULL);
    struct token_list *literal = scratch_tokens(L, state->tokens.limit);
    state_tokenise(L, state, buffer_str(&state->open), state->open.len, 0, literal);
    uint32_t shared = literal->n;
    for (uint32_t i = 0; i < plan->n; i++) {
        struct scored_text *t = &plan->text[i];
        uint32_t k = 0;
        tokenise(L, state, t);
        while (k < shared && k < t->n_tokens && t->token[k] == literal->id[k])
            k++;
        shared = k;
    }
    plan->n_shared = shared;
    plan->n_base = state->tokens.n + shared;
    if (plan->n_base == 0)
        dsl_raise(L, "invalid_option", "the state is empty: there is nothing to go on from");
    for (uint32_t i = 0; i < plan->n; i++) {
        struct scored_text *t = &plan->text[i];
        t->n_scored = t->n_tokens - shared;
        t->logprob = scratch_array(L, t->n_scored, sizeof *t->logprob);
        t->request = t->alone_request = NO_REQUEST;
    }
}

/* ---- the first operation --------------------------------------------------------------------- */

static struct dsl_op *base_operation(lua_State *L, struct dsl_state *state,
                                     const struct select_plan *plan)
{
    struct dsl_op *op = op_create(L, state, plan->is_score ? OP_SCORE : OP_SELECT, 1);
    trace_begin(L, op, plan->name);
    struct request *r =
        op_request(L, op, 0, state->tokens.n, plan->text[0].token, plan->n_shared, true);
    int32_t *next = arena_array(r->arena, plan->n, sizeof *next);
    if (!next)
        raise_memory(L);
    for (uint32_t i = 0; i < plan->n; i++)
        if (plan->text[i].n_scored > 0)
            next[r->n_next_tokens++] = plan->text[i].token[plan->n_shared];
    r->next_tokens = next;
    if (r->n_prompt >= op->run->setup.model.context_size)
        dsl_raise(L, "context_length_exceeded", "the state has %u tokens, the context %u",
                  r->n_prompt, op->run->setup.model.context_size);
    return op;
}

static void take_first(lua_State *L, const struct dsl_op *op, struct select_plan *plan)
{
    const float *next = op->requests[0].next;
    uint32_t at = 0;
    for (uint32_t i = 0; i < plan->n; i++) {
        if (plan->text[i].n_scored == 0)
            continue;
        if (!next)
            dsl_raise(L, "model_error", "no log probabilities came");
        plan->text[i].logprob[0] = next[at++];
    }
}

/* ---- the second operation -------------------------------------------------------------------- */

/* The model's is of the model without an adapter, of which another may get the same name. */
static struct score_memo *memo_of(lua_State *L)
{
    struct dsl_run *run = run_of(L);
    if (run->setup.model.memo && !run->setup.adapter)
        return run->setup.model.memo;
    if (!run->own_memo)
        run->own_memo = score_memo_create();
    if (!run->own_memo)
        raise_memory(L);
    return run->own_memo;
}

/* Which texts need which requests; returns how many those are. */
static uint32_t plan_requests(lua_State *L, struct select_plan *plan)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < plan->n; i++)
        if (plan->text[i].n_scored > 1)
            plan->text[i].request = n++;
    if (plan->method != SELECT_UNCONDITIONAL || plan->is_score)
        return n;
    struct score_memo *memo = memo_of(L);
    luaL_checkstack(L, (int)plan->n + LUA_MINSTACK, NULL); /* an array for each text */
    for (uint32_t i = 0; i < plan->n; i++) {
        struct scored_text *t = &plan->text[i];
        t->alone = scratch_array(L, t->n_scored, sizeof *t->alone);
        t->is_alone_known = score_memo_find(memo, t->token + plan->n_shared, t->n_scored, t->alone);
        /* without a begin token the first one has no such number, and is not asked for */
        if (!t->is_alone_known && t->n_scored > (plan->begin < 0))
            t->alone_request = n++;
    }
    return n;
}

static void add_scored(lua_State *L, struct dsl_op *op, const struct select_plan *plan,
                       const struct scored_text *t)
{
    struct request *r =
        op_request(L, op, t->request, op->state->tokens.n, t->token, t->n_tokens, true);
    r->wants_prompt_logprobs = true;
    r->score_from = plan->n_base + 1;
}

/* The begin token and the text, whatever the state is. */
static void add_alone(lua_State *L, struct dsl_op *op, const struct select_plan *plan,
                      const struct scored_text *t)
{
    const uint32_t n_begin = plan->begin >= 0;
    int32_t *tokens = scratch_array(L, t->n_scored + n_begin, sizeof *tokens);
    tokens[0] = plan->begin;
    memcpy(tokens + n_begin, t->token + plan->n_shared, t->n_scored * sizeof *tokens);
    struct request *r =
        op_request(L, op, t->alone_request, 0, tokens, t->n_scored + n_begin, false);
    op->requests[t->alone_request].is_apart = true;
    r->wants_prompt_logprobs = true;
    r->score_from = 1;
    lua_pop(L, 1);
}

/* The row of the first one goes on in the second. */
static struct dsl_op *choices_operation(lua_State *L, struct dsl_state *state,
                                        const struct select_plan *plan, uint32_t n_requests)
{
    struct dsl_task *task = task_of(L);
    struct dsl_op *first = task->op;
    task->op = NULL;
    first->task = NULL;
    struct dsl_op *op = op_create(L, state, first->kind, n_requests);
    trace_move(first, op);
    op_destroy(first);
    for (uint32_t i = 0; i < plan->n; i++) {
        if (plan->text[i].request != NO_REQUEST)
            add_scored(L, op, plan, &plan->text[i]);
        if (plan->text[i].alone_request != NO_REQUEST)
            add_alone(L, op, plan, &plan->text[i]);
    }
    return op;
}

static void take_scores(lua_State *L, struct dsl_op *op, struct select_plan *plan)
{
    for (uint32_t i = 0; i < plan->n; i++) {
        struct scored_text *t = &plan->text[i];
        if (t->request != NO_REQUEST) {
            const struct op_request *r = &op->requests[t->request];
            if (r->n_scores != t->n_scored - 1)
                dsl_raise(L, "model_error", "log probabilities are missing");
            memcpy(t->logprob + 1, r->score, r->n_scores * sizeof *t->logprob);
            op_count(op, t->request, plan->n_base);
        }
        if (t->alone_request != NO_REQUEST) {
            const struct op_request *r = &op->requests[t->alone_request];
            const uint32_t skipped = plan->begin < 0;
            if (r->n_scores + skipped != t->n_scored)
                dsl_raise(L, "model_error", "log probabilities are missing");
            memcpy(t->alone + skipped, r->score, r->n_scores * sizeof *t->alone);
            score_memo_keep(memo_of(L), t->token + plan->n_shared, t->n_scored, t->alone);
            op_count(op, t->alone_request, 0);
        }
    }
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void push_floats(lua_State *L, const float *x, uint32_t n)
{
    lua_createtable(L, (int)n, 0);
    for (uint32_t i = 0; i < n; i++) {
        lua_pushnumber(L, (lua_Number)x[i]);
        lua_rawseti(L, -2, i + 1);
    }
}

static void push_doubles(lua_State *L, const double *x, uint32_t n)
{
    lua_createtable(L, (int)n, 0);
    for (uint32_t i = 0; i < n; i++) {
        lua_pushnumber(L, x[i]);
        lua_rawseti(L, -2, i + 1);
    }
}

/* {tokens, logprobs, sum, mean}. */
static int score_result(lua_State *L, const struct select_plan *plan)
{
    const struct scored_text *t = &plan->text[0];
    double sum = 0;
    lua_createtable(L, 0, 4);
    lua_createtable(L, (int)t->n_scored, 0);
    for (uint32_t i = 0; i < t->n_scored; i++) {
        lua_pushinteger(L, t->token[plan->n_shared + i]);
        lua_rawseti(L, -2, i + 1);
        sum += (double)t->logprob[i];
    }
    lua_setfield(L, -2, "tokens");
    push_floats(L, t->logprob, t->n_scored);
    lua_setfield(L, -2, "logprobs");
    lua_pushnumber(L, sum);
    lua_setfield(L, -2, "sum");
    lua_pushnumber(L, t->n_scored > 0 ? sum / t->n_scored : 0);
    lua_setfield(L, -2, "mean");
    return 1;
}

static double margin_of(const struct select_plan *plan)
{
    double second = 0;
    bool has_second = false;
    for (uint32_t i = 0; i < plan->n; i++)
        if (i != plan->best && (!has_second || plan->score[i] > second)) {
            second = plan->score[i];
            has_second = true;
        }
    return has_second ? plan->score[plan->best] - second : 0;
}

static void push_info(lua_State *L, const struct select_plan *plan)
{
    lua_createtable(L, 0, 5);
    lua_pushinteger(L, plan->best + 1);
    lua_setfield(L, -2, "index");
    push_doubles(L, plan->score, plan->n);
    lua_setfield(L, -2, "scores");
    push_doubles(L, plan->prob, plan->n);
    lua_setfield(L, -2, "probs");
    lua_pushnumber(L, margin_of(plan));
    lua_setfield(L, -2, "margin");
    lua_createtable(L, (int)plan->n, 0);
    for (uint32_t i = 0; i < plan->n; i++) {
        push_floats(L, plan->text[i].logprob, plan->text[i].n_scored);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, "logprobs");
}

static void emit_done(const struct dsl_state *state, const struct select_plan *plan)
{
    const struct scored_text *best = &plan->text[plan->best];
    if (!run_is_heard(state->run))
        return;
    json_t *scores = json_array();
    for (uint32_t i = 0; i < plan->n; i++)
        (void)json_array_append_new(scores, json_real(plan->score[i]));
    run_emit(state->run, "select.done", state->branch.path, "{s:s?, s:s%, s:i, s:O}", "name",
             plan->name, "value", best->text, best->n_bytes, "index", (int)plan->best + 1, "scores",
             scores);
    json_decref(scores);
}

/* The state goes on behind the winner, whose keys and values are there already. op: the second
 * operation, or NULL. */
static void adopt(lua_State *L, struct dsl_state *state, const struct select_plan *plan,
                  const struct dsl_op *op)
{
    const struct scored_text *best = &plan->text[plan->best];
    state_drop_open(state);
    state_append_tokens(L, state, best->token, best->n_tokens);
    state->run->usage.prompt_tokens += best->n_tokens;
    state->n_base = state->tokens.n;
    state->n_ahead = 0;
    if (op && best->request != NO_REQUEST)
        state_set_prefix(state, prefix_ref(op->becomes[best->request]));
}

static int finish(lua_State *L, struct dsl_state *state, struct select_plan *plan,
                  struct dsl_op *op)
{
    trace_end(task_of(L)->op);
    if (!plan->is_score) {
        select_decide(plan);
        adopt(L, state, plan, op);
        emit_done(state, plan);
    }
    op_destroy(task_of(L)->op); /* the losers' pages go */
    if (plan->is_score)
        return score_result(L, plan);
    const struct scored_text *best = &plan->text[plan->best];
    lua_pushlstring(L, best->text, best->n_bytes);
    if (plan->name) {
        lua_pushvalue(L, -1);
        state_set_variable(L, state, plan->name);
    }
    push_info(L, plan);
    return 2;
}

static int choices_end(lua_State *L, int status, lua_KContext ctx)
{
    struct select_plan *plan = (struct select_plan *)ctx;
    struct dsl_op *op = op_end_wait(L);
    struct dsl_state *state = op->state;
    (void)status;
    take_scores(L, op, plan);
    return finish(L, state, plan, op);
}

static int base_end(lua_State *L, int status, lua_KContext ctx)
{
    struct select_plan *plan = (struct select_plan *)ctx;
    struct dsl_op *op = op_end_wait(L);
    struct dsl_state *state = op->state;
    (void)status;
    op_count(op, 0, 0);
    take_first(L, op, plan);
    state_set_prefix(state, prefix_ref(op->becomes[0]));
    state->n_ahead = plan->n_base;
    const uint32_t n_requests = plan_requests(L, plan);
    if (n_requests == 0)
        return finish(L, state, plan, NULL);
    op = choices_operation(L, state, plan, n_requests);
    return task_wait_op(L, op, (lua_KContext)plan, choices_end);
}

/* The state is at index 1. */
static int begin(lua_State *L, struct select_plan *plan)
{
    struct dsl_state *state = state_check(L, 1);
    run_count_gen(L);
    roles_settle(L, state);
    plan->begin = state->run->begin_token;
    tokenise_all(L, state, plan);
    state->n_ops++;
    return task_wait_op(L, base_operation(L, state, plan), (lua_KContext)plan, base_end);
}

int select_as_gen(lua_State *L, const struct gen_options *options)
{
    struct select_plan *plan = plan_create(L, options->choices);
    plan->name = options->name;
    plan->method = method_of(L, options->method);
    return begin(L, plan);
}

int state_select(lua_State *L)
{
    lua_settop(L, 2);
    (void)state_check(L, 1);
    const json_t *o = dsl_json_check(L, 2, LIMIT_GRAMMAR_TEXT, "invalid_option"), *value;
    const char *key, *name = NULL, *method = NULL;
    json_object_foreach((json_t *)o, key, value)
    {
        const bool is_name = strcmp(key, "name") == 0, is_method = strcmp(key, "method") == 0;
        if (!is_name && !is_method && strcmp(key, "choices") != 0)
            dsl_raise(L, "invalid_option", "select has no option %.64s", key);
        if ((is_name || is_method) && !json_is_string(value))
            dsl_raise(L, "invalid_option", "%s has to be a string", key);
        if (is_name)
            name = json_string_value(value);
        if (is_method)
            method = json_string_value(value);
    }
    struct select_plan *plan = plan_create(L, json_object_get(o, "choices"));
    plan->name = name;
    plan->method = method_of(L, method);
    return begin(L, plan);
}

int state_score(lua_State *L)
{
    lua_settop(L, 2);
    (void)state_check(L, 1);
    size_t n;
    const char *text = luaL_checklstring(L, 2, &n);
    struct select_plan *plan = scratch_array(L, 1, sizeof *plan);
    plan->n = 1;
    plan->is_score = true;
    plan->text = scratch_array(L, 1, sizeof *plan->text);
    plan->text[0].text = text;
    plan->text[0].n_bytes = n;
    return begin(L, plan);
}
