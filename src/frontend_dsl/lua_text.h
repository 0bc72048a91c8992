/* A text that grows, for natives: its memory is Lua's, so that an error loses nothing, the cap
 * holds and Lua collects garbage before it gives up. It occupies one place of the Lua stack, on top
 * when it begins. Every 16 bytes are charged as an instruction. */
#ifndef FRONTEND_DSL_LUA_TEXT_H
#define FRONTEND_DSL_LUA_TEXT_H

#include <lua.h>
#include <stddef.h>

struct lua_text {
    int slot;   /* of the stack: its memory, or nil */
    char *data; /* `small`, or that memory */
    size_t n, cap;
    char small[256];
};

/* `expected` bytes, if they are known. */
void lua_text_begin(lua_State *L, struct lua_text *text, size_t expected);
void lua_text_add(lua_State *L, struct lua_text *text, const char *bytes, size_t n);
void lua_text_fill(lua_State *L, struct lua_text *text, char byte, size_t n);
/* Where n more bytes go, which count as added; valid until the next addition. */
char *lua_text_extend(lua_State *L, struct lua_text *text, size_t n);
/* Pushes it as a string. */
void lua_text_push(lua_State *L, const struct lua_text *text);

#endif
