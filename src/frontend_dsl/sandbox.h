/* A Lua state for code that nobody trusts. Each run of a generation program has one: its memory is
 * capped, its instructions and processor time are counted, it can be stopped from any thread, and
 * it is advanced in slices.
 *
 *     worker thread                     sandbox                            program
 *     sandbox_begin_slice(1 ms)
 *     sandbox_resume(task) ───────────▶ lua_resume ──────────────────────▶ runs
 *       SANDBOX_SLICE   ◀── count hook: the slice is over ◀──────────────── every 500 instructions
 *       SANDBOX_YIELDED ◀── sandbox_yield of a native ◀──────────────────── s:gen{..}
 *       SANDBOX_DONE    ◀── the task returned
 *       SANDBOX_FAILED  ◀── an error that nobody caught, or a fatal one
 *
 * What the program sees: the globals of Lua that touch nothing outside (sandbox_base.c), `string`,
 * `table`, `math`, `utf8`, `json`, `program`. No coroutines, no loading of code, no finalizers.
 * Loops in C are the engine's own and charge what they do, as the count hook does not see them.
 * Everything is deterministic: pairs visits 1..#t, then sorted keys; no text tells an address.
 *
 * Fatal errors (instruction_limit, cpu_limit, memory_limit, and those of sandbox_stop) pass through
 * pcall and xpcall; nothing of the sandbox runs after one.
 *
 * One thread at a time, except sandbox_stop.
 *
 * Caveats
 *  - A function of the Lua API that can raise (all that push strings, make tables or threads, or
 *    call) may be called only inside a native, or inside sandbox_protect: outside there is nothing
 *    that catches the memory error, and the process would end.
 *  - So what an operation answers is pushed by its continuation, and tasks are resumed without
 *    arguments.
 *  - An error leaves a native by longjmp: what it holds must belong to Lua (a userdata), or be
 *    given back before. */
#ifndef FRONTEND_DSL_SANDBOX_H
#define FRONTEND_DSL_SANDBOX_H

#include "frontend_dsl/dsl_error.h"
#include "serverd/status.h"

#include <lua.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sandbox;

struct sandbox_limits {
    size_t memory_bytes;
    uint64_t instructions;
    uint64_t cpu_ns;
    /* Of all sandboxes together; NULL: not counted. It is also the gauge lua_memory_bytes. */
    _Atomic size_t *total_bytes;
    size_t total_limit;
};

/* Of a run, without the total. */
struct dsl_limits;
struct sandbox_limits sandbox_limits_of(const struct dsl_limits *limits);

/* What the program's environment does; all may be NULL. `L` is the task that calls. They may raise.
 */
struct sandbox_hooks {
    /* A line of `print`, without the newline. NULL: dropped. */
    void (*print)(void *context, lua_State *L, const char *text, size_t n);
    /* 64 random bits for math.random. NULL: a fixed stream. */
    uint64_t (*random)(void *context, lua_State *L);
    /* The path of the running branch, for error objects. NULL: none. */
    const char *(*branch)(void *context, lua_State *L);
    void *context;
};

struct sandbox_usage {
    uint64_t instructions, cpu_ns;
    size_t bytes, peak_bytes;
};

enum sandbox_progress {
    SANDBOX_DONE,    /* its results are on the task's stack */
    SANDBOX_YIELDED, /* by sandbox_yield */
    SANDBOX_SLICE,   /* the slice is over: resume again, without arguments */
    SANDBOX_FAILED,  /* the error: sandbox_error; unless it is fatal, the object lies on the
                        task's stack */
};

/* SERVERD_NOMEM: the cap is too low for an empty state, or there is no memory. */
serverd_status sandbox_create(const struct sandbox_limits *limits, struct sandbox **out,
                              struct dsl_error *err);
void sandbox_destroy(struct sandbox *sandbox);
void sandbox_set_hooks(struct sandbox *sandbox, const struct sandbox_hooks *hooks);

/* The main state: globals, registry. Programs never run on it. */
lua_State *sandbox_lua(const struct sandbox *sandbox);

/* The sandbox of any of its states. */
struct sandbox *sandbox_of(lua_State *L);

/* Calls fn with a light userdata `context` at index 1, on the main state, protected. Its results
 * (`n_results` of them) stay on the main state's stack. */
serverd_status sandbox_protect(struct sandbox *sandbox, lua_CFunction fn, void *context,
                               int n_results, struct dsl_error *err);

