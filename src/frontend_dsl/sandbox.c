#include "frontend_dsl/sandbox_internal.h"

#include "base/clock.h"
#include "base/numeric.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/dsl_limits.h"
#include "frontend_dsl/dsl_program.h"

#include <lauxlib.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The count hook looks at the clock every so many instructions; oftener in a state with much
 * memory, where single instructions (a comparison of two long texts, a number read from one) take
 * milliseconds and cannot be charged. */
#define INTERVAL       500
#define INTERVAL_LARGE 50
#define LARGE_STATE    ((size_t)4 << 20)

/* Bytes allocated, with their share of collecting, after which the hook looks at the clock at once;
 * and those that count as an instruction. */
#define CHURN_BYTES           ((size_t)256 << 10)
#define CHURN_PER_INSTRUCTION 64

/* Charges of natives after which the clock is looked at. */
#define UNSEEN_CHARGES 2000

/* Of the total: taken in such pieces, so that threads seldom meet there. */
#define RESERVED_PIECE ((size_t)16 << 10)

static void on_count(lua_State *L, lua_Debug *ar);

struct sandbox *sandbox_of(lua_State *L)
{
    return *(struct sandbox **)lua_getextraspace(L);
}

lua_State *sandbox_lua(const struct sandbox *sandbox)
{
    return sandbox->main;
}

const char *sandbox_fatal(const struct sandbox *sandbox)
{
    return sandbox->fatal;
}

struct sandbox_usage sandbox_usage(const struct sandbox *sandbox)
{
    return (struct sandbox_usage){.instructions = sandbox->instructions,
                                  .cpu_ns = sandbox->cpu_ns,
                                  .bytes = sandbox->bytes,
                                  .peak_bytes = sandbox->peak_bytes};
}

void sandbox_set_hooks(struct sandbox *sandbox, const struct sandbox_hooks *hooks)
{
    sandbox->hooks = *hooks;
}

/* ---- memory ---- */

static int raise_memory_limit(lua_State *L) __attribute__((noreturn));

/* The hook is called at the next instruction. */
static void hurry(struct sandbox *sandbox)
{
    if (!sandbox->running || sandbox->is_hurried)
        return;
    sandbox->is_hurried = true;
    lua_sethook(sandbox->running, on_count, LUA_MASKCOUNT, 1);
}

/* `bytes` in all are within the state's cap and that of all states. */
static bool reserve(struct sandbox *sandbox, size_t bytes)
{
    const struct sandbox_limits *limits = &sandbox->limits;
    if (bytes > limits->memory_bytes)
        return false;
    if (!limits->total_bytes || bytes <= sandbox->reserved)
        return true;
    size_t piece =
        (bytes - sandbox->reserved + RESERVED_PIECE - 1) / RESERVED_PIECE * RESERVED_PIECE;
    size_t before = atomic_fetch_add_explicit(limits->total_bytes, piece, memory_order_relaxed);
    if (before + piece > limits->total_limit) {
        atomic_fetch_sub_explicit(limits->total_bytes, piece, memory_order_relaxed);
        return false;
    }
    sandbox->reserved += piece;
    return true;
}

static void give_back(struct sandbox *sandbox)
{
    if (!sandbox->limits.total_bytes || sandbox->reserved < sandbox->bytes + 4 * RESERVED_PIECE)
        return;
    size_t kept = sandbox->bytes + RESERVED_PIECE;
    atomic_fetch_sub_explicit(sandbox->limits.total_bytes, sandbox->reserved - kept,
                              memory_order_relaxed);
    sandbox->reserved = kept;
}

/* So many bytes more than before. */
static void count_memory(struct sandbox *sandbox, size_t bytes)
{
    sandbox->bytes += bytes;
    sandbox->peak_bytes = max_size(sandbox->peak_bytes, sandbox->bytes);
    sandbox->churn += bytes;
    if (sandbox->churn > CHURN_BYTES)
        hurry(sandbox);
}

