#include "kernels/reference/delegate.h"

#include "base/error.h"
#include "base/numeric.h"
#include "kernels/batch_check.h"
#include "kernels/cpu/delegate.h"
#include "kernels/cpu/packed.h"
#include "kernels/reference/reference_internal.h"
#include "kernels/value_places.h"
#include "program/dtype.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How much slower than the CPU back-end it says that it is. */
#define SLOWDOWN 50.0f

#define ALIGN_FLOATS 16

struct serverd_instance {
    const serverd_host *host;
};

struct serverd_handle {
    const serverd_instance *instance;
    const serverd_graph *graph;
    const serverd_partition *partition;
    const void *const *packed;
    struct batch_bounds bounds;
    bool has_kv; /* some attention is causal */
    float *block;
    float **values; /* [n_values] */
    serverd_footprint footprint;
    struct reference_adapters *adapters; /* NULL: there never are any */
};

static serverd_status reference_devices(const serverd_host *host, serverd_device *out, uint32_t cap,
                                        uint32_t *n, serverd_error *err)
{
    serverd_status status = cpu_delegate.devices(host, out, cap, n, err);
    if (status == SERVERD_OK && cap > 0)
        (void)snprintf(out[0].name, sizeof out[0].name, "exact float32, %u thread%s",
                       host->n_workers, host->n_workers == 1 ? "" : "s");
    return status;
}

/* Weights that are there, or whose packed form can be turned back. */
static bool has_layout(const serverd_graph *graph, const serverd_node *node)
{
    for (uint32_t i = 0; i < node->n_inputs; i++) {
        if (node_input(graph, node, i)->kind != SERVERD_VALUE_CONSTANT)
            continue;
        const serverd_tensor *tensor = reference_tensor(graph, node, i);
        if (!tensor->data && !packed_is_own_form(tensor->dtype))
            return false;
    }
    return true;
}

/* All that a checked graph can hold. */
static serverd_status reference_match(const serverd_host *host, const serverd_graph *graph,
                                      uint32_t node, serverd_claim *out, serverd_error *err)
{
    serverd_status status = cpu_delegate.match(host, graph, node, out, err);
    if (status != SERVERD_OK || out->n_nodes == 0)
        return status;
    if (!has_layout(graph, &graph->nodes[node])) {
        *out = (serverd_claim){.struct_bytes = sizeof *out, .reason = SERVERD_REASON_LAYOUT};
        (void)snprintf(out->text, sizeof out->text, "the program file has the weights only packed");
        return SERVERD_OK;
    }
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < graph->nodes[node].n_inputs; i++)
        if (node_input(graph, &graph->nodes[node], i)->kind == SERVERD_VALUE_CONSTANT)
            bytes += reference_tensor(graph, &graph->nodes[node], i)->bytes;
    *out = (serverd_claim){.struct_bytes = sizeof *out,
                           .n_nodes = 1,
                           .seconds = {out->seconds[0] * SLOWDOWN, out->seconds[1] * SLOWDOWN,
                                       out->seconds[2] * SLOWDOWN},
                           .resident_bytes = bytes};
    return SERVERD_OK;
}

/* What the program file has packed alone is read in the CPU back-end's form. */
static serverd_status reference_form(const serverd_tensor *tensor, serverd_form *out,
                                     serverd_error *err)
{
    if (!tensor->data && packed_is_own_form(tensor->dtype))
        return cpu_delegate.form(tensor, out, err);
    *out = (serverd_form){.struct_bytes = sizeof *out,
                          .layout = SERVERD_LAYOUT_ROWS,
                          .bytes = tensor->bytes,
                          .alignment = 1};
    return SERVERD_OK;
}

static serverd_status reference_pack(const serverd_tensor *tensor, const serverd_form *form,
                                     uint64_t first_row, uint64_t n_rows, void *dst,
                                     serverd_error *err)
{
    (void)form, (void)first_row, (void)n_rows, (void)dst;
    return fail(err, SERVERD_INTERNAL, "cpu-reference: %s is used in place", tensor->name);
}

