/* The inside of a run: its tasks, groups of them, and what natives need to find.
 *
 *   task    a coroutine: main, a branch's function, an item of parallel
 *   group   tasks that were started together: what fork, map and parallel give
 *
 * Everything belongs to the worker that advances the run, but for the mailbox. Functions that take
 * a lua_State are for natives and may raise; the others raise nothing. */
#ifndef FRONTEND_DSL_RUN_INTERNAL_H
#define FRONTEND_DSL_RUN_INTERNAL_H

#include "frontend_dsl/operation_internal.h"
#include "frontend_dsl/run.h"
#include "frontend_dsl/sandbox.h"
#include "frontend_dsl/state_internal.h"

#include <lauxlib.h>
#include <pthread.h>

struct dsl_group;
struct dsl_tool_call;

/* A program whose functions run: the run's own, and those that call() runs. */
struct dsl_module {
    struct dsl_program *program; /* a reference */
    int table;     /* what its text returned, a Lua reference; LUA_NOREF: it did not run yet */
    bool is_named; /* found by call() */
    struct dsl_module *next;
};

enum dsl_task_status { TASK_READY, TASK_BLOCKED, TASK_DONE, TASK_FAILED, TASK_CANCELLED };

struct dsl_task {
    struct dsl_run *run;
    struct dsl_task *next, **link; /* the run's list, in order of creation */
    enum dsl_task_status status;
    struct dsl_task *creator; /* NULL: main, or it has ended */
    struct dsl_branch own;    /* without a state: an item of parallel */
    struct dsl_state *state;  /* a reference: a branch's; NULL: there is none */
    lua_State *co;
    int thread;                 /* the Lua reference that keeps co */
    int n_args;                 /* of the first resume */
    struct dsl_op *op;          /* it waits for, or made last */
    struct dsl_group *joins;    /* it waits for */
    struct dsl_tool_call *tool; /* it waits for */
    struct dsl_group *group;    /* it is member `index` of; a reference; NULL: main */
    uint32_t index;
    uint64_t number;     /* of the run's tasks so far */
    uint32_t n_children; /* whose creator it is */
    uint32_t call_depth;
    struct dsl_module *module;
    uint64_t n_random;
    uint64_t idle_since_ns; /* its last operation ended; 0: it has none */
};

struct dsl_member {
    struct dsl_task *task;   /* NULL: not begun, or ended */
    struct dsl_state *state; /* a reference; NULL: of parallel */
    bool has_begun;
    enum dsl_task_status status; /* at its end */
    /* What its function returned, or its error, lies on this stack, whose only owner it is. */
    lua_State *co;
    int thread;
    char *path; /* of its branch, if it failed; NULL: no memory */
};

struct dsl_group {
    struct dsl_run *run;
    uint32_t n_refs, n;
    struct dsl_member *member;
    struct dsl_state *parent;             /* a reference; NULL: of parallel */
    uint32_t n_running, n_done, n_failed; /* n_done: those that returned */
    struct dsl_task *joiner;
    uint32_t first;    /* so many that are done are enough; 0: all */
    bool keeps_errors; /* one that failed does not end the others */
};

enum tool_call_status { TOOL_WAITS, TOOL_ANSWERED, TOOL_ERROR, TOOL_TIMEOUT };

/* Of an external tool. */
struct dsl_tool_call {
    struct dsl_tool_call *next;
    char id[32];
    char *name;
    json_t *arguments;
    char *branch;
    struct dsl_task *task;
    enum tool_call_status status; /* under the mailbox's lock */
    json_t *output;
    char *error;
    uint64_t begin_ns;
    bool is_seen; /* by the worker */
};

void tool_call_destroy(struct dsl_tool_call *call);
void tool_call_abandon(struct dsl_tool_call *call); /* nobody waits for it any more */

struct dsl_mail {
    struct event *event;
    uint32_t n, cap;
};

struct dsl_run {
    struct dsl_run_setup setup;
    struct dsl_limits limits;
    json_t *args, *sampling;
    int32_t begin_token; /* of the model; -1: it has none */
    struct sandbox *sandbox;
    enum dsl_run_status status;
    bool has_begun, is_over, is_ended,
        needs_tools; /* over: main has ended, or the run has failed */
    uint64_t begin_ns;

