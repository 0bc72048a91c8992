/* Error objects: tables {code, message, program, line, branch, detail} with a locked metatable. */
#include "base/numeric.h"
#include "base/utf8.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/sandbox_internal.h"

#include <lauxlib.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where its address is the key, no program can name it. */
static const char error_meta = 0;

/* Of a traceback, and of a look for the innermost function of the program: in between are natives
 * and metamethods. */
#define TRACEBACK_LEVELS 24
#define POSITION_LEVELS  64

/* ---- positions ---- */

void sandbox_position(lua_State *L, char program[DSL_NAME_BYTES], int32_t *line)
{
    lua_Debug ar;
    for (int level = 0; level < POSITION_LEVELS && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline > 0) {
            snprintf(program, DSL_NAME_BYTES, "%s", ar.short_src);
            *line = ar.currentline;
            return;
        }
    }
}

int sandbox_line(lua_State *L)
{
    char program[DSL_NAME_BYTES];
    int32_t line = 0;
    sandbox_position(L, program, &line);
    return line;
}

json_t *sandbox_traceback(lua_State *L)
{
    json_t *list = json_array();
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar) && json_array_size(list) < TRACEBACK_LEVELS &&
                        level < POSITION_LEVELS;
         level++) {
        lua_getinfo(L, "Sln", &ar);
        if (ar.currentline <= 0)
            continue; /* a native */
        const char *name = strcmp(ar.what, "main") == 0 ? "main chunk" : ar.name ? ar.name : "?";
        json_array_append_new(list, json_pack("{s:s, s:s, s:i}", "func", name, "program",
                                              ar.short_src, "line", ar.currentline));
    }
    return list;
}

/* "react:14: text": the position that Lua puts in front of its own errors. Returns the text behind
 * it. */
static const char *cut_position(const char *text, char program[DSL_NAME_BYTES], int32_t *line)
{
    const char *colon = strchr(text, ':');
    if (!colon || colon == text || colon - text >= (ptrdiff_t)DSL_NAME_BYTES ||
        memchr(text, ' ', (size_t)(colon - text)))
        return text;
    char *end;
    long number = strtol(colon + 1, &end, 10);
    if (end == colon + 1 || number <= 0 || number > INT32_MAX || end[0] != ':' || end[1] != ' ')
        return text;
    memcpy(program, text, (size_t)(colon - text));
    program[colon - text] = '\0';
    *line = (int32_t)number;
    return end + 2;
}

/* ---- making ---- */

static void set_text(lua_State *L, const char *field, const char *text)
{
    if (text[0] == '\0')
        return;
    lua_pushstring(L, text);
    lua_setfield(L, -2, field);
}

/* A table with all but the detail. */
static void push_table(lua_State *L, const struct dsl_error *err)
{
    luaL_checkstack(L, 8, NULL);
    lua_createtable(L, 0, 6);
    set_text(L, "code", err->code);
    lua_pushstring(L, err->message); /* there is one always */
    lua_setfield(L, -2, "message");
    set_text(L, "program", err->program);
    set_text(L, "branch", err->branch);
    if (err->line > 0) {
        lua_pushinteger(L, err->line);
        lua_setfield(L, -2, "line");
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &error_meta);
    lua_setmetatable(L, -2);
}

void dsl_error_push(lua_State *L, const struct dsl_error *err)
{
    push_table(L, err);
    if (err->detail) {
        dsl_json_push(L, err->detail);
        lua_setfield(L, -2, "detail");
    }
}

static void push_new(lua_State *L, const char *code, const char *format, va_list args)
{
    const struct sandbox *sandbox = sandbox_of(L);
    struct dsl_error err = {0};
    char text[DSL_MESSAGE_BYTES];
    vsnprintf(text, sizeof text, format, args);
    dsl_error_set(&err, code, "%s", text); /* owns nothing: an error may leave us here */
    err.message[utf8_valid_run(err.message, strlen(err.message))] = '\0';
    sandbox_position(L, err.program, &err.line);
    const char *branch =
        sandbox->hooks.branch ? sandbox->hooks.branch(sandbox->hooks.context, L) : NULL;
    snprintf(err.branch, sizeof err.branch, "%s", branch ? branch : "");
    push_table(L, &err);
}

int dsl_raise(lua_State *L, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    push_new(L, code, format, args);
    va_end(args);
    lua_error(L);
    __builtin_unreachable();
}

int dsl_raise_with_detail(lua_State *L, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    push_new(L, code, format, args);
    va_end(args);
    lua_insert(L, -2);
    lua_setfield(L, -2, "detail");
    lua_error(L);
    __builtin_unreachable();
}

/* ---- reading ---- */

static bool is_error_object(lua_State *L, int idx)
{
    if (lua_type(L, idx) != LUA_TTABLE || !lua_getmetatable(L, idx))
        return false;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &error_meta);
    bool is_one = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is_one;
}

