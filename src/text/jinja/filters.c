/* Filters of single values and of text, by name; those of sequences are in filters_list.c. */
#include "text/jinja/filters.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "text/jinja/text_internal.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define FILTER(name)                                                                               \
    static struct template_value *name(struct eval *ev, struct template_value *v,                  \
                                       const struct arguments *a)

int64_t filter_integer(const struct arguments *a, size_t i, const char *name, int64_t fallback)
{
    const struct template_value *v = argument(a, i, name);
    return v && value_is_number(v) ? value_integer(v) : fallback;
}

bool filter_bool(const struct arguments *a, size_t i, const char *name, bool fallback)
{
    const struct template_value *v = argument(a, i, name);
    return v ? value_is_true(v) : fallback;
}

/* ---- text ---- */

FILTER(filter_trim)
{
    v = format_text(ev, v);
    struct text t = v ? text_strip(v->text, argument(a, 0, "chars"), 3) : (struct text){"", 0};
    return v ? eval_string(ev, t.s, t.n) : NULL;
}

FILTER(filter_string)
{
    (void)a;
    return format_text(ev, v);
}

static struct template_value *by_method(struct eval *ev, struct template_value *v,
                                        const struct arguments *a, const char *name)
{
    v = format_text(ev, v);
    return v ? eval_method(ev, v, (struct text){name, strlen(name)}, a) : NULL;
}

FILTER(filter_upper)
{
    return by_method(ev, v, a, "upper");
}

FILTER(filter_lower)
{
    return by_method(ev, v, a, "lower");
}

FILTER(filter_capitalize)
{
    return by_method(ev, v, a, "capitalize");
}

FILTER(filter_replace)
{
    struct template_value *items[3] = {argument(a, 0, "old"), argument(a, 1, "new"),
                                       argument(a, 2, "count")};
    for (size_t i = 0; i < 2; i++)
        if (!items[i])
            return eval_fail(ev, "replace takes two texts");
        else if (!(items[i] = format_text(ev, items[i])))
            return NULL;
    const struct arguments args = {items, items[2] ? 3 : 2, a->keywords};
    return by_method(ev, v, &args, "replace");
}

/* Jinja's title: a letter at the start and behind white space, - ( { [ < is raised. */
FILTER(filter_title)
{
    struct template_value *lower = by_method(ev, v, a, "lower");
    struct buffer b;
    bool is_start = true;
    if (!lower)
        return NULL;
    eval_buffer(ev, &b);
    for (size_t at = 0; at < lower->text.n && !ev->status;) {
        const char *s = lower->text.s + at;
        size_t n = text_offset((struct text){s, lower->text.n - at}, 1);
        struct template_value *letter = is_start ? eval_string(ev, s, n) : NULL;
        if (letter)
            letter = eval_method(ev, letter, (struct text){"upper", 5}, a);
        if (letter)
            buffer_append(&b, letter->text.s, letter->text.n);
        else
            buffer_append(&b, s, n);
        is_start = text_is_space(s, n) || (n == 1 && *s && strchr("-({[<", *s));
        at += n;
    }
    return eval_take(ev, &b);
}

FILTER(filter_center)
{
    struct template_value *items[] = {argument(a, 0, "width")};
    if (!items[0] && !(items[0] = eval_int(ev, 80)))
        return NULL;
    const struct arguments width = {items, 1, a->keywords};
    return by_method(ev, v, &width, "center");
}

FILTER(filter_indent)
{
    const struct template_value *width = argument(a, 0, "width");
    bool first = filter_bool(a, 1, "first", false), blank = filter_bool(a, 2, "blank", false);
    struct text space = {"                                                                ", 4};
    if (width && width->kind == VALUE_STRING)
        space = width->text;
    else if (width && value_is_number(width))
        space.n = value_integer(width) < 0 ? 0 : min_size((size_t)value_integer(width), 64);
    struct buffer b;
    v = format_text(ev, v);
    if (!v)
        return NULL;
    eval_buffer(ev, &b);
    const struct text t = v->text;
    for (size_t begin = 0; begin <= t.n;) {
        size_t end = begin, n = 0;
        while (end < t.n && !(n = text_line_break((struct text){t.s + end, t.n - end})))
            end++;
        const bool is_first = begin == 0, is_blank = end == begin;
        if (is_first ? first : (blank || !is_blank))
            buffer_append(&b, space.s, space.n);
        buffer_append(&b, t.s + begin, end - begin);
        if (n == 0)
            break;
        buffer_append_char(&b, '\n');
        begin = end + n;
    }
    return eval_take(ev, &b);
}

