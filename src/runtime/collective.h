/* Collectives (serverd_collective) between threads of this process: each rank is a thread, and the
 * ranks read and write each other's memory. */
#ifndef RUNTIME_COLLECTIVE_H
#define RUNTIME_COLLECTIVE_H

#include "serverd/delegate.h"

struct collective_group;

/* n_ranks: 1 .. LIMIT_RANKS. */
serverd_status collective_group_create(uint32_t n_ranks, struct collective_group **out,
                                       serverd_error *err);
void collective_group_destroy(struct collective_group *group); /* NULL is fine */

/* For the thread of that rank; lives as long as the group. */
const serverd_collective *collective_group_rank(const struct collective_group *group,
                                                uint32_t rank);

/* A rank will not come: all calls fail with SERVERD_DEVICE_LOST until the group is mended. Any
 * thread. */
void collective_group_break(struct collective_group *group);

/* While nobody is in a call. */
void collective_group_mend(struct collective_group *group);

#endif
