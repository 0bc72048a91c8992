#include "program/op.h"

#include "base/error.h"
#include "base/limits.h"
#include "program/dtype.h"

#include <inttypes.h>
#include <math.h>

uint64_t value_width(const serverd_value *value)
{
    uint64_t width = 1;
    for (uint32_t d = 1; d < value->rank; d++)
        width *= (uint64_t)value->dims[d];
    return width;
}

/* ---- what the rules are made of: false if `err` says what is wrong -------------------------- */

static bool need_activation(const serverd_graph *graph, const serverd_node *node, uint32_t i,
                            serverd_error *err)
{
    const serverd_value *value = node_input(graph, node, i);
    if (value->kind == SERVERD_VALUE_ACTIVATION && value->rank == 2)
        return true;
    fail(err, SERVERD_CORRUPT, "input %u is a constant, an activation is needed", i);
    return false;
}

/* An activation with one row for each row of the step: what needs a position or a sequence. */
static bool need_rows(const serverd_graph *graph, const serverd_node *node, uint32_t i,
                      serverd_error *err)
{
    if (!need_activation(graph, node, i, err))
        return false;
    int64_t rows = node_input(graph, node, i)->dims[0];
    if (rows == SERVERD_DIM_ROWS)
        return true;
    fail(err, SERVERD_CORRUPT, "input %u has %s, one row per token is needed", i,
         rows == SERVERD_DIM_SEQS ? "one row per sequence" : "selected rows");
    return false;
}

static bool need_matrix(const serverd_graph *graph, const serverd_node *node, uint32_t i,
                        serverd_error *err)
{
    const serverd_value *value = node_input(graph, node, i);
    if (value->kind == SERVERD_VALUE_CONSTANT && value->rank == 2)
        return true;
    fail(err, SERVERD_CORRUPT, "input %u is no constant matrix", i);
    return false;
}

/* Inputs first.. are F32 constants of n elements. */
static bool need_vectors(const serverd_graph *graph, const serverd_node *node, uint32_t first,
                         uint64_t n, serverd_error *err)
{
    for (uint32_t i = first; i < node->n_inputs; i++) {
        const serverd_value *value = node_input(graph, node, i);
        if (value->kind != SERVERD_VALUE_CONSTANT || value->rank != 1) {
            fail(err, SERVERD_CORRUPT, "input %u is no constant vector", i);
            return false;
        }
        const serverd_tensor *tensor = &graph->tensors[value->tensor];
        if (tensor->dims[0] != n || tensor->dtype != DTYPE_F32) {
            struct dtype_block type = {.name = "?"};
            (void)dtype_block(tensor->dtype, &type); /* has been checked */
            fail(err, SERVERD_CORRUPT,
                 "input %u (%s) has %" PRIu64 " elements of %s, %" PRIu64 " of F32 are needed", i,
                 tensor->name, tensor->dims[0], type.name, n);
            return false;
        }
    }
    return true;
}

static bool need_width(const serverd_graph *graph, const serverd_node *node, uint32_t i,
                       uint64_t width, serverd_error *err)
{
    uint64_t found = value_width(node_input(graph, node, i));
    if (found == width)
        return true;
    fail(err, SERVERD_CORRUPT, "input %u has %" PRIu64 " columns, %" PRIu64 " are needed", i, found,
         width);
    return false;
}

static bool need_finite(float x, const char *what, serverd_error *err)
{
    if (isfinite(x))
        return true;
    fail(err, SERVERD_CORRUPT, "%s is not finite", what);
    return false;
}

static bool need_at_least_0(float x, const char *what, serverd_error *err)
{
    if (isfinite(x) && x >= 0.0f)
        return true;
    fail(err, SERVERD_CORRUPT, "%s is %g, a finite value of at least 0 is needed", what, (double)x);
    return false;
}

static bool need_at_most(uint32_t x, uint32_t max, const char *what, serverd_error *err)
{
    if (x > 0 && x <= max)
        return true;
    fail(err, SERVERD_CORRUPT, "%s is %u, 1..%u are allowed", what, x, max);
    return false;
}

static serverd_status make(serverd_value *out, int64_t rows, uint64_t width)
{
    out->rank = 2;
    out->dims[0] = rows;
    out->dims[1] = (int64_t)width;
    out->dims[2] = out->dims[3] = 0;
    return SERVERD_OK;
}

