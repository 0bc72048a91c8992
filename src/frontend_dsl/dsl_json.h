/* Between Lua values and JSON, and the global `json`.
 *
 *     Lua                         JSON
 *     json.null                   null         (nil: null as a whole result, absent in a table)
 *     3, 3.5, 3.0                 3, 3.5, 3.0  (which an int of a type spec takes as 3)
 *     {} , {1..n}                 []
 *     json.object{}               {}           (what decode makes of {}, so that it comes back)
 *     string keys                 object, its keys sorted
 *
 * NaN, infinity, holes, mixed keys, functions, states, cycles, texts that are no UTF-8 and more
 * than LIMIT_JSON_DEPTH levels have no JSON. */
#ifndef FRONTEND_DSL_DSL_JSON_H
#define FRONTEND_DSL_DSL_JSON_H

#include "frontend_dsl/dsl_error.h"
#include "serverd/status.h"

#include <jansson.h>
#include <lua.h>
#include <stddef.h>

/* The value at idx as JSON, a new reference; at most about max_bytes of text. Does not raise. On
 * failure err has the code given (bad_return_value, invalid_option, ..) and says where in the
 * value: "tags[3].year is a function". */
serverd_status dsl_json_read(lua_State *L, int idx, size_t max_bytes, const char *code,
                             json_t **out, struct dsl_error *err);

/* The same inside a native: raises; the reference belongs to a userdata that is pushed, so nothing
 * is lost when something else raises. */
json_t *dsl_json_check(lua_State *L, int idx, size_t max_bytes, const char *code);

/* Pushes a value; raises on memory. null is json.null. */
void dsl_json_push(lua_State *L, const json_t *value);

/* The same as a view that cannot be changed, all the way down. sandbox_look_through gives the table
 * below, whose own members are views. */
void dsl_json_push_readonly(lua_State *L, const json_t *value);

/* Pushes a userdata that gives the reference back when it is collected. Takes `value` over, also
 * when it raises. */
void dsl_json_guard(lua_State *L, json_t *value);

/* Text without spaces, keys in the order that they have, the shortest numbers that read back to the
 * same; free(). NULL: no memory. */
char *dsl_json_text(const json_t *value, size_t *n);

/* Sets the global `json`: encode, decode, null, array, object. For sandbox_create. */
void dsl_json_open(lua_State *L);

#endif
