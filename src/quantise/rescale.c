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
    double sum; /* of its own square of h */
};

/* One group of one row. */
struct row_group {
    const struct rescale_job *job;
    size_t size;
    const float *h; /* its own square of h: rows `stride` apart */
    size_t stride;
    float *values, *pull; /* [size] */
};

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static double sum_of(const float *a, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i];
    return sum;
}

/* The numbers that suit the codes best, given all other groups. `unit`: what the scale multiplies.
 */
static struct grid_numbers best_numbers(const struct row_group *g, struct grid_numbers old,
                                        const float *unit)
{
    const struct grid *grid = &g->job->matrix->grid;
    float product[GRID_MAX_GROUP];
    g->job->kernels->times_square(unit, g->h, g->stride, g->size, product);
    const double tt = dot(unit, product, g->size), tg = dot(unit, g->pull, g->size);
    if (!(tt > 0))
        return old;
    const struct grid_numbers scaled =
        grid_round(grid, (float)((double)old.scale + tg / tt), old.zero);
    if (grid->format != FORMAT_I4A)
        return scaled;
    const double t1 = sum_of(product, g->size), one = g->job->sum;
    const double og = sum_of(g->pull, g->size), det = tt * one - t1 * t1;
    if (!(det > 1e-6 * tt * one))
        return scaled;
    return grid_round(grid, (float)((double)old.scale + (tg * one - og * t1) / det),
                      (float)((double)old.zero + (og * tt - tg * t1) / det));
}

static void refit_numbers(const struct row_group *g, const uint8_t *codes,
                          struct grid_numbers *numbers)
{
    const struct grid *grid = &g->job->matrix->grid;
    const struct grid_kernels *kernels = g->job->kernels;
    const struct grid_numbers one = {1, grid->format == FORMAT_I4A ? 0 : numbers->zero};
    float unit[GRID_MAX_GROUP], changed[GRID_MAX_GROUP], change[GRID_MAX_GROUP];
    float product[GRID_MAX_GROUP];
    kernels->decode(grid, codes, one, unit);
    const struct grid_numbers found = best_numbers(g, *numbers, unit);
    kernels->decode(grid, codes, found, changed);
    for (size_t i = 0; i < g->size; i++)
        change[i] = changed[i] - g->values[i];
    kernels->times_square(change, g->h, g->stride, g->size, product);
    if (!(dot(change, product, g->size) < 2 * dot(change, g->pull, g->size)))
        return;
    kernels->add_scaled(g->pull, -1, product, g->size);
    *numbers = found;
    memcpy(g->values, changed, g->size * sizeof *changed);
}

static void recode(const struct row_group *g, struct grid_numbers numbers, uint8_t *codes)
{
    for (size_t j = 0; j < g->size; j++) {
        const float *h = g->h + j * g->stride;
        float value;
        uint8_t code =
            grid_nearest(&g->job->matrix->grid, numbers, g->values[j] + g->pull[j] / h[j], &value);
        const float change = value - g->values[j];
        if (code == codes[j] || !(change * h[j] * change < 2 * change * g->pull[j]))
            continue;
        codes[j] = code;
        g->values[j] = value;
        g->job->kernels->add_scaled(g->pull, -change, h, g->size);
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
        const struct row_group g = {job, size, job->h + at * m->k + at, m->k, values, pull};
        uint8_t *codes = m->codes + row * m->k + at;
        struct grid_numbers *numbers = &m->numbers[row * matrix_groups(m) + job->group];
        memcpy(pull, job->pull + row * m->k + at, size * sizeof *pull);
        job->kernels->decode(&m->grid, codes, *numbers, values);
        memcpy(before, values, size * sizeof *values);
        if (m->grid.format != DTYPE_MXFP4) /* whose scales are powers of two */
            refit_numbers(&g, codes, numbers);
        recode(&g, *numbers, codes);
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
        const float *own = job->h + job->group * size * (m->k + 1);
        job->sum = 0;
        for (size_t i = 0; i < size; i++)
            job->sum += sum_of(own + i * m->k, size);
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
