/* Data-aware methods on random matrices with correlated inputs: each makes the outputs' error less,
 * and the same bits for any number of threads. */
#include "base/hash.h"
#include "quantise/awq.h"
#include "quantise/gptq.h"
#include "quantise/linalg.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 40, K = 256, ROWS = 700 };

static float random_float(uint64_t i)
{
    return (float)(int64_t)(hash_mix(i) >> 40) * 0x1p-23f - 1.0f;
}

static struct worker_pool *pool_of(uint32_t n)
{
    struct worker_pool *pool;
    serverd_error err;
    assert_int_equal(worker_pool_create(n, &pool, &err), SERVERD_OK);
    return pool;
}

/* Inputs that share some directions; a few channels are loud. */
static float *make_inputs(void)
{
    float *x = malloc((size_t)ROWS * K * sizeof *x);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < K; i++) {
            float shared = 0;
            for (size_t d = 0; d < 4; d++)
                shared += random_float(r * 10 + d) * random_float(1000000 + i * 10 + d);
            x[r * K + i] =
                (shared + 0.3f * random_float(2000000 + r * K + i)) * (i % 37 == 3 ? 12.0f : 1.0f);
        }
    return x;
}

static float *make_hessian(const float *x, struct worker_pool *pool)
{
    float *h = calloc((size_t)K * K, sizeof *h);
    assert_true(add_gram(x, ROWS, K, h, pool));
    double mean = 0;
    for (size_t i = 0; i < K; i++)
        mean += (double)h[i * K + i] / K;
    for (size_t i = 0; i < K; i++)
        h[i * K + i] += (float)(0.01 * mean);
    mirror_upper(h, K, pool);
    return h;
}

static struct quant_matrix make_matrix(uint32_t format, uint32_t group, struct worker_pool *pool)
{
    static float w[N * K];
    struct quant_matrix matrix;
    serverd_error err;
    for (size_t i = 0; i < N * K; i++)
        w[i] = random_float(7000000 + i) + random_float(8000000 + i);
    const serverd_tensor tensor = {.struct_bytes = sizeof tensor,
                                   .dtype = DTYPE_F32,
                                   .name = "w",
                                   .rank = 2,
                                   .dims = {N, K},
                                   .data = w,
                                   .bytes = sizeof w};
    assert_int_equal(matrix_create(&tensor, format, group, pool, &matrix, &err), SERVERD_OK);
    return matrix;
}

/* sum of e h e^T over the rows */
static double error_of(const struct quant_matrix *m, const float *h)
{
    double sum = 0;
    for (size_t row = 0; row < m->n; row++) {
        float e[K];
        matrix_values(m, row, e);
        for (size_t i = 0; i < K; i++)
            e[i] -= m->weights[row * K + i];
        for (size_t i = 0; i < K; i++)
            for (size_t j = 0; j < K; j++)
                sum += (double)e[i] * (double)h[i * K + j] * (double)e[j];
    }
    return sum;
}

static void each_method_makes_the_error_less(void **state)
{
    (void)state;
    static const uint32_t formats[] = {FORMAT_I4A, FORMAT_I4S, FORMAT_I4Z, FORMAT_NF4,
                                       FORMAT_I8S, FORMAT_F8,  DTYPE_MXFP4};
    struct worker_pool *pool = pool_of(2);
    float *x = make_inputs(), *h = make_hessian(x, pool);
    serverd_error err;
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        struct quant_matrix m = make_matrix(formats[f], formats[f] == DTYPE_MXFP4 ? 32 : 64, pool);
        (void)matrix_fit(&m, FIT_PLAIN, NULL, false, pool);
        const double plain = error_of(&m, h);
        assert_int_equal(gptq(&m, h, pool, &err), SERVERD_OK);
        const double spread = error_of(&m, h);
        double last = spread;
        assert_true(spread < 0.7 * plain);
        for (uint32_t round = 0; round < 3; round++) {
            assert_int_equal(rescale(&m, h, 1, pool, &err), SERVERD_OK);
            const double now = error_of(&m, h);
            assert_true(now <= last * 1.0001);
            last = now;
        }
        assert_true(last <= spread * (grid_code_bits(formats[f]) == 8 ? 1.0001 : 0.995));
        double noise, signal;
        assert_int_equal(output_energy(&m, x, ROWS, pool, &noise, &signal, &err), SERVERD_OK);
        assert_true(noise > 0 && noise <= last * 1.001 && signal > noise);
        matrix_destroy(&m);
    }
    free(x);
    free(h);
    worker_pool_destroy(pool);
}

