/* What a program can do in its sandbox, and what ends it. */
#include "lua_fixture.h"

#include "base/clock.h"
#include "frontend_dsl/sandbox_internal.h"

#include <lauxlib.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- hostile texts ---- */

static const struct {
    const char *source, *codes; /* one of these, and nothing else */
} hostile[] = {
    /* loops that never end, in every place that runs code */
    {"while true do end", "instruction_limit cpu_limit"},
    {"local n = 0 repeat n = n + 1 until false", "instruction_limit cpu_limit"},
    {"while true do pcall(function() while true do end end) end", "instruction_limit cpu_limit"},
    {"for i = 1, 1e9 do pcall(error) end", "instruction_limit cpu_limit"},
    {"return xpcall(error, function() while true do end end)", "instruction_limit cpu_limit"},
    {"return xpcall(function() while true do end end, function() while true do end end)",
     "instruction_limit cpu_limit"},
    {"local function f() return xpcall(f, f) end while true do f() end",
     "instruction_limit cpu_limit memory_limit"},
    {"local t = setmetatable({}, {__index = function(t, k) while true do end end}) return t.x",
     "instruction_limit cpu_limit"},
    {"local t = setmetatable({}, {__index = function(t, k) return t[k] end}) "
     "while true do pcall(function() return t.x end) end",
     "instruction_limit cpu_limit"},
    {"table.sort({3, 2, 1}, function() while true do end end)", "instruction_limit cpu_limit"},
    {"(\"x\"):gsub(\"x\", function() while true do end end)", "instruction_limit cpu_limit"},
    {"tostring(setmetatable({}, {__tostring = function() while true do end end}))",
     "instruction_limit cpu_limit"},
    {"local x <close> = setmetatable({}, {__close = function() while true do end end})",
     "instruction_limit cpu_limit"},
    {"local x <close> = setmetatable({}, {__close = function() while true do end end}) "
     "while true do end",
     "instruction_limit cpu_limit"},
    {"pcall(function() local x <close> = setmetatable({}, {__close = function() "
     "while true do end end}) while true do end end) while true do end",
     "instruction_limit cpu_limit"},
    {"for k in pairs(setmetatable({}, {__pairs = function() while true do end end})) do end",
     "instruction_limit cpu_limit"},
    {"goto a ::a:: goto a", "instruction_limit cpu_limit syntax_error runtime_error"},
    /* loops in C */
    {"local s = (\"a\"):rep(100) return s:find((\"a?\"):rep(100) .. (\"a\"):rep(100))",
     "instruction_limit cpu_limit"},
    {"local s = (\"a\"):rep(200) return s:match((\".-\"):rep(30) .. \"b\")",
     "instruction_limit cpu_limit"},
    {"local s = (\"a\"):rep(1e5) while true do s:match(\".-b\") end",
     "instruction_limit cpu_limit"},
    {"local s = (\"(\"):rep(1e5) while true do s:find(\"%b()\") end",
     "instruction_limit cpu_limit"},
    {"local s, t = (\"a\"):rep(1e6), (\"a\"):rep(5e5) .. \"b\" "
     "while true do s:find(t, 1, true) end",
     "instruction_limit cpu_limit"},
    {"table.move({}, 1, 1 << 40, 2, {})", "instruction_limit cpu_limit"},
    {"local t = setmetatable({}, {__len = function() return 1 << 60 end}) "
     "while true do table.insert(t, 1, 1) t = {} end",
     "instruction_limit cpu_limit"},
    {"return table.concat({}, \"\", 1, 1 << 60)", "runtime_error"},
    {"return table.concat(setmetatable({}, {__index = function() return \"\" end}), \"\", 1, 1 << "
     "60)",
     "runtime_error"},
    {"return table.unpack({}, 1, 1 << 60)", "runtime_error"},
    {"while true do select(\"#\", table.unpack({}, 1, 1e5)) end", "instruction_limit cpu_limit"},
    {"local t = {} for i = 1, 1e5 do t[i] = i % 7 end while true do table.sort(t) end",
     "instruction_limit cpu_limit"},
    {"local s = (\"x\"):rep(1e6) while true do s:upper() end", "instruction_limit cpu_limit"},
    {"local s = (\"x\"):rep(1e6) while true do local t = s .. \"y\" end",
     "instruction_limit cpu_limit"},
    {"local a, b = (\"x\"):rep(4e6) .. \"y\", (\"x\"):rep(4e6) .. \"y\" "
     "while true do local c = a == b end",
     "instruction_limit cpu_limit"},
    {"local a, b = (\"x\"):rep(4e6) .. \"y\", (\"x\"):rep(4e6) .. \"y\" "
     "while true do local c = a < b end",
     "instruction_limit cpu_limit"},
    {"local s = (\"1\"):rep(8e6) while true do tonumber(s) end", "instruction_limit cpu_limit"},
    {"local s = (\"1\"):rep(8e6) while true do local x = s + 1 end", "instruction_limit cpu_limit"},
    {"local s = (\"x\"):rep(1e6) while true do utf8.len(s) end", "instruction_limit cpu_limit"},
    {"local s = (\"x\"):rep(1e6) while true do string.format(\"%s%q\", s, s) end",
     "instruction_limit cpu_limit memory_limit"},
    {"local t = {} for i = 1, 1e5 do t[\"k\" .. i] = i end while true do pairs(t) end",
     "instruction_limit cpu_limit"},
    {"local t = {} for i = 1, 1e4 do t[\"k\" .. i] = i end "
     "local k while true do k = next(t, k) end",
     "instruction_limit cpu_limit"},
    {"local s = json.encode({1, 2, {a = 3}}) while true do json.decode(s) end",
     "instruction_limit cpu_limit"},
    {"local t = {} for i = 1, 1e5 do t[i] = i end while true do json.encode(t) end",
     "instruction_limit cpu_limit"},
    {"while true do print(1) end", "instruction_limit cpu_limit"},
    {"while true do math.random(100) end", "instruction_limit cpu_limit"},
    {"for w in ((\"a \"):rep(1e6)):gmatch(\"%a+\") do for v in (\"x\"):rep(1e4):gmatch(\".\") do "
     "end end",
     "instruction_limit cpu_limit"},
    /* memory */
    {"local t = {} for i = 1, 1e9 do t[i] = i end", "memory_limit"},
    {"local t = {} while true do t = {t} end", "memory_limit"},
    {"local s = \"x\" while true do s = s .. s end", "memory_limit"},
    {"return (\"x\"):rep(1e9)", "memory_limit"},
    {"return (\"xy\"):rep(1 << 62)", "memory_limit"},
    {"return (\"\"):rep(1 << 62, \"x\")", "memory_limit"},
    {"return pcall(string.rep, \"x\", 1e9)", "memory_limit"},
    {"while true do pcall(string.rep, \"x\", 1e9) end", "memory_limit"},
    {"local t = {} for i = 1, 1e9 do t[i] = function() return i end end", "memory_limit"},
    {"local s = (\"x\"):rep(3e7) return s:upper()", "memory_limit"},
    {"local s = (\"x\"):rep(2e5) return s:gsub(\".\", s)", "memory_limit"},
    {"local s = (\"x\"):rep(2e5) return s:gsub(\".\", (\"%0\"):rep(1e5))",
     "memory_limit instruction_limit cpu_limit"},
    {"local t = {} for i = 1, 1e4 do t[i] = (\"x\"):rep(1e4) end return table.concat(t)",
     "memory_limit"},
    {"local t = {} for i = 1, 6e5 do t[i] = {} end while true do local s = (\"x\"):rep(3e5) end",
     "memory_limit instruction_limit cpu_limit"},
    /* depth */
    {"local function f() return 1 + f() end return f()", "runtime_error memory_limit"},
    {"local function f(...) return f(1, ...) end return f()",
     "runtime_error memory_limit instruction_limit cpu_limit"},
    {"local function f() return pcall(f) end return f()", ""},
    {"local function f() return pcall(f), 1 end while true do f() end",
     "instruction_limit cpu_limit memory_limit"},
    {"local t = setmetatable({}, {}) getmetatable(t).__index = function(_, k) return t[k] end "
     "return t.x",
     "runtime_error memory_limit"},
    {"local function f(a, b) table.sort({1, 2}, f) return false end f()", "runtime_error"},
    {"local function f() return ((\"x\"):gsub(\"x\", f)) end return f()", "runtime_error"},
    {"local t = {} t[1] = t return t", "bad_return_value"},
    /* what there is not */
    {"setmetatable({}, {__gc = function() end})", "runtime_error"},
    {"setmetatable({}, {__mode = \"k\"})", "runtime_error"},
    {"getmetatable(\"\").__index = {}", "runtime_error"},
    {"return setmetatable(json.object{}, {})", "runtime_error"},
    {"return string.format(\"%p\", {})", "runtime_error"},
    {"return load(\"return 1\")", "runtime_error"},
    {"math.randomseed(1)", "runtime_error"},
};

