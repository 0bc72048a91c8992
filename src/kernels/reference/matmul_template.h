/* Included once by each matmul_LEVEL.c, which defines REFERENCE_TABLE and the rows of a tile. */
#include "kernels/reference/matmul.h"

#include <string.h>

#define LANES        16
#define TILE_COLUMNS 2

typedef float lanes __attribute__((vector_size(4 * LANES)));

static inline __attribute__((always_inline)) lanes load(const float *p)
{
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The last n < LANES elements, zeros behind. */
static inline lanes load_part(const float *p, size_t n)
{
    lanes v = {0};
    memcpy(&v, p, n * sizeof *p);
    return v;
}

static inline double add_lanes(lanes v)
{
    float a[LANES];
    memcpy(a, &v, sizeof a);
    double sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += (double)a[i];
    return sum;
}

/* n_rows <= TILE_ROWS and n_columns <= TILE_COLUMNS are constants where this is inlined. */
static inline __attribute__((always_inline)) void add_tile(const float *x, size_t x_stride,
                                                           size_t n_rows, const float *w,
                                                           size_t n_columns, size_t k,
                                                           double (*sums)[REFERENCE_COLUMNS])
{
    lanes acc[TILE_ROWS][TILE_COLUMNS] = {0};
    size_t i = 0;
    for (; i + LANES <= k; i += LANES)
        for (size_t r = 0; r < n_rows; r++)
            for (size_t c = 0; c < n_columns; c++)
                acc[r][c] += load(x + r * x_stride + i) * load(w + c * REFERENCE_SPAN + i);
    if (i < k)
        for (size_t r = 0; r < n_rows; r++)
            for (size_t c = 0; c < n_columns; c++)
                acc[r][c] += load_part(x + r * x_stride + i, k - i) *
                             load_part(w + c * REFERENCE_SPAN + i, k - i);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_columns; c++)
            sums[r][c] += add_lanes(acc[r][c]);
}

static void add_products(const float *x, size_t x_stride, size_t n_rows, const float *w,
                         size_t n_columns, size_t k, double (*sums)[REFERENCE_COLUMNS])
{
    for (size_t c = 0; c < n_columns; c += TILE_COLUMNS) {
        const float *columns = w + c * REFERENCE_SPAN;
        size_t r = 0;
        if (c + TILE_COLUMNS > n_columns) {
            for (; r < n_rows; r++)
                add_tile(x + r * x_stride, x_stride, 1, columns, 1, k,
                         (double(*)[REFERENCE_COLUMNS]) & sums[r][c]);
            continue;
        }
        for (; r + TILE_ROWS <= n_rows; r += TILE_ROWS)
            add_tile(x + r * x_stride, x_stride, TILE_ROWS, columns, TILE_COLUMNS, k,
                     (double(*)[REFERENCE_COLUMNS]) & sums[r][c]);
        for (; r < n_rows; r++)
            add_tile(x + r * x_stride, x_stride, 1, columns, TILE_COLUMNS, k,
                     (double(*)[REFERENCE_COLUMNS]) & sums[r][c]);
    }
}

static double dot(const float *a, const float *b, size_t n)
{
    lanes acc = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        acc += load(a + i) * load(b + i);
    if (i < n)
        acc += load_part(a + i, n - i) * load_part(b + i, n - i);
    return add_lanes(acc);
}

static void accumulate(double *sums, double decay, double factor, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sums[i] = sums[i] * decay + factor * (double)x[i];
}

const struct reference_kernels REFERENCE_TABLE = {add_products, dot, accumulate};
