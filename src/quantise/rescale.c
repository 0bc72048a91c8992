#include "quantise/gptq.h"

#include "base/error.h"
#include "base/numeric.h"
#include "quantise/linalg.h"

#include <stdlib.h>
#include <string.h>

struct rescale_job {
    struct quant_matrix *matrix;
    const struct grid_kernels *kernels;
    const float *h;
    float *pull;    /* [n][k] (w - value) h: half of how much e h e^T falls with each value */
    float *changes; /* [n][group] what the values of the present group lose */
    size_t group;
};

/* One group of one row; g elements. */
struct row_group {
    size_t size;
    const float *h; /* its own square of h: rows `stride` apart */
    size_t stride;
    float *values, *pull; /* [size] */
};

/* pull -= change h */
static void take_change(const struct row_group *g, const float *change)
{
    for (size_t i = 0; i < g->size; i++)
        for (size_t j = 0; j < g->size; j++)
            g->pull[j] -= change[i] * g->h[i * g->stride + j];
}

/* a h b^T */
static double product(const struct row_group *g, const float *a, const float *b)
{
    float sums[GRID_MAX_GROUP] = {0};
    for (size_t i = 0; i < g->size; i++)
        for (size_t j = 0; j < g->size; j++)
            sums[j] += a[i] * g->h[i * g->stride + j];
    double sum = 0;
    for (size_t j = 0; j < g->size; j++)
        sum += (double)sums[j] * (double)b[j];
    return sum;
}

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* The numbers that suit the codes best, given all other groups. */
static struct grid_numbers best_numbers(const struct grid *grid, const struct row_group *g,
                                        struct grid_numbers old, const float *unit)
{
    const double tt = product(g, unit, unit), tg = dot(unit, g->pull, g->size);
    if (!(tt > 0))
        return old;
    if (grid->format != FORMAT_I4A)
        return grid_round(grid, (float)((double)old.scale + tg / tt), old.zero);
    float ones[GRID_MAX_GROUP];
    for (size_t i = 0; i < g->size; i++)
        ones[i] = 1;
    const double t1 = product(g, unit, ones), one = product(g, ones, ones);
    const double og = dot(ones, g->pull, g->size), det = tt * one - t1 * t1;
    if (!(det > 1e-6 * tt * one))
        return grid_round(grid, (float)((double)old.scale + tg / tt), old.zero);
    return grid_round(grid, (float)((double)old.scale + (tg * one - og * t1) / det),
                      (float)((double)old.zero + (og * tt - tg * t1) / det));
}

static void refit_numbers(const struct rescale_job *job, const struct row_group *g,
                          const uint8_t *codes, struct grid_numbers *numbers)
{
    const struct grid *grid = &job->matrix->grid;
    const struct grid_numbers unit_numbers = {1, grid->format == FORMAT_I4A ? 0 : numbers->zero};
    float unit[GRID_MAX_GROUP], changed[GRID_MAX_GROUP], change[GRID_MAX_GROUP];
    job->kernels->decode(grid, codes, unit_numbers, unit);
    const struct grid_numbers found = best_numbers(grid, g, *numbers, unit);
    job->kernels->decode(grid, codes, found, changed);
    for (size_t i = 0; i < g->size; i++)
        change[i] = changed[i] - g->values[i];
    if (!(product(g, change, change) < 2 * dot(change, g->pull, g->size)))
        return;
    take_change(g, change);
    *numbers = found;
    memcpy(g->values, changed, g->size * sizeof *changed);
}

static void recode(const struct rescale_job *job, const struct row_group *g,
                   struct grid_numbers numbers, uint8_t *codes)
{
    for (size_t j = 0; j < g->size; j++) {
        const float *h = g->h + j * g->stride;
        float value;
        uint8_t code =
            grid_nearest(&job->matrix->grid, numbers, g->values[j] + g->pull[j] / h[j], &value);
        const float change = value - g->values[j];
        if (code == codes[j] || !(change * h[j] * change < 2 * change * g->pull[j]))
            continue;
        codes[j] = code;
        g->values[j] = value;
        for (size_t i = 0; i < g->size; i++)
            g->pull[i] -= change * h[i];
    }
}

