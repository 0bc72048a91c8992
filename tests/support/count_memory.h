/* Counts every call of the process that takes or gives memory back: malloc and its relatives, mmap,
 * munmap, mremap, brk. Linked into a test, it stands in front of the C library's. */
#ifndef TESTS_SUPPORT_COUNT_MEMORY_H
#define TESTS_SUPPORT_COUNT_MEMORY_H

#include <stdint.h>

/* Calls of all threads so far. */
uint64_t count_memory_calls(void);

/* Bytes of address space that the process has: what no call is seen of shows here. */
uint64_t count_memory_address_space(void);

/* From the next call on, `fn` sees each of them, for finding who it is; NULL: nobody. */
void count_memory_watch(void (*fn)(const char *name));

#endif
