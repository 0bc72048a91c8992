/* Bump allocation with one owner and one end: what lives as long as a request, a program or a
 * rendering is taken from its arena and freed at once. Bounded: an arena never holds more than
 * its limit. Not thread-safe; an arena belongs to one thread at a time. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

struct arena;

/* At most `limit_bytes` of payload; NULL if memory is out. */
struct arena *arena_create(size_t limit_bytes);
void arena_destroy(struct arena *arena);

/* The limit grows: what comes is bounded by something else, such as the size of a file. */
void arena_extend(struct arena *arena, size_t bytes);

/* Forget everything but keep the first chunk, for reuse. */
void arena_reset(struct arena *arena);

/* Aligned to 16 and zeroed; NULL at the limit or if memory is out. */
void *arena_alloc(struct arena *arena, size_t bytes);

/* n * size with an overflow check. */
void *arena_array(struct arena *arena, size_t n, size_t size);

/* A NUL-terminated copy of bytes[0..n-1]. */
char *arena_copy(struct arena *arena, const char *bytes, size_t n);

size_t arena_used(const struct arena *arena);

#endif
