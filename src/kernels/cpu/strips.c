#include "kernels/cpu/strips.h"

#include <string.h>

void cpu_strips_init(struct cpu_strips *strips, serverd_dtype kv, size_t k_dim, size_t v_dim,
                     void *scratch)
{
    strips->kv = kv;
    strips->k_dim = k_dim;
    strips->v_dim = v_dim;
    strips->key_bytes = CPU_STRIP * cpu_key_token_bytes(kv, k_dim);
    strips->value_bytes = CPU_STRIP * cpu_value_token_bytes(kv, v_dim);
    strips->scratch = scratch;
    if (CPU_SIDE < CPU_STRIP)
        memset(strips->keys, 0, sizeof strips->keys); /* none is begun */
}

/* n pieces of `bytes` each, from every from_apart to every to_apart bytes. */
static inline void copy_pieces(char *to, size_t to_apart, const char *from, size_t from_apart,
                               size_t bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        memcpy(to + i * to_apart, from + i * from_apart, bytes);
}

/* Of the type, whose numbers have `bytes`; the strip's tokens from `lane` on. */
static inline void copy_page(const struct cpu_strips *strips, size_t bytes, size_t run, size_t lane,
                             char *key_strip, char *value_strip, const char *keys,
                             const char *values)
{
    const size_t side = CPU_SIDE, value_run = min_size(run, side);
    const size_t width = (strips->v_dim + 15) / 16 * 16;
    copy_pieces(key_strip + run * lane * bytes, run * CPU_STRIP * bytes, keys, run * side * bytes,
                run * side * bytes, (strips->k_dim + run - 1) / run);
    if (value_run == run) {
        memcpy(value_strip + lane * width * bytes, values, side * width * bytes);
        return;
    }
    copy_pieces(value_strip + (lane / run * width * run + lane % run) * bytes, run * bytes, values,
                value_run * bytes, value_run * bytes, width);
}

void cpu_strips_gather(struct cpu_strips *strips, uint32_t page, const void *keys,
                       const void *values)
{
    const size_t token = (size_t)page * CPU_SIDE, strip = token / CPU_STRIP;
    const size_t lane = token % CPU_STRIP;
    char *key_strip = strips->scratch + strip * (strips->key_bytes + strips->value_bytes);
    char *value_strip = key_strip + strips->key_bytes;
    if (!strips->keys[strip]) {
        memset(key_strip, 0, strips->key_bytes + strips->value_bytes);
        strips->keys[strip] = key_strip;
        strips->values[strip] = value_strip;
    }
    if (strips->kv == DTYPE_I8) {
        const size_t scales = CPU_SIDE * sizeof(float), before = CPU_STRIP * sizeof(float);
        memcpy(key_strip + lane * sizeof(float), keys, scales);
        memcpy(value_strip + lane * sizeof(float), values, scales);
        copy_page(strips, 1, 4, lane, key_strip + before, value_strip + before,
                  (const char *)keys + scales, (const char *)values + scales);
    } else if (strips->kv == DTYPE_BF16) {
        copy_page(strips, 2, 2, lane, key_strip, value_strip, keys, values);
    } else if (strips->kv == DTYPE_F16) {
        copy_page(strips, 2, 1, lane, key_strip, value_strip, keys, values);
    } else {
        copy_page(strips, 4, 1, lane, key_strip, value_strip, keys, values);
    }
}
