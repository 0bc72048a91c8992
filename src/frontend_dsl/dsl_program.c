#include "frontend_dsl/dsl_program.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/utf8.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/sandbox_internal.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Its address is the registry's key of the metatable that `program` sets. */
static const char program_meta = 0;

bool dsl_program_name_is_valid(const char *name)
{
    size_t n = strlen(name);
    return n >= 1 && n < DSL_NAME_BYTES &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == n;
}

static bool tool_name_is_valid(const char *name)
{
    size_t n = strlen(name);
    return n >= 1 && n <= 64 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == n;
}

/* ---- the global: what it is called with is the program ---- */

static const struct {
    const char *name;
    int type;
    bool is_spec; /* a name of a type would do, too */
} program_fields[] = {
    {"main", LUA_TFUNCTION, false},  {"args", LUA_TTABLE, false},   {"returns", LUA_TTABLE, true},
    {"tools", LUA_TTABLE, false},    {"doc", LUA_TSTRING, false},   {"version", LUA_TSTRING, false},
    {"defaults", LUA_TTABLE, false}, {"limits", LUA_TTABLE, false},
};
#define N_PROGRAM_FIELDS (sizeof program_fields / sizeof *program_fields)

/* The key is on top, its value behind it at `value`. */
static void check_program_field(lua_State *L, int key, int value)
{
    const char *name = lua_type(L, key) == LUA_TSTRING ? lua_tostring(L, key) : "?";
    for (size_t i = 0; i < N_PROGRAM_FIELDS; i++) {
        if (strcmp(program_fields[i].name, name) != 0)
            continue;
        int type = lua_type(L, value);
        if (type != program_fields[i].type && !(program_fields[i].is_spec && type == LUA_TSTRING))
            dsl_raise(L, "bad_program", "%s has to be a %s", name,
                      lua_typename(L, program_fields[i].type));
        return;
    }
    dsl_raise(L, "bad_program", "a program has no field %s", name);
}

static int global_program(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TTABLE || lua_getmetatable(L, 1))
        dsl_raise(L, "bad_program", "program takes one table");
    lua_settop(L, 1);
    lua_pushnil(L);
    while (lua_next(L, 1)) {
        check_program_field(L, 2, 3);
        lua_pop(L, 1);
    }
    lua_pushliteral(L, "main");
    if (lua_rawget(L, 1) == LUA_TNIL)
        dsl_raise(L, "bad_program", "a program needs the function main");
    lua_settop(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &program_meta);
    lua_setmetatable(L, 1);
    return 1;
}

void dsl_program_open(lua_State *L)
{
    lua_createtable(L, 0, 1);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &program_meta);
    lua_pushcfunction(L, global_program);
    lua_setglobal(L, "program");
}

/* ---- reading what it returned ---- */

struct reader {
    struct dsl_program *program;
    uint64_t deadline_ns;
    struct dsl_error *err;
    serverd_status status;
    json_t *value; /* of the field that is read */
};

/* A field of the table at idx as JSON in r->value, or NULL if it is nil. Raises on memory; the
 * value is the reader's. */
static bool read_field(lua_State *L, struct reader *r, int idx, const char *name)
{
    json_decref(r->value);
    r->value = NULL;
    lua_pushstring(L, name);
    if (lua_rawget(L, idx) != LUA_TNIL)
        r->status = dsl_json_read(L, -1, LIMIT_DSL_JSON_BYTES, "bad_program", &r->value, r->err);
    lua_pop(L, 1);
    if (r->status != SERVERD_OK) {
        char text[DSL_MESSAGE_BYTES];
        memcpy(text, r->err->message, sizeof text);
        dsl_error_set(r->err, "bad_program", "%s: %s", name, text);
    }
    return r->status == SERVERD_OK;
}

static bool fail_program(struct reader *r, const char *name, const char *problem)
{
    dsl_error_set(r->err, "bad_program", "%s %s", name, problem);
    r->status = SERVERD_INVALID;
    return false;
}

static bool no_memory(struct reader *r)
{
    dsl_error_set(r->err, "memory_limit", "there is no memory for the program");
    r->status = SERVERD_NOMEM;
    return false;
}

static bool read_text(lua_State *L, struct reader *r, int idx, const char *name, char **out)
{
    if (!read_field(L, r, idx, name))
        return false;
    if (r->value && !json_is_string(r->value))
        return fail_program(r, name, "has to be a text");
    *out = strdup(r->value ? json_string_value(r->value) : "");
    return *out || no_memory(r);
}

/* {} of Lua is an empty object here. */
static bool read_object(lua_State *L, struct reader *r, int idx, const char *name, json_t **out)
{
    if (!read_field(L, r, idx, name))
        return false;
    bool is_empty = !r->value || (json_is_array(r->value) && json_array_size(r->value) == 0);
    if (!is_empty && !json_is_object(r->value))
        return fail_program(r, name, "has to have names as keys");
    *out = is_empty ? json_object() : json_incref(r->value);
    return *out || no_memory(r);
}

