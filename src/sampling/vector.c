#include "sampling/vector_internal.h"

#include <math.h>
#include <string.h>

enum { LANES = 16 };

typedef float lanes_f32 __attribute__((vector_size(LANES * 4)));
typedef int32_t lanes_i32 __attribute__((vector_size(LANES * 4)));

/* Up to BLOCK elements, the rest filled. */
static void load_block(const float *x, uint32_t n, float filling, float out[BLOCK])
{
    memcpy(out, x, n * sizeof *x);
    for (uint32_t i = n; i < BLOCK; i++)
        out[i] = filling;
}

static void load(lanes_f32 *out, const float *x)
{
    memcpy(out, x, sizeof *out);
}

/* Largest of BLOCK elements; *bad gets all bits where an element is NaN or +infinity. */
static float block_max_of(const float *x, lanes_i32 *bad)
{
    lanes_f32 max, v;
    load(&max, x);
    *bad |= ~(max < INFINITY);
    for (uint32_t i = LANES; i < BLOCK; i += LANES) {
        load(&v, x + i);
        *bad |= ~(v < INFINITY); /* true for NaN too */
        lanes_i32 is_more = v > max;
        max = (lanes_f32)(((lanes_i32)v & is_more) | ((lanes_i32)max & ~is_more));
    }
    float best = max[0];
    for (uint32_t i = 1; i < LANES; i++)
        best = max[i] > best ? max[i] : best;
    return best;
}

bool row_max(const float *x, uint32_t n, float *block_max, float *max)
{
    lanes_i32 bad = {0};
    float best = -INFINITY;
    for (uint32_t b = 0; b < n_blocks(n); b++) {
        uint32_t begin = b * BLOCK;
        float block[BLOCK];
        const float *p = x + begin;
        if (n - begin < BLOCK) {
            load_block(p, n - begin, -INFINITY, block);
            p = block;
        }
        float m = block_max_of(p, &bad);
        if (block_max)
            block_max[b] = m;
        best = m > best ? m : best;
    }
    int32_t any_bad = 0;
    for (uint32_t i = 0; i < LANES; i++)
        any_bad |= bad[i];
    if (any_bad || best == -INFINITY)
        return false;
    *max = best;
    return true;
}

/* exp(x) for x <= 0: x = n ln2 + r with |r| <= ln2 / 2, the polynomial of cephes' expf for
 * exp(r), then 2^n by adding n to the exponent. */
static void exp_lanes(lanes_f32 *inout)
{
    const float lowest = -87.0f; /* results below are 0: no denormals, no exponent underflow */
    lanes_f32 x = *inout;
    lanes_i32 is_kept = x > lowest;
    x = (lanes_f32)((lanes_i32)x & is_kept);           /* -infinity becomes 0 */
    lanes_f32 shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23 rounds to an integer */
    lanes_f32 n = shifted - 12582912.0f;
    lanes_f32 r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    lanes_f32 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    lanes_i32 exponent = (lanes_i32)shifted << 23; /* the low bits of `shifted` hold n */
    lanes_i32 bits = (lanes_i32)p + exponent;
    *inout = (lanes_f32)(bits & is_kept);
}

/* exp of BLOCK elements into out; their sum, lane by lane and then across. */
static double block_exp(const float *x, float max, float scale, float *out)
{
    lanes_f32 sum = {0};
    for (uint32_t i = 0; i < BLOCK; i += LANES) {
        lanes_f32 v;
        load(&v, x + i);
        v = (v - max) * scale;
        exp_lanes(&v);
        memcpy(out + i, &v, sizeof v);
        sum += v;
    }
    double total = 0;
    for (uint32_t i = 0; i < LANES; i++)
        total += (double)sum[i];
    return total;
}

double row_exp(const float *x, uint32_t n, float max, float scale, float *out, double *block_sum)
{
    double total = 0;
    for (uint32_t b = 0; b < n_blocks(n); b++) {
        uint32_t begin = b * BLOCK, count = n - begin < BLOCK ? n - begin : BLOCK;
        float in[BLOCK], result[BLOCK];
        load_block(x + begin, count, -INFINITY, in);
        double sum = block_exp(in, max, scale, result);
        if (out)
            memcpy(out + begin, result, count * sizeof *out);
        if (block_sum)
            block_sum[b] = sum;
        total += sum;
    }
    return total;
}
