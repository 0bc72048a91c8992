#include "frontend_dsl/lua_text.h"

#include "base/numeric.h"
#include "frontend_dsl/sandbox_internal.h"

#include <string.h>

static void grow(lua_State *L, struct lua_text *text, size_t cap)
{
    sandbox_check_memory(L, cap);
    char *data = lua_newuserdatauv(L, cap, 0);
    memcpy(data, text->data, text->n);
    lua_replace(L, text->slot);
    text->data = data;
    text->cap = cap;
}

void lua_text_begin(lua_State *L, struct lua_text *text, size_t expected)
{
    lua_pushnil(L);
    text->slot = lua_gettop(L);
    text->data = text->small;
    text->cap = sizeof text->small;
    text->n = 0;
    if (expected > text->cap)
        grow(L, text, expected);
}

char *lua_text_extend(lua_State *L, struct lua_text *text, size_t n)
{
    if (n >= 16)
        sandbox_charge(L, n / 16);
    if (n > text->cap - text->n) {
        size_t needed;
        if (!size_add(text->n, n, &needed))
            needed = SIZE_MAX;
        sandbox_check_memory(L, needed);
        grow(L, text, max_size(needed, text->cap + text->cap / 2));
    }
    char *place = text->data + text->n;
    text->n += n;
    return place;
}

void lua_text_add(lua_State *L, struct lua_text *text, const char *bytes, size_t n)
{
    if (n > 0)
        memcpy(lua_text_extend(L, text, n), bytes, n);
}

void lua_text_fill(lua_State *L, struct lua_text *text, char byte, size_t n)
{
    if (n > 0)
        memset(lua_text_extend(L, text, n), byte, n);
}

void lua_text_push(lua_State *L, const struct lua_text *text)
{
    lua_pushlstring(L, text->data, text->n);
}