static void hostile_texts_end_with_their_code(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        struct sandbox_limits limits = usual_limits();
        limits.instructions /= 5; /* most spend all they have */
        limits.cpu_ns /= 2;
        struct dsl_error err;
        dsl_error_init(&err);
        uint64_t begin = clock_now_ns(&processor_clock);
        char *text = run_text(&limits, hostile[i].source, &err);
        uint64_t took = clock_now_ns(&processor_clock) - begin;
        bool is_right = err.code[0] == '\0' ? hostile[i].codes[0] == '\0'
                                            : strstr(hostile[i].codes, err.code) != NULL;
        /* Not the machine's time: the thread's. A sanitizer takes its share. */
        if (!is_right || took > limits.cpu_ns + 1000000000u) {
            print_error("%s\n  gives %s after %.3f s\n  not   %s\n", hostile[i].source, text,
                        (double)took * 1e-9, hostile[i].codes);
            fail();
        }
        if (getenv("DSL_TEST_TIMES"))
            print_message("%6.0f ms %-18s %s\n", (double)took * 1e-6, err.code, hostile[i].source);
        free(text);
        dsl_error_deinit(&err);
    }
}

static void hostile_texts_end_in_slices(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        struct sandbox_limits limits = usual_limits();
        limits.instructions = 300000;
        struct dsl_error err;
        dsl_error_init(&err);
        char *text = run_sliced(&limits, 0, hostile[i].source, &err);
        if (err.code[0] != '\0' && !strstr(hostile[i].codes, err.code) &&
            strcmp(err.code, "instruction_limit") != 0) {
            print_error("%s\n  gives %s\n", hostile[i].source, text);
            fail();
        }
        free(text);
        dsl_error_deinit(&err);
    }
}

