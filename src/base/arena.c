#include "base/arena.h"

#include "base/limits.h"
#include "base/numeric.h"

#include <stdlib.h>
#include <string.h>

#define ALIGNMENT   16u
#define FIRST_CHUNK (4 * KIB)
#define LARGE_CHUNK (1 * MIB)

/* Chunks form a list, newest first; only the newest has room that is still handed out. The
 * oldest one is kept by arena_reset. */
struct chunk {
    struct chunk *older;
    size_t cap, used;
    _Alignas(ALIGNMENT) unsigned char bytes[];
};

struct arena {
    struct chunk *newest;
    size_t limit, used; /* payload, rounded up to ALIGNMENT */
};

struct arena *arena_create(size_t limit_bytes)
{
    struct arena *arena = calloc(1, sizeof *arena);
    if (arena && !size_align(limit_bytes, ALIGNMENT, &arena->limit))
        arena->limit = limit_bytes;
    return arena;
}

void arena_extend(struct arena *arena, size_t bytes)
{
    size_t sum, limit;
    if (!size_add(arena->limit, bytes, &sum) || !size_align(sum, ALIGNMENT, &limit))
        limit = SIZE_MAX / 2;
    arena->limit = max_size(arena->limit, limit);
}

void arena_destroy(struct arena *arena)
{
    if (!arena)
        return;
    while (arena->newest) {
        struct chunk *older = arena->newest->older;
        free(arena->newest);
        arena->newest = older;
    }
    free(arena);
}

void arena_reset(struct arena *arena)
{
    while (arena->newest && arena->newest->older) {
        struct chunk *older = arena->newest->older;
        free(arena->newest);
        arena->newest = older;
    }
    if (arena->newest)
        arena->newest->used = 0;
    arena->used = 0;
}

/* A chunk with room for `bytes`. Chunks double, so that their number stays logarithmic. */
static struct chunk *add_chunk(struct arena *arena, size_t bytes)
{
    size_t cap = arena->newest ? min_size(arena->newest->cap, LARGE_CHUNK / 2) * 2 : FIRST_CHUNK;
    cap = max_size(min_size(cap, arena->limit - arena->used), bytes);
    size_t total;
    if (!size_add(sizeof(struct chunk), cap, &total))
        return NULL;
    struct chunk *chunk = malloc(total);
    if (!chunk)
        return NULL;
    *chunk = (struct chunk){.older = arena->newest, .cap = cap};
    arena->newest = chunk;
    return chunk;
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    size_t rounded;
    if (!size_align(max_size(bytes, 1), ALIGNMENT, &rounded))
        return NULL;
    if (rounded > arena->limit - arena->used)
        return NULL;
    struct chunk *chunk = arena->newest;
    if (!chunk || rounded > chunk->cap - chunk->used)
        chunk = add_chunk(arena, rounded);
    if (!chunk)
        return NULL;
    void *out = chunk->bytes + chunk->used;
    chunk->used += rounded;
    arena->used += rounded;
    return memset(out, 0, rounded);
}

void *arena_array(struct arena *arena, size_t n, size_t size)
{
    size_t bytes;
    return size_mul(n, size, &bytes) ? arena_alloc(arena, bytes) : NULL;
}

char *arena_copy(struct arena *arena, const char *bytes, size_t n)
{
    size_t total;
    if (!size_add(n, 1, &total))
        return NULL;
    char *copy = arena_alloc(arena, total);
    if (copy && n > 0)
        memcpy(copy, bytes, n);
    return copy;
}

size_t arena_used(const struct arena *arena)
{
    return arena->used;
}
