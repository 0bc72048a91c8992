/* Qwen 1.5 to 2.5: llama's graph with biases on Q, K and V, and rope on halves. */
#include "compiler/blocks.h"

uint32_t build_qwen2(struct arch *arch)
{
    return pre_norm_decoder(arch, HEAD_NORMS_NONE);
}
