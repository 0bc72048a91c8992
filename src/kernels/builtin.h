/* The delegates that are compiled in, in order of preference. */
#ifndef KERNELS_BUILTIN_H
#define KERNELS_BUILTIN_H

#include "serverd/delegate.h"

/* "cpu", "collective", "cpu-reference", "null", "fault". */
extern const serverd_delegate *const builtin_delegates[];
extern const uint32_t n_builtin_delegates;

/* NULL: there is none of that name. */
const serverd_delegate *builtin_delegate(const char *name);

#endif
