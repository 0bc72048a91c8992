/* Branches: methods of states, and `parallel`. */
#ifndef FRONTEND_DSL_FORK_INTERNAL_H
#define FRONTEND_DSL_FORK_INTERNAL_H

#include <lua.h>

int state_fork_method(lua_State *L);
int state_copy(lua_State *L);
int state_map(lua_State *L);
int global_parallel(lua_State *L);

#endif
