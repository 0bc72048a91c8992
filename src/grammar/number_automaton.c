/* The texts of numbers that are produced. A magnitude's text is read from the left; each condition
 * on it (digits, a bound, a multiple) is an automaton of its own, and they are intersected. */
#include "base/error.h"
#include "grammar/automaton_internal.h"
#include "grammar/number_internal.h"

#include <inttypes.h>
#include <string.h>

#define DIGITS_FEW     12u  /* the same, if each digit costs many states */
#define MULTIPLE_LARGE 256u /* significant part of a multiple from which that is so */
#define DIGITS_USUAL   20u  /* before and behind the point, if the bounds need no more */

/* Classes of the alphabet: a digit is its own number. */
enum { CLASS_POINT = 10, CLASS_OTHER = 11, N_CLASSES = 12 };

struct table {
    struct raw_automaton raw;
    uint32_t *rows; /* [n_states][N_CLASSES] */
    uint8_t *labels;
};

static const struct class_range digit_ranges[] = {{0, '.' - 1, CLASS_OTHER},
                                                  {'.', '.', CLASS_POINT},
                                                  {'/', '/', CLASS_OTHER},
                                                  {'0', '0', 0},
                                                  {'1', '1', 1},
                                                  {'2', '2', 2},
                                                  {'3', '3', 3},
                                                  {'4', '4', 4},
                                                  {'5', '5', 5},
                                                  {'6', '6', 6},
                                                  {'7', '7', 7},
                                                  {'8', '8', 8},
                                                  {'9', '9', 9},
                                                  {':', 0xd7ff, CLASS_OTHER},
                                                  {0xe000, 0x10ffff, CLASS_OTHER}};

static serverd_status make_table(struct grammar_budget *budget, struct arena *scratch, size_t n,
                                 struct table *out, serverd_error *err)
{
    serverd_status status = grammar_budget_table(budget, n, N_CLASSES, err);
    if (status)
        return status;
    out->rows = arena_array(scratch, n * N_CLASSES, sizeof *out->rows);
    out->labels = arena_alloc(scratch, n);
    if (!out->rows || !out->labels)
        return grammar_budget_memory(err);
    out->raw = (struct raw_automaton){.n_states = (uint32_t)n,
                                      .n_classes = N_CLASSES,
                                      .start = 1,
                                      .next = out->rows,
                                      .labels = out->labels};
    return grammar_budget_spend(budget, n * N_CLASSES, err);
}

static serverd_status build_table(struct grammar_budget *budget, struct arena *scratch,
                                  const struct table *table, const struct automaton **out,
                                  serverd_error *err)
{
    struct class_range ranges[sizeof digit_ranges / sizeof *digit_ranges];
    memcpy(ranges, digit_ranges, sizeof ranges);
    struct alphabet alphabet = {
        .ranges = ranges, .n_ranges = sizeof ranges / sizeof *ranges, .n_classes = N_CLASSES};
    return automaton_build(budget, scratch, &table->raw, &alphabet, out, err);
}

static void link_state(struct table *t, uint32_t from, uint32_t class, uint32_t to)
{
    t->rows[(size_t)from * N_CLASSES + class] = to;
}

/* 0, or up to n_whole digits that do not begin with 0; then, if n_fraction > 0, perhaps a point
 * and up to n_fraction digits. */
