#include "tools/bench/model_cost.h"

#include "base/error.h"
#include "program/op.h"

static serverd_status form_bytes(const serverd_delegate *delegate, const serverd_tensor *tensor,
                                 double *out, serverd_error *err)
{
    serverd_form form = {.struct_bytes = sizeof form};
    serverd_status status = delegate->form(tensor, &form, err);
    if (status == SERVERD_OK)
        *out = (double)(form.layout == SERVERD_LAYOUT_ROWS ? tensor->bytes : form.bytes);
    return status;
}

serverd_status model_cost(const serverd_graph *graph, const serverd_delegate *delegate,
                          struct model_cost *out, serverd_error *err)
{
    struct model_cost cost = {0};
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        const serverd_node *node = &graph->nodes[i];
        if (node->op != SERVERD_OP_LINEAR && node->op != SERVERD_OP_EMBED)
            continue;
        uint32_t weights = node->op == SERVERD_OP_LINEAR ? 1 : 0;
        const serverd_tensor *tensor = &graph->tensors[node_input(graph, node, weights)->tensor];
        double bytes = 0;
        serverd_status status = form_bytes(delegate, tensor, &bytes, err);
        if (status != SERVERD_OK)
            return status;
        if (node->op == SERVERD_OP_EMBED) {
            cost.embed_bytes += bytes / (double)tensor->dims[0];
            continue;
        }
        bool is_body = node_input(graph, node, 0)->dims[0] == SERVERD_DIM_ROWS;
        *(is_body ? &cost.body_macs : &cost.head_macs) +=
            (double)tensor->dims[0] * (double)tensor->dims[1];
        *(is_body ? &cost.body_bytes : &cost.head_bytes) += bytes;
    }
    *out = cost;
    return SERVERD_OK;
}

double model_kv_bytes(const serverd_kv_spec *kv, uint64_t page_bytes, double n_tokens)
{
    double seen = 0, of_a_token = 0; /* numbers */
    for (uint32_t i = 0; i < kv->n_layers; i++) {
        const serverd_kv_layer *layer = &kv->layers[i];
        double numbers = layer->n_kv_heads * (layer->k_dim + layer->v_dim);
        of_a_token += numbers;
        seen += numbers * (layer->window && n_tokens > layer->window ? layer->window : n_tokens);
    }
    return of_a_token > 0 ? (double)page_bytes / SERVERD_PAGE_TOKENS * seen / of_a_token : 0;
}

double model_attention_macs(const serverd_graph *graph, double n_tokens)
{
    double sum = 0;
    for (uint32_t i = 0; i < graph->n_nodes; i++) {
        if (graph->nodes[i].op != SERVERD_OP_ATTN)
            continue;
        const serverd_attn *attn = &graph->nodes[i].attributes.attn;
        double seen = attn->window && n_tokens > attn->window ? attn->window : n_tokens;
        sum += seen * attn->n_heads * (attn->k_dim + attn->v_dim);
    }
    return sum;
}
