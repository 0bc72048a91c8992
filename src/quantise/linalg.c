#include "quantise/linalg.h"

#include "base/error.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16u

/* ---- the right factor ------------------------------------------------------------------------ */

static size_t n_blocks(size_t n)
{
    return (n + LANES - 1) / LANES;
}

bool right_factor_create(size_t k, size_t n, struct right_factor *out)
{
    size_t floats, bytes;
    *out = (struct right_factor){.k = k, .n = n};
    if (!size_mul(n_blocks(n) * LANES, k, &floats) || !size_mul(floats, sizeof(float), &bytes) ||
        !size_align(bytes, 64, &bytes))
        return false;
    out->columns = aligned_alloc(64, max_size(bytes, 64));
    return out->columns != NULL;
}

void right_factor_destroy(struct right_factor *factor)
{
    free(factor->columns);
    factor->columns = NULL;
}

struct set_job {
    const struct right_factor *factor;
    const float *b;
    size_t stride;
    bool is_transposed;
};

static void set_block(void *arg, uint32_t block, uint32_t worker)
{
    (void)worker;
    const struct set_job *job = arg;
    const size_t k = job->factor->k, first = (size_t)block * LANES;
    const size_t columns = min_size(LANES, job->factor->n - first);
    float *to = job->factor->columns + first * k;
    if (columns < LANES)
        memset(to, 0, k * LANES * sizeof *to);
    if (job->is_transposed) {
        for (size_t c = 0; c < columns; c++) {
            const float *row = job->b + (first + c) * job->stride;
            for (size_t i = 0; i < k; i++)
                to[i * LANES + c] = row[i];
        }
        return;
    }
    for (size_t i = 0; i < k; i++)
        memcpy(to + i * LANES, job->b + i * job->stride + first, columns * sizeof *to);
}

void right_factor_set(struct right_factor *factor, const float *b, size_t stride, size_t k,
                      size_t n, bool is_transposed, struct worker_pool *pool)
{
    factor->k = k;
    factor->n = n;
    struct set_job job = {factor, b, stride, is_transposed};
    worker_pool_run(pool, (uint32_t)n_blocks(n), set_block, &job);
}

/* ---- products -------------------------------------------------------------------------------- */

#define BLOCKS_PER_CHUNK 4

struct multiply_job {
    const float *a;
    size_t m;
    const struct right_factor *b;
    float *out;
    size_t stride;
    bool adds;
    enum product_part part;
    uint32_t n_chunks;
    const struct cpu_kernels *kernels; /* finding them is slow on virtual machines */
};

static void multiply_chunk(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct multiply_job *job = arg;
    const struct right_factor *b = job->b;
    if (job->part == PRODUCT_UPPER) /* the long ones first */
        chunk = job->n_chunks - 1 - chunk;
    const size_t first = (size_t)chunk * BLOCKS_PER_CHUNK, end = first + BLOCKS_PER_CHUNK;
    size_t row = 0, end_row = job->m;
    if (job->part == PRODUCT_UPPER)
        end_row = min_size(job->m, end * LANES);
    else if (job->part == PRODUCT_LOWER)
        row = min_size(job->m, first * LANES);
    const struct cpu_rows x = {.values = job->a + row * b->k};
    struct cpu_linear call = {.form = packed_form(DTYPE_F32),
                              .weights = (const uint8_t *)(b->columns + first * LANES * b->k),
                              .column_bytes = b->k * LANES * sizeof(float),
                              .first_block = first,
                              .n_blocks = min_size(end, n_blocks(b->n)) - first,
                              .n_out = b->n,
                              .k = b->k,
                              .x = &x,
                              .n_rows = end_row - row,
                              .out = job->out + row * job->stride,
                              .out_stride = job->stride};
    if (job->adds)
        call.added = call.out;
    if (call.n_rows > 0)
        job->kernels->linear(&call);
}

void multiply(const float *a, size_t m, const struct right_factor *b, float *out, size_t stride,
              bool adds, enum product_part part, struct worker_pool *pool)
{
    struct multiply_job job = {a, m, b, out, stride, adds, part, 0, cpu_kernels_best()};
    job.n_chunks = (uint32_t)((n_blocks(b->n) + BLOCKS_PER_CHUNK - 1) / BLOCKS_PER_CHUNK);
    worker_pool_run(pool, job.n_chunks, multiply_chunk, &job);
}

void multiply_blocks(const struct cpu_kernels *kernels, const float *a, size_t m,
                     const float *columns, size_t k, size_t n, float *out)
{
    const struct cpu_rows x = {.values = a};
    const struct cpu_linear call = {.form = packed_form(DTYPE_F32),
                                    .weights = (const uint8_t *)columns,
                                    .column_bytes = k * LANES * sizeof(float),
                                    .n_blocks = n_blocks(n),
                                    .n_out = n,
                                    .k = k,
                                    .x = &x,
                                    .n_rows = m,
                                    .out = out,
                                    .out_stride = n};
    kernels->linear(&call);
}

