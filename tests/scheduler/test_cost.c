/* The cost model finds the numbers that steps were made with, and chunks that fit a time. */
#include "scheduler/cost.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define BASE     4e-3
#define SEQUENCE 0.3e-3
#define ROW      0.5e-3
#define PAIR     0.1e-6

static double truth(const struct step_work *w)
{
    return (w->n_decode > 0 ? BASE + SEQUENCE * w->n_decode : 0) + ROW * w->n_prefill +
           PAIR * w->prefill_context;
}

static struct step_work work(uint32_t n_decode, uint32_t n_prefill, uint32_t n_before)
{
    return (struct step_work){n_decode, n_prefill, n_prefill * (n_before + n_prefill / 2.0)};
}

static void learn(struct step_cost *cost, uint32_t n_decode, uint32_t n_prefill, uint32_t n_before,
                  double noise)
{
    struct step_work w = work(n_decode, n_prefill, n_before);
    cost_learn(cost, &w, truth(&w) * (1 + noise));
}

static void assert_near(double got, double expected, double share)
{
    if (!(fabs(got - expected) <= share * expected))
        fail_msg("%g, expected %g", got, expected);
}

static void nothing_is_known_at_first(void **state)
{
    (void)state;
    struct step_cost cost = {0};
    assert_true(cost_of_decode(&cost, 8) == 0);
    assert_true(cost_of_prefill_row(&cost) == 0);
    assert_int_equal(cost_prefill_rows(&cost, 1e-3, 0, 512), 512);
}

static void it_finds_what_steps_cost(void **state)
{
    (void)state;
    struct step_cost cost = {0};
    for (uint32_t i = 0; i < 400; i++)
        learn(&cost, 1 + i % 16, i % 3 ? 0 : 16 * (1 + i % 7), i * 37 % 4000, i % 2 ? 0.05 : -0.05);
    assert_near(cost_of_decode(&cost, 1), BASE + SEQUENCE, 0.1);
    assert_near(cost_of_decode(&cost, 16), BASE + 16 * SEQUENCE, 0.1);
    assert_near(cost_of_prefill_row(&cost), ROW, 0.2);
    for (uint32_t before = 0; before <= 4000; before += 1000) {
        uint32_t n = cost_prefill_rows(&cost, 20e-3, before, 512);
        struct step_work w = work(0, n, before);
        assert_near(truth(&w), 20e-3, 0.2);
    }
}

/* All steps alike: what they have in common is known, the rest is not guessed. */
static void one_kind_of_step_says_what_that_kind_costs(void **state)
{
    (void)state;
    struct step_cost cost = {0};
    for (int i = 0; i < 50; i++) {
        learn(&cost, 8, 0, 0, 0);
        learn(&cost, 8, 32, 0, 0);
    }
    assert_near(cost_of_decode(&cost, 8), BASE + 8 * SEQUENCE, 0.01);
    assert_int_equal(cost_prefill_rows(&cost, 32.5 * (ROW + 16 * PAIR), 0, 512), 32);
    assert_int_equal(cost_prefill_rows(&cost, -1, 0, 512), 0);
    assert_int_equal(cost_prefill_rows(&cost, 10, 0, 512), 512);
}

static void it_follows_a_machine_that_gets_slower(void **state)
{
    (void)state;
    struct step_cost cost = {0};
    for (int i = 0; i < 200; i++)
        learn(&cost, 4, 0, 0, i < 100 ? 0 : 1);
    assert_near(cost_of_decode(&cost, 4), 2 * (BASE + 4 * SEQUENCE), 0.02);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_known_at_first),
        cmocka_unit_test(it_finds_what_steps_cost),
        cmocka_unit_test(one_kind_of_step_says_what_that_kind_costs),
        cmocka_unit_test(it_follows_a_machine_that_gets_slower),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
