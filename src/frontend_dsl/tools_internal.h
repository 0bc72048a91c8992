/* Tools of programs, and programs that call others. */
#ifndef FRONTEND_DSL_TOOLS_INTERNAL_H
#define FRONTEND_DSL_TOOLS_INTERNAL_H

#include "frontend_dsl/run_internal.h"

int global_call_tool(lua_State *L);   /* call_tool(name, args) */
int global_tool_schema(lua_State *L); /* tool_schema(name) */
int global_call(lua_State *L);        /* call(name, args), on a new state */
int state_call(lua_State *L);         /* s:call(name, args) */

struct dsl_module *module_create(struct dsl_run *run, struct dsl_program *program);

#endif