static serverd_status reference_open(const serverd_host *host, const serverd_device *device,
                                     serverd_instance **out, serverd_error *err)
{
    (void)device;
    *out = calloc(1, sizeof **out);
    if (!*out)
        return fail(err, SERVERD_NOMEM, "cpu-reference: no memory");
    (*out)->host = host;
    return SERVERD_OK;
}

static void reference_close(serverd_instance *instance)
{
    free(instance);
}

/* ---- places of values ------------------------------------------------------------------------ */

static bool bind_values(serverd_handle *handle, const struct value_places *places)
{
    const serverd_graph *graph = handle->graph;
    size_t bytes;
    if (!size_mul(max_size(places->n_floats, ALIGN_FLOATS), sizeof(float), &bytes) ||
        !(handle->block = aligned_alloc(64, bytes)))
        return false;
    for (uint32_t i = 0; i < graph->n_values; i++)
        if (places->offset[i] != VALUE_NOWHERE)
            handle->values[i] = handle->block + places->offset[i];
    handle->footprint =
        (serverd_footprint){.struct_bytes = sizeof handle->footprint,
                            .activation_bytes = bytes,
                            .unshared_bytes = places->unshared * sizeof(float),
                            .scratch_bytes = graph->n_values * sizeof *handle->values};
    return true;
}

static serverd_status add_values(serverd_handle *handle, serverd_error *err)
{
    struct value_places places;
    bool fits =
        value_places_find(handle->graph, handle->partition, &handle->bounds.limits, false, &places);
    if (fits) {
        handle->values = calloc(max_size(handle->graph->n_values, 1), sizeof *handle->values);
        fits = handle->values && bind_values(handle, &places);
        value_places_deinit(&places);
    }
    return fits ? SERVERD_OK : fail(err, SERVERD_NOMEM, "cpu-reference: no memory for activations");
}

/* ---- a partition ----------------------------------------------------------------------------- */

static void reference_unload(serverd_handle *handle)
{
    reference_adapters_destroy(handle->adapters);
    free(handle->block);
    free(handle->values);
    free(handle);
}

/* The store has the layers of all causal attention. */
static serverd_status find_kv(serverd_handle *handle, const serverd_kv_spec *kv, serverd_error *err)
{
    const serverd_partition *partition = handle->partition;
    for (uint32_t i = partition->first_node; i < partition->first_node + partition->n_nodes; i++) {
        const serverd_attn *a = &handle->graph->nodes[i].attributes.attn;
        if (handle->graph->nodes[i].op != SERVERD_OP_ATTN || !a->is_causal)
            continue;
        const serverd_kv_layer *layer =
            kv && a->kv_layer < kv->n_layers ? &kv->layers[a->kv_layer] : NULL;
        if (!layer || layer->n_kv_heads != a->n_kv_heads || layer->k_dim != a->k_dim ||
            layer->v_dim != a->v_dim)
            return fail(err, SERVERD_INTERNAL,
                        "cpu-reference: the store has no layer %u as node %u needs it", a->kv_layer,
                        i);
        handle->has_kv = true;
    }
    return SERVERD_OK;
}

static serverd_status reference_load(serverd_instance *instance, const serverd_graph *graph,
                                     const serverd_partition *partition, const void *const *packed,
                                     const serverd_limits *limits, const serverd_kv_spec *kv,
                                     serverd_handle **out, serverd_error *err)
{
    serverd_handle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return fail(err, SERVERD_NOMEM, "cpu-reference: no memory");
    *handle = (serverd_handle){.instance = instance,
                               .graph = graph,
                               .partition = partition,
                               .packed = packed,
                               .bounds = {.name = "cpu-reference", .limits = *limits}};
    batch_bounds_find(&handle->bounds, graph, partition);
    serverd_status status = find_kv(handle, kv, err);
    if (status == SERVERD_OK)
        status = add_values(handle, err);
    if (status == SERVERD_OK)
        status = reference_adapters_create(graph, limits, &handle->adapters, err);
    if (status != SERVERD_OK)
        reference_unload(handle);
    else
        *out = handle;
    return status;
}

