/* Qwen 3, dense: llama's graph with an RMS norm on every head of Q and K before rope, and rope on
 * halves. */
#include "compiler/blocks.h"

uint32_t build_qwen3(struct arch *arch)
{
    return pre_norm_decoder(arch, HEAD_NORMS_RMS);
}
