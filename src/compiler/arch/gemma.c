#include "base/error.h"
#include "compiler/arch.h"

#include <math.h>
#include <stdio.h>

/* The converter has added 1 to every norm weight. */

/* Which layers see a window only: every `period`th is global, or as the file lists them. */
static bool is_local(struct model_builder *model, uint32_t layer, uint32_t period)
{
    char name[160];
    (void)snprintf(name, sizeof name, "%s.attention.sliding_window_pattern", model->arch);
    const struct gguf_key *key = gguf_find(model->gguf, name);
    if (model->hparams.window == 0 || model->status != SERVERD_OK)
        return false;
    if (key && key->type == GGUF_ARRAY) {
        if (key->element_type == GGUF_BOOL && key->count == model->hparams.n_layers)
            return ((const char *)key->data)[layer] != 0;
        model->status = fail(model->err, SERVERD_CORRUPT, "key %s: is not one bool a layer", name);
        return false;
    }
    period =
        key_u32(model, "attention.sliding_window_pattern", 1, model->hparams.n_layers + 1, period);
    return layer % period != period - 1;
}

/* The 27B models scale by the width of the embedding; there is no key for it. */
static void set_scale(struct model_builder *model, uint32_t layers_of_27b)
{
    struct hparams *h = &model->hparams;
    if (h->n_layers == layers_of_27b && h->n_heads)
        h->attention_scale = 1.0f / sqrtf((float)h->n_embd / (float)h->n_heads[0]);
}

/* The four norms of a block: before and after attention, before and after the FFN. */
static uint32_t gemma_block(struct model_builder *model, uint32_t x, uint32_t layer,
                            const struct attention *attention)
{
    uint32_t n_embd = model->hparams.n_embd;
    uint32_t a = rms_norm(model, x, layer, "attn_norm", n_embd);
    a = self_attention(model, a, layer, attention);
    x = add(model, x, rms_norm(model, a, layer, "post_attention_norm", n_embd));
    uint32_t f = rms_norm(model, x, layer, "ffn_norm", n_embd);
    f = gated_ffn(model, f, layer, SERVERD_ACT_GELU_TANH);
    return add(model, x, rms_norm(model, f, layer, "post_ffw_norm", n_embd));
}

static uint32_t gemma_decoder(struct model_builder *model, const struct rope *global,
                              const struct rope *local, bool has_head_norms, uint32_t period)
{
    const struct hparams *h = &model->hparams;
    uint32_t table = tensor_matrix(model, NO_LAYER, "token_embd.weight", h->n_vocab, h->n_embd);
    uint32_t x = embed(model, table, SERVERD_INDEX_TOKEN, sqrtf((float)h->n_embd));
    for (uint32_t layer = 0; layer < h->n_layers; layer++) {
        graph_set_layer(model->graph, layer);
        bool is_window = is_local(model, layer, period);
        struct attention attention = {.rope = is_window ? local : global,
                                      .window = is_window ? h->window : 0,
                                      .is_causal = true,
                                      .has_head_norms = has_head_norms};
        x = gemma_block(model, x, layer, &attention);
    }
    return logits_head(model, x);
}

/* Soft caps on scores and logits; every other layer sees a window. */
uint32_t build_gemma2(struct model_builder *model)
{
    set_scale(model, 46);
    struct rope rope = rope_scaled(model, true);
    return gemma_decoder(model, &rope, &rope, false, 2);
}

/* Head norms instead of caps; five of six layers see a window and rotate by a base of their own. */
uint32_t build_gemma3(struct model_builder *model)
{
    set_scale(model, 62);
    struct rope global = rope_scaled(model, true);
    struct rope local = rope_plain(model, true, key_f32(model, "rope.freq_base_swa", 10000.0f));
    return gemma_decoder(model, &global, &local, true, 6);
}
