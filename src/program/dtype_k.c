/* Formulas: docs/internals/block-formats.md. Products are rounded in the order of the reference
 * implementation, so that every bit agrees. */
#include "program/dtype_internal.h"

void q2_k_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 84) {
        float d = half_at(b + 80), dmin = half_at(b + 82);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            const uint8_t *q = b + 16 + 32 * (sub / 8) + 16 * (sub % 2);
            int shift = sub % 8 / 2 * 2;
            float dl = d * (float)(b[sub] & 15), ml = dmin * (float)(b[sub] >> 4);
            put_shifted(field(load_codes(q), shift, 3), dl, -ml, out);
        }
    }
}

void q3_k_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 110) {
        float d = half_at(b + 108);
        const uint8_t *s = b + 96;
        for (int sub = 0; sub < 16; sub++, out += 16) {
            const uint8_t *high = b + 16 * (sub % 2), *q = b + 32 + 32 * (sub / 8) + 16 * (sub % 2);
            int bit = sub / 2, shift = sub % 8 / 2 * 2;
            int scale = (s[sub % 8] >> 4 * (sub / 8) & 15) | (s[8 + sub % 4] >> 2 * (sub / 4) & 3)
                                                                 << 4;
            float dl = d * (float)(scale - 32);
            u8x16 codes =
                field(load_codes(q), shift, 3) | raise(field(load_codes(high), bit, 1), 2);
            put_scaled(codes - 4, dl, out);
        }
    }
}

/* Scale and minimum of sub-block j, 6 bits each, from the 12 packed bytes. */
static void scale_and_min(const uint8_t *s, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    }
}

/* Q4_K, and Q5_K with a fifth bit from `high` (NULL: none). */
static inline void k_nibbles_to_f32(const uint8_t *b, const uint8_t *high, const uint8_t *q,
                                    float *out)
{
    float d = half_at(b), dmin = half_at(b + 2);
    for (int j = 0; j < 8; j++) {
        int scale, min;
        scale_and_min(b + 4, j, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int l = 0; l < 32; l += 16, out += 16) {
            u8x16 codes = load_codes(q + 32 * (j / 2) + l);
            codes = field(codes, 4 * (j % 2), 15);
            if (high)
                codes |= raise(field(load_codes(high + l), j, 1), 4);
            put_shifted(codes, dl, -ml, out);
        }
    }
}

void q4_k_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 144, out += 256)
        k_nibbles_to_f32(b, NULL, b + 16, out);
}

void q5_k_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 176, out += 256)
        k_nibbles_to_f32(b, b + 16, b + 48, out);
}

void q6_k_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 210) {
        float d = half_at(b + 208);
        for (int sub = 0; sub < 16; sub++, out += 16) {
            int half = sub / 8, p = sub % 8 / 2, l = 16 * (sub % 2);
            u8x16 low = field(load_codes(b + 64 * half + 32 * (p % 2) + l), 4 * (p / 2), 15);
            u8x16 high = field(load_codes(b + 128 + 32 * half + l), 2 * p, 3);
            put_scaled((low | raise(high, 4)) - 32, d * (float)(int8_t)b[192 + sub], out);
        }
    }
}
