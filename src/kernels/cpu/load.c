/* Preparing to run a partition: its plan, the rope tables, the scratch memory. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/dtype.h"
#include "program/op.h"

#include <stdlib.h>
#include <string.h>

void *cpu_take(serverd_handle *handle, size_t n, size_t size)
{
    void *p = calloc(max_size(n, 1), size);
    if (p)
        handle->footprint.scratch_bytes += max_size(n, 1) * size;
    return p;
}

void *cpu_take_aligned(serverd_handle *handle, size_t bytes)
{
    size_t rounded;
    void *p = size_align(max_size(bytes, 1), 64, &rounded) ? aligned_alloc(64, rounded) : NULL;
    if (p)
        handle->footprint.scratch_bytes += rounded;
    return p;
}

/* ---- rope tables ----------------------------------------------------------------------------- */

static const serverd_tensor *tensor_of(const serverd_graph *graph, const serverd_node *node,
                                       uint32_t input)
{
    return &graph->tensors[node_input(graph, node, input)->tensor];
}

/* Nodes with equal frequencies share a table. */
static serverd_status add_rope(serverd_handle *handle, uint32_t n, serverd_error *err)
{
    const serverd_node *node = &handle->graph->nodes[n];
    const serverd_rope *rope = &node->attributes.rope;
    bool is_alternative = node->n_inputs == 3 && handle->limits.max_context > rope->alt_from;
    struct cpu_rope_table table = {.inv_freq =
                                       tensor_of(handle->graph, node, is_alternative ? 2 : 1)->data,
                                   .n_pairs = rope->n_rot / 2,
                                   .mscale = is_alternative ? rope->alt_mscale : rope->mscale};
    for (uint32_t i = 0; i < handle->n_ropes; i++) {
        const struct cpu_rope_table *other = &handle->ropes[i];
        if (other->n_pairs == table.n_pairs && other->mscale == table.mscale &&
            memcmp(other->inv_freq, table.inv_freq, table.n_pairs * sizeof(float)) == 0) {
            handle->node_rope[n] = i;
            return SERVERD_OK;
        }
    }
    size_t floats;
    if (!size_mul((size_t)handle->limits.max_rows * 2, table.n_pairs, &floats) ||
        !(table.cos_sin = cpu_take(handle, floats, sizeof(float))))
        return fail(err, SERVERD_NOMEM, "cpu: no memory for a rope table");
    handle->node_rope[n] = handle->n_ropes;
    handle->ropes[handle->n_ropes++] = table;
    return SERVERD_OK;
}

static serverd_status add_ropes(serverd_handle *handle, serverd_error *err)
{
    handle->ropes = cpu_take(handle, handle->partition->n_nodes, sizeof *handle->ropes);
    handle->node_rope = cpu_take(handle, handle->graph->n_nodes, sizeof *handle->node_rope);
    if (!handle->ropes || !handle->node_rope)
        return fail(err, SERVERD_NOMEM, "cpu: no memory for rope tables");
    serverd_status status = SERVERD_OK;
    for (uint32_t i = cpu_first_node(handle); i < cpu_end_node(handle) && status == SERVERD_OK; i++)
        if (handle->graph->nodes[i].op == SERVERD_OP_ROPE)
            status = add_rope(handle, i, err);
    return status;
}

/* ---- scratch --------------------------------------------------------------------------------- */

static size_t node_scratch(const serverd_handle *handle, const serverd_node *node)
{
    const struct cpu_kernels *kernels = handle->instance->kernels;
    switch (node->op) {
    case SERVERD_OP_EMBED: /* a row of the file */
        return tensor_of(handle->graph, node, 0)->dims[1] * sizeof(float);
    case SERVERD_OP_LINEAR:
        return kernels->linear_scratch(cpu_linear_weights(handle->graph, node)->dims[1]);
    case SERVERD_OP_ATTN:
        return cpu_attention_scratch(kernels, node);
    case SERVERD_OP_RMS_NORM:
    case SERVERD_OP_LAYER_NORM:
        return 2 * (size_t)node->attributes.norm.width * sizeof(float);
    default:
        return 0;
    }
}

