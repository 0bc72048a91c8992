/* Phi 3 and 4: llama's graph with Q, K, V in one tensor, gate and up in another, rope on halves of
 * part of the head, and longrope's two tables of divisors. Its sliding window is not applied. */
#include "compiler/blocks.h"

uint32_t build_phi3(struct arch *arch)
{
    return pre_norm_decoder(arch, HEAD_NORMS_NONE);
}
