#include "program/graph.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/dtype.h"
#include "program/op.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* ---- checks -------------------------------------------------------------------------------- */

static serverd_status check_finite(const serverd_tensor *tensor, serverd_error *err)
{
    const char *bytes = tensor->data;
    for (uint64_t i = 0; i < tensor->dims[0]; i++) {
        float x;
        memcpy(&x, bytes + i * sizeof x, sizeof x);
        if (!isfinite(x))
            return fail(err, SERVERD_CORRUPT, "tensor %s: element %" PRIu64 " is not finite",
                        tensor->name, i);
    }
    return SERVERD_OK;
}

serverd_status graph_check_tensor(const serverd_tensor *tensor, serverd_error *err)
{
    if (!tensor->name)
        return fail(err, SERVERD_CORRUPT, "a tensor has no name");
    struct dtype_block block;
    if (!dtype_block(tensor->dtype, &block))
        return fail(err, SERVERD_UNSUPPORTED, "tensor %s: unknown element type %u", tensor->name,
                    tensor->dtype);
    if (!block.is_loadable)
        return fail(err, SERVERD_UNSUPPORTED, "tensor %s: weights of type %s cannot be used",
                    tensor->name, block.name);
    if (tensor->rank == 0 || tensor->rank > SERVERD_MAX_DIMS)
        return fail(err, SERVERD_CORRUPT, "tensor %s: %u dims, 1..%u are allowed", tensor->name,
                    tensor->rank, SERVERD_MAX_DIMS);
    uint64_t bytes;
    if (!dtype_row_bytes(tensor->dtype, tensor->dims[tensor->rank - 1], &bytes))
        return fail(err, SERVERD_CORRUPT,
                    "tensor %s: rows of %" PRIu64 " elements are not made of %s blocks of %u",
                    tensor->name, tensor->dims[tensor->rank - 1], block.name, block.elements);
    for (uint32_t d = 0; d < tensor->rank; d++) {
        uint64_t n = tensor->dims[d];
        if (n == 0 || n > INT64_MAX)
            return fail(err, SERVERD_CORRUPT, "tensor %s: dim %u is %" PRIu64, tensor->name, d, n);
        if (d + 1 < tensor->rank && __builtin_mul_overflow(bytes, n, &bytes))
            return fail(err, SERVERD_CORRUPT, "tensor %s: its size overflows", tensor->name);
    }
    if (bytes > SIZE_MAX / 2 || bytes != tensor->bytes)
        return fail(err, SERVERD_CORRUPT, "tensor %s: %" PRIu64 " bytes, its shape needs %" PRIu64,
                    tensor->name, tensor->bytes, bytes);
    if (!tensor->data && !(tensor->flags & SERVERD_TENSOR_PACKED && tensor->rank == 2))
        return fail(err, SERVERD_CORRUPT, "tensor %s: has no data", tensor->name);
    if (tensor->rank == 1 && tensor->dtype == DTYPE_F32)
        return check_finite(tensor, err);
    return SERVERD_OK;
}

/* Operand counts first: they bound what the shape rule reads. */
static serverd_status check_arity(const serverd_graph *graph, const serverd_node *node,
                                  serverd_error *err)
{
    const struct op_info *info = op_info(node->op);
    if (!info)
        return fail(err, SERVERD_UNSUPPORTED, "unknown op %u", node->op);
    if (node->op_version != 1)
        return fail(err, SERVERD_UNSUPPORTED, "%s: unknown version %u", info->name,
                    node->op_version);
    if (node->n_inputs < info->min_inputs || node->n_inputs > info->max_inputs ||
        node->n_outputs != 1)
        return fail(err, SERVERD_CORRUPT, "%s: %u inputs and %u outputs, %u..%u and 1 are needed",
                    info->name, node->n_inputs, node->n_outputs, info->min_inputs,
                    info->max_inputs);
    if ((uint64_t)node->first_operand + node->n_inputs + 1 > graph->n_operands)
        return fail(err, SERVERD_CORRUPT, "%s: operands beyond the %u of the graph", info->name,
                    graph->n_operands);
    return SERVERD_OK;
}