static bool read_specs(lua_State *L, struct reader *r, int idx, const char *name,
                       struct type_spec **out)
{
    if (!read_field(L, r, idx, name))
        return false;
    r->status = type_spec_read_fields(r->value, name, r->deadline_ns, out, r->err);
    return r->status == SERVERD_OK;
}

static bool read_limits(lua_State *L, struct reader *r, int idx)
{
    struct dsl_limits limits = dsl_limits_default();
    serverd_error problem;
    if (!read_object(L, r, idx, "limits", &r->program->limits))
        return false;
    r->status = dsl_limits_lower(&limits, r->program->limits, &problem);
    if (r->status != SERVERD_OK)
        dsl_error_set(r->err, "bad_program", "%s", problem.text);
    return r->status == SERVERD_OK;
}

/* The tool whose table is at idx. */
static bool read_tool(lua_State *L, struct reader *r, int idx, const char *name,
                      struct dsl_tool *tool)
{
    if (!(tool->name = strdup(name)))
        return no_memory(r);
    lua_pushnil(L);
    while (lua_next(L, idx)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
        bool is_known = strcmp(key, "doc") == 0 || strcmp(key, "params") == 0 ||
                        (strcmp(key, "run") == 0 && lua_isfunction(L, -1));
        lua_pop(L, 1);
        if (!is_known) {
            lua_pop(L, 1);
            return fail_program(r, name, "is a tool, which has doc, params and a function run");
        }
    }
    lua_pushliteral(L, "run");
    tool->is_external = lua_rawget(L, idx) == LUA_TNIL;
    lua_pop(L, 1);
    return read_text(L, r, idx, "doc", &tool->doc) &&
           read_specs(L, r, idx, "params", &tool->params);
}

static int compare_tools(const void *a, const void *b)
{
    return strcmp(((const struct dsl_tool *)a)->name, ((const struct dsl_tool *)b)->name);
}

static bool read_tools(lua_State *L, struct reader *r, int idx)
{
    struct dsl_program *program = r->program;
    lua_pushliteral(L, "tools");
    if (lua_rawget(L, idx) == LUA_TNIL) {
        lua_pop(L, 1);
        return true;
    }
    const int tools = lua_gettop(L);
    size_t n = 0;
    for (lua_pushnil(L); lua_next(L, tools); lua_pop(L, 1))
        n++;
    if (n > LIMIT_TOOLS)
        return fail_program(r, "tools", "are too many");
    program->tools = calloc(n + 1, sizeof *program->tools);
    if (!program->tools)
        return no_memory(r);
    bool is_fine = true;
    lua_pushnil(L);
    while (is_fine && lua_next(L, tools)) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
        if (!tool_name_is_valid(name) || !lua_istable(L, -1))
            is_fine = fail_program(r, "tools", "has to be {NAME = {doc, params, run}}");
        else
            is_fine = read_tool(L, r, lua_gettop(L), name, &program->tools[program->n_tools++]);
        lua_pop(L, 1);
    }
    lua_settop(L, tools - 1);
    if (is_fine)
        qsort(program->tools, program->n_tools, sizeof *program->tools, compare_tools);
    return is_fine;
}

static bool read_returns(lua_State *L, struct reader *r, int idx)
{
    if (!read_field(L, r, idx, "returns") || !r->value)
        return r->status == SERVERD_OK;
    r->status = type_spec_read(r->value, "returns", r->deadline_ns, &r->program->returns, r->err);
    return r->status == SERVERD_OK;
}

static bool is_program(lua_State *L, int idx)
{
    if (lua_type(L, idx) != LUA_TTABLE || !lua_getmetatable(L, idx))
        return false;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &program_meta);
    bool is_one = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is_one;
}

/* Reads the program's table; the outcome is in the reader. */
static int read_protected(lua_State *L)
{
    struct reader *r = lua_touserdata(L, 1);
    struct dsl_program *program = r->program;
    const int idx = 2;
    if (!is_program(L, idx)) {
        fail_program(r, "the text", "has to return program{..}");
        return 0;
    }
    (void)(read_text(L, r, idx, "doc", &program->doc) &&
           read_text(L, r, idx, "version", &program->version) &&
           read_specs(L, r, idx, "args", &program->args) && read_returns(L, r, idx) &&
           read_object(L, r, idx, "defaults", &program->defaults) && read_limits(L, r, idx) &&
           read_tools(L, r, idx));
    return 0;
}

/* ---- life ---- */

static void destroy(struct dsl_program *program)
{
    if (!program)
        return;
    free(program->source);
    free(program->version);
    free(program->doc);
    type_spec_destroy(program->args);
    type_spec_destroy(program->returns);
    for (size_t i = 0; i < program->n_tools; i++) {
        free(program->tools[i].name);
        free(program->tools[i].doc);
        type_spec_destroy(program->tools[i].params);
    }
    free(program->tools);
    json_decref(program->defaults);
    json_decref(program->limits);
    free(program);
}

struct dsl_program *dsl_program_ref(struct dsl_program *program)
{
    atomic_fetch_add_explicit(&program->n_references, 1, memory_order_relaxed);
    return program;
}

