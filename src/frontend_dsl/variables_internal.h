/* Variables of states and what is known about generated ones; budgets of the run. For natives. */
#ifndef FRONTEND_DSL_VARIABLES_INTERNAL_H
#define FRONTEND_DSL_VARIABLES_INTERNAL_H

#include "frontend_dsl/run_internal.h"

/* Pop the value on top of the stack. */
void state_set_variable(lua_State *L, struct dsl_state *state, const char *name);
void state_set_meta(lua_State *L, struct dsl_state *state, const char *name);
void state_push_variables(lua_State *L, const struct dsl_state *state); /* the table itself */

/* s:get, s:set, s:meta. */
int state_get_variable(lua_State *L);
int state_set(lua_State *L);
int state_meta(lua_State *L);

/* Tokens that may still be made; raises budget_exceeded if there are none. */
uint64_t run_budget_left(lua_State *L);
/* One more gen, select or score; raises gen_limit, budget_exceeded. */
void run_count_gen(lua_State *L);

#endif
