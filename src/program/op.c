#include "program/op.h"

#include "base/error.h"
#include "base/limits.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>

static const char *name_of(const serverd_node *node)
{
    return op_info(node->op)->name;
}

uint64_t value_width(const serverd_value *value)
{
    uint64_t width = 1;
    for (uint32_t i = 1; i < value->rank; i++)
        width *= (uint64_t)value->dims[i];
    return width;
}

/* ---- rules that several ops share ------------------------------------------------------------ */

static serverd_status need_activation(const serverd_graph *graph, const serverd_node *node,
                                      uint32_t i, serverd_error *err)
{
    const serverd_value *x = node_input(graph, node, i);
    if (x->kind == SERVERD_VALUE_ACTIVATION && x->rank >= 2)
        return SERVERD_OK;
    return fail(err, SERVERD_CORRUPT, "%s: input %u is no activation", name_of(node), i);
}

/* A constant [n]; 0: any length. */
static serverd_status need_vector(const serverd_graph *graph, const serverd_node *node, uint32_t i,
                                  uint64_t n, serverd_error *err)
{
    const serverd_value *w = node_input(graph, node, i);
    const char *name = w->kind == SERVERD_VALUE_CONSTANT ? graph->tensors[w->tensor].name : "?";
    if (w->kind == SERVERD_VALUE_CONSTANT && w->rank == 1 && (n == 0 || (uint64_t)w->dims[0] == n))
        return SERVERD_OK;
    return fail(err, SERVERD_CORRUPT, "%s: tensor %s has %" PRId64 " elements, expected %" PRIu64,
                name_of(node), name, w->dims[0], n);
}

static serverd_status need_finite(const serverd_node *node, const char *what, float x,
                                  serverd_error *err)
{
    return isfinite(x) ? SERVERD_OK
                       : fail(err, SERVERD_CORRUPT, "%s: %s is not finite", name_of(node), what);
}

/* An output like input 0, which is an activation. */
static serverd_status like_input(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    serverd_status status = need_activation(graph, node, 0, err);
    if (status == SERVERD_OK)
        *out = *node_input(graph, node, 0);
    return status;
}

static void make_output(serverd_value *out, int64_t rows, uint64_t width)
{
    out->rank = 2;
    out->dims[0] = rows;
    out->dims[1] = (int64_t)width;
}

static int64_t rows_of(const serverd_graph *graph, const serverd_node *node)
{
    return node_input(graph, node, 0)->dims[0];
}

/* ---- the rule of each op --------------------------------------------------------------------- */

static serverd_status infer_embed(const serverd_graph *graph, const serverd_node *node,
                                  serverd_value *out, serverd_error *err)
{
    const serverd_value *w = node_input(graph, node, 0);
    if (w->kind != SERVERD_VALUE_CONSTANT || w->rank != 2)
        return fail(err, SERVERD_CORRUPT, "embed: the table is no matrix");
    if (node->attributes.embed.index > SERVERD_INDEX_SEGMENT)
        return fail(err, SERVERD_CORRUPT, "embed: unknown index %u", node->attributes.embed.index);
    make_output(out, SERVERD_DIM_ROWS, (uint64_t)w->dims[1]);
    return need_finite(node, "the scale", node->attributes.embed.scale, err);
}

static serverd_status infer_linear(const serverd_graph *graph, const serverd_node *node,
                                   serverd_value *out, serverd_error *err)
{
    serverd_status status = need_activation(graph, node, 0, err);
    if (status != SERVERD_OK)
        return status;
    const serverd_value *x = node_input(graph, node, 0), *w = node_input(graph, node, 1);
    if (w->kind != SERVERD_VALUE_CONSTANT || w->rank != 2 || (uint64_t)w->dims[1] != value_width(x))
        return fail(err, SERVERD_CORRUPT,
                    "linear: tensor %s has %" PRId64 " columns, its input %" PRIu64,
                    w->kind == SERVERD_VALUE_CONSTANT ? graph->tensors[w->tensor].name : "?",
                    w->rank == 2 ? w->dims[1] : 0, value_width(x));
    make_output(out, x->dims[0], (uint64_t)w->dims[0]);
    return node->n_inputs < 3 ? SERVERD_OK : need_vector(graph, node, 2, (uint64_t)w->dims[0], err);
}