static void simple_traps(void **state)
{
    (void)state;
    expect_text("return (\"\"):rep(1 << 62)", "\"\"");
    expect_text(
        "local r = {} for _, n in ipairs{\"coroutine\", \"load\", \"io\", \"os\", \"debug\", "
        "\"require\", \"package\", \"dofile\", \"loadfile\", \"collectgarbage\", \"_G\"} do "
        "local ok, v = pcall(function() return _ENV[n] end) r[#r + 1] = v == nil end "
        "return r",
        "[true,true,true,true,true,true,true,true,true,true,true]");
    expect_text("return {string.dump == nil, string.pack == nil, string.unpack == nil, "
                "math.randomseed == nil}",
                "[true,true,true,true]");
    expect_text("return {tostring({}), tostring(print), tostring(json.null), "
                "string.format(\"%s\", {})}",
                "[\"table\",\"function\",\"null\",\"table\"]");
    expect_text("return getmetatable(\"\")", "false");
}

/* ---- fatal errors ---- */

static void nothing_runs_after_a_fatal_error(void **state)
{
    (void)state;
    /* A handler that ran would leave its mark with print. */
    struct sandbox_limits limits = usual_limits();
    limits.instructions = 100000;
    char *text = run_text(&limits,
                          "local x <close> = setmetatable({}, {__close = function() x = 1 end}) "
                          "local ok = pcall(pcall, function() while true do end end) return ok",
                          NULL);
    assert_non_null(strstr(text, "instruction_limit"));
    free(text);
}

struct stopper {
    struct sandbox *sandbox;
    pthread_t thread;
};

static void *stop_soon(void *context)
{
    usleep(20000);
    sandbox_stop(context, "cancelled");
    return NULL;
}

static void stops_from_another_thread(void **state)
{
    (void)state;
    struct sandbox_limits limits = usual_limits();
    struct sandbox *sandbox;
    struct dsl_error err;
    pthread_t thread;
    limits.instructions = UINT64_MAX;
    limits.cpu_ns = 20000000000u;
    dsl_error_init(&err);
    assert_int_equal(sandbox_create(&limits, &sandbox, &err), SERVERD_OK);
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, sandbox), 0);
    const char *loop = "while true do pcall(function() while true do end end) end";
    assert_int_not_equal(sandbox_load(sandbox, "loop", loop, strlen(loop), &err), SERVERD_OK);
    pthread_join(thread, NULL);
    assert_string_equal(err.code, "cancelled");
    assert_int_equal(err.line, 1);
    assert_true(json_array_size(err.traceback) >= 1);
    /* and it stays stopped */
    assert_int_not_equal(sandbox_load(sandbox, "x", "return 1", 8, &err), SERVERD_OK);
    assert_string_equal(err.code, "cancelled");
    sandbox_destroy(sandbox);
    dsl_error_deinit(&err);
}

