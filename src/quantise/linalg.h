/* Matrix products in f32 on the CPU kernels' best level, spread over the pool. A sum runs over k in
 * ascending order with fused multiply-adds: the same bits for any number of threads and on every
 * level. */
#ifndef QUANTISE_LINALG_H
#define QUANTISE_LINALG_H

#include "kernels/cpu/cpu_kernels.h"
#include "runtime/worker_pool.h"
#include "serverd/delegate.h"

#include <stdbool.h>
#include <stddef.h>

/* The right factor of a product, b[k][n], in blocks of 16 columns. */
struct right_factor {
    size_t k, n;
    float *columns; /* [n / 16 rounded up][k][16] */
};

bool right_factor_create(size_t k, size_t n, struct right_factor *out); /* false: no memory */
void right_factor_destroy(struct right_factor *factor);
/* Of rows `stride` apart: b[k][n], or its transpose [n][k]. The sizes may be less than created. */
void right_factor_set(struct right_factor *factor, const float *b, size_t stride, size_t k,
                      size_t n, bool is_transposed, struct worker_pool *pool);

/* Which elements of a square product are wanted; more may be computed. */
enum product_part { PRODUCT_ALL, PRODUCT_UPPER, PRODUCT_LOWER };

/* out[m][n] (rows `stride` apart) = a[m][k] * b, or out + that. `a` has no gaps. */
void multiply(const float *a, size_t m, const struct right_factor *b, float *out, size_t stride,
              bool adds, enum product_part part, struct worker_pool *pool);

/* out[m][n] (no gaps) = a[m][k] * b, of some blocks of columns [n / 16 rounded up][k][16]; on this
 * thread. */
void multiply_blocks(const struct cpu_kernels *kernels, const float *a, size_t m,
                     const float *columns, size_t k, size_t n, float *out);

/* out[m][n] = a[m][k] * weights^T + bias of a tensor [n][k] of any type; bias may be NULL. */
serverd_status multiply_tensor(const float *a, size_t m, const serverd_tensor *weights,
                               const float *bias, float *out, struct worker_pool *pool,
                               serverd_error *err);

/* h[k][k] += x^T x of x[rows][k]: the upper triangle. False: no memory. */
bool add_gram(const float *x, size_t rows, size_t k, float *h, struct worker_pool *pool);
/* The lower triangle becomes the upper one's mirror image. */
void mirror_upper(float *h, size_t k, struct worker_pool *pool);

/* The unit upper triangle u and the diagonal d with h = u diag(d) u^T, of a symmetric, positive
 * h[k][k], which is replaced: u above its diagonal, d on it, the rest is undefined.
 * SERVERD_NUMERIC: h is not positive. */
serverd_status factor_upper(float *h, size_t k, struct worker_pool *pool, serverd_error *err);

#endif
