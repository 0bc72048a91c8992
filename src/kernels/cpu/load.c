/* Preparing to run a graph: where each activation lies, the rope tables, the scratch memory. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_internal.h"
#include "program/op.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN_FLOATS 16 /* 64 bytes */

/* ---- places of activations ------------------------------------------------------------------- */

/* A stretch of the block that values use one after the other. */
struct place {
    size_t offset, floats;
    uint32_t free_from; /* node from which on it may be used again */
};

struct planner {
    struct place *places;
    size_t n_places, total;
};

static size_t max_value_rows(const serverd_limits *limits, const serverd_value *value)
{
    if (value->dims[0] == SERVERD_DIM_SEQS)
        return limits->max_seqs;
    return value->dims[0] == SERVERD_DIM_SELECTED ? limits->max_logit_rows : limits->max_rows;
}

static bool value_floats(const serverd_limits *limits, const serverd_value *value, size_t *out)
{
    return size_mul(value_width(value), max_size(max_value_rows(limits, value), 1), out) &&
           size_align(*out, ALIGN_FLOATS, out);
}

/* The last node that reads each value. */
static void find_last_uses(const serverd_graph *graph, uint32_t *last_use)
{
    for (uint32_t n = 0; n < graph->n_nodes; n++)
        for (uint32_t i = 0; i <= graph->nodes[n].n_inputs; i++)
            last_use[graph->operands[graph->nodes[n].first_operand + i]] = n;
}

/* The smallest place that is free and large enough, or a new one behind the others. */
static bool take_place(struct planner *planner, uint32_t node, uint32_t last_use, size_t floats,
                       size_t *offset)
{
    struct place *best = NULL;
    for (size_t i = 0; i < planner->n_places; i++) {
        struct place *place = &planner->places[i];
        if (place->free_from <= node && place->floats >= floats &&
            (!best || place->floats < best->floats))
            best = place;
    }
    if (!best) {
        best = &planner->places[planner->n_places++];
        *best = (struct place){.offset = planner->total, .floats = floats};
        if (!size_add(planner->total, floats, &planner->total))
            return false;
    }
    best->free_from = last_use + 1;
    *offset = best->offset;
    return true;
}

static serverd_status place_activations(serverd_handle *handle, serverd_error *err)
{
    const serverd_graph *graph = handle->graph;
    struct planner planner = {.places = calloc(max_size(graph->n_nodes, 1), sizeof(struct place))};
    uint32_t *last_use = calloc(max_size(graph->n_values, 1), sizeof *last_use);
    handle->value_at = calloc(max_size(graph->n_values, 1), sizeof *handle->value_at);
    bool fits = planner.places && last_use && handle->value_at;
    if (fits)
        find_last_uses(graph, last_use);
    for (uint32_t n = 0; n < graph->n_nodes && fits; n++) {
        uint32_t value = graph->operands[graph->nodes[n].first_operand + graph->nodes[n].n_inputs];
        size_t floats;
        if (value != graph->output) /* that one lies at the caller's */
            fits = value_floats(&handle->limits, &graph->values[value], &floats) &&
                   take_place(&planner, n, last_use[value], floats, &handle->value_at[value]);
    }
    size_t bytes;
    fits = fits && size_mul(max_size(planner.total, ALIGN_FLOATS), sizeof(float), &bytes) &&
           (handle->activations = aligned_alloc(64, bytes));
    free(planner.places);
    free(last_use);
    return fits ? SERVERD_OK : fail(err, SERVERD_NOMEM, "cpu: no memory for activations");
}

/* ---- rope tables ------------------------------------------------------------------------------
 */

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
        !(table.cos_sin = calloc(max_size(floats, 1), sizeof(float))))
        return fail(err, SERVERD_NOMEM, "cpu: no memory for a rope table");
    handle->node_rope[n] = handle->n_ropes;
    handle->ropes[handle->n_ropes++] = table;
    return SERVERD_OK;
}

