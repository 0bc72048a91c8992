/* Included once by each cpu_kernels_LEVEL.c, which defines LEVEL, TILE_ROWS and TILE_COLUMNS (how
 * many weight rows and activations share their loads in registers). */
#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"

#include <math.h>
#include <string.h>

#define LANES 16

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

/* ---- linear -------------------------------------------------------------------------------- */

/* rows * columns dot products; each is the same sum whatever stands beside it. */
static inline __attribute__((always_inline)) void dot_tile(const float *x, const float *w, size_t k,
                                                           int columns, int rows, float *sums)
{
    lanes acc[TILE_COLUMNS * TILE_ROWS] = {0};
    size_t i = 0;
    for (; i + LANES <= k; i += LANES)
        for (int c = 0; c < columns; c++) {
            lanes a = load(x + (size_t)c * k + i);
            for (int r = 0; r < rows; r++)
                acc[c * TILE_ROWS + r] += a * load(w + (size_t)r * k + i);
        }
    if (i < k)
        for (int c = 0; c < columns; c++)
            for (int r = 0; r < rows; r++)
                acc[c * TILE_ROWS + r] += load_part(x + (size_t)c * k + i, k - i) *
                                          load_part(w + (size_t)r * k + i, k - i);
    for (int c = 0; c < columns; c++)
        for (int r = 0; r < rows; r++)
            sums[c * TILE_ROWS + r] = add_lanes(acc[c * TILE_ROWS + r]);
}

static void linear(const float *x, size_t n_rows, const float *w, const float *bias, size_t n_out,
                   size_t k, float *out, size_t out_stride)
{
    for (size_t r = 0; r < n_out; r += TILE_ROWS) {
        int rows = (int)min_size(TILE_ROWS, n_out - r);
        for (size_t t = 0; t < n_rows; t += TILE_COLUMNS) {
            int columns = (int)min_size(TILE_COLUMNS, n_rows - t);
            float sums[TILE_COLUMNS * TILE_ROWS];
            const float *xt = x + t * k, *wr = w + r * k;
            if (columns == TILE_COLUMNS && rows == TILE_ROWS)
                dot_tile(xt, wr, k, TILE_COLUMNS, TILE_ROWS, sums);
            else if (rows == TILE_ROWS) /* independent sums hide each other's latency */
                for (int c = 0; c < columns; c++)
                    dot_tile(xt + (size_t)c * k, wr, k, 1, TILE_ROWS, &sums[c * TILE_ROWS]);
            else
                for (int c = 0; c < columns; c++)
                    for (int i = 0; i < rows; i++)
                        dot_tile(xt + (size_t)c * k, wr + (size_t)i * k, k, 1, 1,
                                 &sums[c * TILE_ROWS + i]);
            for (int c = 0; c < columns; c++)
                for (int i = 0; i < rows; i++)
                    out[(t + (size_t)c) * out_stride + r + (size_t)i] =
                        bias ? sums[c * TILE_ROWS + i] + bias[r + (size_t)i]
                             : sums[c * TILE_ROWS + i];
        }
    }
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

/* ---- attention ------------------------------------------------------------------------------- */

static float scores(const float *q, const float *keys, size_t dim, size_t n, float scale, float cap,
                    float *s, float *total)
{
    for (size_t j = 0; j < n; j++) {
        float dot;
        dot_tile(q, keys + j * dim, dim, 1, 1, &dot);
        s[j] = dot * scale;
    }
    if (cap > 0.0f)
        softcap(s, cap, s, n);
    float max = -INFINITY;
    for (size_t j = 0; j < n; j++)
        max = s[j] > max ? s[j] : max;
    size_t padded = (n + LANES - 1) / LANES * LANES;
    for (size_t j = n; j < padded; j++)
        s[j] = -INFINITY;
    lanes acc = {0};
    for (size_t j = 0; j < padded; j += LANES) {
        lanes e = exp_lanes(load(s + j) - max);
        acc += e;
        store(s + j, e);
    }
    *total = add_lanes(acc);
    return max;
}

static void weighted_sum(const float *weights, const float *values, size_t dim, size_t n,
                         float *out)
{
    size_t d = 0;
    for (; d + LANES <= dim; d += LANES) {
        lanes acc = {0};
        for (size_t j = 0; j < n; j++)
            acc += weights[j] * load(values + j * dim + d);
        store(out + d, acc);
    }
    for (; d < dim; d++) {
        float acc = 0.0f;
        for (size_t j = 0; j < n; j++)
            acc += weights[j] * values[j * dim + d];
        out[d] = acc;
    }
}

static void blend(const float *a, float fa, const float *b, float fb, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = a[i] * fa + b[i] * fb;
}

static void from_bf16(const uint16_t *in, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = bf16_to_f32(in[i]);
}

static void to_bf16(const float *in, uint16_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = f32_to_bf16(in[i]);
}

#define LEVEL_NAME_(level) #level
#define LEVEL_NAME(level)  LEVEL_NAME_(level)
#define TABLE_(level)      cpu_kernels_##level
#define TABLE(level)       TABLE_(level)

const struct cpu_kernels TABLE(LEVEL) = {
    .name = LEVEL_NAME(LEVEL),
    .tile = TILE_ROWS,
    .linear = linear,
    .sum_of_squares = sum_of_squares,
    .sum = sum,
    .activate = activate,
    .softcap = softcap,
    .scores = scores,
    .weighted_sum = weighted_sum,
    .blend = blend,
    .from_bf16 = from_bf16,
    .to_bf16 = to_bf16,
};
