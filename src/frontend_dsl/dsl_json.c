#include "frontend_dsl/dsl_json.h"

#include "base/buffer.h"
#include "base/json_scan.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "frontend_dsl/sandbox_internal.h"

#include <lauxlib.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Their addresses are keys of the registry, and of views, that no program can name. */
static const char view_key = 0, view_meta = 0, array_meta = 0, object_meta = 0, box_meta = 0;

/* ---- read-only views: tables with what they show under view_key ---- */

static bool has_meta(lua_State *L, int idx, const void *key)
{
    if (!lua_getmetatable(L, idx))
        return false;
    lua_rawgetp(L, LUA_REGISTRYINDEX, key);
    bool has = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return has;
}

void sandbox_look_through(lua_State *L, int idx)
{
    idx = lua_absindex(L, idx);
    if (lua_type(L, idx) != LUA_TTABLE || !has_meta(L, idx, &view_meta))
        return;
    lua_rawgetp(L, idx, &view_key);
    lua_replace(L, idx);
}

static int view_index(lua_State *L)
{
    lua_settop(L, 2);
    lua_rawgetp(L, 1, &view_key);
    lua_pushvalue(L, 2);
    lua_rawget(L, 3);
    return 1;
}

static int view_newindex(lua_State *L)
{
    return luaL_error(L, "attempt to change a read-only value");
}

static int view_len(lua_State *L)
{
    lua_rawgetp(L, 1, &view_key);
    lua_pushinteger(L, (lua_Integer)lua_rawlen(L, -1));
    return 1;
}

/* The table on top becomes a view of itself. */
static void make_view(lua_State *L)
{
    lua_createtable(L, 0, 1);
    lua_insert(L, -2);
    lua_rawsetp(L, -2, &view_key);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &view_meta);
    lua_setmetatable(L, -2);
}

/* ---- Lua to JSON ---- */

/* Where a value lies in another one, up to the outermost: in frames of the reader. */
struct place {
    const struct place *outer;
    const char *key; /* NULL: of a list */
    lua_Integer index;
};

struct reader {
    lua_State *L;
    const char *code;
    struct dsl_error *err;
    size_t bytes, max_bytes; /* of the text, about */
    const struct place *place;
};

enum { PLACE_BYTES = 128 };

/* Made only for errors; a long one is cut. Returns its length. */
static size_t place_text(const struct place *place, char text[PLACE_BYTES])
{
    if (!place)
        return 0;
    size_t n = place_text(place->outer, text);
    if (!place->key)
        (void)snprintf(text + n, PLACE_BYTES - n, "[%lld]", (long long)place->index);
    else
        (void)snprintf(text + n, PLACE_BYTES - n, "%s%s", n > 0 ? "." : "", place->key);
    n = utf8_valid_run(text, strlen(text));
    text[n] = '\0';
    return n;
}

