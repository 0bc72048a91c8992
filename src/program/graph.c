#include "program/graph.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/op.h"

#include <stdlib.h>
#include <string.h>

struct graph_builder {
    struct arena *arena;
    serverd_tensor *tensors;
    serverd_value *values;
    serverd_node *nodes;
    uint32_t *operands;
    size_t n_tensors, n_values, n_nodes, n_operands;
    size_t tensor_cap, value_cap, node_cap, operand_cap;
    uint32_t layer;
    serverd_status status; /* of the first failure */
    serverd_error error;
};

struct graph_builder *graph_builder_create(struct arena *arena)
{
    struct graph_builder *builder = calloc(1, sizeof *builder);
    if (builder) {
        builder->arena = arena;
        builder->layer = UINT32_MAX;
    }
    return builder;
}

void graph_builder_destroy(struct graph_builder *builder)
{
    if (!builder)
        return;
    free(builder->tensors);
    free(builder->values);
    free(builder->nodes);
    free(builder->operands);
    free(builder);
}

void graph_set_layer(struct graph_builder *builder, uint32_t layer)
{
    builder->layer = layer;
}

/* Room for one more element. */
static bool grow(struct graph_builder *builder, void *array_at, size_t n, size_t *cap, size_t size)
{
    void *array;
    memcpy(&array, array_at, sizeof array);
    if (n < *cap)
        return true;
    size_t new_cap = *cap ? *cap * 2 : 64;
    void *bigger = new_cap <= LIMIT_GRAPH_ITEMS ? realloc(array, new_cap * size) : NULL;
    if (!bigger) {
        builder->status =
            fail(&builder->error, SERVERD_NOMEM, "graph: no room for %zu items", new_cap);
        return false;
    }
    memcpy(array_at, &bigger, sizeof bigger);
    *cap = new_cap;
    return true;
}

static uint32_t add_value(struct graph_builder *builder, const serverd_value *value)
{
    if (!grow(builder, &builder->values, builder->n_values, &builder->value_cap,
              sizeof *builder->values))
        return NO_VALUE;
    builder->values[builder->n_values] = *value;
    return (uint32_t)builder->n_values++;
}

uint32_t graph_constant(struct graph_builder *builder, const serverd_tensor *tensor)
{
    if (builder->status != SERVERD_OK || !grow(builder, &builder->tensors, builder->n_tensors,
                                               &builder->tensor_cap, sizeof *builder->tensors))
        return NO_VALUE;
    serverd_value value = {.kind = SERVERD_VALUE_CONSTANT,
                           .rank = tensor->rank,
                           .tensor = (uint32_t)builder->n_tensors,
                           .producer = UINT32_MAX};
    for (uint32_t i = 0; i < tensor->rank && i < SERVERD_MAX_DIMS; i++)
        value.dims[i] = (int64_t)tensor->dims[i];
    builder->tensors[builder->n_tensors++] = *tensor;
    return add_value(builder, &value);
}

static bool add_operand(struct graph_builder *builder, uint32_t value)
{
    if (!grow(builder, &builder->operands, builder->n_operands, &builder->operand_cap,
              sizeof *builder->operands))
        return false;
    builder->operands[builder->n_operands++] = value;
    return true;
}

/* The graph as it stands, for the op table's rules. */
static serverd_graph view(const struct graph_builder *builder)
{
    return (serverd_graph){.struct_bytes = sizeof(serverd_graph),
                           .n_tensors = (uint32_t)builder->n_tensors,
                           .n_values = (uint32_t)builder->n_values,
                           .n_nodes = (uint32_t)builder->n_nodes,
                           .n_operands = (uint32_t)builder->n_operands,
                           .tensors = builder->tensors,
                           .values = builder->values,
                           .nodes = builder->nodes,
                           .operands = builder->operands};
}

static bool add_inputs(struct graph_builder *builder, const char *op, const uint32_t *inputs,
                       uint32_t n_inputs)
{
    for (uint32_t i = 0; i < n_inputs; i++) {
        if (inputs[i] >= builder->n_values) {
            builder->status =
                fail(&builder->error, SERVERD_INTERNAL, "%s: input %u is missing", op, i);
            return false;
        }
        if (!add_operand(builder, inputs[i]))
            return false;
    }
    return true;
}

uint32_t graph_node(struct graph_builder *builder, serverd_op op, const uint32_t *inputs,
                    uint32_t n_inputs, const serverd_attributes *attributes)
{
    if (builder->status != SERVERD_OK)
        return NO_VALUE;
    while (n_inputs > 0 && inputs[n_inputs - 1] == NO_VALUE)
        n_inputs--;
    const struct op_info *info = op_info(op);
    if (!info || n_inputs < info->min_inputs || n_inputs > info->max_inputs) {
        builder->status = fail(&builder->error, SERVERD_INTERNAL, "%s: %u inputs",
                               info ? info->name : "unknown op", n_inputs);
        return NO_VALUE;
    }
    serverd_node node = {.op = (uint16_t)op,
                         .op_version = 1,
                         .n_inputs = (uint16_t)n_inputs,
                         .n_outputs = 1,
                         .first_operand = (uint32_t)builder->n_operands,
                         .layer = builder->layer};
    if (attributes)
        node.attributes = *attributes;
    if (!add_inputs(builder, info->name, inputs, n_inputs))
        return NO_VALUE;
    serverd_graph graph = view(builder);
    serverd_value out = {0};
    builder->status = info->infer(&graph, &node, &out, &builder->error);
    if (builder->status != SERVERD_OK)
        return NO_VALUE;
    out.kind = SERVERD_VALUE_ACTIVATION;
    out.tensor = 0;
    out.producer = (uint32_t)builder->n_nodes;
    uint32_t value = add_value(builder, &out);
    if (value == NO_VALUE || !add_operand(builder, value) ||
        !grow(builder, &builder->nodes, builder->n_nodes, &builder->node_cap,
              sizeof *builder->nodes))
        return NO_VALUE;
    builder->nodes[builder->n_nodes++] = node;
    return value;
}

static void *keep(struct graph_builder *builder, const void *array, size_t n, size_t size)
{
    void *copy = arena_array(builder->arena, max_size(n, 1), size);
    if (copy && n > 0)
        memcpy(copy, array, n * size);
    return copy;
}

serverd_status graph_finish(struct graph_builder *builder, uint32_t output, serverd_graph *graph,
                            serverd_error *err)
{
    if (builder->status != SERVERD_OK) {
        *err = builder->error;
        return builder->status;
    }
    if (output >= builder->n_values)
        return fail(err, SERVERD_INTERNAL, "graph: it has no output");
    serverd_graph made = view(builder);
    made.output = output;
    made.tensors = keep(builder, builder->tensors, builder->n_tensors, sizeof *builder->tensors);
    made.values = keep(builder, builder->values, builder->n_values, sizeof *builder->values);
    made.nodes = keep(builder, builder->nodes, builder->n_nodes, sizeof *builder->nodes);
    made.operands =
        keep(builder, builder->operands, builder->n_operands, sizeof *builder->operands);
    if (!made.tensors || !made.values || !made.nodes || !made.operands)
        return fail(err, SERVERD_NOMEM, "graph: no memory for %zu nodes", builder->n_nodes);
    *graph = made;
    return SERVERD_OK;
}
