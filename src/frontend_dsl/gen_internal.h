/* gen and its options. */
#ifndef FRONTEND_DSL_GEN_INTERNAL_H
#define FRONTEND_DSL_GEN_INTERNAL_H

#include "frontend_dsl/run_internal.h"
#include "grammar/grammar.h"
#include "sampling/sampling_params.h"

/* Texts and values belong to the JSON that they were read from. */
struct gen_options {
    const char *name, *regex, *ebnf, *dtype, *method, *reasoning;
    const json_t *stop, *stop_regex, *stop_token_ids, *json_schema, *choices, *logit_bias, *tools,
        *tool_choice;
    bool stream, keep_stop, has_seed;
    uint32_t max_tokens, n, logprobs;
    bool wants_logprobs;
    uint64_t seed;
    struct sampling_params sampling;
};

/* The call's options (the table at index, or nothing) over those of the program, the request and
 * the model. Pushes what keeps the texts. Raises invalid_option. */
void gen_options_read(lua_State *L, int index, struct gen_options *out);

/* What an output has to be. */
enum gen_value { GEN_TEXT, GEN_JSON, GEN_INT, GEN_FLOAT, GEN_BOOL };

/* What the end of a gen needs to know, in a userdata on its stack; texts are the options'. */
struct gen_plan {
    struct gen_options options;
    enum gen_value value;
    uint64_t seed;
    struct grammar *grammar; /* the operation's reference; NULL: a tool's or none */
    const json_t *tools;     /* as the template shows them; NULL: none */
    bool splits;             /* reasoning and calls are no part of the text */
    bool is_reasoning_open;  /* the prompt ends inside of it */
};

/* A compiled grammar, from the model's cache if it is there; a reference. Raises invalid_grammar.
 */
struct grammar *gen_compile(lua_State *L, enum grammar_form form, const char *text, size_t n);

/* An option that is one value, or a list of them. */
size_t gen_n_items(const json_t *value);
const json_t *gen_item(const json_t *value, size_t i);

/* The operation that the plan's options ask for, behind the state's tokens; not queued. */
struct dsl_op *gen_operation(lua_State *L, struct dsl_state *state, struct gen_plan *plan);

/* The grammar that the options ask for, a reference; NULL: none. Raises invalid_grammar. */
struct grammar *gen_grammar(lua_State *L, const struct gen_options *options, enum gen_value *value);

/* The text as a value of that kind, a reference; NULL: it is none, or no memory. */
json_t *gen_value(enum gen_value kind, const char *text, size_t n);

int state_gen(lua_State *L);

#endif
