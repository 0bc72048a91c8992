/* The library `string`, without dump, pack and unpack. What walks over texts is the engine's own
 * and charged; the rest is Lua's. */
#include "base/numeric.h"
#include "frontend_dsl/dsl_pattern.h"
#include "frontend_dsl/lua_text.h"
#include "frontend_dsl/sandbox_internal.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

/* A place counted from 1, or from the end if it is negative, as a number of bytes in front of it;
 * may lie beyond the text. */
static size_t place_of(lua_Integer place, size_t n)
{
    if (place > 0)
        return (size_t)place - 1;
    if (place == 0 || place < -(lua_Integer)n)
        return 0;
    return n - (size_t)-place;
}

/* ---- simple ones ---- */

static int string_rep(lua_State *L)
{
    size_t n, n_between, total;
    const char *text = luaL_checklstring(L, 1, &n);
    lua_Integer times = luaL_checkinteger(L, 2);
    const char *between = luaL_optlstring(L, 3, "", &n_between);
    if (times <= 0 || n + n_between == 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    if (!size_mul(n + n_between, (size_t)times, &total))
        total = SIZE_MAX;
    sandbox_check_memory(L, total - n_between);
    total -= n_between;
    struct lua_text out;
    lua_text_begin(L, &out, total);
    char *at = lua_text_extend(L, &out, total);
    if (n == 1 && n_between == 0) {
        memset(at, text[0], total);
    } else {
        for (lua_Integer i = 0; i < times; i++) {
            memcpy(at, text, n);
            at += n;
            if (i + 1 < times)
                at = (char *)memcpy(at, between, n_between) + n_between;
        }
        sandbox_charge(L, (uint64_t)times / 4);
    }
    lua_text_push(L, &out);
    return 1;
}

static int string_reverse(lua_State *L)
{
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    struct lua_text out;
    lua_text_begin(L, &out, n);
    char *at = lua_text_extend(L, &out, n);
    for (size_t i = 0; i < n; i++)
        at[i] = text[n - 1 - i];
    lua_text_push(L, &out);
    return 1;
}

/* ASCII letters between `first` and the 26th behind it get their other case. */
static int change_case(lua_State *L, char first)
{
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    struct lua_text out;
    lua_text_begin(L, &out, n);
    char *at = lua_text_extend(L, &out, n);
    for (size_t i = 0; i < n; i++)
        at[i] = text[i] >= first && text[i] <= first + 25 ? (char)(text[i] ^ 0x20) : text[i];
    lua_text_push(L, &out);
    return 1;
}

static int string_upper(lua_State *L)
{
    return change_case(L, 'a');
}

static int string_lower(lua_State *L)
{
    return change_case(L, 'A');
}

/* ---- patterns ---- */

/* Capture i, or the whole match for the first one of a pattern without captures. */
static void push_capture(lua_State *L, const struct dsl_match *match, const char *text, int i)
{
    if (i >= match->n_captures) {
        if (i != 0)
            luaL_error(L, "invalid capture index %%%d", i + 1);
        lua_pushlstring(L, text + match->begin, match->end - match->begin);
    } else if (match->captures[i].n == SIZE_MAX) {
        lua_pushinteger(L, (lua_Integer)match->captures[i].begin + 1);
    } else {
        lua_pushlstring(L, text + match->captures[i].begin, match->captures[i].n);
    }
}

/* At least one value if `has_whole`. */
static int push_captures(lua_State *L, const struct dsl_match *match, const char *text,
                         bool has_whole)
{
    int n = match->n_captures == 0 && has_whole ? 1 : match->n_captures;
    luaL_checkstack(L, n, "too many captures");
    for (int i = 0; i < n; i++)
        push_capture(L, match, text, i);
    return n;
}

static bool is_plain(const char *pattern, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (pattern[i] != '\0' && strchr("^$*+?.([%-", pattern[i]))
            return false;
    return true;
}

static int find_plain(lua_State *L, const char *text, size_t n, const char *needle, size_t n_needle,
                      size_t from)
{
    sandbox_charge(L, 1 + (n - from + n_needle) / 16);
    const char *found = memmem(text + from, n - from, needle, n_needle);
    if (!found) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushinteger(L, found - text + 1);
    lua_pushinteger(L, (lua_Integer)((size_t)(found - text) + n_needle));
    return 2;
}

static int find_or_match(lua_State *L, bool is_find)
{
    size_t n, n_pattern;
    const char *text = luaL_checklstring(L, 1, &n), *source = luaL_checklstring(L, 2, &n_pattern);
    size_t from = place_of(luaL_optinteger(L, 3, 1), n);
    if (from > n) {
        lua_pushnil(L);
        return 1;
    }
    if (is_find && (lua_toboolean(L, 4) || is_plain(source, n_pattern)))
        return find_plain(L, text, n, source, n_pattern, from);
    struct dsl_pattern *pattern = dsl_pattern_push(L, source, n_pattern, true);
    struct dsl_match match;
    const size_t last = dsl_pattern_is_anchored(pattern) ? from : n;
    for (size_t at = from; at <= last; at++) {
        if (!dsl_pattern_match(L, pattern, text, n, at, &match))
            continue;
        if (!is_find)
            return push_captures(L, &match, text, true);
        lua_pushinteger(L, (lua_Integer)at + 1);
        lua_pushinteger(L, (lua_Integer)match.end);
        return 2 + push_captures(L, &match, text, false);
    }
    lua_pushnil(L);
    return 1;
}

static int string_find(lua_State *L)
{
    return find_or_match(L, true);
}

static int string_match(lua_State *L)
{
    return find_or_match(L, false);
}

/* Upvalues: the text, the pattern, where to go on, where the last match ended (or -1). */
static int gmatch_next(lua_State *L)
{
    size_t n;
    const char *text = lua_tolstring(L, lua_upvalueindex(1), &n);
    struct dsl_pattern *pattern = lua_touserdata(L, lua_upvalueindex(2));
    lua_Integer last_end = lua_tointeger(L, lua_upvalueindex(4));
    struct dsl_match match;
    for (size_t at = (size_t)lua_tointeger(L, lua_upvalueindex(3)); at <= n; at++) {
        if (!dsl_pattern_match(L, pattern, text, n, at, &match) ||
            (lua_Integer)match.end == last_end)
            continue;
        lua_pushinteger(L, (lua_Integer)match.end);
        lua_pushvalue(L, -1);
        lua_replace(L, lua_upvalueindex(3));
        lua_replace(L, lua_upvalueindex(4));
        return push_captures(L, &match, text, true);
    }
    lua_pushinteger(L, (lua_Integer)n + 1); /* and nothing more */
    lua_replace(L, lua_upvalueindex(3));
    return 0;
}

static int string_gmatch(lua_State *L)
{
    size_t n, n_pattern;
    luaL_checklstring(L, 1, &n);
    const char *source = luaL_checklstring(L, 2, &n_pattern);
    size_t from = min_size(place_of(luaL_optinteger(L, 3, 1), n), n + 1);
    lua_settop(L, 2);
    lua_pushvalue(L, 1);
    dsl_pattern_push(L, source, n_pattern, false);
    lua_pushinteger(L, (lua_Integer)from);
    lua_pushinteger(L, -1);
    lua_pushcclosure(L, gmatch_next, 4);
    return 1;
}

/* %0 to %9 and %% of a replacement. */
static void add_template(lua_State *L, struct lua_text *out, const struct dsl_match *match,
                         const char *text)
{
    size_t n;
    const char *with = lua_tolstring(L, 3, &n);
    for (size_t i = 0; i < n;) {
        const char *escape = memchr(with + i, '%', n - i);
        size_t plain = escape ? (size_t)(escape - with) - i : n - i;
        lua_text_add(L, out, with + i, plain);
        i += plain;
        if (!escape)
            break;
        char c = i + 1 < n ? with[i + 1] : '\0';
        i += 2;
        sandbox_charge(L, 1);
        if (c == '%') {
            lua_text_add(L, out, "%", 1);
        } else if (c == '0') {
            lua_text_add(L, out, text + match->begin, match->end - match->begin);
        } else if (c >= '1' && c <= '9') {
            size_t length;
            push_capture(L, match, text, c - '1');
            const char *capture = lua_tolstring(L, -1, &length);
            lua_text_add(L, out, capture, length);
            lua_pop(L, 1);
        } else {
            luaL_error(L, "invalid use of '%%' in replacement string");
        }
    }
}

/* Adds what stands for a match; false: the match itself, which is unchanged. */
static bool add_replacement(lua_State *L, struct lua_text *out, const struct dsl_match *match,
                            const char *text)
{
    switch (lua_type(L, 3)) {
    case LUA_TFUNCTION:
        lua_pushvalue(L, 3);
        lua_call(L, push_captures(L, match, text, true), 1);
        break;
    case LUA_TTABLE:
        push_capture(L, match, text, 0);
        lua_gettable(L, 3);
        break;
    default:
        add_template(L, out, match, text);
        return true;
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        lua_text_add(L, out, text + match->begin, match->end - match->begin);
        return false;
    }
    if (!lua_isstring(L, -1))
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    size_t n;
    const char *with = lua_tolstring(L, -1, &n);
    lua_text_add(L, out, with, n);
    lua_pop(L, 1);
    return true;
}

static int string_gsub(lua_State *L)
{
    size_t n, n_pattern;
    const char *text = luaL_checklstring(L, 1, &n), *source = luaL_checklstring(L, 2, &n_pattern);
    const int type = lua_type(L, 3);
    luaL_argexpected(L,
                     type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION ||
                         type == LUA_TTABLE,
                     3, "string/function/table");
    lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)n + 1), count = 0;
    lua_settop(L, 3);
    if (type == LUA_TNUMBER)
        lua_tolstring(L, 3, NULL);
    struct dsl_pattern *pattern = dsl_pattern_push(L, source, n_pattern, true);
    struct lua_text out;
    lua_text_begin(L, &out, 0);
    bool is_changed = false;
    size_t at = 0, last_end = SIZE_MAX;
    while (count < most) {
        struct dsl_match match;
        sandbox_charge(L, 1);
        /* An empty match right behind the one before is none. */
        if (dsl_pattern_match(L, pattern, text, n, at, &match) && match.end != last_end) {
            count++;
            is_changed |= add_replacement(L, &out, &match, text);
            at = last_end = match.end;
        } else if (at < n) {
            lua_text_add(L, &out, text + at++, 1);
        } else {
            break;
        }
        if (dsl_pattern_is_anchored(pattern))
            break;
    }
    if (is_changed) {
        lua_text_add(L, &out, text + at, n - at);
        lua_text_push(L, &out);
    } else {
        lua_pushvalue(L, 1);
    }
    lua_pushinteger(L, count);
    return 2;
}

