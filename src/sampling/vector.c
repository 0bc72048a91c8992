#include "sampling/vector_internal.h"

#include <math.h>
#include <string.h>

/* Sums and maxima run in 16 lanes, as four of these: what every x86-64 and ARM has. */
enum { WIDTH = 4, LANES = 16 };

typedef float quad_f32 __attribute__((vector_size(WIDTH * 4)));
typedef int32_t quad_i32 __attribute__((vector_size(WIDTH * 4)));

/* Up to BLOCK elements, the rest filled. */
static void load_block(const float *x, uint32_t n, float filling, float out[BLOCK])
{
    memcpy(out, x, n * sizeof *x);
    for (uint32_t i = n; i < BLOCK; i++)
        out[i] = filling;
}

/* Largest of BLOCK elements; *is_bad if one is NaN or +infinity. The lanes are independent, so
 * that the compiler makes vectors of them. */
static float block_max_of(const float *x, bool *is_bad)
{
    float max[LANES];
    int32_t n_good[LANES] = {0};
    for (uint32_t j = 0; j < LANES; j++)
        max[j] = -INFINITY;
    for (uint32_t i = 0; i < BLOCK; i += LANES)
        for (uint32_t j = 0; j < LANES; j++) {
            float v = x[i + j];
            n_good[j] += v < INFINITY; /* not true for NaN */
            max[j] = v > max[j] ? v : max[j];
        }
    float best = -INFINITY;
    int32_t n = 0;
    for (uint32_t j = 0; j < LANES; j++) {
        best = max[j] > best ? max[j] : best;
        n += n_good[j];
    }
    *is_bad |= n != BLOCK;
    return best;
}

bool row_max(const float *x, uint32_t n, float *block_max, float *max)
{
    bool is_bad = false;
    float best = -INFINITY;
    for (uint32_t b = 0; b < n_blocks(n); b++) {
        uint32_t begin = b * BLOCK;
        float block[BLOCK];
        const float *p = x + begin;
        if (n - begin < BLOCK) {
            load_block(p, n - begin, -INFINITY, block);
            p = block;
        }
        float m = block_max_of(p, &is_bad);
        if (block_max)
            block_max[b] = m;
        best = m > best ? m : best;
    }
    if (is_bad || best == -INFINITY)
        return false;
    *max = best;
    return true;
}

/* exp(x) for x <= 0: x = n ln2 + r with |r| <= ln2 / 2, the polynomial of cephes' expf for
 * exp(r), then 2^n by adding n to the exponent. */
static quad_f32 exp_quad(quad_f32 x)
{
    const float lowest = -87.0f; /* results below are 0: no denormals, no exponent underflow */
    quad_i32 is_kept = x > lowest;
    x = (quad_f32)((quad_i32)x & is_kept);            /* -infinity becomes 0 */
    quad_f32 shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23 rounds to an integer */
    quad_f32 n = shifted - 12582912.0f;
    quad_f32 r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    quad_f32 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    quad_i32 exponent = (quad_i32)shifted << 23; /* the low bits of `shifted` hold n */
    return (quad_f32)(((quad_i32)p + exponent) & is_kept);
}

/* exp of BLOCK elements into out; their sum, lane by lane and then across. */
static double block_exp(const float *x, float max, float scale, float *out)
{
    quad_f32 sum[LANES / WIDTH] = {{0}};
    for (uint32_t i = 0; i < BLOCK; i += LANES)
        for (uint32_t j = 0; j < LANES / WIDTH; j++) {
            quad_f32 v;
            memcpy(&v, x + i + j * WIDTH, sizeof v);
            v = exp_quad((v - max) * scale);
            memcpy(out + i + j * WIDTH, &v, sizeof v);
            sum[j] += v;
        }
    double total = 0;
    for (uint32_t i = 0; i < LANES; i++)
        total += (double)sum[i / WIDTH][i % WIDTH];
    return total;
}

double row_exp(const float *x, uint32_t n, float max, float scale, float *out, double *block_sum)
{
    double total = 0;
    for (uint32_t b = 0; b < n_blocks(n); b++) {
        uint32_t begin = b * BLOCK, count = n - begin < BLOCK ? n - begin : BLOCK;
        float in[BLOCK], result[BLOCK];
        const float *p = x + begin;
        if (count < BLOCK) {
            load_block(p, count, -INFINITY, in);
            p = in;
        }
        double sum = block_exp(p, max, scale, result);
        if (out)
            memcpy(out + begin, result, count * sizeof *out);
        if (block_sum)
            block_sum[b] = sum;
        total += sum;
    }
    return total;
}
