/* A run as JSON (section 9 of the specification). */
#include "frontend_dsl/run_internal.h"

#include <stdlib.h>
#include <string.h>

static const char *const status_names[] = {
    [DSL_STATUS_QUEUED] = "queued",
    [DSL_STATUS_RUNNING] = "running",
    [DSL_STATUS_REQUIRES_ACTION] = "requires_action",
    [DSL_STATUS_COMPLETED] = "completed",
    [DSL_STATUS_FAILED] = "failed",
    [DSL_STATUS_CANCELLED] = "cancelled",
};

static json_t *usage_object(const struct dsl_run *run)
{
    const struct dsl_usage *u = &run->usage;
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i}", "prompt_tokens",
        (json_int_t)u->prompt_tokens, "completion_tokens", (json_int_t)u->completion_tokens,
        "total_tokens", (json_int_t)(u->prompt_tokens + u->completion_tokens), "prefill_tokens",
        (json_int_t)u->prefill_tokens, "cached_tokens", (json_int_t)u->cached_tokens,
        "forced_tokens", (json_int_t)u->forced_tokens, "reprefilled_tokens",
        (json_int_t)u->reprefilled_tokens, "retokenized_tokens", (json_int_t)u->retokenized_tokens,
        "branches", (int)u->branches, "gens", (int)u->gens);
}

static json_t *error_object(const struct dsl_error *e)
{
    return json_pack("{s:s, s:s, s:s?, s:o, s:s?, s:s?, s:O?, s:O?}", "code", e->code, "message",
                     e->message, "param", e->param[0] ? e->param : NULL, "line",
                     e->line > 0 ? json_integer(e->line) : json_null(), "program",
                     e->program[0] ? e->program : NULL, "branch", e->branch[0] ? e->branch : NULL,
                     "traceback", e->traceback, "detail", e->detail);
}

static json_t *required_action(const struct dsl_run *run)
{
    json_t *list = json_array();
    for (const struct dsl_tool_call *call = run->calls; call; call = call->next)
        if (!call->is_seen)
            (void)json_array_append_new(list, json_pack("{s:s, s:s, s:O, s:s}", "id", call->id,
                                                        "name", call->name, "arguments",
                                                        call->arguments, "branch", call->branch));
    return json_pack("{s:o}", "tool_calls", list);
}

static int compare_steps(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The steps in which the operations of the trace had their first rows, sorted; NULL: no memory, or
 * there are none. */
static uint64_t *first_steps(const struct dsl_run *run)
{
    uint64_t *steps = run->n_trace > 0 ? malloc(run->n_trace * sizeof *steps) : NULL;
    for (uint32_t i = 0; steps && i < run->n_trace; i++)
        steps[i] = run->trace[i].first_step;
    if (steps)
        qsort(steps, run->n_trace, sizeof *steps, compare_steps);
    return steps;
}

/* How many of them are less than `step`. */
static uint32_t n_before(const uint64_t *steps, uint32_t n, uint64_t step)
{
    uint32_t low = 0;
    while (low < n) {
        const uint32_t middle = low + (n - low) / 2;
        if (steps[middle] < step)
            low = middle + 1;
        else
            n = middle;
    }
    return low;
}

/* Other operations of the run whose first rows ran in the same step. */
static uint32_t n_peers(const uint64_t *steps, uint32_t n, const struct dsl_trace *row)
{
    const uint64_t step = row->first_step;
    if (!steps || step == 0)
        return 0;
    return n_before(steps, n, step + 1) - n_before(steps, n, step) - 1;
}

static json_t *trace_list(const struct dsl_run *run)
{
    json_t *list = json_array();
    uint64_t *steps = first_steps(run);
    for (uint32_t i = 0; i < run->n_trace; i++) {
        const struct dsl_trace *t = &run->trace[i];
        (void)json_array_append_new(
            list, json_pack("{s:s, s:s, s:i, s:s?, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f}", "op",
                            dsl_op_names[t->kind], "branch", t->branch, "line", t->line, "name",
                            t->name, "prompt", (int)t->prompt, "reused", (int)t->reused, "prefill",
                            (int)t->prefill, "appended", (int)t->appended, "carry", (int)t->carry,
                            "completion", (int)t->completion, "batch_peers",
                            (int)n_peers(steps, run->n_trace, t), "ms",
                            (double)(t->end_ns - t->begin_ns) * 1e-6));
    }
    free(steps);
    return list;
}

static json_t *text_of_root(const struct dsl_run *run)
{
    struct buffer text;
    buffer_init(&text, LIMIT_DSL_OPEN_BYTES);
    if (run->root)
        state_text(run->root, &text);
    json_t *value = text.is_failed ? json_null() : json_stringn(buffer_str(&text), text.len);
    buffer_deinit(&text);
    return value;
}

json_t *dsl_run_object(const struct dsl_run *run, bool with_text, bool with_trace)
{
    const bool needs_tools = run->status == DSL_STATUS_REQUIRES_ACTION;
    json_t *object = json_pack(
        "{s:s, s:I, s:O?, s:O?, s:s%, s:o?, s:o?, s:o?}", "status", status_names[run->status],
        "seed", (json_int_t)run->setup.seed, "value", run->value, "variables", run->variables,
        "log", buffer_str(&run->log), run->log.len, "required_action",
        needs_tools ? required_action(run) : NULL, "usage", usage_object(run), "error",
        run->has_failed ? error_object(&run->error) : NULL);
    if (!object)
        return NULL;
    if (with_text)
        (void)json_object_set_new(object, "text", text_of_root(run));
    if (with_trace)
        (void)json_object_set_new(object, "trace", trace_list(run));
    return object;
}
