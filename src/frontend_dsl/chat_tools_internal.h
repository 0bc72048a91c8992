/* What a model says besides its text: reasoning, and calls of tools in its family's own notation;
 * gen{tools = ..}, gen{reasoning = "separate"}, s:call_tools. */
#ifndef FRONTEND_DSL_CHAT_TOOLS_INTERNAL_H
#define FRONTEND_DSL_CHAT_TOOLS_INTERNAL_H

#include "frontend_dsl/gen_internal.h"

/* The tools that the options name, as templates want them: [{type, function: {name, description,
 * parameters}}]; a userdata on top of the stack keeps it. tool_choice NAME: that one alone. Raises
 * invalid_option, unsupported. */
json_t *chat_tools_list(lua_State *L, const struct gen_options *options);

/* The output has to be a call: `tool_choice` is "required" or a name. */
bool chat_tools_are_required(const struct gen_options *options);
/* A grammar of one call of one of them, a reference; NULL: in this family's notation there is none.
 */
struct grammar *tool_grammar(lua_State *L, const json_t *list);

/* Parts of an output. */
struct output_split {
    struct buffer *text, *reasoning; /* on the stack */
    json_t *calls;                   /* [{id, name, arguments}]; kept on the stack */
    uint32_t n_calls;
};

/* Splits what a choice has said up to its release. Pushes what the parts lie in. */
void chat_tools_split(lua_State *L, const struct dsl_op *op, const struct op_choice *choice,
                      bool has_tools, bool is_reasoning_open, struct output_split *out);

int state_call_tools(lua_State *L);

#endif
