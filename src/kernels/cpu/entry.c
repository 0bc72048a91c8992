/* The CPU back-end's name in the library (serverd/runtime.h). Alone here: who does not call it does
 * not link a kernel. */
#include "kernels/cpu/delegate.h"
#include "serverd/runtime.h"

const struct serverd_delegate *serverd_cpu_delegate(void)
{
    return &cpu_delegate;
}
