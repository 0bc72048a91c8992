/* Adding up what the parts of a runtime take. */
#ifndef RUNTIME_MEMORY_INTERNAL_H
#define RUNTIME_MEMORY_INTERNAL_H

#include "runtime/instances.h"
#include "runtime/memory.h"
#include "runtime/packing.h"

void memory_add_program(struct runtime_memory *memory, const struct program *program);
serverd_status memory_add_weights(struct runtime_memory *memory, const struct packing *packing,
                                  serverd_error *err);
/* The instances know their layers (instances_divide_kv). */
serverd_status memory_add_partitions(struct runtime_memory *memory,
                                     const struct placement *placement, struct instances *instances,
                                     const serverd_limits *limits, serverd_error *err);

#endif
