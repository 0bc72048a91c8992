/* What ranks.c knows of a runtime. Its functions are reached through pointers alone, so that a
 * program without ranks is linked without them. */
#ifndef RUNTIME_RUNTIME_INTERNAL_H
#define RUNTIME_RUNTIME_INTERNAL_H

#include "runtime/runtime.h"

/* The other ranks of a runtime that is rank 0. */
struct runtime_peers {
    struct runtime *const *items; /* [n] */
    uint32_t n;
    uint64_t page_bytes, window_page_bytes; /* of all of them */
    void *context;
    serverd_status (*execute)(void *context, const serverd_batch *batch, float *out,
                              serverd_error *err);
    void (*close)(void *context); /* the peers, too */
};
void runtime_set_peers(struct runtime *runtime, const struct runtime_peers *peers);

/* runtime_execute of this rank alone; the limits are checked. */
serverd_status runtime_execute_alone(struct runtime *runtime, const serverd_batch *batch,
                                     float *out, serverd_error *err);

/* The name of the delegate that runs a node. */
const char *runtime_delegate_of(const struct runtime *runtime, uint32_t node);

#endif
