/* Working memory of natives, which an error may leave at any point: it belongs to Lua, whose
 * collector gives it back. Each function pushes its userdata. Raise memory_limit. */
#ifndef FRONTEND_DSL_SCRATCH_INTERNAL_H
#define FRONTEND_DSL_SCRATCH_INTERNAL_H

#include "base/arena.h"
#include "base/buffer.h"
#include "text/tokenizer.h"

#include <lua.h>

struct buffer *scratch_buffer(lua_State *L, size_t limit);
struct token_list *scratch_tokens(lua_State *L, uint32_t limit);
struct arena *scratch_arena(lua_State *L, size_t limit);
/* n items of `size` bytes, zeroed; counted as Lua's memory. */
void *scratch_array(lua_State *L, size_t n, size_t size);

/* What lies on top of the stack is done with: pops it, and gives its memory back at once. */
void scratch_pop(lua_State *L);

void scratch_open(lua_State *L); /* once per Lua state */

#endif
