/* The library `table`. Its functions are the engine's own: raw, so that no metamethod can lie about
 * a length, and charged for each element, as loops in C run without the count hook. */
#include "base/numeric.h"
#include "frontend_dsl/lua_text.h"
#include "frontend_dsl/sandbox_internal.h"

#include <lauxlib.h>
#include <limits.h>
#include <lualib.h>
#include <string.h>

static lua_Integer least(lua_Integer a, lua_Integer b)
{
    return a < b ? a : b;
}

/* A table argument as raw access sees it: its length. */
static lua_Integer check_table(lua_State *L, int arg)
{
    luaL_checktype(L, arg, LUA_TTABLE);
    sandbox_look_through(L, arg);
    return (lua_Integer)lua_rawlen(L, arg);
}

/* A table argument that is written to: views are refused. */
static lua_Integer check_writable(lua_State *L, int arg)
{
    luaL_checktype(L, arg, LUA_TTABLE);
    lua_pushvalue(L, arg);
    sandbox_look_through(L, lua_gettop(L));
    if (!lua_rawequal(L, arg, -1))
        luaL_error(L, "attempt to change a read-only value");
    lua_pop(L, 1);
    return (lua_Integer)lua_rawlen(L, arg);
}

static int table_insert(lua_State *L)
{
    const int n_args = lua_gettop(L);
    lua_Integer n = check_writable(L, 1), at = n + 1;
    if (n_args != 2 && n_args != 3)
        return luaL_error(L, "wrong number of arguments to 'insert'");
    if (n_args == 3) {
        at = luaL_checkinteger(L, 2);
        luaL_argcheck(L, at >= 1 && at <= n + 1, 2, "position out of bounds");
    }
    sandbox_charge(L, 1);
    for (lua_Integer i = n; i >= at; i--) {
        sandbox_charge(L, 1);
        lua_rawgeti(L, 1, i);
        lua_rawseti(L, 1, i + 1);
    }
    lua_pushvalue(L, n_args);
    lua_rawseti(L, 1, at);
    return 0;
}

static int table_remove(lua_State *L)
{
    lua_Integer n = check_writable(L, 1), at = n;
    if (lua_gettop(L) > 1) {
        at = luaL_checkinteger(L, 2);
        luaL_argcheck(L, at == n || (at >= 1 && at <= n + 1), 2, "position out of bounds");
    }
    sandbox_charge(L, 1);
    lua_rawgeti(L, 1, at);
    for (lua_Integer i = at; i < n; i++) {
        sandbox_charge(L, 1);
        lua_rawgeti(L, 1, i + 1);
        lua_rawseti(L, 1, i);
    }
    lua_pushnil(L);
    lua_rawseti(L, 1, at > n ? at : n);
    return 1;
}

/* table.move(from, first, last, to [, target]) */
static int table_move(lua_State *L)
{
    lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3),
                to = luaL_checkinteger(L, 4);
    const int target = lua_isnoneornil(L, 5) ? 1 : 5;
    lua_pushvalue(L, target); /* what is given back */
    const int result = lua_gettop(L);
    check_writable(L, target);
    check_table(L, 1);
    if (last >= first) {
        luaL_argcheck(L, first > 0 || last < LUA_MAXINTEGER + first, 3,
                      "too many elements to move");
        lua_Integer n = last - first + 1;
        luaL_argcheck(L, to <= LUA_MAXINTEGER - n + 1, 4, "destination wrap around");
        /* Backwards if what is written is read later. */
        bool is_backwards = to > first && to <= last && lua_rawequal(L, 1, target);
        for (lua_Integer k = 0; k < n; k++) {
            lua_Integer i = is_backwards ? n - 1 - k : k;
            sandbox_charge(L, 1);
            lua_rawgeti(L, 1, first + i);
            lua_rawseti(L, target, to + i);
        }
    }
    lua_settop(L, result);
    return 1;
}

static int table_concat(lua_State *L)
{
    lua_Integer n = check_table(L, 1);
    size_t n_between;
    const char *between = luaL_optlstring(L, 2, "", &n_between);
    lua_Integer first = luaL_optinteger(L, 3, 1), last = luaL_optinteger(L, 4, n);
    lua_settop(L, 4);
    struct lua_text text;
    lua_text_begin(L, &text, 0);
    for (lua_Integer i = first; i <= last; i++) {
        size_t n_item;
        sandbox_charge(L, 1);
        lua_rawgeti(L, 1, i);
        const char *item = lua_tolstring(L, -1, &n_item);
        if (!item)
            return luaL_error(L, "invalid value (at index %I) in table for 'concat'",
                              (LUAI_UACINT)i);
        lua_text_add(L, &text, item, n_item);
        lua_pop(L, 1);
        if (i < last)
            lua_text_add(L, &text, between, n_between);
        if (i == LUA_MAXINTEGER)
            break;
    }
    lua_text_push(L, &text);
    return 1;
}