/* ---- format ---- */

#define SPEC_BYTES 24

struct directive {
    char spec[SPEC_BYTES]; /* as it is written, % and conversion included */
    char conversion;
    bool is_left, has_number_flag; /* of %s: */
    size_t width, precision;
};

/* Two digits at most, as Lua has it. */
static size_t read_number(lua_State *L, const char *text, size_t *i)
{
    size_t number = 0, n_digits = 0;
    for (; text[*i] >= '0' && text[*i] <= '9'; (*i)++, n_digits++)
        number = number * 10 + (size_t)(text[*i] - '0');
    if (n_digits > 2)
        luaL_error(L, "invalid conversion to 'format' (width or precision too long)");
    return number;
}

/* The directive at text[i], a %; returns where it ends. Texts end with a zero. */
static size_t read_directive(lua_State *L, const char *text, size_t i, struct directive *out)
{
    const size_t begin = i++;
    *out = (struct directive){.precision = SIZE_MAX};
    for (; text[i] != '\0' && strchr("-+ #0", text[i]); i++) {
        out->is_left |= text[i] == '-';
        out->has_number_flag |= text[i] != '-';
    }
    out->width = read_number(L, text, &i);
    if (text[i] == '.') {
        i++;
        out->precision = read_number(L, text, &i);
    }
    if (text[i] == '\0' || i + 1 - begin >= SPEC_BYTES)
        luaL_error(L, "invalid conversion to 'format'");
    out->conversion = text[i++];
    memcpy(out->spec, text + begin, i - begin);
    return i;
}

