/* Values as text: str(), repr(), json.dumps(); lengths and offsets in code points. */
#include "base/limits.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "text/jinja/eval.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

/* ---- stripping ---- */

static bool is_space(uint32_t code)
{
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
    return (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x1f) || code == 0x85 ||
           category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
           category == UTF8PROC_CATEGORY_ZP;
}

bool text_is_space(const char *s, size_t n)
{
    uint32_t code;
    return n > 0 && utf8_decode(s, n, &code) == n && is_space(code);
}

/* Whether the character s[0..n-1] is one of the set; without a set, white space. */
static bool is_stripped(const char *s, size_t n, const struct template_value *set)
{
    if (!set || set->kind != VALUE_STRING)
        return text_is_space(s, n);
    uint32_t code;
    for (size_t at = 0; at < set->text.n;) {
        size_t len = utf8_decode(set->text.s + at, set->text.n - at, &code);
        if (len == n && memcmp(set->text.s + at, s, n) == 0)
            return true;
        at += len;
    }
    return false;
}

struct text text_strip(struct text t, const struct template_value *chars, int sides)
{
    while ((sides & 1) && t.n > 0) {
        size_t n = text_offset(t, 1);
        if (!is_stripped(t.s, n, chars))
            break;
        t = (struct text){t.s + n, t.n - n};
    }
    while ((sides & 2) && t.n > 0) {
        size_t n = 1; /* back to the character's first byte */
        while (n < t.n && n < 4 && ((unsigned char)t.s[t.n - n] & 0xc0) == 0x80)
            n++;
        if (!is_stripped(t.s + t.n - n, n, chars))
            break;
        t.n -= n;
    }
    return t;
}

/* ---- numbers ---- */

