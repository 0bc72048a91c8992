/* How a page has the tokens of one head, and how they are read for tensor cores: eight elements of
 * a token at a time, as bf16. A token's elements begin at multiples of 8 and end in zeros; of int8
 * the page's 16 scales stand behind its tokens:
 *
 *   f32, f16, bf16   [16 tokens][dim, rounded up to 8]
 *   int8             [16 tokens][dim, rounded up to 16] codes, [16 tokens] f32
 *
 * Keys and values of a step that are in no page are read in the same way, as f32 without zeros. */
#ifndef KERNELS_CUDA_PAGES_CUH
#define KERNELS_CUDA_PAGES_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/mma.cuh"

__host__ __device__ static inline uint32_t padded_dim(enum gpu_number type, uint32_t dim)
{
    return type == GPU_I8 ? (dim + 15) / 16 * 16 : (dim + 7) / 8 * 8;
}

__host__ __device__ static inline uint32_t element_bytes(enum gpu_number type)
{
    return type == GPU_I8 ? 1 : type == GPU_F32 ? sizeof(float) : sizeof(uint16_t);
}

__host__ __device__ static inline uint32_t token_bytes(enum gpu_number type, uint32_t dim)
{
    return padded_dim(type, dim) * element_bytes(type);
}

__host__ __device__ static inline size_t page_bytes(enum gpu_number type, uint32_t dim)
{
    return SERVERD_PAGE_TOKENS *
           ((size_t)token_bytes(type, dim) + (type == GPU_I8 ? sizeof(float) : 0));
}

/* Of int8. */
__device__ static __forceinline__ const float *scales_of(const char *page, uint32_t token_stride)
{
    return (const float *)(page + (size_t)SERVERD_PAGE_TOKENS * token_stride);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Elements i .. i + 3 of `dim`; those behind the last are zero. i is a multiple of 4. */
__device__ static __forceinline__ float4 four_floats(const float *x, uint32_t i, uint32_t dim)
{
    if (dim % 4 == 0) /* and so they are aligned: vectors follow each other */
        return i < dim ? *(const float4 *)(x + i) : float4{0, 0, 0, 0};
    return float4{i < dim ? x[i] : 0, i + 1 < dim ? x[i + 1] : 0, i + 2 < dim ? x[i + 2] : 0,
                  i + 3 < dim ? x[i + 3] : 0};
}

/* Two codes of a word, from code `first` on: exactly. */
__device__ static __forceinline__ unsigned code_pair(unsigned word, unsigned first)
{
    /* behind the leading bit of 2^23 stands the code plus 128; bf16 has room for the difference */
    const unsigned above = (word ^ 0x80808080u) >> 8 * first;
    const float low = __uint_as_float(0x4b000000u | (above & 0xffu)) - 8388736.0f;
    const float high = __uint_as_float(0x4b000000u | (above >> 8 & 0xffu)) - 8388736.0f;
    return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000u);
}

__device__ static __forceinline__ unsigned half_pair(unsigned word)
{
    return bf16_pair(half_value((uint16_t)word), half_value((uint16_t)(word >> 16)));
}

/* Elements i .. i + 7 of a token, of int8 their codes; i is a multiple of 8 and below dim. */
template <enum gpu_number TYPE>
__device__ static __forceinline__ uint4 eight_elements(const char *token, uint32_t i, uint32_t dim)
{
    if (TYPE == GPU_F32) {
        const float4 a = four_floats((const float *)token, i, dim),
                     b = four_floats((const float *)token, i + 4, dim);
        return uint4{bf16_pair(a.x, a.y), bf16_pair(a.z, a.w), bf16_pair(b.x, b.y),
                     bf16_pair(b.z, b.w)};
    }
    if (TYPE == GPU_I8) {
        const uint2 codes = *(const uint2 *)(token + i);
        return uint4{code_pair(codes.x, 0), code_pair(codes.x, 2), code_pair(codes.y, 0),
                     code_pair(codes.y, 2)};
    }
    const uint4 words = *(const uint4 *)(token + (size_t)i * sizeof(uint16_t));
    if (TYPE == GPU_BF16)
        return words;
    return uint4{half_pair(words.x), half_pair(words.y), half_pair(words.z), half_pair(words.w)};
}

/* ---- writing --------------------------------------------------------------------------------- */

/* To nearest, even. */
__device__ static inline uint16_t half_bits(float value)
{
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u,
                   rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (rest >= 0x477ff000u) /* rounds to what is too large */
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) { /* a number below the normal ones: the sum rounds it in place */
        const float shifted = __uint_as_float(rest) + 0.5f;
        return (uint16_t)(sign | (__float_as_uint(shifted) - 0x3f000000u));
    }
    return (uint16_t)(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13);
}

/* scale: of int8, 0 for a token of zeros. */
__device__ static inline void write_element(enum gpu_number type, char *token, uint32_t i, float x,
                                            float scale)
{
    switch (type) {
    case GPU_F32:
        ((float *)token)[i] = x;
        break;
    case GPU_BF16:
        ((uint16_t *)token)[i] = (uint16_t)bf16_bits(x);
        break;
    case GPU_F16:
        ((uint16_t *)token)[i] = half_bits(x);
        break;
    default:
        token[i] = (char)(signed char)(scale > 0 ? fminf(fmaxf(rintf(x / scale), -127), 127) : 0);
    }
}

#endif
