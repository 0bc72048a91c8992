/* Turns of a conversation in a state's tokens. The marks around them come from the model's chat
 * template: it is rendered with an opaque placeholder for each body, and cut there; bodies are the
 * tokens that the state has.
 *
 *     rendered   <|im_start|>user\n {0} <|im_end|>\n<|im_start|>assistant\n {1} <|im_end|>\n
 *                `---- mark 0 ----'     `-------------- mark 1 -----------'     `-closing-'
 *
 * A template that writes marks of old turns differently once there are new ones makes the state's
 * tokens change; what they have in common with the former ones stays computed. */
#ifndef FRONTEND_DSL_ROLES_INTERNAL_H
#define FRONTEND_DSL_ROLES_INTERNAL_H

#include "frontend_dsl/run_internal.h"

/* Text is going to follow: behind a turn that was closed comes its closing mark. */
void roles_settle(lua_State *L, struct dsl_state *state);

/* Raise role_nesting, no_chat_template, template_error. name and call_id: of a tool's result, NULL:
 * none. */
void roles_open(lua_State *L, struct dsl_state *state, const char *role, const char *name,
                const char *call_id);
void roles_close(lua_State *L, struct dsl_state *state);

/* From now on the template shows these tools (NULL: none). */
void roles_show_tools(lua_State *L, struct dsl_state *state, const json_t *tools);

/* Methods. */
int state_open_role(lua_State *L);
int state_close_role(lua_State *L);
int state_system(lua_State *L);
int state_user(lua_State *L);
int state_assistant(lua_State *L);
int state_messages(lua_State *L);

#endif
