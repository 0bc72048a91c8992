/* Gemma 2: norms before and after each part, GELU gate, embeddings times sqrt(n_embd), soft caps
 * on scores and logits, every second layer local. The file's norm weights have the +1 in them. */
#include "compiler/blocks.h"

uint32_t build_gemma2(struct arch *arch)
{
    return sandwich_decoder(arch, HEAD_NORMS_NONE);
}