static serverd_status fail_at_node(serverd_error *err, uint32_t index, const serverd_node *node)
{
    const struct op_info *info = op_info(node->op);
    const char *name = info ? info->name : "?";
    if (node->layer == UINT32_MAX)
        error_context(err, "node %u (%s)", index, name);
    else
        error_context(err, "node %u (%s) of layer %u", index, name, node->layer);
    err->node = index;
    return err->code;
}

/* A constant, or the output of a node before `index`. Those nodes are checked already. */
static bool is_made_before(const serverd_graph *graph, uint32_t operand, uint32_t index)
{
    const serverd_value *value = &graph->values[operand];
    if (value->kind == SERVERD_VALUE_CONSTANT)
        return true;
    if (value->producer >= index)
        return false;
    const serverd_node *producer = &graph->nodes[value->producer];
    return graph->operands[producer->first_operand + producer->n_inputs] == operand;
}

static serverd_status check_inputs(const serverd_graph *graph, uint32_t index, serverd_error *err)
{
    const serverd_node *node = &graph->nodes[index];
    for (uint32_t i = 0; i < node->n_inputs; i++) {
        uint32_t operand = graph->operands[node->first_operand + i];
        if (operand >= graph->n_values)
            return fail(err, SERVERD_CORRUPT, "input %u is value %u of %u", i, operand,
                        graph->n_values);
        if (!is_made_before(graph, operand, index))
            return fail(err, SERVERD_CORRUPT, "input %u is value %u, which no node before makes", i,
                        operand);
    }
    return SERVERD_OK;
}

static serverd_status check_output(const serverd_graph *graph, uint32_t index, serverd_error *err)
{
    const serverd_node *node = &graph->nodes[index];
    uint32_t operand = graph->operands[node->first_operand + node->n_inputs];
    if (operand >= graph->n_values)
        return fail(err, SERVERD_CORRUPT, "the output is value %u of %u", operand, graph->n_values);
    const serverd_value *value = &graph->values[operand];
    if (value->kind != SERVERD_VALUE_ACTIVATION || value->producer != index)
        return fail(err, SERVERD_CORRUPT, "the output is value %u, which has another producer",
                    operand);
    serverd_value inferred = *value;
    serverd_status status = op_info(node->op)->infer(graph, node, &inferred, err);
    if (status != SERVERD_OK)
        return status;
    if (inferred.rank != value->rank || inferred.dims[0] != value->dims[0] ||
        inferred.dims[1] != value->dims[1])
        return fail(err, SERVERD_CORRUPT,
                    "the output has the shape [%" PRId64 ", %" PRId64 "], its inputs make [%" PRId64
                    ", %" PRId64 "]",
                    value->dims[0], value->dims[1], inferred.dims[0], inferred.dims[1]);
    return SERVERD_OK;
}

static serverd_status check_constant(const serverd_graph *graph, const serverd_value *value,
                                     serverd_error *err)
{
    if (value->tensor >= graph->n_tensors)
        return fail(err, SERVERD_CORRUPT, "tensor %u of %u", value->tensor, graph->n_tensors);
    const serverd_tensor *tensor = &graph->tensors[value->tensor];
    bool is_same = value->rank == tensor->rank && value->producer == UINT32_MAX;
    for (uint32_t d = 0; is_same && d < tensor->rank; d++)
        is_same = value->dims[d] > 0 && (uint64_t)value->dims[d] == tensor->dims[d];
    if (!is_same)
        return fail(err, SERVERD_CORRUPT, "another shape than its tensor %s", tensor->name);
    return SERVERD_OK;
}