/* ---- slices ---- */

static void slices_change_no_value(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "local s = 0 for i = 1, 20000 do s = s + i % 7 end return s",
        "local t = {} for i = 1, 3000 do t[#t + 1] = i * i % 101 end table.sort(t) return t",
        "local function f(n) if n < 2 then return n end return f(n - 1) + f(n - 2) end return "
        "f(18)",
        "local r = {} for i = 1, 500 do local ok, e = pcall(function(...) local a, b = ... "
        "if i % 3 == 0 then error({i}) end return a + b end, i, 2) "
        "r[i] = ok and e or e[1] end return r",
        "local function v(...) return select(\"#\", ...), ... end local n = 0 "
        "for i = 1, 2000 do local c, a, b = v(i, i + 1, v(3)) n = n + c + a + b end return n",
        "local mt = {__index = function(t, k) local x = 0 for i = 1, k do x = x + i end return x "
        "end, "
        "__add = function(a, b) for i = 1, 50 do end return 7 end, "
        "__call = function(self, x) for i = 1, 50 do end return x end, "
        "__lt = function() for i = 1, 50 do end return true end, "
        "__concat = function() for i = 1, 50 do end return \"c\" end, "
        "__eq = function() for i = 1, 50 do end return false end, "
        "__len = function() for i = 1, 50 do end return 3 end} "
        "local t, u, n = setmetatable({}, mt), setmetatable({}, mt), 0 "
        "for i = 1, 300 do n = n + t[i] + (t + 1) + t(i) + #t + (t < u and 1 or 0) + "
        "(t == u and 1 or 0) + #(t .. \"x\" .. u) end return n",
        "local out = {} for k, v in pairs({1, 2, 3, x = 1, y = 2}) do out[#out + 1] = "
        "tostring(k) .. v for i = 1, 700 do end end return out",
        "local s = {} for w in (\"a bb ccc\"):rep(200, \" \"):gmatch(\"%a+\") do s[#s + 1] = #w "
        "end "
        "return #s + s[3]",
        "local n = 0 do local x <close> = setmetatable({}, {__close = function() "
        "for i = 1, 3000 do n = n + 1 end end}) end return n",
        "return (select(2, xpcall(function() for i = 1, 2000 do end error(\"x\", 0) end, "
        "function(e) for i = 1, 2000 do end return e .. \"y\" end)))",
        "local t = {} for i = 1, 300 do t[i] = {table.unpack({1, 2, 3, i})} end "
        "local n = 0 for _, l in ipairs(t) do for _, v in ipairs(l) do n = n + v end end return n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct sandbox_limits limits = usual_limits();
        char *whole = run_text(&limits, texts[i], NULL),
             *sliced = run_sliced(&limits, 0, texts[i], NULL);
        if (strcmp(whole, sliced) != 0 || strstr(whole, "error")) {
            print_error("%s\n  whole  %s\n  sliced %s\n", texts[i], whole, sliced);
            fail();
        }
        free(whole);
        free(sliced);
    }
}

/* ---- errors ---- */

