/* Quantising a span of activations (cpu_kernels.h), in loops that the compiler makes vectors of. */
#include "base/numeric.h"

#define INFINITE_BITS 0x7f800000u
#define NOTHING_BITS  0x0c000000u /* 1e-31: numbers below are taken for 0 */

/* The wide quad of 32 is that of the greatest number, of numbers that agree but for the last bits
 * the first one: the last bits make room for the quad's place. */
#define WIDE_KEY_BITS 7u

/* Magnitudes compare like their bits, and NaN is the greatest. */
static inline void quad_magnitudes(const float *x, uint32_t *quads)
{
    for (size_t q = 0; q < CPU_SPAN / 4; q++) {
        quads[q] = 0;
        for (size_t i = 4 * q; i < 4 * q + 4; i++) {
            uint32_t magnitude = f32_bits(x[i]) & 0x7fffffffu;
            quads[q] = magnitude > quads[q] ? magnitude : quads[q];
        }
    }
}

/* Chooses the wide quad of a block; `most`: the greatest magnitude, `rest`: that of the others. */
static inline uint32_t choose_wide_quad(const uint32_t *quads, uint32_t *most, uint32_t *rest)
{
    uint32_t best = 0;
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t key = (quads[i] & ~WIDE_KEY_BITS) | (7 - i);
        best = key > best ? key : best;
    }
    uint32_t wide = 7 - (best & WIDE_KEY_BITS);
    *most = *rest = 0;
    for (uint32_t i = 0; i < 8; i++) {
        *most = quads[i] > *most ? quads[i] : *most;
        *rest = i != wide && quads[i] > *rest ? quads[i] : *rest;
    }
    return wide;
}

/* A scale with which the greatest number fits a wide code and the greatest of the rest one byte. */
static inline float span_scale(uint32_t most, uint32_t rest)
{
    float wide = f32_from_bits(most) / CPU_WIDE_CODE_MAX,
          narrow = f32_from_bits(rest) / CPU_CODE_MAX;
    return wide > narrow ? wide : narrow;
}

/* The high byte of a wide code. */
static inline int32_t high_of(int32_t code)
{
    return (code + CPU_HIGH_UNIT / 2) >> CPU_HIGH_BITS;
}

/* Codes of x / scale and all that is kept of them, for one block. */
static inline void put_block_codes(const float *x, float inverse, size_t block,
                                   struct cpu_span *out)
{
    int32_t codes[32];
    /* adding 1.5 * 2^23 rounds to an integer */
    for (size_t i = 0; i < 32; i++)
        codes[i] = inverse == 0.0f
                       ? 0
                       : (int32_t)(f32_bits(x[i] * inverse + 12582912.0f) - f32_bits(12582912.0f));
    for (size_t half = 0; half < 2; half++) {
        int32_t sum = 0;
        for (size_t i = 16 * half; i < 16 * half + 16; i++)
            sum += codes[i];
        out->half_sums[2 * block + half] = (float)sum; /* exact */
    }
    out->sums[block] = out->half_sums[2 * block] + out->half_sums[2 * block + 1];
    memset(out->wide_high[2 * block], 0, 2 * sizeof *out->wide_high);
    for (size_t i = 0, q = out->wide_quads[block]; i < 4; i++) {
        int32_t *code = &codes[4 * (q % 8) + i], high = high_of(*code);
        out->wide_high[q / 4][i] = (int8_t)high;
        *code -= CPU_HIGH_UNIT * high;
    }
    for (size_t i = 0; i < 32; i++)
        out->codes[32 * block + i] = (int8_t)codes[i];
}

/* The scale for numbers up to `most`; NaN if they are not finite. */
static inline float checked_scale(uint32_t most, uint32_t rest, float *inverse)
{
    *inverse = 0.0f;
    if (most >= INFINITE_BITS || most < NOTHING_BITS)
        return most < NOTHING_BITS ? 0.0f : NAN;
    float scale = span_scale(most, rest);
    *inverse = 1.0f / scale;
    return scale;
}

/* All CPU_SPAN elements at x; those behind the end of the row are 0. */
static inline void quantise_span(const float *x, bool is_fine, struct cpu_span *out)
{
    uint32_t quads[CPU_SPAN / 4], most[CPU_SPAN_BLOCKS], rest[CPU_SPAN_BLOCKS];
    uint32_t span_most = 0, span_rest = 0;
    quad_magnitudes(x, quads);
    for (size_t b = 0; b < CPU_SPAN_BLOCKS; b++) {
        uint32_t wide = choose_wide_quad(quads + 8 * b, &most[b], &rest[b]);
        out->wide_quads[b] = (uint8_t)(8 * b + wide);
        span_most = most[b] > span_most ? most[b] : span_most;
        span_rest = rest[b] > span_rest ? rest[b] : span_rest;
    }
    float inverse = 0.0f;
    out->scale = is_fine ? 1.0f : checked_scale(span_most, span_rest, &inverse);
    for (size_t b = 0; b < CPU_SPAN_BLOCKS; b++) {
        if (is_fine)
            out->block_scales[b] = checked_scale(most[b], rest[b], &inverse);
        put_block_codes(x + 32 * b, inverse, b, out);
    }
}
