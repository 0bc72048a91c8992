/* Numbers: half precision, checked sizes, parsing with range and end. */
#ifndef BASE_NUMERIC_H
#define BASE_NUMERIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float bf16_to_f32(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

/* Nearest even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float x)
{
    uint32_t u = f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* IEEE half, exact in both ranges. */
static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) /* infinity, NaN */
        return f32_from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude < 0x0400u) { /* zero, denormal: magnitude * 2^-24 */
        float f = (float)magnitude * 0x1p-24f;
        return sign ? -f : f;
    }
    return f32_from_bits(sign | ((magnitude << 13) + (112u << 23)));
}

uint16_t f32_to_f16(float x); /* nearest even */

/* Sizes: false on overflow, *out untouched. */
static inline bool size_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static inline bool size_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

/* The next multiple of `alignment`, a power of two. */
static inline bool size_align(size_t a, size_t alignment, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, alignment - 1, &r))
        return false;
    *out = r & ~(alignment - 1);
    return true;
}

static inline uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Whole string, decimal, range checked, locale-free: false otherwise. */
bool parse_i64(const char *s, int64_t min, int64_t max, int64_t *out);
bool parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *out);
bool parse_f64(const char *s, double *out);    /* finite only */
bool parse_size(const char *s, uint64_t *out); /* bytes with K, M, G, T (1024), "512MiB", "4 GB" */

#endif
