/* Places of a partition's values in one block: a value has a stretch of its own from the node that
 * makes it to the last one that reads it, and others have it before and after. */
#ifndef KERNELS_VALUE_PLACES_H
#define KERNELS_VALUE_PLACES_H

#include "serverd/delegate.h"

#include <stdbool.h>
#include <stddef.h>

#define VALUE_NOWHERE SIZE_MAX

struct value_places {
    size_t *offset;  /* [n_values] in floats; VALUE_NOWHERE: it has no place */
    size_t n_floats; /* of the block */
    size_t unshared; /* floats, if each value had a place of its own */
};

/* For the sizes of `limits`. has_ends: the partition's inputs and outputs have places, too. False:
 * no memory, or sizes overflow; nothing is left to free. */
bool value_places_find(const serverd_graph *graph, const serverd_partition *partition,
                       const serverd_limits *limits, bool has_ends, struct value_places *out);
void value_places_deinit(struct value_places *places);

#endif