static serverd_status reference_footprint(serverd_instance *instance, const serverd_graph *graph,
                                          const serverd_partition *partition,
                                          const serverd_limits *limits, const serverd_kv_spec *kv,
                                          serverd_footprint *out, serverd_error *err)
{
    serverd_handle *handle;
    serverd_status status =
        reference_load(instance, graph, partition, NULL, limits, kv, &handle, err);
    if (status != SERVERD_OK)
        return status;
    *out = handle->footprint;
    reference_unload(handle);
    return SERVERD_OK;
}

static void run_traced(const struct reference_step *step, uint32_t node)
{
    const serverd_host *host = step->host;
    serverd_trace_event event = {.first_node = node, .n_nodes = 1};
    event.n_rows = (uint32_t)reference_rows(
        step->batch, node_output(step->graph, &step->graph->nodes[node])->dims[0]);
    event.start_ns = host->now_ns(host->context);
    reference_run_node(step, node);
    event.end_ns = host->now_ns(host->context);
    host->trace(host->context, &event);
}

static serverd_status reference_execute(serverd_handle *handle, const serverd_batch *batch,
                                        serverd_kv *kv, const float *const *inputs,
                                        float *const *outputs, serverd_error *err)
{
    const serverd_partition *partition = handle->partition;
    struct batch_bounds bounds = handle->bounds;
    if (handle->has_kv && !kv)
        return fail(err, SERVERD_INTERNAL, "cpu-reference: a decoder without KV pages");
    if (handle->has_kv) {
        bounds.n_pages = kv->n_pages;
        bounds.n_window_pages = kv->n_window_pages;
        bounds.window = kv->window;
    }
    serverd_status status = batch_check(&bounds, batch, err);
    if (status == SERVERD_OK)
        status = reference_adapters_check(handle->adapters, batch, err);
    if (status != SERVERD_OK)
        return status;
    for (uint32_t i = 0; i < partition->n_inputs; i++) /* they are only read */
        memcpy(&handle->values[partition->inputs[i]], &inputs[i], sizeof inputs[i]);
    for (uint32_t i = 0; i < partition->n_outputs; i++)
        handle->values[partition->outputs[i]] = outputs[i];
    const struct reference_step step = {.graph = handle->graph,
                                        .host = handle->instance->host,
                                        .batch = batch,
                                        .packed = handle->packed,
                                        .max_context = handle->bounds.limits.max_context,
                                        .values = handle->values,
                                        .adapters = handle->adapters,
                                        .kv = kv};
    for (uint32_t n = partition->first_node; n < partition->first_node + partition->n_nodes; n++)
        if (step.host->trace)
            run_traced(&step, n);
        else
            reference_run_node(&step, n);
    return SERVERD_OK;
}

static serverd_status reference_adapter(serverd_handle *handle, uint32_t slot,
                                        const serverd_adapter *or_null, serverd_error *err)
{
    return reference_adapters_set(handle->adapters, handle->graph, slot, or_null, err);
}

const serverd_delegate reference_delegate = {
    .abi = SERVERD_DELEGATE_ABI,
    .struct_bytes = sizeof(serverd_delegate),
    .name = "cpu-reference",
    .version = "1",
    .flags = SERVERD_DELEGATE_BY_NAME_ONLY,
    .devices = reference_devices,
    .match = reference_match,
    .form = reference_form,
    .pack = reference_pack,
    .open = reference_open,
    .load = reference_load,
    .kv_page_bytes = reference_kv_page_bytes,
    .kv_create = reference_kv_create,
    .kv_zero = kv_store_zero,
    .kv_copy = kv_store_copy,
    .execute = reference_execute,
    .kv_destroy = kv_store_destroy,
    .unload = reference_unload,
    .close = reference_close,
    .kv_identity = reference_kv_identity,
    .kv_export = kv_store_export,
    .kv_import = kv_store_import,
    .footprint = reference_footprint,
    .adapter = reference_adapter,
};
