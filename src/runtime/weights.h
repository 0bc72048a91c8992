/* The weights of all devices of a model: each delegate's forms (packing.h) of the tensors that its
 * nodes read, once for all of its instances. Called while a program is opened, from one thread. */
#ifndef RUNTIME_WEIGHTS_H
#define RUNTIME_WEIGHTS_H

#include "runtime/instances.h"
#include "runtime/memory.h"
#include "runtime/packing.h"

struct weights_source {
    const struct program *program;
    const struct placement *placement;
    const struct instances *instances; /* opened */
    struct worker_pool *pool;
    struct sha256 *identity; /* hashes all tensors on the way; NULL: not wanted */
    void (*progress)(void *context, double share); /* 0..1; may be NULL */
    void *progress_context;
};

struct weights {
    struct packed_weights packed[LIMIT_DEVICES]; /* of the first instance of each delegate */
};

/* On failure, too, *out is to be freed. */
serverd_status weights_pack(const struct weights_source *source, struct weights *out,
                            serverd_error *err);
void weights_free(struct weights *weights);

/* Adds what they would take. */
serverd_status weights_measure(const struct weights_source *source, struct runtime_memory *memory,
                               serverd_error *err);

/* [graph.n_tensors], as the delegate's load takes them. */
const void *const *weights_of(const struct weights *weights, const struct instances *instances,
                              const struct instance *item);

#endif
