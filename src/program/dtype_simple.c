/* Formulas: docs/internals/block-formats.md. Products are rounded in the order of the reference
 * implementation, so that every bit agrees. */
#include "program/dtype_internal.h"

void f32_to_f32(const void *blocks, float *out, size_t n)
{
    memcpy(out, blocks, n * sizeof *out);
}

/* f16_to_f32 without branches, so that many run side by side. */
void f16_blocks_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, b + 2 * i, sizeof half);
        int32_t magnitude = half & 0x7fff;
        uint32_t is_denormal = -(uint32_t)(magnitude < 0x0400); /* all bits or none */
        uint32_t is_special = -(uint32_t)(magnitude >= 0x7c00); /* infinity, NaN */
        uint32_t shifted = (uint32_t)magnitude << 13, normal = shifted + (112u << 23);
        uint32_t denormal = f32_bits((float)magnitude * 0x1p-24f);
        uint32_t bits = (denormal & is_denormal) | (normal & ~is_denormal);
        bits |= (shifted | 0x7f800000u) & is_special;
        out[i] = f32_from_bits(bits | (half & 0x8000u) << 16);
    }
}

void bf16_blocks_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, b + 2 * i, sizeof half);
        out[i] = bf16_to_f32(half);
    }
}

/* ---- blocks of 32: byte j has element j in its low and j + 16 in its high half ------------- */

void q4_0_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 18, out += 32) {
        float d = half_at(b);
        u8x16 q = load_codes(b + 2);
        put_scaled((q & 15) - 8, d, out);
        put_scaled((q >> 4) - 8, d, out + 16);
    }
}

void q4_1_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 20, out += 32) {
        float d = half_at(b), m = half_at(b + 2);
        u8x16 q = load_codes(b + 4);
        put_shifted(q & 15, d, m, out);
        put_shifted(q >> 4, d, m, out + 16);
    }
}

void q5_0_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 22, out += 32) {
        float d = half_at(b);
        u8x16 q = load_codes(b + 6);
        put_scaled(((q & 15) | (spread_bits(u16_at(b + 2)) & 16)) - 16, d, out);
        put_scaled(((q >> 4) | (spread_bits(u16_at(b + 4)) & 16)) - 16, d, out + 16);
    }
}

void q5_1_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 24, out += 32) {
        float d = half_at(b), m = half_at(b + 2);
        u8x16 q = load_codes(b + 8);
        put_shifted((q & 15) | (spread_bits(u16_at(b + 4)) & 16), d, m, out);
        put_shifted((q >> 4) | (spread_bits(u16_at(b + 6)) & 16), d, m, out + 16);
    }
}

void q8_0_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 34, out += 32) {
        float d = half_at(b);
        put_scaled(load_codes(b + 2), d, out);
        put_scaled(load_codes(b + 18), d, out + 16);
    }
}

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

void iq4_nl_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 18, out += 32) {
        float d = half_at(b);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)iq4_values[b[2 + j] & 15];
            out[j + 16] = d * (float)iq4_values[b[2 + j] >> 4];
        }
    }
}

void iq4_xs_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 136, out += 256) {
        float d = half_at(b);
        unsigned high = b[2] | (unsigned)b[3] << 8;
        for (int s = 0; s < 8; s++) {
            int scale = (b[4 + s / 2] >> 4 * (s % 2) & 15) | (int)(high >> 2 * s & 3) << 4;
            float dl = d * (float)(scale - 32);
            const uint8_t *q = b + 8 + 16 * s;
            for (int j = 0; j < 16; j++) {
                out[32 * s + j] = dl * (float)iq4_values[q[j] & 15];
                out[32 * s + j + 16] = dl * (float)iq4_values[q[j] >> 4];
            }
        }
    }
}

/* Twice the E2M1 value. */
static const int8_t e2m1_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

void mxfp4_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 17, out += 32) {
        uint32_t e = b[0]; /* half of 2^(e-127): the table is doubled */
        float d = f32_from_bits(e < 2 ? 0x00200000u << e : (e - 1) << 23);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)e2m1_values[b[1 + j] & 15];
            out[j + 16] = d * (float)e2m1_values[b[1 + j] >> 4];
        }
    }
}

/* Half of an unsigned E4M3 number; 0x7f stands for zero, the sign bit is unused. */
static float half_of_e4m3(uint8_t b)
{
    int exponent = b >> 3 & 15, mantissa = b & 7;
    if (b == 0 || b == 0x7f)
        return 0.0f;
    if (exponent == 0)
        return (float)mantissa * 0x1p-10f;
    return (1.0f + (float)mantissa / 8.0f) * f32_from_bits((uint32_t)(exponent - 8 + 127) << 23);
}

void nvfp4_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 36, out += 64) {
        for (int s = 0; s < 4; s++) {
            float d = half_of_e4m3(b[s]);
            const uint8_t *q = b + 4 + 8 * s;
            for (int j = 0; j < 8; j++) {
                out[16 * s + j] = d * (float)e2m1_values[q[j] & 15];
                out[16 * s + j + 8] = d * (float)e2m1_values[q[j] >> 4];
            }
        }
    }
}

void q1_0_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 18, out += 128) {
        float d = half_at(b);
        for (int j = 0; j < 128; j++)
            out[j] = b[2 + j / 8] >> j % 8 & 1 ? d : -d;
    }
}

void q2_0_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 18, out += 64) {
        float d = half_at(b);
        for (int j = 0; j < 64; j++)
            out[j] = (float)((b[2 + j / 4] >> 2 * (j % 4) & 3) - 1) * d;
    }
}

void tq2_0_to_f32(const void *blocks, float *out, size_t n)
{
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 66, out += 256) {
        float d = half_at(b + 64);
        for (int g = 0; g < 2; g++)
            for (int p = 0; p < 4; p++)
                for (int m = 0; m < 32; m++)
                    out[128 * g + 32 * p + m] = d * (float)((b[32 * g + m] >> 2 * p & 3) - 1);
    }
}

/* Digit `power` / 3 of a byte that holds a number in base 3 as a fixed-point fraction. */
static float trit(uint8_t q, int power)
{
    uint8_t shifted = (uint8_t)(q * power);
    return (float)((shifted * 3 >> 8) - 1);
}

void tq1_0_to_f32(const void *blocks, float *out, size_t n)
{
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    static const struct {
        int begin, count, passes;
    } runs[] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};
    const uint8_t *b = blocks;
    for (size_t i = 0; i < n; i++, b += 54) {
        float d = half_at(b + 52);
        for (int r = 0; r < 3; r++)
            for (int p = 0; p < runs[r].passes; p++)
                for (int m = 0; m < runs[r].count; m++)
                    *out++ = d * trit(b[runs[r].begin + m], powers[p]);
    }
}
