/* Scaling input channels so that those with large activations lose less (Lin et al., 2023).
 *
 * Of linear layers that read one input, column j is multiplied by s_j and the input divided by it:
 * s = c^alpha / sqrt(max * min), c the mean magnitude of the channel; alpha is searched on some
 * rows of the input for the least error of the outputs. */
#ifndef QUANTISE_AWQ_H
#define QUANTISE_AWQ_H

#include "quantise/matrix.h"

/* The sum of squares of x[rows][k] times the matrix's errors: what its outputs lose; and of its
 * exact weights. NULL: not wanted. */
serverd_status output_energy(const struct quant_matrix *matrix, const float *x, size_t rows,
                             struct worker_pool *pool, double *noise, double *signal,
                             serverd_error *err);

struct awq_set {
    struct quant_matrix *matrices; /* of one k and one input */
    uint32_t n;
    const float *x; /* [rows][k] of the input */
    size_t rows;
    const float *mean_magnitude; /* [k] */
};

/* scale[k]: all 1 if nothing else is better. *alpha, *gain (share of the error that goes away). */
serverd_status awq_search(const struct awq_set *set, struct worker_pool *pool, float *scale,
                          double *alpha, double *gain, serverd_error *err);

#endif