FILTER(filter_escape)
{
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    struct buffer b;
    (void)a;
    v = format_text(ev, v);
    if (!v)
        return NULL;
    eval_buffer(ev, &b);
    for (size_t i = 0; i < v->text.n; i++) {
        const char *at = v->text.s[i] ? strchr(from, v->text.s[i]) : NULL;
        if (at)
            buffer_append_str(&b, to[at - from]);
        else
            buffer_append_char(&b, v->text.s[i]);
    }
    return eval_take(ev, &b);
}

/* In a query a blank becomes + and a slash is escaped too. */
static void put_quoted(struct buffer *b, struct text t, bool is_query)
{
    for (size_t i = 0; i < t.n; i++) {
        unsigned char c = (unsigned char)t.s[i];
        const bool is_plain = c > 0 && c < 0x80 && (isalnum(c) || strchr("_.-~", c));
        if (is_plain || (c == '/' && !is_query))
            buffer_append_char(b, (char)c);
        else if (c == ' ' && is_query)
            buffer_append_char(b, '+');
        else
            buffer_printf(b, "%%%02X", c);
    }
}

/* Text, or a map or pairs as a query. */
FILTER(filter_urlencode)
{
    struct buffer b;
    (void)a;
    eval_buffer(ev, &b);
    if (v->kind != VALUE_MAP && !value_is_sequence(v)) {
        v = format_text(ev, v);
        if (v)
            put_quoted(&b, v->text, false);
        return eval_take(ev, &b);
    }
    for (size_t i = 0; i < v->n && !ev->status; i++) {
        bool is_map = v->kind == VALUE_MAP;
        if (!is_map && (!value_is_sequence(v->items[i]) || v->items[i]->n != 2)) {
            (void)eval_fail(ev, "urlencode takes text, a mapping, or pairs");
            break;
        }
        struct template_value *key = is_map ? v->map.entries[i].key : v->items[i]->items[0];
        struct template_value *value = is_map ? v->map.entries[i].value : v->items[i]->items[1];
        key = format_text(ev, key);
        value = format_text(ev, value);
        buffer_append_str(&b, i ? "&" : "");
        if (key)
            put_quoted(&b, key->text, true);
        buffer_append_char(&b, '=');
        if (value)
            put_quoted(&b, value->text, true);
    }
    return eval_take(ev, &b);
}

static bool is_word_char(const char *s, size_t n)
{
    return n > 1 || isalnum((unsigned char)*s) || *s == '_';
}

FILTER(filter_wordcount)
{
    int64_t count = 0;
    bool in_word = false;
    (void)a;
    v = format_text(ev, v);
    for (size_t at = 0; v && at < v->text.n;) {
        size_t n = text_offset((struct text){v->text.s + at, v->text.n - at}, 1);
        bool is_word = is_word_char(v->text.s + at, n);
        count += is_word && !in_word;
        in_word = is_word;
        at += n;
    }
    return v ? eval_int(ev, count) : NULL;
}

FILTER(filter_truncate)
{
    int64_t length = filter_integer(a, 0, "length", 255),
            leeway = filter_integer(a, 3, "leeway", 5);
    bool kills = filter_bool(a, 1, "killwords", false);
    const struct template_value *stated = argument(a, 2, "end");
    struct text end =
        stated && stated->kind == VALUE_STRING ? stated->text : (struct text){"...", 3};
    int64_t end_length = (int64_t)text_length(end);
    v = format_text(ev, v);
    if (!v)
        return NULL;
    if (length >= end_length && leeway >= 0 && length < INT64_MAX / 2 && leeway < INT64_MAX / 2 &&
        (int64_t)text_length(v->text) <= length + leeway)
        return v;
    if (length < end_length || leeway < 0)
        return eval_fail(ev, "expected length >= %" PRId64 ", got %" PRId64, end_length, length);
    struct text kept = {v->text.s, text_offset(v->text, (size_t)(length - end_length))};
    for (size_t i = kept.n; !kills && i-- > 0;) {
        if (kept.s[i] == ' ') {
            kept.n = i;
            break;
        }
    }
    struct buffer b;
    eval_buffer(ev, &b);
    buffer_append(&b, kept.s, kept.n);
    buffer_append(&b, end.s, end.n);
    return eval_take(ev, &b);
}

/* Without comments and tags, white space as single blanks. */
FILTER(filter_striptags)
{
    struct buffer b;
    (void)a;
    v = format_text(ev, v);
    if (!v)
        return NULL;
    eval_buffer(ev, &b);
    for (size_t at = 0; at < v->text.n;) {
        const char *s = v->text.s + at;
        size_t left = v->text.n - at;
        bool is_comment = left >= 4 && memcmp(s, "<!--", 4) == 0;
        const char *end = is_comment  ? memmem(s, left, "-->", 3)
                          : *s == '<' ? memchr(s, '>', left)
                                      : NULL;
        if (end) {
            at += (size_t)(end - s) + (is_comment ? 3 : 1);
            continue;
        }
        size_t n = text_offset((struct text){s, left}, 1);
        if (!text_is_space(s, n))
            buffer_append(&b, s, n);
        else if (b.len > 0 && b.data[b.len - 1] != ' ')
            buffer_append_char(&b, ' ');
        at += n;
    }
    while (b.len > 0 && b.data[b.len - 1] == ' ')
        b.len--;
    return eval_take(ev, &b);
}

