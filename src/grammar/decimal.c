/* Exact decimals: JSON's numbers as digits and a power of ten. */
#include "grammar/number_set.h"

#include <string.h>

#define EXPONENT_MAX 1000000000

static size_t count_digits(const char *text, size_t n)
{
    size_t k = 0;
    while (k < n && text[k] >= '0' && text[k] <= '9')
        k++;
    return k;
}

static int32_t clamp(int64_t exponent)
{
    return (int32_t)(exponent > EXPONENT_MAX    ? EXPONENT_MAX
                     : exponent < -EXPONENT_MAX ? -EXPONENT_MAX
                                                : exponent);
}

/* Behind e or E: sign and digits up to the end. */
static bool parse_exponent(const char *text, size_t n, int64_t *out)
{
    bool is_negative = n > 0 && *text == '-';
    size_t at = n > 0 && (*text == '-' || *text == '+');
    int64_t value = 0;
    if (at == n || count_digits(text + at, n - at) != n - at)
        return false;
    for (; at < n; at++)
        if (value < 4 * (int64_t)EXPONENT_MAX)
            value = value * 10 + (text[at] - '0');
    *out = is_negative ? -value : value;
    return true;
}

bool decimal_parse(struct arena *arena, const char *text, size_t n, struct decimal *out)
{
    bool is_negative = n > 0 && *text == '-';
    int64_t exponent = 0;
    text += is_negative;
    n -= is_negative;
    size_t n_whole = count_digits(text, n), n_fraction = 0, at = n_whole;
    if (n_whole == 0 || (n_whole > 1 && *text == '0'))
        return false;
    const char *fraction = text + at;
    if (at < n && text[at] == '.') {
        fraction = text + at + 1;
        n_fraction = count_digits(fraction, n - at - 1);
        if (n_fraction == 0)
            return false;
        at += 1 + n_fraction;
    }
    if (at < n && ((text[at] != 'e' && text[at] != 'E') ||
                   !parse_exponent(text + at + 1, n - at - 1, &exponent)))
        return false;
    if (n_whole + n_fraction > EXPONENT_MAX)
        return false;
    char *digits = arena_alloc(arena, n_whole + n_fraction);
    if (!digits)
        return false;
    memcpy(digits, text, n_whole);
    memcpy(digits + n_whole, fraction, n_fraction);
    size_t n_digits = n_whole + n_fraction, n_zeros = 0;
    exponent -= (int64_t)n_fraction;
    for (; n_digits > 0 && digits[n_digits - 1] == '0'; n_digits--)
        exponent++;
    while (n_zeros < n_digits && digits[n_zeros] == '0')
        n_zeros++;
    *out = (struct decimal){.digits = digits + n_zeros,
                            .n_digits = (uint32_t)(n_digits - n_zeros),
                            .exponent = n_digits > 0 ? clamp(exponent) : 0,
                            .is_negative = is_negative && n_digits > 0};
    return true;
}

static int compare_magnitude(const struct decimal *a, const struct decimal *b)
{
    if (a->n_digits == 0 || b->n_digits == 0)
        return (a->n_digits > 0) - (b->n_digits > 0);
    int64_t top_a = (int64_t)a->n_digits + a->exponent, top_b = (int64_t)b->n_digits + b->exponent;
    if (top_a != top_b)
        return top_a < top_b ? -1 : 1;
    uint32_t n = a->n_digits < b->n_digits ? a->n_digits : b->n_digits;
    int order = memcmp(a->digits, b->digits, n);
    /* No trailing zeros: who has more digits is larger. */
    return order != 0 ? order : (a->n_digits > b->n_digits) - (a->n_digits < b->n_digits);
}

int decimal_compare(const struct decimal *a, const struct decimal *b)
{
    if (a->is_negative != b->is_negative)
        return a->is_negative ? -1 : 1;
    return a->is_negative ? compare_magnitude(b, a) : compare_magnitude(a, b);
}

bool decimal_is_integer(const struct decimal *d)
{
    return d->exponent >= 0;
}
