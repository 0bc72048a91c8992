/* Values and JSON, type specs, programs, limits. */
#include "lua_fixture.h"

#include "base/clock.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/dsl_limits.h"
#include "frontend_dsl/dsl_program.h"
#include "frontend_dsl/type_spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

static void values_become_json(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"return", "null"},
        {"return nil", "null"},
        {"return json.null", "null"},
        {"return {}", "[]"},
        {"return json.object{}", "{}"},
        {"return json.object()", "{}"},
        {"return json.array()", "[]"},
        {"return {1, 2.5, 3.0, -7}", "[1,2.5,3.0,-7]"},
        {"return {b = 1, a = {true, false}}", "{\"a\":[true,false],\"b\":1}"},
        {"return {1, json.null, 3}", "[1,null,3]"},
        {"return \"a\\0b\\n\\\"\\u{e9}\"", "\"a\\u0000b\\n\\\"\xc3\xa9\""},
        {"return 1 << 63", "-9223372036854775808"},
        {"return 0.1", "0.1"},
        {"return 1e300", "1e+300"},
        {"local t = {1} return {t, t}", "[[1],[1]]"},
        {"return json.decode(\"{}\")", "{}"},
        {"return json.decode(\"[]\")", "[]"},
        {"return json.decode(' {\"a\": [1, 2.0, null, {}], \"b\": \"x\"} ')",
         "{\"a\":[1,2.0,null,{}],\"b\":\"x\"}"},
        {"return json.encode(json.decode(\"[1.0, 1e2, 1]\"))", "\"[1.0,100.0,1]\""},
        {"return json.encode{b = {}, a = json.object{}}", "\"{\\\"a\\\":{},\\\"b\\\":[]}\""},
        {"return json.decode(\"null\") == json.null", "true"},
        {"return tostring(json.decode(json.encode(0.1 + 0.2)) == 0.1 + 0.2)", "\"true\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_text(cases[i][0], cases[i][1]);
}

static void values_without_json(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"return 0/0", "the value is not a number"},
        {"return {1/0}", "[1] is infinite"},
        {"return print", "the value is a function"},
        {"return {a = {1, {b = print}}}", "a[2].b is a function"},
        {"return {1, nil, 3}", "neither a list"},
        {"return {1, a = 2}", "neither a list"},
        {"return {[2] = 1}", "neither a list"},
        {"return {[1.5] = 1}", "neither a list"},
        {"return {[true] = 1}", "neither a list"},
        {"return \"\\xff\"", "no UTF-8"},
        {"return {[\"a\\0\"] = 1}", "has a key"},
        {"local t = {} t.t = t return t", "contains itself"},
        {"local t = {} for i = 1, 64 do t = {t} end return t", "more than 64 levels"},
        {"return json.object{1}", "the other kind"},
        {"return json.array{a = 1}", "the other kind"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sandbox_limits limits = usual_limits();
        char *text = run_text(&limits, cases[i][0], NULL);
        if (strncmp(text, "bad_return_value: ", 18) != 0 || !strstr(text, cases[i][1])) {
            print_error("%s gives %s\n", cases[i][0], text);
            fail();
        }
        free(text);
    }
    expect_text("local t = {} for i = 1, 62 do t = {t} end return #t", "1");
    expect_error("json.encode(print)", "runtime_error");
    expect_error("json.encode({[1] = 0/0})", "runtime_error");
    expect_error("json.decode(\"{\")", "runtime_error");
    expect_error("json.decode(\"\")", "runtime_error");
    expect_error("json.decode((\"[\"):rep(65) .. (\"]\"):rep(65))", "runtime_error");
    expect_error("json.decode(\"[\" .. (\"1,\"):rep(300000) .. \"1]\")", "runtime_error");
    expect_error("json.encode(json.array(setmetatable({}, {})))", "runtime_error");
    /* a DAG whose text is endless */
    expect_error("local t = {1, 1} for i = 1, 60 do t = {t, t} end return json.encode(t)",
                 "runtime_error");
}

static int set_view(lua_State *L)
{
    dsl_json_push_readonly(L, lua_touserdata(L, 1));
    lua_setglobal(L, "a");
    return 0;
}

