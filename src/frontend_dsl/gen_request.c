/* The request of a gen, from its options. */
#include "base/arena.h"
#include "base/numeric.h"
#include "frontend_dsl/chat_tools_internal.h"
#include "frontend_dsl/variables_internal.h"
#include "grammar/stop_pattern.h"
#include "text/output_formats.h"

#include <string.h>

size_t gen_n_items(const json_t *value)
{
    return json_is_array(value) ? json_array_size(value) : value != NULL;
}

const json_t *gen_item(const json_t *value, size_t i)
{
    return json_is_array(value) ? json_array_get(value, i) : value;
}

static void set_stops(lua_State *L, const struct gen_options *o, struct request *r)
{
    const size_t n = gen_n_items(o->stop);
    if (n > LIMIT_STOPS)
        dsl_raise(L, "invalid_option", "stop has %zu strings, at most %u are allowed", n,
                  LIMIT_STOPS);
    struct stop_string *stops = arena_array(r->arena, max_size(n, 1), sizeof *stops);
    if (!stops)
        raise_memory(L);
    r->stops = stops;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = gen_item(o->stop, i);
        const size_t len = json_string_length(item);
        if (!json_is_string(item) || len == 0 || len > LIMIT_STOP_BYTES)
            dsl_raise(L, "invalid_option", "stop has to be strings of 1 to %u bytes",
                      LIMIT_STOP_BYTES);
        stops[r->n_stops++] =
            (struct stop_string){arena_copy(r->arena, json_string_value(item), len), (uint32_t)len};
    }
    for (size_t i = 0; i < n; i++)
        if (!stops[i].bytes)
            raise_memory(L);
}

static void set_stop_patterns(lua_State *L, const struct gen_options *o, struct request *r)
{
    serverd_error err;
    const size_t n = gen_n_items(o->stop_regex);
    if (n > LIMIT_STOP_PATTERNS)
        dsl_raise(L, "invalid_option", "stop_regex has %zu patterns, at most %u are allowed", n,
                  LIMIT_STOP_PATTERNS);
    const struct dfa **patterns = arena_array(r->arena, max_size(n, 1), sizeof(struct dfa *));
    if (!patterns)
        raise_memory(L);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = gen_item(o->stop_regex, i);
        if (!json_is_string(item))
            dsl_raise(L, "invalid_option", "stop_regex has to be strings");
        if (stop_pattern_compile(json_string_value(item), json_string_length(item),
                                 &processor_clock, r->arena, &patterns[i], &err))
            dsl_raise(L, "invalid_option", "stop_regex: %s", err.text);
    }
    r->stop_patterns = patterns;
    r->n_stop_patterns = (uint32_t)n;
}

static int32_t check_token(lua_State *L, const char *option, json_int_t id)
{
    const uint32_t n_vocab = tokenizer_vocabulary(run_of(L)->setup.model.tokenizer)->n_tokens;
    if (id < 0 || id >= (json_int_t)n_vocab)
        dsl_raise(L, "invalid_option", "%s has to have tokens of 0 to %u", option, n_vocab - 1);
    return (int32_t)id;
}

static int32_t token_id(lua_State *L, const char *option, const json_t *value)
{
    return check_token(L, option, json_is_integer(value) ? json_integer_value(value) : -1);
}

static void set_stop_tokens(lua_State *L, const struct gen_options *o, struct request *r)
{
    const size_t n = gen_n_items(o->stop_token_ids);
    if (n > LIMIT_STOP_TOKEN_IDS)
        dsl_raise(L, "invalid_option", "stop_token_ids are at most %u", LIMIT_STOP_TOKEN_IDS);
    int32_t *tokens = arena_array(r->arena, max_size(n, 1), sizeof *tokens);
    if (!tokens)
        raise_memory(L);
    for (size_t i = 0; i < n; i++)
        tokens[i] = token_id(L, "stop_token_ids", gen_item(o->stop_token_ids, i));
    r->stop_tokens = tokens;
    r->n_stop_tokens = (uint32_t)n;
}

