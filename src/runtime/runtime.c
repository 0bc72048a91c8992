#include "runtime/runtime.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/numeric.h"
#include "runtime/adapters.h"
#include "runtime/identity_internal.h"
#include "runtime/instances.h"
#include "runtime/kv_size_internal.h"
#include "runtime/memory_internal.h"
#include "runtime/runtime_internal.h"
#include "runtime/steps.h"
#include "runtime/stored_plan.h"
#include "runtime/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct runtime {
    struct program *program;
    struct worker_pool *pool;
    const struct clock *clock;
    serverd_host host;
    void (*log)(void *context, int level, const char *text);
    void *log_context;
    void (*meanwhile)(void *context); /* NULL: nobody has anything to do */
    void *meanwhile_context;
    struct trace *trace;        /* NULL: nobody looks */
    struct runtime_peers peers; /* n 0: no other ranks */
    /* Whole steps. Tracing is reached through pointers alone, which runtime_set_trace sets: a
     * program that never calls it does without. */
    serverd_status (*run)(struct runtime *runtime, const serverd_batch *batch, float *out,
                          serverd_error *err);
    serverd_limits limits;
    serverd_kv_spec kv_spec;

    struct placement *placement;
    struct instances instances;
    struct weights weights;
    struct steps steps;
    struct kv_size kv_size;
    uint32_t window; /* tokens of the widest in window pages; 0: there are none */
    bool has_identity;
    struct sha256 identity; /* of the tensors, then of all; if it is wanted */
    char device_text[256];
};

/* ---- what delegates are lent --------------------------------------------------------------- */

static void host_log(void *context, int level, const char *text)
{
    struct runtime *runtime = context;
    if (runtime->log)
        runtime->log(runtime->log_context, level, text);
}

static void host_parallel_for(void *context, uint32_t n_chunks,
                              void (*fn)(void *arg, uint32_t chunk, uint32_t worker), void *arg)
{
    struct runtime *runtime = context;
    worker_pool_run(runtime->pool, n_chunks, fn, arg);
}

static uint64_t host_now_ns(void *context)
{
    struct runtime *runtime = context;
    return clock_now_ns(runtime->clock);
}

static serverd_status run(struct runtime *runtime, const serverd_batch *batch, float *out,
                          serverd_error *err)
{
    return steps_run(&runtime->steps, batch, out, err);
}

/* ---- KV pages ------------------------------------------------------------------------------ */

static uint32_t widest_window(const serverd_kv_spec *spec)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < spec->n_layers; i++)
        widest = (uint32_t)max_size(widest, spec->layers[i].window);
    return widest;
}

/* Of the device that has the least: all stores grow with the same number of pages. */
static uint64_t least_free_bytes(const struct runtime *runtime)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < runtime->instances.n; i++) {
        const struct instance *item = &runtime->instances.items[i];
        const struct placement_device *device = &runtime->placement->devices[item->device];
        if (item->spec.n_layers > 0)
            least = min_size(least, device->device.free_bytes / device->n_sharing);
    }
    return least;
}

static serverd_status size_kv(struct runtime *runtime, const struct runtime_options *options,
                              serverd_error *err)
{
    const serverd_limits *limits = &runtime->limits;
    if (options->n_pages > 0) {
        runtime->kv_size =
            kv_size_of(&runtime->instances.bytes, options->n_pages, options->n_window_pages);
        if (options->n_window_pages > 0)
            runtime->window = widest_window(&runtime->kv_spec);
        return SERVERD_OK;
    }
    struct kv_demand demand = {.bytes = runtime->instances.bytes,
                               .window_share = options->window_share,
                               .max_context = limits->max_context,
                               .max_seqs = limits->max_seqs,
                               .kv_bytes = options->kv_bytes,
                               .free_bytes = least_free_bytes(runtime)};
    const uint32_t n_ranks = options->collective ? options->collective->n_ranks : 1;
    if (options->free_bytes > 0)
        demand.free_bytes = min_size(demand.free_bytes, options->free_bytes / n_ranks);
    if (options->wants_window_pages)
        demand.window = widest_window(&runtime->kv_spec);
    serverd_status status = kv_size_find(&demand, &runtime->kv_size, err);
    if (status == SERVERD_OK && runtime->kv_size.n_window_pages > 0)
        runtime->window = demand.window;
    return status;
}

