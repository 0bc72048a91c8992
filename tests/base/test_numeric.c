#include "base/hash.h"
#include "base/numeric.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static void half_precision_round_trips_every_value(void **state)
{
    (void)state;
    for (uint32_t h = 0; h <= 0xffff; h++) {
        float f = f16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true((h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0);
        else
            assert_int_equal(f32_to_f16(f), h);
    }
}

/* The nearest half of any float, by search over its neighbours. */
static void f32_to_f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 200000; i++) {
        float x = f32_from_bits((uint32_t)hash_mix(i));
        if (isnan(x) || fabsf(x) > 65519.0f)
            continue;
        uint16_t h = f32_to_f16(x);
        double error = fabs((double)f16_to_f32(h) - x);
        for (int d = -1; d <= 1; d += 2) {
            float other = f16_to_f32((uint16_t)(h + d));
            if (isnan(other) || isinf(other))
                continue;
            double other_error = fabs((double)other - x);
            assert_true(error < other_error || (error == other_error && (h & 1) == 0) ||
                        (h & 0x7fff) == 0);
        }
    }
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(65519.0f), 0x7bff);
    assert_int_equal(f32_to_f16(-INFINITY), 0xfc00);
    assert_true(isnan(f16_to_f32(f32_to_f16(NAN))));
}

static void bf16_rounds_to_nearest_even_and_keeps_nan(void **state)
{
    (void)state;
    assert_int_equal(f32_to_bf16(f32_from_bits(0x3f808000)), 0x3f80);
    assert_int_equal(f32_to_bf16(f32_from_bits(0x3f818000)), 0x3f82);
    assert_int_equal(f32_to_bf16(f32_from_bits(0x3f808001)), 0x3f81);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(f32_from_bits(0x7f800001)))));
    for (uint32_t h = 0; h <= 0xffff; h++)
        if (!isnan(bf16_to_f32((uint16_t)h)))
            assert_int_equal(f32_to_bf16(bf16_to_f32((uint16_t)h)), h);
}

static void sizes_refuse_overflow(void **state)
{
    (void)state;
    size_t out = 7;
    assert_false(size_mul(SIZE_MAX / 2, 3, &out));
    assert_false(size_add(SIZE_MAX, 1, &out));
    assert_false(size_align(SIZE_MAX - 3, 8, &out));
    assert_int_equal(out, 7);
    assert_true(size_align(65, 64, &out));
    assert_int_equal(out, 128);
}

static void numbers_are_parsed_whole_and_in_range(void **state)
{
    (void)state;
    int64_t i = 0;
    uint64_t u = 0;
    double f = 0;
    assert_true(parse_i64("-12", -20, 20, &i) && i == -12);
    static const char *const bad[] = {
        "", " 1", "1 ", "1x", "0x10", "+-1", "99999999999999999999", "1e3", "."};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
        assert_false(parse_i64(bad[k], INT64_MIN, INT64_MAX, &i));
    assert_false(parse_i64("21", -20, 20, &i));
    assert_false(parse_u64("-1", 0, UINT64_MAX, &u));
    assert_true(parse_u64("18446744073709551615", 0, UINT64_MAX, &u) && u == UINT64_MAX);
    assert_true(parse_f64("0.25", &f) && f == 0.25);
    assert_true(parse_f64("-1e-3", &f) && f == -1e-3);
    static const char *const no_floats[] = {"nan", "inf", "-infinity", "1e999", "", "1,5", "1.5f"};
    for (size_t k = 0; k < sizeof no_floats / sizeof *no_floats; k++)
        assert_false(parse_f64(no_floats[k], &f));
}

static void sizes_have_units(void **state)
{
    (void)state;
    const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"512", 512},
                {"4K", 4096},
                {"512MiB", 512ull << 20},
                {"4 GB", 4ull << 30},
                {"1T", 1ull << 40},
                {"2g", 2ull << 30}};
    for (size_t k = 0; k < sizeof good / sizeof *good; k++) {
        uint64_t bytes = 1;
        assert_true(parse_size(good[k].text, &bytes));
        assert_int_equal(bytes, good[k].bytes);
    }
    static const char *const bad[] = {"", "K", "-1K", "1Q", "99999999999T", "4 G B"};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        uint64_t bytes;
        assert_false(parse_size(bad[k], &bytes));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_precision_round_trips_every_value),
        cmocka_unit_test(f32_to_f16_rounds_to_nearest_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even_and_keeps_nan),
        cmocka_unit_test(sizes_refuse_overflow),
        cmocka_unit_test(numbers_are_parsed_whole_and_in_range),
        cmocka_unit_test(sizes_have_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
