#include "scheduler/inspect.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "scheduler/engine_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- life ------------------------------------------------------------------------------------ */

static bool take_memory(struct inspection *inspection, const struct runtime *runtime)
{
    const struct inspection_options *o = &inspection->options;
    if (o->kind == INSPECT_FLUSH)
        return true;
    if (o->kind == INSPECT_CACHE) {
        inspection->nodes = calloc(max_size(o->max_nodes, 1), sizeof *inspection->nodes);
        inspection->tokens = calloc(max_size(o->max_tokens, 1), sizeof *inspection->tokens);
        return inspection->nodes && inspection->tokens;
    }
    inspection->requests = calloc(LIMIT_INSPECT_REQUESTS, sizeof *inspection->requests);
    if (o->kind == INSPECT_REQUESTS)
        return inspection->requests != NULL;
    inspection->steps = calloc(max_size(o->max_steps, 1), sizeof *inspection->steps);
    serverd_error ignored; /* there is too little memory, as for the rest */
    return inspection->steps && inspection->requests &&
           (o->max_events == 0 || runtime_create_trace(runtime, o->max_events, o->max_steps,
                                                       &inspection->ops, &ignored) == SERVERD_OK);
}

static struct inspection *inspection_create(const struct inspection_options *options,
                                            const struct runtime *runtime)
{
    struct inspection *inspection = calloc(1, sizeof *inspection);
    if (!inspection)
        return NULL;
    inspection->options = *options;
    atomic_init(&inspection->is_cancelled, false);
    if (take_memory(inspection, runtime))
        return inspection;
    inspection_destroy(inspection);
    return NULL;
}

void inspection_destroy(struct inspection *inspection)
{
    if (!inspection)
        return;
    free(inspection->nodes);
    free(inspection->tokens);
    free(inspection->steps);
    free(inspection->requests);
    trace_destroy(inspection->ops);
    free(inspection);
}

/* ---- asking: any thread ---------------------------------------------------------------------- */

/* Needs the mutex. */
static serverd_status check_open(const struct engine *engine, enum inspection_kind kind,
                                 serverd_error *err)
{
    uint32_t n = 0;
    bool has_trace = false;
    for (const struct inspection *i = engine->inspections; i; i = i->next) {
        n++;
        has_trace |= i->options.kind == INSPECT_STEPS;
    }
    if (engine->is_stopping)
        return fail(err, SERVERD_UNSUPPORTED, "the server is shutting down");
    if (kind == INSPECT_STEPS && has_trace)
        return fail(err, SERVERD_BUSY, "another trace is being recorded");
    if (n >= LIMIT_INSPECTIONS)
        return fail(err, SERVERD_BUSY, "%u inspections are under way, at most %u allowed", n,
                    LIMIT_INSPECTIONS);
    return SERVERD_OK;
}

serverd_status engine_inspect(struct engine *engine, const struct inspection_options *options,
                              uint64_t *id, serverd_error *err)
{
    if (options->max_nodes > LIMIT_INSPECT_NODES || options->max_tokens > LIMIT_INSPECT_TOKENS ||
        options->max_steps > LIMIT_INSPECT_STEPS || options->max_events > LIMIT_TRACE_ALL_EVENTS)
        return fail(err, SERVERD_INVALID,
                    "inspection: %u nodes, %u tokens, %u steps, %u events, at most %u, %u, %u, %u "
                    "allowed",
                    options->max_nodes, options->max_tokens, options->max_steps,
                    options->max_events, LIMIT_INSPECT_NODES, LIMIT_INSPECT_TOKENS,
                    LIMIT_INSPECT_STEPS, LIMIT_TRACE_ALL_EVENTS);
    struct inspection *inspection = inspection_create(options, engine->options.runtime);
    if (!inspection)
        return fail(err, SERVERD_NOMEM, "no memory for an inspection");
    (void)pthread_mutex_lock(&engine->mutex);
    serverd_status status = check_open(engine, options->kind, err);
    if (!status) {
        *id = inspection->id = ++engine->last_id;
        inspection->next = engine->inspections;
        engine->inspections = inspection;
        atomic_store(&engine->has_inspections, true);
        engine_wake(engine);
    }
    (void)pthread_mutex_unlock(&engine->mutex);
    if (status)
        inspection_destroy(inspection);
    return status;
}

void engine_cancel_inspection(struct engine *engine, uint64_t id)
{
    for (struct inspection *i = engine->inspections; i; i = i->next)
        if (i->id == id) {
            atomic_store(&i->is_cancelled, true);
            engine_wake(engine);
        }
}

/* ---- the KV cache: engine thread ------------------------------------------------------------- */