/* What the identity has beside the tensors. */
static serverd_status finish_identity(struct runtime *runtime, serverd_error *err)
{
    if (!instances_can_export(&runtime->instances))
        return SERVERD_OK;
    struct sha256 *identity = &runtime->identity;
    identity_add_graph(identity, &runtime->program->graph, runtime->limits.max_context);
    serverd_status status =
        identity_add_instances(identity, &runtime->instances, runtime->placement, err);
    if (status != SERVERD_OK)
        return status;
    const uint64_t bytes[] = {runtime->kv_size.page_bytes, runtime->kv_size.window_page_bytes};
    sha256_update(identity, bytes, sizeof bytes); /* window pages lie apart, or not */
    sha256_update(identity, PROJECT_VERSION, sizeof PROJECT_VERSION);
    runtime->has_identity = true;
    return SERVERD_OK;
}

/* Who keeps which layers, in how many pages. */
static serverd_status plan_kv(struct runtime *runtime, const struct runtime_options *options,
                              uint32_t *failed, serverd_error *err)
{
    runtime->kv_spec = runtime->program->kv;
    runtime->window = 0;
    runtime->has_identity = false;
    if (runtime->kv_spec.n_layers == 0)
        return SERVERD_OK;
    runtime->kv_spec.struct_bytes = sizeof runtime->kv_spec;
    runtime->kv_spec.dtype = options->kv_dtype;
    runtime->kv_spec.page_tokens = SERVERD_PAGE_TOKENS;
    serverd_status status = instances_divide_kv(&runtime->instances, runtime->placement,
                                                &runtime->kv_spec, failed, err);
    if (status != SERVERD_OK)
        return status;
    *failed = PLACEMENT_NO_DEVICE; /* too little memory is the user's affair */
    return size_kv(runtime, options, err);
}

static serverd_status create_kv(struct runtime *runtime, const struct runtime_options *options,
                                uint32_t *failed, serverd_error *err)
{
    serverd_status status = plan_kv(runtime, options, failed, err);
    if (status != SERVERD_OK || runtime->kv_spec.n_layers == 0)
        return status;
    if (options->wants_kv_identity)
        status = finish_identity(runtime, err);
    return status == SERVERD_OK ? instances_create_kv(&runtime->instances, runtime->kv_size.n_pages,
                                                      runtime->kv_size.n_window_pages, failed, err)
                                : status;
}

/* ---- life ---------------------------------------------------------------------------------- */

static serverd_status load(struct runtime *runtime, uint32_t *failed, serverd_error *err)
{
    serverd_status status = steps_create(&runtime->steps, runtime->placement, &runtime->instances,
                                         &runtime->limits, err);
    for (uint32_t p = 0; p < runtime->placement->n_partitions && status == SERVERD_OK; p++) {
        struct step_part *part = &runtime->steps.parts[p];
        const struct instance *item = part->instance;
        *failed = item->device;
        status = item->delegate->load(item->instance, &runtime->program->graph, part->view,
                                      weights_of(&runtime->weights, &runtime->instances, item),
                                      &runtime->limits, item->kv ? &item->spec : NULL,
                                      &part->handle, err);
    }
    return status;
}

static struct weights_source source_of(struct runtime *runtime,
                                       const struct runtime_options *options)
{
    return (struct weights_source){.program = runtime->program,
                                   .placement = runtime->placement,
                                   .instances = &runtime->instances,
                                   .pool = runtime->pool,
                                   .identity =
                                       options->wants_kv_identity ? &runtime->identity : NULL,
                                   .progress = options->progress,
                                   .progress_context = options->progress_context};
}

/* Adds up what the model takes instead of taking it. */
static serverd_status measure(struct runtime *runtime, const struct runtime_options *options,
                              struct runtime_memory *memory, uint32_t *failed, serverd_error *err)
{
    *memory = (struct runtime_memory){0};
    const struct weights_source source = source_of(runtime, options);
    serverd_status status = weights_measure(&source, memory, err);
    if (status == SERVERD_OK)
        status = plan_kv(runtime, options, failed, err);
    if (status != SERVERD_OK)
        return status;
    memory_add_program(memory, runtime->program);
    memory->kv = runtime_kv_total_bytes(runtime);
    return memory_add_partitions(memory, runtime->placement, &runtime->instances, &runtime->limits,
                                 err);
}

/* All that stands on a placement, or, with `or_null`, what it takes. *failed: the device that would
 * not, NO_DEVICE if it was not one. */
