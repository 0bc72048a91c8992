/* Included once by each cpu_kernels_LEVEL.c, which defines LEVEL and includes its simd header. */
#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"
#include "program/dtype.h"

#include <math.h>
#include <string.h>

#define LANES 16

/* Where a coarse code of a row stands (cpu_kernels.h), and from 16 codes to the next 16. */
#ifdef LEVEL_HAS_AMX
#define CPU_COARSE_AT   16
#define CPU_COARSE_STEP 32
#else
#define CPU_COARSE_AT   0
#define CPU_COARSE_STEP 16
#endif

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t int_lanes __attribute__((vector_size(4 * LANES)));

static inline lanes load(const float *p)
{
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The last n < LANES elements, zeros behind. */
static inline lanes load_part(const float *p, size_t n)
{
    lanes v = {0};
    memcpy(&v, p, n * sizeof *p);
    return v;
}

static inline void store(float *p, lanes v)
{
    memcpy(p, &v, sizeof v);
}

static inline lanes splat(float x)
{
    return x - (lanes){0};
}

/* The one order in which lanes are added. */
static inline float add_lanes(lanes v)
{
    float a[LANES];
    store(a, v);
    for (int n = LANES / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++)
            a[i] += a[i + n];
    return a[0];
}

static inline lanes choose(int_lanes mask, lanes a, lanes b)
{
    return (lanes)((mask & (int_lanes)a) | (~mask & (int_lanes)b));
}

/* exp(x): 2^n * p(f), f in [-ln2/2, ln2/2], p of degree 7 (Taylor's coefficients; the error is
 * below 2 units in the last place). Below -87 the result is 0, above 88 infinity; NaN stays. */
static inline lanes exp_lanes(lanes x)
{
    const lanes magic = splat(12582912.0f); /* 1.5 * 2^23: rounds to an integer */
    lanes clamped = choose(x > -87.0f, x, splat(-87.0f));
    clamped = choose(clamped < 88.0f, clamped, splat(88.0f));
    lanes shifted = clamped * 1.44269504f + magic;
    lanes n = shifted - magic;
    lanes f = clamped - n * 0.693145752f;
    f = f - n * 1.42860677e-6f;
    lanes p = splat(1.98412698e-4f);
    p = p * f + 1.38888889e-3f;
    p = p * f + 8.33333333e-3f;
    p = p * f + 4.16666667e-2f;
    p = p * f + 1.66666667e-1f;
    p = p * f + 0.5f;
    p = p * f * f + f + 1.0f;
    int_lanes bits = ((int_lanes)shifted - (int_lanes)magic + 127) << 23;
    lanes result = p * (lanes)bits;
    result = choose(x < -87.0f, splat(0.0f), result);
    result = choose(x > 88.0f, splat(INFINITY), result);
    return choose(x != x, x, result);
}

static inline lanes tanh_lanes(lanes x)
{
    lanes magnitude = choose(x < 0.0f, -x, x);
    lanes e = exp_lanes(-2.0f * magnitude);
    lanes big = (1.0f - e) / (1.0f + e);
    /* for small x the difference above cancels: x - x^3/3 + 2x^5/15 - 17x^7/315 */
    lanes s = magnitude * magnitude;
    lanes small =
        magnitude * (1.0f + s * (-0.333333333f + s * (0.133333333f + s * -0.0539682540f)));
    lanes t = choose(magnitude < 0.25f, small, big);
    return choose(x < 0.0f, -t, t);
}

/* ---- sums and element by element ------------------------------------------------------------- */

static float sum_of_squares(const float *x, size_t n)
{
    lanes acc = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        acc += load(x + i) * load(x + i);
    if (i < n)
        acc += load_part(x + i, n - i) * load_part(x + i, n - i);
    return add_lanes(acc);
}

static float sum(const float *x, size_t n)
{
    lanes acc = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        acc += load(x + i);
    if (i < n)
        acc += load_part(x + i, n - i);
    return add_lanes(acc);
}

static inline lanes silu_lanes(lanes x)
{
    return x / (1.0f + exp_lanes(-x));
}

static inline lanes sigmoid_lanes(lanes x)
{
    return 1.0f / (1.0f + exp_lanes(-x));
}

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
static inline lanes gelu_tanh_lanes(lanes x)
{
    lanes inner = 0.797884561f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + tanh_lanes(inner));
}

