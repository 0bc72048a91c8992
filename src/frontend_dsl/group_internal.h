/* Groups of tasks: what fork, map and parallel begin, and how they are waited for. */
#ifndef FRONTEND_DSL_GROUP_INTERNAL_H
#define FRONTEND_DSL_GROUP_INTERNAL_H

#include "frontend_dsl/run_internal.h"

/* n members without states. Pushes its handle, which owns it. */
struct dsl_group *group_create(lua_State *L, uint32_t n);
struct dsl_group *group_get(lua_State *L, int index); /* raises if it is none */

/* The members that have not begun do, with the function at index fn: fn(branch, i). */
void group_begin(lua_State *L, struct dsl_group *group, int handle, int fn);

/* k, when as many have ended as `first` and `keeps_errors` say; maybe at once. k begins with
 * group_end_wait: the others are cancelled, and the lowest member that failed raises. */
int group_wait(lua_State *L, struct dsl_group *group, lua_KContext ctx, lua_KFunction k);
void group_end_wait(lua_State *L, struct dsl_group *group);

/* A list of what they returned; false: cancelled; an error object: failed. */
void group_push_results(lua_State *L, const struct dsl_group *group);
void group_release(struct dsl_group *group); /* all branches */
void group_cancel(struct dsl_group *group);

/* Methods (fork.c). */
int group_join(lua_State *L);
int group_run(lua_State *L);
void group_open_methods(lua_State *L);

#endif