/* A field that a program may have set to anything. */
static void read_text(lua_State *L, int idx, const char *field, char *out, size_t size)
{
    lua_pushstring(L, field);
    lua_rawget(L, idx);
    if (lua_type(L, -1) == LUA_TSTRING) {
        snprintf(out, size, "%s", lua_tostring(L, -1));
        out[utf8_valid_run(out, strlen(out))] = '\0';
    }
    lua_pop(L, 1);
}

static void read_table(lua_State *L, int idx, struct dsl_error *out)
{
    snprintf(out->message, sizeof out->message, "the error is a table");
    snprintf(out->code, sizeof out->code, "runtime_error");
    read_text(L, idx, "message", out->message, sizeof out->message);
    if (!is_error_object(L, idx))
        return;
    read_text(L, idx, "code", out->code, sizeof out->code);
    read_text(L, idx, "program", out->program, sizeof out->program);
    read_text(L, idx, "branch", out->branch, sizeof out->branch);
    lua_pushstring(L, "line");
    lua_rawget(L, idx);
    lua_Integer line = lua_tointeger(L, -1);
    out->line = line > 0 && line < INT32_MAX ? (int32_t)line : 0;
    lua_pushstring(L, "detail");
    lua_rawget(L, idx);
    struct dsl_error ignored; /* a detail that is no JSON is left out */
    dsl_error_init(&ignored);
    if (!lua_isnil(L, -1))
        (void)dsl_json_read(L, -1, (size_t)64 << 10, "", &out->detail, &ignored);
    dsl_error_deinit(&ignored);
    lua_pop(L, 2);
}

/* Reads the value at index 2 into the light userdata at index 1. */
static int read_protected(lua_State *L)
{
    struct dsl_error *out = lua_touserdata(L, 1);
    switch (lua_type(L, 2)) {
    case LUA_TTABLE:
        read_table(L, 2, out);
        break;
    case LUA_TSTRING:
    case LUA_TNUMBER: {
        const char *text = lua_tostring(L, 2);
        const char *rest = cut_position(text, out->program, &out->line);
        snprintf(out->code, sizeof out->code, "runtime_error");
        snprintf(out->message, sizeof out->message, "%s", rest);
        out->message[utf8_valid_run(out->message, strlen(out->message))] = '\0';
        break;
    }
    default:
        dsl_error_set(out, "runtime_error", "the error is a %s value", luaL_typename(L, 2));
    }
    return 0;
}

void dsl_error_read(lua_State *L, int idx, struct dsl_error *out)
{
    struct sandbox *sandbox = sandbox_of(L);
    dsl_error_deinit(out);
    idx = lua_absindex(L, idx);
    if (sandbox->fatal && lua_touserdata(L, idx) == sandbox) {
        dsl_error_copy(out, &sandbox->fatal_error);
        return;
    }
    /* A task that has ended or waits calls nothing. */
    lua_State *on = lua_status(L) == LUA_OK ? L : sandbox->main;
    if (!lua_checkstack(L, 1) || !lua_checkstack(on, LUA_MINSTACK)) {
        dsl_error_set(out, "memory_limit", "the Lua stack is full");
        return;
    }
    lua_pushvalue(L, idx);
    if (on != L)
        lua_xmove(L, on, 1);
    lua_pushcfunction(on, read_protected);
    lua_insert(on, -2);
    lua_pushlightuserdata(on, out);
    lua_insert(on, -2);
    if (lua_pcall(on, 2, 0, 0) != LUA_OK) {
        dsl_error_set(out, "memory_limit", "there was no memory for the error");
        lua_pop(on, 1);
    }
}

void dsl_error_push_object(lua_State *L, int idx)
{
    idx = lua_absindex(L, idx);
    if (is_error_object(L, idx)) {
        lua_pushvalue(L, idx);
        return;
    }
    struct dsl_error err;
    dsl_error_init(&err);
    dsl_error_read(L, idx, &err);
    push_table(L, &err);
    dsl_error_deinit(&err);
}

static int error_to_string(lua_State *L)
{
    struct dsl_error err;
    dsl_error_init(&err);
    dsl_error_read(L, 1, &err);
    char text[DSL_NAME_BYTES + 16 + DSL_MESSAGE_BYTES];
    dsl_error_text(&err, text, sizeof text);
    dsl_error_deinit(&err);
    lua_pushstring(L, text);
    return 1;
}

void dsl_error_open(lua_State *L)
{
    lua_createtable(L, 0, 3);
    lua_pushcfunction(L, error_to_string);
    lua_setfield(L, -2, "__tostring");
    lua_pushstring(L, "error");
    lua_setfield(L, -2, "__name");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &error_meta);
}