static serverd_status make_shape(struct grammar_budget *budget, struct arena *scratch,
                                 uint32_t n_whole, uint32_t n_fraction,
                                 const struct automaton **out, serverd_error *err)
{
    struct table t;
    uint32_t zero = 2, whole = 3, point = whole + n_whole, fraction = point + 1;
    serverd_status status = make_table(budget, scratch, (size_t)fraction + n_fraction, &t, err);
    if (status)
        return status;
    link_state(&t, 1, 0, zero);
    for (uint32_t digit = 1; digit < 10; digit++)
        link_state(&t, 1, digit, whole);
    for (uint32_t i = 0; i + 1 < n_whole; i++)
        for (uint32_t digit = 0; digit < 10; digit++)
            link_state(&t, whole + i, digit, whole + i + 1);
    for (uint32_t i = 0; i < n_fraction; i++)
        for (uint32_t digit = 0; digit < 10; digit++)
            link_state(&t, i == 0 ? point : fraction + i - 1, digit, fraction + i);
    for (uint32_t s = zero; s < point; s++) {
        t.labels[s] = 1;
        if (n_fraction > 0)
            link_state(&t, s, CLASS_POINT, point);
    }
    for (uint32_t i = 0; i < n_fraction; i++)
        t.labels[fraction + i] = 1;
    return build_table(budget, scratch, &t, out, err);
}

enum order {
    ORDER_LESS = 1,
    ORDER_EQUAL = 2,
    ORDER_MORE = 4,
};

/* The digit of a magnitude at a place: 0 is the last one before the point, -1 the first behind. */
static uint32_t digit_at(const struct decimal *d, int64_t place)
{
    int64_t index = (int64_t)d->n_digits - 1 - (place - d->exponent);
    return index >= 0 && index < d->n_digits ? (uint32_t)(d->digits[index] - '0') : 0;
}

/* Texts whose magnitude stands to |bound| as `orders` say. Whole part: state (i digits read, order
 * of them so far); as soon as there are more digits than the bound has, it is more. */
static serverd_status make_compare(struct grammar_budget *budget, struct arena *scratch,
                                   const struct decimal *bound, unsigned orders,
                                   const struct automaton **out, serverd_error *err)
{
    struct table t;
    uint32_t n = decimal_n_whole(bound), n_fraction = decimal_n_fraction(bound);
    n = n > 0 ? n : 1; /* 0.5 is compared as 0 and then 5 */
    /* Whole states: 1 + 3 i + {0 less, 1 equal, 2 more}, i = 0..n; i = 0 has but one. */
    uint32_t longer = 1 + 3 * n + 3, less = longer + 1, more = less + 1, equal = more + 1;
    serverd_status status = make_table(budget, scratch, (size_t)equal + n_fraction + 1, &t, err);
    if (status)
        return status;
    for (uint32_t i = 0; i <= n; i++) {
        for (uint32_t order = 0; order < (i == 0 ? 1u : 3u); order++) {
            uint32_t s = 1 + 3 * i + order;
            for (uint32_t digit = 0; digit < 10; digit++) {
                uint32_t own = digit_at(bound, (int64_t)n - 1 - i);
                uint32_t behind = order;
                if (i == 0 || order == 1)
                    behind = digit < own ? 0 : digit > own ? 2 : 1;
                link_state(&t, s, digit, i == n ? longer : 1 + 3 * (i + 1) + behind);
            }
            if (i == 0)
                continue;
            bool is_less = i < n || order == 0 || (order == 1 && n_fraction > 0);
            t.labels[s] = (orders & (is_less      ? ORDER_LESS
                                     : order == 1 ? ORDER_EQUAL
                                                  : ORDER_MORE)) != 0;
            link_state(&t, s, CLASS_POINT, i < n || order == 0 ? less : order == 1 ? equal : more);
        }
    }
    for (uint32_t digit = 0; digit < 10; digit++) {
        link_state(&t, longer, digit, longer);
        link_state(&t, less, digit, less);
        link_state(&t, more, digit, more);
        for (uint32_t j = 0; j <= n_fraction; j++) {
            uint32_t own = j < n_fraction ? digit_at(bound, -1 - (int64_t)j) : 0;
            uint32_t same = equal + (j < n_fraction ? j + 1 : j);
            link_state(&t, equal + j, digit, digit < own ? less : digit > own ? more : same);
        }
    }
    link_state(&t, longer, CLASS_POINT, more);
    t.labels[less] = (orders & ORDER_LESS) != 0;
    t.labels[longer] = t.labels[more] = (orders & ORDER_MORE) != 0;
    for (uint32_t j = 0; j <= n_fraction; j++)
        t.labels[equal + j] = (orders & (j < n_fraction ? ORDER_LESS : ORDER_EQUAL)) != 0;
    return build_table(budget, scratch, &t, out, err);
}