static json_t *refuse(struct reader *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static json_t *refuse(struct reader *r, const char *format, ...)
{
    char text[256], place[PLACE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const size_t n = place_text(r->place, place);
    dsl_error_set(r->err, r->code, "%s %s", n > 0 ? place : "the value", text);
    return NULL;
}

static json_t *no_memory(struct reader *r)
{
    return refuse(r, "finds no memory");
}

static bool count(struct reader *r, size_t bytes)
{
    r->bytes += bytes;
    if (r->bytes <= r->max_bytes)
        return true;
    refuse(r, "is too large: at most %zu bytes are allowed", r->max_bytes);
    return false;
}

static json_t *read_value(struct reader *r, int idx, unsigned depth);

static json_t *read_string(struct reader *r, int idx)
{
    size_t n;
    const char *text = lua_tolstring(r->L, idx, &n);
    if (!count(r, n + 3))
        return NULL;
    if (utf8_valid_run(text, n) != n)
        return refuse(r, "is a text that is no UTF-8");
    json_t *value = json_stringn_nocheck(text, n);
    return value ? value : no_memory(r);
}

static json_t *read_list(struct reader *r, int idx, lua_Integer n, unsigned depth)
{
    json_t *list = json_array();
    struct place place = {.outer = r->place};
    if (!list)
        return no_memory(r);
    r->place = &place;
    for (lua_Integer i = 1; i <= n; i++) {
        place.index = i;
        lua_rawgeti(r->L, idx, i);
        json_t *item = read_value(r, lua_gettop(r->L), depth + 1);
        lua_pop(r->L, 1);
        if (!item || json_array_append_new(list, item) != 0) {
            json_decref(list);
            list = NULL;
            if (item)
                no_memory(r);
            break;
        }
    }
    r->place = place.outer;
    return list;
}

struct member {
    const char *key; /* the table's */
    json_t *value;
};

static int compare_members(const void *a, const void *b)
{
    return strcmp(((const struct member *)a)->key, ((const struct member *)b)->key);
}

/* The member whose key and value are on top of the stack. */
static bool read_member(struct reader *r, unsigned depth, struct member *out)
{
    size_t n;
    const char *key = lua_tolstring(r->L, -2, &n);
    if (strlen(key) != n || utf8_valid_run(key, n) != n) {
        refuse(r, "has a key that is no UTF-8, or has a zero byte");
        return false;
    }
    const struct place place = {.outer = r->place, .key = key};
    r->place = &place;
    json_t *value = count(r, n + 4) ? read_value(r, lua_gettop(r->L), depth + 1) : NULL;
    r->place = place.outer;
    *out = (struct member){.key = key, .value = value};
    return value != NULL;
}

/* A table with n keys, all of them texts. They are sorted, so that the same value gives the same
 * text; Lua's order differs from run to run. */
static json_t *read_members(struct reader *r, int idx, size_t n, unsigned depth)
{
    lua_State *L = r->L;
    struct member *members = calloc(n + 1, sizeof *members);
    json_t *object = json_object();
    bool is_fine = members && object;
    size_t n_read = 0;
    if (!is_fine)
        no_memory(r);
    lua_pushnil(L);
    while (is_fine && lua_next(L, idx)) {
        is_fine = read_member(r, depth, &members[n_read]);
        n_read += is_fine;
        lua_pop(L, 1);
    }
    if (is_fine)
        qsort(members, n_read, sizeof *members, compare_members);
    for (size_t i = 0; i < n_read; i++) {
        if (is_fine)
            is_fine = json_object_set_nocheck(object, members[i].key, members[i].value) == 0 ||
                      no_memory(r) != NULL;
        json_decref(members[i].value);
    }
    free(members);
    if (!is_fine) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static json_t *read_table(struct reader *r, int idx, unsigned depth)
{
    lua_State *L = r->L;
    if (depth >= LIMIT_JSON_DEPTH)
        return refuse(r, "is nested more than %u levels deep, or contains itself",
                      LIMIT_JSON_DEPTH);
    const bool is_array = has_meta(L, idx, &array_meta), is_object = has_meta(L, idx, &object_meta);
    const lua_Integer n = (lua_Integer)lua_rawlen(L, idx);
    size_t n_listed = 0, n_texts = 0, n_others = 0;
    lua_pushnil(L);
    while (lua_next(L, idx)) {
        lua_pop(L, 1);
        if (lua_isinteger(L, -1) && lua_tointeger(L, -1) >= 1 && lua_tointeger(L, -1) <= n)
            n_listed++;
        else if (lua_type(L, -1) == LUA_TSTRING)
            n_texts++;
        else
            n_others++;
        if (!count(r, 1)) {
            lua_pop(L, 1);
            return NULL;
        }
    }
    if (n_others > 0 || (n_listed > 0 && n_texts > 0) || n_listed != (size_t)n)
        return refuse(r, "is a table that is neither a list 1..n nor has texts as keys");
    if (is_array ? n_texts > 0 : is_object && n_listed > 0)
        return refuse(r, "is a table that was marked as the other kind");
    if (n_texts > 0 || (is_object && n_listed == 0))
        return read_members(r, idx, n_texts, depth);
    return read_list(r, idx, n, depth);
}

static json_t *read_number(struct reader *r, int idx)
{
    json_t *value;
    if (lua_isinteger(r->L, idx)) {
        value = json_integer(lua_tointeger(r->L, idx));
    } else {
        double number = lua_tonumber(r->L, idx);
        if (!isfinite(number))
            return refuse(r, "is %s", isnan(number) ? "not a number" : "infinite");
        value = json_real(number);
    }
    return value ? value : no_memory(r);
}

static json_t *read_value(struct reader *r, int idx, unsigned depth)
{
    lua_State *L = r->L;
    if (!count(r, 1))
        return NULL;
    switch (lua_type(L, idx)) {
    case LUA_TNIL:
        return json_null();
    case LUA_TBOOLEAN:
        return json_boolean(lua_toboolean(L, idx));
    case LUA_TNUMBER:
        return read_number(r, idx);
    case LUA_TSTRING:
        return read_string(r, idx);
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, idx) == NULL)
            return json_null();
        break;
    case LUA_TTABLE: {
        if (!lua_checkstack(L, 8))
            return no_memory(r);
        lua_pushvalue(L, idx);
        const int top = lua_gettop(L);
        sandbox_look_through(L, top);
        json_t *value = read_table(r, top, depth);
        lua_settop(L, top - 1);
        return value;
    }
    default:
        break;
    }
    return refuse(r, "is a %s", lua_typename(L, lua_type(L, idx)));
}

serverd_status dsl_json_read(lua_State *L, int idx, size_t max_bytes, const char *code,
                             json_t **out, struct dsl_error *err)
{
    struct reader r = {.L = L, .code = code, .err = err, .max_bytes = max_bytes};
    json_t *value = read_value(&r, lua_absindex(L, idx), 0);
    sandbox_note_work(L, r.bytes / 16);
    if (!value)
        return SERVERD_INVALID;
    *out = value;
    return SERVERD_OK;
}

/* ---- references that Lua holds ---- */

struct box {
    json_t *value;
    size_t bytes; /* that are counted as the state's */
};

/* About what a value takes in jansson's memory. Depth is bounded by what made it. */
static size_t weight_of(const json_t *value)
{
    size_t bytes = 40, i;
    const char *key;
    json_t *item;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        bytes = 320; /* its first buckets */
        json_object_foreach((json_t *)value, key, item)
        {
            bytes += 128 + strlen(key) + weight_of(item);
        }
        break;
    case JSON_ARRAY:
        bytes = 128;
        json_array_foreach(value, i, item)
        {
            bytes += 16 + weight_of(item);
        }
        break;
    case JSON_STRING:
        bytes = 64 + json_string_length(value);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
    case JSON_NULL:
        bytes = 0; /* there is one of each */
        break;
    default:
        break;
    }
    return bytes;
}

