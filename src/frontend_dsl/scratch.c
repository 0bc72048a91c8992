#include "frontend_dsl/scratch_internal.h"

#include "base/numeric.h"
#include "frontend_dsl/run_internal.h"

#include <string.h>

#define BUFFER "dsl.buffer"
#define TOKENS "dsl.tokens"
#define ARENA  "dsl.arena"

struct buffer *scratch_buffer(lua_State *L, size_t limit)
{
    struct buffer *buffer = lua_newuserdatauv(L, sizeof *buffer, 0);
    buffer_init(buffer, limit);
    luaL_setmetatable(L, BUFFER);
    return buffer;
}

struct token_list *scratch_tokens(lua_State *L, uint32_t limit)
{
    struct token_list *tokens = lua_newuserdatauv(L, sizeof *tokens, 0);
    token_list_init(tokens, limit);
    luaL_setmetatable(L, TOKENS);
    return tokens;
}

struct arena *scratch_arena(lua_State *L, size_t limit)
{
    struct arena **arena = lua_newuserdatauv(L, sizeof(struct arena *), 0);
    *arena = NULL;
    luaL_setmetatable(L, ARENA);
    *arena = arena_create(limit);
    if (!*arena)
        raise_memory(L);
    return *arena;
}

void *scratch_array(lua_State *L, size_t n, size_t size)
{
    size_t bytes;
    if (!size_mul(max_size(n, 1), size, &bytes))
        raise_memory(L);
    return memset(lua_newuserdatauv(L, bytes, 0), 0, bytes);
}

static int free_buffer(lua_State *L)
{
    buffer_deinit(lua_touserdata(L, 1));
    return 0;
}

static int free_tokens(lua_State *L)
{
    token_list_deinit(lua_touserdata(L, 1));
    return 0;
}

static int free_arena(lua_State *L)
{
    struct arena **arena = lua_touserdata(L, 1);
    if (*arena)
        arena_destroy(*arena);
    *arena = NULL;
    return 0;
}

void scratch_pop(lua_State *L)
{
    if (luaL_callmeta(L, -1, "__gc"))
        lua_pop(L, 1);
    lua_pop(L, 1);
}

static void open(lua_State *L, const char *name, lua_CFunction collect)
{
    (void)luaL_newmetatable(L, name);
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
}

void scratch_open(lua_State *L)
{
    open(L, BUFFER, free_buffer);
    open(L, TOKENS, free_tokens);
    open(L, ARENA, free_arena);
}
