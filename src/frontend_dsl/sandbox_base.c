/* The globals: a table of its own with what is allowed, so that nothing else is reachable.
 * Functions of Lua's own base library where they do a bounded amount of work; else the engine's. */
#include "base/hash.h"
#include "base/numeric.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/sandbox_internal.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

/* ---- errors ---- */

/* What pcall gives back lies above the place where it stood. The same after a yield. */
static int finish_pcall(lua_State *L, int status, lua_KContext ctx)
{
    if (status == LUA_OK || status == LUA_YIELD)
        return lua_gettop(L) - (int)ctx;
    sandbox_check_caught(L, status);
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
}

static int base_pcall(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_pushboolean(L, 1);
    lua_insert(L, 1);
    int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, finish_pcall);
    return finish_pcall(L, status, 0);
}

static int finish_handler(lua_State *L, int status, lua_KContext ctx)
{
    (void)ctx;
    if (status != LUA_OK && status != LUA_YIELD)
        sandbox_check_caught(L, status); /* an error of the handler is what xpcall gives then */
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
}

/* f, handler, true, results or the error. The handler runs when the stack is unwound, which nobody
 * can tell without the debug library, so that it is under the hook and may wait. */
static int finish_xpcall(lua_State *L, int status, lua_KContext ctx)
{
    if (status == LUA_OK || status == LUA_YIELD)
        return lua_gettop(L) - (int)ctx;
    sandbox_check_caught(L, status);
    lua_pushvalue(L, 2);
    lua_insert(L, -2);
    status = lua_pcallk(L, 1, 1, 0, 0, finish_handler);
    return finish_handler(L, status, 0);
}

static int base_xpcall(lua_State *L)
{
    int n = lua_gettop(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushboolean(L, 1);
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2); /* f, handler, true, f, arguments */
    int status = lua_pcallk(L, n - 2, LUA_MULTRET, 0, 2, finish_xpcall);
    return finish_xpcall(L, status, 2);
}

/* ---- texts of values ---- */

const char *sandbox_tostring(lua_State *L, int idx, size_t *n)
{
    idx = lua_absindex(L, idx);
    if (luaL_callmeta(L, idx, "__tostring")) {
        if (!lua_isstring(L, -1))
            luaL_error(L, "'__tostring' must return a string");
        return lua_tolstring(L, -1, n);
    }
    switch (lua_type(L, idx)) {
    case LUA_TNIL:
        lua_pushliteral(L, "nil");
        break;
    case LUA_TBOOLEAN:
        lua_pushstring(L, lua_toboolean(L, idx) ? "true" : "false");
        break;
    case LUA_TNUMBER:
        lua_pushvalue(L, idx);
        break;
    case LUA_TSTRING:
        lua_pushvalue(L, idx);
        break;
    case LUA_TLIGHTUSERDATA:
        lua_pushstring(L, lua_touserdata(L, idx) ? "userdata" : "null");
        break;
    default: /* never an address: texts are the same in every run */
        if (luaL_getmetafield(L, idx, "__name") == LUA_TSTRING)
            break;
        lua_settop(L, lua_gettop(L) - (luaL_getmetafield(L, idx, "__name") != LUA_TNIL));
        lua_pushstring(L, luaL_typename(L, idx));
    }
    return lua_tolstring(L, -1, n);
}

static int base_tostring(lua_State *L)
{
    luaL_checkany(L, 1);
    sandbox_tostring(L, 1, NULL);
    return 1;
}

static int base_print(lua_State *L)
{
    const struct sandbox *sandbox = sandbox_of(L);
    int n = lua_gettop(L);
    if (n == 0)
        lua_pushliteral(L, "");
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            lua_pushliteral(L, "\t");
        luaL_checkstack(L, 3, NULL);
        sandbox_tostring(L, i, NULL);
        if (i > 1)
            lua_concat(L, 3);
    }
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    sandbox_charge(L, 1 + length / 16);
    if (sandbox->hooks.print)
        sandbox->hooks.print(sandbox->hooks.context, L, text, length);
    return 0;
}