/* ---- weights of a tensor --------------------------------------------------------------------- */

#define TENSOR_ROWS (BLOCKS_PER_CHUNK * LANES)

struct tensor_job {
    const float *a;
    size_t m, k, n;
    const serverd_tensor *weights;
    const float *bias;
    float *out;
    const struct cpu_kernels *kernels;
    float *memory; /* [workers][TENSOR_ROWS + 1][k], for blocks of columns and a row */
};

static void multiply_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    const struct tensor_job *job = arg;
    const struct dtype_info *info = dtype_info(job->weights->dtype);
    const size_t k = job->k, first = (size_t)chunk * TENSOR_ROWS;
    const size_t n = min_size(TENSOR_ROWS, job->n - first), blocks = k / info->block_elements;
    float *columns = job->memory + worker * (TENSOR_ROWS + 1) * k;
    float *row = columns + TENSOR_ROWS * k;
    if (n < TENSOR_ROWS)
        memset(columns, 0, TENSOR_ROWS * k * sizeof *columns);
    for (size_t r = 0; r < n; r++) {
        float *to = columns + r / LANES * LANES * k + r % LANES;
        info->to_f32((const char *)job->weights->data + (first + r) * blocks * info->block_bytes,
                     row, blocks);
        for (size_t i = 0; i < k; i++)
            to[i * LANES] = row[i];
    }
    const struct cpu_rows x = {.values = job->a};
    const struct cpu_linear call = {.form = packed_form(DTYPE_F32),
                                    .weights = (const uint8_t *)columns,
                                    .column_bytes = k * LANES * sizeof(float),
                                    .first_block = first / LANES,
                                    .n_blocks = n_blocks(n),
                                    .n_out = job->n,
                                    .k = k,
                                    .x = &x,
                                    .n_rows = job->m,
                                    .bias = job->bias,
                                    .out = job->out,
                                    .out_stride = job->n};
    job->kernels->linear(&call);
}

serverd_status multiply_tensor(const float *a, size_t m, const serverd_tensor *weights,
                               const float *bias, float *out, struct worker_pool *pool,
                               serverd_error *err)
{
    struct tensor_job job = {.a = a,
                             .m = m,
                             .k = weights->dims[1],
                             .n = weights->dims[0],
                             .weights = weights,
                             .bias = bias,
                             .out = out,
                             .kernels = cpu_kernels_best()};
    size_t bytes;
    if (!size_mul(job.k, (TENSOR_ROWS + 1) * sizeof(float), &bytes) ||
        !size_mul(bytes, worker_pool_n_workers(pool), &bytes) || !(job.memory = malloc(bytes)))
        return fail(err, SERVERD_NOMEM, "tensor %s: no memory to multiply with it", weights->name);
    worker_pool_run(pool, (uint32_t)((job.n + TENSOR_ROWS - 1) / TENSOR_ROWS), multiply_rows, &job);
    free(job.memory);
    return SERVERD_OK;
}

/* ---- x^T x ----------------------------------------------------------------------------------- */

#define GRAM_ROWS 512 /* of x at a time */

struct transpose_job {
    const float *x;
    size_t rows, k;
    float *out; /* [k][rows] */
};

static void transpose_columns(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct transpose_job *job = arg;
    const size_t first = (size_t)chunk * LANES, end = min_size(first + LANES, job->k);
    for (size_t r = 0; r < job->rows; r++)
        for (size_t c = first; c < end; c++)
            job->out[c * job->rows + r] = job->x[r * job->k + c];
}

bool add_gram(const float *x, size_t rows, size_t k, float *h, struct worker_pool *pool)
{
    struct right_factor b;
    float *transposed = calloc(k, GRAM_ROWS * sizeof *transposed);
    bool has_memory = right_factor_create(GRAM_ROWS, k, &b) && transposed;
    for (size_t r = 0; has_memory && r < rows; r += GRAM_ROWS) {
        size_t n = min_size(GRAM_ROWS, rows - r);
        struct transpose_job job = {x + r * k, n, k, transposed};
        worker_pool_run(pool, (uint32_t)n_blocks(k), transpose_columns, &job);
        right_factor_set(&b, x + r * k, k, n, k, false, pool);
        multiply(transposed, k, &b, h, k, true, PRODUCT_UPPER, pool);
    }
    right_factor_destroy(&b);
    free(transposed);
    return has_memory;
}

struct square {
    float *h;
    size_t k;
};

static void mirror_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct square *s = arg;
    const size_t first = (size_t)chunk * LANES, end = min_size(first + LANES, s->k);
    for (size_t j = 0; j < first; j++) /* columns before the chunk, in the order of their rows */
        for (size_t i = first; i < end; i++)
            s->h[i * s->k + j] = s->h[j * s->k + i];
    for (size_t i = first; i < end; i++)
        for (size_t j = first; j < i; j++)
            s->h[i * s->k + j] = s->h[j * s->k + i];
}

