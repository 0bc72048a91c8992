/* What the shared object shows of itself. */
#include "kernels/cuda/delegate.h"

__attribute__((visibility("default"))) const serverd_delegate *
serverd_delegate_entry(uint32_t host_abi);

const serverd_delegate *serverd_delegate_entry(uint32_t host_abi)
{
    return host_abi >> 16 == SERVERD_DELEGATE_ABI >> 16 ? &cuda_delegate : NULL;
}
