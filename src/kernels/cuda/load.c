/* What a partition takes of the device: weights, places of values, scratch, arrays of a step. */
#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cuda/cuda_internal.h"
#include "kernels/cuda/fragments.h"
#include "kernels/value_places.h"
#include "program/op.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN_BYTES 256

/* Attention takes rows in turns beyond this. */
#define SCRATCH_BYTES ((size_t)64 << 20)

static serverd_status no_memory(const char *what, serverd_error *err)
{
    return fail(err, SERVERD_NOMEM, "cuda: no memory for %s", what);
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static const serverd_node *node_at(const serverd_handle *handle, uint32_t i)
{
    return &handle->graph->nodes[handle->partition->first_node + i];
}

static size_t rows_of(const serverd_limits *limits, int64_t kind)
{
    const size_t n = kind == SERVERD_DIM_SEQS       ? limits->max_seqs
                     : kind == SERVERD_DIM_SELECTED ? limits->max_logit_rows
                                                    : limits->max_rows;
    return max_size(n, 1);
}

/* Bytes for the rows of the widest linear layer. */
static size_t fragments_bytes(const serverd_handle *handle)
{
    size_t most = 0;
    for (uint32_t i = 0; i < handle->partition->n_nodes; i++) {
        const serverd_node *node = node_at(handle, i);
        if (node->op != SERVERD_OP_LINEAR)
            continue;
        const serverd_value *x = node_input(handle->graph, node, 0);
        const size_t n =
            fragments_rows(rows_of(&handle->bounds.limits, x->dims[0]), value_width(x));
        most = max_size(most, n * sizeof(uint16_t));
    }
    return most;
}

/* Floats for all rows of the widest attention, or as many as fit, at least for one. */
static size_t attention_floats(const serverd_handle *handle)
{
    const serverd_limits *limits = &handle->bounds.limits;
    size_t most = 0;
    for (uint32_t i = 0; i < handle->partition->n_nodes; i++) {
        const serverd_node *node = node_at(handle, i);
        if (node->op != SERVERD_OP_ATTN)
            continue;
        const size_t row = gpu_attend_row_floats(&node->attributes.attn,
                                                 max_u32(limits->max_context, limits->max_rows));
        most = max_size(most, max_size(row, min_size(row * max_size(limits->max_rows, 1),
                                                     SCRATCH_BYTES / sizeof(float))));
    }
    return most;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* The constants that the partition's nodes read, each once. */
static void mark_tensors(const serverd_handle *handle, bool *is_read)
{
    for (uint32_t i = 0; i < handle->partition->n_nodes; i++) {
        const serverd_node *node = node_at(handle, i);
        for (uint32_t k = 0; k < node->n_inputs; k++) {
            const serverd_value *value = node_input(handle->graph, node, k);
            if (value->kind == SERVERD_VALUE_CONSTANT)
                is_read[value->tensor] = true;
        }
    }
}

/* Their bytes; at[i]: where each begins. */
static serverd_status place_tensors(const serverd_handle *handle, const bool *is_read, size_t *at,
                                    size_t *bytes, serverd_error *err)
{
    *bytes = 0;
    for (uint32_t i = 0; i < handle->graph->n_tensors; i++) {
        serverd_form form;
        if (!is_read[i])
            continue;
        const serverd_status status = cuda_form(&handle->graph->tensors[i], &form, err);
        if (status != SERVERD_OK)
            return status;
        at[i] = *bytes;
        size_t end;
        if (!size_add(*bytes, form.bytes, &end) || !size_align(end, ALIGN_BYTES, bytes))
            return no_memory("weights", err);
    }
    return SERVERD_OK;
}

static serverd_status upload_tensors(serverd_handle *handle, const void *const *packed,
                                     const bool *is_read, const size_t *at, serverd_error *err)
{
    struct gpu *gpu = handle->instance->gpu;
    for (uint32_t i = 0; i < handle->graph->n_tensors; i++) {
        const serverd_tensor *tensor = &handle->graph->tensors[i];
        serverd_form form;
        if (!is_read[i])
            continue;
        const serverd_status status = cuda_form(tensor, &form, err);
        if (status != SERVERD_OK)
            return status;
        const void *from = form.layout == SERVERD_LAYOUT_ROWS ? tensor->data : packed[i];
        if (!from)
            return fail(err, SERVERD_INTERNAL, "cuda: %s was not packed", tensor->name);
        handle->tensor[i] = handle->weights + at[i];
        gpu_from_host(gpu, handle->weights + at[i], from, form.bytes);
    }
    return gpu_wait(gpu, err); /* the host may let go of what was packed */
}

/* packed NULL: only their size is wanted. */
static serverd_status load_weights(serverd_handle *handle, const void *const *packed,
                                   serverd_error *err)
{
    const size_t n = max_size(handle->graph->n_tensors, 1);
    bool *is_read = calloc(n, sizeof *is_read);
    size_t *at = calloc(n, sizeof *at), bytes = 0;
    handle->tensor = calloc(n, sizeof *handle->tensor);
    serverd_status status =
        is_read && at && handle->tensor ? SERVERD_OK : no_memory("weights", err);
    if (status == SERVERD_OK) {
        mark_tensors(handle, is_read);
        status = place_tensors(handle, is_read, at, &bytes, err);
    }
    if (status == SERVERD_OK && packed) {
        handle->weights = gpu_allocate(handle->instance->gpu, bytes);
        status = handle->weights
                     ? upload_tensors(handle, packed, is_read, at, err)
                     : fail(err, SERVERD_NOMEM,
                            "cuda: the device has no memory for %zu bytes of weights", bytes);
    }
    free(is_read);
    free(at);
    return status;
}

/* ---- values and scratch ---------------------------------------------------------------------- */

static serverd_status add_values(serverd_handle *handle, bool is_real, serverd_error *err)
{
    const serverd_graph *graph = handle->graph;
    struct value_places places;
    if (!value_places_find(graph, handle->partition, &handle->bounds.limits, true, &places))
        return no_memory("activations", err);
    const size_t bytes = places.n_floats * sizeof(float), fragments = fragments_bytes(handle);
    handle->scratch_floats = attention_floats(handle);
    handle->footprint = (serverd_footprint){
        .struct_bytes = sizeof handle->footprint,
        .activation_bytes = bytes,
        .unshared_bytes = places.unshared * sizeof(float),
        .scratch_bytes =
            fragments + handle->arrays_bytes +
            (handle->scratch_floats + handle->meetings.gathered_floats) * sizeof(float)};
    bool fits = true;
    if (is_real) {
        struct gpu *gpu = handle->instance->gpu;
        handle->value = calloc(max_size(graph->n_values, 1), sizeof *handle->value);
        handle->values_block = gpu_allocate(gpu, bytes);
        handle->fragments = gpu_allocate(gpu, fragments);
        handle->scratch = gpu_allocate(gpu, handle->scratch_floats * sizeof(float));
        fits = handle->value && handle->values_block && handle->fragments && handle->scratch;
        for (uint32_t i = 0; fits && i < graph->n_values; i++)
            if (places.offset[i] != VALUE_NOWHERE)
                handle->value[i] = handle->values_block + places.offset[i];
    }
    value_places_deinit(&places);
    return fits ? SERVERD_OK : no_memory("activations", err);
}

/* ---- arrays of a step ------------------------------------------------------------------------ */

static void *take_bytes(char *block, size_t *at, size_t bytes)
{
    char *taken = block ? block + *at : NULL;
    *at += (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    return taken;
}

static void *take(char *block, size_t *at, size_t n)
{
    return take_bytes(block, at, n * sizeof(uint32_t));
}

/* Whether tokens can be drawn here: the logits are this partition's, and this rank's. */
static bool can_draw(const serverd_handle *handle)
{
    const serverd_partition *partition = handle->partition;
    const serverd_value *output = &handle->graph->values[handle->graph->output];
    return !cuda_is_elsewhere(handle->graph, handle->graph->output) &&
           output->dims[0] == SERVERD_DIM_SELECTED &&
           output->producer - partition->first_node < partition->n_nodes &&
           value_width(output) <= GPU_DRAW_WIDTH;
}

/* Returns their bytes, and those of the arrays before the page tables. */
static size_t lay_out(const serverd_handle *handle, char *block, struct step_arrays *out,
                      size_t *lists_bytes)
{
    const serverd_limits *limits = &handle->bounds.limits;
    const size_t n_entries = (size_t)limits->max_seqs * handle->max_pages;
    size_t at = 0;
    out->drawn = take(block, &at, limits->max_logit_rows);
    out->token = take(block, &at, limits->max_rows);
    out->position = take(block, &at, limits->max_rows);
    out->row_seq = take(block, &at, limits->max_rows);
    out->segment = take(block, &at, limits->max_rows);
    out->first_row = take(block, &at, (size_t)limits->max_seqs + 1);
    out->logit_row = take(block, &at, limits->max_logit_rows);
    *lists_bytes = at;
    out->page_table = take(block, &at, n_entries);
    out->window_table = take(block, &at, n_entries);
    out->chain = take(block, &at, (size_t)limits->max_seqs * handle->n_segments);
    if (!can_draw(handle))
        return at;
    const size_t n_words = (value_width(&handle->graph->values[handle->graph->output]) + 63) / 64;
    out->draw = take_bytes(block, &at, limits->max_logit_rows * sizeof *out->draw);
    out->change = take_bytes(block, &at, SERVERD_MAX_CHANGES * sizeof *out->change);
    out->mask = take_bytes(block, &at, SERVERD_MAX_MASKS * n_words * sizeof *out->mask);
    out->unchanged = take(block, &at, SERVERD_MAX_CHANGES);
    return at;
}

static serverd_status add_arrays(serverd_handle *handle, bool is_real, serverd_error *err)
{
    struct gpu *gpu = handle->instance->gpu;
    handle->max_pages =
        (handle->bounds.limits.max_context + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS;
    handle->n_segments = handle->bounds.limits.max_context / GPU_SEGMENT_KEYS;
    handle->arrays_bytes = lay_out(handle, NULL, &handle->arrays, &handle->lists_bytes);
    if (!is_real)
        return SERVERD_OK;
    handle->staged_block = gpu_allocate_pinned(gpu, handle->arrays_bytes);
    handle->arrays_block = gpu_allocate(gpu, handle->arrays_bytes);
    if (!handle->staged_block || !handle->arrays_block)
        return no_memory("the arrays of a step", err);
    (void)lay_out(handle, handle->staged_block, &handle->staged, &handle->lists_bytes);
    (void)lay_out(handle, handle->arrays_block, &handle->arrays, &handle->lists_bytes);
    gpu_zero(gpu, handle->arrays_block, handle->arrays_bytes);
    return SERVERD_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

void cuda_unload(serverd_handle *handle)
{
    struct gpu *gpu = handle->instance->gpu;
    graphs_free(&handle->graphs, gpu);
    meetings_close(&handle->meetings, gpu);
    gpu_free(gpu, handle->weights);
    gpu_free(gpu, handle->values_block);
    gpu_free(gpu, handle->fragments);
    gpu_free(gpu, handle->scratch);
    gpu_free(gpu, handle->arrays_block);
    gpu_free_pinned(gpu, handle->staged_block);
    free(handle->fusions);
    free(handle->tensor);
    free(handle->value);
    free(handle);
}

/* The store has the layers of all causal attention. */
static serverd_status find_kv(serverd_handle *handle, const serverd_kv_spec *kv, serverd_error *err)
{
    for (uint32_t i = 0; i < handle->partition->n_nodes; i++) {
        const serverd_attn *a = &node_at(handle, i)->attributes.attn;
        if (node_at(handle, i)->op != SERVERD_OP_ATTN || !a->is_causal || !kv)
            continue;
        const serverd_kv_layer *layer =
            a->kv_layer < kv->n_layers ? &kv->layers[a->kv_layer] : NULL;
        if (!layer || layer->n_kv_heads != a->n_kv_heads || layer->k_dim != a->k_dim ||
            layer->v_dim != a->v_dim)
            return fail(err, SERVERD_INTERNAL, "cuda: the store has no layer %u", a->kv_layer);
        handle->has_kv = true;
    }
    return SERVERD_OK;
}

/* packed NULL: nothing is taken of the device, sizes are what is wanted. */
static serverd_status make_handle(serverd_instance *instance, const serverd_graph *graph,
                                  const serverd_partition *partition, const void *const *packed,
                                  const serverd_limits *limits, const serverd_kv_spec *kv,
                                  serverd_handle **out, serverd_error *err)
{
    serverd_handle *handle = calloc(1, sizeof *handle);
    if (!handle)
        return no_memory("a partition", err);
    *handle = (serverd_handle){.instance = instance,
                               .graph = graph,
                               .partition = partition,
                               .bounds = {.name = "cuda", .limits = *limits}};
    batch_bounds_find(&handle->bounds, graph, partition);
    serverd_status status = find_kv(handle, kv, err);
    handle->fusions = fuse(graph, partition, handle->has_kv);
    if (status == SERVERD_OK && !handle->fusions)
        status = no_memory("a partition", err);
    if (status == SERVERD_OK)
        status = add_arrays(handle, packed != NULL, err);
    if (status == SERVERD_OK)
        status = meetings_open(&handle->meetings, packed ? instance->gpu : NULL, instance->host,
                               graph, partition, limits, err);
    if (status == SERVERD_OK)
        status = add_values(handle, packed != NULL, err);
    if (status == SERVERD_OK)
        status = load_weights(handle, packed, err);
    if (status != SERVERD_OK)
        cuda_unload(handle);
    else
        *out = handle;
    return status;
}

serverd_status cuda_load(serverd_instance *instance, const serverd_graph *graph,
                         const serverd_partition *partition, const void *const *packed,
                         const serverd_limits *limits, const serverd_kv_spec *kv,
                         serverd_handle **out, serverd_error *err)
{
    return make_handle(instance, graph, partition, packed, limits, kv, out, err);
}

serverd_status cuda_footprint(serverd_instance *instance, const serverd_graph *graph,
                              const serverd_partition *partition, const serverd_limits *limits,
                              const serverd_kv_spec *kv, serverd_footprint *out, serverd_error *err)
{
    serverd_handle *handle;
    const serverd_status status =
        make_handle(instance, graph, partition, NULL, limits, kv, &handle, err);
    if (status != SERVERD_OK)
        return status;
    *out = handle->footprint;
    cuda_unload(handle);
    return SERVERD_OK;
}
