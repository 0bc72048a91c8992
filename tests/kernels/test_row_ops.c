/* What works row by row on every level: against plain double precision, and the levels against each
 * other, bit for bit, for rows of every length. */
#include "levels.h"

#include "base/numeric.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LONGEST = 70, MARGIN = 20 };

#define UNTOUCHED 12345.0f

static void clear(float *out)
{
    for (size_t i = 0; i < LONGEST + MARGIN; i++)
        out[i] = UNTOUCHED;
}

/* n results that are near the exact ones, nothing behind them touched, and the same bits as the
 * first level's, which are kept in `first`. */
static void check_results(size_t level, const char *what, const float *out, size_t n,
                          const double *exact, double error, float *first)
{
    for (size_t i = 0; i < LONGEST + MARGIN; i++) {
        double expected = i < n ? exact[i] : (double)UNTOUCHED;
        double allowed = i < n ? error * fmax(1.0, fabs(expected)) : 0.0;
        if (!(fabs(expected - (double)out[i]) <= allowed))
            fail_msg("%s: %s, element %zu of %zu: %g, expected %g", levels[level]->name, what, i, n,
                     (double)out[i], expected);
    }
    if (level == 0)
        memcpy(first, out, n * sizeof *first);
    else if (memcmp(first, out, n * sizeof *first) != 0)
        fail_msg("%s: %s of %zu elements differs", levels[level]->name, what, n);
}

static void scale_and_add_are_exact(void **state)
{
    (void)state;
    float x[LONGEST], w[LONGEST], out[LONGEST + MARGIN], first[3][LONGEST];
    double exact[LONGEST];
    fill(x, LONGEST, 1, 3.0f);
    fill(w, LONGEST, 2, 3.0f);
    for (size_t n = 0; n <= LONGEST; n++)
        for (size_t level = 0; level < n_levels; level++) {
            for (size_t i = 0; i < n; i++)
                exact[i] = (double)(x[i] * 0.3f);
            clear(out);
            levels[level]->scale(x, 0.3f, NULL, out, n);
            check_results(level, "scale", out, n, exact, 0.0, first[0]);
            for (size_t i = 0; i < n; i++)
                exact[i] = (double)(x[i] * 0.3f * w[i]);
            clear(out);
            levels[level]->scale(x, 0.3f, w, out, n);
            check_results(level, "scale by weights", out, n, exact, 0.0, first[1]);
            for (size_t i = 0; i < n; i++)
                exact[i] = (double)(x[i] + w[i]);
            clear(out);
            levels[level]->add(x, w, out, n);
            check_results(level, "add", out, n, exact, 0.0, first[2]);
        }
}

static void check_rope(size_t n_pairs, bool is_neox)
{
    float x[LONGEST], cos_sin[LONGEST], out[LONGEST + MARGIN], first[LONGEST];
    double exact[LONGEST];
    fill(x, LONGEST, 3, 2.0f);
    for (size_t i = 0; i < n_pairs; i++) {
        cos_sin[2 * i] = (float)cos(0.7 * (double)i);
        cos_sin[2 * i + 1] = (float)sin(0.7 * (double)i);
        size_t a = is_neox ? i : 2 * i, b = is_neox ? i + n_pairs : 2 * i + 1;
        double c = (double)cos_sin[2 * i], s = (double)cos_sin[2 * i + 1];
        exact[a] = (double)x[a] * c - (double)x[b] * s;
        exact[b] = (double)x[a] * s + (double)x[b] * c;
    }
    for (size_t level = 0; level < n_levels; level++) {
        clear(out);
        levels[level]->rope(x, cos_sin, n_pairs, is_neox, out);
        check_results(level, is_neox ? "rope of halves" : "rope of neighbours", out, 2 * n_pairs,
                      exact, 4e-7, first);
    }
}

static void rope_turns_pairs(void **state)
{
    (void)state;
    for (size_t n_pairs = 0; n_pairs <= LONGEST / 2; n_pairs++) {
        check_rope(n_pairs, false);
        check_rope(n_pairs, true);
    }
}

