/* Quantising for levels without instructions of their own for it; the compiler makes vectors of
 * these loops. Codes of two bytes: see cpu_kernels.h. */
#include "base/numeric.h"

/* ---- quantising 16 or 32 numbers (cpu_kernels_template.h) ---- */

SIMD uint32_t q_greatest_magnitude(const float *x)
{
    uint32_t most = 0;
    for (int i = 0; i < 32; i++) {
        uint32_t magnitude = f32_bits(x[i]) & 0x7fffffffu;
        most = magnitude > most ? magnitude : most;
    }
    return most;
}
SIMD uint32_t q_find_magnitude(const float *x, uint32_t bits)
{
    uint32_t i = 0;
    while ((f32_bits(x[i]) & 0x7fffffffu) != bits)
        i++;
    return i;
}
/* round(x * inverse), 0 if inverse is 0; adding 1.5 * 2^23 rounds to an integer */
SIMD int32_t q_code(float x, float inverse)
{
    int32_t code = (int32_t)(f32_bits(x * inverse + 12582912.0f) - f32_bits(12582912.0f));
    return inverse == 0.0f ? 0 : code;
}
/* 16 codes; returns their sum. */
SIMD int32_t q_put_codes(const float *x, float inverse, int8_t *to)
{
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) {
        int32_t code = q_code(x[i], inverse);
        to[i] = (int8_t)code;
        sum += code;
    }
    return sum;
}
SIMD int32_t q_put_fine_codes(const float *x, float inverse, int8_t *to)
{
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) {
        int32_t code = q_code(x[i], inverse), high = (code + 4) >> 3;
        to[i] = (int8_t)high;
        to[i + 16] = (int8_t)(code - 8 * high);
        sum += code;
    }
    return sum;
}
