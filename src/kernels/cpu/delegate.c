#include "kernels/cpu/delegate.h"

#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/dtype.h"
#include "program/op.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

static serverd_status cpu_devices(const serverd_host *host, serverd_device *out, uint32_t cap,
                                  uint32_t *n, serverd_error *err)
{
    (void)err;
    *n = 1;
    if (cap == 0)
        return SERVERD_OK;
    struct sysinfo info;
    out[0] = (serverd_device){.struct_bytes = sizeof out[0]};
    if (sysinfo(&info) == 0) {
        out[0].memory_bytes = (uint64_t)info.totalram * info.mem_unit;
        out[0].free_bytes = ((uint64_t)info.freeram + info.bufferram) * info.mem_unit;
        /* the page cache is free for the asking, but sysinfo does not tell its size */
        out[0].free_bytes = max_size(out[0].free_bytes, out[0].memory_bytes / 2);
    }
    (void)snprintf(out[0].name, sizeof out[0].name, "%s, %u thread%s", cpu_kernels_best()->name,
                   host->n_workers, host->n_workers == 1 ? "" : "s");
    return SERVERD_OK;
}

/* Norm weights, biases and the like are read element by element. */
static bool is_plain(const serverd_graph *graph, const serverd_node *node, uint32_t input)
{
    const serverd_tensor *tensor = &graph->tensors[node_input(graph, node, input)->tensor];
    const struct dtype_info *info = dtype_info(tensor->dtype);
    return info && info->to_f32 && info->block_elements == 1;
}

static serverd_status cpu_match(const serverd_host *host, const serverd_graph *graph,
                                uint32_t node_index, serverd_claim *out, serverd_error *err)
{
    (void)err;
    const serverd_node *node = &graph->nodes[node_index];
    *out = (serverd_claim){.struct_bytes = sizeof *out, .n_nodes = 1};
    uint32_t first_plain = node->n_inputs;
    if (op_is_collective(node->op)) {
        *out = (serverd_claim){.struct_bytes = sizeof *out, .reason = SERVERD_REASON_OP};
        return SERVERD_OK;
    }
    if (node->op == SERVERD_OP_LINEAR)
        first_plain = 2;
    else if (node->op == SERVERD_OP_RMS_NORM || node->op == SERVERD_OP_LAYER_NORM)
        first_plain = 1;
    for (uint32_t i = first_plain; i < node->n_inputs; i++) {
        if (is_plain(graph, node, i))
            continue;
        out->n_nodes = 0;
        out->reason = SERVERD_REASON_DTYPE;
        (void)snprintf(out->text, sizeof out->text, "%s with input %u in blocks",
                       op_info(node->op)->name, i);
        return SERVERD_OK;
    }
    cpu_estimate(host, graph, node, out);
    return SERVERD_OK;
}

/* Matrices of linear layers are packed; what else is read is read in place. */
static serverd_status cpu_form(const serverd_tensor *tensor, serverd_form *out, serverd_error *err)
{
    *out = (serverd_form){.struct_bytes = sizeof *out,
                          .layout = SERVERD_LAYOUT_ROWS,
                          .bytes = tensor->bytes,
                          .alignment = 1};
    if (!(tensor->flags & SERVERD_TENSOR_OF_LINEAR))
        return SERVERD_OK;
    size_t bytes;
    if (!packed_bytes(packed_form(tensor->dtype), tensor->dims[0], tensor->dims[1], &bytes))
        return fail(err, SERVERD_NOMEM, "cpu: the packed size overflows");
    out->layout = CPU_LAYOUT_PACKED;
    out->bytes = bytes;
    out->alignment = 64;
    return SERVERD_OK;
}