/* ---- functions of the library whose work grows with their texts ---- */

static int charged(lua_State *L)
{
    size_t bytes = 0;
    for (int i = lua_gettop(L); i > 0; i--)
        if (lua_type(L, i) == LUA_TSTRING)
            bytes += lua_rawlen(L, i);
    sandbox_charge(L, 1 + bytes / 16);
    return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

void sandbox_push_charged(lua_State *L, lua_CFunction fn)
{
    lua_pushcfunction(L, fn);
    lua_pushcclosure(L, charged, 1);
}

/* ---- tables ---- */

static int base_setmetatable(lua_State *L)
{
    /* Finalizers run where no hook looks; for weak tables see sandbox.c. */
    static const char *const refused[] = {"__gc", "__mode"};
    int type = lua_type(L, 2);
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argexpected(L, type == LUA_TNIL || type == LUA_TTABLE, 2, "nil or table");
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL)
        return luaL_error(L, "cannot change a protected metatable");
    for (size_t i = 0; type == LUA_TTABLE && i < sizeof refused / sizeof *refused; i++) {
        lua_pushstring(L, refused[i]);
        if (lua_rawget(L, 2) != LUA_TNIL)
            return luaL_error(L, "a metatable cannot have %s here", refused[i]);
        lua_pop(L, 1);
    }
    lua_settop(L, 2);
    if (type == LUA_TTABLE)
        sandbox_watch_metatable(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

static int base_rawget(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checkany(L, 2);
    lua_settop(L, 2);
    sandbox_look_through(L, 1);
    lua_rawget(L, 1);
    return 1;
}

static int base_rawlen(lua_State *L)
{
    luaL_argexpected(L, lua_type(L, 1) == LUA_TTABLE || lua_type(L, 1) == LUA_TSTRING, 1,
                     "table or string");
    lua_settop(L, 1);
    sandbox_look_through(L, 1);
    lua_pushinteger(L, (lua_Integer)lua_rawlen(L, 1));
    return 1;
}

static int base_rawset(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checkany(L, 2);
    luaL_checkany(L, 3);
    lua_settop(L, 3);
    lua_pushvalue(L, 1);
    sandbox_look_through(L, 4);
    if (!lua_rawequal(L, 1, 4))
        return luaL_error(L, "attempt to change a read-only value");
    lua_settop(L, 3);
    lua_rawset(L, 1);
    return 1;
}

/* ---- the order of keys: 1..#t, then numbers, texts, booleans, each by size ---- */

static int rank_of(lua_State *L, int idx)
{
    switch (lua_type(L, idx)) {
    case LUA_TNUMBER:
        return 0;
    case LUA_TSTRING:
        return 1;
    case LUA_TBOOLEAN:
        return 2;
    default: /* there is only an address to sort it by, which differs from run to run */
        return luaL_error(L, "the order of keys that are a %s is not defined",
                          luaL_typename(L, idx));
    }
}

static bool key_less(lua_State *L, int a, int b, int context)
{
    (void)context;
    int rank_a = rank_of(L, a), rank_b = rank_of(L, b);
    if (rank_a != rank_b)
        return rank_a < rank_b;
    if (rank_a == 0)
        return lua_compare(L, a, b, LUA_OPLT);
    if (rank_a == 2)
        return lua_toboolean(L, a) < lua_toboolean(L, b);
    size_t n_a, n_b;
    const char *text_a = lua_tolstring(L, a, &n_a), *text_b = lua_tolstring(L, b, &n_b);
    int order = memcmp(text_a, text_b, min_size(n_a, n_b));
    return order != 0 ? order < 0 : n_a < n_b;
}

/* The key at idx is one of 1..n. */
static bool is_in_list(lua_State *L, int idx, lua_Integer n)
{
    if (!lua_isinteger(L, idx))
        return false;
    lua_Integer key = lua_tointeger(L, idx);
    return key >= 1 && key <= n;
}

/* Pushes the keys of the table at idx that are not in its list, sorted, as a list; returns how
 * many. */
static lua_Integer push_other_keys(lua_State *L, int idx, lua_Integer n_list)
{
    lua_Integer n = 0;
    lua_newtable(L);
    int keys = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, idx)) {
        lua_pop(L, 1);
        sandbox_charge(L, 1);
        if (is_in_list(L, -1, n_list))
            continue;
        rank_of(L, lua_gettop(L));
        lua_pushvalue(L, -1);
        lua_rawseti(L, keys, ++n);
    }
    dsl_table_sort(L, keys, n, key_less, 0);
    return n;
}

