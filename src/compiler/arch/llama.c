/* Llama 1 to 3, Mistral 7B, SmolLM2 and many more: pre-norm, SiLU-gated, rope on neighbouring
 * pairs (the file's Q and K rows are permuted to suit). */
#include "compiler/blocks.h"

uint32_t build_llama(struct arch *arch)
{
    return pre_norm_decoder(arch, HEAD_NORMS_NONE);
}
