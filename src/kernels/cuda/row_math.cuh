/* What is computed of a row's elements, for the kernels that do only that and for those that do
 * more: all come to the same bits, so no product may be contracted with a sum in one of them only.
 */
#ifndef KERNELS_CUDA_ROW_MATH_CUH
#define KERNELS_CUDA_ROW_MATH_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/sums.cuh"

#include <math.h>

enum { ROW_THREADS = 128 };

__device__ static __forceinline__ float activated(uint32_t activation, float x)
{
    switch (activation) {
    case SERVERD_ACT_SILU:
        return x / (1 + expf(-x));
    case SERVERD_ACT_GELU_TANH: /* sqrt(2 / pi) */
        return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    case SERVERD_ACT_GELU_ERF: /* sqrt(1 / 2) */
        return 0.5f * x * (1 + erff(x * 0.7071067812f));
    case SERVERD_ACT_RELU:
        return x < 0 ? 0 : x;
    case SERVERD_ACT_SIGMOID:
        return 1 / (1 + expf(-x));
    default:
        return tanhf(x);
    }
}

/* act(a[i]), or act(a[i]) * b[i]; b NULL: the former. */
__device__ static __forceinline__ float activated_at(const float *a, const float *b, size_t i,
                                                     uint32_t activation)
{
    const float y = activated(activation, a[i]);
    return b ? __fmul_rn(y, b[i]) : y;
}

/* What is taken from the elements of a group, and what they are then multiplied with. */
struct normal {
    float mean, inverse;
};

/* Of ROW_THREADS threads, all of which come here. has_mean: layer norm. is_l2: what is divided by
 * is the group's length. */
__device__ static __forceinline__ struct normal find_normal(const float *group, uint32_t width,
                                                            bool has_mean, bool is_l2, float eps)
{
    struct normal normal = {0, 0};
    float sum = 0;
    if (has_mean) {
        for (uint32_t i = threadIdx.x; i < width; i += ROW_THREADS)
            sum += group[i];
        normal.mean = block_sum<ROW_THREADS>(sum) / (float)width;
        sum = 0;
    }
    for (uint32_t i = threadIdx.x; i < width; i += ROW_THREADS) {
        const float distance = group[i] - normal.mean;
        sum = __fmaf_rn(distance, distance, sum);
    }
    sum = block_sum<ROW_THREADS>(sum);
    normal.inverse = is_l2 ? 1 / fmaxf(sqrtf(sum), 1e-12f) : 1 / sqrtf(sum / (float)width + eps);
    return normal;
}

/* w NULL: 1. b NULL: 0. */
__device__ static __forceinline__ float normed(struct normal normal, float x, const float *w,
                                               const float *b, uint32_t i)
{
    const float y = __fmul_rn(x - normal.mean, normal.inverse);
    const float weighed = w ? __fmul_rn(y, w[i]) : y;
    return b ? weighed + b[i] : weighed;
}

/* How a head is turned. */
struct turn {
    const float *inv_freq; /* [n_rot / 2] */
    serverd_rope rope;
    float mscale;
};

/* Pairs that are turned, and elements that are carried over. */
__host__ __device__ static inline uint32_t turn_units(const serverd_rope *rope)
{
    return rope->n_rot / 2 + rope->head_dim - rope->n_rot;
}

/* Unit `unit` of a head. Angles as the reference has them: the product in f32, then sine and cosine
 * of it at full range. */
__device__ static __forceinline__ void turn_unit(const struct turn *turn, int32_t position,
                                                 uint32_t unit, const float *x, float *out)
{
    const uint32_t n_rot = turn->rope.n_rot, n_pairs = n_rot / 2;
    if (unit >= n_pairs) {
        out[n_rot + unit - n_pairs] = x[n_rot + unit - n_pairs];
        return;
    }
    const uint32_t first = turn->rope.is_neox ? unit : 2 * unit;
    const uint32_t second = first + (turn->rope.is_neox ? n_pairs : 1);
    const float angle = (float)position * turn->inv_freq[unit];
    const float c = (float)cos((double)angle) * turn->mscale,
                s = (float)sin((double)angle) * turn->mscale;
    const float a = x[first], b = x[second];
    out[first] = __fmaf_rn(a, c, -__fmul_rn(b, s));
    out[second] = __fmaf_rn(a, s, __fmul_rn(b, c));
}

#endif