/* Multiples of c x 10^e, e >= 0: state (remainder of the digits but the last z zeros, z <= e). */
static serverd_status make_whole_multiple(struct grammar_budget *budget, struct arena *scratch,
                                          struct number_step step, const struct automaton **out,
                                          serverd_error *err)
{
    struct table t;
    uint32_t c = (uint32_t)step.coefficient, e = (uint32_t)step.exponent;
    uint32_t zero = 2, fraction = 3, first = 4;
    serverd_status status = make_table(budget, scratch, first + (size_t)c * (e + 1), &t, err);
    if (status)
        return status;
    link_state(&t, 1, 0, zero);
    for (uint32_t digit = 1; digit < 10; digit++)
        link_state(&t, 1, digit, first + digit % c * (e + 1));
    for (uint32_t rest = 0; rest < c; rest++) {
        for (uint32_t z = 0; z <= e; z++) {
            uint32_t s = first + rest * (e + 1) + z;
            link_state(&t, s, 0,
                       z < e ? s + 1 : first + (uint32_t)(rest * 10ull % c) * (e + 1) + e);
            uint64_t shifted = multiply_modulo(rest, power_of_ten_modulo(z + 1ull, c), c);
            for (uint32_t digit = 1; digit < 10; digit++)
                link_state(&t, s, digit, first + (uint32_t)((shifted + digit) % c) * (e + 1));
        }
        status = grammar_budget_spend(budget, e + 1, err);
        if (status)
            return status;
    }
    uint32_t divisible = first + e;
    t.labels[zero] = t.labels[divisible] = t.labels[fraction] = 1;
    link_state(&t, zero, CLASS_POINT, fraction);
    link_state(&t, divisible, CLASS_POINT, fraction);
    link_state(&t, fraction, 0, fraction);
    return build_table(budget, scratch, &t, out, err);
}

/* Multiples of c x 10^-f: state (digits read behind the point: none yet, 0..f; remainder). */
static serverd_status make_fraction_multiple(struct grammar_budget *budget, struct arena *scratch,
                                             struct number_step step, const struct automaton **out,
                                             serverd_error *err)
{
    struct table t;
    uint32_t c = (uint32_t)step.coefficient, f = (uint32_t) - (int64_t)step.exponent;
    serverd_status status = make_table(budget, scratch, 1 + (size_t)c * (f + 2), &t, err);
    if (status)
        return status;
    for (uint32_t stage = 0; stage < f + 2; stage++) { /* 0: whole part; j + 1: j digits behind */
        uint32_t n_missing = stage == 0 ? f : f + 1 - stage;
        uint64_t power = power_of_ten_modulo(n_missing, c);
        for (uint32_t rest = 0; rest < c; rest++) {
            uint32_t s = 1 + stage * c + rest;
            t.labels[s] = multiply_modulo(rest, power, c) == 0;
            if (stage == 0)
                link_state(&t, s, CLASS_POINT, 1 + c + rest);
            for (uint32_t digit = 0; digit < 10; digit++) {
                uint32_t next = (uint32_t)((rest * 10ull + digit) % c);
                if (stage == 0)
                    link_state(&t, s, digit, 1 + next);
                else if (n_missing > 0)
                    link_state(&t, s, digit, 1 + (stage + 1) * c + next);
                else if (digit == 0)
                    link_state(&t, s, digit, s);
            }
        }
        status = grammar_budget_spend(budget, c, err);
        if (status)
            return status;
    }
    return build_table(budget, scratch, &t, out, err);
}