/* ---- garbage ----
 *
 * With weak tables a program's values would depend on when garbage is collected, and a chain of
 * weak keys costs the collector the square of its length, in C. So there are none: `setmetatable`
 * refuses
 * __mode, and what is put into a metatable later is taken out before a collection begins. For that
 * Lua does not collect by itself: the hook does, and an allocation that fails, of which Lua then
 * collects everything. */

/* Keys of the registry: all metatables that a program has set, weak itself; the text "__mode". */
static const char metatables_key = 0, mode_key = 0;

#define COLLECT_AT_LEAST ((size_t)128 << 10)

void sandbox_watch_metatable(lua_State *L, int idx)
{
    idx = lua_absindex(L, idx);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &metatables_key);
    lua_pushvalue(L, idx);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

/* Allocates nothing, as it may be within an allocation. */
static void remove_modes(struct sandbox *sandbox)
{
    enum { METATABLES = 1, MODE, TABLE };
    lua_State *L = sandbox->keeper;
    if (!L)
        return;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &metatables_key);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &mode_key);
    lua_pushnil(L);
    while (lua_next(L, METATABLES)) {
        lua_settop(L, TABLE);
        lua_pushvalue(L, MODE);
        if (lua_rawget(L, TABLE) != LUA_TNIL) {
            lua_pushvalue(L, MODE);
            lua_pushnil(L);
            lua_rawset(L, TABLE);
        }
        lua_settop(L, TABLE);
    }
    lua_settop(L, 0);
}

static void collect(struct sandbox *sandbox, lua_State *L)
{
    remove_modes(sandbox);
    lua_gc(L, LUA_GCCOLLECT);
    sandbox->collect_at = max_size(COLLECT_AT_LEAST, 2 * sandbox->bytes);
}

static void open_garbage(lua_State *L)
{
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &metatables_key);
    lua_pushliteral(L, "__mode");
    lua_rawsetp(L, LUA_REGISTRYINDEX, &mode_key);
    lua_State *keeper = lua_newthread(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, keeper);
    sandbox_of(L)->keeper = keeper;
}

static void *allocate(void *context, void *block, size_t old_size, size_t size)
{
    struct sandbox *sandbox = context;
    if (!block)
        old_size = 0; /* it was the kind of what is made */
    if (size == 0) {
        free(block);
        sandbox->bytes -= old_size;
        give_back(sandbox);
        return NULL;
    }
    if (size > old_size && !reserve(sandbox, sandbox->bytes + (size - old_size))) {
        /* Lua collects all garbage now and asks again: a program that lives at its cap would do
         * little else. */
        sandbox->churn += sandbox->bytes;
        hurry(sandbox);
        remove_modes(sandbox);
        return NULL;
    }
    void *moved = realloc(block, size);
    if (!moved && size <= old_size)
        return block; /* one that shrinks is never refused */
    if (!moved) {
        remove_modes(sandbox);
        return NULL;
    }
    if (size > old_size)
        count_memory(sandbox, size - old_size);
    else
        sandbox->bytes -= old_size - size;
    return moved;
}

void sandbox_take_memory(lua_State *L, size_t bytes)
{
    struct sandbox *sandbox = sandbox_of(L);
    if (!reserve(sandbox, sandbox->bytes + bytes)) {
        collect(sandbox, L);
        if (!reserve(sandbox, sandbox->bytes + bytes))
            raise_memory_limit(L);
    }
    count_memory(sandbox, bytes);
}

void sandbox_give_memory(struct sandbox *sandbox, size_t bytes)
{
    sandbox->bytes -= bytes;
    give_back(sandbox);
}

/* ---- bounds ---- */

