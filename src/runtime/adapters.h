/* Adapters on the partitions of a model: which sites are whose. */
#ifndef RUNTIME_ADAPTERS_H
#define RUNTIME_ADAPTERS_H

#include "program/adapter.h"
#include "runtime/steps.h"

/* Gives each partition the sites that are its, in the slot; NULL: empties the slot everywhere.
 * After a failure the slot is empty. */
serverd_status adapters_set(const struct steps *steps, const serverd_graph *graph, uint32_t slot,
                            const struct adapter *or_null, serverd_error *err);

#endif