static serverd_status make_multiple(struct grammar_budget *budget, struct arena *scratch,
                                    struct number_step step, const struct automaton **out,
                                    serverd_error *err)
{
    if (step.coefficient > LIMIT_GRAMMAR_MULTIPLE || step.exponent > (int32_t)LIMIT_NUMBER_DIGITS ||
        step.exponent < -(int32_t)LIMIT_NUMBER_DIGITS)
        return fail(err, SERVERD_TIMEOUT,
                    "too complex: a multipleOf of %" PRIu64 "e%d, at most %u significant",
                    step.coefficient, step.exponent, LIMIT_GRAMMAR_MULTIPLE);
    return step.exponent >= 0 ? make_whole_multiple(budget, scratch, step, out, err)
                              : make_fraction_multiple(budget, scratch, step, out, err);
}

/* One sign's magnitudes: low <= |x| <= high. */
struct side {
    const struct decimal *low, *high; /* NULL: no bound */
    bool low_exclusive, high_exclusive;
};

static serverd_status intersect_with(struct grammar_budget *budget, const struct automaton **a,
                                     const struct automaton *b, serverd_error *err)
{
    return automaton_intersect(budget, *a, b, a, err);
}

static serverd_status make_side(struct grammar_budget *budget, struct arena *scratch,
                                const struct number_set *set, const struct side *side,
                                const struct automaton *shape, const struct automaton **out,
                                serverd_error *err)
{
    const struct automaton *all = shape, *part;
    serverd_status status = SERVERD_OK;
    if (side->low) {
        status =
            make_compare(budget, scratch, side->low,
                         side->low_exclusive ? ORDER_MORE : ORDER_MORE | ORDER_EQUAL, &part, err);
        if (!status)
            status = intersect_with(budget, &all, part, err);
    }
    if (!status && side->high) {
        status =
            make_compare(budget, scratch, side->high,
                         side->high_exclusive ? ORDER_LESS : ORDER_LESS | ORDER_EQUAL, &part, err);
        if (!status)
            status = intersect_with(budget, &all, part, err);
    }
    bool is_integer = set->multiple.coefficient == 1 && set->multiple.exponent == 0;
    if (!status && set->multiple.coefficient != 0 && !is_integer) {
        status = make_multiple(budget, scratch, set->multiple, &part, err);
        if (!status)
            status = intersect_with(budget, &all, part, err);
    }
    for (uint32_t i = 0; i < set->n_excluded && !status; i++) {
        status = make_multiple(budget, scratch, set->excluded[i], &part, err);
        if (!status)
            status = automaton_subtract(budget, all, part, &all, err);
    }
    *out = all;
    return status;
}

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t step_digits(struct number_step step)
{
    uint32_t n = 1;
    for (uint64_t c = step.coefficient; c >= 10; c /= 10)
        n++;
    return step.exponent > 0 ? n + (uint32_t)step.exponent : n;
}

/* How many digits there may be: the usual number, or enough to have a member of any non-empty set:
 * one multiple above the bound that is closer to 0, and one digit behind those of the bounds. */
