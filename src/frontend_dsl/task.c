/* Tasks: coroutines that yield in operations. Those of a run never run at the same time. */
#include "frontend_dsl/run_internal.h"

#include "base/limits.h"

#include <lauxlib.h>
#include <stdlib.h>

/* What a task costs that is so short that the count hook does not see it. */
#define TASK_INSTRUCTIONS 250

static void link_task(struct dsl_run *run, struct dsl_task *task)
{
    task->link = run->last_task;
    *run->last_task = task;
    run->last_task = &task->next;
    task->number = run->n_tasks_made++;
    run->n_tasks++;
    if (task->creator)
        task->creator->n_children++;
}

static void unlink_task(struct dsl_task *task)
{
    struct dsl_run *run = task->run;
    *task->link = task->next;
    if (task->next)
        task->next->link = task->link;
    else
        run->last_task = task->link;
    if (run->maybe_ready == task)
        run->maybe_ready = task->next;
    run->n_tasks--;
    if (task->creator)
        task->creator->n_children--;
}

static void note_ready(struct dsl_task *task)
{
    struct dsl_run *run = task->run;
    task->status = TASK_READY;
    if (!run->maybe_ready || task->number < run->maybe_ready->number)
        run->maybe_ready = task;
}

void tasks_check_room(lua_State *L, uint32_t n)
{
    const struct dsl_run *run = run_of(L);
    if (n > LIMIT_DSL_TASKS - run->n_tasks)
        dsl_raise(L, "branch_limit", "more than %u tasks at a time", LIMIT_DSL_TASKS);
}

struct dsl_task *task_create(lua_State *L, struct dsl_run *run, struct dsl_group *group,
                             uint32_t index, int n_args)
{
    struct dsl_task *creator = run->current;
    struct dsl_state *state = group ? group->member[index].state : NULL;
    tasks_check_room(L, 1);
    sandbox_charge(L, TASK_INSTRUCTIONS);
    lua_State *co = lua_newthread(L);
    lua_insert(L, -n_args - 2);
    struct dsl_branch own = {0};
    if (!state && creator && !branch_init(&own, task_branch(creator), run->setup.seed))
        dsl_raise(L, "branch_limit", "branches are more than %u deep", LIMIT_DSL_DEPTH);
    struct dsl_task *task = calloc(1, sizeof *task);
    if (!task || !lua_checkstack(co, n_args + LUA_MINSTACK)) {
        branch_deinit(&own);
        free(task);
        raise_memory(L);
    }
    *task = (struct dsl_task){.run = run,
                              .status = TASK_BLOCKED, /* until it is complete */
                              .creator = creator,
                              .own = own,
                              .thread = LUA_NOREF,
                              .co = co,
                              .n_args = n_args,
                              .group = group,
                              .index = index,
                              .call_depth = creator ? creator->call_depth : 0,
                              .module = creator ? creator->module : run->modules};
    link_task(run, task);
    if (group) {
        group->n_refs++;
        group->n_running++;
        group->member[index].task = task;
        group->member[index].has_begun = true;
    }
    if (state) {
        task->state = state_ref(state);
        state->task = task;
    }
    lua_xmove(L, co, n_args + 1);
    task->thread = luaL_ref(L, LUA_REGISTRYINDEX);
    note_ready(task);
    if (task->own.path) /* as a fork says of its branches */
        run_emit(run, "branch.created", task->own.path, "{s:s}", "parent", task_path(creator));
    return task;
}

struct dsl_branch *task_branch(struct dsl_task *task)
{
    if (task->state)
        return &task->state->branch;
    return task->own.path ? &task->own : &task->run->root->branch;
}

const char *task_path(const struct dsl_task *task)
{
    return task_branch((struct dsl_task *)task)->path;
}

void task_ready(struct dsl_task *task)
{
    if (task->status == TASK_BLOCKED)
        note_ready(task);
}

/* Not of its operation, and not of the stack that its result lies on. */
static void task_destroy(struct dsl_task *task)
{
    struct dsl_run *run = task->run;
    if (run->sliced == task)
        run->sliced = NULL;
    if (run->current == task)
        run->current = NULL;
    if (run->main == task)
        run->main = NULL;
    if (task->joins && task->joins->joiner == task)
        task->joins->joiner = NULL;
    if (task->tool)
        tool_call_abandon(task->tool);
    if (task->state) {
        if (task->state->task == task)
            task->state->task = NULL;
        state_unref(task->state);
    }
    unlink_task(task);
    branch_deinit(&task->own);
    group_unref(task->group);
    free(task);
}