static serverd_status build(struct runtime *runtime, const struct runtime_options *options,
                            struct runtime_memory *or_null, uint32_t *failed, serverd_error *err)
{
    bool is_device;
    stored_plans_use(runtime->placement, runtime->program, &runtime->limits);
    serverd_status status =
        instances_open(&runtime->instances, runtime->placement, failed, &is_device, err);
    if (status != SERVERD_OK && !is_device)
        *failed = PLACEMENT_NO_DEVICE;
    if (status != SERVERD_OK)
        return status;
    *failed = PLACEMENT_NO_DEVICE;
    if (or_null)
        return measure(runtime, options, or_null, failed, err);
    sha256_init(&runtime->identity);
    const struct weights_source source = source_of(runtime, options);
    status = weights_pack(&source, &runtime->weights, err);
    if (status == SERVERD_OK)
        status = create_kv(runtime, options, failed, err);
    if (status == SERVERD_OK)
        status = load(runtime, failed, err);
    return status;
}

static void tear_down(struct runtime *runtime)
{
    steps_destroy(&runtime->steps);
    instances_close(&runtime->instances);
    weights_free(&runtime->weights);
}

/* The nodes of a device that will not work go to the next ones. */
static serverd_status go_on_without(struct runtime *runtime, const struct runtime_options *options,
                                    uint32_t device, serverd_error *err)
{
    const serverd_error reason = *err;
    const char *name = runtime->placement->devices[device].name;
    serverd_status status = placement_without(runtime->placement, device, &reason, err);
    if (status != SERVERD_OK)
        return status;
    char text[sizeof reason.text + 128];
    (void)snprintf(text, sizeof text, "%s is not used, its nodes go to others: %s", name,
                   reason.text);
    host_log(runtime, LOG_WARN, text);
    if (options->fell_back)
        options->fell_back(options->fell_back_context);
    return SERVERD_OK;
}

static void describe(struct runtime *runtime)
{
    size_t at = 0;
    for (uint32_t i = 0; i < runtime->instances.n && at < sizeof runtime->device_text; i++) {
        const struct placement_device *device =
            &runtime->placement->devices[runtime->instances.items[i].device];
        int n = snprintf(runtime->device_text + at, sizeof runtime->device_text - at,
                         "%s%s (%.64s)", i ? " + " : "", device->name, device->device.name);
        at += n > 0 ? (size_t)n : 0;
    }
}

static serverd_status open_parts(struct runtime *runtime, const struct runtime_options *options,
                                 struct runtime_memory *or_null, serverd_error *err)
{
    const struct placement_options placing = {.delegates = options->delegates,
                                              .n_delegates = options->n_delegates,
                                              .device = options->device,
                                              .place = options->place,
                                              .host = &runtime->host,
                                              .program = runtime->program};
    serverd_status status =
        placement_create(&runtime->program->graph, &placing, &runtime->placement, err);
    while (status == SERVERD_OK) {
        uint32_t failed;
        status = build(runtime, options, or_null, &failed, err);
        if (status == SERVERD_OK)
            break;
        tear_down(runtime);
        if (failed == PLACEMENT_NO_DEVICE)
            return status;
        status = go_on_without(runtime, options, failed, err);
    }
    if (status == SERVERD_OK)
        describe(runtime);
    return status;
}

static serverd_status start(struct program *program, const struct runtime_options *options,
                            struct runtime_memory *or_null, struct runtime **out,
                            serverd_error *err)
{
    if (program->graph.n_nodes == 0)
        return fail(err, SERVERD_UNSUPPORTED, "the file holds a vocabulary and no model");
    struct runtime *runtime = calloc(1, sizeof *runtime);
    if (!runtime)
        return fail(err, SERVERD_NOMEM, "no memory for the runtime");
    runtime->program = program_ref(program);
    runtime->pool = options->pool;
    runtime->clock = options->clock ? options->clock : &system_clock;
    runtime->log = options->log;
    runtime->log_context = options->log_context;
    runtime->limits = options->limits;
    runtime->limits.struct_bytes = sizeof runtime->limits;
    runtime->run = run;
    runtime->host = (serverd_host){.struct_bytes = sizeof runtime->host,
                                   .n_workers = worker_pool_n_workers(options->pool),
                                   .context = runtime,
                                   .log = host_log,
                                   .parallel_for = host_parallel_for,
                                   .now_ns = host_now_ns,
                                   .collective = options->collective};
    serverd_status status = open_parts(runtime, options, or_null, err);
    if (status != SERVERD_OK) {
        runtime_close(runtime);
        return status;
    }
    *out = runtime;
    return SERVERD_OK;
}

