/* The sums of the reference, compiled once per instruction-set level. The order of additions is
 * part of the source: element i of a span goes to lane i % 16, lanes are added in ascending order
 * in double, spans in ascending order in double. So every level gives the same bits. */
#ifndef KERNELS_REFERENCE_MATMUL_H
#define KERNELS_REFERENCE_MATMUL_H

#include <stddef.h>

/* A block of the product: a span of k, columns (rows of weights), rows of x. */
enum { REFERENCE_SPAN = 1024, REFERENCE_COLUMNS = 16, REFERENCE_ROWS = 64 };

struct reference_kernels {
    /* sums[r][c] += sum over k of x[r][k] * w[c][k]; x has n_rows rows `x_stride` floats apart, w
     * n_columns rows REFERENCE_SPAN floats apart; k <= REFERENCE_SPAN. */
    void (*add_products)(const float *x, size_t x_stride, size_t n_rows, const float *w,
                         size_t n_columns, size_t k, double (*sums)[REFERENCE_COLUMNS]);
    double (*dot)(const float *a, const float *b, size_t n);
    /* sums[i] = sums[i] * decay + factor * x[i] */
    void (*accumulate)(double *sums, double decay, double factor, const float *x, size_t n);
};

/* The best that processor and operating system have; all give the same bits. */
const struct reference_kernels *reference_kernels_best(void);

extern const struct reference_kernels reference_kernels_generic;
#if defined(__x86_64__)
extern const struct reference_kernels reference_kernels_avx2, reference_kernels_avx512;
#endif

#endif
