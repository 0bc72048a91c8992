#include "program/program.h"

#include "base/error.h"
#include "base/limits.h"
#include "program/dtype.h"
#include "program/op.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DIM (UINT64_C(1) << 40)

struct program *program_create(size_t limit_bytes)
{
    struct arena *arena = arena_create(limit_bytes);
    struct program *program = arena ? arena_alloc(arena, sizeof *program) : NULL;
    if (!program) {
        arena_destroy(arena);
        return NULL;
    }
    program->arena = arena;
    program->references = 1;
    return program;
}

struct program *program_ref(struct program *program)
{
    __atomic_fetch_add(&program->references, 1, __ATOMIC_RELAXED);
    return program;
}

void program_unref(struct program *program)
{
    if (!program || __atomic_fetch_sub(&program->references, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    for (uint32_t i = 0; i < program->n_mappings; i++)
        mapping_close(&program->mappings[i]);
    arena_destroy(program->arena); /* holds the program too */
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* Norms, biases and frequencies are small and reach every row: they are looked at; a NaN in a
 * large matrix shows as NaN logits. */
static serverd_status check_finite(const serverd_tensor *tensor, serverd_error *err)
{
    if (tensor->dtype != DTYPE_F32 || tensor->rank != 1)
        return SERVERD_OK;
    for (uint64_t i = 0; i < tensor->dims[0]; i++) {
        float x;
        memcpy(&x, (const char *)tensor->data + i * sizeof x, sizeof x);
        if (!isfinite(x))
            return fail(err, SERVERD_CORRUPT, "tensor %s: element %" PRIu64 " is not finite",
                        tensor->name, i);
    }
    return SERVERD_OK;
}

static serverd_status check_tensor(const serverd_tensor *tensor, serverd_error *err)
{
    if (tensor->rank == 0 || tensor->rank > SERVERD_MAX_DIMS)
        return fail(err, SERVERD_CORRUPT, "tensor %s: rank %u", tensor->name, tensor->rank);
    uint64_t n_rows = 1, row_bytes, bytes;
    for (uint32_t d = 0; d < tensor->rank; d++)
        if (tensor->dims[d] == 0 || tensor->dims[d] > MAX_DIM ||
            (d + 1 < tensor->rank && __builtin_mul_overflow(n_rows, tensor->dims[d], &n_rows)))
            return fail(err, SERVERD_CORRUPT, "tensor %s: dimension %u is %" PRIu64, tensor->name,
                        d, tensor->dims[d]);
    const struct dtype_info *info = dtype_info(tensor->dtype);
    if (!info || !info->to_f32)
        return fail(err, SERVERD_UNSUPPORTED, "tensor %s: elements of type %s (%u)", tensor->name,
                    info ? info->name : "unknown", tensor->dtype);
    if (!dtype_row_bytes(tensor->dtype, tensor->dims[tensor->rank - 1], &row_bytes) ||
        __builtin_mul_overflow(n_rows, row_bytes, &bytes) || bytes != tensor->bytes)
        return fail(err, SERVERD_CORRUPT, "tensor %s: %" PRIu64 " bytes do not fit its shape",
                    tensor->name, tensor->bytes);
    if (!tensor->data)
        return fail(err, SERVERD_CORRUPT, "tensor %s: has no data", tensor->name);
    return check_finite(tensor, err);
}

static bool same_shape(const serverd_value *a, const serverd_value *b)
{
    if (a->rank != b->rank)
        return false;
    for (uint32_t i = 0; i < a->rank; i++)
        if (a->dims[i] != b->dims[i])
            return false;
    return true;
}

static serverd_status check_constants(const serverd_graph *graph, serverd_error *err)
{
    for (uint32_t i = 0; i < graph->n_values; i++) {
        const serverd_value *value = &graph->values[i];
        if (value->kind == SERVERD_VALUE_ACTIVATION && value->producer < graph->n_nodes)
            continue;
        if (value->kind != SERVERD_VALUE_CONSTANT || value->tensor >= graph->n_tensors)
            return fail(err, SERVERD_CORRUPT, "graph: value %u has no source", i);
        const serverd_tensor *tensor = &graph->tensors[value->tensor];
        bool is_same = value->rank == tensor->rank;
        for (uint32_t d = 0; d < tensor->rank && is_same; d++)
            is_same = value->dims[d] == (int64_t)tensor->dims[d];
        if (!is_same)
            return fail(err, SERVERD_CORRUPT, "graph: value %u has not the shape of tensor %s", i,
                        tensor->name);
    }
    return SERVERD_OK;
}

static serverd_status check_operands(const serverd_graph *graph, uint32_t n, serverd_error *err)
{
    const serverd_node *node = &graph->nodes[n];
    const struct op_info *info = op_info(node->op);
    if (!info)
        return fail(err, SERVERD_UNSUPPORTED, "graph: node %u has the unknown op %u", n, node->op);
    if (node->n_inputs < info->min_inputs || node->n_inputs > info->max_inputs ||
        node->n_outputs != 1 || node->first_operand > graph->n_operands ||
        graph->n_operands - node->first_operand < (uint32_t)node->n_inputs + 1)
        return fail(err, SERVERD_CORRUPT, "graph: node %u (%s) has %u inputs, %u outputs", n,
                    info->name, node->n_inputs, node->n_outputs);
    for (uint32_t i = 0; i <= node->n_inputs; i++) {
        uint32_t index = graph->operands[node->first_operand + i];
        if (index >= graph->n_values)
            return fail(err, SERVERD_CORRUPT, "graph: node %u (%s) names value %u of %u", n,
                        info->name, index, graph->n_values);
        const serverd_value *value = &graph->values[index];
        bool is_output = i == node->n_inputs;
        if (is_output ? value->kind != SERVERD_VALUE_ACTIVATION || value->producer != n
                      : value->kind == SERVERD_VALUE_ACTIVATION && value->producer >= n)
            return fail(err, SERVERD_CORRUPT, "graph: node %u (%s) uses value %u out of order", n,
                        info->name, index);
    }
    return SERVERD_OK;
}

static serverd_status check_attention(const struct program *program, const serverd_node *node,
                                      serverd_error *err)
{
    const serverd_attn *a = &node->attributes.attn;
    if (!a->is_causal)
        return program->kv.n_layers == 0
                   ? SERVERD_OK
                   : fail(err, SERVERD_CORRUPT, "attn: sees the future beside a KV cache");
    if (a->kv_layer >= program->kv.n_layers)
        return fail(err, SERVERD_CORRUPT, "attn: KV layer %u of %u", a->kv_layer,
                    program->kv.n_layers);
    const serverd_kv_layer *layer = &program->kv.layers[a->kv_layer];
    if (layer->n_kv_heads != a->n_kv_heads || layer->k_dim != a->k_dim ||
        layer->v_dim != a->v_dim || layer->window != a->window)
        return fail(err, SERVERD_CORRUPT, "attn: KV layer %u has another shape", a->kv_layer);
    return SERVERD_OK;
}

static serverd_status check_node(const struct program *program, uint32_t n, serverd_error *err)
{
    const serverd_graph *graph = &program->graph;
    const serverd_node *node = &graph->nodes[n];
    serverd_status status = check_operands(graph, n, err);
    serverd_value expected = {0};
    if (status == SERVERD_OK)
        status = op_info(node->op)->infer(graph, node, &expected, err);
    if (status == SERVERD_OK && !same_shape(&expected, node_output(graph, node)))
        status = fail(err, SERVERD_CORRUPT, "graph: node %u (%s) states a wrong shape", n,
                      op_info(node->op)->name);
    if (status == SERVERD_OK && node->op == SERVERD_OP_ATTN)
        status = check_attention(program, node, err);
    return status;
}

/* Every value is written before it is read: producers are nodes in order, one output each. */
static serverd_status check_output(const struct program *program, serverd_error *err)
{
    const serverd_graph *graph = &program->graph;
    const struct program_config *config = &program->config;
    if (graph->output >= graph->n_values ||
        graph->values[graph->output].kind != SERVERD_VALUE_ACTIVATION)
        return fail(err, SERVERD_CORRUPT, "graph: it has no output");
    const serverd_value *out = &graph->values[graph->output];
    uint64_t width = config->is_encoder ? config->n_embd : config->n_vocab;
    int64_t rows = config->is_encoder ? SERVERD_DIM_SEQS : SERVERD_DIM_SELECTED;
    if (value_width(out) != width || out->dims[0] != rows)
        return fail(err, SERVERD_CORRUPT,
                    "graph: the output has %" PRIu64 " columns, expected %" PRIu64,
                    value_width(out), width);
    if (config->is_encoder != (program->kv.n_layers == 0))
        return fail(err, SERVERD_CORRUPT, "graph: %u KV layers", program->kv.n_layers);
    return SERVERD_OK;
}

serverd_status program_check(const struct program *program, serverd_error *err)
{
    const serverd_graph *graph = &program->graph;
    if (graph->n_nodes == 0)
        return SERVERD_OK;
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < graph->n_tensors && status == SERVERD_OK; i++)
        status = check_tensor(&graph->tensors[i], err);
    if (status == SERVERD_OK)
        status = check_constants(graph, err);
    for (uint32_t i = 0; i < graph->n_nodes && status == SERVERD_OK; i++)
        status = check_node(program, i, err);
    return status == SERVERD_OK ? check_output(program, err) : status;
}

/* ---- look-up --------------------------------------------------------------------------------- */

const struct program_template *program_find_template(const struct program *program,
                                                     const char *name)
{
    for (uint32_t i = 0; i < program->n_templates; i++)
        if (strcmp(program->templates[i].name, name) == 0)
            return &program->templates[i];
    return NULL;
}

int64_t program_find_tensor(const struct program *program, const char *name)
{
    for (uint32_t i = 0; i < program->graph.n_tensors; i++)
        if (strcmp(program->graph.tensors[i].name, name) == 0)
            return i;
    return -1;
}