/* The same; the `n_args` values on top of the main state's stack are taken as further arguments. */
serverd_status sandbox_protect_with(struct sandbox *sandbox, lua_CFunction fn, void *context,
                                    int n_args, int n_results, struct dsl_error *err);

/* Loads a source text (never bytecode), runs it to its end in a task of its own and leaves its
 * first value on the main state's stack. `name` is what positions in errors begin with. Errors:
 * syntax_error, or what the chunk failed with; the chunk may not yield. */
serverd_status sandbox_load(struct sandbox *sandbox, const char *name, const char *source, size_t n,
                            struct dsl_error *err);

/* The same in slices: the text's task, to be gone on with until *is_done, or an error; then its
 * value is on the main state's stack. */
serverd_status sandbox_load_begin(struct sandbox *sandbox, const char *name, const char *source,
                                  size_t n, lua_State **task, struct dsl_error *err);
serverd_status sandbox_load_go_on(struct sandbox *sandbox, lua_State *task, bool *is_done,
                                  struct dsl_error *err);

/* From now on the calling thread has `ns` of its processor time for this sandbox: what runs longer
 * answers SANDBOX_SLICE. Call it on the thread that resumes. */
void sandbox_begin_slice(struct sandbox *sandbox, uint64_t ns);
/* It was over when the last resume came back. */
bool sandbox_slice_is_over(const struct sandbox *sandbox);

/* Starts `task` (a function below n_args arguments) or goes on behind its yield. After a fatal
 * error it runs nothing and fails. */
enum sandbox_progress sandbox_resume(struct sandbox *sandbox, lua_State *task, int n_args,
                                     int *n_results);

/* What a task failed with: the fatal error if there is one, else the object on top of its stack,
 * with the traceback of the task. */
void sandbox_error(struct sandbox *sandbox, lua_State *task, struct dsl_error *out);

/* Ends what runs, and all that would: from any thread, idempotent, the first one counts. `code`
 * (deadline_exceeded, cancelled, memory_limit) is a string that stays. */
void sandbox_stop(struct sandbox *sandbox, const char *code);

/* What an error of that code, which somebody stopped a run with, says. */
const char *sandbox_stop_message(const char *code);

/* The code of the fatal error, or NULL. */
const char *sandbox_fatal(const struct sandbox *sandbox);

struct sandbox_usage sandbox_usage(const struct sandbox *sandbox);

/* ---- for natives ---- */

/* Counts `n` instructions: one for each element or 16 bytes that a native walks over. Raises if a
 * limit is reached. */
void sandbox_charge(lua_State *L, uint64_t n);

/* Memory outside of Lua that lasts as long as something of the state's, a userdata mostly, counts
 * as the state's own: in its cap, in the total and as a reason to collect garbage. take raises
 * memory_limit, and then nothing is counted; give does not raise. */
void sandbox_take_memory(lua_State *L, size_t bytes);
void sandbox_give_memory(struct sandbox *sandbox, size_t bytes);

/* Yields to whoever resumed the task; `k` continues it and pushes the results. Raises
 * yield_not_allowed inside what cannot be left: comparators of table.sort, callbacks of
 * string.gsub, __tostring. Use as `return sandbox_yield(L, ctx, k)`. */
int sandbox_yield(lua_State *L, lua_KContext ctx, lua_KFunction k);

/* Raises an error object {code, message, line, branch}. */
int dsl_raise(lua_State *L, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));

/* The same; `detail` is the value on top of the stack, which is popped. */
int dsl_raise_with_detail(lua_State *L, const char *code, const char *format, ...)
    __attribute__((format(printf, 3, 4), noreturn));

/* Pushes *err as an error object, for errors that are raised (lua_error) or returned later. */
void dsl_error_push(lua_State *L, const struct dsl_error *err);

/* Pushes the value at idx as an error object: itself if it is one, else a text as a runtime_error
 * with its line. */
void dsl_error_push_object(lua_State *L, int idx);

/* Reads an error object or text at idx; no traceback. Does not raise. `out` was initialised. */
void dsl_error_read(lua_State *L, int idx, struct dsl_error *out);

/* Replaces a read-only view (dsl_json.h) at idx by the table that it shows, for raw access. */
void sandbox_look_through(lua_State *L, int idx);

/* The line in which the innermost function of the program is, or 0. */
int sandbox_line(lua_State *L);

/* Text of a value as tostring gives it, pushed; no addresses. */
const char *sandbox_tostring(lua_State *L, int idx, size_t *n);

#endif
