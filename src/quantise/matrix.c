#include "quantise/matrix.h"

#include "base/error.h"
#include "base/numeric.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- from a tensor --------------------------------------------------------------------------- */

struct convert_job {
    const struct dtype_info *info;
    const char *blocks;
    const struct quant_matrix *matrix;
};

static void convert_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct convert_job *job = arg;
    const struct quant_matrix *m = job->matrix;
    size_t first = (size_t)chunk * MATRIX_CHUNK_ROWS,
           rows = min_size(MATRIX_CHUNK_ROWS, m->n - first);
    size_t blocks = m->k / job->info->block_elements;
    float *to = m->weights + first * m->k, most = 0;
    job->info->to_f32(job->blocks + first * blocks * job->info->block_bytes, to, rows * blocks);
    for (size_t i = 0; i < rows * m->k; i++) {
        float x = fabsf(to[i]);
        if (!(x <= FLT_MAX))
            most = INFINITY;
        most = x > most ? x : most;
    }
    m->sums[chunk] = (double)most; /* infinity: not finite */
}

/* What the greatest weight divides into: about half the codes. */
static float units_of(uint32_t format)
{
    switch (format) {
    case FORMAT_NF4:
        return 1;
    case FORMAT_I8S:
    case FORMAT_I8A:
        return 127;
    default:
        return 7.5f;
    }
}

/* For the matrix's n, k and group. */
static bool take_memory(struct quant_matrix *m)
{
    size_t elements, bytes;
    for (size_t i = 0; i < GRID_MAX_GROUP; i++)
        m->ones[i] = 1;
    if (size_mul(m->n, m->k, &elements) && size_mul(elements, sizeof(float), &bytes) &&
        (m->weights = malloc(bytes)) && (m->codes = malloc(elements)) &&
        (m->numbers = calloc(elements / m->grid.group, sizeof *m->numbers)) &&
        (m->sums = calloc(matrix_chunks(m), sizeof *m->sums)))
        return true;
    matrix_destroy(m);
    return false;
}

serverd_status matrix_some_rows(const struct quant_matrix *from, size_t n, struct quant_matrix *out,
                                serverd_error *err)
{
    struct quant_matrix m = {.grid = from->grid, .n = min_size(n, from->n), .k = from->k};
    if (!take_memory(&m))
        return fail(err, SERVERD_NOMEM, "no memory for %zu rows of %zu", m.n, m.k);
    for (size_t row = 0; row < m.n; row++)
        memcpy(m.weights + row * m.k, from->weights + row * from->n / m.n * m.k,
               m.k * sizeof *m.weights);
    *out = m;
    return SERVERD_OK;
}

serverd_status matrix_create(const serverd_tensor *tensor, uint32_t format, uint32_t group,
                             struct worker_pool *pool, struct quant_matrix *out, serverd_error *err)
{
    struct quant_matrix m = {
        .grid = {.format = format, .group = group}, .n = tensor->dims[0], .k = tensor->dims[1]};
    if (!take_memory(&m))
        return fail(err, SERVERD_NOMEM, "tensor %s: no memory to quantise it", tensor->name);
    struct convert_job job = {dtype_info(tensor->dtype), tensor->data, &m};
    worker_pool_run(pool, matrix_chunks(&m), convert_rows, &job);
    double most = 0;
    for (uint32_t i = 0; i < matrix_chunks(&m); i++)
        most = m.sums[i] > most ? m.sums[i] : most;
    const float greatest = (float)most;
    if (greatest > FLT_MAX) {
        matrix_destroy(&m);
        return fail(err, SERVERD_CORRUPT, "tensor %s: a weight is not finite", tensor->name);
    }
    float scale = greatest / units_of(format);
    m.grid.has_f32 = format != DTYPE_MXFP4 && greatest > 0 &&
                     (scale > 65504.0f || greatest > 65504.0f || scale < 0x1p-14f);
    *out = m;
    return SERVERD_OK;
}