void dsl_program_unref(struct dsl_program *program)
{
    if (program && atomic_fetch_sub_explicit(&program->n_references, 1, memory_order_acq_rel) == 1)
        destroy(program);
}

static struct dsl_program *make(const char *name, const char *source, size_t n)
{
    struct dsl_program *program = calloc(1, sizeof *program);
    uint8_t digest[32];
    if (!program)
        return NULL;
    atomic_init(&program->n_references, 1);
    program->source = malloc(n + 1);
    if (!program->source) {
        destroy(program);
        return NULL;
    }
    memcpy(program->source, source, n);
    program->source[n] = '\0';
    program->n_source = n;
    snprintf(program->name, sizeof program->name, "%s", name);
    sha256_bytes(source, n, digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(program->sha256 + 2 * i, 3, "%02x", digest[i]);
    return program;
}

/* Runs the text and reads its table. */
static serverd_status run_and_read(struct dsl_program *program, struct sandbox *sandbox,
                                   struct dsl_error *err)
{
    struct reader r = {.program = program,
                       .err = err,
                       .deadline_ns = clock_now_ns(&processor_clock) + LIMIT_DSL_PATTERNS_NS};
    serverd_status status =
        sandbox_load(sandbox, program->name, program->source, program->n_source, err);
    if (status != SERVERD_OK)
        return status;
    status = sandbox_protect_with(sandbox, read_protected, &r, 1, 0, err);
    json_decref(r.value);
    return status != SERVERD_OK ? status : r.status;
}

serverd_status dsl_program_read(const char *name, const char *source, size_t n,
                                const struct dsl_limits *limits, struct dsl_program **out,
                                struct dsl_error *err)
{
    const struct sandbox_limits bounds = sandbox_limits_of(limits);
    struct sandbox *sandbox = NULL;
    if (utf8_valid_run(source, n) != n) {
        dsl_error_set(err, "syntax_error", "the text is no UTF-8 at byte %zu",
                      utf8_valid_run(source, n));
        snprintf(err->program, sizeof err->program, "%s", name);
        return SERVERD_INVALID;
    }
    struct dsl_program *program = make(name, source, n);
    if (!program) {
        dsl_error_set(err, "memory_limit", "there is no memory for the program");
        return SERVERD_NOMEM;
    }
    serverd_status status = sandbox_create(&bounds, &sandbox, err);
    if (status == SERVERD_OK)
        status = run_and_read(program, sandbox, err);
    sandbox_destroy(sandbox);
    if (status == SERVERD_OK) {
        *out = program;
        return SERVERD_OK;
    }
    if (err->program[0] == '\0')
        snprintf(err->program, sizeof err->program, "%s", name);
    destroy(program);
    return status;
}

serverd_status dsl_program_begin(const struct dsl_program *program, struct sandbox *sandbox,
                                 lua_State **task, struct dsl_error *err)
{
    return sandbox_load_begin(sandbox, program->name, program->source, program->n_source, task,
                              err);
}

serverd_status dsl_program_go_on(const struct dsl_program *program, struct sandbox *sandbox,
                                 lua_State *task, bool *is_done, struct dsl_error *err)
{
    const serverd_status status = sandbox_load_go_on(sandbox, task, is_done, err);
    if (status != SERVERD_OK || !*is_done)
        return status;
    if (is_program(sandbox_lua(sandbox), -1))
        return SERVERD_OK;
    lua_pop(sandbox_lua(sandbox), 1); /* a text that does not return the same always */
    dsl_error_set(err, "bad_program", "the text has to return program{..}");
    snprintf(err->program, sizeof err->program, "%s", program->name);
    return SERVERD_INVALID;
}

const struct dsl_tool *dsl_program_tool(const struct dsl_program *program, const char *name)
{
    for (size_t i = 0; i < program->n_tools; i++)
        if (strcmp(program->tools[i].name, name) == 0)
            return &program->tools[i];
    return NULL;
}

/* ---- description ---- */

static json_t *published_schema(const struct type_spec *spec)
{
    json_t *schema = spec ? type_spec_schema(spec) : json_object();
    json_object_set_new(schema, "$schema",
                        json_string("https://json-schema.org/draft/2020-12/schema"));
    return schema;
}

json_t *dsl_program_describe(const struct dsl_program *program)
{
    json_t *tools = json_array();
    for (size_t i = 0; i < program->n_tools; i++) {
        const struct dsl_tool *tool = &program->tools[i];
        json_array_append_new(tools,
                              json_pack("{s:s, s:s, s:o, s:b}", "name", tool->name, "doc",
                                        tool->doc, "parameters", type_spec_schema(tool->params),
                                        "external", (int)tool->is_external));
    }
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:O, s:O}", "name", program->name,
                     "version", program->version, "doc", program->doc, "sha256", program->sha256,
                     "args_schema", published_schema(program->args), "returns_schema",
                     published_schema(program->returns), "tools", tools, "defaults",
                     program->defaults, "limits", program->limits);
}
