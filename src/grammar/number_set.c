#include "grammar/number_set.h"

#include "base/error.h"
#include "grammar/number_internal.h"
#include "grammar/regex.h"

#include <string.h>

#define TRIES 10000 /* multiples that are tried out before the automaton is asked */

uint64_t multiply_modulo(uint64_t a, uint64_t b, uint64_t m)
{
    return (uint64_t)((unsigned __int128)a * b % m);
}

uint64_t power_of_ten_modulo(uint64_t n, uint64_t m)
{
    uint64_t result = 1 % m, square = 10 % m;
    for (; n > 0; n >>= 1) {
        if (n & 1)
            result = multiply_modulo(result, square, m);
        square = multiply_modulo(square, square, m);
    }
    return result;
}

uint32_t decimal_n_whole(const struct decimal *d)
{
    int64_t n = (int64_t)d->n_digits + d->exponent;
    return n > 0 ? (uint32_t)n : 0;
}

uint32_t decimal_n_fraction(const struct decimal *d)
{
    return d->exponent < 0 ? (uint32_t) - (int64_t)d->exponent : 0;
}

struct number_set number_set_all(void)
{
    return (struct number_set){0};
}

struct number_set number_set_integers(void)
{
    return (struct number_set){.multiple = {.coefficient = 1}};
}

struct number_set number_set_value(const struct decimal *value)
{
    return (struct number_set){
        .low = *value, .high = *value, .low_bound = BOUND_INCLUSIVE, .high_bound = BOUND_INCLUSIVE};
}

serverd_status number_step_make(const struct decimal *value, struct number_step *out,
                                serverd_error *err)
{
    if (value->n_digits == 0 || value->is_negative)
        return fail(err, SERVERD_INVALID, "multipleOf must be more than 0");
    if (value->n_digits > 18)
        return fail(err, SERVERD_TIMEOUT,
                    "too complex: multipleOf of %u significant digits, at most 18 allowed",
                    value->n_digits);
    *out = (struct number_step){.exponent = value->exponent};
    for (uint32_t i = 0; i < value->n_digits; i++)
        out->coefficient = out->coefficient * 10 + (uint64_t)(value->digits[i] - '0');
    return SERVERD_OK;
}

static bool is_multiple(const struct decimal *value, struct number_step step)
{
    uint64_t m = step.coefficient, remainder = 0;
    if (value->n_digits == 0 || m == 0)
        return true;
    if (value->exponent < step.exponent)
        return false; /* the last digit is not 0 */
    for (uint32_t i = 0; i < value->n_digits; i++)
        remainder =
            (uint64_t)(((unsigned __int128)remainder * 10 + (unsigned)(value->digits[i] - '0')) %
                       m);
    uint64_t shift = (uint64_t)((int64_t)value->exponent - step.exponent);
    return multiply_modulo(remainder, power_of_ten_modulo(shift, m), m) == 0;
}

/* Every multiple of `a` is one of `b`. */
static bool divides(struct number_step b, struct number_step a)
{
    int64_t shift = (int64_t)a.exponent - b.exponent;
    /* a = k x b: without trailing zeros in a's coefficient, a negative shift leaves a fraction. */
    return shift >= 0 &&
           multiply_modulo(a.coefficient % b.coefficient,
                           power_of_ten_modulo((uint64_t)shift, b.coefficient), b.coefficient) == 0;
}

static bool scale(struct number_step step, int32_t exponent, uint64_t *out)
{
    uint64_t value = step.coefficient;
    for (int64_t i = exponent; i < step.exponent; i++)
        if (__builtin_mul_overflow(value, 10, &value) || value > STEP_MAX)
            return false;
    *out = value;
    return true;
}

static uint64_t greatest_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The least common multiple; a step of 0 is none. */
static serverd_status join_steps(struct number_step a, struct number_step b,
                                 struct number_step *out, serverd_error *err)
{
    if (a.coefficient == 0 || (b.coefficient != 0 && divides(a, b))) {
        *out = b;
        return SERVERD_OK;
    }
    if (b.coefficient == 0 || divides(b, a)) {
        *out = a;
        return SERVERD_OK;
    }
    int32_t exponent = a.exponent < b.exponent ? a.exponent : b.exponent;
    uint64_t x, y, joined;
    if (!scale(a, exponent, &x) || !scale(b, exponent, &y) ||
        __builtin_mul_overflow(x / greatest_divisor(x, y), y, &joined) || joined > STEP_MAX)
        return fail(err, SERVERD_TIMEOUT,
                    "too complex: the least common multiple of several multipleOf has more than "
                    "18 significant digits");
    for (; joined % 10 == 0; joined /= 10)
        exponent++;
    *out = (struct number_step){.coefficient = joined, .exponent = exponent};
    return SERVERD_OK;
}

