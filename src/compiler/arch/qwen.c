#include "compiler/arch.h"

/* Llama's block with biases on q, k and v, rotated in halves. */
uint32_t build_qwen2(struct model_builder *model)
{
    struct rope rope = rope_scaled(model, true);
    struct attention attention = {.rope = &rope, .is_causal = true};
    return pre_norm_decoder(model, &attention);
}

/* No biases; queries and keys are normalised head by head before the rotation. */
uint32_t build_qwen3(struct model_builder *model)
{
    struct rope rope = rope_scaled(model, true);
    struct attention attention = {.rope = &rope, .is_causal = true, .has_head_norms = true};
    return pre_norm_decoder(model, &attention);
}