static void sums_are_right_and_keep_nan(void **state)
{
    (void)state;
    float x[LONGEST], first[2][LONGEST + 1];
    for (size_t level = 0; level < n_levels; level++) {
        fill(x, LONGEST, 4, 3.0f);
        double sum = 0.0, squares = 0.0;
        for (size_t n = 0; n <= LONGEST; n++) {
            float got[2] = {levels[level]->sum(x, n), levels[level]->sum_of_squares(x, n)};
            assert_true(fabs((double)got[0] - sum) < 2e-5);
            assert_true(fabs((double)got[1] - squares) <= 1e-6 * squares);
            for (int i = 0; i < 2; i++) {
                if (level == 0)
                    first[i][n] = got[i];
                assert_int_equal(f32_bits(got[i]), f32_bits(first[i][n]));
            }
            sum += n < LONGEST ? (double)x[n] : 0.0;
            squares += n < LONGEST ? (double)x[n] * (double)x[n] : 0.0;
        }
        x[37] = NAN;
        assert_true(isnan(levels[level]->sum(x, 40)));
        assert_true(isnan(levels[level]->sum_of_squares(x, 40)));
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
    for (uint32_t activation = 0; activation <= SERVERD_ACT_TANH; activation++)
        for (size_t level = 0; level < n_levels; level++) {
            levels[level]->activate(activation, x, NULL, out, 20001);
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

static void activated_rows_are_multiplied_by_others(void **state)
{
    (void)state;
    float x[LONGEST], b[LONGEST], out[LONGEST + MARGIN], first[2][LONGEST];
    double exact[LONGEST];
    fill(x, LONGEST, 5, 4.0f);
    fill(b, LONGEST, 6, 4.0f);
    for (uint32_t activation = 0; activation <= SERVERD_ACT_TANH; activation++)
        for (size_t n = 0; n <= LONGEST; n++)
            for (size_t level = 0; level < n_levels; level++) {
                for (size_t i = 0; i < n; i++)
                    exact[i] = exact_activation(activation, (double)x[i]);
                clear(out);
                levels[level]->activate(activation, x, NULL, out, n);
                check_results(level, "activation", out, n, exact, 2e-6, first[0]);
                for (size_t i = 0; i < n; i++)
                    exact[i] = (double)(out[i] * b[i]);
                clear(out);
                levels[level]->activate(activation, x, b, out, n);
                check_results(level, "activation and product", out, n, exact, 0.0, first[1]);
            }
}

static void activations_keep_nan(void **state)
{
    (void)state;
    float x[40] = {0}, out[40];
    x[37] = NAN;
    for (size_t level = 0; level < n_levels; level++)
        for (uint32_t activation = 0; activation <= SERVERD_ACT_TANH; activation++) {
            levels[level]->activate(activation, x, NULL, out, 40);
            assert_true(isnan(out[37]) && isfinite(out[36]) && isfinite(out[38]));
        }
}

static void softcap_is_a_scaled_tanh(void **state)
{
    (void)state;
    float x[LONGEST], out[LONGEST + MARGIN], first[LONGEST];
    double exact[LONGEST];
    fill(x, LONGEST, 7, 90.0f);
    for (size_t n = 0; n <= LONGEST; n++)
        for (size_t level = 0; level < n_levels; level++) {
            for (size_t i = 0; i < n; i++)
                exact[i] = 30.0 * tanh((double)x[i] / 30.0);
            clear(out);
            levels[level]->softcap(x, 30.0f, out, n);
            check_results(level, "softcap", out, n, exact, 2e-6, first);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scale_and_add_are_exact),
        cmocka_unit_test(rope_turns_pairs),
        cmocka_unit_test(sums_are_right_and_keep_nan),
        cmocka_unit_test(activations_are_close_and_equal_on_all_levels),
        cmocka_unit_test(activated_rows_are_multiplied_by_others),
        cmocka_unit_test(activations_keep_nan),
        cmocka_unit_test(softcap_is_a_scaled_tanh),
    };
    return cmocka_run_group_tests(tests, find_levels, NULL);
}
