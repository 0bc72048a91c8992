/* Gemma 3: Gemma 2 with head norms instead of soft caps; five of six layers are local and have
 * their own rope base. */
#include "compiler/blocks.h"

uint32_t build_gemma3(struct arch *arch)
{
    return sandwich_decoder(arch, HEAD_NORMS_RMS);
}
