#include "tools/bench/stats.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void assert_near(double found, double expected)
{
    if (!(fabs(found - expected) <= 1e-12 * (1 + fabs(expected))))
        fail_msg("%.17g, expected %.17g", found, expected);
}

static void nothing_is_zero(void **state)
{
    (void)state;
    struct samples s = {0};
    assert_near(samples_mean(&s), 0);
    assert_near(samples_stddev(&s), 0);
    assert_near(samples_min(&s), 0);
    assert_near(samples_max(&s), 0);
    assert_near(samples_percentile(&s, 0.5), 0);
    assert_near(samples_median(&s), 0);
    samples_deinit(&s);
}

static void one_sample_is_all_of_them_without_deviation(void **state)
{
    (void)state;
    struct samples s = {0};
    samples_add(&s, -3);
    assert_near(samples_mean(&s), -3);
    assert_near(samples_stddev(&s), 0);
    assert_near(samples_max(&s), -3);
    assert_near(samples_percentile(&s, 0), -3);
    assert_near(samples_percentile(&s, 0.99), -3);
    assert_near(samples_median(&s), -3);
    samples_deinit(&s);
}

static void figures_of_known_samples(void **state)
{
    (void)state;
    static const double values[] = {4, 2, 5, 4, 5, 4, 7, 9};
    struct samples s = {0};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        samples_add(&s, values[i]);
    assert_near(samples_mean(&s), 5);
    assert_near(samples_stddev(&s), sqrt(32.0 / 7));
    assert_near(samples_min(&s), 2);
    assert_near(samples_max(&s), 9);
    assert_near(samples_median(&s), 4.5);
    samples_deinit(&s);
}

static void a_percentile_is_the_smallest_value_that_covers_its_share(void **state)
{
    (void)state;
    struct samples s = {0};
    for (int i = 100; i >= 1; i--)
        samples_add(&s, i);
    assert_near(samples_percentile(&s, 0), 1);
    assert_near(samples_percentile(&s, 0.01), 1);
    assert_near(samples_percentile(&s, 0.5), 50);
    assert_near(samples_percentile(&s, 0.9), 90);
    assert_near(samples_percentile(&s, 0.99), 99);
    assert_near(samples_percentile(&s, 0.991), 100);
    assert_near(samples_percentile(&s, 1), 100);
    samples_add(&s, 0); /* after sorting */
    assert_near(samples_percentile(&s, 0), 0);
    samples_deinit(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_zero),
        cmocka_unit_test(one_sample_is_all_of_them_without_deviation),
        cmocka_unit_test(figures_of_known_samples),
        cmocka_unit_test(a_percentile_is_the_smallest_value_that_covers_its_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
