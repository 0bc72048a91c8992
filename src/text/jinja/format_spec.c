/* "%s" % values, and "{}".format(values). */
#include "base/numeric.h"
#include "text/jinja/eval.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_WIDTH 10000

/* flags, width, precision and type of one conversion. */
struct spec {
    char fill[8]; /* one character */
    char align;   /* < > ^ =, or 0 */
    char sign;    /* + or space, or 0 */
    bool is_alternate, has_comma;
    int width, precision; /* precision -1: none */
    char type;            /* 0: none */
};

static void pad(struct buffer *b, const char *fill, size_t n)
{
    for (size_t i = 0; i < n && !b->is_failed; i++)
        buffer_append_str(b, fill);
}

/* Text in its width. `digits_at`: where padding with align '=' goes (behind a sign). */
static void put_padded(struct buffer *b, const struct spec *spec, const char *s, size_t n,
                       char align, size_t digits_at)
{
    size_t length = text_length((struct text){s, n});
    size_t room = (size_t)spec->width > length ? (size_t)spec->width - length : 0;
    if (align == '=') {
        buffer_append(b, s, digits_at);
        pad(b, spec->fill, room);
        buffer_append(b, s + digits_at, n - digits_at);
        return;
    }
    size_t left = align == '>' ? room : align == '^' ? room / 2 : 0;
    pad(b, spec->fill, left);
    buffer_append(b, s, n);
    pad(b, spec->fill, room - left);
}

static void put_grouped(struct buffer *out, const char *digits)
{
    size_t whole = strcspn(digits, ".eE"), start = digits[0] == '-' || digits[0] == '+';
    for (size_t i = 0; digits[i]; i++) {
        if (i > start && i < whole && (whole - i) % 3 == 0)
            buffer_append_char(out, ',');
        buffer_append_char(out, digits[i]);
    }
}