static serverd_status check_value(const serverd_graph *graph, const serverd_value *value,
                                  serverd_error *err)
{
    switch (value->kind) {
    case SERVERD_VALUE_CONSTANT:
        return check_constant(graph, value, err);
    case SERVERD_VALUE_ACTIVATION:
        if (value->producer >= graph->n_nodes)
            return fail(err, SERVERD_CORRUPT, "made by node %u of %u", value->producer,
                        graph->n_nodes);
        if (value->rank != 2)
            return fail(err, SERVERD_CORRUPT, "an activation of rank %u", value->rank);
        return SERVERD_OK;
    default:
        return fail(err, SERVERD_CORRUPT, "unknown kind %u", value->kind);
    }
}

serverd_status graph_check(const serverd_graph *graph, serverd_error *err)
{
    if (graph->n_tensors > LIMIT_GRAPH_ITEMS || graph->n_nodes > LIMIT_GRAPH_ITEMS ||
        graph->n_values > LIMIT_GRAPH_ITEMS || graph->n_operands > LIMIT_GRAPH_ITEMS)
        return fail(err, SERVERD_CORRUPT, "%u tensors, %u nodes, %u values, at most %u allowed",
                    graph->n_tensors, graph->n_nodes, graph->n_values, LIMIT_GRAPH_ITEMS);
    serverd_status status;
    for (uint32_t i = 0; i < graph->n_tensors; i++)
        if ((status = graph_check_tensor(&graph->tensors[i], err)) != SERVERD_OK)
            return status;
    for (uint32_t i = 0; i < graph->n_values; i++)
        if ((status = check_value(graph, &graph->values[i], err)) != SERVERD_OK)
            return error_context(err, "value %u", i);
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        if ((status = check_arity(graph, &graph->nodes[i], err)) != SERVERD_OK ||
            (status = check_inputs(graph, i, err)) != SERVERD_OK ||
            (status = check_output(graph, i, err)) != SERVERD_OK)
            return fail_at_node(err, i, &graph->nodes[i]);
    }
    if (graph->output >= graph->n_values ||
        graph->values[graph->output].kind != SERVERD_VALUE_ACTIVATION ||
        !is_made_before(graph, graph->output, graph->n_nodes))
        return fail(err, SERVERD_CORRUPT, "the graph's output is no result of a node");
    return SERVERD_OK;
}

/* ---- the builder --------------------------------------------------------------------------- */

/* While it grows the graph lies in four heap arrays; graph_finish copies them to the arena. */
struct graph_builder {
    struct arena *arena;
    uint32_t layer;
    serverd_tensor *tensors;
    serverd_value *values;
    serverd_node *nodes;
    uint32_t *operands;
    uint32_t n_tensors, n_values, n_nodes, n_operands;
    uint32_t cap_tensors, cap_values, cap_nodes, cap_operands;
    bool has_failed;
    serverd_error err;
};