static serverd_status add_scratch(serverd_handle *handle, serverd_error *err)
{
    const serverd_graph *graph = handle->graph;
    size_t most = 64, bytes;
    for (uint32_t i = cpu_first_node(handle); i < cpu_end_node(handle); i++)
        most = max_size(most, node_scratch(handle, &graph->nodes[i]));
    const size_t n_workers = handle->instance->host->n_workers;
    if (!size_align(most, 64, &handle->scratch_bytes) ||
        !size_mul(handle->scratch_bytes, n_workers, &bytes) ||
        !(handle->watches = cpu_take_aligned(handle, n_workers * sizeof *handle->watches)))
        return fail(err, SERVERD_NOMEM, "cpu: no memory for %zu workers", n_workers);
    for (size_t w = 0; w < n_workers; w++)
        handle->watches[w] = (struct cpu_watch){.node = CPU_NO_NODE};
    handle->footprint.scratch_bytes += bytes;
    handle->seq_begin =
        cpu_take(handle, (size_t)handle->limits.max_seqs + 1, sizeof *handle->seq_begin);
    handle->items = cpu_take(handle, handle->limits.max_rows, sizeof *handle->items);
    if (!handle->seq_begin || !handle->items)
        return fail(err, SERVERD_NOMEM, "cpu: no memory for %u rows", handle->limits.max_rows);
    return handle->has_kv ? cpu_create_split(handle, err) : SERVERD_OK;
}

/* Keys and values of attention that is not causal: pages for all rows of a step, in a store of
 * one layer that is large enough for each. */
static serverd_status add_step_kv(serverd_handle *handle, serverd_error *err)
{
    const serverd_graph *graph = handle->graph;
    serverd_kv_layer layer = {0};
    for (uint32_t i = cpu_first_node(handle); i < cpu_end_node(handle); i++) {
        const serverd_attn *a = &graph->nodes[i].attributes.attn;
        if (graph->nodes[i].op != SERVERD_OP_ATTN || a->is_causal)
            continue;
        if (layer.n_kv_heads && (layer.n_kv_heads != a->n_kv_heads || layer.k_dim != a->k_dim ||
                                 layer.v_dim != a->v_dim))
            return fail(err, SERVERD_UNSUPPORTED, "cpu: encoder layers with different heads");
        layer = (serverd_kv_layer){a->n_kv_heads, a->k_dim, a->v_dim, 0};
    }
    if (!layer.n_kv_heads)
        return SERVERD_OK;
    const serverd_kv_spec spec = {.struct_bytes = sizeof spec,
                                  .n_layers = 1,
                                  .dtype = DTYPE_F32,
                                  .page_tokens = SERVERD_PAGE_TOKENS,
                                  .layers = &layer};
    uint32_t n_pages = handle->limits.max_rows / SERVERD_PAGE_TOKENS + handle->limits.max_seqs + 1;
    handle->step_pages = cpu_take(handle, n_pages, sizeof *handle->step_pages);
    handle->seq_first_page =
        cpu_take(handle, (size_t)handle->limits.max_seqs + 1, sizeof(uint32_t));
    if (!handle->step_pages || !handle->seq_first_page)
        return fail(err, SERVERD_NOMEM, "cpu: no memory for %u pages", n_pages);
    for (uint32_t i = 0; i < n_pages; i++)
        handle->step_pages[i] = i;
    serverd_kv_bytes bytes;
    serverd_status status = cpu_kv_page_bytes(handle->instance, &spec, &bytes, err);
    if (status != SERVERD_OK)
        return status;
    handle->footprint.scratch_bytes += n_pages * bytes.page;
    return cpu_kv_create(handle->instance, &spec, n_pages, 0, &handle->step_kv, err);
}

/* The store has the layers of all causal attention. */
static serverd_status find_kv(serverd_handle *handle, const serverd_kv_spec *kv, serverd_error *err)
{
    for (uint32_t i = cpu_first_node(handle); i < cpu_end_node(handle); i++) {
        const serverd_attn *a = &handle->graph->nodes[i].attributes.attn;
        if (handle->graph->nodes[i].op != SERVERD_OP_ATTN || !a->is_causal)
            continue;
        const serverd_kv_layer *layer =
            kv && a->kv_layer < kv->n_layers ? &kv->layers[a->kv_layer] : NULL;
        if (!layer || layer->n_kv_heads != a->n_kv_heads || layer->k_dim != a->k_dim ||
            layer->v_dim != a->v_dim)
            return fail(err, SERVERD_INTERNAL, "cpu: the store has no layer %u as node %u needs it",
                        a->kv_layer, i);
        handle->has_kv = true;
    }
    return SERVERD_OK;
}

static serverd_status take_values(serverd_handle *handle, serverd_error *err)
{
    const serverd_graph *graph = handle->graph;
    handle->values = cpu_take(handle, graph->n_values, sizeof *handle->values);
    return handle->values
               ? SERVERD_OK
               : fail(err, SERVERD_NOMEM, "cpu: no memory for %u values", graph->n_values);
}

