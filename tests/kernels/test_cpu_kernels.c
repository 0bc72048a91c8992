/* The arithmetic of every level against plain double precision, and the levels against each other.
 */
#include "base/hash.h"
#include "base/numeric.h"
#include "kernels/cpu/cpu_kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { N = 300, MAX_LEVELS = 3 };

static const struct cpu_kernels *levels[MAX_LEVELS];
static size_t n_levels;

static int find_levels(void **state)
{
    static const char *const names[] = {"generic", "avx2", "avx512"};
    (void)state;
    for (size_t i = 0; i < 3; i++)
        if ((levels[n_levels] = cpu_kernels_named(names[i])))
            n_levels++;
    return n_levels > 0 ? 0 : -1;
}

static float random_float(uint64_t i, float spread)
{
    return ((float)(hash_mix(i) >> 40) * 0x1p-24f - 0.5f) * 2.0f * spread;
}

static void fill(float *x, size_t n, uint64_t seed, float spread)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_float(seed * 100003 + i, spread);
}

static void dot_products_are_right_for_every_shape(void **state)
{
    (void)state;
    static float x[7 * N], w[11 * N], bias[11], out[7 * 11], first[7 * 11];
    fill(x, sizeof x / sizeof *x, 1, 1.0f);
    fill(w, sizeof w / sizeof *w, 2, 1.0f);
    fill(bias, 11, 3, 1.0f);
    for (size_t k = 1; k <= N; k = k * 2 + 1) {
        for (size_t level = 0; level < n_levels; level++) {
            for (size_t rows = 1; rows <= 7; rows++) {
                levels[level]->linear(x, rows, w, bias, 11, k, out, 11);
                for (size_t t = 0; t < rows; t++) {
                    for (size_t r = 0; r < 11; r++) {
                        double sum = bias[r];
                        for (size_t i = 0; i < k; i++)
                            sum += (double)x[t * k + i] * (double)w[r * k + i];
                        assert_true(fabs(sum - (double)out[t * 11 + r]) < 1e-4);
                    }
                }
            }
            if (level == 0)
                memcpy(first, out, sizeof out);
            assert_memory_equal(first, out, sizeof out);
        }
    }
}

static double exact_activation(uint32_t activation, double x)
{
    switch (activation) {
    case SERVERD_ACT_SILU:
        return x / (1.0 + exp(-x));
    case SERVERD_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case SERVERD_ACT_GELU_ERF:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case SERVERD_ACT_RELU:
        return x > 0.0 ? x : 0.0;
    case SERVERD_ACT_SIGMOID:
        return 1.0 / (1.0 + exp(-x));
    default:
        return tanh(x);
    }
}

static void activations_are_close_and_equal_on_all_levels(void **state)
{
    (void)state;
    static float x[20001], out[20001], first[20001];
    for (size_t i = 0; i < 20001; i++)
        x[i] = ((float)i - 10000.0f) * 0.01f;
    for (uint32_t activation = 0; activation <= SERVERD_ACT_TANH; activation++) {
        for (size_t level = 0; level < n_levels; level++) {
            levels[level]->activate(activation, x, out, 20001);
            for (size_t i = 0; i < 20001; i++) {
                double expected = exact_activation(activation, (double)x[i]);
                if (!(fabs(expected - (double)out[i]) <= 2e-6 * fmax(1.0, fabs(expected))))
                    fail_msg("activation %u of %g is %g, expected %g", activation, (double)x[i],
                             (double)out[i], expected);
            }
            if (level == 0)
                memcpy(first, out, sizeof out);
            assert_memory_equal(first, out, sizeof out);
        }
    }
}

static void the_softmax_part_of_a_segment_is_right(void **state)
{
    (void)state;
    static float q[96], keys[CPU_SEGMENT * 96], scores[CPU_SEGMENT + 16], first[CPU_SEGMENT];
    fill(q, 96, 5, 2.0f);
    fill(keys, sizeof keys / sizeof *keys, 6, 1.0f);
    for (size_t n = 1; n <= CPU_SEGMENT; n = n * 3 + 1) {
        for (int has_cap = 0; has_cap < 2; has_cap++) {
            for (size_t level = 0; level < n_levels; level++) {
                float sum, cap = has_cap ? 3.0f : 0.0f;
                float max = levels[level]->scores(q, keys, 80, n, 0.11f, cap, scores, &sum);
                double total = 0.0;
                for (size_t j = 0; j < n; j++) {
                    double s = 0.0;
                    for (size_t i = 0; i < 80; i++)
                        s += (double)q[i] * (double)keys[j * 80 + i];
                    s *= (double)0.11f;
                    s = has_cap ? 3.0 * tanh(s / 3.0) : s;
                    total += exp(s - (double)max);
                    assert_true(fabs(exp(s - (double)max) - (double)scores[j]) < 1e-5);
                }
                assert_true(fabs(total - (double)sum) < 1e-4 * total);
                if (level == 0)
                    memcpy(first, scores, n * sizeof *first);
                assert_memory_equal(first, scores, n * sizeof *first);
            }
        }
    }
}

static void sums_keep_nan_and_infinity(void **state)
{
    (void)state;
    float x[40] = {0}, out[40];
    x[37] = NAN;
    for (size_t level = 0; level < n_levels; level++) {
        assert_true(isnan(levels[level]->sum_of_squares(x, 40)));
        assert_true(isnan(levels[level]->sum(x, 40)));
        levels[level]->activate(SERVERD_ACT_SILU, x, out, 40);
        assert_true(isnan(out[37]) && out[36] == 0.0f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dot_products_are_right_for_every_shape),
        cmocka_unit_test(activations_are_close_and_equal_on_all_levels),
        cmocka_unit_test(the_softmax_part_of_a_segment_is_right),
        cmocka_unit_test(sums_keep_nan_and_infinity),
    };
    return cmocka_run_group_tests(tests, find_levels, NULL);
}