static const char *const status_names[] = {
    [TASK_DONE] = "completed", [TASK_FAILED] = "failed", [TASK_CANCELLED] = "cancelled"};

static struct dsl_task *child_of(const struct dsl_task *task)
{
    for (struct dsl_task *other = task->next; other; other = other->next)
        if (other->creator == task)
            return other;
    return NULL;
}

/* Tasks that it has started may go on without it, if it has returned. */
static void part_with_children(struct dsl_task *task)
{
    while (task->n_children > 0) {
        struct dsl_task *child = child_of(task);
        child->creator = NULL;
        task->n_children--;
        if (task->status != TASK_DONE)
            task_cancel(child);
    }
}

static void task_end(struct dsl_task *task, enum dsl_task_status status)
{
    struct dsl_run *run = task->run;
    task->status = status;
    part_with_children(task);
    if (task->op)
        op_abandon(task->op);
    if (task != run->main)
        run_emit(run, "branch.done", task_path(task), "{s:s}", "status", status_names[status]);
    if (task->group)
        group_member_ended(task, status); /* takes the stack over */
    else
        luaL_unref(sandbox_lua(run->sandbox), LUA_REGISTRYINDEX, task->thread);
    task_destroy(task);
}

void task_cancel(struct dsl_task *task)
{
    if (task == task->run->current)
        task->status = TASK_CANCELLED; /* it is on the stack: it ends when it yields */
    else
        task_end(task, TASK_CANCELLED);
}

/* ---- running --------------------------------------------------------------------------------- */

static struct dsl_task *next_ready(struct dsl_run *run)
{
    if (run->sliced)
        return run->sliced;
    while (run->maybe_ready && run->maybe_ready->status != TASK_READY)
        run->maybe_ready = run->maybe_ready->next;
    return run->maybe_ready;
}

bool tasks_have_ready(struct dsl_run *run)
{
    return next_ready(run) != NULL;
}

static void main_ended(struct dsl_run *run, struct dsl_task *task, enum sandbox_progress progress)
{
    struct dsl_error error;
    dsl_error_init(&error);
    if (progress == SANDBOX_FAILED) {
        sandbox_error(run->sandbox, task->co, &error);
        run_fail(run, &error);
    } else {
        run->is_over = true;
    }
    if (run->main)
        task_end(run->main, progress == SANDBOX_FAILED ? TASK_FAILED : TASK_DONE);
}

/* False: the slice is over. */
static bool resume(struct dsl_run *run, struct dsl_task *task)
{
    int n_results;
    const int n_args = task->n_args;
    struct dsl_error error;
    task->n_args = 0;
    run->sliced = NULL;
    run->current = task;
    const enum sandbox_progress progress =
        sandbox_resume(run->sandbox, task->co, n_args, &n_results);
    run->current = NULL;
    const bool is_fatal = sandbox_fatal(run->sandbox) != NULL;
    if (is_fatal && progress != SANDBOX_DONE) {
        dsl_error_init(&error);
        sandbox_error(run->sandbox, task->co, &error);
        run_fail(run, &error);
    } else if (progress == SANDBOX_SLICE && task->status == TASK_READY) {
        run->sliced = task;
        return false;
    } else if (task->status == TASK_CANCELLED) { /* by itself */
        task_end(task, TASK_CANCELLED);
    } else if (progress == SANDBOX_YIELDED) {
        ; /* the native has said what it waits for */
    } else if (task == run->main) {
        main_ended(run, task, progress);
    } else {
        task_end(task, progress == SANDBOX_DONE ? TASK_DONE : TASK_FAILED);
    }
    return true;
}

bool tasks_run(struct dsl_run *run)
{
    for (struct dsl_task *task; !run->is_over && (task = next_ready(run));) {
        if (!resume(run, task))
            return false;
        if (sandbox_slice_is_over(run->sandbox) && !run->is_over && tasks_have_ready(run))
            return false;
    }
    return true;
}

/* ---- waiting --------------------------------------------------------------------------------- */

int task_wait_op(lua_State *L, struct dsl_op *op, lua_KContext ctx, lua_KFunction k)
{
    if (lua_isyieldable(L)) { /* else it raises */
        op_queue(op);
        task_of(L)->status = TASK_BLOCKED;
    }
    return sandbox_yield(L, ctx, k);
}
