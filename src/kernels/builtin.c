#include "kernels/builtin.h"

#include "kernels/collective/delegate.h"
#include "kernels/cpu/delegate.h"
#include "kernels/reference/delegate.h"
#include "kernels/testing/fault.h"
#include "kernels/testing/null.h"

#include <string.h>

const serverd_delegate *const builtin_delegates[] = {
    &cpu_delegate, &collective_delegate, &reference_delegate, &null_delegate, &fault_delegate,
};

const uint32_t n_builtin_delegates = sizeof builtin_delegates / sizeof *builtin_delegates;

const serverd_delegate *builtin_delegate(const char *name)
{
    for (uint32_t i = 0; i < n_builtin_delegates; i++)
        if (strcmp(builtin_delegates[i]->name, name) == 0)
            return builtin_delegates[i];
    return NULL;
}
