#include "quantise/awq.h"

#include "base/error.h"
#include "base/numeric.h"
#include "quantise/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES      16u
#define CHUNK_ROWS 32u /* of the matrix: two blocks of columns */

/* ---- the energy of outputs ------------------------------------------------------------------- */

enum energy { ENERGY_NOISE, ENERGY_SIGNAL, ENERGY_SCALED };

struct energy_job {
    const struct quant_matrix *matrix;
    const struct grid_kernels *kernels;
    const struct cpu_kernels *products;
    const float *x;
    size_t rows;
    enum energy kind;
    const float *scale; /* [k] of ENERGY_SCALED */
    float *memory;      /* [workers][floats] */
    size_t floats;
    double *sums; /* [chunks] */
};

/* What x is multiplied with for one row of the matrix. */
static void energy_row(const struct energy_job *job, size_t row, float *out)
{
    const struct quant_matrix *m = job->matrix;
    const float *w = m->weights + row * m->k;
    if (job->kind == ENERGY_SIGNAL) {
        memcpy(out, w, m->k * sizeof *out);
        return;
    }
    if (job->kind == ENERGY_NOISE) {
        matrix_values(m, row, out);
        for (size_t i = 0; i < m->k; i++)
            out[i] -= w[i];
        return;
    }
    for (size_t at = 0; at < m->k; at += m->grid.group) {
        float scaled[GRID_MAX_GROUP];
        uint8_t codes[GRID_MAX_GROUP];
        struct grid_numbers numbers;
        for (size_t i = 0; i < m->grid.group; i++)
            scaled[i] = w[at + i] * job->scale[at + i];
        (void)job->kernels->min_max(&m->grid, scaled, m->ones, &numbers, codes);
        job->kernels->decode(&m->grid, codes, numbers, out + at);
        for (size_t i = 0; i < m->grid.group; i++)
            out[at + i] = out[at + i] / job->scale[at + i] - w[at + i];
    }
}

static void energy_of_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct energy_job *job = arg;
    const struct quant_matrix *m = job->matrix;
    float *columns = job->memory + worker * job->floats, *row = columns + CHUNK_ROWS * m->k;
    float *out = row + m->k;
    const size_t first = (size_t)chunk * CHUNK_ROWS, n = min_size(CHUNK_ROWS, m->n - first);
    memset(columns, 0, CHUNK_ROWS * m->k * sizeof *columns);
    for (size_t c = 0; c < n; c++) {
        energy_row(job, first + c, row);
        float *to = columns + c / LANES * LANES * m->k + c % LANES;
        for (size_t i = 0; i < m->k; i++)
            to[i * LANES] = row[i];
    }
    multiply_blocks(job->products, job->x, job->rows, columns, m->k, n, out);
    double sum = 0;
    for (size_t i = 0; i < job->rows * n; i++)
        sum += (double)out[i] * (double)out[i];
    job->sums[chunk] = sum;
}

static serverd_status run_energy(struct energy_job *job, struct worker_pool *pool, double *sum,
                                 serverd_error *err)
{
    const struct quant_matrix *m = job->matrix;
    const uint32_t chunks = (uint32_t)((m->n + CHUNK_ROWS - 1) / CHUNK_ROWS);
    size_t workers = worker_pool_n_workers(pool), floats, bytes;
    job->kernels = grid_kernels_best();
    job->products = cpu_kernels_best();
    job->memory = NULL;
    job->sums = calloc(chunks, sizeof *job->sums);
    if (!size_mul(m->k, CHUNK_ROWS + 1, &floats) ||
        !size_add(floats, job->rows * CHUNK_ROWS, &floats) ||
        !size_align(floats, LANES, &job->floats) ||
        !size_mul(job->floats * workers, sizeof(float), &bytes) ||
        !(job->memory = aligned_alloc(64, bytes)) || !job->sums) {
        free(job->memory);
        free(job->sums);
        return fail(err, SERVERD_NOMEM, "no memory for the outputs of %zu x %zu", m->n, m->k);
    }
    worker_pool_run(pool, chunks, energy_of_rows, job);
    *sum = 0;
    for (uint32_t i = 0; i < chunks; i++)
        *sum += job->sums[i];
    free(job->memory);
    free(job->sums);
    return SERVERD_OK;
}

serverd_status output_energy(const struct quant_matrix *matrix, const float *x, size_t rows,
                             struct worker_pool *pool, double *noise, double *signal,
                             serverd_error *err)
{
    struct energy_job job = {.matrix = matrix, .x = x, .rows = rows, .kind = ENERGY_NOISE};
    serverd_status status = SERVERD_OK;
    if (noise)
        status = run_energy(&job, pool, noise, err);
    job.kind = ENERGY_SIGNAL;
    if (status == SERVERD_OK && signal)
        status = run_energy(&job, pool, signal, err);
    return status;
}

/* ---- the search ------------------------------------------------------------------------------ */

/* Channels that are never active count as if they were, a little. */
#define LEAST_SHARE 1e-4

static void set_scale(const float *magnitude, size_t k, double alpha, float *scale)
{
    double mean = 0, least = INFINITY, most = 0;
    for (size_t i = 0; i < k; i++)
        mean += (double)magnitude[i] / (double)k;
    for (size_t i = 0; i < k; i++) {
        double c = pow(fmax((double)magnitude[i], fmax(mean * LEAST_SHARE, 1e-30)), alpha);
        scale[i] = (float)c;
        least = fmin(least, c);
        most = fmax(most, c);
    }
    const float norm = (float)sqrt(least * most);
    for (size_t i = 0; i < k; i++)
        scale[i] /= norm;
}

struct search {
    const struct awq_set *set;
    struct worker_pool *pool;
    float *scale;
    double best_error, best_alpha;
};

static serverd_status try_alpha(struct search *search, double alpha, serverd_error *err)
{
    const struct awq_set *set = search->set;
    set_scale(set->mean_magnitude, set->matrices[0].k, alpha, search->scale);
    double error = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        struct energy_job job = {.matrix = &set->matrices[i],
                                 .x = set->x,
                                 .rows = set->rows,
                                 .kind = ENERGY_SCALED,
                                 .scale = search->scale};
        double sum;
        serverd_status status = run_energy(&job, search->pool, &sum, err);
        if (status != SERVERD_OK)
            return status;
        error += sum;
    }
    if (error < search->best_error) {
        search->best_error = error;
        search->best_alpha = alpha;
    }
    return SERVERD_OK;
}

serverd_status awq_search(const struct awq_set *set, struct worker_pool *pool, float *scale,
                          double *alpha, double *gain, serverd_error *err)
{
    struct search search = {.set = set, .pool = pool, .scale = scale, .best_error = INFINITY};
    serverd_status status = try_alpha(&search, 0, err);
    const double unscaled = search.best_error;
    for (int i = 1; i <= 5 && status == SERVERD_OK; i++)
        status = try_alpha(&search, 0.2 * i, err);
    /* on a grid of 0.05 around the best of the coarse one */
    for (double step = 0.1; step > 0.04 && status == SERVERD_OK; step /= 2) {
        const double centre = search.best_alpha;
        if (centre > 0)
            status = try_alpha(&search, centre - step, err);
        if (status == SERVERD_OK && centre < 1)
            status = try_alpha(&search, centre + step, err);
    }
    if (status != SERVERD_OK)
        return status;
    set_scale(set->mean_magnitude, set->matrices[0].k, search.best_alpha, scale);
    *alpha = search.best_alpha;
    *gain = unscaled > 0 ? 1 - search.best_error / unscaled : 0;
    return SERVERD_OK;
}
