/* The engine's `string` and `table` against Lua's own, on random calls: the same results, or an
 * error in both. Patterns with mistakes are refused whole here, and by Lua's own only where a match
 * comes to the mistake: such calls are counted, and must be few. */
#include "lua_fixture.h"

#include "base/buffer.h"
#include "base/hash.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state;

static unsigned draw(unsigned below)
{
    return (unsigned)(hash_mix(random_state++) >> 33) % below;
}

/* Results as one text; what tables hold in 1..8, and all their other keys that the calls make. */
static const char harness[] =
    "local function show(v) "
    "  if type(v) ~= \"table\" then return (math.type(v) or type(v)) .. \":\" .. "
    "    (type(v) == \"function\" and \"\" or tostring(v)) end "
    "  local out = {} for i = -2, 9 do out[#out + 1] = show(v[i]) end "
    "  return \"{\" .. table.concat(out, \",\") .. \"}\" end "
    "local function all(ok, ...) "
    "  if not ok then return \"error\" end "
    "  local out = {} for i = 1, select(\"#\", ...) do out[i] = show((select(i, ...))) end "
    "  return table.concat(out, \"|\") end "
    "local function every(f, n) local out = {} "
    "  for i = 1, 50 do local a, b = f() if a == nil then break end "
    "    out[#out + 1] = show(a) .. show(b) end return table.concat(out, \"|\") end "
    "return all(pcall(function() ";

static void append_quoted(struct buffer *out, const char *text, size_t n)
{
    buffer_append_char(out, '"');
    for (size_t i = 0; i < n; i++)
        buffer_printf(out, "\\x%02x", (unsigned char)text[i]);
    buffer_append_char(out, '"');
}

static void append_pieces(struct buffer *out, const char *const *pieces, unsigned n_pieces,
                          unsigned n)
{
    struct buffer text;
    buffer_init(&text, 1 << 16);
    for (unsigned i = 0; i < n; i++) {
        const char *piece = pieces[draw(n_pieces)];
        buffer_append(&text, piece, strcmp(piece, "") == 0 ? 1 : strlen(piece));
    }
    append_quoted(out, buffer_str(&text), text.len);
    buffer_deinit(&text);
}

#define N(list) (unsigned)(sizeof(list) / sizeof *(list))

static const char *const subject_pieces[] = {"a", "b",  "c", "A", "0", "7",    " ", "(",
                                             ")", "()", ".", "%", "-", "\xc3", "",  "aab"};
static const char *const pattern_pieces[] = {
    "a",    "b",    "c",     ".",     "%a",  "%d",   "%s",    "%w",     "%A",     "%W",
    "[ab]", "[^a]", "[a-c]", "[%a0]", "[]]", "[^]]", "[%]a]", "[a-]",   "*",      "+",
    "-",    "?",    "*",     "+",     "-",   "?",    "(",     ")",      "(a",     "b)",
    "()",   "(.-)", "(%w*)", "%1",    "%2",  "%b()", "%bab",  "%f[%a]", "%f[^b]", "^",
    "$",    "%(",   "%.",    "%x",    "%p",  "%c",   "%g",    "%l",     "%u",     "%z",
    "%q",   "[",    "%",     "",      "a-b", ".*",   ".-",    "]"};
static const char *const replacement_pieces[] = {"x", "%0", "%1", "%2", "%%", "<", ">", "%"};

static void append_place(struct buffer *out)
{
    if (draw(3) == 0)
        buffer_printf(out, ", %d", (int)draw(24) - 12);
}

