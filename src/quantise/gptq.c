#include "quantise/gptq.h"

#include "base/error.h"
#include "base/numeric.h"
#include "quantise/linalg.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK 128u /* columns at a time */

struct gptq_job {
    struct quant_matrix *matrix;
    const struct grid_kernels *kernels;
    uint32_t *order; /* [k] columns, in the order they are taken */
    float *u;        /* [k][k] of the columns in order */
    float *targets;  /* [n][k] in order */
    float *errors;   /* [n][columns of the block] */
    size_t first, n_columns;
};

struct ranked_column {
    float weight;
    uint32_t column;
};

static int by_weight(const void *a, const void *b)
{
    const struct ranked_column *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight > y->weight ? -1 : 1;
    return x->column < y->column ? -1 : 1;
}

static bool order_columns(const float *h, size_t k, uint32_t *order)
{
    struct ranked_column *ranked = calloc(k, sizeof *ranked);
    if (!ranked)
        return false;
    for (size_t i = 0; i < k; i++)
        ranked[i] = (struct ranked_column){h[i * k + i], (uint32_t)i};
    qsort(ranked, k, sizeof *ranked, by_weight);
    for (size_t i = 0; i < k; i++)
        order[i] = ranked[i].column;
    free(ranked);
    return true;
}

static void set_targets(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct gptq_job *job = arg;
    const struct quant_matrix *m = job->matrix;
    const size_t first = (size_t)chunk * MATRIX_CHUNK_ROWS;
    for (size_t row = first; row < min_size(first + MATRIX_CHUNK_ROWS, m->n); row++)
        for (size_t i = 0; i < m->k; i++)
            job->targets[row * m->k + i] = m->weights[row * m->k + job->order[i]];
}

static void quantise_row(const struct gptq_job *job, size_t row)
{
    struct quant_matrix *m = job->matrix;
    const struct grid_numbers *numbers = m->numbers + row * matrix_groups(m);
    float *target = job->targets + row * m->k;
    float *errors = job->errors + row * job->n_columns;
    const size_t end = job->first + job->n_columns;
    for (size_t j = job->first; j < end; j++) {
        const uint32_t column = job->order[j];
        float value;
        m->codes[row * m->k + column] =
            grid_nearest(&m->grid, numbers[column / m->grid.group], target[j], &value);
        /* its own error and what it could not take over from those before it */
        const float error = m->weights[row * m->k + column] - value;
        errors[j - job->first] = error;
        job->kernels->add_scaled(target + j + 1, error, job->u + j * m->k + j + 1, end - j - 1);
    }
}

static void quantise_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct gptq_job *job = arg;
    const size_t first = (size_t)chunk * MATRIX_CHUNK_ROWS;
    for (size_t row = first; row < min_size(first + MATRIX_CHUNK_ROWS, job->matrix->n); row++)
        quantise_row(job, row);
}

static void run_blocks(struct gptq_job *job, struct right_factor *later, struct worker_pool *pool)
{
    const struct quant_matrix *m = job->matrix;
    worker_pool_run(pool, matrix_chunks(m), set_targets, job);
    for (job->first = 0; job->first < m->k; job->first += job->n_columns) {
        job->n_columns = min_size(BLOCK, m->k - job->first);
        worker_pool_run(pool, matrix_chunks(m), quantise_rows, job);
        const size_t end = job->first + job->n_columns;
        if (end == m->k)
            break;
        right_factor_set(later, job->u + job->first * m->k + end, m->k, job->n_columns, m->k - end,
                         false, pool);
        multiply(job->errors, m->n, later, job->targets + end, m->k, true, PRODUCT_ALL, pool);
    }
}

struct permute_job {
    const float *h;
    const uint32_t *order;
    size_t k;
    float *out;
};

static void permute_row(void *arg, uint32_t i, uint32_t worker)
{
    (void)worker;
    const struct permute_job *job = arg;
    const float *row = job->h + (size_t)job->order[i] * job->k;
    for (size_t j = 0; j < job->k; j++)
        job->out[(size_t)i * job->k + j] = row[job->order[j]];
}

serverd_status gptq(struct quant_matrix *matrix, const float *h, struct worker_pool *pool,
                    serverd_error *err)
{
    const size_t n = matrix->n, k = matrix->k;
    struct gptq_job job = {.matrix = matrix, .kernels = grid_kernels_best()};
    struct right_factor later = {0};
    serverd_status status = SERVERD_OK;
    job.order = calloc(k, sizeof *job.order);
    job.u = calloc(k, k * sizeof *job.u);
    job.targets = calloc(n, k * sizeof *job.targets);
    job.errors = calloc(n, BLOCK * sizeof *job.errors);
    if (!job.order || !job.u || !job.targets || !job.errors ||
        !right_factor_create(BLOCK, k, &later) || !order_columns(h, k, job.order))
        status = fail(err, SERVERD_NOMEM, "no memory for gptq of %zu x %zu", n, k);
    if (status == SERVERD_OK) {
        struct permute_job permute = {h, job.order, k, job.u};
        worker_pool_run(pool, (uint32_t)k, permute_row, &permute);
        status = factor_upper(job.u, k, pool, err);
    }
    if (status == SERVERD_OK)
        run_blocks(&job, &later, pool);
    free(job.order);
    free(job.u);
    free(job.targets);
    free(job.errors);
    right_factor_destroy(&later);
    return status;
}
