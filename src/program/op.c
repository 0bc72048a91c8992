#include "program/op.h"

#include "base/error.h"
#include "base/limits.h"
#include "program/dtype.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>

uint64_t value_width(const serverd_value *value)
{
    uint64_t width = 1;
    for (uint32_t d = 1; d < value->rank; d++)
        width *= (uint64_t)value->dims[d];
    return width;
}

/* ---- what the rules are made of ------------------------------------------------------------ */

static bool is_activation(const serverd_value *value)
{
    return value->kind == SERVERD_VALUE_ACTIVATION && value->rank == 2;
}

static serverd_status need_activation(const serverd_graph *graph, const serverd_node *node,
                                      uint32_t i, serverd_error *err)
{
    if (!is_activation(node_input(graph, node, i)))
        return fail(err, SERVERD_CORRUPT, "input %u is a constant, an activation is needed", i);
    return SERVERD_OK;
}

/* An activation with one row for each row of the step: what needs a position or a sequence. */
static serverd_status need_rows(const serverd_graph *graph, const serverd_node *node, uint32_t i,
                                serverd_error *err)
{
    serverd_status status = need_activation(graph, node, i, err);
    if (status != SERVERD_OK)
        return status;
    int64_t rows = node_input(graph, node, i)->dims[0];
    if (rows != SERVERD_DIM_ROWS)
        return fail(err, SERVERD_CORRUPT, "input %u has %s, one row per token is needed", i,
                    rows == SERVERD_DIM_SEQS ? "one row per sequence" : "selected rows");
    return SERVERD_OK;
}

static serverd_status need_matrix(const serverd_graph *graph, const serverd_node *node, uint32_t i,
                                  serverd_error *err)
{
    const serverd_value *value = node_input(graph, node, i);
    if (value->kind != SERVERD_VALUE_CONSTANT || value->rank != 2)
        return fail(err, SERVERD_CORRUPT, "input %u is no constant matrix", i);
    return SERVERD_OK;
}

static serverd_status need_vector(const serverd_graph *graph, const serverd_node *node, uint32_t i,
                                  uint64_t n, serverd_error *err)
{
    const serverd_value *value = node_input(graph, node, i);
    if (value->kind != SERVERD_VALUE_CONSTANT || value->rank != 1)
        return fail(err, SERVERD_CORRUPT, "input %u is no constant vector", i);
    if ((uint64_t)value->dims[0] != n)
        return fail(err, SERVERD_CORRUPT,
                    "input %u (%s) has %" PRId64 " elements, %" PRIu64 " are needed", i,
                    graph->tensors[value->tensor].name, value->dims[0], n);
    if (graph->tensors[value->tensor].dtype != DTYPE_F32)
        return fail(err, SERVERD_CORRUPT, "input %u (%s) is a vector of another type than F32", i,
                    graph->tensors[value->tensor].name);
    return SERVERD_OK;
}

static serverd_status need_width(const serverd_graph *graph, const serverd_node *node, uint32_t i,
                                 uint64_t width, serverd_error *err)
{
    uint64_t found = value_width(node_input(graph, node, i));
    if (found != width)
        return fail(err, SERVERD_CORRUPT,
                    "input %u has %" PRIu64 " columns, %" PRIu64 " are needed", i, found, width);
    return SERVERD_OK;
}

static serverd_status need_finite(float x, const char *what, serverd_error *err)
{
    if (!isfinite(x))
        return fail(err, SERVERD_CORRUPT, "%s is not finite", what);
    return SERVERD_OK;
}

static serverd_status need_at_least_0(float x, const char *what, serverd_error *err)
{
    if (!isfinite(x) || x < 0.0f)
        return fail(err, SERVERD_CORRUPT, "%s is %g, a finite value of at least 0 is needed", what,
                    (double)x);
    return SERVERD_OK;
}