static void errors_say_where(void **state)
{
    (void)state;
    struct sandbox_limits limits = usual_limits();
    struct dsl_error err;
    dsl_error_init(&err);
    free(run_text(&limits,
                  "local function f()\n local x = nil\n return x.y\nend\nlocal a = f()\n"
                  "return a",
                  &err));
    assert_string_equal(err.code, "runtime_error");
    assert_string_equal(err.program, "text");
    assert_int_equal(err.line, 3);
    assert_string_equal(err.message, "attempt to index a nil value (local 'x')");
    assert_int_equal(json_array_size(err.traceback), 2);
    json_t *inner = json_array_get(err.traceback, 0);
    assert_int_equal(json_integer_value(json_object_get(inner, "line")), 3);
    assert_string_equal(json_string_value(json_object_get(inner, "func")), "f");
    json_t *object = dsl_error_json(&err);
    assert_string_equal(json_string_value(json_object_get(object, "message")),
                        "text:3: attempt to index a nil value (local 'x')");
    json_decref(object);
    dsl_error_deinit(&err);
    expect_text("local ok, e = pcall(error, {code = 1}) return e", "{\"code\":1}");
    expect_text("local ok, e = pcall(error, \"x\", 0) return e", "\"x\"");
    expect_text("local ok, e = pcall(error) return {ok, e == nil}", "[false,true]");
    expect_text("return {xpcall(function(a) return a, 2 end, print, 1)}", "[true,1,2]");
    expect_text("return {xpcall(error, function(e) return e .. \"!\" end, \"x\", 0)}",
                "[false,\"x!\"]");
    expect_text("local ok, e = xpcall(error, function(e) error(\"y\", 0) end, \"x\", 0) return e",
                "\"y\"");
    expect_error("error(\"x\")", "runtime_error");
    expect_error("error({})", "runtime_error");
    expect_error("error()", "runtime_error");
}

static int raise_native(lua_State *L)
{
    lua_pushinteger(L, 5);
    dsl_raise_with_detail(L, "tool_error", "tool %s failed", "x");
}

static int register_raise(lua_State *L)
{
    lua_pushcfunction(L, raise_native);
    lua_setglobal(L, "raise");
    return 0;
}

static void error_objects(void **state)
{
    (void)state;
    struct sandbox_limits limits = usual_limits();
    struct sandbox *sandbox;
    struct dsl_error err;
    dsl_error_init(&err);
    assert_int_equal(sandbox_create(&limits, &sandbox, &err), SERVERD_OK);
    assert_int_equal(sandbox_protect(sandbox, register_raise, NULL, 0, &err), SERVERD_OK);
    const char *text =
        "local ok, e = pcall(raise)\n"
        "assert(not ok and e.code == \"tool_error\" and e.message == \"tool x failed\")\n"
        "assert(e.detail == 5 and tostring(e) == \"p: tool x failed\" or "
        "tostring(e) == \"p:1: tool x failed\", tostring(e))\n"
        "assert(getmetatable(e) == false)\n"
        "raise()";
    assert_int_not_equal(sandbox_load(sandbox, "p", text, strlen(text), &err), SERVERD_OK);
    assert_string_equal(err.code, "tool_error");
    assert_string_equal(err.message, "tool x failed");
    assert_int_equal(err.line, 5);
    assert_int_equal(json_integer_value(err.detail), 5);
    sandbox_destroy(sandbox);
    dsl_error_deinit(&err);
}

static void syntax_errors(void **state)
{
    (void)state;
    struct sandbox_limits limits = usual_limits();
    struct sandbox *sandbox;
    struct dsl_error err;
    char nested[1024];
    dsl_error_init(&err);
    assert_int_equal(sandbox_create(&limits, &sandbox, &err), SERVERD_OK);
    const char *text = "local a = 1\nlocal = 2";
    assert_int_not_equal(sandbox_load(sandbox, "p", text, strlen(text), &err), SERVERD_OK);
    assert_string_equal(err.code, "syntax_error");
    assert_int_equal(err.line, 2);
    assert_string_equal(err.program, "p");
    assert_int_not_equal(sandbox_load(sandbox, "p", LUA_SIGNATURE "x", 5, &err), SERVERD_OK);
    assert_string_equal(err.code, "syntax_error");
    memset(nested, '(', 300);
    memcpy(nested, "return ", 7);
    memset(nested + 307, ')', 300);
    assert_int_not_equal(sandbox_load(sandbox, "p", nested, 607, &err), SERVERD_OK);
    assert_string_equal(err.code, "syntax_error");
    assert_null(sandbox_fatal(sandbox));
    assert_int_equal(sandbox_load(sandbox, "p", "return 7", 8, &err), SERVERD_OK);
    assert_int_equal(lua_tointeger(sandbox_lua(sandbox), -1), 7);
    sandbox_destroy(sandbox);
    dsl_error_deinit(&err);
}

/* ---- waiting ---- */

static int finish_wait(lua_State *L, int status, lua_KContext ctx)
{
    (void)status;
    lua_pushinteger(L, (lua_Integer)ctx + 1);
    return 1;
}

static int wait_native(lua_State *L)
{
    return sandbox_yield(L, lua_tointeger(L, 1), finish_wait);
}

