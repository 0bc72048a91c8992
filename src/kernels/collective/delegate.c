#include "kernels/collective/delegate.h"

#include "base/error.h"
#include "kernels/meeting_cost.h"
#include "program/op.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct serverd_instance {
    const serverd_host *host;
};

/* One operation: where its operands are in the partition's lists. */
struct meeting {
    const serverd_node *node;
    uint32_t input, output;
};

struct serverd_handle {
    const serverd_host *host;
    const serverd_graph *graph;
    uint32_t n_meetings;
    struct meeting meetings[];
};

static serverd_status collective_devices(const serverd_host *host, serverd_device *out,
                                         uint32_t cap, uint32_t *n, serverd_error *err)
{
    (void)err;
    *n = host->collective ? 1 : 0;
    if (cap == 0)
        return SERVERD_OK;
    out[0] = (serverd_device){.struct_bytes = sizeof out[0]};
    if (host->collective)
        (void)snprintf(out[0].name, sizeof out[0].name, "rank %u of %u", host->collective->rank,
                       host->collective->n_ranks);
    else
        (void)snprintf(out[0].reason, sizeof out[0].reason, "the model is not shared by ranks");
    return SERVERD_OK;
}

static serverd_status collective_match(const serverd_host *host, const serverd_graph *graph,
                                       uint32_t index, serverd_claim *out, serverd_error *err)
{
    const serverd_node *node = &graph->nodes[index];
    const serverd_shard *shard = &node->attributes.shard;
    static const double rows[] = {1, 16, 512};
    (void)err;
    *out = (serverd_claim){.struct_bytes = sizeof *out, .reason = SERVERD_REASON_OP};
    if (!op_is_collective(node->op))
        return SERVERD_OK;
    if (shard->rank == host->collective->rank && shard->n_ranks == host->collective->n_ranks) {
        *out = (serverd_claim){.struct_bytes = sizeof *out, .n_nodes = 1};
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            out->seconds[i] = (float)meeting_seconds(graph, node, rows[i]);
    } else {
        (void)snprintf(out->text, sizeof out->text, "the shard is rank %u of %u", shard->rank,
                       shard->n_ranks);
    }
    return SERVERD_OK;
}

static serverd_status collective_form(const serverd_tensor *tensor, serverd_form *out,
                                      serverd_error *err)
{
    (void)tensor, (void)err;
    *out =
        (serverd_form){.struct_bytes = sizeof *out, .layout = SERVERD_LAYOUT_ROWS, .alignment = 1};
    return SERVERD_OK;
}

static serverd_status collective_pack(const serverd_tensor *tensor, const serverd_form *form,
                                      uint64_t first_row, uint64_t n_rows, void *dst,
                                      serverd_error *err)
{
    (void)form, (void)first_row, (void)n_rows, (void)dst;
    return fail(err, SERVERD_INTERNAL, "collective: %s needs no packing", tensor->name);
}

static serverd_status collective_open(const serverd_host *host, const serverd_device *device,
                                      serverd_instance **out, serverd_error *err)
{
    (void)device;
    *out = malloc(sizeof **out);
    if (!*out)
        return fail(err, SERVERD_NOMEM, "collective: no memory");
    (*out)->host = host;
    return SERVERD_OK;
}

static void collective_close(serverd_instance *instance)
{
    free(instance);
}

/* ---- a partition ----------------------------------------------------------------------------- */

static bool find(const uint32_t *values, uint32_t n, uint32_t value, uint32_t *out)
{
    for (*out = 0; *out < n; ++*out)
        if (values[*out] == value)
            return true;
    return false;
}

static serverd_status collective_load(serverd_instance *instance, const serverd_graph *graph,
                                      const serverd_partition *partition, const void *const *packed,
                                      const serverd_limits *limits, const serverd_kv_spec *kv,
                                      serverd_handle **out, serverd_error *err)
{
    (void)packed, (void)limits, (void)kv;
    serverd_handle *handle = malloc(sizeof *handle + partition->n_nodes * sizeof *handle->meetings);
    if (!handle)
        return fail(err, SERVERD_NOMEM, "collective: no memory");
    *handle =
        (serverd_handle){.host = instance->host, .graph = graph, .n_meetings = partition->n_nodes};
    for (uint32_t i = 0; i < partition->n_nodes; i++) {
        struct meeting *meeting = &handle->meetings[i];
        meeting->node = &graph->nodes[partition->first_node + i];
        const uint32_t *operands = &graph->operands[meeting->node->first_operand];
        if (find(partition->inputs, partition->n_inputs, operands[0], &meeting->input) &&
            find(partition->outputs, partition->n_outputs, operands[1], &meeting->output))
            continue;
        free(handle); /* no shard has it: ranks that have met need not meet again */
        return fail(err, SERVERD_UNSUPPORTED, "collective: node %u is of no use to others",
                    partition->first_node + i);
    }
    *out = handle;
    return SERVERD_OK;
}

static void collective_unload(serverd_handle *handle)
{
    free(handle);
}

static size_t rows_of(const serverd_batch *batch, const serverd_value *value)
{
    switch (value->dims[0]) {
    case SERVERD_DIM_ROWS:
        return batch->n_rows;
    case SERVERD_DIM_SEQS:
        return batch->n_seqs;
    default:
        return batch->n_logit_rows;
    }
}

static serverd_status collective_execute(serverd_handle *handle, const serverd_batch *batch,
                                         serverd_kv *kv, const float *const *inputs,
                                         float *const *outputs, serverd_error *err)
{
    (void)kv;
    const serverd_collective *collective = handle->host->collective;
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < handle->n_meetings && status == SERVERD_OK; i++) {
        const struct meeting *meeting = &handle->meetings[i];
        const serverd_value *x = node_input(handle->graph, meeting->node, 0);
        const serverd_shard *shard = &meeting->node->attributes.shard;
        const size_t n_rows = rows_of(batch, x), n_columns = value_width(x);
        const float *from = inputs[meeting->input];
        float *to = outputs[meeting->output];
        if (meeting->node->op == SERVERD_OP_GATHER) {
            status = collective->gather(collective->context, from, n_rows, n_columns, shard->begin,
                                        shard->width, to, err);
        } else {
            memcpy(to, from, n_rows * n_columns * sizeof *to);
            status = collective->all_reduce(collective->context, to, n_rows * n_columns, err);
        }
    }
    return status;
}

static serverd_status collective_footprint(serverd_instance *instance, const serverd_graph *graph,
                                           const serverd_partition *partition,
                                           const serverd_limits *limits, const serverd_kv_spec *kv,
                                           serverd_footprint *out, serverd_error *err)
{
    (void)instance, (void)graph, (void)partition, (void)limits, (void)kv, (void)err;
    *out = (serverd_footprint){.struct_bytes = sizeof *out};
    return SERVERD_OK;
}

const serverd_delegate collective_delegate = {
    .abi = SERVERD_DELEGATE_ABI,
    .struct_bytes = sizeof(serverd_delegate),
    .name = "collective",
    .version = "1",
    .flags = SERVERD_DELEGATE_BY_NAME_ONLY, /* placement_wishes.c adds it for ranks */
    .devices = collective_devices,
    .match = collective_match,
    .form = collective_form,
    .pack = collective_pack,
    .open = collective_open,
    .load = collective_load,
    .execute = collective_execute,
    .unload = collective_unload,
    .close = collective_close,
    .footprint = collective_footprint,
};