static void views_cannot_be_changed(void **state)
{
    (void)state;
    struct sandbox_limits limits = usual_limits();
    struct sandbox *sandbox;
    struct dsl_error err;
    dsl_error_init(&err);
    json_t *value = json_loads("{\"q\": [\"x\", \"y\", \"z\"], \"o\": {}, \"n\": 1}", 0, NULL);
    assert_int_equal(sandbox_create(&limits, &sandbox, &err), SERVERD_OK);
    assert_int_equal(sandbox_protect(sandbox, set_view, value, 0, &err), SERVERD_OK);
    const char *text =
        "local function fails(f, ...) return not pcall(f, ...) end\n"
        "assert(a.n == 1 and #a.q == 3 and a.q[2] == \"y\" and a.zz == nil)\n"
        "assert(fails(function() a.n = 2 end) and fails(function() a.new = 2 end))\n"
        "assert(fails(function() a.q[1] = 2 end) and fails(rawset, a, \"n\", 2))\n"
        "assert(fails(table.insert, a.q, 1) and fails(table.sort, a.q) and fails(table.remove, "
        "a.q))\n"
        "assert(fails(table.move, {1}, 1, 1, 1, a.q) and fails(setmetatable, a, nil))\n"
        "assert(table.concat(a.q, \"/\") == \"x/y/z\" and select(\"#\", table.unpack(a.q)) == 3)\n"
        "assert(rawget(a, \"n\") == 1 and rawlen(a.q) == 3 and next(a) == \"n\")\n"
        "local n = 0 for i, v in ipairs(a.q) do n = n + i end assert(n == 6)\n"
        "local s = \"\" for k, v in pairs(a) do s = s .. k end assert(s == \"noq\", s)\n"
        "local t = table.move(a.q, 1, 3, 1, {}) assert(t[3] == \"z\")\n"
        "assert(json.encode(a) == '{\"n\":1,\"o\":{},\"q\":[\"x\",\"y\",\"z\"]}', json.encode(a))\n"
        "assert(type(a) == \"table\" and a.n == 1 and a.q == a.q)\n"
        "return true";
    if (sandbox_load(sandbox, "view", text, strlen(text), &err) != SERVERD_OK) {
        print_error("%d: %s\n", err.line, err.message);
        fail();
    }
    sandbox_destroy(sandbox);
    json_decref(value);
    dsl_error_deinit(&err);
}

/* ---- type specs ---- */

static struct type_spec *read_fields(const char *fields)
{
    struct dsl_error err;
    struct type_spec *spec;
    json_t *source = json_loads(fields, 0, NULL);
    assert_non_null(source);
    dsl_error_init(&err);
    if (type_spec_read_fields(source, "args", UINT64_MAX, &spec, &err) != SERVERD_OK) {
        print_error("%s: %s\n", fields, err.message);
        fail();
    }
    json_decref(source);
    return spec;
}

/* The completed value as a text, or "param: message". */
static void expect_complete(const char *fields, const char *value, const char *expected)
{
    struct type_spec *spec = read_fields(fields);
    struct dsl_error err;
    json_t *given = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL, *out = NULL;
    char *text;
    dsl_error_init(&err);
    if (type_spec_complete(spec, given, "args", "invalid_arguments", &out, &err) == SERVERD_OK) {
        text = dsl_json_text(out, NULL);
    } else {
        assert_string_equal(err.code, "invalid_arguments");
        assert_int_equal(strncmp(err.message, err.param, strlen(err.param)), 0);
        text = strdup(err.message);
    }
    if (strcmp(text, expected) != 0) {
        print_error("%s of %s\n  gives %s\n  not   %s\n", value ? value : "nothing", fields, text,
                    expected);
        fail();
    }
    free(text);
    json_decref(given);
    json_decref(out);
    type_spec_destroy(spec);
    dsl_error_deinit(&err);
}

