#include "runtime/identity_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/op.h"

#include <stdlib.h>
#include <string.h>

/* Bytes that one thread hashes at a time. Part of the definition: it does not depend on threads. */
#define CHUNK_BYTES  (1 * MIB)
#define DIGEST_BYTES 16

static void add_u32(struct sha256 *identity, uint32_t x)
{
    sha256_update(identity, &x, sizeof x);
}

static void add_u64(struct sha256 *identity, uint64_t x)
{
    sha256_update(identity, &x, sizeof x);
}

/* ---- tensors --------------------------------------------------------------------------------- */

struct digest_job {
    const char *bytes;
    uint64_t n_bytes;
    uint8_t (*digests)[DIGEST_BYTES];
};

static void digest_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct digest_job *job = arg;
    uint64_t first = (uint64_t)chunk * CHUNK_BYTES;
    checksum128(job->bytes + first, min_size(job->n_bytes - first, CHUNK_BYTES),
                job->digests[chunk]);
}

serverd_status identity_add_tensor(struct sha256 *identity, const serverd_tensor *tensor,
                                   struct worker_pool *pool, serverd_error *err)
{
    uint64_t n_chunks = tensor->bytes / CHUNK_BYTES + (tensor->bytes % CHUNK_BYTES > 0);
    if (n_chunks > UINT32_MAX)
        return fail(err, SERVERD_UNSUPPORTED, "tensor %s: too large to hash", tensor->name);
    struct digest_job job = {.bytes = tensor->data, .n_bytes = tensor->bytes};
    job.digests = calloc(max_size(n_chunks, 1), sizeof *job.digests);
    if (!job.digests)
        return fail(err, SERVERD_NOMEM, "no memory to hash tensor %s", tensor->name);
    worker_pool_run(pool, (uint32_t)n_chunks, digest_chunk, &job);
    add_u32(identity, tensor->dtype);
    add_u32(identity, tensor->rank);
    for (uint32_t d = 0; d < tensor->rank; d++)
        add_u64(identity, tensor->dims[d]);
    add_u64(identity, tensor->bytes);
    sha256_update(identity, job.digests, n_chunks * sizeof *job.digests);
    free(job.digests);
    return SERVERD_OK;
}

/* ---- the graph ------------------------------------------------------------------------------- */

static void add_node(struct sha256 *identity, const serverd_node *node, uint32_t max_context)
{
    const uint32_t head[] = {node->op, node->op_version, node->n_inputs, node->n_outputs,
                             node->first_operand};
    sha256_update(identity, head, sizeof head);
    sha256_update(identity, &node->attributes, op_info(node->op)->attribute_bytes);
    if (node->op == SERVERD_OP_ROPE)
        add_u32(identity, max_context > node->attributes.rope.alt_from);
}

static void add_value(struct sha256 *identity, const serverd_value *value)
{
    add_u32(identity, value->kind);
    add_u32(identity, value->kind == SERVERD_VALUE_CONSTANT ? value->tensor : value->producer);
    add_u32(identity, value->rank);
    for (uint32_t d = 0; d < value->rank; d++)
        add_u64(identity, (uint64_t)value->dims[d]);
}

void identity_add_graph(struct sha256 *identity, const serverd_graph *graph, uint32_t max_context)
{
    const uint32_t head[] = {graph->n_tensors, graph->n_values, graph->n_nodes, graph->n_operands,
                             graph->output};
    sha256_update(identity, head, sizeof head);
    for (uint32_t i = 0; i < graph->n_values; i++)
        add_value(identity, &graph->values[i]);
    for (uint32_t i = 0; i < graph->n_nodes; i++)
        add_node(identity, &graph->nodes[i], max_context);
    sha256_update(identity, graph->operands, graph->n_operands * sizeof *graph->operands);
}

static void add_kv_spec(struct sha256 *identity, const serverd_kv_spec *spec)
{
    add_u32(identity, spec->n_layers);
    add_u32(identity, spec->dtype);
    add_u32(identity, spec->page_tokens);
    for (uint32_t l = 0; l < spec->n_layers; l++) {
        const serverd_kv_layer *layer = &spec->layers[l];
        const uint32_t shape[] = {layer->n_kv_heads, layer->k_dim, layer->v_dim, layer->window};
        sha256_update(identity, shape, sizeof shape);
    }
}

/* Names with their ends: "ab", "c" is not "a", "bc". */
serverd_status identity_add_instances(struct sha256 *identity, const struct instances *instances,
                                      const struct placement *placement, serverd_error *err)
{
    for (uint32_t i = 0; i < instances->n; i++) {
        const struct instance *item = &instances->items[i];
        const serverd_delegate *delegate = item->delegate;
        uint64_t number = 0;
        serverd_status status = SERVERD_OK;
        if (item->spec.n_layers > 0)
            status = delegate->kv_identity(item->instance, &item->spec, &number, err);
        if (status != SERVERD_OK)
            return status;
        add_kv_spec(identity, &item->spec);
        add_u64(identity, number);
        sha256_update(identity, delegate->name, strlen(delegate->name) + 1);
        sha256_update(identity, delegate->version, strlen(delegate->version) + 1);
    }
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        const uint32_t where[] = {placement->partitions[p].view.first_node,
                                  placement->partitions[p].device};
        sha256_update(identity, where, sizeof where);
    }
    return SERVERD_OK;
}