/* The instance's block is large enough for this handle, too. It may move: others notice when they
 * run. */
static serverd_status reserve_block(serverd_handle *handle, serverd_error *err)
{
    serverd_instance *instance = handle->instance;
    const size_t scratch = handle->scratch_bytes * instance->host->n_workers;
    size_t bytes;
    if (!size_mul(handle->activation_floats, sizeof(float), &bytes) ||
        !size_add(bytes, scratch, &bytes) || !size_align(bytes, 64, &bytes))
        return fail(err, SERVERD_NOMEM, "cpu: the working memory overflows");
    if (bytes <= instance->block_bytes)
        return SERVERD_OK;
    char *block = aligned_alloc(64, bytes);
    if (!block)
        return fail(err, SERVERD_NOMEM, "cpu: no memory for %zu bytes to work in", bytes);
    free(instance->block);
    instance->block = block;
    instance->block_bytes = bytes;
    return SERVERD_OK;
}

void cpu_bind_values(serverd_handle *handle)
{
    handle->activations = (float *)(void *)handle->instance->block;
    handle->scratch = (char *)(handle->activations + handle->activation_floats);
    for (uint32_t v = 0; v < handle->graph->n_values; v++)
        if (handle->value_at[v] != CPU_NOWHERE)
            handle->values[v] = handle->activations + handle->value_at[v];
}

/* All but the instance's block. */
static serverd_status prepare(serverd_instance *instance, const serverd_graph *graph,
                              const serverd_partition *partition, const void *const *packed,
                              const serverd_limits *limits, const serverd_kv_spec *kv,
                              serverd_handle **out, serverd_error *err)
{
    serverd_handle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return fail(err, SERVERD_NOMEM, "cpu: no memory");
    handle->instance = instance;
    handle->graph = graph;
    handle->partition = partition;
    handle->packed = packed;
    handle->limits = *limits;
    serverd_status status = find_kv(handle, kv, err);
    if (status == SERVERD_OK)
        status = cpu_plan(handle, NULL, err);
    if (status == SERVERD_OK)
        status = take_values(handle, err);
    if (status == SERVERD_OK)
        status = add_ropes(handle, err);
    if (status == SERVERD_OK)
        status = add_scratch(handle, err);
    if (status == SERVERD_OK)
        status = add_step_kv(handle, err);
    if (status == SERVERD_OK)
        status = cpu_create_adapters(handle, err);
    if (status != SERVERD_OK) {
        cpu_unload(handle);
        return status;
    }
    handle->bounds = (struct batch_bounds){.name = "cpu", .limits = *limits};
    batch_bounds_find(&handle->bounds, graph, partition);
    *out = handle;
    return SERVERD_OK;
}

serverd_status cpu_load(serverd_instance *instance, const serverd_graph *graph,
                        const serverd_partition *partition, const void *const *packed,
                        const serverd_limits *limits, const serverd_kv_spec *kv,
                        serverd_handle **out, serverd_error *err)
{
    serverd_handle *handle;
    serverd_status status = prepare(instance, graph, partition, packed, limits, kv, &handle, err);
    if (status != SERVERD_OK)
        return status;
    status = reserve_block(handle, err);
    if (status != SERVERD_OK)
        cpu_unload(handle);
    else
        *out = handle;
    return status;
}

/* Memory that nobody touches costs nothing: what load takes is found by preparing to. */
serverd_status cpu_footprint(serverd_instance *instance, const serverd_graph *graph,
                             const serverd_partition *partition, const serverd_limits *limits,
                             const serverd_kv_spec *kv, serverd_footprint *out, serverd_error *err)
{
    serverd_handle *handle;
    serverd_status status = prepare(instance, graph, partition, NULL, limits, kv, &handle, err);
    if (status != SERVERD_OK)
        return status;
    *out = handle->footprint;
    out->struct_bytes = sizeof *out;
    cpu_unload(handle);
    return SERVERD_OK;
}

void cpu_unload(serverd_handle *handle)
{
    for (uint32_t i = 0; handle->ropes && i < handle->n_ropes; i++)
        free(handle->ropes[i].cos_sin);
    free(handle->ropes);
    free(handle->node_rope);
    free(handle->value_at);
    free(handle->values);
    free(handle->quantised_at);
    free(handle->phases);
    free(handle->addition);
    free(handle->actions);
    if (handle->step_kv)
        kv_store_destroy(handle->step_kv);
    free(handle->step_pages);
    free(handle->seq_first_page);
    free(handle->watches);
    free(handle->seq_begin);
    free(handle->items);
    cpu_destroy_adapters(handle->adapters);
    free(handle);
}
