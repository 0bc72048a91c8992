/* The passes of vector_internal.h in vectors of WIDTH floats. A sum or a maximum runs in 16 lanes
 * whatever WIDTH is, element i of a block in lane i % 16, so the width changes no bit. */
#include "sampling/vector_internal.h"

#include <math.h>
#include <string.h>

enum { LANES = 16, N_VECTORS = LANES / WIDTH, QUAD = 4 };

typedef float quad_f32 __attribute__((vector_size(QUAD * 4)));
typedef float vec_f32 __attribute__((vector_size(WIDTH * 4)));
typedef int32_t vec_i32 __attribute__((vector_size(WIDTH * 4)));
typedef uint32_t vec_u32 __attribute__((vector_size(WIDTH * 4)));

static inline vec_f32 load(const float *x)
{
    vec_f32 v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline vec_f32 masked(vec_f32 v, vec_i32 mask)
{
    return (vec_f32)((vec_i32)v & mask);
}

/* ---- largest ----------------------------------------------------------------------------- */

/* The larger of each pair; b where a is NaN. */
static inline vec_f32 larger(vec_f32 a, vec_f32 b)
{
    vec_i32 is_larger = a > b;
    return (vec_f32)(((vec_i32)a & is_larger) | ((vec_i32)b & ~is_larger));
}

static inline float largest(vec_f32 v)
{
    quad_f32 q[WIDTH / QUAD];
    memcpy(q, &v, sizeof q);
    float best = -INFINITY;
    for (int n = WIDTH / QUAD / 2; n > 0; n /= 2)
        for (int k = 0; k < n; k++)
            for (int i = 0; i < QUAD; i++)
                q[k][i] = q[k][i] > q[k + n][i] ? q[k][i] : q[k + n][i];
    for (int i = 0; i < QUAD; i++)
        best = q[0][i] > best ? q[0][i] : best;
    return best;
}

static bool row_max(const float *const *block, uint32_t n, float *block_max, float *max)
{
    vec_i32 is_nan = {0};
    float best = -INFINITY;
    for (uint32_t b = 0; b < n; b++) {
        const float *x = block[b];
        vec_f32 m[2] = {load(x), load(x + WIDTH)};
        is_nan |= (m[0] != m[0]) | (m[1] != m[1]);
        for (int i = 2 * WIDTH; i < BLOCK; i += 2 * WIDTH) {
            vec_f32 v = load(x + i), w = load(x + i + WIDTH);
            is_nan |= (v != v) | (w != w);
            m[0] = larger(v, m[0]);
            m[1] = larger(w, m[1]);
        }
        block_max[b] = largest(larger(m[0], m[1]));
        best = block_max[b] > best ? block_max[b] : best;
    }
    int32_t has_nan = 0;
    for (int i = 0; i < WIDTH; i++)
        has_nan |= is_nan[i];
    if (has_nan || best == INFINITY || best == -INFINITY)
        return false;
    *max = best;
    return true;
}

/* ---- exponentials ------------------------------------------------------------------------ */

/* exp(x) for x <= 0: x = n ln2 + r with |r| <= ln2 / 2, the polynomial of cephes' expf for
 * exp(r), then 2^n by adding n to the exponent. NaN gives 0. */
static inline vec_f32 exponential(vec_f32 x)
{
    const float lowest = -87.0f; /* results below are 0: no denormals, no exponent underflow */
    vec_i32 is_kept = x > lowest;
    vec_f32 shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23 rounds to an integer */
    vec_f32 n = shifted - 12582912.0f;
    vec_f32 r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec_f32 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vec_u32 exponent = (vec_u32)shifted << 23; /* the low bits of `shifted` hold n */
    return masked((vec_f32)((vec_u32)p + exponent), is_kept);
}

/* Lanes l and l + 8, then l + 4, l + 2, l + 1. */
static inline float sum_lanes(const vec_f32 *v)
{
    quad_f32 q[LANES / QUAD];
    memcpy(q, v, sizeof q);
    quad_f32 s = (q[0] + q[2]) + (q[1] + q[3]);
    return (s[0] + s[2]) + (s[1] + s[3]);
}

static double row_weigh(const float *const *block, uint32_t n, float max, float scale,
                        float *weight, double *block_sum)
{
    double total = 0;
    for (uint32_t b = 0; b < n; b++) {
        const float *x = block[b];
        vec_f32 sum[N_VECTORS] = {{0}};
        for (int i = 0; i < BLOCK; i += LANES)
            for (int j = 0; j < N_VECTORS; j++) {
                vec_f32 w = exponential((load(x + i + j * WIDTH) - max) * scale);
                if (weight)
                    memcpy(weight + (size_t)b * BLOCK + i + j * WIDTH, &w, sizeof w);
                sum[j] += w;
            }
        double s = (double)sum_lanes(sum);
        if (block_sum)
            block_sum[b] = s;
        total += s;
    }
    return total;
}

/* Lanes run over several blocks: adding them up would take longer than the rest. */
static void row_weigh_above(const float *const *block, uint32_t n, float max, float scale,
                            const float *floor, double *sum)
{
    enum { N_TOGETHER = 8 };
    for (int f = 0; f < N_FLOORS; f++)
        sum[f] = 0;
    for (uint32_t b = 0; b < n;) {
        uint32_t end = n - b < N_TOGETHER ? n : b + N_TOGETHER;
        vec_f32 part[N_FLOORS][N_VECTORS] = {{{0}}};
        for (; b < end; b++)
            for (int i = 0; i < BLOCK; i += LANES)
                for (int j = 0; j < N_VECTORS; j++) {
                    vec_f32 z = load(block[b] + i + j * WIDTH);
                    vec_f32 w = exponential((z - max) * scale);
                    for (int f = 0; f < N_FLOORS; f++)
                        part[f][j] += masked(w, z >= floor[f]);
                }
        for (int f = 0; f < N_FLOORS; f++)
            sum[f] += (double)sum_lanes(part[f]);
    }
}