static serverd_status like_first(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out)
{
    const serverd_value *x = node_input(graph, node, 0);
    return make(out, x->dims[0], value_width(x));
}

/* ---- the rules ----------------------------------------------------------------------------- */

static serverd_status infer_embed(const serverd_graph *graph, const serverd_node *node,
                                  serverd_value *out, serverd_error *err)
{
    const serverd_embed *embed = &node->attributes.embed;
    if (!need_matrix(graph, node, 0, err) || !need_finite(embed->scale, "scale", err))
        return err->code;
    if (embed->index > SERVERD_INDEX_SEGMENT)
        return fail(err, SERVERD_CORRUPT, "unknown index %u", embed->index);
    return make(out, SERVERD_DIM_ROWS, (uint64_t)node_input(graph, node, 0)->dims[1]);
}

static serverd_status infer_linear(const serverd_graph *graph, const serverd_node *node,
                                   serverd_value *out, serverd_error *err)
{
    if (!need_activation(graph, node, 0, err) || !need_matrix(graph, node, 1, err))
        return err->code;
    const serverd_value *weight = node_input(graph, node, 1);
    if (!need_width(graph, node, 0, (uint64_t)weight->dims[1], err) ||
        !need_vectors(graph, node, 2, (uint64_t)weight->dims[0], err))
        return err->code;
    return make(out, node_input(graph, node, 0)->dims[0], (uint64_t)weight->dims[0]);
}

/* RMS_NORM has x and w, LAYER_NORM x, w and b. */
static serverd_status infer_norm(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    const serverd_norm *norm = &node->attributes.norm;
    if (!need_activation(graph, node, 0, err) || !need_at_least_0(norm->eps, "eps", err))
        return err->code;
    uint64_t width = value_width(node_input(graph, node, 0));
    if (norm->width == 0 || width % norm->width != 0)
        return fail(err, SERVERD_CORRUPT, "groups of %u do not divide %" PRIu64 " columns",
                    norm->width, width);
    if (!need_vectors(graph, node, 1, norm->width, err))
        return err->code;
    return like_first(graph, node, out);
}

static serverd_status infer_rope(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    const serverd_rope *rope = &node->attributes.rope;
    if (!need_rows(graph, node, 0, err) ||
        !need_at_most(rope->head_dim, LIMIT_HEAD_DIM, "head_dim", err))
        return err->code;
    uint64_t width = value_width(node_input(graph, node, 0));
    if (width % rope->head_dim != 0)
        return fail(err, SERVERD_CORRUPT, "heads of %u do not divide %" PRIu64 " columns",
                    rope->head_dim, width);
    if (rope->n_rot == 0 || rope->n_rot > rope->head_dim || rope->n_rot % 2 != 0)
        return fail(err, SERVERD_CORRUPT, "n_rot is %u, an even number up to %u is needed",
                    rope->n_rot, rope->head_dim);
    if (rope->is_neox > 1)
        return fail(err, SERVERD_CORRUPT, "is_neox is %u, 0 or 1 is needed", rope->is_neox);
    if (!need_finite(rope->mscale, "mscale", err) ||
        !need_finite(rope->alt_mscale, "alt_mscale", err) ||
        !need_vectors(graph, node, 1, rope->n_rot / 2, err))
        return err->code;
    return like_first(graph, node, out);
}

static serverd_status infer_attn(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    const serverd_attn *attn = &node->attributes.attn;
    if (!need_at_most(attn->n_heads, LIMIT_HEADS, "n_heads", err) ||
        !need_at_most(attn->n_kv_heads, attn->n_heads, "n_kv_heads", err) ||
        !need_at_most(attn->k_dim, LIMIT_HEAD_DIM, "k_dim", err) ||
        !need_at_most(attn->v_dim, LIMIT_HEAD_DIM, "v_dim", err))
        return err->code;
    if (attn->n_heads % attn->n_kv_heads != 0)
        return fail(err, SERVERD_CORRUPT, "%u heads do not share %u KV heads evenly", attn->n_heads,
                    attn->n_kv_heads);
    if (attn->is_causal > 1)
        return fail(err, SERVERD_CORRUPT, "is_causal is %u, 0 or 1 is needed", attn->is_causal);
    if (!attn->is_causal && attn->window != 0)
        return fail(err, SERVERD_CORRUPT, "a window of %u without is_causal", attn->window);
    if (!need_finite(attn->scale, "scale", err) || !need_at_least_0(attn->cap, "cap", err) ||
        !need_rows(graph, node, 0, err) || !need_rows(graph, node, 1, err) ||
        !need_rows(graph, node, 2, err) ||
        !need_width(graph, node, 0, (uint64_t)attn->n_heads * attn->k_dim, err) ||
        !need_width(graph, node, 1, (uint64_t)attn->n_kv_heads * attn->k_dim, err) ||
        !need_width(graph, node, 2, (uint64_t)attn->n_kv_heads * attn->v_dim, err))
        return err->code;
    return make(out, SERVERD_DIM_ROWS, (uint64_t)attn->n_heads * attn->v_dim);
}

