/* Weights in the forms that a delegate asks for: used where they stand, or written into one block
 * of memory. Called while a program is opened, from one thread; the pool's threads pack. */
#ifndef RUNTIME_PACKING_H
#define RUNTIME_PACKING_H

#include "base/hash.h"
#include "program/program.h"
#include "runtime/worker_pool.h"
#include "serverd/delegate.h"

#include <stdbool.h>

struct packing {
    const struct program *program;
    const serverd_delegate *delegate;
    const bool *is_wanted; /* [graph.n_tensors] which to pack; NULL: all */
    struct worker_pool *pool;
    struct sha256 *identity; /* hashes all tensors on the way; NULL: not wanted */
    /* Share of the source's bytes, 0..1, from the calling thread; may be NULL. */
    void (*progress)(void *context, double share);
    void *progress_context;
};

/* One delegate's forms of a program's tensors. */
struct packed_weights {
    char *block; /* all that is packed */
    /* [graph.n_tensors] in the block, or in the program's file if it has that form already; NULL:
     * the tensor's data is used, or it is not wanted */
    const void **tensor;
};

/* What the forms take: where they stand already, and in the block. */
struct packing_bytes {
    uint64_t in_place, block;
};
serverd_status packing_measure(const struct packing *packing, struct packing_bytes *out,
                               serverd_error *err);

/* On failure, too, *out is to be freed. */
serverd_status pack_weights(const struct packing *packing, struct packed_weights *out,
                            serverd_error *err);
void packed_weights_free(struct packed_weights *weights);

#endif
