/* The reference back-end, "cpu-reference": every operation and type in exact float32, scalar but
 * for its sums, the same bits on every processor; see run_node.h. For comparison, and for what no
 * other back-end takes. No options. */
#ifndef KERNELS_REFERENCE_DELEGATE_H
#define KERNELS_REFERENCE_DELEGATE_H

#include "serverd/delegate.h"

extern const serverd_delegate reference_delegate;

#endif
