/* Products and factors against double precision, and for any number of threads the same bits. */
#include "base/hash.h"
#include "program/dtype.h"
#include "quantise/linalg.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static float *random_matrix(size_t rows, size_t columns, uint64_t seed)
{
    float *x = malloc(rows * columns * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < rows * columns; i++)
        x[i] = (float)(int64_t)(hash_mix(seed * 99991 + i) >> 40) * 0x1p-23f - 1.0f;
    return x;
}

static struct worker_pool *pool_of(uint32_t n)
{
    struct worker_pool *pool;
    serverd_error err;
    assert_int_equal(worker_pool_create(n, &pool, &err), SERVERD_OK);
    return pool;
}

static void check_multiply(size_t m, size_t k, size_t n, bool is_transposed, enum product_part part,
                           struct worker_pool *pool)
{
    float *a = random_matrix(m, k, 1), *b = random_matrix(k, n, 2), *out = random_matrix(m, n, 3);
    float *before = malloc(m * n * sizeof *before);
    struct right_factor factor;
    memcpy(before, out, m * n * sizeof *before);
    assert_true(right_factor_create(k, n, &factor));
    right_factor_set(&factor, b, is_transposed ? k : n, k, n, is_transposed, pool);
    multiply(a, m, &factor, out, n, true, part, pool);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            if ((part == PRODUCT_UPPER && j < i) || (part == PRODUCT_LOWER && j > i))
                continue;
            double sum = (double)before[i * n + j];
            for (size_t p = 0; p < k; p++)
                sum += (double)a[i * k + p] * (double)(is_transposed ? b[j * k + p] : b[p * n + j]);
            assert_true(fabs(sum - (double)out[i * n + j]) < 1e-5 * (double)k);
        }
    right_factor_destroy(&factor);
    free(a);
    free(b);
    free(out);
    free(before);
}

static void products_are_right(void **state)
{
    (void)state;
    struct worker_pool *pool = pool_of(2);
    static const size_t sizes[] = {1, 16, 17, 70, 130};
    for (size_t i = 0; i < 5; i++)
        for (size_t j = 0; j < 5; j++)
            check_multiply(sizes[i], sizes[(i + j) % 5], sizes[j], (i + j) % 2, PRODUCT_ALL, pool);
    check_multiply(130, 33, 130, false, PRODUCT_UPPER, pool);
    check_multiply(130, 33, 130, true, PRODUCT_LOWER, pool);
    worker_pool_destroy(pool);
}

static void products_with_tensors_are_right(void **state)
{
    (void)state;
    enum { M = 9, K = 64, N = 75 };
    struct worker_pool *pool = pool_of(2);
    float *a = random_matrix(M, K, 1), *w = random_matrix(N, K, 2), *bias = random_matrix(1, N, 3);
    float out[M * N];
    serverd_error err;
    const serverd_tensor tensor = {.struct_bytes = sizeof tensor,
                                   .dtype = DTYPE_F32,
                                   .name = "w",
                                   .rank = 2,
                                   .dims = {N, K},
                                   .data = w,
                                   .bytes = N * K * sizeof *w};
    assert_int_equal(multiply_tensor(a, M, &tensor, bias, out, pool, &err), SERVERD_OK);
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++) {
            double sum = (double)bias[j];
            for (size_t p = 0; p < K; p++)
                sum += (double)a[i * K + p] * (double)w[j * K + p];
            assert_true(fabs(sum - (double)out[i * N + j]) < 1e-4);
        }
    free(a);
    free(w);
    free(bias);
    worker_pool_destroy(pool);
}

/* h = x^T x + 1 and its factor, checked against each other. */
static float *check_factor(size_t rows, size_t k, struct worker_pool *pool)
{
    float *x = random_matrix(rows, k, rows), *h = calloc(k * k, sizeof *h);
    serverd_error err;
    assert_true(add_gram(x, rows, k, h, pool));
    for (size_t i = 0; i < k; i++)
        h[i * k + i] += 1;
    mirror_upper(h, k, pool);
    for (size_t i = 0; i < k; i += 7)
        for (size_t j = 0; j < k; j += 5) {
            double sum = i == j;
            for (size_t r = 0; r < rows; r++)
                sum += (double)x[r * k + i] * (double)x[r * k + j];
            assert_true(fabs(sum - (double)h[i * k + j]) < 1e-4 * (double)rows);
        }
    float *u = malloc(k * k * sizeof *u);
    memcpy(u, h, k * k * sizeof *u);
    assert_int_equal(factor_upper(u, k, pool, &err), SERVERD_OK);
    for (size_t i = 0; i < k; i++)
        for (size_t j = i; j < k; j++) { /* u diag(d) u^T */
            double sum = 0;
            for (size_t p = j; p < k; p++)
                sum += (p == i ? 1 : (double)u[i * k + p]) * (double)u[p * k + p] *
                       (p == j ? 1 : (double)u[j * k + p]);
            assert_true(fabs(sum - (double)h[i * k + j]) < 1e-4 * (double)h[i * k + i] + 1e-3);
        }
    free(x);
    free(h);
    return u;
}

static void factors_are_right_for_any_threads(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 16, 100, 128, 129, 300};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const size_t k = sizes[i];
        struct worker_pool *one = pool_of(1), *three = pool_of(3);
        float *a = check_factor(600, k, one), *b = check_factor(600, k, three);
        for (size_t r = 0; r < k; r++)
            assert_memory_equal(a + r * k + r, b + r * k + r, (k - r) * sizeof *a);
        free(a);
        free(b);
        worker_pool_destroy(one);
        worker_pool_destroy(three);
    }
}

static void what_is_not_positive_is_refused(void **state)
{
    (void)state;
    struct worker_pool *pool = pool_of(1);
    serverd_error err;
    float h[4] = {1, 2, 2, 1}, nan[1] = {NAN};
    assert_int_equal(factor_upper(h, 2, pool, &err), SERVERD_NUMERIC);
    assert_int_equal(factor_upper(nan, 1, pool, &err), SERVERD_NUMERIC);
    worker_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_right),
        cmocka_unit_test(products_with_tensors_are_right),
        cmocka_unit_test(factors_are_right_for_any_threads),
        cmocka_unit_test(what_is_not_positive_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
