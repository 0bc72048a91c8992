/* Mistral 3: llama's graph. Its keys add yarn scaling and queries that are scaled by position. */
#include "compiler/blocks.h"

uint32_t build_mistral3(struct arch *arch)
{
    return pre_norm_decoder(arch, HEAD_NORMS_NONE);
}