    lua_State *text; /* the task that runs the program's text; NULL: it has not begun, or is over */
    struct dsl_task *tasks, **last_task;
    struct dsl_task *maybe_ready; /* none before it is ready; NULL: none at all */
    uint32_t n_tasks;
    uint64_t n_tasks_made;
    struct dsl_task *current; /* that runs now */
    struct dsl_task *sliced;  /* whose slice was over: it goes on first */
    struct dsl_task *main;
    struct dsl_op *ops, **last_op;
    struct dsl_state *states, **last_state;
    struct dsl_state *root; /* a reference */
    struct dsl_module *modules;
    uint32_t n_outstanding; /* operations that the engine has */
    bool has_queued;        /* operations that it has not */
    uint32_t n_live_states; /* not released */
    bool has_failed;        /* `error` is why; the rest is being cancelled */
    uint64_t retry_ns;      /* of those; 0: now */
    struct dsl_tool_call *calls, **last_call;
    uint32_t n_calls, n_chat_calls; /* so far, for ids */
    uint64_t tools_since_ns;        /* all wait for tools since; 0: they do not */
    bool has_let_go;                /* and the pins went */

    json_t *value, *variables; /* of the root state, as they were last read */
    uint64_t n_chunk_random;   /* numbers drawn before main */
    struct dsl_error error;
    struct buffer log;
    bool log_is_full;
    struct dsl_usage usage;
    uint64_t n_ops[DSL_N_OPS];
    uint64_t n_reserved; /* tokens that operations in flight may make */
    struct dsl_trace *trace;
    uint32_t n_trace, trace_cap;
    uint64_t gaps[64];
    uint32_t n_gaps;
    struct score_memo *own_memo;

    /* Between threads. */
    pthread_mutex_t lock;
    struct dsl_mail mail;     /* events that wait */
    struct op_request *ended; /* and requests that have ended, the last one first */
    bool lost_mail;           /* no memory for an event */
    bool is_woken;
    const char *stop_code; /* NULL: nobody has stopped it */
};

/* ---- natives ---- */

struct dsl_run *run_of(lua_State *L);
struct dsl_task *task_of(lua_State *L); /* that runs now */
const char *task_path(const struct dsl_task *task);
struct dsl_branch *task_branch(struct dsl_task *task);

/* Blocks the task until `op` has ended; then k, with the operation in task->op. */
int task_wait_op(lua_State *L, struct dsl_op *op, lua_KContext ctx, lua_KFunction k);

/* Event of the stream, with an object as json_pack makes it and `branch`: nothing is made if nobody
 * listens, so the format takes over no reference (no `o`). */
void run_emit(struct dsl_run *run, const char *event, const char *branch, const char *format, ...);
bool run_is_heard(const struct dsl_run *run);
bool run_streams(const struct dsl_run *run, const char *name);

/* Raises memory_limit. */
int raise_memory(lua_State *L) __attribute__((noreturn));
/* Raises what a library function failed with, under the code. */
int raise_status(lua_State *L, const char *code, const serverd_error *err)
    __attribute__((noreturn));

/* A task whose function and n_args arguments lie on top of L's stack; they are popped. It is member
 * `index` of the group (NULL: main). */
struct dsl_task *task_create(lua_State *L, struct dsl_run *run, struct dsl_group *group,
                             uint32_t index, int n_args);
/* Before n tasks are made: raises branch_limit if that is too many. */
void tasks_check_room(lua_State *L, uint32_t n);
/* It never goes on; what it waits for is abandoned. */
void task_cancel(struct dsl_task *task);
void task_ready(struct dsl_task *task);
/* Resumes those that are ready until none is; false: the slice is over before. */
bool tasks_run(struct dsl_run *run);
bool tasks_have_ready(struct dsl_run *run);

/* Of groups what tasks need (group_internal.h). */
void group_unref(struct dsl_group *group);
void group_member_ended(struct dsl_task *task, enum dsl_task_status status);

/* The mailbox (run_mail.c). wake: inside of its lock. */
void run_wake(struct dsl_run *run);
void run_take_mail(struct dsl_run *run);
void run_drop_mail(struct dsl_run *run);

/* External tools (run_wait.c). take: tasks whose answer has come, or whose patience is over, are
 * ready. note: at the end of an advance, whether all tasks wait for tools. */
void run_take_tool_results(struct dsl_run *run);
bool run_waits_for_tools(const struct dsl_run *run);
void run_note_tools(struct dsl_run *run, bool needs_tools);
void run_drop_calls(struct dsl_run *run);

/* The run fails: its tasks are cancelled; the first error counts. */
void run_fail(struct dsl_run *run, struct dsl_error *error);

/* Seeds (seed.c). */
uint64_t seed_of_operation(const struct dsl_branch *branch, uint64_t number);
uint64_t seed_of_lua(const struct dsl_branch *branch, uint64_t number);

/* Functions for the sandbox's globals and the methods, once per Lua state. */
void run_open_globals(lua_State *L);

#endif
