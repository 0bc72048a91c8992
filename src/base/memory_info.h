/* What the machine has of memory. */
#ifndef BASE_MEMORY_INFO_H
#define BASE_MEMORY_INFO_H

#include <stdint.h>

/* Bytes that the process may still take before something is swapped or killed: MemAvailable of
 * /proc/meminfo, or the cgroup's memory.max if that is less. UINT64_MAX: the system does not tell.
 */
uint64_t memory_available(void);

#endif