/* 0.5 x (1 + erf(x / sqrt 2)) */
static inline lanes gelu_erf_lanes(lanes x)
{
    for (int i = 0; i < LANES; i++)
        x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.707106781f));
    return x;
}

static inline lanes relu_lanes(lanes x)
{
    return choose(x < 0.0f, splat(0.0f), x);
}

static inline lanes activate_lanes(uint32_t activation, lanes x)
{
    switch (activation) {
    case SERVERD_ACT_SILU:
        return silu_lanes(x);
    case SERVERD_ACT_GELU_TANH:
        return gelu_tanh_lanes(x);
    case SERVERD_ACT_GELU_ERF:
        return gelu_erf_lanes(x);
    case SERVERD_ACT_RELU:
        return relu_lanes(x);
    case SERVERD_ACT_SIGMOID:
        return sigmoid_lanes(x);
    default:
        return tanh_lanes(x);
    }
}

static void activate(uint32_t activation, const float *x, float *out, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store(out + i, activate_lanes(activation, load(x + i)));
    if (i < n) {
        lanes v = activate_lanes(activation, load_part(x + i, n - i));
        memcpy(out + i, &v, (n - i) * sizeof *out);
    }
}

static void softcap(const float *x, float cap, float *out, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store(out + i, cap * tanh_lanes(load(x + i) / cap));
    if (i < n) {
        lanes v = cap * tanh_lanes(load_part(x + i, n - i) / cap);
        memcpy(out + i, &v, (n - i) * sizeof *out);
    }
}

/* ---- quantising ------------------------------------------------------------------------------ */

typedef int8_t byte_lanes __attribute__((vector_size(LANES)));

static inline int_lanes max_lanes(int_lanes a, int_lanes b)
{
    int_lanes mask = a > b;
    return (mask & a) | (~mask & b);
}

/* The lanes from `n` on in front of the first ones. */
#define TURN(v, n)                                                                                 \
    __builtin_shufflevector(v, v, n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, n + 8, n + 9, \
                            n + 10, n + 11, n + 12, n + 13, n + 14, n + 15)

static inline int32_t greatest_lane(int_lanes v)
{
    v = max_lanes(v, TURN(v, 8));
    v = max_lanes(v, TURN(v, 4));
    v = max_lanes(v, TURN(v, 2));
    return max_lanes(v, TURN(v, 1))[0];
}

static inline int32_t total_of_lanes(int_lanes v)
{
    v += TURN(v, 8);
    v += TURN(v, 4);
    v += TURN(v, 2);
    return v[0] + v[1];
}

/* The bits of the greatest magnitude of 32 numbers: magnitudes compare like their bits, and NaN is
 * the greatest. */
static inline uint32_t greatest_magnitude(const float *x)
{
    int_lanes a = (int_lanes)load(x) & 0x7fffffff, b = (int_lanes)load(x + 16) & 0x7fffffff;
    return (uint32_t)greatest_lane(max_lanes(a, b));
}

#define INFINITE_BITS 0x7f800000u

/* Takes the greatest number of `n_blocks` blocks of 32 out of them; `most` has the greatest
 * magnitude of each. */
static inline struct cpu_outlier take_outlier(float *x, size_t n_blocks, uint32_t *most)
{
    size_t best = 0;
    for (size_t block = 1; block < n_blocks; block++)
        if (most[block] < INFINITE_BITS && (most[block] > most[best] || most[best] >= INFINITE_BITS))
            best = block;
    struct cpu_outlier outlier = {.index = (uint32_t)best * 32};
    if (most[best] >= INFINITE_BITS)
        return outlier;
    float *block = x + best * 32;
    uint32_t i = 0;
    while ((f32_bits(block[i]) & 0x7fffffffu) != most[best])
        i++;
    outlier.index += i;
    outlier.value = block[i];
    block[i] = 0.0f;
    most[best] = greatest_magnitude(block);
    return outlier;
}

/* The scale of a block, and in `inverse` what its numbers are multiplied with: 0 where all codes
 * are to be 0. Below 1e-31 all is zero. */