void matrix_destroy(struct quant_matrix *matrix)
{
    free(matrix->weights);
    free(matrix->codes);
    free(matrix->numbers);
    free(matrix->sums);
    *matrix = (struct quant_matrix){0};
}

/* ---- fitting --------------------------------------------------------------------------------- */

struct fit_job {
    struct quant_matrix *matrix;
    const struct grid_kernels *kernels;
    enum fit_method method;
    const float *column_weight;
    bool one_scale;
};

static float fit_group(const struct fit_job *job, size_t row, size_t group)
{
    struct quant_matrix *m = job->matrix;
    size_t at = group * m->grid.group;
    const float *x = m->weights + row * m->k + at;
    const float *weight = job->column_weight ? job->column_weight + at : m->ones;
    struct grid_numbers *numbers = &m->numbers[row * matrix_groups(m) + group];
    uint8_t *codes = m->codes + row * m->k + at;
    return (job->method == FIT_PLAIN ? job->kernels->plain
                                     : job->kernels->min_max)(&m->grid, x, weight, numbers, codes);
}

/* The group with the greatest range speaks for all. */
static double share_numbers(const struct fit_job *job, size_t row)
{
    struct quant_matrix *m = job->matrix;
    struct grid_numbers *numbers = m->numbers + row * matrix_groups(m);
    float low[GRID_MAX_GROUP] = {0};
    uint8_t codes[GRID_MAX_GROUP];
    for (size_t i = 0; i < m->k; i++) { /* the ends of the row, as a group */
        float x = m->weights[row * m->k + i];
        low[0] = x < low[0] ? x : low[0];
        low[1] = x > low[1] ? x : low[1];
    }
    (void)job->kernels->min_max(&m->grid, low, m->ones, &numbers[0], codes);
    double error = 0;
    for (size_t g = 0; g < matrix_groups(m); g++) {
        size_t at = g * m->grid.group;
        numbers[g] = numbers[0];
        error +=
            (double)job->kernels->encode(&m->grid, m->weights + row * m->k + at,
                                         job->column_weight ? job->column_weight + at : m->ones,
                                         numbers[g], m->codes + row * m->k + at);
    }
    return error;
}

static void fit_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct fit_job *job = arg;
    const struct quant_matrix *m = job->matrix;
    size_t first = (size_t)chunk * MATRIX_CHUNK_ROWS,
           rows = min_size(MATRIX_CHUNK_ROWS, m->n - first);
    double error = 0;
    for (size_t row = first; row < first + rows; row++) {
        if (job->one_scale)
            error += share_numbers(job, row);
        for (size_t g = 0; !job->one_scale && g < matrix_groups(m); g++)
            error += (double)fit_group(job, row, g);
    }
    m->sums[chunk] = error;
}

double matrix_add_up(const struct quant_matrix *matrix)
{
    double sum = 0;
    for (uint32_t i = 0; i < matrix_chunks(matrix); i++)
        sum += matrix->sums[i];
    return sum;
}

double matrix_fit(struct quant_matrix *matrix, enum fit_method method, const float *column_weight,
                  bool one_scale, struct worker_pool *pool)
{
    struct fit_job job = {.matrix = matrix,
                          .kernels = grid_kernels_best(),
                          .method = method,
                          .column_weight = column_weight,
                          .one_scale = one_scale};
    worker_pool_run(pool, matrix_chunks(matrix), fit_rows, &job);
    return matrix_add_up(matrix);
}

/* ---- what came of it ------------------------------------------------------------------------- */

void matrix_values(const struct quant_matrix *matrix, size_t row, float *out)
{
    const struct grid_kernels *kernels = grid_kernels_best();
    for (size_t g = 0; g < matrix_groups(matrix); g++)
        kernels->decode(&matrix->grid, matrix->codes + row * matrix->k + g * matrix->grid.group,
                        matrix->numbers[row * matrix_groups(matrix) + g],
                        out + g * matrix->grid.group);
}

