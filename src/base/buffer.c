#include "base/buffer.h"

#include "base/numeric.h"
#include "base/utf8.h"

#include <assert.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 64u

void buffer_init(struct buffer *b, size_t limit)
{
    *b = (struct buffer){.limit = limit};
}

void buffer_deinit(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){.limit = b->limit};
}

void buffer_reset(struct buffer *b)
{
    b->len = 0;
    b->is_failed = false;
    if (b->data)
        b->data[0] = '\0';
}

/* Room for n more bytes and the NUL; on failure the buffer is failed. `cap` does not count the
 * NUL, so that it never exceeds the limit. */
static bool reserve(struct buffer *b, size_t n)
{
    if (b->is_failed)
        return false;
    size_t need;
    if (!size_add(b->len, n, &need) || need > b->limit || need == SIZE_MAX) {
        b->is_failed = true;
        return false;
    }
    if (b->data && need <= b->cap)
        return true;
    size_t cap = max_size(b->cap > b->limit / 2 ? b->limit : b->cap * 2, FIRST_CAP);
    cap = max_size(min_size(cap, b->limit), need);
    if (cap == SIZE_MAX)
        cap = need;
    char *data = realloc(b->data, cap + 1);
    if (!data) {
        b->is_failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    b->data[b->len] = '\0';
    return true;
}

void buffer_reserve(struct buffer *b, size_t n)
{
    (void)reserve(b, n);
}

void buffer_append(struct buffer *b, const void *bytes, size_t n)
{
    if (n == 0 || !reserve(b, n))
        return;
    memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = '\0';
}

void buffer_append_str(struct buffer *b, const char *s)
{
    buffer_append(b, s, strlen(s));
}

void buffer_append_char(struct buffer *b, char c)
{
    buffer_append(b, &c, 1);
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) {
        b->is_failed = true;
        return;
    }
    if (!reserve(b, (size_t)n))
        return;
    va_start(args, format);
    (void)vsnprintf(b->data + b->len, (size_t)n + 1, format, args); /* the same length again */
    va_end(args);
    b->len += (size_t)n;
}

static const char *json_escape(unsigned char c, char room[8])
{
    switch (c) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\b':
        return "\\b";
    case '\f':
        return "\\f";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    default:
        (void)snprintf(room, 8, "\\u%04x", c);
        return room;
    }
}

void buffer_append_json(struct buffer *b, const char *bytes, size_t n)
{
    size_t start = 0, i = 0; /* bytes[start..i-1] are to be copied as they are */
    while (i < n) {
        unsigned char c = (unsigned char)bytes[i];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            i++;
            continue;
        }
        uint32_t code_point;
        size_t used = utf8_decode(bytes + i, n - i, &code_point);
        if (code_point >= 0x80 && code_point != UTF8_REPLACEMENT) {
            i += used;
            continue;
        }
        buffer_append(b, bytes + start, i - start);
        char room[8];
        buffer_append_str(b, c >= 0x80 ? "\xef\xbf\xbd" : json_escape(c, room));
        i += used;
        start = i;
    }
    buffer_append(b, bytes + start, n - start);
}

void buffer_append_json_string(struct buffer *b, const char *bytes, size_t n)
{
    buffer_append_char(b, '"');
    buffer_append_json(b, bytes, n);
    buffer_append_char(b, '"');
}

/* ---- numbers ---- */

void buffer_append_html(struct buffer *b, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '<':
            buffer_append_str(b, "&lt;");
            break;
        case '>':
            buffer_append_str(b, "&gt;");
            break;
        case '&':
            buffer_append_str(b, "&amp;");
            break;
        case '"':
            buffer_append_str(b, "&quot;");
            break;
        default:
            buffer_append_char(b, *text);
        }
    }
}

void buffer_append_u64(struct buffer *b, uint64_t x)
{
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + x % 10);
    while ((x /= 10) > 0);
    buffer_append(b, digits + at, sizeof digits - at);
}

/* A decimal: 0.DIGITS * 10^exponent. */
struct decimal {
    char digits[20]; /* no trailing zeros but for "0" */
    int n_digits, exponent;
};