static int table_unpack(lua_State *L)
{
    lua_Integer length = check_table(L, 1);
    lua_Integer first = luaL_optinteger(L, 2, 1), last = luaL_optinteger(L, 3, length);
    if (first > last)
        return 0;
    uint64_t n = (uint64_t)last - (uint64_t)first;
    if (n >= INT_MAX || !lua_checkstack(L, (int)(n + 1)))
        return luaL_error(L, "too many results to unpack");
    sandbox_charge(L, n + 1);
    for (uint64_t i = 0; i <= n; i++)
        lua_rawgeti(L, 1, first + (lua_Integer)i);
    return (int)(n + 1);
}

static int table_pack(lua_State *L)
{
    int n = lua_gettop(L);
    sandbox_charge(L, (uint64_t)n + 1);
    lua_createtable(L, n, 1);
    lua_insert(L, 1);
    for (int i = n; i >= 1; i--)
        lua_rawseti(L, 1, i);
    lua_pushinteger(L, n);
    lua_setfield(L, 1, "n");
    return 1;
}

/* ---- sort ---- */

/* One pass: runs of `width` of the table at `from`, merged in pairs, go to the table at `to`. */
static void merge_pass(lua_State *L, int from, int to, lua_Integer n, lua_Integer width,
                       bool (*less)(lua_State *L, int a, int b, int context), int context)
{
    for (lua_Integer begin = 1; begin <= n; begin += 2 * width) {
        lua_Integer i = begin, middle = least(begin + width, n + 1), j = middle,
                    end = least(begin + 2 * width, n + 1);
        for (lua_Integer out = begin; out < end; out++) {
            sandbox_charge(L, 1);
            bool takes_right = i >= middle;
            if (i < middle && j < end) {
                lua_rawgeti(L, from, i);
                lua_rawgeti(L, from, j);
                const int top = lua_gettop(L);
                takes_right = less(L, top, top - 1, context);
                lua_pop(L, 2);
            }
            lua_rawgeti(L, from, takes_right ? j++ : i++);
            lua_rawseti(L, to, out);
        }
    }
}

static void copy_list(lua_State *L, int from, int to, lua_Integer n)
{
    for (lua_Integer i = 1; i <= n; i++) {
        sandbox_charge(L, 1);
        lua_rawgeti(L, from, i);
        lua_rawseti(L, to, i);
    }
}

void dsl_table_sort(lua_State *L, int idx, lua_Integer n,
                    bool (*less)(lua_State *L, int a, int b, int context), int context)
{
    if (n < 2)
        return;
    luaL_checkstack(L, 8, NULL);
    idx = lua_absindex(L, idx);
    int from = lua_gettop(L) + 1, to = from + 1;
    lua_createtable(L, (int)least(n, INT_MAX), 0);
    lua_createtable(L, (int)least(n, INT_MAX), 0);
    copy_list(L, idx, from, n);
    for (lua_Integer width = 1; width < n; width *= 2) {
        merge_pass(L, from, to, n, width, less, context);
        int other = from;
        from = to;
        to = other;
    }
    copy_list(L, from, idx, n);
    lua_settop(L, (from < to ? from : to) - 1);
}

static bool less_by_operator(lua_State *L, int a, int b, int context)
{
    (void)context;
    if (lua_type(L, a) == LUA_TSTRING && lua_type(L, b) == LUA_TSTRING)
        sandbox_charge(L, min_size(lua_rawlen(L, a), lua_rawlen(L, b)) / 16);
    return lua_compare(L, a, b, LUA_OPLT);
}

static bool less_by_function(lua_State *L, int a, int b, int function)
{
    lua_pushvalue(L, function);
    lua_pushvalue(L, a);
    lua_pushvalue(L, b);
    lua_call(L, 2, 1);
    bool is_less = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return is_less;
}

static int table_sort(lua_State *L)
{
    lua_Integer n = check_writable(L, 1);
    luaL_argcheck(L, n < INT_MAX, 1, "array too big");
    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    sandbox_charge(L, 1);
    dsl_table_sort(L, 1, n, lua_isnil(L, 2) ? less_by_operator : less_by_function, 2);
    return 0;
}

void dsl_table_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"concat", table_concat}, {"insert", table_insert},
        {"move", table_move},     {"pack", table_pack},
        {"remove", table_remove}, {"sort", table_sort},
        {"unpack", table_unpack}, {NULL, NULL},
    };
    luaL_newlib(L, functions);
}