/* d i, or x X o b with a prefix if the spec asks for one. */
static bool integer_text(struct eval *ev, const struct spec *spec, const struct template_value *v,
                         struct buffer *out)
{
    char digits[68];
    size_t at = sizeof digits - 1;
    double d = value_real(v);
    if (!(d > -9.2e18 && d < 9.2e18) && v->kind == VALUE_FLOAT)
        return eval_fail(ev, "number out of range in a format") != NULL;
    int64_t i = v->kind == VALUE_FLOAT ? (int64_t)d : value_integer(v);
    uint64_t rest = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    unsigned base = spec->type == 'x' || spec->type == 'X' ? 16
                    : spec->type == 'o'                    ? 8
                    : spec->type == 'b'                    ? 2
                                                           : 10;
    digits[at] = '\0';
    do {
        digits[--at] = (spec->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[rest % base];
        rest /= base;
    } while (rest > 0);
    if (i < 0 || spec->sign)
        buffer_append_char(out, i < 0 ? '-' : spec->sign);
    if (spec->is_alternate && base != 10)
        buffer_printf(out, "0%c", spec->type);
    if (spec->has_comma)
        put_grouped(out, digits + at);
    else
        buffer_append_str(out, digits + at);
    return true;
}

static bool real_text(const struct spec *spec, double d, struct buffer *out)
{
    char text[400];
    int precision = spec->precision < 0 ? 6 : spec->precision > 60 ? 60 : spec->precision;
    if (spec->sign && d >= 0.0)
        buffer_append_char(out, spec->sign);
    if (!spec->type && spec->precision < 0) {
        format_float(out, d);
        return true;
    }
    switch (spec->type) {
    case '%':
        (void)snprintf(text, sizeof text, "%.*f%%", precision, d * 100.0);
        break;
    case 'f':
    case 'F':
        (void)snprintf(text, sizeof text, "%.*f", precision, d);
        break;
    case 'e':
        (void)snprintf(text, sizeof text, "%.*e", precision, d);
        break;
    case 'E':
        (void)snprintf(text, sizeof text, "%.*E", precision, d);
        break;
    case 'G':
        (void)snprintf(text, sizeof text, "%.*G", precision, d);
        break;
    default:
        (void)snprintf(text, sizeof text, "%.*g", precision, d);
    }
    if (spec->has_comma)
        put_grouped(out, text);
    else
        buffer_append_str(out, text);
    return true;
}

/* A number by the type: d i x X o b, f F e E g G %, or none. */
static bool number_text(struct eval *ev, const struct spec *spec, const struct template_value *v,
                        struct buffer *out)
{
    if (!value_is_number(v))
        return eval_fail(ev, "a number is required, not %s", value_type_name(v)) != NULL;
    if (spec->type && strchr("dixXob", spec->type))
        return integer_text(ev, spec, v, out);
    if (v->kind != VALUE_FLOAT && (!spec->type || spec->type == 'n'))
        return integer_text(ev, spec, v, out);
    return real_text(spec, value_real(v), out);
}

static bool put_value(struct eval *ev, const struct spec *spec, struct template_value *v,
                      struct buffer *b)
{
    bool is_number = value_is_number(v) && v->kind != VALUE_BOOL && spec->type != 's';
    struct buffer text;
    eval_buffer(ev, &text);
    bool is_good = is_number || (spec->type && strchr("dixXobfFeEgG%", spec->type))
                       ? number_text(ev, spec, v, &text)
                       : format_str(ev, &text, v);
    size_t n = text.len;
    if (!is_number && spec->precision >= 0)
        n = text_offset((struct text){buffer_str(&text), n}, (size_t)spec->precision);
    const char *s = buffer_str(&text);
    size_t sign = n > 0 && (s[0] == '-' || s[0] == '+' || s[0] == ' ');
    if (is_good)
        put_padded(b, spec, s, n, spec->align ? spec->align : is_number ? '>' : '<', sign);
    buffer_deinit(&text);
    return is_good;
}

/* Digits at s[*at]; -1 if there are none. */
static int read_number(const char *s, size_t n, size_t *at)
{
    int value = -1;
    while (*at < n && s[*at] >= '0' && s[*at] <= '9') {
        value = (value < 0 ? 0 : value) * 10 + (s[*at] - '0');
        value = value > MAX_WIDTH ? MAX_WIDTH : value;
        ++*at;
    }
    return value;
}

/* ---- % ---- */

/* Flags, width, precision, type behind a %; the align of printf. */
static bool read_percent_spec(struct text f, size_t *at, struct spec *spec)
{
    *spec = (struct spec){.fill = " ", .align = '>', .precision = -1};
    for (; *at < f.n && f.s[*at] && strchr("-0+ #", f.s[*at]); ++*at) {
        char c = f.s[*at];
        if (c == '-')
            spec->align = '<';
        else if (c == '0' && spec->align != '<') {
            spec->align = '=';
            spec->fill[0] = '0';
        } else if (c == '+' || c == ' ')
            spec->sign = c;
    }
    int width = read_number(f.s, f.n, at);
    spec->width = width < 0 ? 0 : width;
    if (*at < f.n && f.s[*at] == '.') {
        ++*at;
        int precision = read_number(f.s, f.n, at);
        spec->precision = precision < 0 ? 0 : precision;
    }
    while (*at < f.n && f.s[*at] && strchr("hlL", f.s[*at]))
        ++*at;
    if (*at >= f.n)
        return false;
    spec->type = f.s[(*at)++];
    return true;
}

/* The value of one conversion: by (name) from a map, else the next. */
static struct template_value *percent_value(struct eval *ev, struct text f, size_t *at,
                                            const struct arguments *args, size_t *next)
{
    if (*at < f.n && f.s[*at] == '(') {
        const char *end = memchr(f.s + *at, ')', f.n - *at);
        struct text name = {f.s + *at + 1, end ? (size_t)(end - f.s) - *at - 1 : 0};
        struct template_value *map = args->n > 0 ? args->items[0] : args->keywords;
        struct template_value *v = NULL;
        if (end && map && map->kind == VALUE_MAP)
            v = value_map_get_text(map, name);
        if (!v && args->keywords)
            v = value_map_get_text(args->keywords, name);
        *at = end ? (size_t)(end - f.s) + 1 : f.n;
        return v ? v : eval_fail(ev, "format requires a mapping with the key used");
    }
    if (*next >= args->n)
        return eval_fail(ev, "not enough arguments for format string");
    return args->items[(*next)++];
}

static bool put_percent(struct eval *ev, struct text f, size_t *at, const struct arguments *args,
                        size_t *next, struct buffer *b)
{
    struct spec spec;
    struct template_value *v = NULL;
    if (*at < f.n && f.s[*at] == '%') {
        buffer_append_char(b, '%');
        ++*at;
        return true;
    }
    bool is_named = *at < f.n && f.s[*at] == '(';
    if (is_named && !(v = percent_value(ev, f, at, args, next)))
        return false;
    if (!read_percent_spec(f, at, &spec))
        return eval_fail(ev, "incomplete format") != NULL;
    if (!is_named && !(v = percent_value(ev, f, at, args, next)))
        return false;
    if (spec.type == 'r' || spec.type == 's' || spec.type == 'c') {
        struct buffer text;
        eval_buffer(ev, &text);
        if (spec.type == 'r' || v->kind == VALUE_UNDEFINED)
            (void)(spec.type == 'r' ? format_repr(ev, &text, v) : format_str(ev, &text, v));
        else
            (void)format_str(ev, &text, v);
        v = eval_take(ev, &text);
        spec.type = 's';
        return v && put_value(ev, &spec, v, b);
    }
    if (!strchr("dixXofFeEgG", spec.type))
        return eval_fail(ev, "unsupported format character '%c'", spec.type) != NULL;
    return put_value(ev, &spec, v, b);
}

struct template_value *format_percent(struct eval *ev, struct template_value *format,
                                      const struct arguments *args)
{
    struct text f = format->text;
    struct buffer b;
    size_t next = 0;
    bool is_good = true;
    eval_buffer(ev, &b);
    for (size_t at = 0; at < f.n && is_good;) {
        if (f.s[at] != '%') {
            buffer_append_char(&b, f.s[at++]);
            continue;
        }
        at++;
        is_good = put_percent(ev, f, &at, args, &next, &b);
    }
    const bool may_be_unused =
        args->n == 1 && (args->items[0]->kind == VALUE_MAP || args->items[0]->kind == VALUE_LIST);
    if (is_good && next < args->n && !may_be_unused)
        (void)eval_fail(ev, "not all arguments converted during string formatting");
    return eval_take(ev, &b);
}

/* ---- {} ---- */

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static bool read_brace_spec(struct text f, struct spec *spec)
{
    size_t at = 0;
    *spec = (struct spec){.fill = " ", .precision = -1};
    size_t first = text_offset(f, 1);
    if (first < f.n && first < sizeof spec->fill && strchr("<>^=", f.s[first])) {
        memcpy(spec->fill, f.s, first);
        spec->fill[first] = '\0';
        spec->align = f.s[first];
        at = first + 1;
    } else if (f.n > 0 && f.s[0] && strchr("<>^=", f.s[0])) {
        spec->align = f.s[0];
        at = 1;
    }
    if (at < f.n && f.s[at] && strchr("+- ", f.s[at]))
        spec->sign = f.s[at] == '-' ? 0 : f.s[at], at++;
    if (at < f.n && f.s[at] == '#')
        spec->is_alternate = true, at++;
    if (at < f.n && f.s[at] == '0') {
        at++;
        if (!spec->align) {
            spec->align = '=';
            spec->fill[0] = '0';
        }
    }
    int width = read_number(f.s, f.n, &at);
    spec->width = width < 0 ? 0 : width;
    if (at < f.n && f.s[at] == ',')
        spec->has_comma = true, at++;
    if (at < f.n && f.s[at] == '.') {
        at++;
        spec->precision = read_number(f.s, f.n, &at);
    }
    if (at < f.n)
        spec->type = f.s[at++];
    return at == f.n;
}

/* name.attribute[0] of the arguments. */
static struct template_value *brace_value(struct eval *ev, struct text field,
                                          const struct arguments *args, size_t *next)
{
    size_t at = 0;
    while (at < field.n && field.s[at] != '.' && field.s[at] != '[')
        at++;
    struct text name = {field.s, at};
    size_t digits = 0;
    int index = read_number(name.s, name.n, &digits);
    struct template_value *v = NULL;
    if (name.n == 0)
        v = *next < args->n ? args->items[(*next)++] : NULL;
    else if (index >= 0 && digits == name.n)
        v = (size_t)index < args->n ? args->items[index] : NULL;
    else
        v = value_map_get_text(args->keywords, name);
    if (!v)
        return eval_fail(ev, "Replacement index or name out of range in format");
    while (v && at < field.n) {
        bool is_item = field.s[at++] == '[';
        size_t begin = at;
        while (at < field.n &&
               (is_item ? field.s[at] != ']' : field.s[at] != '.' && field.s[at] != '['))
            at++;
        struct text part = {field.s + begin, at - begin};
        digits = 0;
        index = read_number(part.s, part.n, &digits);
        struct template_value *key = is_item && index >= 0 && digits == part.n
                                         ? eval_int(ev, index)
                                         : eval_string(ev, part.s, part.n);
        if (key)
            v = is_item ? eval_item(ev, v, key) : eval_attribute(ev, v, part);
        at += is_item && at < field.n;
    }
    return v;
}

static bool put_brace(struct eval *ev, struct text inside, const struct arguments *args,
                      size_t *next, struct buffer *b)
{
    const char *colon = memchr(inside.s, ':', inside.n), *bang = memchr(inside.s, '!', inside.n);
    size_t field_n = colon ? (size_t)(colon - inside.s) : inside.n;
    bool is_repr = false;
    if (bang && (size_t)(bang - inside.s) < field_n) {
        is_repr = (size_t)(bang - inside.s) + 1 < inside.n && bang[1] == 'r';
        field_n = (size_t)(bang - inside.s);
    }
    struct spec spec;
    struct text spec_text = {"", 0};
    if (colon)
        spec_text = (struct text){colon + 1, inside.n - (size_t)(colon - inside.s) - 1};
    if (!read_brace_spec(spec_text, &spec))
        return eval_fail(ev, "Invalid format specifier") != NULL;
    struct template_value *v = brace_value(ev, (struct text){inside.s, field_n}, args, next);
    if (v && is_repr) {
        struct buffer text;
        eval_buffer(ev, &text);
        (void)format_repr(ev, &text, v);
        v = eval_take(ev, &text);
    }
    return v && put_value(ev, &spec, v, b);
}

struct template_value *format_braces(struct eval *ev, struct template_value *format,
                                     const struct arguments *args)
{
    struct text f = format->text;
    struct buffer b;
    size_t next = 0;
    bool is_good = true;
    eval_buffer(ev, &b);
    for (size_t at = 0; at < f.n && is_good;) {
        char c = f.s[at];
        bool is_double = at + 1 < f.n && f.s[at + 1] == c;
        if ((c != '{' && c != '}') || is_double) {
            buffer_append_char(&b, c);
            at += 1 + ((c == '{' || c == '}') && is_double);
            continue;
        }
        const char *end = c == '{' ? memchr(f.s + at, '}', f.n - at) : NULL;
        if (!end) {
            (void)eval_fail(ev, "Single '%c' encountered in format string", c);
            break;
        }
        is_good = put_brace(ev, (struct text){f.s + at + 1, (size_t)(end - f.s) - at - 1}, args,
                            &next, &b);
        at = (size_t)(end - f.s) + 1;
    }
    return eval_take(ev, &b);
}
