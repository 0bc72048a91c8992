/* The frequency tables of rotary position embeddings, with every scaling that GGUF files use:
 * none, linear, yarn, divisors from a tensor (rope_freqs, "llama3"), two sets of divisors
 * (rope_factors_short and _long, "longrope"). Used by blocks.c. */
#ifndef COMPILER_ROPE_TABLE_H
#define COMPILER_ROPE_TABLE_H

#include "compiler/arch.h"

struct rope_table {
    float *inv_freq;     /* [n_rot/2], in the program's arena */
    float *alt_inv_freq; /* NULL, or the table above rope_original_context */
    float mscale;
};

/* Local layers have their own base and no scaling. */
serverd_status rope_table_make(struct arch *arch, bool is_local, struct rope_table *out,
                               serverd_error *err);

#endif
