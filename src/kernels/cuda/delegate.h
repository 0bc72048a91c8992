/* The CUDA back-end. In the daemon it comes out of a shared object (entry.c), in tests it is linked
 * over the emulation. */
#ifndef KERNELS_CUDA_DELEGATE_H
#define KERNELS_CUDA_DELEGATE_H

#include "serverd/delegate.h"

extern const serverd_delegate cuda_delegate;

#endif