static void arguments_are_checked(void **state)
{
    (void)state;
    expect_complete("{}", NULL, "{}");
    expect_complete("[]", "{}", "{}");
    expect_complete("{\"k\": \"string\"}", "{}", "args.k is required");
    expect_complete("{\"k\": \"string\"}", "{\"k\": 1}", "args.k has to be of type string");
    expect_complete("{\"k\": \"string\"}", "{\"k\": null}", "args.k has to be of type string");
    expect_complete("{\"k\": \"string\"}", "{\"k\": \"a\", \"l\": 1}", "args.l is not declared");
    expect_complete("{\"k\": \"string\"}", "[]", "args has to be of type object");
    expect_complete("{\"k\": \"int\"}", "{\"k\": 3.0}", "{\"k\":3}");
    expect_complete("{\"k\": \"int\"}", "{\"k\": 3.5}", "args.k has to be of type int");
    expect_complete("{\"k\": \"int\"}", "{\"k\": 1e30}", "args.k has to be of type int");
    expect_complete("{\"k\": \"int\"}", "{\"k\": \"3\"}", "args.k has to be of type int");
    expect_complete("{\"k\": \"float\"}", "{\"k\": 3}", "{\"k\":3.0}");
    expect_complete("{\"k\": \"bool\"}", "{\"k\": 0}", "args.k has to be of type bool");
    expect_complete("{\"k\": \"json\"}", "{\"k\": null}", "{\"k\":null}");
    expect_complete("{\"k\": \"image\"}", "{\"k\": \"data:x\"}", "{\"k\":\"data:x\"}");
    expect_complete("{\"k\": {\"type\": \"int\", \"default\": 4, \"max\": 8}}", "{}", "{\"k\":4}");
    expect_complete("{\"k\": {\"type\": \"int\", \"default\": 4, \"max\": 8}}", "{\"k\": 9}",
                    "args.k is 9, at most 8");
    expect_complete("{\"k\": {\"type\": \"float\", \"min\": 0.5}}", "{\"k\": 0.25}",
                    "args.k is 0.25, at least 0.5");
    expect_complete("{\"k\": {\"type\": \"string\", \"max\": 3}}", "{\"k\": \"\xc3\xa9\xc3\xa9\"}",
                    "args.k has bytes: 4, at most 3");
    expect_complete("{\"k\": {\"type\": \"list\", \"items\": \"string\", \"min\": 1}}",
                    "{\"k\": []}", "args.k has items: 0, at least 1");
    expect_complete("{\"k\": {\"type\": \"list\", \"items\": \"string\"}}",
                    "{\"k\": [\"a\", \"b\", 3]}", "args.k[3] has to be of type string");
    expect_complete("{\"k\": {\"type\": \"string\", \"enum\": [\"a\", \"b\"]}}", "{\"k\": \"c\"}",
                    "args.k is none of [\"a\",\"b\"]");
    expect_complete("{\"k\": {\"type\": \"string\", \"pattern\": \"^[a-c]+$\"}}",
                    "{\"k\": \"abd\"}", "args.k does not match the pattern ^[a-c]+$");
    expect_complete("{\"k\": {\"type\": \"string\", \"pattern\": \"b\"}}", "{\"k\": \"abd\"}",
                    "{\"k\":\"abd\"}");
    expect_complete("{\"o\": {\"type\": \"object\", \"fields\": {\"x\": \"int\", \"y\": {\"type\": "
                    "\"int\", \"default\": 2}}}}",
                    "{\"o\": {\"x\": 1}}", "{\"o\":{\"x\":1,\"y\":2}}");
    expect_complete("{\"o\": {\"type\": \"object\", \"fields\": {\"x\": \"int\"}}}", "{\"o\": {}}",
                    "args.o.x is required");
    expect_complete("{\"o\": {\"type\": \"object\", \"fields\": {\"x\": {\"type\": \"int\", "
                    "\"default\": 5}}, \"default\": []}}",
                    "{}", "{\"o\":{\"x\":5}}");
}

static void bad_specs_are_refused(void **state)
{
    (void)state;
    static const char *const specs[] = {
        "5",
        "[]",
        "\"strin\"",
        "\"object\"",
        "{\"typ\": \"int\"}",
        "{\"type\": \"int\", \"items\": \"int\"}",
        "{\"type\": \"int\", \"pattern\": \"a\"}",
        "{\"type\": \"string\", \"pattern\": \"(\"}",
        "{\"type\": \"int\", \"default\": \"x\"}",
        "{\"type\": \"int\", \"max\": 3, \"default\": 4}",
        "{\"type\": \"int\", \"enum\": [1, \"x\"]}",
        "{\"type\": \"int\", \"enum\": []}",
        "{\"type\": \"int\", \"min\": 1.5}",
        "{\"type\": \"bool\", \"min\": 1}",
        "{\"type\": \"object\"}",
        "{\"type\": \"int\", \"fields\": {}}",
        "{\"type\": \"list\", \"items\": \"nope\"}",
        "{\"type\": \"int\", \"doc\": 1}",
        "{\"type\": \"object\", \"fields\": {\"a\": \"b\"}}",
        "{\"type\": \"int\", \"extra\": 1}",
    };
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct type_spec *spec;
        struct dsl_error err;
        json_t *source = json_loads(specs[i], JSON_DECODE_ANY, NULL);
        dsl_error_init(&err);
        if (type_spec_read(source, "args.k", UINT64_MAX, &spec, &err) == SERVERD_OK) {
            print_error("%s is taken\n", specs[i]);
            fail();
        }
        assert_string_equal(err.code, "bad_program");
        assert_int_equal(strncmp(err.message, "args.k", 6), 0);
        json_decref(source);
        dsl_error_deinit(&err);
    }
}

