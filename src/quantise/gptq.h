/* Codes by the error that the layer's outputs show. With h = sum of a a^T over inputs a of the
 * layer, a matrix that is off by e per row makes an error of e h e^T.
 *
 * gptq: columns in descending order of h's diagonal become codes one after the other, and the error
 * of each goes on to those that are left. With h = u diag(d) u^T, u unit upper triangular, that is
 *   code_j = nearest(w_j + sum over i < j of (w_i - value_i) u_ij)
 * which is what GPTQ does with the factor of h's inverse (Frantar et al., 2022; as LDLQ in Chee et
 * al., 2023), without the inverse. Numbers of groups are fixed before, so columns keep their place.
 *
 * rescale: groups in turn. Codes fixed, the group's numbers by least squares against h; then its
 * codes one by one, each to the nearest of what all others leave (coordinate descent). Every step
 * makes e h e^T less. */
#ifndef QUANTISE_GPTQ_H
#define QUANTISE_GPTQ_H

#include "quantise/matrix.h"

/* h: [k][k], symmetric and positive. Both begin with the numbers (rescale: and codes) in the
 * matrix. SERVERD_NOMEM, SERVERD_NUMERIC: the matrix is as it was. */
serverd_status gptq(struct quant_matrix *matrix, const float *h, struct worker_pool *pool,
                    serverd_error *err);
serverd_status rescale(struct quant_matrix *matrix, const float *h, uint32_t rounds,
                       struct worker_pool *pool, serverd_error *err);

#endif
