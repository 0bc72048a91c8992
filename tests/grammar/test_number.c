/* Sets of numbers against arithmetic in 128-bit integers: all values here are multiples of 10^-6
 * below 10^12. */
#include "grammar/number_set.h"
#include "regular_fixture.h"

#include <stdio.h>

#define SCALE 1000000

typedef __int128 wide;

/* value x 10^-6 in a random spelling. */
static size_t spell_number(wide value, char *out)
{
    char digits[64];
    bool is_negative = value < 0;
    unsigned long long magnitude = (unsigned long long)(is_negative ? -value : value);
    int zeros = (int)random_below(3);
    switch (random_below(4)) {
    case 0: { /* plain, without trailing zeros */
        (void)snprintf(digits, sizeof digits, "%llu.%06llu", magnitude / SCALE, magnitude % SCALE);
        size_t n = strlen(digits);
        while (digits[n - 1] == '0')
            n--;
        n -= digits[n - 1] == '.';
        digits[n] = '\0';
        break;
    }
    case 1: /* with zeros */
        (void)snprintf(digits, sizeof digits, "%llu.%06llu%.*s", magnitude / SCALE,
                       magnitude % SCALE, zeros, "000");
        break;
    case 2: /* an integer and an exponent */
        (void)snprintf(digits, sizeof digits, "%llue-6", magnitude);
        break;
    default: /* a large exponent */
        (void)snprintf(digits, sizeof digits, "%llu.%04lluE+%02d", magnitude / 10000,
                       magnitude % 10000, 0);
        (void)snprintf(digits + strlen(digits) - 3, 4, "-%02d", 2);
    }
    return (size_t)snprintf(out, 80, "%s%s", is_negative ? "-" : "", digits);
}

/* The produced form, or false for -0. */
static size_t produce(wide value, uint32_t n_zeros, char *out)
{
    unsigned long long magnitude = (unsigned long long)(value < 0 ? -value : value);
    int n = snprintf(out, 80, "%s%llu.%06llu", value < 0 ? "-" : "", magnitude / SCALE,
                     magnitude % SCALE);
    while (out[n - 1] == '0')
        n--;
    if (out[n - 1] == '.' && n_zeros == 0)
        n--;
    for (uint32_t i = 0; i < n_zeros; i++)
        out[n++] = '0';
    out[n] = '\0';
    return (size_t)n;
}

static struct decimal decimal_of(wide value)
{
    char text[80];
    struct decimal out;
    size_t n = spell_number(value, text);
    if (!decimal_parse(budget.arena, text, n, &out))
        fail_msg("%s does not parse", text);
    return out;
}

/* The same set in plain integers. */
struct twin {
    wide low, high;
    bool has_low, has_high, low_exclusive, high_exclusive;
    wide multiple[3], excluded[3]; /* 0: none */
};

static bool twin_has(const struct twin *t, wide x)
{
    if (t->has_low && (x < t->low || (t->low_exclusive && x == t->low)))
        return false;
    if (t->has_high && (x > t->high || (t->high_exclusive && x == t->high)))
        return false;
    for (int i = 0; i < 3; i++)
        if ((t->multiple[i] && x % t->multiple[i] != 0) ||
            (t->excluded[i] && x % t->excluded[i] == 0))
            return false;
    return true;
}

static wide random_value(void)
{
    static const wide units[] = {1, 100, 10000, SCALE / 2, SCALE, 10 * SCALE, 1000 * (wide)SCALE};
    wide value = (wide)random_below(2000) * units[random_below(7)];
    return random_below(2) ? value : -value;
}

