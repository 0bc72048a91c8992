#include "runtime/weights.h"

#include "base/error.h"
#include "base/numeric.h"
#include "program/op.h"
#include "runtime/memory_internal.h"

#include <stdlib.h>

/* The first instance of the same delegate, whose forms serve for all of them. */
static uint32_t first_alike(const struct instances *instances, uint32_t index)
{
    uint32_t i = 0;
    while (instances->items[i].delegate != instances->items[index].delegate)
        i++;
    return i;
}

/* Tensors that nodes on instances of this delegate read. */
static void mark_tensors(const struct weights_source *source, const serverd_delegate *delegate,
                         bool *is_wanted)
{
    const serverd_graph *graph = &source->program->graph;
    const struct placement *placement = source->placement;
    for (uint32_t p = 0; p < placement->n_partitions; p++) {
        const serverd_partition *view = &placement->partitions[p].view;
        if (placement->devices[placement->partitions[p].device].delegate != delegate)
            continue;
        for (uint32_t n = view->first_node; n < view->first_node + view->n_nodes; n++)
            for (uint32_t i = 0; i < graph->nodes[n].n_inputs; i++) {
                const serverd_value *value = node_input(graph, &graph->nodes[n], i);
                if (value->kind == SERVERD_VALUE_CONSTANT)
                    is_wanted[value->tensor] = true;
            }
    }
}

/* Several packings are one progress, of equal shares: there are seldom more than one. */
struct progress_share {
    const struct weights_source *source;
    double begin, share;
};

static void share_progress(void *context, double done)
{
    const struct progress_share *part = context;
    part->source->progress(part->source->progress_context, part->begin + part->share * done);
}

/* Of the delegate of an instance: packs its weights, or adds up what they take. */
static serverd_status do_one(const struct weights_source *source, uint32_t index,
                             struct packed_weights *out, struct runtime_memory *or_null,
                             serverd_error *err)
{
    const struct instances *instances = source->instances;
    const serverd_delegate *delegate = instances->items[index].delegate;
    bool *is_wanted = calloc(max_size(source->program->graph.n_tensors, 1), sizeof *is_wanted);
    if (!is_wanted)
        return fail(err, SERVERD_NOMEM, "no memory to pack");
    mark_tensors(source, delegate, is_wanted);
    struct progress_share part = {source, (double)index / instances->n, 1.0 / instances->n};
    const struct packing packing = {.program = source->program,
                                    .delegate = delegate,
                                    .is_wanted = is_wanted,
                                    .pool = source->pool,
                                    .identity = index == 0 ? source->identity : NULL,
                                    .progress = source->progress ? share_progress : NULL,
                                    .progress_context = &part};
    serverd_status status =
        or_null ? memory_add_weights(or_null, &packing, err) : pack_weights(&packing, out, err);
    free(is_wanted);
    return status;
}

serverd_status weights_pack(const struct weights_source *source, struct weights *out,
                            serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < source->instances->n && status == SERVERD_OK; i++)
        if (first_alike(source->instances, i) == i)
            status = do_one(source, i, &out->packed[i], NULL, err);
    return status;
}

serverd_status weights_measure(const struct weights_source *source, struct runtime_memory *memory,
                               serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < source->instances->n && status == SERVERD_OK; i++)
        if (first_alike(source->instances, i) == i)
            status = do_one(source, i, NULL, memory, err);
    return status;
}

void weights_free(struct weights *weights)
{
    for (uint32_t i = 0; i < LIMIT_DEVICES; i++)
        packed_weights_free(&weights->packed[i]);
}

const void *const *weights_of(const struct weights *weights, const struct instances *instances,
                              const struct instance *item)
{
    uint32_t index = first_alike(instances, (uint32_t)(item - instances->items));
    return (const void *const *)weights->packed[index].tensor;
}
