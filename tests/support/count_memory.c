#include "support/count_memory.h"

#include <errno.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The C library's own names for what this file stands in front of. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);
void __libc_free(void *p);

/* The C library, too, is to find these. */
#pragma GCC visibility push(default)

static _Atomic uint64_t n_calls;
static void (*_Atomic watcher)(const char *name);

static void count(const char *name)
{
    atomic_fetch_add(&n_calls, 1);
    void (*fn)(const char *) = atomic_exchange(&watcher, NULL); /* it may take memory itself */
    if (fn) {
        fn(name);
        atomic_store(&watcher, fn);
    }
}

uint64_t count_memory_calls(void)
{
    return atomic_load(&n_calls);
}

void count_memory_watch(void (*fn)(const char *name))
{
    atomic_store(&watcher, fn);
}

uint64_t count_memory_address_space(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file || fscanf(file, "%lu", &pages) != 1)
        pages = 0;
    if (file)
        (void)fclose(file);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

void *malloc(size_t n)
{
    count("malloc");
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    count("calloc");
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    count("realloc");
    return __libc_realloc(p, n);
}

void *aligned_alloc(size_t alignment, size_t n)
{
    count("aligned_alloc");
    return __libc_memalign(alignment, n);
}

void *memalign(size_t alignment, size_t n)
{
    count("memalign");
    return __libc_memalign(alignment, n);
}

int posix_memalign(void **out, size_t alignment, size_t n)
{
    count("posix_memalign");
    *out = __libc_memalign(alignment, n);
    return *out ? 0 : ENOMEM;
}

void free(void *p)
{
    if (p)
        count("free");
    __libc_free(p);
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    count("mmap");
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}

int munmap(void *at, size_t n)
{
    count("munmap");
    return (int)syscall(SYS_munmap, at, n);
}

void *mremap(void *at, size_t n, size_t n_new, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    void *to = flags & MREMAP_FIXED ? va_arg(args, void *) : NULL;
    va_end(args);
    count("mremap");
    return (void *)syscall(SYS_mremap, at, n, n_new, flags, to);
}

int brk(void *end)
{
    count("brk");
    return (void *)syscall(SYS_brk, end) == end ? 0 : -1;
}