struct cache_totals engine_cache_totals(const struct engine *engine)
{
    struct cache_totals totals = {
        .n_pages = page_pool_n_pages(engine->pool),
        .n_free = page_pool_n_free(engine->pool),
        .n_private = page_pool_n_private(engine->pool),
        .has_tree = engine->tree != NULL,
        .windows = page_pool_windows(engine->pool),
        .use = engine->use,
    };
    if (engine->tree) {
        totals.n_locked = radix_tree_n_locked(engine->tree);
        totals.n_evictable = radix_tree_n_pages(engine->tree) - totals.n_locked;
        totals.n_nodes = radix_tree_n_nodes(engine->tree);
        totals.tree = radix_tree_stats(engine->tree);
    }
    return totals;
}

/* Index + 1 of the node's parent: on the way from the beginning to the node before, which is given
 * up from its end, so that all nodes together take no more than two steps each. */
static uint32_t find_parent(const struct inspection *inspection, const struct radix_node *parent)
{
    uint32_t at = parent ? inspection->n_nodes : 0;
    while (at > 0 && inspection->nodes[at - 1].node != parent)
        at = inspection->nodes[at - 1].parent;
    return at;
}

static bool record_node(void *context, const struct radix_node_view *view)
{
    struct inspection *inspection = context;
    const struct inspection_options *o = &inspection->options;
    if (inspection->n_nodes == o->max_nodes) {
        inspection->is_cut = true;
        return false;
    }
    size_t n_ids = (size_t)view->n_pages * SERVERD_PAGE_TOKENS;
    n_ids = min_size(min_size(n_ids, o->tokens_per_node), o->max_tokens - inspection->n_tokens);
    const struct cache_node node = {
        .node = view->node,
        .space = view->space,
        .age = view->age,
        .parent = find_parent(inspection, view->parent),
        .n_pages = view->n_pages,
        .n_locks = view->n_locks,
        .first_token = inspection->n_tokens,
        .n_tokens = (uint32_t)n_ids,
        .kind = view->kind,
    };
    inspection->nodes[inspection->n_nodes++] = node;
    memcpy(inspection->tokens + inspection->n_tokens, view->tokens, n_ids * sizeof *view->tokens);
    inspection->n_tokens += (uint32_t)n_ids;
    return true;
}

static void record_cache(const struct engine *engine, struct inspection *inspection)
{
    inspection->totals = engine_cache_totals(engine);
    if (engine->tree)
        radix_tree_visit(engine->tree, record_node, inspection);
}

/* True: it is over; if the engine was not idle in time, with a failure. */
static bool flush(struct engine *engine, struct inspection *inspection, serverd_error *failure)
{
    const uint64_t wait_ns = inspection->options.duration_ns;
    const uint32_t n_waiting = atomic_load(&engine->shared.n_queued);
    if (inspection->begin_ns == 0)
        inspection->begin_ns = engine->now_ns;
    if (wait_ns == 0 || (!engine->live && n_waiting == 0)) {
        engine_forget_prefixes(engine);
        inspection->totals = engine_cache_totals(engine);
        return true;
    }
    if (engine->now_ns - inspection->begin_ns < wait_ns)
        return false;
    (void)fail(failure, SERVERD_BUSY, "%u sequences run and %u requests wait", engine->n_running,
               n_waiting);
    return true;
}

/* ---- steps: engine thread -------------------------------------------------------------------- */

void engine_trace_step(struct engine *engine)
{
    struct inspection *trace = engine->trace;
    if (trace->n_steps == trace->options.max_steps)
        return; /* cancelled meanwhile, perhaps */
    struct step_record *step = &trace->steps[trace->n_steps++];
    const struct cache_totals totals = engine_cache_totals(engine);
    *step = engine->step;
    step->n_prefill_rows = engine->is_encoder ? step->n_rows : engine->work.n_prefill;
    step->n_decode_rows = step->n_rows - step->n_prefill_rows;
    step->n_running = engine->n_running;
    step->n_waiting = atomic_load_explicit(&engine->shared.n_queued, memory_order_relaxed);
    step->n_free = totals.n_free;
    step->n_evictable = totals.n_evictable;
}

static void record_request(struct inspection *trace, const struct job *job)
{
    if (trace->n_requests == LIMIT_INSPECT_REQUESTS) {
        trace->n_requests_lost++;
        return;
    }
    trace->requests[trace->n_requests++] = (struct request_record){
        .id = job->request->id,
        .times = job->times,
        .n_prompt = job->request->n_prompt,
        .n_cached = job->n_cached,
        .n_output = job->n_output,
    };
}