struct graph_builder *graph_builder_create(struct arena *arena)
{
    struct graph_builder *builder = calloc(1, sizeof *builder);
    if (!builder)
        return NULL;
    builder->arena = arena;
    builder->layer = UINT32_MAX;
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

/* Room for one more of `n` items; `limit` bounds them. */
static bool grow(struct graph_builder *builder, void **items, uint32_t n, uint32_t *cap,
                 size_t item_bytes, uint32_t limit)
{
    if (n < *cap)
        return true;
    uint32_t more = *cap ? *cap * 2 : 64;
    if (n >= limit) {
        fail(&builder->err, SERVERD_CORRUPT, "the graph has more than %u parts of a kind", limit);
        builder->has_failed = true;
        return false;
    }
    void *grown = realloc(*items, more * item_bytes);
    if (!grown) {
        fail(&builder->err, SERVERD_NOMEM, "no memory for a graph");
        builder->has_failed = true;
        return false;
    }
    *items = grown;
    *cap = more;
    return true;
}

static uint32_t add_value(struct graph_builder *builder, const serverd_value *value)
{
    void *items = builder->values;
    if (!grow(builder, &items, builder->n_values, &builder->cap_values, sizeof *value,
              LIMIT_GRAPH_ITEMS))
        return NO_VALUE;
    builder->values = items;
    builder->values[builder->n_values] = *value;
    return builder->n_values++;
}

static bool add_operand(struct graph_builder *builder, uint32_t value)
{
    void *items = builder->operands;
    if (!grow(builder, &items, builder->n_operands, &builder->cap_operands, sizeof value,
              LIMIT_GRAPH_ITEMS))
        return false;
    builder->operands = items;
    builder->operands[builder->n_operands++] = value;
    return true;
}

/* The graph so far, as the shape rules see it. */
static serverd_graph view(const struct graph_builder *builder)
{
    return (serverd_graph){.struct_bytes = sizeof(serverd_graph),
                           .n_tensors = builder->n_tensors,
                           .n_values = builder->n_values,
                           .n_nodes = builder->n_nodes,
                           .n_operands = builder->n_operands,
                           .tensors = builder->tensors,
                           .values = builder->values,
                           .nodes = builder->nodes,
                           .operands = builder->operands};
}

/* ---- constants ----------------------------------------------------------------------------- */

static serverd_status convert_vector(struct arena *arena, serverd_tensor *tensor,
                                     serverd_error *err)
{
    const struct dtype_info *info = dtype_info(tensor->dtype);
    uint64_t n = tensor->dims[0];
    float *converted = arena_array(arena, n, sizeof *converted);
    if (!converted)
        return fail(err, SERVERD_NOMEM, "no memory for tensor %s", tensor->name);
    info->to_f32(tensor->data, converted, n / info->block_elements);
    tensor->dtype = DTYPE_F32;
    tensor->data = converted;
    tensor->bytes = n * sizeof *converted;
    return check_finite(tensor, err);
}

static serverd_status copy_tensor(struct arena *arena, const serverd_tensor *from,
                                  serverd_tensor *to, serverd_error *err)
{
    serverd_status status = graph_check_tensor(from, err);
    if (status != SERVERD_OK)
        return status;
    *to = *from;
    to->struct_bytes = sizeof *to;
    to->name = arena_copy(arena, from->name, strlen(from->name));
    if (!to->name)
        return fail(err, SERVERD_NOMEM, "no memory for the name of a tensor");
    if (to->rank == 1 && to->dtype != DTYPE_F32)
        return convert_vector(arena, to, err);
    return SERVERD_OK;
}

/* The value of these bytes under this type and shape: a table that is both embedding and head is
 * one tensor. */
static uint32_t find_constant(const struct graph_builder *builder, const serverd_tensor *tensor)
{
    for (uint32_t i = 0; i < builder->n_values; i++) {
        const serverd_value *value = &builder->values[i];
        const serverd_tensor *other = &builder->tensors[value->tensor];
        if (value->kind == SERVERD_VALUE_CONSTANT && other->data == tensor->data &&
            other->dtype == tensor->dtype && other->rank == tensor->rank &&
            memcmp(other->dims, tensor->dims, tensor->rank * sizeof *tensor->dims) == 0)
            return i;
    }
    return NO_VALUE;
}

uint32_t graph_constant(struct graph_builder *builder, const serverd_tensor *tensor)
{
    uint32_t known = find_constant(builder, tensor);
    if (known != NO_VALUE)
        return builder->has_failed ? NO_VALUE : known;
    void *items = builder->tensors;
    if (builder->has_failed || !grow(builder, &items, builder->n_tensors, &builder->cap_tensors,
                                     sizeof *tensor, LIMIT_GRAPH_ITEMS))
        return NO_VALUE;
    builder->tensors = items;
    serverd_tensor *to = &builder->tensors[builder->n_tensors];
    if (copy_tensor(builder->arena, tensor, to, &builder->err) != SERVERD_OK) {
        builder->has_failed = true;
        return NO_VALUE;
    }
    serverd_value value = {.kind = SERVERD_VALUE_CONSTANT,
                           .rank = to->rank,
                           .tensor = builder->n_tensors,
                           .producer = UINT32_MAX};
    for (uint32_t d = 0; d < to->rank; d++)
        value.dims[d] = (int64_t)to->dims[d];
    builder->n_tensors++;
    return add_value(builder, &value);
}

/* ---- nodes --------------------------------------------------------------------------------- */

static bool add_operands(struct graph_builder *builder, const uint32_t *inputs, uint32_t n_inputs)
{
    for (uint32_t i = 0; i < n_inputs; i++) {
        if (inputs[i] >= builder->n_values) {
            fail(&builder->err, SERVERD_INTERNAL, "input %u is value %u of %u", i, inputs[i],
                 builder->n_values);
            return false;
        }
        if (!add_operand(builder, inputs[i]))
            return false;
    }
    return add_operand(builder, builder->n_values); /* the output is the next value */
}

static uint32_t infer_output(struct graph_builder *builder, const serverd_node *node)
{
    serverd_value output = {.kind = SERVERD_VALUE_ACTIVATION, .producer = builder->n_nodes - 1};
    serverd_graph graph = view(builder);
    if (check_arity(&graph, node, &builder->err) != SERVERD_OK ||
        op_info(node->op)->infer(&graph, node, &output, &builder->err) != SERVERD_OK)
        return NO_VALUE;
    return add_value(builder, &output);
}

uint32_t graph_node(struct graph_builder *builder, serverd_op op, const uint32_t *inputs,
                    uint32_t n_inputs, const serverd_attributes *attributes)
{
    while (n_inputs > 0 && inputs[n_inputs - 1] == NO_VALUE)
        n_inputs--;
    void *items = builder->nodes;
    if (builder->has_failed || !grow(builder, &items, builder->n_nodes, &builder->cap_nodes,
                                     sizeof *builder->nodes, LIMIT_GRAPH_ITEMS))
        return NO_VALUE;
    builder->nodes = items;
    serverd_node *node = &builder->nodes[builder->n_nodes];
    *node = (serverd_node){.op = (uint16_t)op,
                           .op_version = 1,
                           .n_inputs = (uint16_t)min_size(n_inputs, UINT16_MAX),
                           .n_outputs = 1,
                           .first_operand = builder->n_operands,
                           .layer = builder->layer};
    if (attributes)
        node->attributes = *attributes;
    uint32_t output = NO_VALUE;
    if (add_operands(builder, inputs, node->n_inputs)) {
        builder->n_nodes++;
        output = infer_output(builder, node);
    }
    if (output != NO_VALUE && op == SERVERD_OP_LINEAR)
        builder->tensors[builder->values[inputs[1]].tensor].flags |= SERVERD_TENSOR_OF_LINEAR;
    if (output == NO_VALUE) {
        fail_at_node(&builder->err, (uint32_t)(node - builder->nodes), node);
        builder->has_failed = true;
    }
    return output;
}

/* ---- the end ------------------------------------------------------------------------------- */

static void *copy_items(struct arena *arena, const void *items, uint32_t n, size_t item_bytes)
{
    void *copy = arena_array(arena, n ? n : 1, item_bytes);
    if (copy && n)
        memcpy(copy, items, n * item_bytes);
    return copy;
}

serverd_status graph_finish(struct graph_builder *builder, uint32_t output, serverd_graph *graph,
                            serverd_error *err)
{
    if (builder->has_failed) {
        *err = builder->err;
        return err->code;
    }
    serverd_graph made = view(builder);
    made.output = output;
    made.tensors = copy_items(builder->arena, made.tensors, made.n_tensors, sizeof *made.tensors);
    made.values = copy_items(builder->arena, made.values, made.n_values, sizeof *made.values);
    made.nodes = copy_items(builder->arena, made.nodes, made.n_nodes, sizeof *made.nodes);
    made.operands =
        copy_items(builder->arena, made.operands, made.n_operands, sizeof *made.operands);
    if (!made.tensors || !made.values || !made.nodes || !made.operands)
        return fail(err, SERVERD_NOMEM, "no memory for a graph of %u nodes", made.n_nodes);
    if (output >= made.n_values || made.values[output].kind != SERVERD_VALUE_ACTIVATION)
        return fail(err, SERVERD_INTERNAL, "the graph's output is no activation");
    *graph = made;
    return SERVERD_OK;
}