static serverd_status infer_pos_scale(const serverd_graph *graph, const serverd_node *node,
                                      serverd_value *out, serverd_error *err)
{
    const serverd_pos_scale *scale = &node->attributes.pos_scale;
    if (!need_rows(graph, node, 0, err) || !need_finite(scale->beta, "beta", err))
        return err->code;
    if (scale->period == 0)
        return fail(err, SERVERD_CORRUPT, "period is 0");
    return like_first(graph, node, out);
}

/* ADD and GLU: two activations of one shape. */
static serverd_status infer_pair(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    if (!need_activation(graph, node, 0, err) || !need_activation(graph, node, 1, err))
        return err->code;
    const serverd_value *a = node_input(graph, node, 0), *b = node_input(graph, node, 1);
    if (a->dims[0] != b->dims[0])
        return fail(err, SERVERD_CORRUPT, "the inputs differ in their rows");
    if (!need_width(graph, node, 1, value_width(a), err))
        return err->code;
    return like_first(graph, node, out);
}

static bool need_function(const serverd_node *node, serverd_error *err)
{
    if (node->attributes.activation <= SERVERD_ACT_TANH)
        return true;
    fail(err, SERVERD_CORRUPT, "unknown activation function %u", node->attributes.activation);
    return false;
}

static serverd_status infer_glu(const serverd_graph *graph, const serverd_node *node,
                                serverd_value *out, serverd_error *err)
{
    if (!need_function(node, err))
        return err->code;
    return infer_pair(graph, node, out, err);
}

static serverd_status infer_act(const serverd_graph *graph, const serverd_node *node,
                                serverd_value *out, serverd_error *err)
{
    if (!need_function(node, err) || !need_activation(graph, node, 0, err))
        return err->code;
    return like_first(graph, node, out);
}

static serverd_status infer_scale(const serverd_graph *graph, const serverd_node *node,
                                  serverd_value *out, serverd_error *err)
{
    if (!need_activation(graph, node, 0, err) ||
        !need_finite(node->attributes.factor, "factor", err))
        return err->code;
    return like_first(graph, node, out);
}

static serverd_status infer_softcap(const serverd_graph *graph, const serverd_node *node,
                                    serverd_value *out, serverd_error *err)
{
    if (!need_activation(graph, node, 0, err))
        return err->code;
    float cap = node->attributes.factor;
    if (!isfinite(cap) || cap <= 0.0f)
        return fail(err, SERVERD_CORRUPT, "cap is %g, a finite value above 0 is needed",
                    (double)cap);
    return like_first(graph, node, out);
}

static serverd_status infer_slice(const serverd_graph *graph, const serverd_node *node,
                                  serverd_value *out, serverd_error *err)
{
    const serverd_slice *slice = &node->attributes.slice;
    if (!need_activation(graph, node, 0, err))
        return err->code;
    const serverd_value *x = node_input(graph, node, 0);
    uint64_t width = value_width(x), end = (uint64_t)slice->begin + slice->count;
    if (slice->count == 0 || end > width)
        return fail(err, SERVERD_CORRUPT, "columns %u..%" PRIu64 " of %" PRIu64, slice->begin, end,
                    width);
    return make(out, x->dims[0], slice->count);
}

static serverd_status infer_select(const serverd_graph *graph, const serverd_node *node,
                                   serverd_value *out, serverd_error *err)
{
    if (!need_rows(graph, node, 0, err))
        return err->code;
    return make(out, SERVERD_DIM_SELECTED, value_width(node_input(graph, node, 0)));
}

