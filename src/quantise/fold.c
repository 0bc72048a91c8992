/* Dividing the columns of a value where it is made, without cost: a norm's weights, or the rows of
 * the linear layer whose outputs come through a product or through attention. */
#include "quantise/quantise_internal.h"

#include "base/error.h"
#include "program/op.h"

#include <string.h>

static uint32_t n_users(const serverd_graph *graph, uint32_t value)
{
    uint32_t n = value == graph->output;
    for (uint32_t i = 0; i < graph->n_nodes; i++)
        for (uint32_t k = 0; k < graph->nodes[i].n_inputs; k++)
            n += graph->operands[graph->nodes[i].first_operand + k] == value;
    return n;
}

/* Nodes that read the tensor, through any value. */
static uint32_t n_readers(const serverd_graph *graph, uint32_t tensor)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < graph->n_nodes; i++)
        for (uint32_t k = 0; k < graph->nodes[i].n_inputs; k++) {
            const serverd_value *v = node_input(graph, &graph->nodes[i], k);
            n += v->kind == SERVERD_VALUE_CONSTANT && v->tensor == tensor;
        }
    return n;
}

static const serverd_node *producer_of(const serverd_graph *graph, uint32_t value)
{
    const serverd_value *v = &graph->values[value];
    return v->kind == SERVERD_VALUE_ACTIVATION ? &graph->nodes[v->producer] : NULL;
}

/* The weight, and the bias if there is one, of a node that nobody else reads. */
static struct fold fold_into(const serverd_graph *graph, const serverd_node *node, int kind)
{
    struct fold fold = {.kind = FOLD_NONE, .bias = UINT32_MAX};
    fold.weight = node_input(graph, node, 1)->tensor;
    if (node->n_inputs == 3)
        fold.bias = node_input(graph, node, 2)->tensor;
    if (n_readers(graph, fold.weight) == 1 &&
        (fold.bias == UINT32_MAX || n_readers(graph, fold.bias) == 1))
        fold.kind = kind == FOLD_NORM ? FOLD_NORM : FOLD_ROWS;
    return fold;
}

struct fold find_fold(const struct pass *pass, uint32_t value)
{
    const serverd_graph *graph = &pass->program->graph;
    const struct fold none = {.kind = FOLD_NONE};
    const serverd_node *node = producer_of(graph, value);
    const uint64_t width = value_width(&graph->values[value]);
    if (!node)
        return none;
    if (node->op == SERVERD_OP_SELECT && n_users(graph, graph->operands[node->first_operand]) == 1)
        node = producer_of(graph, graph->operands[node->first_operand]);
    if (!node)
        return none;
    if (node->op == SERVERD_OP_RMS_NORM || node->op == SERVERD_OP_LAYER_NORM)
        return node->attributes.norm.width == width ? fold_into(graph, node, FOLD_NORM) : none;
    uint32_t input;
    if (node->op == SERVERD_OP_GLU)
        input = 1;
    else if (node->op == SERVERD_OP_ATTN &&
             node->attributes.attn.n_heads == node->attributes.attn.n_kv_heads)
        input = 2;
    else
        return none;
    const uint32_t rows = graph->operands[node->first_operand + input];
    const serverd_node *linear = producer_of(graph, rows);
    if (!linear || linear->op != SERVERD_OP_LINEAR || n_users(graph, rows) != 1)
        return none;
    struct fold fold = fold_into(graph, linear, FOLD_ROWS);
    /* its rows are scaled in their codes' scales */
    return fold.kind == FOLD_ROWS && dtype_is_own(pass->tensors[fold.weight].dtype) ? fold : none;
}

/* A copy of an f32 vector in the program's arena. */
static serverd_status divide_vector(struct pass *pass, uint32_t tensor, const float *divisor,
                                    serverd_error *err)
{
    serverd_tensor *t = &pass->tensors[tensor];
    const size_t n = t->dims[0];
    float *divided = arena_array(pass->program->arena, n, sizeof *divided);
    if (!divided)
        return fail(err, SERVERD_NOMEM, "no memory for tensor %s", t->name);
    memcpy(divided, t->data, n * sizeof *divided);
    for (size_t i = 0; i < n; i++)
        divided[i] /= divisor[i];
    t->data = divided;
    return SERVERD_OK;
}

serverd_status apply_fold(struct pass *pass, const struct fold *fold, const float *divisor,
                          serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    if (fold->bias != UINT32_MAX)
        status = divide_vector(pass, fold->bias, divisor, err);
    if (status != SERVERD_OK)
        return status;
    if (fold->kind == FOLD_NORM)
        return divide_vector(pass, fold->weight, divisor, err);
    const serverd_tensor *t = &pass->tensors[fold->weight];
    float *factor = arena_array(pass->program->arena, t->dims[0], sizeof *factor);
    if (!factor)
        return fail(err, SERVERD_NOMEM, "no memory for tensor %s", t->name);
    for (size_t i = 0; i < t->dims[0]; i++)
        factor[i] = 1.0f / divisor[i];
    uint8_t *blocks = pass->store + pass->plans[fold->weight].offset;
    if (!blocks_scale_rows(t->dtype, t->dims[0], t->dims[1], factor, blocks))
        return fail(err, SERVERD_INTERNAL, "tensor %s: its rows cannot be scaled", t->name);
    return SERVERD_OK;
}
