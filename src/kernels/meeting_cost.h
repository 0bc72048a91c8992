/* What it takes that ranks meet (ALL_REDUCE, GATHER), as delegates tell it in their claims. It is
 * one estimate for all of them: where ranks meet is then decided by what has to be handed over, and
 * nobody takes a meeting whose operands are elsewhere. */
#ifndef KERNELS_MEETING_COST_H
#define KERNELS_MEETING_COST_H

#include "program/op.h"

/* All have come; what all ranks read and write. */
#define MEETING_SECONDS          1e-5
#define MEETING_BYTES_PER_SECOND 1e10

static inline double meeting_seconds(const serverd_graph *graph, const serverd_node *node,
                                     double n_rows)
{
    const double row_bytes = (double)value_width(node_output(graph, node)) * sizeof(float) *
                             node->attributes.shard.n_ranks * 2;
    return MEETING_SECONDS + n_rows * row_bytes / MEETING_BYTES_PER_SECOND;
}

#endif