/* Everything there is about the matrix. */
static void run_all(uint32_t n_threads, const float *x, const float *h, uint8_t *blocks,
                    float *scale)
{
    struct worker_pool *pool = pool_of(n_threads);
    struct quant_matrix m = make_matrix(FORMAT_I4A, 64, pool);
    float magnitude[K] = {0};
    double alpha, gain;
    serverd_error err;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < K; i++)
            magnitude[i] += fabsf(x[r * K + i]) / ROWS;
    const struct awq_set set = {&m, 1, x, 200, magnitude};
    assert_int_equal(awq_search(&set, pool, scale, &alpha, &gain, &err), SERVERD_OK);
    assert_true(alpha > 0 && alpha <= 1 && gain > 0);
    (void)matrix_fit(&m, FIT_PLAIN, magnitude, false, pool);
    assert_int_equal(gptq(&m, h, pool, &err), SERVERD_OK);
    assert_int_equal(rescale(&m, h, 2, pool, &err), SERVERD_OK);
    matrix_write(&m, pool, blocks);
    matrix_destroy(&m);
    worker_pool_destroy(pool);
}

static void any_number_of_threads_gives_the_same_bits(void **state)
{
    (void)state;
    struct worker_pool *pool = pool_of(1);
    float *x = make_inputs(), *h = make_hessian(x, pool);
    const size_t bytes =
        (size_t)N * K / 64 * dtype_info(dtype_own(FORMAT_I4A, 64, false))->block_bytes;
    uint8_t *first = malloc(bytes), *other = malloc(bytes);
    float scale[2][K];
    run_all(1, x, h, first, scale[0]);
    for (uint32_t n = 2; n <= 3; n++) {
        run_all(n, x, h, other, scale[1]);
        assert_memory_equal(first, other, bytes);
        assert_memory_equal(scale[0], scale[1], sizeof scale[0]);
    }
    free(first);
    free(other);
    free(x);
    free(h);
    worker_pool_destroy(pool);
}

/* Rows of blocks can be scaled afterwards: what they stand for scales with them. */
static void rows_of_blocks_scale(void **state)
{
    (void)state;
    struct worker_pool *pool = pool_of(1);
    for (uint32_t format = FORMAT_I8S; format < FORMAT_LIMIT; format++) {
        struct quant_matrix m = make_matrix(format, 32, pool);
        const uint32_t dtype = grid_dtype(&m.grid);
        const struct dtype_info *info = dtype_info(dtype);
        (void)matrix_fit(&m, FIT_PLAIN, NULL, false, pool);
        uint8_t *blocks = malloc(N * K / 32 * info->block_bytes);
        float factor[N], before[K], *after = malloc(N * K * sizeof *after);
        matrix_write(&m, pool, blocks);
        for (size_t i = 0; i < N; i++)
            factor[i] = 0.5f + (float)i / N;
        assert_true(blocks_scale_rows(dtype, N, K, factor, blocks));
        info->to_f32(blocks, after, N * K / 32);
        for (size_t row = 0; row < N; row++) {
            matrix_values(&m, row, before);
            for (size_t i = 0; i < K; i++)
                assert_true(fabsf(after[row * K + i] - factor[row] * before[i]) < 4e-3f);
        }
        free(blocks);
        free(after);
        matrix_destroy(&m);
    }
    float one = 1;
    assert_false(blocks_scale_rows(DTYPE_MXFP4, 1, 32, &one, NULL));
    assert_false(blocks_scale_rows(DTYPE_Q4_K, 1, 256, &one, NULL));
    worker_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_method_makes_the_error_less),
        cmocka_unit_test(any_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(rows_of_blocks_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
