/* A graph as text: what --dump-after shows. */
#include "base/limits.h"
#include "compiler/passes.h"
#include "program/dtype.h"
#include "program/op.h"

#include <inttypes.h>

static void print_dims(const serverd_value *value, struct buffer *out)
{
    static const char *const rows[] = {"T", "S", "R"}; /* SERVERD_DIM_ROWS, _SEQS, _SELECTED */
    buffer_append_char(out, '[');
    for (uint32_t d = 0; d < value->rank; d++) {
        int64_t n = value->dims[d];
        buffer_append_str(out, d > 0 ? ", " : "");
        if (n < 0)
            buffer_append_str(out, rows[-n - 1]);
        else
            buffer_printf(out, "%" PRId64, n);
    }
    buffer_append_char(out, ']');
}

static void print_operand(const serverd_graph *graph, uint32_t index, struct buffer *out)
{
    const serverd_value *value = &graph->values[index];
    if (value->kind == SERVERD_VALUE_ACTIVATION) {
        buffer_printf(out, "%%%u", index);
        return;
    }
    const serverd_tensor *tensor = &graph->tensors[value->tensor];
    buffer_printf(out, "%s %s", tensor->name, dtype_info(tensor->dtype)->name);
    print_dims(value, out);
}

static void print_attributes(const serverd_node *node, struct buffer *out)
{
    const serverd_attributes *a = &node->attributes;
    switch (node->op) {
    case SERVERD_OP_EMBED:
        buffer_printf(out, " index=%u scale=%g", a->embed.index, (double)a->embed.scale);
        break;
    case SERVERD_OP_RMS_NORM:
    case SERVERD_OP_LAYER_NORM:
        buffer_printf(out, " width=%u eps=%g", a->norm.width, (double)a->norm.eps);
        break;
    case SERVERD_OP_ROPE:
        buffer_printf(out, " head=%u rot=%u %s mscale=%g", a->rope.head_dim, a->rope.n_rot,
                      a->rope.is_neox ? "neox" : "norm", (double)a->rope.mscale);
        break;
    case SERVERD_OP_ATTN:
        buffer_printf(out, " heads=%u/%u kv=%u window=%u scale=%g cap=%g", a->attn.n_heads,
                      a->attn.n_kv_heads, a->attn.kv_layer, a->attn.window, (double)a->attn.scale,
                      (double)a->attn.cap);
        break;
    case SERVERD_OP_POS_SCALE:
        buffer_printf(out, " beta=%g period=%u", (double)a->pos_scale.beta, a->pos_scale.period);
        break;
    case SERVERD_OP_SCALE:
    case SERVERD_OP_SOFTCAP:
        buffer_printf(out, " factor=%g", (double)a->factor);
        break;
    case SERVERD_OP_ACT:
    case SERVERD_OP_GLU:
        buffer_printf(out, " activation=%u", a->activation);
        break;
    case SERVERD_OP_SLICE:
        buffer_printf(out, " begin=%u count=%u", a->slice.begin, a->slice.count);
        break;
    case SERVERD_OP_POOL:
        buffer_printf(out, " pooling=%u", a->pooling);
        break;
    case SERVERD_OP_ALL_REDUCE:
        buffer_printf(out, " rank=%u/%u", a->shard.rank, a->shard.n_ranks);
        break;
    case SERVERD_OP_GATHER:
        buffer_printf(out, " rank=%u/%u begin=%u width=%u", a->shard.rank, a->shard.n_ranks,
                      a->shard.begin, a->shard.width);
        break;
    default:
        break;
    }
}

void graph_print(const serverd_graph *graph, struct buffer *out)
{
    uint32_t layer = UINT32_MAX - 1;
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        const uint32_t *operands = &graph->operands[node->first_operand];
        if (node->layer != layer && node->layer != UINT32_MAX)
            buffer_printf(out, "layer %u:\n", node->layer);
        layer = node->layer;
        buffer_printf(out, "  %%%u ", operands[node->n_inputs]);
        print_dims(&graph->values[operands[node->n_inputs]], out);
        buffer_printf(out, " = %s(", op_info(node->op)->name);
        for (uint32_t j = 0; j < node->n_inputs; j++) {
            buffer_append_str(out, j > 0 ? ", " : "");
            print_operand(graph, operands[j], out);
        }
        buffer_append_char(out, ')');
        print_attributes(node, out);
        buffer_append_char(out, '\n');
    }
    buffer_printf(out, "result: %%%u; %u nodes, %u tensors\n", graph->output, graph->n_nodes,
                  graph->n_tensors);
}