static serverd_status infer_pool(const serverd_graph *graph, const serverd_node *node,
                                 serverd_value *out, serverd_error *err)
{
    if (!need_rows(graph, node, 0, err))
        return err->code;
    uint32_t pooling = node->attributes.pooling;
    if (pooling < SERVERD_POOL_MEAN || pooling > SERVERD_POOL_LAST)
        return fail(err, SERVERD_CORRUPT, "unknown pooling %u", pooling);
    return make(out, SERVERD_DIM_SEQS, value_width(node_input(graph, node, 0)));
}

static serverd_status infer_l2(const serverd_graph *graph, const serverd_node *node,
                               serverd_value *out, serverd_error *err)
{
    if (!need_activation(graph, node, 0, err))
        return err->code;
    return like_first(graph, node, out);
}

static bool need_rank(const serverd_shard *shard, serverd_error *err)
{
    if (!need_at_most(shard->n_ranks, LIMIT_RANKS, "n_ranks", err))
        return false;
    if (shard->rank < shard->n_ranks)
        return true;
    fail(err, SERVERD_CORRUPT, "rank %u of %u", shard->rank, shard->n_ranks);
    return false;
}

static serverd_status infer_all_reduce(const serverd_graph *graph, const serverd_node *node,
                                       serverd_value *out, serverd_error *err)
{
    if (!need_activation(graph, node, 0, err) || !need_rank(&node->attributes.shard, err))
        return err->code;
    return like_first(graph, node, out);
}

static serverd_status infer_gather(const serverd_graph *graph, const serverd_node *node,
                                   serverd_value *out, serverd_error *err)
{
    const serverd_shard *shard = &node->attributes.shard;
    if (!need_activation(graph, node, 0, err) || !need_rank(shard, err))
        return err->code;
    const serverd_value *x = node_input(graph, node, 0);
    const uint64_t end = shard->begin + value_width(x);
    if (end > shard->width)
        return fail(err, SERVERD_CORRUPT, "columns %u..%" PRIu64 " of %" PRIu64, shard->begin, end,
                    (uint64_t)shard->width);
    return make(out, x->dims[0], shard->width);
}

static const struct op_info ops[SERVERD_OP_COUNT] = {
    [SERVERD_OP_EMBED] = {"embed", 1, 1, sizeof(serverd_embed), infer_embed},
    [SERVERD_OP_LINEAR] = {"linear", 2, 3, 0, infer_linear},
    [SERVERD_OP_RMS_NORM] = {"rms_norm", 2, 2, sizeof(serverd_norm), infer_norm},
    [SERVERD_OP_LAYER_NORM] = {"layer_norm", 3, 3, sizeof(serverd_norm), infer_norm},
    [SERVERD_OP_ROPE] = {"rope", 2, 3, sizeof(serverd_rope), infer_rope},
    [SERVERD_OP_ATTN] = {"attn", 3, 3, sizeof(serverd_attn), infer_attn},
    [SERVERD_OP_POS_SCALE] = {"pos_scale", 1, 1, sizeof(serverd_pos_scale), infer_pos_scale},
    [SERVERD_OP_ADD] = {"add", 2, 2, 0, infer_pair},
    [SERVERD_OP_SCALE] = {"scale", 1, 1, sizeof(float), infer_scale},
    [SERVERD_OP_SOFTCAP] = {"softcap", 1, 1, sizeof(float), infer_softcap},
    [SERVERD_OP_ACT] = {"act", 1, 1, sizeof(uint32_t), infer_act},
    [SERVERD_OP_GLU] = {"glu", 2, 2, sizeof(uint32_t), infer_glu},
    [SERVERD_OP_SLICE] = {"slice", 1, 1, sizeof(serverd_slice), infer_slice},
    [SERVERD_OP_SELECT] = {"select", 1, 1, 0, infer_select},
    [SERVERD_OP_POOL] = {"pool", 1, 1, sizeof(uint32_t), infer_pool},
    [SERVERD_OP_L2] = {"l2", 1, 1, 0, infer_l2},
    [SERVERD_OP_ALL_REDUCE] = {"all_reduce", 1, 1, 2 * sizeof(uint32_t), infer_all_reduce},
    [SERVERD_OP_GATHER] = {"gather", 1, 1, sizeof(serverd_shard), infer_gather},
};

const struct op_info *op_info(uint32_t op)
{
    return op < SERVERD_OP_COUNT ? &ops[op] : NULL;
}