/* The first fatal error counts; its position is that of L. */
static void note_fatal_v(lua_State *L, const char *code, const char *format, va_list args)
{
    struct sandbox *sandbox = sandbox_of(L);
    struct dsl_error *err = &sandbox->fatal_error;
    char text[256];
    if (sandbox->fatal)
        return;
    vsnprintf(text, sizeof text, format, args);
    dsl_error_set(err, code, "%s", text);
    sandbox_position(L, err->program, &err->line);
    err->traceback = sandbox_traceback(L);
    const char *branch =
        sandbox->hooks.branch ? sandbox->hooks.branch(sandbox->hooks.context, L) : NULL;
    snprintf(err->branch, sizeof err->branch, "%s", branch ? branch : "");
    sandbox->fatal = code;
}

static void note_fatal(lua_State *L, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void note_fatal(lua_State *L, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    note_fatal_v(L, code, format, args);
    va_end(args);
}

/* Leaves a native for good. A task yields and is never resumed: nothing of it is unwound, which
 * would take the time of its depth at each of its pcalls, and no handler and no <close> runs. What
 * cannot yield raises up to where it can, and what is called on that way ends at its first
 * instruction. */
static int leave(lua_State *L) __attribute__((noreturn));

static int leave(lua_State *L)
{
    if (lua_isyieldable(L))
        lua_yieldk(L, 0, 0, NULL);
    lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
    lua_pushlightuserdata(L, sandbox_of(L));
    lua_error(L);
    __builtin_unreachable();
}

int sandbox_raise_fatal(lua_State *L, const char *code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    note_fatal_v(L, code, format, args);
    va_end(args);
    leave(L);
}

void sandbox_check_fatal(lua_State *L)
{
    if (sandbox_of(L)->fatal)
        leave(L);
}

static bool is_memory_error(lua_State *L, int status)
{
    /* The buffers of Lua's own library raise this text, as an ordinary error. */
    return status == LUA_ERRMEM || (lua_type(L, -1) == LUA_TSTRING &&
                                    strcmp(lua_tostring(L, -1), "not enough memory") == 0);
}

static int raise_memory_limit(lua_State *L)
{
    sandbox_raise_fatal(L, "memory_limit", "the program needs more than %zu MiB of memory",
                        sandbox_of(L)->limits.memory_bytes >> 20);
}

void sandbox_check_caught(lua_State *L, int status)
{
    if (is_memory_error(L, status))
        raise_memory_limit(L);
    sandbox_check_fatal(L);
}

void sandbox_check_memory(lua_State *L, size_t bytes)
{
    if (bytes > sandbox_of(L)->limits.memory_bytes)
        raise_memory_limit(L);
}

const char *sandbox_stop_message(const char *code)
{
    return strcmp(code, "deadline_exceeded") == 0 ? "the time of the run is over"
           : strcmp(code, "cancelled") == 0       ? "the run was cancelled"
           : strcmp(code, "cpu_limit") == 0       ? "the program computed for longer than cpu_ms"
           : strcmp(code, "memory_limit") == 0    ? "the events of the run need too much memory"
                                                  : code;
}

/* False if a bound is reached, which is noted; *now is the thread's processor time. */
static bool look(lua_State *L, uint64_t *now)
{
    struct sandbox *sandbox = sandbox_of(L);
    const struct sandbox_limits *limits = &sandbox->limits;
    const char *stop = atomic_load_explicit(&sandbox->stop, memory_order_acquire);
    *now = clock_now_ns(&processor_clock);
    sandbox->unseen = 0;
    if (stop)
        note_fatal(L, stop, "%s", sandbox_stop_message(stop));
    else if (sandbox->instructions > limits->instructions)
        note_fatal(L, "instruction_limit", "the program ran more than %llu instructions",
                   (unsigned long long)limits->instructions);
    else if (sandbox->cpu_ns + (*now - sandbox->resumed_ns) > limits->cpu_ns)
        note_fatal(L, "cpu_limit", "the program used more than %llu ms of processor time",
                   (unsigned long long)(limits->cpu_ns / 1000000u));
    return !sandbox->fatal;
}

static void on_count(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    struct sandbox *sandbox = sandbox_of(L);
    uint64_t now;
    sandbox->instructions += sandbox->is_hurried ? 1 : (uint64_t)sandbox->interval;
    if (sandbox->churn > CHURN_BYTES)
        sandbox->instructions += sandbox->churn / CHURN_PER_INSTRUCTION;
    sandbox->churn = 0;
    if (sandbox->bytes >= sandbox->collect_at)
        collect(sandbox, L);
    const bool is_fine = look(L, &now);
    const int interval = sandbox->bytes > LARGE_STATE ? INTERVAL_LARGE : INTERVAL;
    if (is_fine && (sandbox->is_hurried || sandbox->interval != interval)) {
        sandbox->is_hurried = false;
        sandbox->interval = interval;
        lua_sethook(L, on_count, LUA_MASKCOUNT, interval);
    }
    if (!lua_isyieldable(L)) {
        if (!is_fine)
            leave(L);
    } else if (!is_fine || now >= sandbox->slice_end_ns) {
        sandbox->slice_is_over = is_fine;
        lua_yield(L, 0); /* takes place when the hook returns */
    }
}

void sandbox_charge(lua_State *L, uint64_t n)
{
    struct sandbox *sandbox = sandbox_of(L);
    uint64_t now;
    sandbox->instructions += n;
    sandbox->unseen += n;
    if (sandbox->unseen < UNSEEN_CHARGES && sandbox->instructions <= sandbox->limits.instructions &&
        !sandbox->fatal)
        return;
    if (!look(L, &now))
        leave(L);
    if (now >= sandbox->slice_end_ns)
        hurry(sandbox);
}

void sandbox_note_work(lua_State *L, uint64_t n)
{
    struct sandbox *sandbox = sandbox_of(L);
    sandbox->instructions += n;
    sandbox->unseen += n;
    if (sandbox->unseen >= UNSEEN_CHARGES)
        hurry(sandbox);
}

int sandbox_yield(lua_State *L, lua_KContext ctx, lua_KFunction k)
{
    sandbox_check_fatal(L);
    if (!lua_isyieldable(L))
        dsl_raise(L, "yield_not_allowed",
                  "an operation that waits cannot be called in a comparator, a callback of gsub "
                  "or __tostring");
    return lua_yieldk(L, 0, ctx, k);
}

void sandbox_stop(struct sandbox *sandbox, const char *code)
{
    const char *none = NULL;
    atomic_compare_exchange_strong(&sandbox->stop, &none, code);
}

/* ---- life ---- */

static int open_all(lua_State *L)
{
    open_garbage(L);
    dsl_error_open(L);
    sandbox_open_base(L);
    dsl_json_open(L);
    dsl_program_open(L);
    return 0;
}

struct sandbox_limits sandbox_limits_of(const struct dsl_limits *limits)
{
    return (struct sandbox_limits){.memory_bytes = (size_t)limits->memory_mb << 20,
                                   .instructions = limits->instructions,
                                   .cpu_ns = (uint64_t)limits->cpu_ms * 1000000u};
}

serverd_status sandbox_create(const struct sandbox_limits *limits, struct sandbox **out,
                              struct dsl_error *err)
{
    struct sandbox *sandbox = calloc(1, sizeof *sandbox);
    if (!sandbox)
        goto no_memory;
    sandbox->limits = *limits;
    sandbox->interval = INTERVAL;
    sandbox->slice_end_ns = UINT64_MAX;
    sandbox->collect_at = SIZE_MAX;
    sandbox->main = lua_newstate(allocate, sandbox);
    if (!sandbox->main)
        goto no_memory;
    *(struct sandbox **)lua_getextraspace(sandbox->main) = sandbox;
    lua_sethook(sandbox->main, on_count, LUA_MASKCOUNT, INTERVAL);
    if (sandbox_protect(sandbox, open_all, NULL, 0, err) != SERVERD_OK)
        goto no_memory;
    lua_gc(sandbox->main, LUA_GCSTOP);
    collect(sandbox, sandbox->main);
    *out = sandbox;
    return SERVERD_OK;
no_memory:
    sandbox_destroy(sandbox);
    dsl_error_set(err, "memory_limit", "there is no memory for a Lua state");
    return SERVERD_NOMEM;
}

void sandbox_destroy(struct sandbox *sandbox)
{
    if (!sandbox)
        return;
    sandbox->running = sandbox->keeper = NULL;
    if (sandbox->main)
        lua_close(sandbox->main);
    if (sandbox->limits.total_bytes)
        atomic_fetch_sub_explicit(sandbox->limits.total_bytes, sandbox->reserved,
                                  memory_order_relaxed);
    dsl_error_deinit(&sandbox->fatal_error);
    free(sandbox);
}

/* ---- running ---- */

static void begin(struct sandbox *sandbox, lua_State *L)
{
    sandbox->running = L;
    sandbox->is_hurried = false;
    sandbox->slice_is_over = false;
    sandbox->resumed_ns = clock_now_ns(&processor_clock);
}

static void end(struct sandbox *sandbox)
{
    sandbox->ended_ns = clock_now_ns(&processor_clock);
    sandbox->cpu_ns += sandbox->ended_ns - sandbox->resumed_ns;
    sandbox->running = NULL;
}

/* A memory error that left Lua, as nothing in between catches errors. */
static void note_memory(lua_State *L)
{
    note_fatal(L, "memory_limit", "the program needs more than %zu MiB of memory",
               sandbox_of(L)->limits.memory_bytes >> 20);
}

void sandbox_begin_slice(struct sandbox *sandbox, uint64_t ns)
{
    uint64_t now = clock_now_ns(&processor_clock);
    sandbox->slice_end_ns = ns > UINT64_MAX - now ? UINT64_MAX : now + ns;
}

bool sandbox_slice_is_over(const struct sandbox *sandbox)
{
    return sandbox->ended_ns >= sandbox->slice_end_ns;
}

enum sandbox_progress sandbox_resume(struct sandbox *sandbox, lua_State *task, int n_args,
                                     int *n_results)
{
    *n_results = 0;
    const char *stop = atomic_load_explicit(&sandbox->stop, memory_order_acquire);
    if (stop)
        note_fatal(task, stop, "%s", sandbox_stop_message(stop));
    if (sandbox->fatal)
        return SANDBOX_FAILED;
    /* A task keeps its count across yields, so that no loop of short steps goes uncounted. */
    if (lua_gethook(task) != on_count || lua_gethookcount(task) != sandbox->interval)
        lua_sethook(task, on_count, LUA_MASKCOUNT, sandbox->interval);
    begin(sandbox, task);
    int status = lua_resume(task, sandbox->main, n_args, n_results);
    end(sandbox);
    if (status == LUA_OK)
        return SANDBOX_DONE;
    if (status == LUA_YIELD && !sandbox->fatal)
        return sandbox->slice_is_over ? SANDBOX_SLICE : SANDBOX_YIELDED;
    if (status != LUA_YIELD && is_memory_error(task, status))
        note_memory(task);
    return SANDBOX_FAILED;
}

void sandbox_error(struct sandbox *sandbox, lua_State *task, struct dsl_error *out)
{
    if (sandbox->fatal) {
        dsl_error_copy(out, &sandbox->fatal_error);
        return;
    }
    dsl_error_read(task, -1, out);
    if (!out->traceback)
        out->traceback = sandbox_traceback(task);
    if (out->line == 0)
        sandbox_position(task, out->program, &out->line);
}

serverd_status sandbox_protect(struct sandbox *sandbox, lua_CFunction fn, void *context,
                               int n_results, struct dsl_error *err)
{
    return sandbox_protect_with(sandbox, fn, context, 0, n_results, err);
}

serverd_status sandbox_protect_with(struct sandbox *sandbox, lua_CFunction fn, void *context,
                                    int n_args, int n_results, struct dsl_error *err)
{
    lua_State *L = sandbox->main;
    if (!lua_checkstack(L, n_results + LUA_MINSTACK)) {
        dsl_error_set(err, "memory_limit", "the Lua stack is full");
        lua_pop(L, n_args);
        return SERVERD_NOMEM;
    }
    lua_pushcfunction(L, fn);
    lua_pushlightuserdata(L, context);
    lua_rotate(L, -2 - n_args, 2);
    begin(sandbox, L);
    int status = lua_pcall(L, 1 + n_args, n_results, 0);
    end(sandbox);
    if (status == LUA_OK)
        return SERVERD_OK;
    if (is_memory_error(L, status))
        note_memory(L);
    sandbox_error(sandbox, L, err);
    lua_pop(L, 1);
    return sandbox->fatal ? SERVERD_NOMEM : SERVERD_INVALID;
}

/* ---- source texts ---- */

struct chunk {
    const char *name, *source;
    size_t n;
    lua_State *task;
};

/* Pushes a task with the chunk's function on its stack. */
static int make_chunk_task(lua_State *L)
{
    struct chunk *chunk = lua_touserdata(L, 1);
    char name[DSL_NAME_BYTES + 1];
    snprintf(name, sizeof name, "=%s", chunk->name);
    chunk->task = lua_newthread(L);
    if (luaL_loadbufferx(L, chunk->source, chunk->n, name, "t") != LUA_OK) {
        if (is_memory_error(L, LUA_OK))
            return lua_error(L);
        struct dsl_error err;
        dsl_error_init(&err);
        dsl_error_read(L, -1, &err);
        snprintf(err.code, sizeof err.code, "syntax_error");
        if (err.program[0] == '\0')
            snprintf(err.program, sizeof err.program, "%s", chunk->name);
        dsl_error_push(L, &err);
        dsl_error_deinit(&err);
        return lua_error(L);
    }
    lua_xmove(L, chunk->task, 1);
    return 1;
}

serverd_status sandbox_load_begin(struct sandbox *sandbox, const char *name, const char *source,
                                  size_t n, lua_State **task, struct dsl_error *err)
{
    struct chunk chunk = {.name = name, .source = source, .n = n};
    const serverd_status status = sandbox_protect(sandbox, make_chunk_task, &chunk, 1, err);
    if (status == SERVERD_OK)
        *task = chunk.task;
    return status;
}

serverd_status sandbox_load_go_on(struct sandbox *sandbox, lua_State *task, bool *is_done,
                                  struct dsl_error *err)
{
    lua_State *L = sandbox->main;
    int n_results;
    const enum sandbox_progress progress = sandbox_resume(sandbox, task, 0, &n_results);
    *is_done = progress != SANDBOX_SLICE;
    if (progress == SANDBOX_SLICE)
        return SERVERD_OK;
    if (progress == SANDBOX_DONE) {
        lua_settop(task, n_results > 0 ? lua_gettop(task) - n_results + 1 : 0);
        if (n_results == 0)
            lua_pushnil(task);
        lua_xmove(task, L, 1);
        lua_remove(L, -2); /* the task */
        return SERVERD_OK;
    }
    if (progress == SANDBOX_YIELDED)
        dsl_error_set(err, "yield_not_allowed",
                      "an operation that waits cannot be called outside of main");
    else
        sandbox_error(sandbox, task, err);
    lua_pop(L, 1);
    return sandbox->fatal ? SERVERD_NOMEM : SERVERD_INVALID;
}

serverd_status sandbox_load(struct sandbox *sandbox, const char *name, const char *source, size_t n,
                            struct dsl_error *err)
{
    lua_State *task;
    bool is_done = false;
    serverd_status status = sandbox_load_begin(sandbox, name, source, n, &task, err);
    while (status == SERVERD_OK && !is_done)
        status = sandbox_load_go_on(sandbox, task, &is_done, err);
    return status;
}
