/* Included once by each cpu_kernels_LEVEL.c, which defines LEVEL and includes its simd header. What
 * a level would only compile once more it takes from one below it, named by
 *   LEVEL_LINEAR   all linear layers but those of bf16 weights, and adapters
 *   LEVEL_FLOATS   those whose weights are numbers
 *   LEVEL_FEW      those for few rows
 *   LEVEL_ROWS     attention, activations and adapters */
#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"
#include "program/dtype.h"

#include <math.h>
#include <string.h>

#define LEVEL_NAME_(level) #level
#define LEVEL_NAME(level)  LEVEL_NAME_(level)
#define TABLE_(level)      cpu_kernels_##level
#define TABLE(level)       TABLE_(level)

#define INLINE static inline __attribute__((always_inline))

#define LANES 16

/* Kernels are compiled for each form of weights and each shape of a tile, their loops over
 * registers unrolled. One that learns form and shape when it runs gives the same bits: where every
 * access is checked by a sanitizer, and compiling would take minutes, and where nothing lies in
 * registers anyway (KERNELS_SMALL). */
#if defined KERNELS_SANITIZED || defined KERNELS_SMALL
#undef UNROLL
#define UNROLL
#define IS_SPECIALISED 0
#else
#define IS_SPECIALISED 1
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

/* exp(x): 2^n * p(f), f in [-ln2/2, ln2/2], p of degree 6 (Taylor's coefficients; the error is
 * below 3 units in the last place). 0 below -87, exp(88) above 88; NaN stays. */
static inline lanes exp_lanes(lanes x)
{
    float all[LANES];
    store(all, x);
    const fvec magic = f_splat(12582912.0f); /* 1.5 * 2^23: rounds to an integer */
    fvec v = f_load(all), clamped = f_min(f_splat(88.0f), f_max(f_splat(-87.0f), v));
    fvec shifted = f_fma(clamped, f_splat(1.44269504f), magic);
    fvec n = f_sub(shifted, magic);
    fvec f = f_fma(n, f_splat(-0.693145752f), clamped);
    f = f_fma(n, f_splat(-1.42860677e-6f), f);
    fvec p = f_fma(f_splat(1.38888889e-3f), f, f_splat(8.33333333e-3f));
    p = f_fma(p, f, f_splat(4.16666667e-2f));
    p = f_fma(p, f, f_splat(1.66666667e-1f));
    p = f_fma(p, f, f_splat(0.5f));
    p = f_fma(p, f, f_splat(1.0f));
    p = f_fma(p, f, f_splat(1.0f));
    f_store(all, f_zero_below(v, -87.0f, f_times_power(p, shifted)));
    return load(all);
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

/* x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2. With t = |x| one end of the normal distribution is
 * Phi(-t) = exp(-t g(t)) / 2, and g a polynomial (least squares over 0..6, weighted by what it does
 * to the result, which is within 2e-7); so neither end cancels. */
static inline lanes gelu_erf_lanes(lanes x)
{
    static const float c[] = {0.797885656f,     0.318299919f,    0.0363698825f,   -0.00484073302f,
                              1.71415104e-05f,  0.000187316589f, -5.1557352e-05f, 7.42199882e-06f,
                              -5.83477174e-07f, 1.96678123e-08f};
    lanes t = choose(x < 0.0f, -x, x);
    lanes clamped = choose(t < 6.0f, t, splat(6.0f));
    lanes g = splat(c[9]);
    for (int i = 8; i >= 0; i--)
        g = g * clamped + c[i];
    lanes tail = 0.5f * exp_lanes(-t * g);
    return x * choose(x < 0.0f, tail, 1.0f - tail);
}

static inline lanes relu_lanes(lanes x)
{
    return choose(x < 0.0f, splat(0.0f), x);
}

INLINE lanes activate_lanes(uint32_t activation, lanes x)
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

INLINE void activate_with(uint32_t activation, const float *x, const float *b, float *out, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes v = activate_lanes(activation, load(x + i));
        store(out + i, b ? v * load(b + i) : v);
    }
    if (i < n) {
        lanes v = activate_lanes(activation, load_part(x + i, n - i));
        if (b)
            v *= load_part(b + i, n - i);
        memcpy(out + i, &v, (n - i) * sizeof *out);
    }
}

#ifdef LEVEL_ROWS
static void activate(uint32_t activation, const float *x, const float *b, float *out, size_t n)
{
    TABLE(LEVEL_ROWS).activate(activation, x, b, out, n);
}