static void intersect(struct number_set *set, const struct number_set *other)
{
    if (number_set_intersect(&budget, set, other, set, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
}

static struct number_step step_of(wide value)
{
    struct number_step step;
    struct decimal decimal = decimal_of(value);
    assert_int_equal(number_step_make(&decimal, &step, &err), SERVERD_OK);
    return step;
}

static void random_set(struct number_set *set, struct twin *t)
{
    static const wide steps[] = {1,         10,         10000,     SCALE / 2,
                                 SCALE,     2 * SCALE,  3 * SCALE, 5 * SCALE / 2,
                                 7 * SCALE, 10 * SCALE, 12500};
    *set = number_set_all();
    *t = (struct twin){0};
    if (random_below(3)) {
        t->has_low = true;
        t->low = random_value();
        t->low_exclusive = random_below(2);
        struct number_set part = {.low = decimal_of(t->low),
                                  .low_bound =
                                      t->low_exclusive ? BOUND_EXCLUSIVE : BOUND_INCLUSIVE};
        intersect(set, &part);
    }
    if (random_below(3)) {
        t->has_high = true;
        t->high = random_below(4) ? random_value() : t->low;
        t->high_exclusive = random_below(2);
        struct number_set part = {.high = decimal_of(t->high),
                                  .high_bound =
                                      t->high_exclusive ? BOUND_EXCLUSIVE : BOUND_INCLUSIVE};
        intersect(set, &part);
    }
    for (int i = 0; i < 3; i++) {
        if (random_below(3) == 0) {
            t->multiple[i] = steps[random_below(sizeof steps / sizeof *steps)];
            struct number_set part = {.multiple = step_of(t->multiple[i])};
            intersect(set, &part);
        }
        if (random_below(5) == 0) {
            t->excluded[i] = steps[random_below(sizeof steps / sizeof *steps)];
            struct number_step step = step_of(t->excluded[i]);
            struct number_set part = {.excluded = &step, .n_excluded = 1};
            intersect(set, &part);
        }
    }
}

/* Values that lie where it matters. */
static wide interesting_value(const struct twin *t)
{
    wide near[] = {t->low, t->high, 0, random_value(), random_value()};
    static const wide offsets[] = {0, 1, -1, 500000, -500000, SCALE, -SCALE, 2500000};
    wide value = near[random_below(5)] + offsets[random_below(8)];
    for (int i = 0; i < 3; i++)
        if (t->multiple[i] && random_below(2))
            value -= value % t->multiple[i];
    return value;
}

static bool sets_have(const struct number_set *sets, size_t n, const struct decimal *value,
                      size_t *n_found)
{
    *n_found = 0;
    for (size_t i = 0; i < n; i++)
        *n_found += number_set_has(&sets[i], value);
    return *n_found > 0;
}

static void random_sets_agree_with_integers(void **state)
{
    for (uint64_t seed = 0; seed < 1500; seed++) {
        struct number_set set, *others;
        struct twin t;
        size_t n_others, n_found;
        bool is_empty;
        const struct automaton *automaton;
        random_seed(seed * 31 + 7);
        begin();
        random_set(&set, &t);
        bool has_automaton = number_set_automaton(&budget, &set, &automaton, &err) == SERVERD_OK;
        if (!has_automaton)
            fail_msg("seed %u: %s", (unsigned)seed, err.text);
        if (number_set_is_empty(&budget, &set, &is_empty, &err) != SERVERD_OK)
            fail_msg("seed %u: %s", (unsigned)seed, err.text);
        if (automaton_is_empty(automaton) != is_empty)
            fail_msg("seed %u: empty %d, but the automaton says otherwise", (unsigned)seed,
                     is_empty);
        assert_int_equal(number_set_complement(&budget, &set, &others, &n_others, &err),
                         SERVERD_OK);
        for (int i = 0; i < 60; i++) {
            wide x = interesting_value(&t);
            struct decimal value = decimal_of(x);
            char text[80];
            bool expected = twin_has(&t, x);
            if (number_set_has(&set, &value) != expected)
                fail_msg("seed %u: %.*se%d is%s a member", (unsigned)seed, (int)value.n_digits,
                         value.digits, value.exponent, expected ? "" : " not");
            if (sets_have(others, n_others, &value, &n_found) == expected || n_found > 1)
                fail_msg("seed %u: %.*se%d in %zu parts of the complement", (unsigned)seed,
                         (int)value.n_digits, value.digits, value.exponent, n_found);
            if (expected && is_empty)
                fail_msg("seed %u: an empty set with a member", (unsigned)seed);
            size_t n = produce(x, 0, text);
            if (automaton_accepts(automaton, text, n) != expected)
                fail_msg("seed %u: %s is%s produced", (unsigned)seed, text, expected ? " not" : "");
            n = produce(x, 2, text); /* trailing zeros: never more than is allowed */
            if (automaton_accepts(automaton, text, n) && !expected)
                fail_msg("seed %u: %s is produced", (unsigned)seed, text);
        }
        if (!is_empty) {
            const char *example;
            size_t n;
            struct decimal value;
            assert_int_equal(automaton_example(&budget, automaton, &example, &n, &err), SERVERD_OK);
            assert_true(decimal_parse(budget.arena, example, n, &value));
            if (!number_set_has(&set, &value))
                fail_msg("seed %u: %s is produced", (unsigned)seed, example);
        }
    }
    end();
}

static struct decimal parse(const char *text)
{
    struct decimal out;
    if (!decimal_parse(budget.arena, text, strlen(text), &out))
        fail_msg("%s does not parse", text);
    return out;
}

static void only_json_numbers_parse(void **state)
{
    static const char *const wrong[] = {"",    "-",   "+1", "01",  "1.",   ".5",  "1e",
                                        "1e+", "0x1", "1 ", "--1", "1.e1", "NaN", "1e1.0"};
    const struct automaton *texts;
    begin();
    assert_int_equal(number_text_automaton(&budget, &texts, &err), SERVERD_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct decimal out;
        assert_false(decimal_parse(budget.arena, wrong[i], strlen(wrong[i]), &out));
        assert_false(automaton_accepts(texts, wrong[i], strlen(wrong[i])));
    }
    static const char *const right[] = {"0", "-0", "10", "1.50", "1E5", "-2e-3", "0.0e+0"};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        (void)parse(right[i]);
        assert_true(automaton_accepts(texts, right[i], strlen(right[i])));
    }
    end();
}

static void decimals_compare_by_value(void **state)
{
    static const char *const ascending[] = {"-1e400", "-2", "-1.50",     "-1e-3", "0",  "1e-400",
                                            "0.001",  "1",  "1.0000001", "9.9",   "10", "1e400"};
    static const char *const equal[][2] = {{"0", "-0.00"},  {"1", "1.0"},      {"10", "1e1"},
                                           {"0.5", "5E-1"}, {"100", "1.00e2"}, {"12300e-2", "123"},
                                           {"0e5", "0"}};
    begin();
    for (size_t i = 0; i + 1 < sizeof ascending / sizeof *ascending; i++) {
        struct decimal a = parse(ascending[i]), b = parse(ascending[i + 1]);
        assert_true(decimal_compare(&a, &b) < 0);
        assert_true(decimal_compare(&b, &a) > 0);
    }
    for (size_t i = 0; i < sizeof equal / sizeof *equal; i++) {
        struct decimal a = parse(equal[i][0]), b = parse(equal[i][1]);
        assert_int_equal(decimal_compare(&a, &b), 0);
        assert_int_equal(decimal_is_integer(&a), decimal_is_integer(&b));
    }
    end();
}

struct member_case {
    const char *low, *high, *multiple, *value;
    bool is_member;
};

static void large_and_small_numbers_are_exact(void **state)
{
    static const struct member_case cases[] = {
        {NULL, NULL, "0.01", "0.0075", false},
        {NULL, NULL, "0.0001", "0.0075", true},
        {NULL, NULL, "0.01", "4.02", true},
        {NULL, NULL, "1e-8", "12391239123", true},
        {NULL, NULL, "0.123456789", "1e308", false},
        {NULL, NULL, "0.5", "1e308", true},
        {NULL, NULL, "3", "1e999999999", false},
        {NULL, NULL, "2", "1e999999999", true},
        {NULL, "18446744073709551615", NULL, "18446744073709551600", true},
        {NULL, "18446744073709551615", NULL, "18446744073709551616", false},
        {"9007199254740993", NULL, NULL, "9007199254740992", false},
        {"1e-400", NULL, NULL, "1e-401", false},
        {NULL, NULL, "1", "98249283749234923498293171823948729348710298301928331", true},
        {"-1e300", "1e300", NULL, "1e301", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct number_set set = {0};
        begin();
        if (cases[i].low) {
            set.low = parse(cases[i].low);
            set.low_bound = BOUND_INCLUSIVE;
        }
        if (cases[i].high) {
            set.high = parse(cases[i].high);
            set.high_bound = BOUND_INCLUSIVE;
        }
        if (cases[i].multiple) {
            struct decimal multiple = parse(cases[i].multiple);
            assert_int_equal(number_step_make(&multiple, &set.multiple, &err), SERVERD_OK);
        }
        struct decimal value = parse(cases[i].value);
        if (number_set_has(&set, &value) != cases[i].is_member)
            fail_msg("%s", cases[i].value);
    }
    end();
}

static bool produces(const struct number_set *set, const char *text)
{
    const struct automaton *automaton;
    if (number_set_automaton(&budget, set, &automaton, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return automaton_accepts(automaton, text, strlen(text));
}

static void produced_numbers_have_one_plain_form(void **state)
{
    begin();
    struct number_set integers = number_set_integers(), all = number_set_all();
    assert_true(produces(&integers, "0"));
    assert_true(produces(&integers, "-12345678901234567890"));
    assert_false(produces(&integers, "123456789012345678901")); /* 21 digits */
    static const char *const never[] = {"-0", "-0.0", "1e5", "01", "1.", ".5", "+1", ""};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        assert_false(produces(&integers, never[i]));
        assert_false(produces(&all, never[i]));
    }
    assert_false(produces(&integers, "1.0"));
    assert_true(produces(&all, "1.50"));
    assert_true(produces(&all, "-0.5"));
    struct decimal value = parse("1.5e1");
    struct number_set one = number_set_value(&value);
    assert_true(produces(&one, "15"));
    assert_false(produces(&one, "15.0"));
    /* Bounds that need more digits get them. */
    struct number_set large = number_set_integers();
    large.high = parse("-1e30");
    large.high_bound = BOUND_INCLUSIVE;
    assert_true(produces(&large, "-1000000000000000000000000000000"));
    assert_false(produces(&large, "-999999999999999999999999999999"));
    struct number_set small = number_set_all();
    small.low = parse("1e-30");
    small.high = parse("1.1e-30");
    small.low_bound = small.high_bound = BOUND_EXCLUSIVE;
    assert_true(produces(&small, "0.00000000000000000000000000000105"));
    assert_false(produces(&small, "0.00000000000000000000000000000100"));
    struct decimal day = parse("86400");
    struct number_set days = {.low_bound = BOUND_NONE};
    assert_int_equal(number_step_make(&day, &days.multiple, &err), SERVERD_OK);
    assert_true(produces(&days, "172800"));
    assert_false(produces(&days, "172801"));
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_sets_agree_with_integers),
        cmocka_unit_test(only_json_numbers_parse),
        cmocka_unit_test(decimals_compare_by_value),
        cmocka_unit_test(large_and_small_numbers_are_exact),
        cmocka_unit_test(produced_numbers_have_one_plain_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
