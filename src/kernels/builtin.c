#include "kernels/builtin.h"

#include "kernels/cpu/delegate.h"
#include "kernels/reference/delegate.h"
#include "kernels/testing/fault.h"
#include "kernels/testing/null.h"

const serverd_delegate *const builtin_delegates[] = {
    &cpu_delegate,
    &reference_delegate,
    &null_delegate,
    &fault_delegate,
};

const uint32_t n_builtin_delegates = sizeof builtin_delegates / sizeof *builtin_delegates;