/* Python's repr of a float: the shortest digits that read back, an exponent from 1e16 on. */
void format_float(struct buffer *b, double d)
{
    char s[40];
    double back = 0.0;
    int precision = 1;
    if (isnan(d) || isinf(d)) {
        buffer_append_str(b, isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    for (; precision <= 17; precision++) {
        (void)snprintf(s, sizeof s, "%.*e", precision - 1, d);
        if (parse_f64(s, &back) && back == d)
            break;
    }
    const char *e = strchr(s, 'e');
    int64_t exponent = 0;
    if (e && parse_i64(e[1] == '+' ? e + 2 : e + 1, -400, 400, &exponent) && exponent >= -4 &&
        exponent < 16) {
        int digits = precision - 1 - (int)exponent;
        (void)snprintf(s, sizeof s, "%.*f", digits < 1 ? 1 : digits, d);
    }
    buffer_append_str(b, s);
}

/* ---- repr ---- */

static bool is_printable(uint32_t code)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return code == ' ' ||
           !(c == UTF8PROC_CATEGORY_CN || c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF ||
             c == UTF8PROC_CATEGORY_CS || c == UTF8PROC_CATEGORY_CO || c == UTF8PROC_CATEGORY_ZS ||
             c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP);
}

static void repr_code(struct buffer *b, const char *s, size_t n, uint32_t code, char quote)
{
    if (code == '\n' || code == '\r' || code == '\t')
        buffer_printf(b, "\\%c", code == '\n' ? 'n' : code == '\r' ? 'r' : 't');
    else if (code == (uint32_t)quote || code == '\\')
        buffer_printf(b, "\\%c", (char)code);
    else if (is_printable(code) || code == UTF8_REPLACEMENT)
        buffer_append(b, s, n);
    else if (code < 0x100)
        buffer_printf(b, "\\x%02x", code);
    else if (code < 0x10000)
        buffer_printf(b, "\\u%04x", code);
    else
        buffer_printf(b, "\\U%08x", code);
}

static void repr_string(struct buffer *b, struct text t)
{
    char quote = memchr(t.s, '\'', t.n) && !memchr(t.s, '"', t.n) ? '"' : '\'';
    buffer_append_char(b, quote);
    for (size_t at = 0; at < t.n;) {
        uint32_t code;
        size_t n = utf8_decode(t.s + at, t.n - at, &code);
        repr_code(b, t.s + at, n, code, quote);
        at += n;
    }
    buffer_append_char(b, quote);
}

static bool scalar(struct buffer *b, const struct template_value *v)
{
    switch (v->kind) {
    case VALUE_NONE:
        buffer_append_str(b, "None");
        return true;
    case VALUE_BOOL:
        buffer_append_str(b, v->boolean ? "True" : "False");
        return true;
    case VALUE_INT:
        buffer_printf(b, "%" PRId64, v->integer);
        return true;
    case VALUE_FLOAT:
        format_float(b, v->real);
        return true;
    default:
        return false;
    }
}

static const char *closing(const struct template_value *v)
{
    if (v->kind == VALUE_MAP)
        return "}";
    if (v->kind == VALUE_LIST)
        return "]";
    return v->n == 1 ? ",)" : ")";
}

bool format_repr(struct eval *ev, struct buffer *b, const struct template_value *v)
{
    if (!eval_step(ev, 1) || scalar(b, v))
        return ev->status == SERVERD_OK;
    if (v->kind == VALUE_STRING) {
        repr_string(b, v->text);
        return true;
    }
    if (v->kind == VALUE_UNDEFINED) {
        buffer_append_str(b, "Undefined");
        return true;
    }
    if (v->kind == VALUE_NAMESPACE) {
        buffer_append_str(b, "<Namespace ");
        (void)format_repr(ev, b, v->self);
        buffer_append_char(b, '>');
        return ev->status == SERVERD_OK;
    }
    if (v->kind != VALUE_MAP && !value_is_sequence(v)) {
        buffer_printf(b, "<%s>", value_type_name(v));
        return true;
    }
    const struct text name =
        v->kind == VALUE_LIST && v->self ? v->self->text : (struct text){"", 0};
    buffer_append(b, name.s, name.n);
    if (name.n > 0 && !value_is_view(v)) /* a range */
        return true;
    if (ev->depth >= LIMIT_TEMPLATE_DEPTH)
        return eval_fail(ev, "nested too deeply") != NULL;
    ev->depth++;
    buffer_append_str(b, name.n > 0 ? "(" : "");
    buffer_append_char(b, v->kind == VALUE_MAP ? '{' : v->kind == VALUE_LIST ? '[' : '(');
    for (size_t i = 0; i < v->n && ev->status == SERVERD_OK; i++) {
        buffer_append_str(b, i ? ", " : "");
        if (v->kind == VALUE_MAP) {
            (void)format_repr(ev, b, v->map.entries[i].key);
            buffer_append_str(b, ": ");
        }
        (void)format_repr(ev, b, v->kind == VALUE_MAP ? v->map.entries[i].value : v->items[i]);
    }
    buffer_append_str(b, closing(v));
    buffer_append_str(b, name.n > 0 ? ")" : "");
    ev->depth--;
    return ev->status == SERVERD_OK;
}

bool format_str(struct eval *ev, struct buffer *b, const struct template_value *v)
{
    if (v->kind == VALUE_STRING)
        buffer_append(b, v->text.s, v->text.n);
    else if (v->kind != VALUE_UNDEFINED)
        return format_repr(ev, b, v);
    return true;
}

struct template_value *format_text(struct eval *ev, struct template_value *v)
{
    struct buffer b;
    if (v->kind == VALUE_STRING)
        return v;
    eval_buffer(ev, &b);
    (void)format_str(ev, &b, v);
    return eval_take(ev, &b);
}

/* ---- JSON, as Python's json.dumps writes it ---- */

struct json_style {
    bool is_ascii, sorts_keys;
    const char *indent; /* one level; NULL: one line */
    size_t indent_n;
    struct text between, colon;
};

static void json_code(struct buffer *b, const char *s, size_t n, uint32_t code, bool is_ascii)
{
    static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *at = code > 0 && code < 0x80 ? strchr(escaped, (int)code) : NULL;
    if (at)
        buffer_printf(b, "\\%c", letters[at - escaped]);
    else if (code < 0x20)
        buffer_printf(b, "\\u%04x", code);
    else if (!is_ascii || code < 0x7f || (code == UTF8_REPLACEMENT && n == 1))
        buffer_append(b, s, n); /* a guard stays what it is */
    else if (code < 0x10000)
        buffer_printf(b, "\\u%04x", code);
    else
        buffer_printf(b, "\\u%04x\\u%04x", 0xd800 + ((code - 0x10000) >> 10),
                      0xdc00 + ((code - 0x10000) & 0x3ff));
}

static void json_string(struct buffer *b, struct text t, const struct json_style *style)
{
    buffer_append_char(b, '"');
    for (size_t at = 0; at < t.n;) {
        uint32_t code;
        size_t n = utf8_decode(t.s + at, t.n - at, &code);
        json_code(b, t.s + at, n, code, style->is_ascii);
        at += n;
    }
    buffer_append_char(b, '"');
}

static void json_line(struct buffer *b, const struct json_style *style, unsigned level)
{
    if (!style->indent)
        return;
    buffer_append_char(b, '\n');
    for (unsigned i = 0; i < level && !b->is_failed; i++)
        buffer_append(b, style->indent, style->indent_n);
}

static bool json_scalar(struct buffer *b, const struct template_value *v,
                        const struct json_style *style)
{
    switch (v->kind) {
    case VALUE_NONE:
        buffer_append_str(b, "null");
        return true;
    case VALUE_BOOL:
        buffer_append_str(b, v->boolean ? "true" : "false");
        return true;
    case VALUE_FLOAT:
        if (isnan(v->real) || isinf(v->real))
            buffer_append_str(b, isnan(v->real) ? "NaN" : v->real < 0 ? "-Infinity" : "Infinity");
        else
            format_float(b, v->real);
        return true;
    case VALUE_STRING:
        json_string(b, v->text, style);
        return true;
    default:
        return scalar(b, v);
    }
}

/* Keys that are no strings are written as strings. */
static bool json_key(struct eval *ev, struct buffer *b, const struct template_value *key,
                     const struct json_style *style)
{
    bool is_string = key->kind == VALUE_STRING;
    buffer_append_str(b, is_string ? "" : "\"");
    if (!json_scalar(b, key, style))
        return eval_fail(ev, "keys must be str, int, float, bool or None, not %s",
                         value_type_name(key)) != NULL;
    buffer_append_str(b, is_string ? "" : "\"");
    buffer_append(b, style->colon.s, style->colon.n);
    return true;
}

static bool json_value(struct eval *ev, struct buffer *b, const struct template_value *v,
                       const struct json_style *style, unsigned level);

/* The entry that comes next in the order of keys, after `last`. */
static const struct map_entry *next_key(const struct template_value *map,
                                        const struct map_entry *last)
{
    const struct map_entry *best = NULL;
    for (size_t i = 0; i < map->n; i++) {
        const struct map_entry *e = &map->map.entries[i];
        if ((!last || value_compare(e->key, last->key, 0) == 1) &&
            (!best || value_compare(e->key, best->key, 0) == -1))
            best = e;
    }
    return best;
}

static bool json_members(struct eval *ev, struct buffer *b, const struct template_value *v,
                         const struct json_style *style, unsigned level)
{
    const struct map_entry *entry = NULL;
    for (size_t i = 0; i < v->n && ev->status == SERVERD_OK; i++) {
        if (v->kind == VALUE_MAP) {
            entry = style->sorts_keys ? next_key(v, entry) : &v->map.entries[i];
            if (!entry || (style->sorts_keys && !eval_step(ev, v->n)))
                return entry ? false : eval_fail(ev, "keys cannot be sorted") != NULL;
        }
        if (i > 0)
            buffer_append(b, style->between.s, style->between.n);
        json_line(b, style, level + 1);
        if (entry && !json_key(ev, b, entry->key, style))
            return false;
        (void)json_value(ev, b, entry ? entry->value : v->items[i], style, level + 1);
    }
    return ev->status == SERVERD_OK;
}

static bool json_value(struct eval *ev, struct buffer *b, const struct template_value *v,
                       const struct json_style *style, unsigned level)
{
    if (!eval_step(ev, 1) || json_scalar(b, v, style))
        return ev->status == SERVERD_OK;
    if (v->kind != VALUE_MAP && (!value_is_sequence(v) || (v->kind == VALUE_LIST && v->self)))
        return eval_fail(ev, "Object of type %s is not JSON serializable", value_type_name(v)) !=
               NULL;
    if (level > LIMIT_TEMPLATE_DEPTH)
        return eval_fail(ev, "nested too deeply") != NULL;
    buffer_append_char(b, v->kind == VALUE_MAP ? '{' : '[');
    if (!json_members(ev, b, v, style, level))
        return false;
    if (v->n > 0)
        json_line(b, style, level);
    buffer_append_char(b, v->kind == VALUE_MAP ? '}' : ']');
    return true;
}

/* tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False), as transformers
 * defines it. */
struct template_value *format_json(struct eval *ev, struct template_value *v,
                                   const struct arguments *args)
{
    static const char spaces[] = "                                ";
    const struct template_value *ascii = argument(args, 0, "ensure_ascii");
    const struct template_value *indent = argument(args, 1, "indent");
    const struct template_value *separators = argument(args, 2, "separators");
    const struct template_value *sorts = argument(args, 3, "sort_keys");
    struct json_style style = {.is_ascii = ascii && value_is_true(ascii),
                               .sorts_keys = sorts && value_is_true(sorts),
                               .between = {", ", 2},
                               .colon = {": ", 2}};
    if (indent && indent->kind == VALUE_INT) {
        style.indent = spaces;
        style.indent_n = indent->integer < 0 ? 0 : min_size((size_t)indent->integer, 32);
    } else if (indent && indent->kind == VALUE_STRING) {
        style.indent = indent->text.s;
        style.indent_n = indent->text.n;
    }
    if (style.indent)
        style.between = (struct text){",", 1};
    if (separators && value_is_sequence(separators) && separators->n == 2 &&
        separators->items[0]->kind == VALUE_STRING && separators->items[1]->kind == VALUE_STRING) {
        style.between = separators->items[0]->text;
        style.colon = separators->items[1]->text;
    }
    struct buffer b;
    eval_buffer(ev, &b);
    (void)json_value(ev, &b, v, &style, 0);
    return eval_take(ev, &b);
}