static void empty_box(lua_State *L, struct box *box)
{
    json_decref(box->value);
    sandbox_give_memory(sandbox_of(L), box->bytes);
    *box = (struct box){0};
}

static int box_collect(lua_State *L)
{
    empty_box(L, lua_touserdata(L, 1));
    return 0;
}

static struct box *push_box(lua_State *L)
{
    struct box *box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = (struct box){0};
    lua_rawgetp(L, LUA_REGISTRYINDEX, &box_meta);
    lua_setmetatable(L, -2);
    return box;
}

static int make_box(lua_State *L)
{
    push_box(L);
    return 1;
}

/* Lua knows of the value: what it takes is counted. */
static void count_value(lua_State *L, struct box *box)
{
    const size_t bytes = box->value ? weight_of(box->value) : 0;
    sandbox_take_memory(L, bytes);
    box->bytes = bytes;
}

void dsl_json_guard(lua_State *L, json_t *value)
{
    lua_pushcfunction(L, make_box);
    if (lua_pcall(L, 0, 1, 0) != LUA_OK) {
        json_decref(value);
        lua_error(L);
    }
    struct box *box = lua_touserdata(L, -1);
    box->value = value;
    count_value(L, box);
}

json_t *dsl_json_check(lua_State *L, int idx, size_t max_bytes, const char *code)
{
    struct dsl_error err;
    idx = lua_absindex(L, idx);
    luaL_checkstack(L, 8, NULL);
    struct box *box = push_box(L);
    dsl_error_init(&err); /* has no references here */
    if (dsl_json_read(L, idx, max_bytes, code, &box->value, &err) != SERVERD_OK)
        dsl_raise(L, code, "%s", err.message);
    count_value(L, box);
    return box->value;
}

