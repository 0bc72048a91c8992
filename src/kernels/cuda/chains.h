/* Sequences that follow each other in a step and have the same pages there: attention reads the
 * keys and values of a common prefix once for several of them. */
#ifndef KERNELS_CUDA_CHAINS_H
#define KERNELS_CUDA_CHAINS_H

#include "serverd/delegate.h"

#include <stdbool.h>

/* chain [batch->n_seqs][n_segments]: how many sequences before this one, without a gap, have the
 * same pages of a segment (GPU_SEGMENT_KEYS) and, like it, see all of it; 0: it is the first. For
 * steps where each sequence has one row; of others all are 0. False: all are 0. */
bool chains_find(const serverd_batch *batch, uint32_t n_segments, uint32_t *chain);

#endif
