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

/* Chooses the wide quads; returns the greatest magnitude among the others. */
static inline uint32_t choose_wide_quads(const uint32_t *quads, uint8_t *wide_quads)
{
    uint32_t rest = 0;
    for (size_t block = 0; block < CPU_SPAN_BLOCKS; block++) {
        const uint32_t *q = quads + 8 * block;
        uint32_t best = 0;
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t key = (q[i] & ~WIDE_KEY_BITS) | (7 - i);
            best = key > best ? key : best;
        }
        uint32_t wide = 7 - (best & WIDE_KEY_BITS);
        wide_quads[block] = (uint8_t)(8 * block + wide);
        for (uint32_t i = 0; i < 8; i++)
            rest = i != wide && q[i] > rest ? q[i] : rest;
    }
    return rest;
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

static inline void put_codes(int32_t *codes, bool is_fine, struct cpu_span *out)
{
    for (size_t half = 0; half < 2 * CPU_SPAN_BLOCKS; half++) {
        int32_t sum = 0;
        for (size_t i = 16 * half; i < 16 * half + 16; i++)
            sum += codes[i];
        out->half_sums[half] = (float)sum; /* exact */
    }
    for (size_t block = 0; block < CPU_SPAN_BLOCKS; block++) {
        out->sums[block] = out->half_sums[2 * block] + out->half_sums[2 * block + 1];
        for (size_t i = 0; i < 32 && is_fine; i++) {
            int32_t code = codes[32 * block + i], high = high_of(code);
            out->codes[64 * block + i] = (int8_t)high;
            out->codes[64 * block + 32 + i] = (int8_t)(code - CPU_HIGH_UNIT * high);
        }
    }
    if (is_fine)
        return;
    memset(out->wide_high, 0, sizeof out->wide_high);
    for (size_t block = 0; block < CPU_SPAN_BLOCKS; block++)
        for (size_t i = 0, q = out->wide_quads[block]; i < 4; i++) {
            int32_t high = high_of(codes[4 * q + i]);
            out->wide_high[q / 4][i] = (int8_t)high;
            codes[4 * q + i] -= CPU_HIGH_UNIT * high;
        }
    for (size_t i = 0; i < CPU_SPAN; i++)
        out->codes[i] = (int8_t)codes[i];
}

/* All CPU_SPAN elements at x; those behind the end of the row are 0. */
static inline void quantise_span(const float *x, bool is_fine, struct cpu_span *out)
{
    uint32_t quads[CPU_SPAN / 4], most = 0;
    int32_t codes[CPU_SPAN];
    quad_magnitudes(x, quads);
    for (size_t q = 0; q < CPU_SPAN / 4; q++)
        most = quads[q] > most ? quads[q] : most;
    uint32_t rest = choose_wide_quads(quads, out->wide_quads);
    bool is_nan = most >= INFINITE_BITS, is_zero = most < NOTHING_BITS;
    float scale = is_nan ? NAN : is_zero ? 0.0f : span_scale(most, is_fine ? 0 : rest);
    float inverse = is_nan || is_zero ? 0.0f : 1.0f / scale;
    out->scale = scale;
    /* adding 1.5 * 2^23 rounds to an integer */
    for (size_t i = 0; i < CPU_SPAN; i++)
        codes[i] = (int32_t)(f32_bits(x[i] * inverse + 12582912.0f) - f32_bits(12582912.0f));
    if (is_nan)
        memset(codes, 0, sizeof codes);
    put_codes(codes, is_fine, out);
}