static int register_wait(lua_State *L)
{
    lua_pushcfunction(L, wait_native);
    lua_setglobal(L, "wait");
    return 0;
}

struct task {
    const char *source;
    lua_State *L;
};

static int make_task(lua_State *L)
{
    struct task *task = lua_touserdata(L, 1);
    task->L = lua_newthread(L);
    assert_int_equal(luaL_loadstring(task->L, task->source), LUA_OK);
    return 1;
}

/* Runs a text with `wait`; how often it waited. */
static int run_waiting(const char *source, char **value)
{
    struct sandbox_limits limits = usual_limits();
    struct sandbox *sandbox;
    struct dsl_error err;
    struct task task = {.source = source};
    int n_results, n_waits = 0;
    limits.instructions = 50000;
    enum sandbox_progress progress;
    dsl_error_init(&err);
    assert_int_equal(sandbox_create(&limits, &sandbox, &err), SERVERD_OK);
    assert_int_equal(sandbox_protect(sandbox, register_wait, NULL, 0, &err), SERVERD_OK);
    assert_int_equal(sandbox_protect(sandbox, make_task, &task, 1, &err), SERVERD_OK);
    while ((progress = sandbox_resume(sandbox, task.L, 0, &n_results)) == SANDBOX_YIELDED)
        n_waits++;
    if (progress == SANDBOX_DONE) {
        *value = strdup(lua_tostring(task.L, -1));
    } else {
        sandbox_error(sandbox, task.L, &err);
        *value = strdup(err.code);
    }
    sandbox_destroy(sandbox);
    dsl_error_deinit(&err);
    return n_waits;
}

static void expect_waits(const char *source, int n, const char *value)
{
    char *found;
    assert_int_equal(run_waiting(source, &found), n);
    assert_string_equal(found, value);
    free(found);
}

static void operations_wait_where_they_can(void **state)
{
    (void)state;
    expect_waits("return wait(1) + wait(2)", 2, "5");
    expect_waits("local ok, v = pcall(wait, 1) return tostring(ok) .. v", 1, "true2");
    expect_waits("local ok, v = pcall(function() wait(1) error(\"x\", 0) end) return v", 1, "x");
    expect_waits("return select(2, xpcall(error, function(e) return e .. wait(4) end, \"x\", 0))",
                 1, "x5");
    expect_waits("return select(2, xpcall(wait, print, 4))", 1, "5");
    expect_waits("return pcall(pcall, pcall, wait, 1) and \"y\"", 1, "y");
    expect_waits("return setmetatable({}, {__index = function(_, k) return wait(k) end})[3]", 1,
                 "4");
    expect_waits("return setmetatable({}, {__add = function(_, k) return wait(k) end}) + 3", 1,
                 "4");
    expect_waits("return setmetatable({}, {__call = function(_, k) return wait(k) end})(3)", 1,
                 "4");
    expect_waits(
        "for k in pairs(setmetatable({}, {__pairs = function(t) wait(1) return next, t end})) "
        "do end return \"y\"",
        1, "y");
    expect_waits("do local x <close> = setmetatable({}, {__close = function() wait(1) end}) end "
                 "return \"y\"",
                 1, "y");
    expect_waits(
        "local n = 0 for i in function(_, i) i = wait((i or 0)) return i < 4 and i or nil end "
        "do n = n + i end return n",
        4, "6");
    expect_waits("table.sort({1, 2}, function() return wait(1) end)", 0, "yield_not_allowed");
    expect_waits("(\"x\"):gsub(\"x\", wait)", 0, "yield_not_allowed");
    expect_waits("local ok, e = pcall(table.sort, {1, 2}, function() return wait(1) end) "
                 "return e.code",
                 0, "yield_not_allowed");
    expect_waits("return tostring(setmetatable({}, {__tostring = function() return wait(1) end}))",
                 0, "yield_not_allowed");
}

static void counts_go_on_across_waits(void **state)
{
    (void)state;
    char *found;
    int n = run_waiting("while true do wait(1) end", &found);
    assert_string_equal(found, "instruction_limit");
    assert_in_range(n, 10000, 20000); /* a few instructions each, of 50 000 */
    free(found);
}

/* ---- memory ---- */

