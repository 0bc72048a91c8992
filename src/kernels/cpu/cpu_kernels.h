/* The arithmetic of the CPU back-end, once per instruction-set level. The levels are one source
 * (cpu_kernels_template.h) compiled with different flags: sums run over 16 lanes in ascending
 * order, products and sums are rounded one by one, so every level gives the same bits.
 *
 * All arrays are f32 unless said. None of these allocates or keeps state; any thread. */
#ifndef KERNELS_CPU_KERNELS_H
#define KERNELS_CPU_KERNELS_H

#include "serverd/delegate.h"

#include <stddef.h>

/* Keys of one attention segment; segments begin at multiples of it in the sequence. */
#define CPU_SEGMENT 256

struct cpu_kernels {
    const char *name; /* "avx512" */
    uint32_t tile;    /* weight rows that `linear` takes at once when there are many */

    /* out[t * out_stride + r] = dot(x + t * k, w + r * k) (+ bias[r] if not NULL),
     * t < n_rows, r < n_out. */
    void (*linear)(const float *x, size_t n_rows, const float *w, const float *bias, size_t n_out,
                   size_t k, float *out, size_t out_stride);

    float (*sum_of_squares)(const float *x, size_t n);
    float (*sum)(const float *x, size_t n);
    void (*activate)(uint32_t activation, const float *x, float *out, size_t n);
    void (*softcap)(const float *x, float cap, float *out, size_t n);

    /* One query against n keys of a segment: scores[j] = cap(scale * q.k[j]), then
     * scores[j] = exp(scores[j] - max). Returns max; *sum is the sum of the exponentials. `scores`
     * has room for n rounded up to a multiple of 16. */
    float (*scores)(const float *q, const float *keys, size_t dim, size_t n, float scale, float cap,
                    float *scores, float *sum);
    /* out[d] = sum over j of weights[j] * values[j * dim + d]. */
    void (*weighted_sum)(const float *weights, const float *values, size_t dim, size_t n,
                         float *out);
    /* out = a * fa + b * fb */
    void (*blend)(const float *a, float fa, const float *b, float fb, float *out, size_t n);

    void (*from_bf16)(const uint16_t *in, float *out, size_t n);
    void (*to_bf16)(const float *in, uint16_t *out, size_t n);
};

extern const struct cpu_kernels cpu_kernels_generic, cpu_kernels_avx2, cpu_kernels_avx512;

/* The best level of this machine, or the one of that name; NULL: not here. */
const struct cpu_kernels *cpu_kernels_best(void);
const struct cpu_kernels *cpu_kernels_named(const char *name);

#endif