FILTER(filter_format)
{
    v = format_text(ev, v);
    if (v && a->n > 0 && a->keywords->n > 0)
        return eval_fail(ev, "can't handle positional and keyword arguments at the same time");
    return v ? format_percent(ev, v, a) : NULL;
}

/* ---- numbers ---- */

static bool parse_integer(struct text t, int64_t base, int64_t *out)
{
    char digits[72];
    size_t n = 0;
    bool is_negative = false;
    t = text_strip(t, NULL, 3);
    if (t.n > 0 && (t.s[0] == '-' || t.s[0] == '+')) {
        is_negative = t.s[0] == '-';
        t = (struct text){t.s + 1, t.n - 1};
    }
    if (t.n > 2 && t.s[0] == '0' && strchr("xXoObB", t.s[1])) {
        int64_t stated = (t.s[1] | 32) == 'x' ? 16 : (t.s[1] | 32) == 'o' ? 8 : 2;
        if (stated == base)
            t = (struct text){t.s + 2, t.n - 2};
    }
    int64_t value = 0;
    for (size_t i = 0; i < t.n && n < sizeof digits; i++, n++) {
        int c = t.s[i] | 32, digit = t.s[i] >= '0' && t.s[i] <= '9' ? t.s[i] - '0'
                                     : c >= 'a' && c <= 'z'         ? c - 'a' + 10
                                                                    : 99;
        if (digit >= base || __builtin_mul_overflow(value, base, &value) ||
            __builtin_add_overflow(value, (int64_t)digit, &value))
            return false;
    }
    *out = is_negative ? -value : value;
    return t.n > 0 && t.n <= sizeof digits;
}

static bool parse_real(struct text t, double *out)
{
    char copy[64];
    t = text_strip(t, NULL, 3);
    if (t.n >= sizeof copy)
        return false;
    memcpy(copy, t.s, t.n);
    copy[t.n] = '\0';
    return parse_f64(copy[0] == '+' ? copy + 1 : copy, out);
}

FILTER(filter_int)
{
    struct template_value *fallback = argument(a, 0, "default");
    int64_t base = filter_integer(a, 1, "base", 10), value = 0;
    double real = 0.0;
    if (v->kind == VALUE_INT || v->kind == VALUE_BOOL)
        return eval_int(ev, value_integer(v));
    bool is_real = v->kind == VALUE_FLOAT && fabs(v->real) < 9e18;
    if (v->kind == VALUE_STRING && base >= 2 && base <= 36 && parse_integer(v->text, base, &value))
        return eval_int(ev, value);
    if (v->kind == VALUE_STRING && parse_real(v->text, &real) && fabs(real) < 9e18)
        return eval_int(ev, (int64_t)real);
    if (is_real)
        return eval_int(ev, (int64_t)v->real);
    return fallback ? fallback : eval_int(ev, 0);
}

FILTER(filter_float)
{
    struct template_value *fallback = argument(a, 0, "default");
    double real = 0.0;
    if (value_is_number(v))
        return eval_got(ev, template_float(ev->arena, value_real(v)));
    if (v->kind == VALUE_STRING && parse_real(v->text, &real))
        return eval_got(ev, template_float(ev->arena, real));
    return fallback ? fallback : eval_got(ev, template_float(ev->arena, 0.0));
}

FILTER(filter_abs)
{
    (void)a;
    if (v->kind == VALUE_FLOAT)
        return eval_got(ev, template_float(ev->arena, fabs(v->real)));
    if (!value_is_number(v))
        return eval_fail(ev, "bad operand type for abs(): '%s'", value_type_name(v));
    int64_t i = value_integer(v);
    return eval_int(ev, i < 0 && i != INT64_MIN ? -i : i);
}