static serverd_status choose_digits(const struct number_set *set, uint32_t *n_whole,
                                    uint32_t *n_fraction, serverd_error *err)
{
    const struct decimal zero = {0};
    const struct decimal *low = set->low_bound != BOUND_NONE ? &set->low : &zero;
    const struct decimal *high = set->high_bound != BOUND_NONE ? &set->high : &zero;
    bool is_one = set->low_bound == BOUND_INCLUSIVE && set->high_bound == BOUND_INCLUSIVE &&
                  decimal_compare(low, high) == 0;
    uint64_t whole = 0;
    if (!low->is_negative)
        whole = decimal_n_whole(low);
    if (high->is_negative)
        whole = decimal_n_whole(high);
    uint32_t fraction = most(decimal_n_fraction(low), decimal_n_fraction(high));
    whole += 1ull + step_digits(set->multiple);
    for (uint32_t i = 0; i < set->n_excluded; i++) {
        whole += step_digits(set->excluded[i]);
        if (set->excluded[i].exponent < 0)
            fraction = most(fraction, (uint32_t) - (int64_t)set->excluded[i].exponent);
    }
    uint32_t usual = set->multiple.coefficient < MULTIPLE_LARGE ? DIGITS_USUAL : DIGITS_FEW;
    whole = whole > usual ? whole : usual;
    if (set->multiple.coefficient != 0)
        fraction = set->multiple.exponent < 0 ? (uint32_t) - (int64_t)set->multiple.exponent : 0;
    else if (!is_one)
        fraction = most(fraction + 1, DIGITS_USUAL);
    if (whole > LIMIT_NUMBER_DIGITS || fraction > LIMIT_NUMBER_DIGITS ||
        decimal_n_whole(low) > LIMIT_NUMBER_DIGITS || decimal_n_whole(high) > LIMIT_NUMBER_DIGITS ||
        decimal_n_fraction(low) > LIMIT_NUMBER_DIGITS ||
        decimal_n_fraction(high) > LIMIT_NUMBER_DIGITS)
        return fail(err, SERVERD_TIMEOUT, "too complex: numbers of more than %u digits",
                    LIMIT_NUMBER_DIGITS);
    *n_whole = (uint32_t)whole;
    *n_fraction = fraction;
    return SERVERD_OK;
}

static serverd_status make_both_sides(struct grammar_budget *budget, struct arena *scratch,
                                      const struct number_set *set, const struct automaton **out,
                                      serverd_error *err)
{
    static const struct decimal zero = {0};
    bool has_low = set->low_bound != BOUND_NONE, has_high = set->high_bound != BOUND_NONE;
    const struct automaton *shape, *positive, *negative, *minus;
    uint32_t n_whole = 0, n_fraction = 0;
    serverd_status status = choose_digits(set, &n_whole, &n_fraction, err);
    if (!status)
        status = make_shape(budget, scratch, n_whole, n_fraction, &shape, err);
    if (!status)
        status = automaton_nothing(budget, &positive, err);
    if (status)
        return status;
    negative = positive;
    if (!has_high || !set->high.is_negative) {
        bool from_low = has_low && !set->low.is_negative;
        struct side side = {.low = from_low ? &set->low : NULL,
                            .low_exclusive = set->low_bound == BOUND_EXCLUSIVE,
                            .high = has_high ? &set->high : NULL,
                            .high_exclusive = set->high_bound == BOUND_EXCLUSIVE};
        status = make_side(budget, scratch, set, &side, shape, &positive, err);
    }
    if (!status && (!has_low || set->low.is_negative)) {
        bool from_high = has_high && set->high.is_negative;
        struct side side = {.low = from_high ? &set->high : &zero, /* no -0 */
                            .low_exclusive = !from_high || set->high_bound == BOUND_EXCLUSIVE,
                            .high = has_low ? &set->low : NULL,
                            .high_exclusive = set->low_bound == BOUND_EXCLUSIVE};
        status = make_side(budget, scratch, set, &side, shape, &negative, err);
    }
    struct text_piece sign = {.bytes = "-", .n = 1};
    if (!status)
        status = automaton_literals(budget, &sign, 1, &minus, err);
    if (!status)
        status = automaton_concat(budget, minus, negative, &negative, err);
    return status ? status : automaton_union(budget, positive, negative, out, err);
}

serverd_status number_set_automaton(struct grammar_budget *budget, const struct number_set *set,
                                    const struct automaton **out, serverd_error *err)
{
    struct arena *scratch = arena_create(LIMIT_GRAMMAR_SCRATCH);
    serverd_status status =
        scratch ? make_both_sides(budget, scratch, set, out, err) : grammar_budget_memory(err);
    arena_destroy(scratch);
    return status;
}