/* Of two lower bounds (sign 1) or upper bounds (sign -1) the stricter one. */
static bool is_stricter(const struct decimal *a, enum number_bound a_bound, const struct decimal *b,
                        enum number_bound b_bound, int sign)
{
    if (a_bound == BOUND_NONE || b_bound == BOUND_NONE)
        return b_bound == BOUND_NONE;
    int order = decimal_compare(a, b) * sign;
    return order > 0 || (order == 0 && a_bound == BOUND_EXCLUSIVE);
}

static serverd_status add_excluded(struct number_set *set, struct number_step step,
                                   serverd_error *err)
{
    for (uint32_t i = 0; i < set->n_excluded; i++)
        if (set->excluded[i].coefficient == step.coefficient &&
            set->excluded[i].exponent == step.exponent)
            return SERVERD_OK;
    if (set->n_excluded == LIMIT_NUMBER_PARTS)
        return fail(err, SERVERD_TIMEOUT, "too complex: more than %u multiples left out",
                    LIMIT_NUMBER_PARTS);
    set->excluded[set->n_excluded++] = step;
    return SERVERD_OK;
}

serverd_status number_set_intersect(struct grammar_budget *budget, const struct number_set *a,
                                    const struct number_set *b, struct number_set *out,
                                    serverd_error *err)
{
    struct number_set both = {0};
    bool a_low = is_stricter(&a->low, a->low_bound, &b->low, b->low_bound, 1);
    bool a_high = is_stricter(&a->high, a->high_bound, &b->high, b->high_bound, -1);
    both.low = a_low ? a->low : b->low;
    both.low_bound = a_low ? a->low_bound : b->low_bound;
    both.high = a_high ? a->high : b->high;
    both.high_bound = a_high ? a->high_bound : b->high_bound;
    both.excluded = arena_array(budget->arena, LIMIT_NUMBER_PARTS, sizeof *both.excluded);
    if (!both.excluded)
        return grammar_budget_memory(err);
    serverd_status status = join_steps(a->multiple, b->multiple, &both.multiple, err);
    for (uint32_t i = 0; i < a->n_excluded && !status; i++)
        status = add_excluded(&both, a->excluded[i], err);
    for (uint32_t i = 0; i < b->n_excluded && !status; i++)
        status = add_excluded(&both, b->excluded[i], err);
    if (!status)
        *out = both;
    return status;
}

static enum number_bound flipped(enum number_bound bound)
{
    return bound == BOUND_INCLUSIVE ? BOUND_EXCLUSIVE : BOUND_INCLUSIVE;
}

serverd_status number_set_complement(struct grammar_budget *budget, const struct number_set *a,
                                     struct number_set **out, size_t *n_out, serverd_error *err)
{
    struct number_set *parts = arena_array(budget->arena, 3 + (size_t)a->n_excluded, sizeof *parts);
    size_t n = 0;
    if (!parts)
        return grammar_budget_memory(err);
    bool is_bounded = a->low_bound != BOUND_NONE && a->high_bound != BOUND_NONE;
    int order = is_bounded ? decimal_compare(&a->low, &a->high) : -1;
    if (order > 0 || (order == 0 && !number_set_has(a, &a->low))) { /* nothing: all the rest */
        parts[n++] = number_set_all();
        *out = parts;
        *n_out = n;
        return SERVERD_OK;
    }
    if (a->low_bound != BOUND_NONE)
        parts[n++] = (struct number_set){.high = a->low, .high_bound = flipped(a->low_bound)};
    if (a->high_bound != BOUND_NONE)
        parts[n++] = (struct number_set){.low = a->high, .low_bound = flipped(a->high_bound)};
    struct number_set inside = *a; /* the interval alone */
    inside.multiple = (struct number_step){0};
    inside.excluded = NULL;
    inside.n_excluded = 0;
    if (a->multiple.coefficient != 0) {
        parts[n] = inside;
        parts[n].excluded = arena_array(budget->arena, 1, sizeof *parts->excluded);
        if (!parts[n].excluded)
            return grammar_budget_memory(err);
        parts[n].excluded[0] = a->multiple;
        parts[n++].n_excluded = 1;
    }
    for (uint32_t i = 0; i < a->n_excluded; i++) { /* not of the ones before: disjoint */
        parts[n] = inside;
        parts[n].excluded = a->excluded;
        parts[n].n_excluded = i;
        serverd_status status = join_steps(a->multiple, a->excluded[i], &parts[n++].multiple, err);
        if (status)
            return status;
    }
    *out = parts;
    *n_out = n;
    return SERVERD_OK;
}