static void schemas(void **state)
{
    (void)state;
    struct type_spec *spec =
        read_fields("{\"b\": {\"type\": \"list\", \"items\": \"int\", \"min\": 1, \"max\": 3, "
                    "\"doc\": \"some\"}, "
                    "\"a\": {\"type\": \"string\", \"default\": \"x\", \"min\": 1, \"max\": 5, "
                    "\"pattern\": \"x\"}, "
                    "\"c\": \"json\", \"d\": {\"type\": \"float\", \"enum\": [1, 2.5]}}");
    json_t *schema = type_spec_schema(spec);
    char *text = dsl_json_text(schema, NULL);
    assert_string_equal(
        text, "{\"type\":\"object\",\"properties\":{"
              "\"a\":{\"type\":\"string\",\"pattern\":\"x\",\"minLength\":1,\"maxLength\":5,"
              "\"default\":\"x\"},"
              "\"b\":{\"type\":\"array\",\"description\":\"some\",\"items\":{\"type\":\"integer\"},"
              "\"minItems\":1,\"maxItems\":3},"
              "\"c\":{},\"d\":{\"type\":\"number\",\"enum\":[1.0,2.5]}},"
              "\"required\":[\"b\",\"c\",\"d\"],\"additionalProperties\":false}");
    free(text);
    json_decref(schema);
    type_spec_destroy(spec);
}

/* ---- programs ---- */

static serverd_status read_program(const char *source, struct dsl_program **out,
                                   struct dsl_error *err)
{
    struct dsl_limits limits = dsl_limits_default();
    limits.cpu_ms = 1000;
    dsl_error_init(err);
    return dsl_program_read("react", source, strlen(source), &limits, out, err);
}

static const char full[] =
    "local call_tool = call_tool\n"
    "return program{\n"
    " doc = \"Answers.\", version = \"2\",\n"
    " args = {question = \"string\", max_steps = {type = \"int\", default = 4, max = 8}},\n"
    " returns = {type = \"list\", items = \"string\"},\n"
    " tools = {lookup = {doc = \"Look up.\", params = {term = \"string\"}},\n"
    "  add = {params = {x = \"float\"}, run = function(p) return p.x end}},\n"
    " defaults = {temperature = 0.5}, limits = {max_gens = 10, instructions = 5e6},\n"
    " main = function(s, a) return a.question end}\n";

static void a_program_is_read(void **state)
{
    (void)state;
    struct dsl_program *program;
    struct dsl_error err;
    if (read_program(full, &program, &err) != SERVERD_OK) {
        print_error("%d: %s\n", err.line, err.message);
        fail();
    }
    assert_string_equal(program->name, "react");
    assert_string_equal(program->doc, "Answers.");
    assert_string_equal(program->version, "2");
    assert_int_equal(strlen(program->sha256), 64);
    assert_int_equal(program->n_tools, 2);
    assert_false(dsl_program_tool(program, "add")->is_external);
    assert_true(dsl_program_tool(program, "lookup")->is_external);
    assert_null(dsl_program_tool(program, "other"));
    assert_int_equal(json_integer_value(json_object_get(program->limits, "max_gens")), 10);
    struct dsl_limits lowered = dsl_limits_default();
    serverd_error problem;
    assert_int_equal(dsl_limits_lower(&lowered, program->limits, &problem), SERVERD_OK);
    assert_int_equal(lowered.max_gens, 10);
    assert_int_equal(lowered.instructions, 5000000); /* a real in Lua, but a whole one */
    assert_non_null(program->returns);
    json_t *object = dsl_program_describe(program);
    assert_non_null(object);
    assert_non_null(json_object_get(json_object_get(object, "args_schema"), "properties"));
    json_decref(object);

    /* again, in the sandbox of a run */
    struct sandbox_limits limits = usual_limits();
    struct sandbox *sandbox;
    assert_int_equal(sandbox_create(&limits, &sandbox, &err), SERVERD_OK);
    lua_State *task;
    bool is_done = false;
    assert_int_equal(dsl_program_begin(program, sandbox, &task, &err), SERVERD_OK);
    while (!is_done)
        assert_int_equal(dsl_program_go_on(program, sandbox, task, &is_done, &err), SERVERD_OK);
    assert_int_equal(lua_getfield(sandbox_lua(sandbox), -1, "main"), LUA_TFUNCTION);
    sandbox_destroy(sandbox);
    dsl_program_ref(program);
    dsl_program_unref(program);
    dsl_program_unref(program);
    dsl_error_deinit(&err);
}