static void append_pattern_call(struct buffer *out)
{
    static const char *const names[] = {"find", "match", "gmatch", "gsub", "find"};
    const char *name = names[draw(N(names))];
    bool is_walk = strcmp(name, "gmatch") == 0;
    buffer_printf(out, is_walk ? "return every(string.%s(" : "return string.%s(", name);
    append_pieces(out, subject_pieces, N(subject_pieces), draw(14));
    buffer_append_str(out, ", ");
    append_pieces(out, pattern_pieces, N(pattern_pieces), 1 + draw(6));
    if (strcmp(name, "gsub") == 0) {
        static const char *const others[] = {
            "{a = \"X\", b = false, c = 7, [\"aa\"] = \"\"}",
            "function(x, y) if x == \"a\" then return y or \"Q\" elseif x == 1 then return nil end "
            "return false end",
            "function(x) return tostring(x):upper() end"};
        buffer_append_str(out, ", ");
        if (draw(2))
            append_pieces(out, replacement_pieces, N(replacement_pieces), draw(4));
        else
            buffer_append_str(out, others[draw(N(others))]);
        if (draw(4) == 0)
            buffer_printf(out, ", %d", (int)draw(6) - 1);
    } else {
        append_place(out);
        if (strcmp(name, "find") == 0 && draw(4) == 0)
            buffer_printf(out, ", %d, true", (int)draw(10));
    }
    buffer_append_str(out, is_walk ? "))" : ")");
}

static void append_number(struct buffer *out)
{
    static const char *const numbers[] = {"0",   "1",       "-1",  "7",      "123456789",
                                          "1.5", "-0.0",    "65",  "1e15",   "1e300",
                                          "0.1", "-2.5e-7", "255", "1 << 62"};
    buffer_append_str(out, numbers[draw(N(numbers))]);
}

static void append_text_call(struct buffer *out)
{
    static const char *const simple[] = {"upper", "lower", "reverse", "len", "byte", "sub"};
    switch (draw(4)) {
    case 0: {
        const char *name = simple[draw(N(simple))];
        buffer_printf(out, "return string.%s(", name);
        append_pieces(out, subject_pieces, N(subject_pieces), draw(10));
        if (strcmp(name, "sub") == 0)
            buffer_append_str(out, ", 2");
        append_place(out);
        buffer_append_char(out, ')');
        break;
    }
    case 1:
        buffer_append_str(out, "return string.rep(");
        append_pieces(out, subject_pieces, N(subject_pieces), draw(3));
        buffer_printf(out, ", %d", (int)draw(8) - 2);
        if (draw(2)) {
            buffer_append_str(out, ", ");
            append_pieces(out, subject_pieces, N(subject_pieces), draw(3));
        }
        buffer_append_char(out, ')');
        break;
    default: {
        static const char *const flags[] = {"",   "",   "-",  "+",   " ",    "#",  "0",     "-5",
                                            "12", "05", ".3", "8.2", "-8.1", ".0", "20.10", "+.2"};
        static const char conversions[] = "diouxXcaAeEfgGsq%j";
        bool is_text = draw(3) == 0;
        buffer_append_str(out, "return string.format(\"<%");
        buffer_append_str(out, flags[draw(N(flags))]);
        buffer_append_char(out, is_text ? "sqd"[draw(3)] : conversions[draw(18)]);
        buffer_append_str(out, "> %d%%\", ");
        if (is_text) {
            static const char *const words[] = {"a", "bc", "0", "12", " ", "d\"e\\"};
            append_pieces(out, words, N(words), draw(5));
        } else {
            append_number(out);
        }
        buffer_append_str(out, draw(8) ? ", 5)" : ")");
    }
    }
}

static void append_table(struct buffer *out)
{
    unsigned n = draw(6);
    buffer_append_char(out, '{');
    for (unsigned i = 0; i < n; i++)
        buffer_printf(out, "%u,", draw(9));
    buffer_append_char(out, '}');
}

static void append_table_call(struct buffer *out)
{
    buffer_append_str(out, "local t = ");
    append_table(out);
    int a = (int)draw(8) - 1, b = (int)draw(8) - 1, c = (int)draw(8) - 1;
    switch (draw(8)) {
    case 0:
        buffer_printf(out, " table.insert(t, %d) return t", a);
        break;
    case 1:
        buffer_printf(out, " table.insert(t, %d, 99) return t", a);
        break;
    case 2:
        buffer_printf(out, " return table.remove(t, %d), t", a);
        break;
    case 3:
        buffer_append_str(out, " return table.remove(t), t");
        break;
    case 4:
        buffer_printf(out, " return table.move(t, %d, %d, %d), t", a, b, c);
        break;
    case 5:
        buffer_printf(out, " local u = {5, 6} return table.move(t, %d, %d, %d, u), u, t", a, b, c);
        break;
    case 6:
        buffer_printf(out, " table.sort(t%s) return t, table.unpack(t, %d, %d)",
                      draw(2) ? ", function(x, y) return x > y end" : "", a, b);
        break;
    default:
        buffer_printf(out, " return table.concat(t, \"-\", %d, %d), table.pack(%d, nil, %d)", a, b,
                      a, b);
    }
}