static inline float scale_of(uint32_t most, int code_max, float *inverse)
{
    *inverse = 0.0f;
    if (most >= INFINITE_BITS)
        return NAN;
    if (most < 0x0c000000u)
        return 0.0f;
    float scale = f32_from_bits(most) / (float)code_max;
    *inverse = 1.0f / scale;
    return scale;
}

/* 16 codes; returns minus their sum. */
static inline int32_t put_codes(const float *x, float inverse, bool is_fine, int8_t *to)
{
    const lanes magic = splat(12582912.0f); /* 1.5 * 2^23: rounds to an integer */
    int_lanes code = (int_lanes)(load(x) * inverse + magic) - (int_lanes)magic;
    if (inverse == 0.0f)
        code = (int_lanes){0};
    int_lanes high = {0}, low = code;
    if (is_fine) {
        high = (code + CPU_HIGH_UNIT / 2) >> CPU_HIGH_BITS;
        low = code - CPU_HIGH_UNIT * high;
    }
    byte_lanes low_bytes = __builtin_convertvector(low, byte_lanes);
    if (is_fine || CPU_COARSE_STEP == 32) {
        byte_lanes high_bytes = __builtin_convertvector(high, byte_lanes);
        memcpy(to, &high_bytes, sizeof high_bytes);
        memcpy(to + 16, &low_bytes, sizeof low_bytes);
    } else {
        memcpy(to, &low_bytes, sizeof low_bytes);
    }
    return -total_of_lanes(code);
}

/* `n` elements at x, which are changed. */
static inline void quantise_span(float *x, size_t n, bool is_fine, struct cpu_span *out)
{
    uint32_t most[CPU_SPAN_BLOCKS];
    for (size_t block = 0; block < n / 32; block++)
        most[block] = greatest_magnitude(x + 32 * block);
    for (size_t o = 0; o * CPU_OUTLIER_SPAN < n && !is_fine; o++) {
        size_t first = o * CPU_OUTLIER_SPAN, left = n - first;
        struct cpu_outlier outlier =
            take_outlier(x + first, (left < CPU_OUTLIER_SPAN ? left : CPU_OUTLIER_SPAN) / 32,
                         most + first / 32);
        outlier.index += (uint32_t)first;
        out->outliers[o] = outlier;
    }
    int8_t *codes = out->codes;
    for (size_t block = 0; block < n / 32; block++) {
        float inverse;
        out->scales[block] = scale_of(
            most[block], is_fine ? CPU_FINE_CODE_MAX : CPU_COARSE_CODE_MAX, &inverse);
        for (size_t half = 2 * block; half < 2 * block + 2; half++) {
            out->minus_half_sums[half] = put_codes(x + 16 * half, inverse, is_fine, codes);
            codes += is_fine ? 32 : CPU_COARSE_STEP;
        }
        int32_t minus_sum = out->minus_half_sums[2 * block] + out->minus_half_sums[2 * block + 1];
        out->minus_sums[block] = minus_sum;
        out->scaled_sums[block] = out->scales[block] * (float)-minus_sum;
    }
}

#include "kernels/cpu/linear_template.h"

static void quantise(const float *x, size_t k, const struct cpu_rows *out, size_t row)
{
    const struct row_layout layout = row_layout(out->is_fine);
    for (size_t s = 0; s < cpu_n_spans(k); s++) {
        float part[CPU_SPAN];
        size_t n = min_size(CPU_SPAN, k - s * CPU_SPAN);
        memcpy(part, x + s * CPU_SPAN, n * sizeof *part);
        char *to = out->spans + (s * out->n_max + row) * layout.bytes;
        quantise_span(part, n, out->is_fine, (struct cpu_span *)(void *)to);
    }
}

#include "kernels/cpu/attention_template.h"

#define LEVEL_NAME_(level) #level
#define LEVEL_NAME(level)  LEVEL_NAME_(level)
#define TABLE_(level)      cpu_kernels_##level
#define TABLE(level)       TABLE_(level)

const struct cpu_kernels TABLE(LEVEL) = {
    .name = LEVEL_NAME(LEVEL),
    .linear = linear,
    .linear_scratch = linear_scratch,
    .span_bytes = span_bytes,
    .quantise = quantise,
    .attend = attend,
    .attention_scratch = attention_scratch,
    .merge = merge,
    .append = append,
    .sum_of_squares = sum_of_squares,
    .sum = sum,
    .activate = activate,
    .softcap = softcap,
};
