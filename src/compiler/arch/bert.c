/* BERT encoders (MiniLM, BGE, E5): learned positions, norms after each part, attention in both
 * directions, and per sequence one normalised embedding, or the scores of a pair of texts. */
#include "compiler/blocks.h"

static uint32_t embed_input(struct arch *arch)
{
    uint32_t x = embed_tokens(arch, 1.0f);
    if (has_weight(arch, "token_types"))
        x = add(arch, x, embed(arch, "token_types", SERVERD_INDEX_SEGMENT, 0));
    uint32_t n_positions = arch->params.n_context;
    x = add(arch, x, embed(arch, "position_embd", SERVERD_INDEX_POSITION, n_positions));
    return layer_norm(arch, x, "token_embd_norm");
}

static uint32_t mlp(struct arch *arch, uint32_t x)
{
    uint32_t n_embd = arch->params.n_embd, n_ff = arch->params.n_ff[arch->layer];
    uint32_t h = linear(arch, x, "ffn_up", n_embd, n_ff);
    return linear(arch, activate(arch, h, SERVERD_ACT_GELU_ERF), "ffn_down", n_ff, n_embd);
}

uint32_t build_bert(struct arch *arch)
{
    uint32_t x = embed_input(arch);
    for (uint32_t layer = 0; layer < arch->params.n_layers; layer++) {
        begin_layer(arch, layer);
        x = layer_norm(arch, add(arch, x, attention(arch, x, HEAD_NORMS_NONE)), "attn_output_norm");
        x = layer_norm(arch, add(arch, x, mlp(arch, x)), "layer_output_norm");
    }
    end_layers(arch);
    return arch->params.n_scores ? scored(arch, x) : pooled(arch, x);
}