void engine_trace_request(struct engine *engine, const struct job *job)
{
    record_request(engine->trace, job);
}

static void record_running(const struct engine *engine, struct inspection *inspection)
{
    for (const struct job *job = engine->live; job; job = job->live_next)
        if (!job->is_queued && !job->is_ending)
            record_request(inspection, job);
}

bool engine_trace_ends(const struct engine *engine)
{
    return engine->trace && engine->trace->options.duration_ns != UINT64_MAX;
}

static bool trace_is_over(const struct engine *engine, const struct inspection *trace)
{
    return trace->n_steps == trace->options.max_steps ||
           engine->now_ns - trace->begin_ns >= trace->options.duration_ns ||
           atomic_load(&engine->asks_drain);
}

/* What is not over yet is in it as it is now. */
static void finish_trace(struct engine *engine, struct inspection *inspection)
{
    inspection->end_ns = engine->now_ns;
    if (engine->step.emitted_ns > inspection->end_ns) /* the step that has just run */
        inspection->end_ns = engine->step.emitted_ns;
    for (const struct job *job = engine->live; job; job = job->live_next)
        engine_trace_request(engine, job);
}

/* Begins or goes on with the one trace; true: it has ended. */
static bool trace(struct engine *engine, struct inspection *inspection)
{
    if (!engine->trace) {
        engine->trace = inspection;
        inspection->begin_ns = engine->now_ns;
        runtime_set_trace(engine->options.runtime, inspection->ops);
    }
    if (!trace_is_over(engine, inspection))
        return false;
    finish_trace(engine, inspection);
    return true;
}

/* ---- answering: engine thread ---------------------------------------------------------------- */

static void forget(struct engine *engine, const struct inspection *inspection)
{
    (void)pthread_mutex_lock(&engine->mutex);
    struct inspection **link = &engine->inspections;
    while (*link != inspection)
        link = &(*link)->next;
    *link = inspection->next;
    if (!engine->inspections)
        atomic_store(&engine->has_inspections, false);
    (void)pthread_mutex_unlock(&engine->mutex);
    if (engine->trace != inspection)
        return;
    engine->trace = NULL;
    runtime_set_trace(engine->options.runtime, NULL);
}

/* Its one event; no error: it was made, or cancelled. */
static void end(struct engine *engine, struct inspection *inspection, const serverd_error *failure)
{
    forget(engine, inspection);
    struct event event = {
        .kind = EVENT_END,
        .request_id = inspection->id,
        .user = inspection->options.user,
        .token = -1,
        .stop_token = -1,
        .stop_index = -1,
        .is_cancelled = atomic_load(&inspection->is_cancelled),
    };
    if (failure) {
        event.status = failure->code;
        event.message = strdup(failure->text); /* NULL is legal */
    }
    if (failure || event.is_cancelled)
        inspection_destroy(inspection);
    else
        event.inspection = inspection;
    engine_event(engine, &event);
}

/* Those that are open now. */
static uint32_t list_open(struct engine *engine, struct inspection *open[LIMIT_INSPECTIONS])
{
    uint32_t n = 0;
    (void)pthread_mutex_lock(&engine->mutex);
    for (struct inspection *i = engine->inspections; i; i = i->next)
        open[n++] = i;
    (void)pthread_mutex_unlock(&engine->mutex);
    return n;
}

void engine_answer_inspections(struct engine *engine)
{
    struct inspection *open[LIMIT_INSPECTIONS];
    uint32_t n = list_open(engine, open);
    for (uint32_t i = 0; i < n; i++) {
        serverd_error failure = {.code = SERVERD_OK};
        bool is_over = atomic_load(&open[i]->is_cancelled);
        if (!is_over) {
            switch (open[i]->options.kind) {
            case INSPECT_CACHE:
                record_cache(engine, open[i]);
                is_over = true;
                break;
            case INSPECT_REQUESTS:
                record_running(engine, open[i]);
                is_over = true;
                break;
            case INSPECT_STEPS:
                is_over = trace(engine, open[i]);
                break;
            case INSPECT_FLUSH:
                is_over = flush(engine, open[i], &failure);
            }
        }
        if (is_over)
            end(engine, open[i], failure.code ? &failure : NULL);
    }
}

void engine_end_inspections(struct engine *engine, const serverd_error *failure)
{
    struct inspection *open[LIMIT_INSPECTIONS];
    uint32_t n = list_open(engine, open);
    for (uint32_t i = 0; i < n; i++) {
        bool has_steps = open[i] == engine->trace && open[i]->n_steps > 0;
        if (has_steps)
            finish_trace(engine, open[i]);
        end(engine, open[i], has_steps ? NULL : failure);
    }
}