serverd_status runtime_open(struct program *program, const struct runtime_options *options,
                            struct runtime **out, serverd_error *err)
{
    return start(program, options, NULL, out, err);
}

serverd_status runtime_predict(struct program *program, const struct runtime_options *options,
                               struct runtime_memory *out, serverd_error *err)
{
    struct runtime_memory memory;
    struct runtime *runtime = NULL;
    serverd_status status = start(program, options, &memory, &runtime, err);
    if (status != SERVERD_OK)
        return status;
    runtime_close(runtime);
    *out = memory;
    return SERVERD_OK;
}

void runtime_close(struct runtime *runtime)
{
    if (!runtime)
        return;
    if (runtime->peers.close)
        runtime->peers.close(runtime->peers.context);
    tear_down(runtime);
    placement_destroy(runtime->placement);
    program_unref(runtime->program);
    free(runtime);
}

/* ---- use ----------------------------------------------------------------------------------- */

void runtime_set_peers(struct runtime *runtime, const struct runtime_peers *peers)
{
    runtime->peers = *peers;
}

const char *runtime_delegate_of(const struct runtime *runtime, uint32_t node)
{
    const struct placement *placement = runtime->placement;
    return placement->devices[placement->chosen[node]].delegate->name;
}

uint32_t runtime_n_pages(const struct runtime *runtime)
{
    return runtime->kv_size.n_pages;
}

uint32_t runtime_n_window_pages(const struct runtime *runtime)
{
    return runtime->kv_size.n_window_pages;
}

uint64_t runtime_page_bytes(const struct runtime *runtime)
{
    return runtime->kv_size.page_bytes + runtime->peers.page_bytes;
}

uint64_t runtime_window_page_bytes(const struct runtime *runtime)
{
    return runtime->kv_size.window_page_bytes + runtime->peers.window_page_bytes;
}

uint64_t runtime_kv_total_bytes(const struct runtime *runtime)
{
    const struct kv_size *size = &runtime->kv_size;
    return size->n_pages * runtime_page_bytes(runtime) +
           size->n_window_pages * runtime_window_page_bytes(runtime);
}

uint32_t runtime_window_span(const struct runtime *runtime)
{
    return kv_window_span(runtime->window);
}

const serverd_limits *runtime_limits(const struct runtime *runtime)
{
    return &runtime->limits;
}

uint32_t runtime_output_width(const struct runtime *runtime)
{
    return program_output_width(&runtime->program->config);
}

const char *runtime_device(const struct runtime *runtime)
{
    return runtime->device_text;
}

const struct placement *runtime_placement(const struct runtime *runtime)
{
    return runtime->placement;
}

serverd_status runtime_footprint(const struct runtime *runtime, uint32_t partition,
                                 serverd_footprint *out, serverd_error *err)
{
    const struct step_part *part = &runtime->steps.parts[partition];
    const struct instance *item = part->instance;
    *out = (serverd_footprint){.struct_bytes = sizeof *out};
    if (!item->delegate->footprint)
        return fail(err, SERVERD_UNSUPPORTED, "device %s: does not say what it takes",
                    item->delegate->name);
    return item->delegate->footprint(item->instance, &runtime->program->graph, part->view,
                                     &runtime->limits, item->kv ? &item->spec : NULL, out, err);
}

uint64_t runtime_buffer_bytes(const struct runtime *runtime)
{
    return runtime->steps.n_bytes;
}

serverd_status runtime_create_trace(const struct runtime *runtime, uint32_t n_events,
                                    uint32_t n_steps, struct trace **out, serverd_error *err)
{
    const struct trace_options options = {
        .graph = &runtime->program->graph,
        .placement = runtime->placement,
        .n_workers = runtime->host.n_workers,
        .n_events = (uint32_t)max_size(n_events / runtime->host.n_workers, 1),
        .n_steps = n_steps,
        .clock = runtime->clock};
    return trace_create(&options, out, err);
}

static uint64_t host_trace_now_ns(void *context)
{
    const struct runtime *runtime = context;
    return trace_now_ns(runtime->trace);
}

static void host_trace(void *context, const serverd_trace_event *event)
{
    struct runtime *runtime = context;
    trace_add(runtime->trace, event);
}