static void no_table_is_weak(void **state)
{
    (void)state;
    /* also not one whose metatable gets its mode later: nothing is lost, and a chain of weak keys,
     * at which Lua's collector is quadratic, is none */
    expect_text("local mt = {} local t = setmetatable({}, mt) mt.__mode = \"kv\" "
                "for i = 1, 100 do t[i] = {} end "
                "for i = 1, 2e4 do local garbage = {i, {}, tostring(i)} end return #t",
                "100");
    expect_text(
        "local mt, keys, order = {}, {}, {} local t, n = setmetatable({}, mt), 20000 "
        "for i = 1, n do keys[i] = {} order[i] = i end "
        "for i = n, 2, -1 do local j = math.random(i) order[i], order[j] = order[j], order[i] "
        "end for i = 1, n - 1 do t[keys[order[i]]] = keys[order[i + 1]] end "
        "local first = keys[order[1]] keys, order = nil, nil mt.__mode = \"k\" "
        "for i = 1, 100 do local s = (\"x\"):rep(3e5) end "
        "local length = 0 while first do first = t[first] length = length + 1 end return length",
        "20000");
}

static void memory_is_counted_and_given_back(void **state)
{
    (void)state;
    _Atomic size_t total = 0;
    struct sandbox_limits limits = usual_limits();
    struct sandbox *a, *b;
    struct dsl_error err;
    dsl_error_init(&err);
    limits.total_bytes = &total;
    limits.total_limit = (size_t)2 << 20;
    assert_int_equal(sandbox_create(&limits, &a, &err), SERVERD_OK);
    size_t empty = sandbox_usage(a).bytes;
    assert_in_range(empty, 1, 64 << 10);
    assert_in_range(atomic_load(&total), empty, 128 << 10);
    const char *grow = "return (\"x\"):rep(600 << 10)";
    assert_int_equal(sandbox_load(a, "a", grow, strlen(grow), &err), SERVERD_OK);
    assert_in_range(atomic_load(&total), 600 << 10, 2 << 20);
    assert_int_equal(sandbox_create(&limits, &b, &err), SERVERD_OK);
    const char *more = "local t = {} while true do t[#t + 1] = #t end";
    assert_int_not_equal(sandbox_load(b, "b", more, strlen(more), &err), SERVERD_OK);
    assert_string_equal(err.code, "memory_limit");
    sandbox_destroy(a);
    sandbox_destroy(b);
    assert_int_equal(atomic_load(&total), 0);
    dsl_error_deinit(&err);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    /* Ever more memory, until a text that uses everything runs through. */
    const char *text =
        "local t = {} for i = 1, 50 do t[i] = {k = tostring(i) .. \"x\"} end "
        "table.sort(t, function(a, b) return a.k < b.k end) "
        "for k, v in pairs(t[1]) do t.x = k end "
        "local s = json.encode({1, 2, {a = (\"y\"):rep(300)}}) "
        "local d = json.decode(s) "
        "return pcall(error, {s:gsub(\"y\", \"%0z\"), string.format(\"%5s\", d[3].a)})";
    int n_failed = 0;
    bool has_passed = false;
    for (size_t bytes = 1024; bytes < 400000 && !has_passed; bytes += 509) {
        struct sandbox_limits limits = usual_limits();
        struct sandbox *sandbox = NULL;
        struct dsl_error err;
        dsl_error_init(&err);
        limits.memory_bytes = bytes;
        if (sandbox_create(&limits, &sandbox, &err) == SERVERD_OK)
            has_passed = sandbox_load(sandbox, "p", text, strlen(text), &err) == SERVERD_OK;
        if (!has_passed) {
            assert_string_equal(err.code, "memory_limit");
            n_failed++;
        }
        sandbox_destroy(sandbox);
        dsl_error_deinit(&err);
    }
    assert_true(has_passed);
    assert_true(n_failed > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simple_traps),
        cmocka_unit_test(hostile_texts_end_with_their_code),
        cmocka_unit_test(hostile_texts_end_in_slices),
        cmocka_unit_test(nothing_runs_after_a_fatal_error),
        cmocka_unit_test(stops_from_another_thread),
        cmocka_unit_test(counts_go_on_across_waits),
        cmocka_unit_test(slices_change_no_value),
        cmocka_unit_test(errors_say_where),
        cmocka_unit_test(error_objects),
        cmocka_unit_test(syntax_errors),
        cmocka_unit_test(operations_wait_where_they_can),
        cmocka_unit_test(no_table_is_weak),
        cmocka_unit_test(memory_is_counted_and_given_back),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
