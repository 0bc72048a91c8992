/* A weight matrix on its way from numbers to codes. */
#ifndef QUANTISE_MATRIX_H
#define QUANTISE_MATRIX_H

#include "quantise/grid.h"
#include "runtime/worker_pool.h"
#include "serverd/delegate.h"

/* [n][k], as the tensor of a linear layer: a row is one output. */
struct quant_matrix {
    struct grid grid;
    size_t n, k;
    float *weights;               /* [n][k] exact; belongs to the matrix */
    uint8_t *codes;               /* [n][k] */
    struct grid_numbers *numbers; /* [n][k / group] */
    double *sums;                 /* of blocks of rows, for whoever adds up in their order */
    float ones[GRID_MAX_GROUP];
};

#define MATRIX_CHUNK_ROWS 16 /* rows of such a block */

static inline uint32_t matrix_chunks(const struct quant_matrix *matrix)
{
    return (uint32_t)((matrix->n + MATRIX_CHUNK_ROWS - 1) / MATRIX_CHUNK_ROWS);
}

static inline size_t matrix_groups(const struct quant_matrix *matrix)
{
    return matrix->k / matrix->grid.group;
}

enum fit_method { FIT_MIN_MAX, FIT_PLAIN };

/* The tensor's numbers, converted. SERVERD_CORRUPT: one of them is not finite. Scales are f32 where
 * f16 would not do: the greatest weight makes a scale beyond 65504, or one below 2^-14. */
serverd_status matrix_create(const serverd_tensor *tensor, uint32_t format, uint32_t group,
                             struct worker_pool *pool, struct quant_matrix *out,
                             serverd_error *err);
/* At most n rows of another, at equal distances; numbers and codes are not copied. */
serverd_status matrix_some_rows(const struct quant_matrix *from, size_t n, struct quant_matrix *out,
                                serverd_error *err);
void matrix_destroy(struct quant_matrix *matrix); /* all zeros is fine */

/* Numbers and codes of all groups; column j's error counts `column_weight`[j], 1 if that is NULL.
 * Returns the weighted sum of squares. With `one_scale` all groups of a row have the numbers of a
 * fit over the whole row. */
double matrix_fit(struct quant_matrix *matrix, enum fit_method method, const float *column_weight,
                  bool one_scale, struct worker_pool *pool);

/* The sum of matrix->sums. */
double matrix_add_up(const struct quant_matrix *matrix);

/* The values that the codes of a row stand for. */
void matrix_values(const struct quant_matrix *matrix, size_t row, float *out);

/* Sums of squares of the weights and of their errors. */
void matrix_error(struct quant_matrix *matrix, struct worker_pool *pool, double *signal,
                  double *noise);

/* All rows as blocks of grid_dtype(). */
void matrix_write(const struct quant_matrix *matrix, struct worker_pool *pool, void *blocks);

/* Rows of blocks that are there already, times factor[row]. False, and nothing is changed, if the
 * type's scales cannot take any factor (only own types can). */
bool blocks_scale_rows(uint32_t dtype, size_t n, size_t k, const float *factor, void *blocks);

#endif