static serverd_status add_ropes(serverd_handle *handle, serverd_error *err)
{
    size_t n = max_size(handle->graph->n_nodes, 1);
    handle->ropes = calloc(n, sizeof *handle->ropes);
    handle->node_rope = calloc(n, sizeof *handle->node_rope);
    if (!handle->ropes || !handle->node_rope)
        return fail(err, SERVERD_NOMEM, "cpu: no memory for rope tables");
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < handle->graph->n_nodes && status == SERVERD_OK; i++)
        if (handle->graph->nodes[i].op == SERVERD_OP_ROPE)
            status = add_rope(handle, i, err);
    return status;
}

/* ---- scratch ----------------------------------------------------------------------------------
 */

static size_t node_scratch(const serverd_graph *graph, const serverd_node *node)
{
    switch (node->op) {
    case SERVERD_OP_LINEAR:
        return cpu_linear_scratch(graph, node);
    case SERVERD_OP_ATTN:
        return cpu_attention_scratch(node);
    case SERVERD_OP_RMS_NORM:
    case SERVERD_OP_LAYER_NORM:
        return 2 * (size_t)node->attributes.norm.width;
    default:
        return 0;
    }
}

static serverd_status add_scratch(serverd_handle *handle, serverd_error *err)
{
    const serverd_graph *graph = handle->graph;
    size_t floats = ALIGN_FLOATS, bytes;
    for (uint32_t i = 0; i < graph->n_nodes; i++)
        floats = max_size(floats, node_scratch(graph, &graph->nodes[i]));
    if (!size_align(floats, ALIGN_FLOATS, &handle->scratch_floats) ||
        !size_mul(handle->scratch_floats * sizeof(float), handle->instance->host->n_workers,
                  &bytes) ||
        !(handle->scratch = aligned_alloc(64, bytes)))
        return fail(err, SERVERD_NOMEM, "cpu: no memory for %u workers",
                    handle->instance->host->n_workers);
    handle->seq_begin = calloc((size_t)handle->limits.max_seqs + 1, sizeof *handle->seq_begin);
    handle->items = calloc(max_size(handle->limits.max_rows, 1), sizeof *handle->items);
    if (!handle->seq_begin || !handle->items)
        return fail(err, SERVERD_NOMEM, "cpu: no memory for %u rows", handle->limits.max_rows);
    return SERVERD_OK;
}

static void find_index_limits(serverd_handle *handle)
{
    const serverd_graph *graph = handle->graph;
    handle->n_tokens = INT32_MAX;
    handle->n_positions = handle->limits.max_context;
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        if (node->op != SERVERD_OP_EMBED)
            continue;
        uint64_t rows = tensor_of(graph, node, 0)->dims[0];
        if (node->attributes.embed.index == SERVERD_INDEX_TOKEN)
            handle->n_tokens = min_size(handle->n_tokens, rows);
        else if (node->attributes.embed.index == SERVERD_INDEX_POSITION)
            handle->n_positions = min_size(handle->n_positions, rows);
    }
}

serverd_status cpu_load(serverd_instance *instance, const serverd_graph *graph,
                        const void *const *packed, const serverd_limits *limits,
                        const serverd_kv_spec *kv, serverd_handle **out, serverd_error *err)
{
    (void)packed; /* weights are used in place */
    serverd_handle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return fail(err, SERVERD_NOMEM, "cpu: no memory");
    handle->instance = instance;
    handle->graph = graph;
    handle->limits = *limits;
    handle->has_kv = kv != NULL;
    serverd_status status = place_activations(handle, err);
    if (status == SERVERD_OK)
        status = add_ropes(handle, err);
    if (status == SERVERD_OK)
        status = add_scratch(handle, err);
    if (status != SERVERD_OK) {
        cpu_unload(handle);
        return status;
    }
    find_index_limits(handle);
    *out = handle;
    return SERVERD_OK;
}

void cpu_unload(serverd_handle *handle)
{
    for (uint32_t i = 0; handle->ropes && i < handle->n_ropes; i++)
        free(handle->ropes[i].cos_sin);
    free(handle->ropes);
    free(handle->node_rope);
    free(handle->activations);
    free(handle->value_at);
    free(handle->scratch);
    free(handle->seq_begin);
    free(handle->items);
    free(handle);
}