static serverd_status run_traced(struct runtime *runtime, const serverd_batch *batch, float *out,
                                 serverd_error *err)
{
    struct trace *trace = runtime->trace;
    trace_begin_step(trace, batch);
    for (uint32_t p = 0; p < runtime->steps.n_parts; p++) {
        trace_begin_partition(trace, p);
        serverd_status status = steps_run_part(&runtime->steps, p, batch, out, err);
        if (status != SERVERD_OK)
            return status;
        trace_end_partition(trace);
    }
    trace_end_step(trace);
    return SERVERD_OK;
}

void runtime_set_trace(struct runtime *runtime, struct trace *or_null)
{
    runtime->trace = or_null;
    runtime->run = or_null ? run_traced : run;
    runtime->host.trace = or_null ? host_trace : NULL;
    runtime->host.now_ns = or_null ? host_trace_now_ns : host_now_ns;
}

static void host_meanwhile(void *context)
{
    const struct runtime *runtime = context;
    runtime->meanwhile(runtime->meanwhile_context);
}

void runtime_set_meanwhile(struct runtime *runtime, void (*fn)(void *context), void *context)
{
    runtime->meanwhile = fn;
    runtime->meanwhile_context = context;
    runtime->host.meanwhile = host_meanwhile;
}

serverd_status runtime_execute(struct runtime *runtime, const serverd_batch *batch, float *out,
                               serverd_error *err)
{
    const serverd_limits *limits = &runtime->limits;
    if (batch->n_rows == 0 || batch->n_rows > limits->max_rows ||
        batch->n_seqs > limits->max_seqs || batch->n_logit_rows > limits->max_logit_rows)
        return fail(err, SERVERD_INTERNAL,
                    "step %llu: %u rows, %u sequences, %u logit rows; promised were at most "
                    "%u, %u, %u",
                    (unsigned long long)batch->step, batch->n_rows, batch->n_seqs,
                    batch->n_logit_rows, limits->max_rows, limits->max_seqs,
                    limits->max_logit_rows);
    return runtime->peers.n > 0 ? runtime->peers.execute(runtime->peers.context, batch, out, err)
                                : runtime->run(runtime, batch, out, err);
}

serverd_status runtime_execute_alone(struct runtime *runtime, const serverd_batch *batch,
                                     float *out, serverd_error *err)
{
    return runtime->run(runtime, batch, out, err);
}

bool runtime_draws(const struct runtime *runtime)
{
    return steps_draw(&runtime->steps); /* of ranks it is the first that has the logits */
}

serverd_status runtime_read_logits(struct runtime *runtime, uint32_t logit_row, float *out,
                                   serverd_error *err)
{
    return steps_read_logits(&runtime->steps, logit_row, out, err);
}

serverd_status runtime_adapter_set(struct runtime *runtime, uint32_t slot,
                                   const struct adapter *or_null, serverd_error *err)
{
    const serverd_limits *limits = &runtime->limits;
    if (slot >= limits->max_adapters)
        return fail(err, SERVERD_INTERNAL, "adapter slot %u of %u", slot, limits->max_adapters);
    if (or_null && or_null->max_rank > limits->max_adapter_rank)
        return fail(err, SERVERD_UNSUPPORTED,
                    "rank %u, at most %u are possible: see "
                    "max-adapter-rank",
                    or_null->max_rank, limits->max_adapter_rank);
    if (runtime->peers.n > 0)
        return fail(err, SERVERD_UNSUPPORTED, "a model that several ranks share takes no adapters");
    return adapters_set(&runtime->steps, &runtime->program->graph, slot, or_null, err);
}

serverd_status runtime_kv_zero(struct runtime *runtime, const serverd_kv_page *pages, uint32_t n,
                               serverd_error *err)
{
    serverd_status status = instances_kv_zero(&runtime->instances, pages, n, err);
    for (uint32_t i = 0; i < runtime->peers.n && status == SERVERD_OK; i++)
        status = runtime_kv_zero(runtime->peers.items[i], pages, n, err);
    return status;
}

static bool is_there(const struct runtime *runtime, serverd_kv_page page)
{
    const struct kv_size *size = &runtime->kv_size;
    return (page.page == SERVERD_NO_PAGE || page.page < size->n_pages) &&
           (page.window_page == SERVERD_NO_PAGE || page.window_page < size->n_window_pages);
}

