/* The strips of one segment and one head (cpu_kernels.h), from the pages that have its tokens.
 * Pages of 16 tokens or more are strips as they lie; from smaller ones strips are copied together.
 */
#ifndef KERNELS_CPU_STRIPS_H
#define KERNELS_CPU_STRIPS_H

#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"

struct cpu_strips {
    serverd_dtype kv;
    size_t k_dim, v_dim;
    size_t key_bytes, value_bytes; /* of a strip */
    char *scratch;                 /* [CPU_SEGMENT_STRIPS][key_bytes + value_bytes] */
    const void *keys[CPU_SEGMENT_STRIPS], *values[CPU_SEGMENT_STRIPS]; /* those of added pages */
};

/* Bytes that copies take, whatever the type; a multiple of 64, or 0: pages are strips. */
static inline size_t cpu_strips_scratch(size_t k_dim, size_t v_dim)
{
    if (CPU_SIDE == CPU_STRIP)
        return 0;
    /* one dimension more: int8 has the scale, and both int8 and bf16 are rounded up */
    return (size_t)CPU_SEGMENT *
           (cpu_key_token_bytes(DTYPE_F32, k_dim + 1) + cpu_value_token_bytes(DTYPE_F32, v_dim));
}

/* `scratch` is aligned to 64, and stays the caller's. */
void cpu_strips_init(struct cpu_strips *strips, serverd_dtype kv, size_t k_dim, size_t v_dim,
                     void *scratch);

/* A page that is smaller than a strip: its tokens go to their places, where tokens of pages that
 * are not added are 0. */
void cpu_strips_gather(struct cpu_strips *strips, uint32_t page, const void *keys,
                       const void *values);

/* Page `page` of the segment, counted from 0; each once, in ascending order. */
static inline void cpu_strips_add(struct cpu_strips *strips, uint32_t page, const void *keys,
                                  const void *values)
{
    if (CPU_SIDE < CPU_STRIP) {
        cpu_strips_gather(strips, page, keys, values);
        return;
    }
    const uint32_t n = SERVERD_PAGE_TOKENS / CPU_SIDE; /* strips of a page */
    for (uint32_t i = 0; i < n; i++) {
        strips->keys[page * n + i] = (const char *)keys + i * strips->key_bytes;
        strips->values[page * n + i] = (const char *)values + i * strips->value_bytes;
    }
}

#endif
