#include "base/numeric.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>

uint16_t f32_to_f16(float x)
{
    uint32_t bits = f32_bits(x), magnitude = bits & 0x7fffffffu;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    if (magnitude > 0x7f800000u) /* NaN: quiet, upper bits of the payload kept */
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        /* Below 2^-14 a half is a multiple of 2^-24. Adding 0.5, whose last bit is worth 2^-24,
         * makes the unit round there, to nearest even. */
        float shifted = f32_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (f32_bits(shifted) - 0x3f000000u));
    }
    uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | ((rounded - (112u << 23)) >> 13));
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits from *s on; false if there is none or on overflow. *s is moved behind them. */
static bool read_digits(const char **s, uint64_t *out)
{
    uint64_t value = 0;
    if (!is_digit(**s))
        return false;
    for (; is_digit(**s); (*s)++) {
        uint64_t digit = (uint64_t)(**s - '0');
        if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return false;
    }
    *out = value;
    return true;
}

bool parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t value;
    if (!read_digits(&s, &value) || *s != '\0' || value < min || value > max)
        return false;
    *out = value;
    return true;
}

bool parse_i64(const char *s, int64_t min, int64_t max, int64_t *out)
{
    bool is_negative = *s == '-';
    uint64_t magnitude;
    s += is_negative;
    if (!read_digits(&s, &magnitude) || *s != '\0')
        return false;
    if (magnitude > (uint64_t)INT64_MAX + is_negative)
        return false;
    int64_t value = (int64_t)(is_negative ? 0 - magnitude : magnitude);
    if (value < min || value > max)
        return false;
    *out = value;
    return true;
}

/* [+-] (digits [. [digits]] | . digits) [(e|E) [+-] digits], and nothing else: no hexadecimal,
 * no "inf", no spaces. */
static bool is_decimal(const char *s)
{
    size_t n_digits = 0;
    s += *s == '-' || *s == '+';
    for (; is_digit(*s); s++)
        n_digits++;
    if (*s == '.')
        for (s++; is_digit(*s); s++)
            n_digits++;
    if (n_digits == 0)
        return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '-' || *s == '+';
        if (!is_digit(*s))
            return false;
        while (is_digit(*s))
            s++;
    }
    return *s == '\0';
}

bool parse_f64(const char *s, double *out)
{
    if (!is_decimal(s))
        return false;
    /* The "C" locale is a constant of the library: nothing is allocated. */
    double value = strtod_l(s, NULL, newlocale(LC_ALL_MASK, "C", (locale_t)0));
    if (!isfinite(value))
        return false;
    *out = value;
    return true;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

bool parse_size(const char *s, uint64_t *out)
{
    static const char units[] = "kmgt";
    uint64_t value;
    if (!read_digits(&s, &value))
        return false;
    while (*s == ' ')
        s++;
    const char *unit = *s ? strchr(units, lower(*s)) : NULL;
    if (unit) {
        uint64_t factor = (uint64_t)1 << (10 * (unit - units + 1));
        if (__builtin_mul_overflow(value, factor, &value))
            return false;
        s++;
        if (lower(s[0]) == 'i' && lower(s[1]) == 'b')
            s++;
    }
    s += lower(*s) == 'b';
    if (*s != '\0')
        return false;
    *out = value;
    return true;
}