static char *run_stock(const char *source)
{
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    assert_int_equal(luaL_loadstring(L, source), LUA_OK);
    assert_int_equal(lua_pcall(L, 0, 1, 0), LUA_OK);
    char *text = strdup(lua_tostring(L, -1));
    lua_close(L);
    return text;
}

static int make_function(lua_State *L)
{
    if (luaL_loadstring(L, lua_touserdata(L, 1)) != LUA_OK)
        return lua_error(L);
    lua_call(L, 0, 1);
    return 1;
}

static char *run_ours(const char *source)
{
    struct sandbox_limits limits = usual_limits();
    struct sandbox *sandbox;
    struct dsl_error err;
    dsl_error_init(&err);
    assert_int_equal(sandbox_create(&limits, &sandbox, &err), SERVERD_OK);
    serverd_status status =
        sandbox_protect(sandbox, make_function, (void *)(uintptr_t)source, 1, &err);
    char *text =
        strdup(status == SERVERD_OK ? lua_tostring(sandbox_lua(sandbox), -1) : err.message);
    sandbox_destroy(sandbox);
    dsl_error_deinit(&err);
    return text;
}

/* Returns how many calls only we refuse. */
static unsigned compare(void (*append)(struct buffer *out), unsigned n)
{
    unsigned n_refused = 0;
    const char *seed = getenv("DSL_TEST_SEED");
    random_state = seed ? strtoull(seed, NULL, 10) : 1;
    for (unsigned i = 0; i < n; i++) {
        struct buffer source;
        uint64_t at = random_state;
        buffer_init(&source, 1 << 20);
        buffer_append_str(&source, harness);
        const size_t begin = source.len;
        append(&source);
        const size_t end = source.len;
        buffer_append_str(&source, " end))");
        char *stock = run_stock(buffer_str(&source)), *ours = run_ours(buffer_str(&source));
        if (strcmp(stock, ours) != 0) {
            if (strcmp(ours, "error") == 0) {
                n_refused++;
            } else {
                print_error("DSL_TEST_SEED=%llu\n%.*s\n  stock %s\n  ours  %s\n",
                            (unsigned long long)at, (int)(end - begin), buffer_str(&source) + begin,
                            stock, ours);
                fail();
            }
        }
        free(stock);
        free(ours);
        buffer_deinit(&source);
    }
    return n_refused;
}

static void patterns_match_as_in_lua(void **state)
{
    (void)state;
    unsigned n = 12000, n_refused = compare(append_pattern_call, n);
    print_message("%u of %u refused\n", n_refused, n);
    assert_true(n_refused < n / 4);
}

static void texts_as_in_lua(void **state)
{
    (void)state;
    assert_int_equal(compare(append_text_call, 4000), 0);
}

static void tables_as_in_lua(void **state)
{
    (void)state;
    assert_int_equal(compare(append_table_call, 4000), 0);
}

static void errors_of_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *call, *message;
    } cases[] = {
        {"(\"a\"):find(\"[a\")", "malformed pattern (missing ']')"},
        {"(\"a\"):find(\"%\")", "malformed pattern (ends with '%')"},
        {"(\"a\"):find(\"(a\")", "unfinished capture"},
        {"(\"a\"):match(\"a)\")", "invalid pattern capture"},
        {"(\"a\"):find(\"%1\")", "invalid capture index %1"},
        {"(\"a\"):find(\"(%1)\")", "invalid capture index %1"},
        {"(\"a\"):find(\"%b\")", "malformed pattern (missing arguments to '%b')"},
        {"(\"a\"):find(\"%f\")", "missing '[' after '%f' in pattern"},
        {"(\"a\"):find((\"()\"):rep(33))", "too many captures"},
        {"(\"a\"):gsub(\"a\", \"%2\")", "invalid capture index %2"},
        {"(\"a\"):gsub(\"a\", \"%x\")", "invalid use of '%' in replacement string"},
        {"(\"a\"):find((\".\"):rep(9000))", "a pattern of 9000 bytes is too long"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sandbox_limits limits = usual_limits();
        char source[256];
        snprintf(source, sizeof source, "%s", cases[i].call);
        char *text = run_text(&limits, source, NULL);
        if (!strstr(text, cases[i].message)) {
            print_error("%s gives %s\n", cases[i].call, text);
            fail();
        }
        free(text);
    }
}

