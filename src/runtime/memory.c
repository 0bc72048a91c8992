#include "runtime/memory_internal.h"

#include "base/error.h"
#include "runtime/steps.h"

uint64_t runtime_memory_peak(const struct runtime_memory *memory)
{
    return memory->mapped + memory->packed + memory->activation + memory->scratch + memory->kv +
           memory->table;
}

void runtime_memory_add(struct runtime_memory *memory, const struct runtime_memory *more)
{
    memory->mapped += more->mapped;
    memory->gathered += more->gathered;
    memory->packed += more->packed;
    memory->activation += more->activation;
    memory->unshared += more->unshared;
    memory->scratch += more->scratch;
    memory->kv += more->kv;
    memory->table += more->table;
}

void memory_add_program(struct runtime_memory *memory, const struct program *program)
{
    memory->table += arena_used(program->arena);
    memory->mapped += program->read_bytes;
}

/* Matrices that no linear layer has: embedding tables. */
static uint64_t table_bytes(const struct packing *packing)
{
    const serverd_graph *graph = &packing->program->graph;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < graph->n_tensors; i++) {
        const serverd_tensor *tensor = &graph->tensors[i];
        bool is_wanted = !packing->is_wanted || packing->is_wanted[i];
        if (is_wanted && tensor->rank == 2 && tensor->data &&
            !(tensor->flags & SERVERD_TENSOR_OF_LINEAR))
            bytes += tensor->bytes;
    }
    return bytes;
}

serverd_status memory_add_weights(struct runtime_memory *memory, const struct packing *packing,
                                  serverd_error *err)
{
    struct packing_bytes bytes;
    serverd_status status = packing_measure(packing, &bytes, err);
    if (status != SERVERD_OK)
        return status;
    uint64_t gathered = table_bytes(packing);
    memory->mapped += bytes.in_place - gathered;
    memory->gathered += gathered;
    memory->packed += bytes.block;
    return SERVERD_OK;
}

static serverd_status add_partition(struct runtime_memory *memory, const serverd_graph *graph,
                                    const struct instance *item, const serverd_partition *view,
                                    const serverd_limits *limits, serverd_error *err)
{
    serverd_footprint footprint = {.struct_bytes = sizeof footprint};
    if (!item->delegate->footprint)
        return fail(err, SERVERD_UNSUPPORTED, "device %s: does not say what it takes",
                    item->delegate->name);
    serverd_status status =
        item->delegate->footprint(item->instance, graph, view, limits,
                                  item->spec.n_layers > 0 ? &item->spec : NULL, &footprint, err);
    if (status != SERVERD_OK)
        return status;
    memory->activation += footprint.activation_bytes;
    memory->unshared += footprint.unshared_bytes;
    memory->scratch += footprint.scratch_bytes;
    return SERVERD_OK;
}

serverd_status memory_add_partitions(struct runtime_memory *memory,
                                     const struct placement *placement, struct instances *instances,
                                     const serverd_limits *limits, serverd_error *err)
{
    const serverd_graph *graph = placement->graph;
    serverd_status status = SERVERD_OK;
    for (uint32_t p = 0; p < placement->n_partitions && status == SERVERD_OK; p++)
        status =
            add_partition(memory, graph, instances_of(instances, placement->partitions[p].device),
                          &placement->partitions[p].view, limits, err);
    size_t bytes = 0;
    if (status == SERVERD_OK && !steps_buffer_bytes(placement, limits, &bytes))
        status = fail(err, SERVERD_NOMEM, "the values between partitions overflow");
    memory->scratch += bytes;
    memory->table += (uint64_t)placement->n_devices * graph->n_nodes * sizeof *placement->claims;
    return status;
}