static void add_bias(lua_State *L, struct logit_bias *list, uint32_t *n, int32_t id,
                     const json_t *bias)
{
    if (!json_is_number(bias))
        dsl_raise(L, "invalid_option", "logit_bias has to have numbers");
    for (uint32_t i = 0; i < *n; i++)
        if (list[i].token == id)
            dsl_raise(L, "invalid_option", "logit_bias has token %d twice", id);
    list[(*n)++] = (struct logit_bias){.token = id, .bias = (float)json_number_value(bias)};
}

/* {"123": -5} or {{123, -5}}. */
static void set_bias(lua_State *L, const struct gen_options *o, struct request *r)
{
    static const char option[] = "logit_bias";
    const size_t n = json_object_size(o->logit_bias) + json_array_size(o->logit_bias);
    uint32_t n_set = 0;
    const char *key;
    json_t *value;
    size_t i;
    if (n > LIMIT_LOGIT_BIAS)
        dsl_raise(L, "invalid_option", "logit_bias has more than %u tokens", LIMIT_LOGIT_BIAS);
    struct logit_bias *list = arena_array(r->arena, max_size(n, 1), sizeof *list);
    if (!list)
        raise_memory(L);
    json_object_foreach((json_t *)o->logit_bias, key, value)
    {
        uint64_t id = UINT64_MAX;
        if (!parse_u64(key, 0, INT32_MAX, &id))
            id = INT32_MAX;
        add_bias(L, list, &n_set, check_token(L, option, (json_int_t)id), value);
    }
    json_array_foreach(o->logit_bias, i, value) add_bias(
        L, list, &n_set, token_id(L, option, json_array_get(value, 0)), json_array_get(value, 1));
    r->sampling.bias = list;
    r->sampling.n_bias = n_set;
}

/* What is left of context and budget. */
static uint32_t clip(lua_State *L, struct dsl_op *op, uint32_t n_prompt, uint32_t n, uint32_t most)
{
    struct dsl_run *run = op->run;
    const uint32_t context = run->setup.model.context_size;
    if (n_prompt >= context)
        dsl_raise(L, "context_length_exceeded", "the state has %u tokens, the context %u", n_prompt,
                  context);
    const uint64_t left = run_budget_left(L);
    most = min_u32(most, context - n_prompt);
    if (left < (uint64_t)most * n)
        most = (uint32_t)max_size(left / n, 1);
    op->n_reserved = (uint64_t)most * n;
    run->n_reserved += op->n_reserved;
    return most;
}

struct dsl_op *gen_operation(lua_State *L, struct dsl_state *state, struct gen_plan *plan)
{
    struct dsl_run *run = state->run;
    const struct gen_options *o = &plan->options;
    const struct dsl_model *model = &run->setup.model;
    serverd_error err;
    struct dsl_op *op = op_create(L, state, OP_GEN, 1);
    trace_begin(L, op, o->name);
    op_add_choices(L, op, o->n);
    struct request *r = op_request(L, op, 0, state->tokens.n, NULL, 0, true);
    r->n_choices = o->n;
    r->sampling = o->sampling;
    set_bias(L, o, r);
    set_stops(L, o, r);
    set_stop_patterns(L, o, r);
    set_stop_tokens(L, o, r);
    plan->seed = o->has_seed ? o->seed : seed_of_operation(&state->branch, state->n_ops);
    r->sampling.seed = plan->seed;
    r->max_new_tokens = clip(L, op, r->n_prompt, o->n, o->max_tokens);
    r->wants_logprobs = o->wants_logprobs;
    r->n_top_logprobs = o->logprobs;
    if (plan->splits && model->output && model->output->reasoning) {
        r->reasoning = &model->output->marks;
        r->is_reasoning_open = plan->is_reasoning_open;
        r->may_reason = true;
    }
    r->grammar = gen_grammar(L, o, &plan->value);
    plan->grammar = r->grammar;
    if (!r->grammar && chat_tools_are_required(o))
        r->grammar = tool_grammar(L, plan->tools);
    if (r->grammar) {
        op->grammar = grammar_ref(r->grammar);
        r->trie = model->trie(model->grammar_context, &err);
        if (!r->trie)
            raise_status(L, "invalid_grammar", &err);
        r->ends_on_illegal = o->dtype != NULL;
    }
    return op;
}