/* Both norms: weights of one group (or, for layer norm, of the row). */
static serverd_status infer_norm(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    serverd_status status = like_input(graph, node, out, err);
    uint64_t width = node->attributes.norm.width;
    if (status == SERVERD_OK && (width == 0 || value_width(out) % width != 0))
        status = fail(err, SERVERD_CORRUPT, "%s: rows of %" PRIu64 " in groups of %" PRIu64,
                      name_of(node), value_width(out), width);
    for (uint32_t i = 1; i < node->n_inputs && status == SERVERD_OK; i++)
        status = need_vector(graph, node, i, width, err);
    if (status == SERVERD_OK && !(node->attributes.norm.eps >= 0.0f))
        status = fail(err, SERVERD_CORRUPT, "%s: eps is %g", name_of(node),
                      (double)node->attributes.norm.eps);
    return status == SERVERD_OK ? need_finite(node, "eps", node->attributes.norm.eps, err) : status;
}

static serverd_status infer_rope(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    serverd_status status = like_input(graph, node, out, err);
    if (status != SERVERD_OK)
        return status;
    const serverd_rope *rope = &node->attributes.rope;
    if (rope->head_dim == 0 || value_width(out) % rope->head_dim != 0 || rope->n_rot % 2 != 0 ||
        rope->n_rot == 0 || rope->n_rot > rope->head_dim)
        return fail(err, SERVERD_CORRUPT,
                    "rope: rows of %" PRIu64 ", heads of %u, of which %u are rotated",
                    value_width(out), rope->head_dim, rope->n_rot);
    for (uint32_t i = 1; i < node->n_inputs && status == SERVERD_OK; i++)
        status = need_vector(graph, node, i, rope->n_rot / 2, err);
    for (uint32_t i = 1; i < node->n_inputs && status == SERVERD_OK; i++)
        if (graph->tensors[node_input(graph, node, i)->tensor].dtype != 0)
            status = fail(err, SERVERD_CORRUPT, "rope: frequencies are not F32");
    if (status == SERVERD_OK)
        status = need_finite(node, "mscale", rope->mscale, err);
    return status == SERVERD_OK ? need_finite(node, "alt_mscale", rope->alt_mscale, err) : status;
}

static serverd_status infer_attn(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < 3 && status == SERVERD_OK; i++)
        status = need_activation(graph, node, i, err);
    if (status != SERVERD_OK)
        return status;
    const serverd_attn *a = &node->attributes.attn;
    if (a->n_heads == 0 || a->n_heads > LIMIT_HEADS || a->n_kv_heads == 0 ||
        a->n_heads % a->n_kv_heads != 0)
        return fail(err, SERVERD_CORRUPT, "attn: %u heads over %u KV heads", a->n_heads,
                    a->n_kv_heads);
    if (a->k_dim == 0 || a->k_dim > LIMIT_HEAD_DIM || a->v_dim == 0 || a->v_dim > LIMIT_HEAD_DIM)
        return fail(err, SERVERD_CORRUPT, "attn: heads of %u and %u elements, at most %u", a->k_dim,
                    a->v_dim, LIMIT_HEAD_DIM);
    const uint64_t widths[] = {(uint64_t)a->n_heads * a->k_dim, (uint64_t)a->n_kv_heads * a->k_dim,
                               (uint64_t)a->n_kv_heads * a->v_dim};
    for (uint32_t i = 0; i < 3; i++)
        if (value_width(node_input(graph, node, i)) != widths[i])
            return fail(err, SERVERD_CORRUPT,
                        "attn: input %u has %" PRIu64 " columns, expected %" PRIu64, i,
                        value_width(node_input(graph, node, i)), widths[i]);
    if (!(a->cap >= 0.0f) || a->is_causal > 1)
        return fail(err, SERVERD_CORRUPT, "attn: cap %g, causal %u", (double)a->cap, a->is_causal);
    make_output(out, SERVERD_DIM_ROWS, (uint64_t)a->n_heads * a->v_dim);
    return need_finite(node, "the scale", a->scale, err);
}

static serverd_status infer_pos_scale(const serverd_graph *graph, const serverd_node *node,
                                      serverd_value *out, serverd_error *err)
{
    if (node->attributes.pos_scale.period == 0)
        return fail(err, SERVERD_CORRUPT, "pos_scale: the period is 0");
    serverd_status status = need_finite(node, "beta", node->attributes.pos_scale.beta, err);
    return status == SERVERD_OK ? like_input(graph, node, out, err) : status;
}