static void add_string(lua_State *L, struct lua_text *out, const struct directive *d, int arg)
{
    size_t n;
    if (d->has_number_flag)
        luaL_error(L, "invalid conversion '%s' to 'format'", d->spec);
    const char *text = sandbox_tostring(L, arg, &n);
    n = min_size(n, d->precision);
    size_t padding = d->width > n ? d->width - n : 0;
    if (!d->is_left)
        lua_text_fill(L, out, ' ', padding);
    lua_text_add(L, out, text, n);
    if (d->is_left)
        lua_text_fill(L, out, ' ', padding);
    lua_pop(L, 1);
}

/* One directive by Lua's own format, upvalue 1. */
static void add_by_library(lua_State *L, struct lua_text *out, const struct directive *d, int arg)
{
    switch (d->conversion) {
    case 'd':
    case 'i':
    case 'u':
    case 'c':
    case 'o':
    case 'x':
    case 'X':
        luaL_checkinteger(L, arg);
        break;
    case 'a':
    case 'A':
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        luaL_checknumber(L, arg);
        break;
    case 'q':
        if (lua_type(L, arg) == LUA_TSTRING)
            sandbox_charge(L, lua_rawlen(L, arg) / 4);
        break;
    default: /* %p would tell an address */
        luaL_error(L, "invalid conversion '%s' to 'format'", d->spec);
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushstring(L, d->spec);
    lua_pushvalue(L, arg);
    lua_call(L, 2, 1);
    size_t n;
    const char *text = lua_tolstring(L, -1, &n);
    lua_text_add(L, out, text, n);
    lua_pop(L, 1);
}

static int string_format(lua_State *L)
{
    size_t n;
    const int n_args = lua_gettop(L);
    const char *format = luaL_checklstring(L, 1, &n);
    struct lua_text out;
    lua_text_begin(L, &out, 0);
    luaL_checkstack(L, 8, NULL);
    int arg = 1;
    for (size_t i = 0; i < n;) {
        const char *percent = memchr(format + i, '%', n - i);
        size_t plain = percent ? (size_t)(percent - format) - i : n - i;
        lua_text_add(L, &out, format + i, plain);
        i += plain;
        if (!percent)
            break;
        sandbox_charge(L, 1);
        if (format[i + 1] == '%') {
            lua_text_add(L, &out, "%", 1);
            i += 2;
            continue;
        }
        struct directive directive;
        i = read_directive(L, format, i, &directive);
        if (++arg > n_args)
            return luaL_argerror(L, arg, "no value");
        if (directive.conversion == 's')
            add_string(L, &out, &directive, arg);
        else
            add_by_library(L, &out, &directive, arg);
    }
    lua_text_push(L, &out);
    return 1;
}

/* ---- the library ---- */

void dsl_string_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"find", string_find},       {"gmatch", string_gmatch}, {"gsub", string_gsub},
        {"lower", string_lower},     {"match", string_match},   {"rep", string_rep},
        {"reverse", string_reverse}, {"upper", string_upper},   {NULL, NULL},
    };
    lua_createtable(L, 0, 13);
    luaL_setfuncs(L, functions, 0);
    luaopen_string(L); /* and sets the metatable of strings, with their arithmetic */
    /* The work of these is bounded by the stack, or is done by the allocator. */
    static const char *const kept[] = {"byte", "char", "len", "sub"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        lua_getfield(L, -1, kept[i]);
        lua_setfield(L, -3, kept[i]);
    }
    lua_getfield(L, -1, "format");
    lua_pushcclosure(L, string_format, 1);
    lua_setfield(L, -3, "format");
    lua_pop(L, 1);
    lua_pushliteral(L, "");
    lua_getmetatable(L, -1);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 2);
}