FILTER(filter_round)
{
    int64_t precision = filter_integer(a, 0, "precision", 0);
    const struct template_value *method = argument(a, 1, "method");
    char text[400];
    double value, scale;
    if (!value_is_number(v))
        return eval_fail(ev, "round() takes a number, not %s", value_type_name(v));
    if (v->kind != VALUE_FLOAT && precision >= 0 && (!method || value_is_string(method, "common")))
        return eval_int(ev, value_integer(v));
    value = value_real(v);
    if (method && value_is_string(method, "ceil")) {
        scale = pow(10.0, (double)precision);
        value = ceil(value * scale) / scale;
    } else if (method && value_is_string(method, "floor")) {
        scale = pow(10.0, (double)precision);
        value = floor(value * scale) / scale;
    } else if (method && !value_is_string(method, "common")) {
        return eval_fail(ev, "method must be common, ceil or floor");
    } else if (precision >= 0 && precision <= 60 && isfinite(value)) {
        /* decimal rounding of the exact value, halves to even, as Python's round */
        (void)snprintf(text, sizeof text, "%.*f", (int)precision, value);
        (void)parse_f64(text, &value);
    } else if (precision < 0 && precision > -300) {
        scale = pow(10.0, (double)-precision);
        value = rint(value / scale) * scale;
    }
    return eval_got(ev, template_float(ev->arena, value));
}

/* ---- values ---- */

FILTER(filter_default)
{
    struct template_value *other = argument(a, 0, "default_value");
    bool all = filter_bool(a, 1, "boolean", false);
    if (v->kind != VALUE_UNDEFINED && !(all && !value_is_true(v)))
        return v;
    return other ? other : eval_string(ev, "", 0);
}

FILTER(filter_length)
{
    (void)a;
    if (v->kind == VALUE_STRING)
        return eval_int(ev, (int64_t)text_length(v->text));
    if (v->kind == VALUE_MAP)
        return eval_int(ev, (int64_t)v->n);
    if (!value_is_sequence(v) && v->kind != VALUE_UNDEFINED)
        return eval_fail(ev, "object of type '%s' has no len()", value_type_name(v));
    return eval_int(ev, v->kind == VALUE_UNDEFINED ? 0 : (int64_t)v->n);
}

FILTER(filter_items)
{
    if (v->kind == VALUE_UNDEFINED)
        return eval_got(ev, template_list(ev->arena));
    return v->kind == VALUE_MAP ? eval_method(ev, v, (struct text){"items", 5}, a)
                                : eval_fail(ev, "Can only get item pairs from a mapping.");
}

FILTER(filter_attr)
{
    const struct template_value *name = argument(a, 0, "name");
    if (!name || name->kind != VALUE_STRING)
        return eval_fail(ev, "attr takes a name");
    if (v->kind == VALUE_MAP) /* attributes, not items */
        return jinja_has_method(v, name->text)
                   ? eval_attribute(ev, v, name->text)
                   : eval_got(ev, value_undefined(ev->arena, "no such attribute", 17));
    return eval_attribute(ev, v, name->text);
}

/* ---- the table ---- */

static const struct jinja_entry own[] = {
    {"abs", filter_abs, 0},
    {"attr", filter_attr, 1},
    {"capitalize", filter_capitalize, 0},
    {"center", filter_center, 1},
    {"count", filter_length, 0},
    {"d", filter_default, 2},
    {"default", filter_default, 2},
    {"e", filter_escape, 0},
    {"escape", filter_escape, 0},
    {"float", filter_float, 1},
    {"forceescape", filter_escape, 0},
    {"format", filter_format, 64},
    {"indent", filter_indent, 3},
    {"int", filter_int, 2},
    {"items", filter_items, 0},
    {"length", filter_length, 0},
    {"lower", filter_lower, 0},
    {"replace", filter_replace, 3},
    {"round", filter_round, 2},
    {"safe", filter_string, 0},
    {"string", filter_string, 0},
    {"striptags", filter_striptags, 0},
    {"title", filter_title, 0},
    {"tojson", format_json, 4},
    {"trim", filter_trim, 1},
    {"truncate", filter_truncate, 4},
    {"upper", filter_upper, 0},
    {"urlencode", filter_urlencode, 0},
    {"wordcount", filter_wordcount, 0},
};

static const struct jinja_entry *find_in(const struct jinja_entry *rows, size_t n, struct text name)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(rows[i].name) == name.n && memcmp(rows[i].name, name.s, name.n) == 0)
            return &rows[i];
    return NULL;
}

static const struct jinja_entry *find_filter(struct text name)
{
    const struct jinja_entry *row = find_in(own, sizeof own / sizeof *own, name);
    return row ? row : find_in(list_filters, n_list_filters, name);
}

bool jinja_has_filter(struct text name)
{
    return find_filter(name) != NULL;
}

struct template_value *eval_filter(struct eval *ev, struct text name, struct template_value *v,
                                   const struct arguments *args)
{
    const struct jinja_entry *row = find_filter(name);
    if (!row)
        return eval_fail(ev, "No filter named '%.*s'", (int)min_size(name.n, 80), name.s);
    if (args->n > row->max_args)
        return eval_fail(ev, "filter '%s' takes at most %zu arguments", row->name, row->max_args);
    size_t cost = v->kind == VALUE_STRING ? 1 + v->text.n / 64 : 1;
    return eval_step(ev, cost) ? row->call(ev, v, args) : NULL;
}