static void error_of_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct quant_matrix *m = arg;
    const struct grid_kernels *kernels = grid_kernels_best();
    const size_t first = (size_t)chunk * MATRIX_CHUNK_ROWS;
    double noise = 0;
    for (size_t row = first; row < min_size(first + MATRIX_CHUNK_ROWS, m->n); row++)
        for (size_t g = 0; g < matrix_groups(m); g++) {
            float values[GRID_MAX_GROUP];
            size_t at = row * m->k + g * m->grid.group;
            kernels->decode(&m->grid, m->codes + at, m->numbers[row * matrix_groups(m) + g],
                            values);
            for (size_t i = 0; i < m->grid.group; i++) {
                double e = (double)m->weights[at + i] - (double)values[i];
                noise += e * e;
            }
        }
    m->sums[chunk] = noise;
}

static void signal_of_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct quant_matrix *m = arg;
    const size_t first = (size_t)chunk * MATRIX_CHUNK_ROWS;
    double signal = 0;
    for (size_t i = first * m->k; i < min_size(first + MATRIX_CHUNK_ROWS, m->n) * m->k; i++)
        signal += (double)m->weights[i] * (double)m->weights[i];
    m->sums[chunk] = signal;
}

void matrix_error(struct quant_matrix *matrix, struct worker_pool *pool, double *signal,
                  double *noise)
{
    worker_pool_run(pool, matrix_chunks(matrix), signal_of_rows, matrix);
    *signal = matrix_add_up(matrix);
    worker_pool_run(pool, matrix_chunks(matrix), error_of_rows, matrix);
    *noise = matrix_add_up(matrix);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

struct write_job {
    const struct quant_matrix *matrix;
    uint8_t *blocks;
};

static void write_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct write_job *job = arg;
    const struct quant_matrix *m = job->matrix;
    const size_t block_bytes = dtype_info(grid_dtype(&m->grid))->block_bytes;
    const size_t first = (size_t)chunk * MATRIX_CHUNK_ROWS * matrix_groups(m);
    const size_t rows = min_size(MATRIX_CHUNK_ROWS, m->n - (size_t)chunk * MATRIX_CHUNK_ROWS);
    for (size_t g = first; g < first + rows * matrix_groups(m); g++)
        grid_write_block(&m->grid, m->numbers[g], m->codes + g * m->grid.group,
                         job->blocks + g * block_bytes);
}

void matrix_write(const struct quant_matrix *matrix, struct worker_pool *pool, void *blocks)
{
    struct write_job job = {matrix, blocks};
    worker_pool_run(pool, matrix_chunks(matrix), write_rows, &job);
}

static void scale_number(const struct grid *grid, float factor, uint8_t *number)
{
    struct grid_numbers rounded;
    float x;
    uint16_t half;
    if (dtype_has_f32_scales(grid_dtype(grid))) {
        memcpy(&x, number, sizeof x);
        rounded = grid_round(grid, x * factor, 0);
        memcpy(number, &rounded.scale, sizeof rounded.scale);
        return;
    }
    memcpy(&half, number, sizeof half);
    x = f16_to_f32(half) * factor;
    rounded = grid_round(grid, x, 0);
    half = f32_to_f16(rounded.scale);
    memcpy(number, &half, sizeof half);
}

bool blocks_scale_rows(uint32_t dtype, size_t n, size_t k, const float *factor, void *blocks)
{
    const struct dtype_info *info = dtype_info(dtype);
    if (!info || !dtype_is_own(dtype))
        return false;
    const struct grid grid = {.format = dtype_format_of(dtype),
                              .group = info->block_elements,
                              .has_f32 = dtype_has_f32_scales(dtype)};
    const size_t number_bytes = grid.has_f32 ? 4 : 2;
    uint8_t *block = blocks;
    for (size_t row = 0; row < n; row++)
        for (size_t g = 0; g < k / grid.group; g++, block += info->block_bytes) {
            scale_number(&grid, factor[row], block);
            if (grid.format == FORMAT_I4A)
                scale_number(&grid, factor[row], block + number_bytes);
        }
    return true;
}