/* printf's %e is taken apart digit by digit, whatever the locale's decimal point is. */
static struct decimal read_decimal(const char *text)
{
    struct decimal d = {0};
    const char *s = text;
    for (; *s && *s != 'e'; s++)
        if (*s >= '0' && *s <= '9' && d.n_digits < (int)sizeof d.digits - 1)
            d.digits[d.n_digits++] = *s;
    while (d.n_digits > 1 && d.digits[d.n_digits - 1] == '0')
        d.n_digits--;
    d.digits[d.n_digits] = '\0';
    bool is_negative = false;
    for (; *s; s++) {
        if (*s == '-')
            is_negative = true;
        else if (*s >= '0' && *s <= '9')
            d.exponent = d.exponent * 10 + (*s - '0');
    }
    d.exponent = (is_negative ? -d.exponent : d.exponent) + 1;
    return d;
}

/* "0.ddd" * 10^e read back in the C locale. */
static void print_decimal_for_reading(const struct decimal *d, char out[40])
{
    (void)snprintf(out, 40, ".%se%d", d->digits, d->exponent);
}

/* Fixed form for 1e-4 <= x < 1e16, else with an exponent of two digits or more; always with a
 * point or an exponent, so that a reader sees a float. */
static void append_decimal(struct buffer *b, const struct decimal *d)
{
    int n = d->n_digits, e = d->exponent;
    const char *digits = d->digits;
    if (e > 16 || e < -3) {
        buffer_append(b, digits, 1);
        if (n > 1) {
            buffer_append_char(b, '.');
            buffer_append(b, digits + 1, (size_t)n - 1);
        }
        buffer_printf(b, "e%c%02d", e - 1 < 0 ? '-' : '+', abs(e - 1));
    } else if (e <= 0) {
        buffer_append(b, "0.000", (size_t)(2 - e));
        buffer_append(b, digits, (size_t)n);
    } else if (n <= e) {
        buffer_append(b, digits, (size_t)n);
        buffer_append(b, "0000000000000000", (size_t)(e - n));
        buffer_append(b, ".0", 2);
    } else {
        buffer_append(b, digits, (size_t)e);
        buffer_append_char(b, '.');
        buffer_append(b, digits + e, (size_t)(n - e));
    }
}

static void append_zero(struct buffer *b, bool is_negative)
{
    buffer_append_str(b, is_negative ? "-0.0" : "0.0");
}

/* The "C" locale is a constant of the library: nothing is allocated. */
static locale_t c_locale(void)
{
    return newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

static double read_f64(const char *text)
{
    return strtod_l(text, NULL, c_locale());
}

static double read_f32(const char *text)
{
    return (double)strtof_l(text, NULL, c_locale());
}

/* x with as few digits as read back to x, tried from min_digits on. A decimal of up to
 * DBL_DIG (FLT_DIG) digits survives the way through a normal double (float), so nothing is
 * missed by starting there. */
static void append_shortest(struct buffer *b, double x, int min_digits, int max_digits,
                            double (*read)(const char *text))
{
    if (x < 0) {
        buffer_append_char(b, '-');
        x = -x;
    }
    for (int n = min_digits;; n++) {
        char text[40];
        (void)snprintf(text, sizeof text, "%.*e", n - 1, x);
        struct decimal d = read_decimal(text);
        print_decimal_for_reading(&d, text);
        if (n >= max_digits || read(text) == x) {
            append_decimal(b, &d);
            return;
        }
    }
}

void buffer_append_f32(struct buffer *b, float x)
{
    if (!isfinite(x) || x == 0)
        append_zero(b, x == 0 && signbit(x));
    else
        append_shortest(b, (double)x, fabsf(x) < FLT_MIN ? 1 : FLT_DIG, 9, read_f32);
}

void buffer_append_f64(struct buffer *b, double x)
{
    if (!isfinite(x) || x == 0)
        append_zero(b, x == 0 && signbit(x));
    else
        append_shortest(b, x, fabs(x) < DBL_MIN ? 1 : DBL_DIG, 17, read_f64);
}

/* ---- handing over ---- */

void buffer_consume(struct buffer *b, size_t n)
{
    assert(n <= b->len);
    n = min_size(n, b->len);
    if (n == 0)
        return;
    b->len -= n;
    memmove(b->data, b->data + n, b->len + 1);
}

char *buffer_take(struct buffer *b, size_t *len)
{
    if (!reserve(b, 0)) {
        buffer_deinit(b);
        return NULL;
    }
    char *data = b->data;
    if (len)
        *len = b->len;
    *b = (struct buffer){.limit = b->limit};
    return data;
}

const char *buffer_str(const struct buffer *b)
{
    return b->data ? b->data : "";
}
