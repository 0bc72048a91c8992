/* Weights as fragments.h lays them out, on the device: a lane's share of a record, its codes as the
 * bf16 numbers that a tensor core takes, its scales, and single elements.
 *
 * Codes become bf16 by putting them into the lower bits of 128: bf16 has seven of them, so 128 +
 * code is exact up to 255, and so is the difference of two such numbers. That takes two
 * instructions for two weights of 4 bits and three for two of 8, beside a shift.
 *
 * E4M3 has bf16's order of sign, exponent and mantissa. Its seven bits, shifted to where bf16 has
 * the exponent's last four and the mantissa's first three, are 2^-120 times its value: bf16's
 * exponents begin at 2^-126, those of E4M3 at 2^-6, and both have small numbers below. */
#ifndef KERNELS_CUDA_WEIGHTS_CUH
#define KERNELS_CUDA_WEIGHTS_CUH

#include "kernels/cuda/fragments.h"
#include "kernels/cuda/mma.cuh"

/* A form at compile time. */
template <int N_BITS, int N_GROUP, enum fragment_numbers NUMBERS>
struct weights {
    static const int BITS = N_BITS, CHUNK = FRAGMENT_CODES / BITS;
    static const bool HAS_SCALES = N_GROUP > 0, HAS_MIN = NUMBERS == FRAGMENT_MINIMA,
    IS_FLOAT = NUMBERS == FRAGMENT_FLOATS;
    /* what is multiplied at once, and then scaled */
    static const int GROUP = HAS_SCALES ? N_GROUP : CHUNK,
    N_GROUPS = CHUNK / GROUP, N_TILES = GROUP / 16;
    /* words of two f16 that a lane has */
    static const int N_SCALES = HAS_SCALES ? N_GROUPS * (HAS_MIN ? 2 : 1) : 0;
    static const int RECORD = FRAGMENT_CODES + N_SCALES * FRAGMENT_COLUMNS / 2 * 4;

    __device__ static __forceinline__ struct fragment_shape shape(){
        struct fragment_shape shape = {BITS, N_GROUP, HAS_MIN}; return shape;}
}
;

template <class W> struct lane_record {
    unsigned codes[4], scales[W::N_SCALES ? W::N_SCALES : 1];
};

/* The codes of a record. */
template <class W>
__device__ static __forceinline__ void take_codes(const uint4 *codes, uint32_t lane,
                                                  struct lane_record<W> *out)
{
    const uint4 four = codes[lane];
    out->codes[0] = four.x;
    out->codes[1] = four.y;
    out->codes[2] = four.z;
    out->codes[3] = four.w;
}

/* The scales of a group, of those of the record. */
template <class W>
__device__ static __forceinline__ void take_scales(const uint4 *scales, uint32_t lane, int group,
                                                   struct lane_record<W> *out)
{
    const unsigned *of_lane = (const unsigned *)scales + lane % 4 * W::N_SCALES;
    if (W::HAS_MIN) {
        const uint2 both = ((const uint2 *)of_lane)[group];
        out->scales[group * 2] = both.x;
        out->scales[group * 2 + W::HAS_MIN] = both.y;
    } else {
        out->scales[group] = of_lane[group];
    }
}

/* b0, b1 (half 0) or b2, b3 (half 1) of a tile of the record. */
template <class W>
__device__ static __forceinline__ unsigned pair_of(const struct lane_record<W> &record, int tile,
                                                   int half)
{
    if (W::BITS == 16)
        return record.codes[tile * 2 + half];
    if (W::BITS == 8 && W::IS_FLOAT) {
        const unsigned word = record.codes[tile];
        const unsigned signs = half ? word : word << 8, rest = half ? word >> 4 : word << 4;
        return bf16_times_2_120(masked(signs, 0x80008000u, rest & 0x07f007f0u));
    }
    if (W::BITS == 8) { /* two's complement: the sign's 128 is taken from the rest */
        const unsigned word = record.codes[tile] >> half * 8;
        return bf16_difference(masked(word, 0x007f007fu, 0x43004300u),
                               masked(word, 0x00800080u, 0x43004300u));
    }
    const unsigned word = record.codes[tile / 2] >> (tile % 2 * 8 + half * 4);
    return bf16_difference(masked(word, 0x000f000fu, 0x43004300u),
                           W::HAS_MIN ? 0x43004300u : 0x43084308u); /* 128, or 136 */
}

/* Of the lane's two columns of results. */
template <class W>
__device__ static __forceinline__ void scales_of(const struct lane_record<W> &record, int group,
                                                 float scale[2], float minimum[2])
{
    const unsigned scales = record.scales[group * (W::HAS_MIN ? 2 : 1)];
    scale[0] = half_value((uint16_t)scales);
    scale[1] = half_value((uint16_t)(scales >> 16));
    if (!W::HAS_MIN)
        return;
    const unsigned minima = record.scales[group * 2 + W::HAS_MIN];
    minimum[0] = half_value((uint16_t)minima);
    minimum[1] = half_value((uint16_t)(minima >> 16));
}

/* Element i of a column that has n_k, of n columns. */
template <class W>
__device__ static __forceinline__ float element_of(const char *__restrict__ w, size_t n, size_t n_k,
                                                   size_t column, size_t i)
{
    const char *record = w + fragments_record_at(W::shape(), column, i, n_k);
    const uint32_t bit = fragments_code_at(W::shape(), column, i);
    if (!W::HAS_SCALES)
        return bf16_value(*(const uint16_t *)(record + bit / 8));
    const uint16_t *scale = (const uint16_t *)(record + fragments_scale_at(W::shape(), column, i));
    const float power = ((const float *)(w + fragments_records(W::shape(), n, n_k)))[column];
    const int byte = record[bit / 8];
    if (W::IS_FLOAT)
        return power * (half_value(scale[0]) *
                        bf16_value(bf16_times_2_120((byte & 0x80) << 8 | (byte & 0x7f) << 4)));
    const int code =
        W::BITS == 8 ? (signed char)byte : (byte >> bit % 8 & 15) - (W::HAS_MIN ? 0 : 8);
    return power *
           __fmaf_rn(half_value(scale[0]), (float)code, W::HAS_MIN ? half_value(scale[2]) : 0.0f);
}

#endif