static serverd_status cpu_pack(const serverd_tensor *tensor, const serverd_form *form,
                               uint64_t first_row, uint64_t n_rows, void *dst, serverd_error *err)
{
    if (form->layout != CPU_LAYOUT_PACKED || first_row % PACKED_COLUMNS != 0)
        return fail(err, SERVERD_INTERNAL, "cpu: %s is used in place", tensor->name);
    packed_write(tensor, first_row, n_rows, dst);
    return SERVERD_OK;
}

static serverd_status cpu_open(const serverd_host *host, const serverd_device *device,
                               serverd_instance **out, serverd_error *err)
{
    (void)device;
    serverd_instance *instance = calloc(1, sizeof *instance);
    if (!instance)
        return fail(err, SERVERD_NOMEM, "cpu: no memory");
    *instance = (serverd_instance){.host = host, .kernels = cpu_kernels_best()};
    *out = instance;
    return SERVERD_OK;
}

static serverd_status cpu_set_option(serverd_instance *instance, const char *key, const char *value,
                                     serverd_error *err)
{
    if (strcmp(key, "isa") != 0)
        return fail(err, SERVERD_INVALID, "there is only isa");
    const struct cpu_kernels *kernels = cpu_kernels_named(value);
    if (!kernels)
        return fail(err, SERVERD_INVALID,
                    "%.20s is not here; there are generic, avx2, avxvnni, avx512, avx512bf16 "
                    "and amx",
                    value);
    instance->kernels = kernels;
    return SERVERD_OK;
}

static void cpu_close(serverd_instance *instance)
{
    cpu_destroy_split(instance->split);
    free(instance->block);
    free(instance);
}

/* ---- a step ---------------------------------------------------------------------------------- */

size_t cpu_rows_of(const struct cpu_step *step, int64_t kind)
{
    if (kind == SERVERD_DIM_SEQS)
        return step->batch->n_seqs;
    return kind == SERVERD_DIM_SELECTED ? step->batch->n_logit_rows : step->batch->n_rows;
}

struct cpu_rows cpu_quantised(const serverd_handle *handle, uint32_t value)
{
    const serverd_value *v = &handle->graph->values[value];
    return (struct cpu_rows){
        .spans = (struct cpu_span *)(void *)(handle->activations + handle->quantised_at[value]),
        .n_max = cpu_max_rows(&handle->limits, v),
        .is_fine = cpu_is_fine(v)};
}

void *cpu_worker_scratch(const struct cpu_step *step, uint32_t worker)
{
    return step->handle->scratch + worker * step->handle->scratch_bytes;
}

struct split_job {
    cpu_run_fn fn;
    const void *arg;
    size_t n, run;
};

static void split_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct split_job *job = arg;
    size_t first = chunk * job->run;
    job->fn(job->arg, first, min_size(job->run, job->n - first), worker);
}

void cpu_split(const struct cpu_step *step, size_t n, size_t grain, cpu_run_fn fn, const void *arg)
{
    const serverd_host *host = step->host;
    if (n <= grain) {
        if (n > 0)
            fn(arg, 0, n, 0);
        return;
    }
    /* as many runs for each thread, up to four, so that a late thread delays little */
    const size_t n_workers = host->n_workers;
    size_t per_worker = (n + grain * n_workers - 1) / (grain * n_workers);
    size_t n_runs = min_size(per_worker, 4) * n_workers;
    struct split_job job = {.fn = fn, .arg = arg, .n = n, .run = (n + n_runs - 1) / n_runs};
    host->parallel_for(host->context, (uint32_t)((n + job.run - 1) / job.run), split_chunk, &job);
}

static void run_phase(struct cpu_step *step, uint32_t index)
{
    static void (*const run[])(const struct cpu_step *, const struct cpu_phase *) = {
        [PHASE_ROWS] = cpu_run_rows,
        [PHASE_LINEAR] = cpu_run_linears,
        [PHASE_ATTENTION] = cpu_run_attention,
    };
    const struct cpu_phase *phase = &step->handle->phases[index];
    step->phase++;
    run[phase->kind](step, phase);
}