/* ADD, GLU: two activations of one shape. */
static serverd_status infer_pair(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    serverd_status status = like_input(graph, node, out, err);
    if (status == SERVERD_OK)
        status = need_activation(graph, node, 1, err);
    if (status != SERVERD_OK)
        return status;
    const serverd_value *a = node_input(graph, node, 0), *b = node_input(graph, node, 1);
    if (a->dims[0] != b->dims[0] || value_width(a) != value_width(b))
        return fail(err, SERVERD_CORRUPT, "%s: rows of %" PRIu64 " and %" PRIu64, name_of(node),
                    value_width(a), value_width(b));
    if (node->op == SERVERD_OP_GLU && node->attributes.activation > SERVERD_ACT_TANH)
        return fail(err, SERVERD_CORRUPT, "glu: unknown activation %u",
                    node->attributes.activation);
    return SERVERD_OK;
}

/* SCALE, SOFTCAP. */
static serverd_status infer_factor(const serverd_graph *graph, const serverd_node *node,
                                   serverd_value *out, serverd_error *err)
{
    if (node->op == SERVERD_OP_SOFTCAP && !(node->attributes.factor > 0.0f))
        return fail(err, SERVERD_CORRUPT, "softcap: the cap is %g",
                    (double)node->attributes.factor);
    serverd_status status = need_finite(node, "the factor", node->attributes.factor, err);
    return status == SERVERD_OK ? like_input(graph, node, out, err) : status;
}

static serverd_status infer_act(const serverd_graph *graph, const serverd_node *node,
                                serverd_value *out, serverd_error *err)
{
    if (node->attributes.activation > SERVERD_ACT_TANH)
        return fail(err, SERVERD_CORRUPT, "act: unknown activation %u",
                    node->attributes.activation);
    return like_input(graph, node, out, err);
}

static serverd_status infer_slice(const serverd_graph *graph, const serverd_node *node,
                                  serverd_value *out, serverd_error *err)
{
    serverd_status status = need_activation(graph, node, 0, err);
    if (status != SERVERD_OK)
        return status;
    const serverd_slice *slice = &node->attributes.slice;
    uint64_t width = value_width(node_input(graph, node, 0));
    if (slice->count == 0 || (uint64_t)slice->begin + slice->count > width)
        return fail(err, SERVERD_CORRUPT, "slice: columns %u to %" PRIu64 " of %" PRIu64,
                    slice->begin, (uint64_t)slice->begin + slice->count, width);
    make_output(out, rows_of(graph, node), slice->count);
    return SERVERD_OK;
}

/* SELECT, POOL: other rows, the same columns. */
static serverd_status infer_rows(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    serverd_status status = need_activation(graph, node, 0, err);
    if (status != SERVERD_OK)
        return status;
    if (rows_of(graph, node) != SERVERD_DIM_ROWS)
        return fail(err, SERVERD_CORRUPT, "%s: its input has not the rows of the step",
                    name_of(node));
    uint32_t pooling = node->attributes.pooling;
    if (node->op == SERVERD_OP_POOL &&
        (pooling == SERVERD_POOL_NONE || pooling > SERVERD_POOL_LAST))
        return fail(err, SERVERD_CORRUPT, "pool: unknown pooling %u", pooling);
    make_output(out, node->op == SERVERD_OP_POOL ? SERVERD_DIM_SEQS : SERVERD_DIM_SELECTED,
                value_width(node_input(graph, node, 0)));
    return SERVERD_OK;
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
    [SERVERD_OP_SCALE] = {"scale", 1, 1, infer_factor},
    [SERVERD_OP_SOFTCAP] = {"softcap", 1, 1, infer_factor},
    [SERVERD_OP_ACT] = {"act", 1, 1, infer_act},
    [SERVERD_OP_GLU] = {"glu", 2, 2, infer_pair},
    [SERVERD_OP_SLICE] = {"slice", 1, 1, infer_slice},
    [SERVERD_OP_SELECT] = {"select", 1, 1, infer_rows},
    [SERVERD_OP_POOL] = {"pool", 1, 1, infer_rows},
    [SERVERD_OP_L2] = {"l2", 1, 1, like_input},
};

const struct op_info *op_info(uint32_t op)
{
    return op < SERVERD_OP_COUNT ? &ops[op] : NULL;
}
