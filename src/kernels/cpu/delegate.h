/* The CPU back-end: every canonical op, any block type, x86-64 levels chosen at run time and
 * plain C elsewhere. Options: isa=generic|avx2|avx512 (the best that the machine has). */
#ifndef KERNELS_CPU_DELEGATE_H
#define KERNELS_CPU_DELEGATE_H

#include "serverd/delegate.h"

extern const serverd_delegate cpu_delegate;

#endif