static serverd_status need_at_most(uint32_t x, uint32_t max, const char *what, serverd_error *err)
{
    if (x == 0 || x > max)
        return fail(err, SERVERD_CORRUPT, "%s is %u, 1..%u are allowed", what, x, max);
    return SERVERD_OK;
}

static void set_shape(serverd_value *out, int64_t rows, uint64_t width)
{
    out->rank = 2;
    out->dims[0] = rows;
    out->dims[1] = (int64_t)width;
    out->dims[2] = out->dims[3] = 0;
}

static serverd_status same_shape(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out)
{
    const serverd_value *x = node_input(graph, node, 0);
    set_shape(out, x->dims[0], value_width(x));
    return SERVERD_OK;
}

#define TRY(expression)                                                                            \
    do {                                                                                           \
        serverd_status status_ = (expression);                                                     \
        if (status_ != SERVERD_OK)                                                                 \
            return status_;                                                                        \
    } while (0)

/* ---- the rules ----------------------------------------------------------------------------- */

static serverd_status infer_embed(const serverd_graph *graph, const serverd_node *node,
                                  serverd_value *out, serverd_error *err)
{
    const serverd_embed *embed = &node->attributes.embed;
    TRY(need_matrix(graph, node, 0, err));
    TRY(need_finite(embed->scale, "scale", err));
    if (embed->index > SERVERD_INDEX_SEGMENT)
        return fail(err, SERVERD_CORRUPT, "unknown index %u", embed->index);
    set_shape(out, SERVERD_DIM_ROWS, (uint64_t)node_input(graph, node, 0)->dims[1]);
    return SERVERD_OK;
}

static serverd_status infer_linear(const serverd_graph *graph, const serverd_node *node,
                                   serverd_value *out, serverd_error *err)
{
    TRY(need_activation(graph, node, 0, err));
    TRY(need_matrix(graph, node, 1, err));
    const serverd_value *weight = node_input(graph, node, 1);
    TRY(need_width(graph, node, 0, (uint64_t)weight->dims[1], err));
    if (node->n_inputs > 2)
        TRY(need_vector(graph, node, 2, (uint64_t)weight->dims[0], err));
    set_shape(out, node_input(graph, node, 0)->dims[0], (uint64_t)weight->dims[0]);
    return SERVERD_OK;
}

/* RMS_NORM has x and w, LAYER_NORM x, w and b. */
static serverd_status infer_norm(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    const serverd_norm *norm = &node->attributes.norm;
    TRY(need_activation(graph, node, 0, err));
    TRY(need_at_least_0(norm->eps, "eps", err));
    uint64_t width = value_width(node_input(graph, node, 0));
    if (norm->width == 0 || width % norm->width != 0)
        return fail(err, SERVERD_CORRUPT, "groups of %u do not divide %" PRIu64 " columns",
                    norm->width, width);
    for (uint32_t i = 1; i < node->n_inputs; i++)
        TRY(need_vector(graph, node, i, norm->width, err));
    return same_shape(graph, node, out);
}

static serverd_status infer_rope(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    const serverd_rope *rope = &node->attributes.rope;
    TRY(need_rows(graph, node, 0, err));
    TRY(need_at_most(rope->head_dim, LIMIT_HEAD_DIM, "head_dim", err));
    uint64_t width = value_width(node_input(graph, node, 0));
    if (width % rope->head_dim != 0)
        return fail(err, SERVERD_CORRUPT, "heads of %u do not divide %" PRIu64 " columns",
                    rope->head_dim, width);
    if (rope->n_rot == 0 || rope->n_rot > rope->head_dim || rope->n_rot % 2 != 0)
        return fail(err, SERVERD_CORRUPT, "n_rot is %u, an even number up to %u is needed",
                    rope->n_rot, rope->head_dim);
    if (rope->is_neox > 1)
        return fail(err, SERVERD_CORRUPT, "is_neox is %u, 0 or 1 is needed", rope->is_neox);
    TRY(need_finite(rope->mscale, "mscale", err));
    TRY(need_finite(rope->alt_mscale, "alt_mscale", err));
    for (uint32_t i = 1; i < node->n_inputs; i++)
        TRY(need_vector(graph, node, i, rope->n_rot / 2, err));
    return same_shape(graph, node, out);
}