/* Upvalues: the table, its length at the start, the other keys, how many, how far it has come. */
static int pairs_next(lua_State *L)
{
    enum { TABLE = 1, N_LIST, KEYS, N_KEYS, PLACE };
    lua_Integer n_list = lua_tointeger(L, lua_upvalueindex(N_LIST));
    lua_Integer n_keys = lua_tointeger(L, lua_upvalueindex(N_KEYS));
    lua_Integer place = lua_tointeger(L, lua_upvalueindex(PLACE));
    lua_settop(L, 0);
    while (place < n_list + n_keys) {
        place++;
        sandbox_charge(L, 1);
        if (place <= n_list)
            lua_pushinteger(L, place);
        else
            lua_rawgeti(L, lua_upvalueindex(KEYS), place - n_list);
        lua_pushvalue(L, 1);
        if (lua_rawget(L, lua_upvalueindex(TABLE)) != LUA_TNIL)
            break; /* else it was removed on the way, or is a hole */
        lua_settop(L, 0);
    }
    lua_pushinteger(L, place);
    lua_replace(L, lua_upvalueindex(PLACE));
    if (lua_gettop(L) == 0)
        lua_pushnil(L);
    return lua_gettop(L);
}

static int finish_pairs(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    (void)ctx;
    return 3;
}

static int base_pairs(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    if (luaL_getmetafield(L, 1, "__pairs") != LUA_TNIL) {
        lua_pushvalue(L, 1);
        lua_callk(L, 1, 3, 0, finish_pairs);
        return 3;
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_pushvalue(L, 1);
    sandbox_look_through(L, 2);
    lua_Integer n_list = (lua_Integer)lua_rawlen(L, 2);
    lua_pushinteger(L, n_list);
    lua_Integer n_keys = push_other_keys(L, 2, n_list);
    lua_pushinteger(L, n_keys);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, pairs_next, 5);
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}

/* Pushes the least of the keys that are not in the list and, if `after` is not 0, behind the key
 * there; false: there is none. */
static bool push_least_key(lua_State *L, int idx, lua_Integer n_list, int after)
{
    bool has = false;
    lua_pushnil(L); /* the least so far */
    int least = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, idx)) {
        lua_pop(L, 1);
        sandbox_charge(L, 1);
        int key = lua_gettop(L);
        if (is_in_list(L, key, n_list))
            continue;
        rank_of(L, key);
        if ((after == 0 || key_less(L, after, key, 0)) && (!has || key_less(L, key, least, 0))) {
            lua_pushvalue(L, key);
            lua_replace(L, least);
            has = true;
        }
    }
    return has;
}

/* Walks the whole table for a key that is not in its list: for steps of their own, and to see
 * whether a table is empty. */
static int base_next(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    sandbox_look_through(L, 1);
    lua_Integer n_list = (lua_Integer)lua_rawlen(L, 1);
    bool is_listed = is_in_list(L, 2, n_list);
    if (lua_isnil(L, 2) || is_listed) {
        lua_Integer i = is_listed ? lua_tointeger(L, 2) + 1 : 1;
        for (; i <= n_list; i++) {
            sandbox_charge(L, 1);
            lua_pushinteger(L, i);
            if (lua_rawgeti(L, 1, i) != LUA_TNIL)
                return 2;
            lua_pop(L, 2);
        }
    }
    bool from_start = lua_isnil(L, 2) || is_listed;
    if (!from_start)
        rank_of(L, 2);
    if (!push_least_key(L, 1, n_list, from_start ? 0 : 2)) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushvalue(L, -1);
    lua_rawget(L, 1);
    return 2;
}

