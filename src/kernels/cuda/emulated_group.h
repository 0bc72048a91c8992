/* For tests: what emulated groups of ranks (group.h) do, and how they fail. Any thread. */
#ifndef KERNELS_CUDA_EMULATED_GROUP_H
#define KERNELS_CUDA_EMULATED_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Whether they are possible at all, as they are not where there is no NCCL. At first they are. */
void emulated_groups_allow(bool are_possible);

/* The call-th operation of that rank from now on fails, from 1 on, in every group; as when a link
 * breaks the rank itself sees it, and others wait for it. 0: none does. */
void emulated_groups_fail(uint32_t rank, uint32_t call);

/* Operations that ranks have begun since the process did. */
uint64_t emulated_groups_operations(void);

#ifdef __cplusplus
}
#endif
#endif