static serverd_status infer_attn(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    const serverd_attn *attn = &node->attributes.attn;
    TRY(need_at_most(attn->n_heads, LIMIT_HEADS, "n_heads", err));
    TRY(need_at_most(attn->n_kv_heads, attn->n_heads, "n_kv_heads", err));
    TRY(need_at_most(attn->k_dim, LIMIT_HEAD_DIM, "k_dim", err));
    TRY(need_at_most(attn->v_dim, LIMIT_HEAD_DIM, "v_dim", err));
    if (attn->n_heads % attn->n_kv_heads != 0)
        return fail(err, SERVERD_CORRUPT, "%u heads do not share %u KV heads evenly", attn->n_heads,
                    attn->n_kv_heads);
    if (attn->is_causal > 1)
        return fail(err, SERVERD_CORRUPT, "is_causal is %u, 0 or 1 is needed", attn->is_causal);
    if (!attn->is_causal && attn->window != 0)
        return fail(err, SERVERD_CORRUPT, "a window of %u without is_causal", attn->window);
    TRY(need_finite(attn->scale, "scale", err));
    TRY(need_at_least_0(attn->cap, "cap", err));
    for (uint32_t i = 0; i < 3; i++)
        TRY(need_rows(graph, node, i, err));
    TRY(need_width(graph, node, 0, (uint64_t)attn->n_heads * attn->k_dim, err));
    TRY(need_width(graph, node, 1, (uint64_t)attn->n_kv_heads * attn->k_dim, err));
    TRY(need_width(graph, node, 2, (uint64_t)attn->n_kv_heads * attn->v_dim, err));
    set_shape(out, SERVERD_DIM_ROWS, (uint64_t)attn->n_heads * attn->v_dim);
    return SERVERD_OK;
}

static serverd_status infer_pos_scale(const serverd_graph *graph, const serverd_node *node,
                                      serverd_value *out, serverd_error *err)
{
    const serverd_pos_scale *scale = &node->attributes.pos_scale;
    TRY(need_rows(graph, node, 0, err));
    TRY(need_finite(scale->beta, "beta", err));
    if (scale->period == 0)
        return fail(err, SERVERD_CORRUPT, "period is 0");
    return same_shape(graph, node, out);
}

/* ADD and GLU: two activations of one shape. */
static serverd_status infer_pair(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    TRY(need_activation(graph, node, 0, err));
    TRY(need_activation(graph, node, 1, err));
    const serverd_value *a = node_input(graph, node, 0), *b = node_input(graph, node, 1);
    if (a->dims[0] != b->dims[0])
        return fail(err, SERVERD_CORRUPT, "the inputs differ in their rows");
    TRY(need_width(graph, node, 1, value_width(a), err));
    return same_shape(graph, node, out);
}

static serverd_status need_function(const serverd_node *node, serverd_error *err)
{
    if (node->attributes.activation > SERVERD_ACT_TANH)
        return fail(err, SERVERD_CORRUPT, "unknown activation function %u",
                    node->attributes.activation);
    return SERVERD_OK;
}

static serverd_status infer_glu(const serverd_graph *graph, const serverd_node *node,
                                serverd_value *out, serverd_error *err)
{
    TRY(need_function(node, err));
    return infer_pair(graph, node, out, err);
}

static serverd_status infer_act(const serverd_graph *graph, const serverd_node *node,
                                serverd_value *out, serverd_error *err)
{
    TRY(need_function(node, err));
    TRY(need_activation(graph, node, 0, err));
    return same_shape(graph, node, out);
}

static serverd_status infer_scale(const serverd_graph *graph, const serverd_node *node,
                                  serverd_value *out, serverd_error *err)
{
    TRY(need_activation(graph, node, 0, err));
    TRY(need_finite(node->attributes.factor, "factor", err));
    return same_shape(graph, node, out);
}