/* ---- JSON to Lua ---- */

static void push_value(lua_State *L, const json_t *value, bool is_view);

static void push_object(lua_State *L, const json_t *object, bool is_view)
{
    const char *key;
    json_t *item;
    lua_createtable(L, 0, (int)json_object_size(object));
    json_object_foreach((json_t *)object, key, item)
    {
        lua_pushstring(L, key);
        push_value(L, item, is_view);
        lua_rawset(L, -3);
    }
    if (json_object_size(object) == 0) { /* else it would come back as a list */
        lua_rawgetp(L, LUA_REGISTRYINDEX, &object_meta);
        lua_setmetatable(L, -2);
    }
}

static void push_array(lua_State *L, const json_t *array, bool is_view)
{
    size_t i;
    json_t *item;
    lua_createtable(L, (int)json_array_size(array), 0);
    json_array_foreach(array, i, item)
    {
        push_value(L, item, is_view);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static void push_value(lua_State *L, const json_t *value, bool is_view)
{
    luaL_checkstack(L, 8, NULL);
    sandbox_charge(L, 1);
    switch (json_typeof(value)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
        if (json_is_object(value))
            push_object(L, value, is_view);
        else
            push_array(L, value, is_view);
        if (is_view)
            make_view(L);
        break;
    case JSON_STRING:
        lua_pushlstring(L, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        lua_pushinteger(L, json_integer_value(value));
        break;
    case JSON_REAL:
        lua_pushnumber(L, json_real_value(value));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        lua_pushboolean(L, json_is_true(value));
        break;
    case JSON_NULL:
        lua_pushlightuserdata(L, NULL);
        break;
    }
}

void dsl_json_push(lua_State *L, const json_t *value)
{
    push_value(L, value, false);
}

void dsl_json_push_readonly(lua_State *L, const json_t *value)
{
    push_value(L, value, true);
}

/* ---- text ---- */

/* A real keeps its point, so that it is none of the integers. */
static void write_real(struct buffer *out, double number)
{
    const size_t begin = out->len;
    buffer_append_f64(out, number);
    if (!out->is_failed && !strpbrk(buffer_str(out) + begin, ".eE"))
        buffer_append_str(out, ".0");
}

static void write_value(struct buffer *out, const json_t *value)
{
    const char *key;
    size_t i;
    json_t *item;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        i = 0;
        json_object_foreach((json_t *)value, key, item)
        {
            buffer_append_char(out, i++ == 0 ? '{' : ',');
            buffer_append_json_string(out, key, strlen(key));
            buffer_append_char(out, ':');
            write_value(out, item);
        }
        buffer_append_str(out, i == 0 ? "{}" : "}");
        break;
    case JSON_ARRAY:
        buffer_append_char(out, '[');
        json_array_foreach(value, i, item)
        {
            if (i > 0)
                buffer_append_char(out, ',');
            write_value(out, item);
        }
        buffer_append_char(out, ']');
        break;
    case JSON_STRING:
        buffer_append_json_string(out, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        buffer_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        write_real(out, json_real_value(value));
        break;
    case JSON_TRUE:
        buffer_append_str(out, "true");
        break;
    case JSON_FALSE:
        buffer_append_str(out, "false");
        break;
    case JSON_NULL:
        buffer_append_str(out, "null");
        break;
    }
}

char *dsl_json_text(const json_t *value, size_t *n)
{
    struct buffer out;
    buffer_init(&out, SIZE_MAX / 2);
    write_value(&out, value);
    return buffer_take(&out, n);
}

/* ---- the global ---- */

static int push_text(lua_State *L)
{
    const struct buffer *text = lua_touserdata(L, 1);
    lua_pushlstring(L, buffer_str(text), text->len);
    return 1;
}

static int json_encode(lua_State *L)
{
    luaL_checkany(L, 1);
    json_t *value = dsl_json_check(L, 1, LIMIT_DSL_JSON_BYTES, "runtime_error");
    struct box *box = lua_touserdata(L, -1);
    struct buffer text;
    buffer_init(&text, 8 * LIMIT_DSL_JSON_BYTES); /* escapes are longer than what they stand for */
    write_value(&text, value);
    bool is_failed = text.is_failed;
    lua_pushcfunction(L, push_text);
    lua_pushlightuserdata(L, &text);
    int status = is_failed ? LUA_OK : lua_pcall(L, 1, 1, 0);
    buffer_deinit(&text);
    empty_box(L, box);
    if (is_failed)
        return luaL_error(L, "json.encode: there is no memory for the text");
    if (status != LUA_OK)
        return lua_error(L);
    return 1;
}

static int json_decode(lua_State *L)
{
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    json_error_t error;
    if (n > LIMIT_DSL_JSON_BYTES)
        return luaL_error(L, "json.decode: the text has more than %d bytes",
                          (int)LIMIT_DSL_JSON_BYTES);
    sandbox_charge(L, 1 + n / 16);
    const char *problem = json_scan(text, n, LIMIT_DSL_JSON_VALUES);
    if (problem)
        return luaL_error(L, "json.decode: the text %s", problem);
    struct box *box = push_box(L);
    box->value = json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!box->value)
        return luaL_error(L, "json.decode: %s (at byte %d)", error.text, error.position);
    dsl_json_push(L, box->value);
    empty_box(L, box); /* now, not when the collector comes by */
    return 1;
}

/* Marks a table, which may be new, as a list or an object: its empty form is one then. */
static int mark(lua_State *L, const void *meta)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (lua_getmetatable(L, 1)) {
        lua_pop(L, 1);
        luaL_argcheck(L, has_meta(L, 1, &array_meta) || has_meta(L, 1, &object_meta), 1,
                      "has a metatable");
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, meta);
    lua_setmetatable(L, 1);
    return 1;
}

static int json_mark_array(lua_State *L)
{
    return mark(L, &array_meta);
}

static int json_mark_object(lua_State *L)
{
    return mark(L, &object_meta);
}

/* A metatable that no program reaches, in the registry. */
static void register_meta(lua_State *L, const void *key, const luaL_Reg *functions)
{
    lua_createtable(L, 0, 4);
    luaL_setfuncs(L, functions, 0);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

void dsl_json_open(lua_State *L)
{
    static const luaL_Reg none[] = {{NULL, NULL}}, box[] = {{"__gc", box_collect}, {NULL, NULL}},
                          view[] = {{"__index", view_index},
                                    {"__newindex", view_newindex},
                                    {"__len", view_len},
                                    {NULL, NULL}},
                          functions[] = {{"encode", json_encode},
                                         {"decode", json_decode},
                                         {"array", json_mark_array},
                                         {"object", json_mark_object},
                                         {NULL, NULL}};
    register_meta(L, &array_meta, none);
    register_meta(L, &object_meta, none);
    register_meta(L, &box_meta, box);
    register_meta(L, &view_meta, view);
    lua_createtable(L, 0, 5);
    luaL_setfuncs(L, functions, 0);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    lua_setglobal(L, "json");
}