/* ---- what differs from Lua on purpose ---- */

static void pairs_has_an_order(void **state)
{
    (void)state;
    const char *order =
        "local out = {} for k, v in pairs(t) do out[#out + 1] = tostring(k) end "
        "local k, i = nil, 0 repeat k = next(t, k) i = i + 1 "
        "assert((k == nil and i == #out + 1) or out[i] == tostring(k)) until k == nil "
        "return table.concat(out, \" \")";
    static const struct {
        const char *table, *order;
    } cases[] = {
        {"{}", "\"\""},
        {"{3, 2, 1}", "\"1 2 3\""},
        {"{z = 1, a = 2, m = 3, 9, 8}", "\"1 2 a m z\""},
        {"{[10] = 1, [-1] = 2, [0.5] = 3, b = 4, [true] = 5, [false] = 6, 7}",
         "\"1 -1 0.5 10 b false true\""},
        {"{[\"a\"] = 1, [\"aa\"] = 2, [\"\"] = 3, [\"B\"] = 4}", "\" B a aa\""},
        {"json.decode([[{\"b\":[1],\"a\":{}}]])", "\"a b\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char source[1024];
        snprintf(source, sizeof source, "local t = %s %s", cases[i].table, order);
        expect_text(source, cases[i].order);
    }
    expect_error("for k in pairs({[{}] = 1}) do end", "runtime_error");
    expect_error("next({[print] = 1})", "runtime_error");
    expect_text("return next({}) == nil", "true");
    /* fields may be changed and removed on the way */
    expect_text("local t, n = {1, 2, 3, a = 1, b = 2}, 0 "
                "for k, v in pairs(t) do t[k] = nil n = n + v if k == \"a\" then t.b = nil end end "
                "return n",
                "7");
}

static void sort_is_stable(void **state)
{
    (void)state;
    expect_text("local t = {} for i = 1, 500 do t[i] = {i % 5, i} end "
                "table.sort(t, function(a, b) return a[1] < b[1] end) "
                "for i = 2, 500 do assert(t[i - 1][1] < t[i][1] or "
                "(t[i - 1][1] == t[i][1] and t[i - 1][2] < t[i][2])) end return true",
                "true");
    /* an order that contradicts itself, and one that fails, leave all elements there */
    expect_text("local t = {} for i = 1, 100 do t[i] = i end "
                "table.sort(t, function() return true end) local n = 0 "
                "for _, v in ipairs(t) do n = n + v end "
                "pcall(table.sort, t, function(a, b) if a == 50 then error() end return a < b end) "
                "for _, v in ipairs(t) do n = n + v end return n",
                "10100");
}

static void random_numbers(void **state)
{
    (void)state;
    expect_text(
        "for i = 1, 1000 do local x = math.random() assert(x >= 0 and x < 1) "
        "local n = math.random(6) assert(n >= 1 and n <= 6 and math.type(n) == \"integer\") "
        "local m = math.random(-3, 3) assert(m >= -3 and m <= 3) end "
        "return pcall(math.random, 2, 1)",
        "false");
    /* a fixed stream as long as nobody gives another */
    expect_text("local a = math.random(0) return a == math.random(0)", "false");
    struct sandbox_limits limits = usual_limits();
    const char *draw_some = "return {math.random(1000), math.random(1000), math.random()}";
    char *first = run_text(&limits, draw_some, NULL), *second = run_text(&limits, draw_some, NULL);
    assert_string_equal(first, second);
    free(first);
    free(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_match_as_in_lua), cmocka_unit_test(texts_as_in_lua),
        cmocka_unit_test(tables_as_in_lua),         cmocka_unit_test(errors_of_patterns),
        cmocka_unit_test(pairs_has_an_order),       cmocka_unit_test(sort_is_stable),
        cmocka_unit_test(random_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
