/* Any bytes as a program's text, twice: read as a program, and run in slices. It ends within its
 * limits, with a value or an error that has a code, and gives all memory back. */
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/dsl_program.h"
#include "frontend_dsl/sandbox.h"

#include <lauxlib.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct chunk {
    const char *source;
    size_t n;
    lua_State *task;
};

static int make_task(lua_State *L)
{
    struct chunk *chunk = lua_touserdata(L, 1);
    chunk->task = lua_newthread(L);
    if (luaL_loadbufferx(L, chunk->source, chunk->n, "=fuzz", "t") != LUA_OK)
        return lua_error(L);
    lua_xmove(L, chunk->task, 1);
    return 1;
}

static void run(struct sandbox *sandbox, lua_State *task, struct dsl_error *err)
{
    int n_results;
    enum sandbox_progress progress;
    json_t *value;
    do {
        sandbox_begin_slice(sandbox, 0);
        progress = sandbox_resume(sandbox, task, 0, &n_results);
    } while (progress == SANDBOX_SLICE);
    if (progress == SANDBOX_YIELDED)
        abort(); /* there is nothing to wait for */
    if (progress == SANDBOX_FAILED) {
        sandbox_error(sandbox, task, err);
        if (err->code[0] == '\0')
            abort();
    } else if (n_results > 0 &&
               dsl_json_read(task, -1, 1 << 20, "bad_return_value", &value, err) == SERVERD_OK) {
        free(dsl_json_text(value, NULL));
        json_decref(value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _Atomic size_t total = 0;
    struct dsl_limits run_limits = dsl_limits_default();
    run_limits.instructions = 200000;
    run_limits.memory_mb = 4;
    struct sandbox_limits limits = sandbox_limits_of(&run_limits);
    struct chunk chunk = {.source = (const char *)data, .n = size};
    struct sandbox *sandbox;
    struct dsl_program *program;
    struct dsl_error err;
    if (size > 65536)
        return 0;
    dsl_error_init(&err);
    limits.total_bytes = &total;
    limits.total_limit = limits.memory_bytes;
    if (sandbox_create(&limits, &sandbox, &err) != SERVERD_OK)
        abort();
    if (sandbox_protect(sandbox, make_task, &chunk, 1, &err) == SERVERD_OK)
        run(sandbox, chunk.task, &err);
    sandbox_destroy(sandbox);
    if (atomic_load(&total) != 0)
        abort();
    if (dsl_program_read("fuzz", (const char *)data, size, &run_limits, &program, &err) ==
        SERVERD_OK) {
        json_decref(dsl_program_describe(program));
        dsl_program_unref(program);
    } else if (err.code[0] == '\0') {
        abort();
    }
    dsl_error_deinit(&err);
    return 0;
}