bool number_set_has(const struct number_set *set, const struct decimal *value)
{
    if (set->low_bound != BOUND_NONE) {
        int order = decimal_compare(value, &set->low);
        if (order < 0 || (order == 0 && set->low_bound == BOUND_EXCLUSIVE))
            return false;
    }
    if (set->high_bound != BOUND_NONE) {
        int order = decimal_compare(value, &set->high);
        if (order > 0 || (order == 0 && set->high_bound == BOUND_EXCLUSIVE))
            return false;
    }
    for (uint32_t i = 0; i < set->n_excluded; i++)
        if (is_multiple(value, set->excluded[i]))
            return false;
    return is_multiple(value, set->multiple);
}

/* value x 10^-exponent rounded down (or up) to an integer; false if it does not fit. */
static bool scale_bound(const struct decimal *value, int32_t exponent, bool up, __int128 *out)
{
    __int128 result = 0;
    bool has_rest = false;
    int64_t n = (int64_t)value->n_digits + value->exponent - exponent; /* digits of the result */
    if (n > 36)
        return false;
    for (int64_t i = 0; i < n; i++)
        result = result * 10 + (i < value->n_digits ? value->digits[i] - '0' : 0);
    has_rest = n < 0 ? value->n_digits > 0 : value->n_digits > n;
    if (value->is_negative)
        result = -result;
    if (has_rest && up != value->is_negative)
        result += up ? 1 : -1;
    *out = result;
    return true;
}

static __int128 divide_down(__int128 a, __int128 b)
{
    return a / b - (a % b != 0 && a < 0);
}

/* k x step as a decimal, its digits in `digits`. */
static struct decimal multiple_of(__int128 k, struct number_step step, char digits[64])
{
    __int128 value = k * (__int128)step.coefficient;
    struct decimal out = {.exponent = step.exponent, .is_negative = value < 0};
    size_t at = 64;
    if (value == 0)
        return (struct decimal){0};
    for (value = value < 0 ? -value : value; value % 10 == 0; value /= 10)
        out.exponent++;
    for (; value > 0; value /= 10)
        digits[--at] = (char)('0' + (int)(value % 10));
    out.digits = digits + at;
    out.n_digits = (uint32_t)(64 - at);
    return out;
}

/* Bounded on both sides and with a multiple: tries the multiples. false: cannot tell. */
static bool try_multiples(const struct number_set *set, bool *is_empty)
{
    __int128 low, high, c = (__int128)set->multiple.coefficient;
    char digits[64];
    if (!scale_bound(&set->low, set->multiple.exponent, true, &low) ||
        !scale_bound(&set->high, set->multiple.exponent, false, &high))
        return false;
    low = -divide_down(-low, c);
    high = divide_down(high, c);
    for (int i = 0; i < TRIES && low <= high; i++, low++) {
        struct decimal value = multiple_of(low, set->multiple, digits);
        if (number_set_has(set, &value)) {
            *is_empty = false;
            return true;
        }
    }
    *is_empty = true;
    return low > high;
}

serverd_status number_set_is_empty(struct grammar_budget *budget, const struct number_set *set,
                                   bool *out, serverd_error *err)
{
    bool is_bounded = set->low_bound != BOUND_NONE && set->high_bound != BOUND_NONE;
    int order = is_bounded ? decimal_compare(&set->low, &set->high) : -1;
    if (order >= 0) {
        *out = order > 0 || !number_set_has(set, &set->low);
        return SERVERD_OK;
    }
    if (set->multiple.coefficient == 0) { /* decimals lie between any two numbers */
        *out = false;
        return SERVERD_OK;
    }
    for (uint32_t i = 0; i < set->n_excluded; i++) {
        if (divides(set->excluded[i], set->multiple)) {
            *out = true;
            return SERVERD_OK;
        }
    }
    /* Of endless multiples k x m those with k = 1 modulo every excluded ratio remain. */
    if (!is_bounded) {
        *out = false;
        return SERVERD_OK;
    }
    if (try_multiples(set, out))
        return SERVERD_OK;
    const struct automaton *automaton;
    serverd_status status = number_set_automaton(budget, set, &automaton, err);
    if (!status)
        *out = automaton_is_empty(automaton);
    return status;
}

serverd_status number_text_automaton(struct grammar_budget *budget, const struct automaton **out,
                                     serverd_error *err)
{
    static const char json[] = "-?(?:0|[1-9][0-9]*)(?:\\.[0-9]+)?(?:[eE][-+]?[0-9]+)?";
    struct string_set set;
    serverd_status status = regex_compile(budget, json, sizeof json - 1, REGEX_WHOLE, &set, err);
    if (!status)
        *out = set.automaton;
    return status;
}
