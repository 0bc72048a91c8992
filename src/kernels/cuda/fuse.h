/* Nodes of a partition that are done together, found when it is loaded: launches cost some
 * microseconds each, and what one node writes and the next one reads need not go through memory.
 * Every value has the bits that it has without. */
#ifndef KERNELS_CUDA_FUSE_H
#define KERNELS_CUDA_FUSE_H

#include "serverd/delegate.h"

#include <stdbool.h>

struct fusion {
    bool is_done;            /* with another node: nothing is to be done when its turn comes */
    bool makes_fragments;    /* of its result, which nobody wants otherwise */
    bool has_fragments;      /* a linear layer: of its rows, already */
    uint32_t n_joined;       /* a linear layer: nodes behind it that are such, done with it */
    const serverd_node *add; /* a linear layer: the sum of its result and another value, done with
                                it; or NULL */
    uint32_t added;          /* the other value of `add` */
    const serverd_node *turn_q, *turn_k; /* ATTN: of its queries and keys, done with it; or NULL */
};

/* [n_nodes] of the partition, to be freed; NULL: no memory. has_store: keys and values of causal
 * attention go into pages. */
struct fusion *fuse(const serverd_graph *graph, const serverd_partition *partition, bool has_store);

#endif