static serverd_status infer_softcap(const serverd_graph *graph, const serverd_node *node,
                                    serverd_value *out, serverd_error *err)
{
    TRY(need_activation(graph, node, 0, err));
    float cap = node->attributes.factor;
    if (!isfinite(cap) || cap <= 0.0f)
        return fail(err, SERVERD_CORRUPT, "cap is %g, a finite value above 0 is needed",
                    (double)cap);
    return same_shape(graph, node, out);
}

static serverd_status infer_slice(const serverd_graph *graph, const serverd_node *node,
                                  serverd_value *out, serverd_error *err)
{
    const serverd_slice *slice = &node->attributes.slice;
    TRY(need_activation(graph, node, 0, err));
    const serverd_value *x = node_input(graph, node, 0);
    uint64_t width = value_width(x), end = (uint64_t)slice->begin + slice->count;
    if (slice->count == 0 || end > width)
        return fail(err, SERVERD_CORRUPT, "columns %u..%" PRIu64 " of %" PRIu64, slice->begin, end,
                    width);
    set_shape(out, x->dims[0], slice->count);
    return SERVERD_OK;
}

static serverd_status infer_select(const serverd_graph *graph, const serverd_node *node,
                                   serverd_value *out, serverd_error *err)
{
    TRY(need_rows(graph, node, 0, err));
    set_shape(out, SERVERD_DIM_SELECTED, value_width(node_input(graph, node, 0)));
    return SERVERD_OK;
}

static serverd_status infer_pool(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    TRY(need_rows(graph, node, 0, err));
    uint32_t pooling = node->attributes.pooling;
    if (pooling < SERVERD_POOL_MEAN || pooling > SERVERD_POOL_LAST)
        return fail(err, SERVERD_CORRUPT, "unknown pooling %u", pooling);
    set_shape(out, SERVERD_DIM_SEQS, value_width(node_input(graph, node, 0)));
    return SERVERD_OK;
}

static serverd_status infer_l2(const serverd_graph *graph, const serverd_node *node,
                               serverd_value *out, serverd_error *err)
{
    TRY(need_activation(graph, node, 0, err));
    return same_shape(graph, node, out);
}

static const struct op_info ops[SERVERD_OP_COUNT] = {
    [SERVERD_OP_EMBED] = {"embed", 1, 1, infer_embed},
    [SERVERD_OP_LINEAR] = {"linear", 2, 3, infer_linear},
    [SERVERD_OP_RMS_NORM] = {"rms_norm", 2, 2, infer_norm},
    [SERVERD_OP_LAYER_NORM] = {"layer_norm", 3, 3, infer_norm},
    [SERVERD_OP_ROPE] = {"rope", 2, 3, infer_rope},
    [SERVERD_OP_ATTN] = {"attn", 3, 3, infer_attn},
    [SERVERD_OP_POS_SCALE] = {"pos_scale", 1, 1, infer_pos_scale},
    [SERVERD_OP_ADD] = {"add", 2, 2, infer_pair},
    [SERVERD_OP_SCALE] = {"scale", 1, 1, infer_scale},
    [SERVERD_OP_SOFTCAP] = {"softcap", 1, 1, infer_softcap},
    [SERVERD_OP_ACT] = {"act", 1, 1, infer_act},
    [SERVERD_OP_GLU] = {"glu", 2, 2, infer_glu},
    [SERVERD_OP_SLICE] = {"slice", 1, 1, infer_slice},
    [SERVERD_OP_SELECT] = {"select", 1, 1, infer_select},
    [SERVERD_OP_POOL] = {"pool", 1, 1, infer_pool},
    [SERVERD_OP_L2] = {"l2", 1, 1, infer_l2},
};

const struct op_info *op_info(uint32_t op)
{
    return op < SERVERD_OP_COUNT ? &ops[op] : NULL;
}