serverd_status runtime_kv_copy(struct runtime *runtime, serverd_kv_page from, serverd_kv_page to,
                               uint32_t n_tokens, serverd_error *err)
{
    if (runtime->kv_spec.n_layers == 0)
        return SERVERD_OK;
    if (!is_there(runtime, from) || !is_there(runtime, to) || n_tokens > SERVERD_PAGE_TOKENS)
        return fail(err, SERVERD_INTERNAL, "kv copy: page %u to %u, %u tokens; there are %u pages",
                    from.page, to.page, n_tokens, runtime->kv_size.n_pages);
    serverd_status status = instances_kv_copy(&runtime->instances, from, to, n_tokens, err);
    for (uint32_t i = 0; i < runtime->peers.n && status == SERVERD_OK; i++)
        status = runtime_kv_copy(runtime->peers.items[i], from, to, n_tokens, err);
    return status;
}

/* SERVERD_OK if a page can be taken out or put in. */
static serverd_status check_transfer(const struct runtime *runtime, serverd_kv_page page,
                                     serverd_error *err)
{
    if (!instances_can_export(&runtime->instances))
        return fail(err, SERVERD_UNSUPPORTED, "device %s: KV pages cannot leave it",
                    runtime->device_text);
    if (!is_there(runtime, page))
        return fail(err, SERVERD_INTERNAL, "kv transfer: page %u, window page %u; there are %u, %u",
                    page.page, page.window_page, runtime->kv_size.n_pages,
                    runtime->kv_size.n_window_pages);
    return SERVERD_OK;
}

/* Bytes of a page that is to be moved: what is not left out. */
static size_t moved_bytes(const struct runtime *runtime, serverd_kv_page page)
{
    const struct kv_size *size = &runtime->kv_size;
    return (page.page == SERVERD_NO_PAGE ? 0 : size->page_bytes) +
           (page.window_page == SERVERD_NO_PAGE ? 0 : size->window_page_bytes);
}

/* The bytes of the ranks follow each other. */
serverd_status runtime_kv_export(struct runtime *runtime, serverd_kv_page page, void *out,
                                 serverd_error *err)
{
    char *at = out;
    serverd_status status = check_transfer(runtime, page, err);
    if (status == SERVERD_OK)
        status = instances_kv_export(&runtime->instances, page, at, err);
    at += moved_bytes(runtime, page);
    for (uint32_t i = 0; i < runtime->peers.n && status == SERVERD_OK; i++) {
        status = runtime_kv_export(runtime->peers.items[i], page, at, err);
        at += moved_bytes(runtime->peers.items[i], page);
    }
    return status;
}

bool runtime_kv_leaves_late(const struct runtime *runtime)
{
    return runtime->peers.n == 0 && instances_leave_late(&runtime->instances);
}

serverd_status runtime_kv_settle(struct runtime *runtime, serverd_error *err)
{
    serverd_status status = instances_kv_settle(&runtime->instances, err);
    for (uint32_t i = 0; i < runtime->peers.n && status == SERVERD_OK; i++)
        status = runtime_kv_settle(runtime->peers.items[i], err);
    return status;
}

serverd_status runtime_kv_import(struct runtime *runtime, serverd_kv_page page, const void *bytes,
                                 serverd_error *err)
{
    const char *at = bytes;
    serverd_status status = check_transfer(runtime, page, err);
    if (status == SERVERD_OK)
        status = instances_kv_import(&runtime->instances, page, at, err);
    at += moved_bytes(runtime, page);
    for (uint32_t i = 0; i < runtime->peers.n && status == SERVERD_OK; i++) {
        status = runtime_kv_import(runtime->peers.items[i], page, at, err);
        at += moved_bytes(runtime->peers.items[i], page);
    }
    return status;
}

serverd_status runtime_kv_identity(struct runtime *runtime, uint8_t out[32], serverd_error *err)
{
    if (!runtime->has_identity)
        return fail(err, SERVERD_UNSUPPORTED, "device %s: KV pages have no identity",
                    runtime->device_text);
    struct sha256 identity = runtime->identity; /* so that it can be asked again */
    for (uint32_t i = 0; i < runtime->peers.n; i++) {
        serverd_status status = runtime_kv_identity(runtime->peers.items[i], out, err);
        if (status != SERVERD_OK)
            return status;
        sha256_update(&identity, out, 32);
    }
    sha256_final(&identity, out);
    return SERVERD_OK;
}