/* ---- random numbers ---- */

static uint64_t random_bits(lua_State *L)
{
    struct sandbox *sandbox = sandbox_of(L);
    if (sandbox->hooks.random)
        return sandbox->hooks.random(sandbox->hooks.context, L);
    return hash_mix(sandbox->random++);
}

/* math.random(), (n), (m, n) as Lua has them; (0) gives all 64 bits. */
static int math_random(lua_State *L)
{
    lua_Integer low = 1, high;
    sandbox_charge(L, 1);
    switch (lua_gettop(L)) {
    case 0:
        lua_pushnumber(L, (double)(random_bits(L) >> 11) * 0x1p-53);
        return 1;
    case 1:
        high = luaL_checkinteger(L, 1);
        if (high == 0) {
            lua_pushinteger(L, (lua_Integer)random_bits(L));
            return 1;
        }
        break;
    case 2:
        low = luaL_checkinteger(L, 1);
        high = luaL_checkinteger(L, 2);
        break;
    default:
        return luaL_error(L, "wrong number of arguments");
    }
    luaL_argcheck(L, low <= high, lua_gettop(L), "interval is empty");
    uint64_t span = (uint64_t)high - (uint64_t)low; /* one less than there are numbers */
    uint64_t bits = random_bits(L);
    if (span != UINT64_MAX) {
        /* Without the numbers at the end that would favour some; at most every other is dropped. */
        uint64_t n = span + 1, rest = (UINT64_MAX % n + 1) % n;
        while (bits > UINT64_MAX - rest) {
            sandbox_charge(L, 1);
            bits = random_bits(L);
        }
        bits %= n;
    }
    lua_pushinteger(L, (lua_Integer)((uint64_t)low + bits));
    return 1;
}

/* ---- the table of globals ---- */

/* Copies a field of the table on top into the one below. */
static void copy_field(lua_State *L, const char *name)
{
    lua_getfield(L, -1, name);
    lua_setfield(L, -3, name);
}

static void open_stock_base(lua_State *L)
{
    static const char *const kept[] = {"assert",   "error",  "getmetatable", "ipairs",
                                       "rawequal", "select", "type"};
    luaopen_base(L); /* fills the table of globals that is there now, which is dropped then */
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        copy_field(L, kept[i]);
    lua_getfield(L, -1, "tonumber");
    sandbox_push_charged(L, lua_tocfunction(L, -1));
    lua_setfield(L, -4, "tonumber");
    lua_pop(L, 2);
}

static void open_math(lua_State *L)
{
    luaopen_math(L);
    lua_pushnil(L);
    lua_setfield(L, -2, "randomseed");
    lua_pushcfunction(L, math_random);
    lua_setfield(L, -2, "random");
    lua_setfield(L, -2, "math");
}

static void open_utf8(lua_State *L)
{
    static const char *const walking[] = {"len", "offset"};
    luaopen_utf8(L); /* the others are bounded by the stack */
    for (size_t i = 0; i < sizeof walking / sizeof *walking; i++) {
        lua_getfield(L, -1, walking[i]);
        sandbox_push_charged(L, lua_tocfunction(L, -1));
        lua_setfield(L, -3, walking[i]);
        lua_pop(L, 1);
    }
    lua_setfield(L, -2, "utf8");
}

void sandbox_open_base(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"next", base_next},
        {"pairs", base_pairs},
        {"pcall", base_pcall},
        {"print", base_print},
        {"rawget", base_rawget},
        {"rawlen", base_rawlen},
        {"rawset", base_rawset},
        {"setmetatable", base_setmetatable},
        {"tostring", base_tostring},
        {"xpcall", base_xpcall},
        {NULL, NULL},
    };
    lua_createtable(L, 0, 48);
    open_stock_base(L);
    luaL_setfuncs(L, functions, 0);
    open_math(L);
    open_utf8(L);
    dsl_string_open(L);
    lua_setfield(L, -2, "string");
    dsl_table_open(L);
    lua_setfield(L, -2, "table");
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
}