static void run_stage(struct cpu_step *step, uint32_t first, uint32_t n)
{
    step->phase++;
    if (cpu_run_stage(step, first, n))
        return;
    for (uint32_t i = first; i < first + n; i++)
        run_phase(step, i);
}

/* What all layers use of the rows' positions counts as the first node that uses it. */
static void prepare(serverd_handle *handle, const struct cpu_step *step)
{
    cpu_watch_start(step, 0);
    cpu_plan_attention(handle, step->batch);
    cpu_prepare_ropes(step);
    for (uint32_t n = cpu_first_node(handle); step->host->trace && n < cpu_end_node(handle); n++) {
        if (step->graph->nodes[n].op != SERVERD_OP_ROPE &&
            step->graph->nodes[n].op != SERVERD_OP_ATTN)
            continue;
        cpu_watch_node(step, 0, n, step->batch->n_rows);
        break;
    }
}

/* Inputs are only read. */
static void place_outer(serverd_handle *handle, const float *const *inputs, float *const *outputs)
{
    const serverd_partition *partition = handle->partition;
    for (uint32_t i = 0; i < partition->n_inputs; i++)
        memcpy(&handle->values[partition->inputs[i]], &inputs[i], sizeof inputs[i]);
    for (uint32_t i = 0; i < partition->n_outputs; i++)
        handle->values[partition->outputs[i]] = outputs[i];
}

static serverd_status cpu_execute(serverd_handle *handle, const serverd_batch *batch,
                                  serverd_kv *kv, const float *const *inputs, float *const *outputs,
                                  serverd_error *err)
{
    struct batch_bounds bounds = handle->bounds;
    if (handle->has_kv && !kv)
        return fail(err, SERVERD_INTERNAL, "cpu: a decoder without KV pages");
    if (handle->has_kv) {
        bounds.n_pages = kv->n_pages;
        bounds.n_window_pages = kv->n_window_pages;
        bounds.window = kv->window;
    }
    serverd_status status = batch_check(&bounds, batch, err);
    if (status != SERVERD_OK)
        return status;
    if ((status = cpu_plan_adapters(handle, batch, err)) != SERVERD_OK)
        return status;
    if ((char *)handle->activations != handle->instance->block)
        cpu_bind_values(handle);
    place_outer(handle, inputs, outputs);
    struct cpu_step step = {.handle = handle,
                            .kernels = handle->instance->kernels,
                            .host = handle->instance->host,
                            .graph = handle->graph,
                            .batch = batch,
                            .kv = kv,
                            .phase = handle->n_run};
    prepare(handle, &step);
    for (uint32_t first = 0, n; first < handle->n_phases; first += n) {
        n = 1;
        while (first + n < handle->n_phases &&
               handle->phases[first + n].stage == handle->phases[first].stage)
            n++;
        run_stage(&step, first, n);
    }
    cpu_watch_end(&step);
    handle->n_run = step.phase;
    return SERVERD_OK;
}

const serverd_delegate cpu_delegate = {
    .abi = SERVERD_DELEGATE_ABI,
    .struct_bytes = sizeof(serverd_delegate),
    .name = "cpu",
    .version = "1",
    .devices = cpu_devices,
    .match = cpu_match,
    .form = cpu_form,
    .pack = cpu_pack,
    .open = cpu_open,
    .set_option = cpu_set_option,
    .load = cpu_load,
    .kv_page_bytes = cpu_kv_page_bytes,
    .kv_create = cpu_kv_create,
    .kv_zero = kv_store_zero,
    .kv_copy = kv_store_copy,
    .execute = cpu_execute,
    .kv_destroy = kv_store_destroy,
    .unload = cpu_unload,
    .close = cpu_close,
    .kv_identity = cpu_kv_identity,
    .kv_export = kv_store_export,
    .kv_import = kv_store_import,
    .footprint = cpu_footprint,
    .adapter = cpu_set_adapter,
    .plan = cpu_export_plan,
};