static void improve_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct rescale_job *job = arg;
    struct quant_matrix *m = job->matrix;
    const size_t size = m->grid.group, at = job->group * size;
    const size_t first = (size_t)chunk * MATRIX_CHUNK_ROWS;
    for (size_t row = first; row < min_size(first + MATRIX_CHUNK_ROWS, m->n); row++) {
        float values[GRID_MAX_GROUP], before[GRID_MAX_GROUP], pull[GRID_MAX_GROUP];
        const struct row_group g = {size, job->h + at * m->k + at, m->k, values, pull};
        uint8_t *codes = m->codes + row * m->k + at;
        struct grid_numbers *numbers = &m->numbers[row * matrix_groups(m) + job->group];
        memcpy(pull, job->pull + row * m->k + at, size * sizeof *pull);
        job->kernels->decode(&m->grid, codes, *numbers, values);
        memcpy(before, values, size * sizeof *values);
        if (m->grid.format != DTYPE_MXFP4) /* whose scales are powers of two */
            refit_numbers(job, &g, codes, numbers);
        recode(job, &g, *numbers, codes);
        for (size_t i = 0; i < size; i++)
            job->changes[row * size + i] = before[i] - values[i];
    }
}

static void first_errors(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct rescale_job *job = arg;
    const struct quant_matrix *m = job->matrix;
    const size_t size = m->grid.group, at = job->group * size;
    const size_t first = (size_t)chunk * MATRIX_CHUNK_ROWS;
    for (size_t row = first; row < min_size(first + MATRIX_CHUNK_ROWS, m->n); row++) {
        float values[GRID_MAX_GROUP];
        job->kernels->decode(&m->grid, m->codes + row * m->k + at,
                             m->numbers[row * matrix_groups(m) + job->group], values);
        for (size_t i = 0; i < size; i++)
            job->changes[row * size + i] = m->weights[row * m->k + at + i] - values[i];
    }
}

/* Lets `fn` change the values of each group in turn, and takes it into account. */
static void sweep(struct rescale_job *job, struct right_factor *rows,
                  void (*fn)(void *arg, uint32_t chunk, uint32_t worker), struct worker_pool *pool)
{
    const struct quant_matrix *m = job->matrix;
    const size_t size = m->grid.group;
    for (job->group = 0; job->group < matrix_groups(m); job->group++) {
        worker_pool_run(pool, matrix_chunks(m), fn, job);
        right_factor_set(rows, job->h + job->group * size * m->k, m->k, size, m->k, false, pool);
        multiply(job->changes, m->n, rows, job->pull, m->k, true, PRODUCT_ALL, pool);
    }
}

serverd_status rescale(struct quant_matrix *matrix, const float *h, uint32_t rounds,
                       struct worker_pool *pool, serverd_error *err)
{
    const size_t n = matrix->n, k = matrix->k, size = matrix->grid.group;
    struct rescale_job job = {.matrix = matrix, .kernels = grid_kernels_best(), .h = h};
    struct right_factor rows = {0};
    serverd_status status = SERVERD_OK;
    job.pull = calloc(n, k * sizeof *job.pull);
    job.changes = calloc(n, size * sizeof *job.changes);
    if (!job.pull || !job.changes || !right_factor_create(size, k, &rows))
        status = fail(err, SERVERD_NOMEM, "no memory to rescale %zu x %zu", n, k);
    if (status == SERVERD_OK) {
        sweep(&job, &rows, first_errors, pool);
        for (uint32_t round = 0; round < rounds; round++)
            sweep(&job, &rows, improve_rows, pool);
    }
    free(job.pull);
    free(job.changes);
    right_factor_destroy(&rows);
    return status;
}