static void softcap(const float *x, float cap, float *out, size_t n)
{
    TABLE(LEVEL_ROWS).softcap(x, cap, out, n);
}
#else
/* A loop for each of the usual ones. */
static void activate(uint32_t activation, const float *x, const float *b, float *out, size_t n)
{
    if (activation == SERVERD_ACT_SILU && b)
        activate_with(SERVERD_ACT_SILU, x, b, out, n);
    else if (activation == SERVERD_ACT_GELU_TANH && b)
        activate_with(SERVERD_ACT_GELU_TANH, x, b, out, n);
    else if (activation == SERVERD_ACT_GELU_ERF && !b)
        activate_with(SERVERD_ACT_GELU_ERF, x, NULL, out, n);
    else
        activate_with(activation, x, b, out, n);
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
#endif

static void scale(const float *x, float factor, const float *w, float *out, size_t n)
{
    if (w)
        for (size_t i = 0; i < n; i++)
            out[i] = x[i] * factor * w[i];
    else
        for (size_t i = 0; i < n; i++)
            out[i] = x[i] * factor;
}

static void add(const float *a, const float *b, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = a[i] + b[i];
}

/* Eight pairs of neighbours: x * cos, and the other one of the pair times -sin and sin. Not written
 * as a loop over pairs: the compiler would make it of multiplications that subtract and add in turn
 * and fuse them, whatever it was told about contracting. */
static inline lanes turn_neighbours(lanes x, lanes cos_sin)
{
    const int_lanes sign = {INT32_MIN, 0, INT32_MIN, 0, INT32_MIN, 0, INT32_MIN, 0,
                            INT32_MIN, 0, INT32_MIN, 0, INT32_MIN, 0, INT32_MIN, 0};
    lanes cos = __builtin_shufflevector(cos_sin, cos_sin, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12,
                                        12, 14, 14);
    lanes sin = __builtin_shufflevector(cos_sin, cos_sin, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13,
                                        13, 15, 15);
    lanes other =
        __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return x * cos + other * (lanes)((int_lanes)sin ^ sign);
}

static void rope(const float *restrict x, const float *restrict cos_sin, size_t n_pairs,
                 bool is_neox, float *restrict out)
{
    if (is_neox) {
        for (size_t i = 0; i < n_pairs; i++) {
            float a = x[i], b = x[i + n_pairs], c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
            out[i] = a * c - b * s;
            out[i + n_pairs] = a * s + b * c;
        }
        return;
    }
    size_t i = 0, n = 2 * n_pairs;
    for (; i + LANES <= n; i += LANES)
        store(out + i, turn_neighbours(load(x + i), load(cos_sin + i)));
    if (i < n) {
        lanes v = turn_neighbours(load_part(x + i, n - i), load_part(cos_sin + i, n - i));
        memcpy(out + i, &v, (n - i) * sizeof *out);
    }
}

#include "kernels/cpu/rows_template.h"

#ifdef LEVEL_LINEAR /* the level whose linear layers these are, too, but for bf16 weights */
#include "kernels/cpu/linear_floats.h"

static size_t linear_scratch(size_t k)
{
    return max_size(TABLE(LEVEL_LINEAR).linear_scratch(k), float_linear_scratch(k));
}

static void linear(const struct cpu_linear *call)
{
    if (call->form->codes == CODES_BF16)
        pair_linear(call);
    else
        TABLE(LEVEL_LINEAR).linear(call);
}
#else
#include "kernels/cpu/linear_template.h"
#endif

#include "kernels/cpu/quantise_plain.h"
#ifdef __AVX512VNNI__
#include "kernels/cpu/quantise_avx512.h"
#else
INLINE bool quantise_usual_span(const float *x, struct cpu_span *out)
{
    (void)x;
    (void)out;
    return false;
}
#endif

static void quantise(const float *x, size_t k, const struct cpu_rows *out, size_t row)
{
    for (size_t s = 0; s < cpu_n_spans(k); s++) {
        struct cpu_span *to = &out->spans[s * out->n_max + row];
        const float *from = x + s * CPU_SPAN;
        size_t n = min_size(CPU_SPAN, k - s * CPU_SPAN);
        float part[CPU_SPAN];
        if (n < CPU_SPAN) {
            memset(part + n, 0, (CPU_SPAN - n) * sizeof *part);
            from = memcpy(part, from, n * sizeof *part);
        }
        if (out->is_fine || !quantise_usual_span(from, to))
            quantise_span(from, out->is_fine, to);
    }
}

#ifdef LEVEL_ROWS
static void attend(const struct cpu_attention *call)
{
    TABLE(LEVEL_ROWS).attend(call);
}

static size_t attention_scratch(size_t k_dim)
{
    return TABLE(LEVEL_ROWS).attention_scratch(k_dim);
}

static void merge(const struct cpu_softmax *part, size_t n, size_t v_dim,
                  const struct cpu_softmax *into)
{
    TABLE(LEVEL_ROWS).merge(part, n, v_dim, into);
}

static void append(serverd_dtype kv, const float *k, size_t k_dim, const float *v, size_t v_dim,
                   void *key_page, void *value_page, uint32_t slot)
{
    TABLE(LEVEL_ROWS).append(kv, k, k_dim, v, v_dim, key_page, value_page, slot);
}
#else
#include "kernels/cpu/attention_template.h"
#endif

#if defined LEVEL_ROWS || defined LEVEL_LINEAR
#ifdef LEVEL_ROWS
#define LEVEL_ADAPTERS LEVEL_ROWS
#else
#define LEVEL_ADAPTERS LEVEL_LINEAR
#endif
static void adapter_down(const struct cpu_low_rank *site, uint32_t group, const float *const *x,
                         float *const *t, size_t n_rows)
{
    TABLE(LEVEL_ADAPTERS).adapter_down(site, group, x, t, n_rows);
}

static void adapter_up(const struct cpu_low_rank *site, size_t first_block, size_t n_blocks,
                       const float *const *t, const float *factor, float *const *y, size_t n_rows)
{
    TABLE(LEVEL_ADAPTERS).adapter_up(site, first_block, n_blocks, t, factor, y, n_rows);
}
#else
#include "kernels/cpu/adapter_template.h"
#endif

const struct cpu_kernels TABLE(LEVEL) = {
    .name = LEVEL_NAME(LEVEL),
    .linear = linear,
    .linear_scratch = linear_scratch,
    .tile_rows = TILE_ROWS,
    .quantise = quantise,
    .attend = attend,
    .attention_scratch = attention_scratch,
    .merge = merge,
    .append = append,
    .sum_of_squares = sum_of_squares,
    .scale = scale,
    .add = add,
    .rope = rope,
    .sum = sum,
    .activate = activate,
    .softcap = softcap,
    .adapter_down = adapter_down,
    .adapter_up = adapter_up,
};
