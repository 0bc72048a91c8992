/* Every index of a batch, checked once before a step: the operations trust them. */
#ifndef KERNELS_BATCH_CHECK_H
#define KERNELS_BATCH_CHECK_H

#include "serverd/delegate.h"

struct batch_bounds {
    const char *name; /* of the delegate, for errors */
    serverd_limits limits;
    uint64_t n_tokens, n_positions, n_segments; /* rows of the smallest table that these index */
    /* Of the store, if the partition needs one. */
    uint32_t n_pages, n_window_pages; /* n_pages 0: needs none; n_window_pages 0: has none */
    uint32_t window;                  /* the widest of the layers in window pages */
};

/* Tables of the partition's nodes: n_tokens, n_positions, n_segments. */
void batch_bounds_find(struct batch_bounds *bounds, const serverd_graph *graph,
                       const serverd_partition *partition);

serverd_status batch_check(const struct batch_bounds *bounds, const serverd_batch *batch,
                           serverd_error *err);

/* What the batch's draws refer to, of rows of n_vocab logits. For delegates that draw. */
serverd_status batch_check_draws(const struct batch_bounds *bounds, const serverd_batch *batch,
                                 uint64_t n_vocab, serverd_error *err);

#endif
