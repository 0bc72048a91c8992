/* What a program computes, as a hash: two programs with the same one give the same keys and values
 * for the same tokens on the same back-end. Names and texts do not count. */
#ifndef RUNTIME_IDENTITY_INTERNAL_H
#define RUNTIME_IDENTITY_INTERNAL_H

#include "base/hash.h"
#include "runtime/instances.h"
#include "runtime/worker_pool.h"
#include "serverd/delegate.h"

/* Type, shape and all bytes of one tensor. */
serverd_status identity_add_tensor(struct sha256 *identity, const serverd_tensor *tensor,
                                   struct worker_pool *pool, serverd_error *err);

/* Operations, attributes and how they hang together. `max_context` chooses between tables. */
void identity_add_graph(struct sha256 *identity, const serverd_graph *graph, uint32_t max_context);

/* Who keeps which layers, and with what arithmetic: all instances have a kv_identity. */
serverd_status identity_add_instances(struct sha256 *identity, const struct instances *instances,
                                      const struct placement *placement, serverd_error *err);

#endif