void mirror_upper(float *h, size_t k, struct worker_pool *pool)
{
    struct square s = {h, k};
    worker_pool_run(pool, (uint32_t)n_blocks(k), mirror_rows, &s);
}

/* ---- Cholesky --------------------------------------------------------------------------------
 *
 * Columns from the last to the first: with b the last block of columns that is left and a all
 * before it, h_bb = r_bb r_bb^T, r_ab = h_ab r_bb^-T, and h_aa loses r_ab r_ab^T. */

#define PIVOTS 128u /* columns at a time */

/* The upper r with r r^T = block[n][n] (its upper triangle), in place. */
static bool factor_block(float *block, size_t stride, size_t n)
{
    for (size_t j = n; j-- > 0;) {
        double pivot = (double)block[j * stride + j];
        for (size_t p = j + 1; p < n; p++)
            pivot -= (double)block[j * stride + p] * (double)block[j * stride + p];
        if (!(pivot > 0) || !isfinite(pivot))
            return false;
        const double root = sqrt(pivot);
        block[j * stride + j] = (float)root;
        for (size_t i = 0; i < j; i++) {
            double sum = (double)block[i * stride + j];
            for (size_t p = j + 1; p < n; p++)
                sum -= (double)block[i * stride + p] * (double)block[j * stride + p];
            block[i * stride + j] = (float)(sum / root);
        }
    }
    return true;
}

struct panel_job {
    float *h;
    size_t k, first, n;
    float *columns; /* r_bb by columns: [n][n], column j at j * n */
    float *negative;
};

/* Some rows of r_ab; and minus them without gaps. */
static void solve_rows(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct panel_job *job = arg;
    const size_t from = (size_t)chunk * LANES, end = min_size(from + LANES, job->first);
    for (size_t i = from; i < end; i++) {
        float *row = job->h + i * job->k + job->first, *out = job->negative + i * job->n;
        for (size_t j = job->n; j-- > 0;) {
            const float *column = job->columns + j * job->n;
            const float x = row[j] / column[j];
            row[j] = x;
            out[j] = -x;
            for (size_t p = 0; p < j; p++)
                row[p] -= x * column[p];
        }
    }
}

static void set_unit_diagonal(void *arg, uint32_t chunk, uint32_t worker)
{
    (void)worker;
    const struct square *s = arg;
    const size_t first = (size_t)chunk * LANES, end = min_size(first + LANES, s->k);
    for (size_t i = first; i < end; i++)
        for (size_t j = i + 1; j < s->k; j++)
            s->h[i * s->k + j] /= s->h[j * s->k + j];
}

static bool factor_all(float *h, size_t k, struct panel_job *panel, struct right_factor *b,
                       struct worker_pool *pool)
{
    for (size_t end = k; end > 0;) {
        const size_t n = min_size(PIVOTS, end), first = end - n;
        if (!factor_block(h + first * k + first, k, n))
            return false;
        panel->first = first;
        panel->n = n;
        for (size_t j = 0; j < n; j++)
            for (size_t i = 0; i <= j; i++)
                panel->columns[j * n + i] = h[(first + i) * k + first + j];
        worker_pool_run(pool, (uint32_t)n_blocks(first), solve_rows, panel);
        right_factor_set(b, h + first, k, n, first, true, pool);
        multiply(panel->negative, first, b, h, k, true, PRODUCT_UPPER, pool);
        end = first;
    }
    return true;
}

serverd_status factor_upper(float *h, size_t k, struct worker_pool *pool, serverd_error *err)
{
    struct panel_job panel = {.h = h, .k = k};
    struct right_factor b = {0};
    serverd_status status = SERVERD_OK;
    panel.columns = calloc((size_t)PIVOTS * PIVOTS, sizeof(float));
    panel.negative = calloc(k, PIVOTS * sizeof(float));
    if (!panel.columns || !panel.negative || !right_factor_create(PIVOTS, k, &b))
        status = fail(err, SERVERD_NOMEM, "no memory to factor %zu x %zu", k, k);
    else if (!factor_all(h, k, &panel, &b, pool))
        status = fail(err, SERVERD_NUMERIC, "a matrix of %zu x %zu is not positive", k, k);
    free(panel.columns);
    free(panel.negative);
    right_factor_destroy(&b);
    if (status != SERVERD_OK)
        return status;
    struct square s = {h, k};
    worker_pool_run(pool, (uint32_t)n_blocks(k), set_unit_diagonal, &s);
    for (size_t i = 0; i < k; i++)
        h[i * k + i] *= h[i * k + i];
    return SERVERD_OK;
}
