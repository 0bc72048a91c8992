/* Runs that wait for outputs of external tools: answers, patience, and pages that are let go. */
#include "frontend_dsl/run_internal.h"

#include <stdlib.h>
#include <string.h>

bool dsl_run_post_tool_result(struct dsl_run *run, const char *call_id, const json_t *output,
                              const char *error)
{
    json_t *copy = output ? json_deep_copy(output) : NULL;
    char *text = output ? NULL : strdup(error ? error : "the tool has failed");
    struct dsl_tool_call *call;
    (void)pthread_mutex_lock(&run->lock);
    for (call = run->calls; call; call = call->next)
        if (strcmp(call->id, call_id) == 0)
            break;
    const bool is_pending = call && call->status == TOOL_WAITS && (copy || text);
    if (is_pending) {
        call->output = copy;
        call->error = text;
        call->status = copy ? TOOL_ANSWERED : TOOL_ERROR;
        copy = NULL;
        text = NULL;
        run_wake(run);
    }
    (void)pthread_mutex_unlock(&run->lock);
    json_decref(copy);
    free(text);
    return is_pending;
}

void run_take_tool_results(struct dsl_run *run)
{
    const uint64_t wait_ns = run->limits.tool_wait_s * UINT64_C(1000000000);
    const uint64_t now_ns = run->calls ? clock_now_ns(run->setup.clock) : 0;
    (void)pthread_mutex_lock(&run->lock);
    for (struct dsl_tool_call *call = run->calls; call; call = call->next) {
        if (call->status == TOOL_WAITS && now_ns - call->begin_ns >= wait_ns)
            call->status = TOOL_TIMEOUT;
        if (call->status != TOOL_WAITS && !call->is_seen) {
            call->is_seen = true;
            if (call->task)
                task_ready(call->task);
        }
    }
    (void)pthread_mutex_unlock(&run->lock);
}

bool run_waits_for_tools(const struct dsl_run *run)
{
    for (const struct dsl_tool_call *call = run->calls; call; call = call->next)
        if (call->task && !call->is_seen)
            return true;
    return false;
}

/* The engine may give the pages to others: the run waits for people. */
static void let_go(struct dsl_run *run)
{
    struct engine *engine = run->setup.model.engine;
    for (struct dsl_state *state = run->states; state; state = state->next) {
        if (!state->prefix || !state->prefix->handle)
            continue;
        engine_release_prefix(engine, state->prefix->handle);
        state->prefix->handle = 0;
    }
    run->has_let_go = true;
}

static uint64_t pins_end_ns(const struct dsl_run *run)
{
    return run->tools_since_ns + run->limits.tool_pin_s * UINT64_C(1000000000);
}

void run_note_tools(struct dsl_run *run, bool needs_tools)
{
    const uint64_t now_ns = clock_now_ns(run->setup.clock);
    if (needs_tools && !run->needs_tools) {
        run->tools_since_ns = now_ns;
        run->has_let_go = false;
    }
    run->needs_tools = needs_tools;
    if (needs_tools && !run->has_let_go && now_ns >= pins_end_ns(run))
        let_go(run);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t dsl_run_timer_ns(const struct dsl_run *run)
{
    uint64_t at_ns = run->has_queued && run->retry_ns ? run->retry_ns : UINT64_MAX;
    const uint64_t wait_ns = run->limits.tool_wait_s * UINT64_C(1000000000);
    if (run->is_ended)
        return UINT64_MAX;
    if (run->needs_tools && !run->has_let_go)
        at_ns = earlier(at_ns, pins_end_ns(run));
    for (const struct dsl_tool_call *call = run->calls; call; call = call->next)
        if (call->task && !call->is_seen)
            at_ns = earlier(at_ns, call->begin_ns + wait_ns);
    return at_ns;
}

void run_drop_calls(struct dsl_run *run)
{
    for (struct dsl_tool_call *call = run->calls, *next; call; call = next) {
        next = call->next;
        tool_call_destroy(call);
    }
}
