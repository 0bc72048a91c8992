#include "lua_fixture.h"

#include "frontend_dsl/dsl_json.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sandbox_limits usual_limits(void)
{
    return (struct sandbox_limits){
        .memory_bytes = (size_t)32 << 20, .instructions = 50000000, .cpu_ns = 1000000000u};
}

static char *error_text(const struct dsl_error *err)
{
    char position[DSL_MESSAGE_BYTES + 128], *text = NULL;
    dsl_error_text(err, position, sizeof position);
    if (asprintf(&text, "%s: %s", err->code, position) < 0)
        abort();
    return text;
}

struct load {
    const char *source;
    lua_State *task;
};

static int make_task(lua_State *L)
{
    struct load *load = lua_touserdata(L, 1);
    load->task = lua_newthread(L);
    if (luaL_loadbufferx(L, load->source, strlen(load->source), "=text", "t") != LUA_OK)
        return lua_error(L);
    lua_xmove(L, load->task, 1);
    return 1;
}

char *run_sliced(const struct sandbox_limits *limits, uint64_t slice_ns, const char *source,
                 struct dsl_error *err)
{
    struct sandbox *sandbox = NULL;
    struct dsl_error own;
    struct load load = {.source = source};
    int n_results;
    enum sandbox_progress progress;
    char *text;
    json_t *value = NULL;
    dsl_error_init(&own);
    err = err ? err : &own;
    assert_int_equal(sandbox_create(limits, &sandbox, err), SERVERD_OK);
    if (sandbox_protect(sandbox, make_task, &load, 1, err) != SERVERD_OK) {
        text = error_text(err);
        goto out;
    }
    do {
        sandbox_begin_slice(sandbox, slice_ns);
        progress = sandbox_resume(sandbox, load.task, 0, &n_results);
    } while (progress == SANDBOX_SLICE);
    if (progress == SANDBOX_FAILED) {
        sandbox_error(sandbox, load.task, err);
        text = error_text(err);
    } else {
        assert_int_equal(progress, SANDBOX_DONE);
        if (n_results == 0)
            lua_pushnil(load.task);
        if (dsl_json_read(load.task, n_results > 0 ? -n_results : -1, SIZE_MAX, "bad_return_value",
                          &value, err) == SERVERD_OK)
            text = dsl_json_text(value, NULL);
        else
            text = error_text(err);
    }
    json_decref(value);
out:
    sandbox_destroy(sandbox);
    dsl_error_deinit(&own);
    return text;
}

char *run_text(const struct sandbox_limits *limits, const char *source, struct dsl_error *err)
{
    return run_sliced(limits, UINT64_MAX, source, err);
}

void expect_text(const char *source, const char *value)
{
    struct sandbox_limits limits = usual_limits();
    char *text = run_text(&limits, source, NULL);
    if (strcmp(text, value) != 0) {
        print_error("%s\n  gives %s\n  not   %s\n", source, text, value);
        fail();
    }
    free(text);
}

void expect_error(const char *source, const char *code)
{
    struct sandbox_limits limits = usual_limits();
    struct dsl_error err;
    dsl_error_init(&err);
    char *text = run_text(&limits, source, &err);
    if (strcmp(err.code, code) != 0) {
        print_error("%s\n  gives %s\n  not   %s\n", source, text, code);
        fail();
    }
    free(text);
    dsl_error_deinit(&err);
}