static void bad_programs_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *source, *code;
        int line;
    } cases[] = {
        {"", "bad_program", 0},
        {"return 1", "bad_program", 0},
        {"return {main = function() end}", "bad_program", 0},
        {"return program{}", "bad_program", 1},
        {"\nreturn program{main = 1}", "bad_program", 2},
        {"return program{main = function() end, extra = 1}", "bad_program", 1},
        {"return program{main = function() end, [1] = 1}", "bad_program", 1},
        {"return program(1)", "bad_program", 1},
        {"return program{main = function() end, args = {k = \"strin\"}}", "bad_program", 0},
        {"return program{main = function() end, args = {k = print}}", "bad_program", 0},
        {"return program{main = function() end, doc = 1}", "bad_program", 1},
        {"return program{main = function() end, tools = {1}}", "bad_program", 0},
        {"return program{main = function() end, tools = {[\"a b\"] = {}}}", "bad_program", 0},
        {"return program{main = function() end, tools = {a = {run = 1}}}", "bad_program", 0},
        {"return program{main = function() end, tools = {a = {other = 1}}}", "bad_program", 0},
        {"return program{main = function() end, tools = {a = {params = {x = 1}}}}", "bad_program",
         0},
        {"return program{main = function() end, limits = {max_gens = \"x\"}}", "bad_program", 0},
        {"return program{main = function() end, limits = {nope = 1}}", "bad_program", 0},
        {"return program{main = function() end, defaults = {1}}", "bad_program", 0},
        {"return program{main = function() end, doc = \"\\xff\"}", "bad_program", 0},
        {"local a = 1\nlocal = 2", "syntax_error", 2},
        {"return \"\xff\"", "syntax_error", 0},
        {"\x1bLua", "syntax_error", 0},
        {"local x = nil\nx.y = 1", "runtime_error", 2},
        {"while true do end", "instruction_limit", 1},
        {"local t = {} while true do t = {t} end", "memory_limit", 1},
        {"setmetatable({}, {__gc = print})", "runtime_error", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dsl_program *program;
        struct dsl_error err;
        if (read_program(cases[i].source, &program, &err) == SERVERD_OK ||
            strcmp(err.code, cases[i].code) != 0 ||
            (cases[i].line > 0 && err.line != cases[i].line) || strcmp(err.program, "react") != 0) {
            print_error("%s\n  gives %s, line %d of %s: %s\n", cases[i].source, err.code, err.line,
                        err.program, err.message);
            fail();
        }
        dsl_error_deinit(&err);
    }
    assert_true(dsl_program_name_is_valid("a-b_9"));
    assert_false(dsl_program_name_is_valid("../a"));
    assert_false(dsl_program_name_is_valid(""));
    assert_false(dsl_program_name_is_valid(
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
}

/* ---- limits ---- */

static void limits_only_fall(void **state)
{
    (void)state;
    struct dsl_limits limits = dsl_limits_default();
    serverd_error err;
    assert_int_equal(limits.instructions, 50000000);
    json_t *lower = json_loads("{\"max_gens\": 3, \"cpu_ms\": 99999999}", 0, NULL);
    assert_int_equal(dsl_limits_lower(&limits, lower, &err), SERVERD_OK);
    assert_int_equal(limits.max_gens, 3);
    assert_int_equal(limits.cpu_ms, 5000);
    json_decref(lower);
    static const char *const bad[] = {"{\"nope\": 1}", "{\"max_gens\": -1}", "{\"max_gens\": 1.5}",
                                      "{\"max_gens\": 1, \"memory_mb\": 0}", "[]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lower = json_loads(bad[i], 0, NULL);
        assert_int_equal(dsl_limits_lower(&limits, lower, &err), SERVERD_INVALID);
        assert_int_equal(limits.max_gens, 3);
        json_decref(lower);
    }
    assert_int_equal(dsl_limits_lower(&limits, NULL, &err), SERVERD_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_become_json),      cmocka_unit_test(values_without_json),
        cmocka_unit_test(views_cannot_be_changed), cmocka_unit_test(arguments_are_checked),
        cmocka_unit_test(bad_specs_are_refused),   cmocka_unit_test(schemas),
        cmocka_unit_test(a_program_is_read),       cmocka_unit_test(bad_programs_are_refused),
        cmocka_unit_test(limits_only_fall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
