/* Formulas: docs/internals/block-formats.md. Products are rounded in the order of the reference
 * implementation, so that every bit agrees. */
#include "program/dtype_internal.h"

void q2_k_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 84) {
        float d = half_at(b + 80), dmin = half_at(b + 82);
        const uint8_t *scales = b, *q = b + 16;
        for (int half = 0; half < 2; half++, q += 32) {
            for (int shift = 0; shift < 8; shift += 2) {
                for (int l = 0; l < 32; l++) {
                    uint8_t scale = scales[8 * half + shift + (l >= 16)];
                    *out++ = d * (float)(scale & 15) * (float)(q[l] >> shift & 3) -
                             dmin * (float)(scale >> 4);
                }
            }
        }
    }
}

void q3_k_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 110) {
        float d = half_at(b + 108);
        const uint8_t *high = b, *q = b + 32, *s = b + 96;
        int scales[16];
        for (int k = 0; k < 16; k++)
            scales[k] = (s[k % 8] >> 4 * (k / 8) & 15) | (s[8 + k % 4] >> 2 * (k / 4) & 3) << 4;
        for (int half = 0; half < 2; half++, q += 32) {
            for (int p = 0; p < 4; p++) {
                for (int l = 0; l < 32; l++) {
                    float dl = d * (float)(scales[8 * half + 2 * p + (l >= 16)] - 32);
                    int code = q[l] >> 2 * p & 3;
                    *out++ = dl * (float)(code - (high[l] >> (4 * half + p) & 1 ? 0 : 4));
                }
            }
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
static void k_nibbles_to_f32(const uint8_t *b, const uint8_t *high, const uint8_t *q, float *out)
{
    float d = half_at(b), dmin = half_at(b + 2);
    for (int j = 0; j < 8; j++) {
        int scale, min;
        scale_and_min(b + 4, j, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int l = 0; l < 32; l++) {
            int code = q[32 * (j / 2) + l] >> 4 * (j % 2) & 15;
            if (high)
                code |= (high[l] >> j & 1) << 4;
            *out++ = dl * (float)code - ml;
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
        for (int half = 0; half < 2; half++) {
            const uint8_t *low = b + 64 * half, *high = b + 128 + 32 * half;
            const uint8_t *scales = b + 192 + 8 * half;
            for (int p = 0; p < 4; p++) {
                for (int l = 0; l < 32; l++) {
                    int nibble = low[l + 32 * (p % 2)] >> 4 * (p / 2) & 15;
                    int code = nibble | (high[l] >> 2 * p & 3) << 4;
                    float dl = d * (float)(int8_t)scales[2 * p + l / 16];
                    *out++ = dl * (float)(code - 32);
                }
            }
        }
    }
}
