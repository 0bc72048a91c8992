/* The operations of a shard in which it meets the other ranks, in memory of the host. Whoever runs
 * the other nodes is cut there. */
#ifndef KERNELS_COLLECTIVE_DELEGATE_H
#define KERNELS_COLLECTIVE_DELEGATE_H

#include "serverd/delegate.h"

extern const serverd_delegate collective_delegate; /* "collective" */

#endif
