/* Values as text: str(), repr(), json.dumps(); lengths and offsets in code points. */
#include "base/limits.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "text/jinja/eval.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

size_t text_length(struct text t)
{
    return text_offset(t, SIZE_MAX) == t.n ? ({ size_t n = 0; uint32_t c;
        for (size_t i = 0; i < t.n; n++) i += utf8_decode(t.s + i, t.n - i, &c); n; }) : 0;
}

size_t text_offset(struct text t, size_t index)
{
    size_t at = 0;
    uint32_t c;
    for (; index && at < t.n; index--)
        at += utf8_decode(t.s + at, t.n - at, &c);
    return at;
}

struct text text_strip(struct text t, const struct template_value *chars, int sides)
{
    const char *set = chars && chars->kind == VALUE_STRING ? chars->text.s : " \t\n\r\v\f";
    const size_t n = chars && chars->kind == VALUE_STRING ? chars->text.n : 6;
    while ((sides & 1) && t.n && memchr(set, t.s[0], n))
        t = (struct text){t.s + 1, t.n - 1};
    while ((sides & 2) && t.n && memchr(set, t.s[t.n - 1], n))
        t.n--;
    return t;
}

void format_float(struct buffer *b, double d)
{
    char s[40] = "nan", *e;
    double back = 0;
    int p = 1;
    if (isinf(d))
        (void)snprintf(s, sizeof s, "%sinf", d < 0 ? "-" : "");
    for (; !isnan(d) && !isinf(d) && p <= 17; p++) {
        (void)snprintf(s, sizeof s, "%.*e", p - 1, d);
        if (parse_f64(s, &back) && back == d)
            break;
    }
    e = strchr(s, 'e');
    int64_t exponent = 0;
    if (e && parse_i64(e[1] == '+' ? e + 2 : e + 1, -400, 400, &exponent) && exponent >= -4 &&
        exponent < 16) {
        const int digits = p - 1 - (int)exponent;
        (void)snprintf(s, sizeof s, "%.*f", digits < 1 ? 1 : digits, d);
    }
    buffer_append_str(b, s);
}

static void repr_string(struct buffer *b, struct text t)
{
    const char quote = memchr(t.s, '\'', t.n) && !memchr(t.s, '"', t.n) ? '"' : '\'';
    buffer_append_char(b, quote);
    for (size_t i = 0; i < t.n; i++) {
        const char c = t.s[i];
        const char *simple = c ? strchr("\n\r\t", c) : NULL;
        if (simple)
            buffer_printf(b, "\\%c", *simple == '\n' ? 'n' : *simple == '\r' ? 'r' : 't');
        else if (c == quote || c == '\\')
            buffer_printf(b, "\\%c", c);
        else if ((unsigned char)c < 32 || c == 127)
            buffer_printf(b, "\\x%02x", (unsigned)(unsigned char)c);
        else
            buffer_append_char(b, c);
    }
    buffer_append_char(b, quote);
}

static bool scalar(struct buffer *b, const struct template_value *v, bool is_json)
{
    switch (v->kind) {
    case VALUE_NONE: buffer_append_str(b, is_json ? "null" : "None"); return true;
    case VALUE_BOOL:
        buffer_append_str(b, is_json ? v->boolean ? "true" : "false" : v->boolean ? "True" : "False");
        return true;
    case VALUE_INT: buffer_printf(b, "%" PRId64, v->integer); return true;
    case VALUE_FLOAT: format_float(b, v->real); return true;
    default: return false;
    }
}

bool format_repr(struct eval *ev, struct buffer *b, const struct template_value *v)
{
    if (!eval_step(ev, 1) || scalar(b, v, false))
        return !ev->status;
    if (v->kind == VALUE_STRING) {
        repr_string(b, v->text);
        return true;
    }
    if (v->kind != VALUE_MAP && !value_is_sequence(v)) {
        buffer_append_str(b, v->kind == VALUE_UNDEFINED ? "Undefined" : "<");
        if (v->kind != VALUE_UNDEFINED)
            buffer_printf(b, "%s>", value_type_name(v));
        return true;
    }
    if (ev->depth >= LIMIT_TEMPLATE_DEPTH)
        return eval_fail(ev, "nested too deeply") != NULL;
    ev->depth++;
    buffer_append_char(b, v->kind == VALUE_MAP ? '{' : v->kind == VALUE_LIST ? '[' : '(');
    for (size_t i = 0; i < v->n && !ev->status; i++) {
        buffer_append_str(b, i ? ", " : "");
        if (v->kind == VALUE_MAP) {
            (void)format_repr(ev, b, v->map.entries[i].key);
            buffer_append_str(b, ": ");
        }
        (void)format_repr(ev, b, v->kind == VALUE_MAP ? v->map.entries[i].value : v->items[i]);
    }
    buffer_append_str(b, v->kind == VALUE_MAP ? "}" : v->kind == VALUE_LIST ? "]" : v->n == 1 ? ",)" : ")");
    ev->depth--;
    return !ev->status;
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

static void json_string(struct buffer *b, struct text t)
{
    buffer_append_char(b, '"');
    for (size_t i = 0; i < t.n; i++) {
        const char c = t.s[i];
        const char *at = c ? strchr("\"\\\b\f\n\r\t", c) : NULL;
        if (at)
            buffer_printf(b, "\\%c", "\"\\bfnrt"[at - "\"\\\b\f\n\r\t" >= 0 ? strchr("\"\\\b\f\n\r\t", c) - at : 0] == 0 ? c : c == '\b' ? 'b' : c == '\f' ? 'f' : c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c);
        else if ((unsigned char)c < 32)
            buffer_printf(b, "\\u%04x", (unsigned)c);
        else
            buffer_append_char(b, c);
    }
    buffer_append_char(b, '"');
}

static void new_line(struct buffer *b, int64_t indent, unsigned level)
{
    if (indent < 0)
        return;
    buffer_append_char(b, '\n');
    for (int64_t i = 0; i < indent * level && !b->is_failed; i++)
        buffer_append_char(b, ' ');
}

static bool json(struct eval *ev, struct buffer *b, const struct template_value *v, int64_t indent,
                 unsigned level)
{
    if (!eval_step(ev, 1) || scalar(b, v, true))
        return !ev->status;
    if (v->kind == VALUE_STRING) {
        json_string(b, v->text);
        return true;
    }
    if (v->kind != VALUE_MAP && !value_is_sequence(v))
        return eval_fail(ev, "Object of type %s is not JSON serializable", value_type_name(v)) != NULL;
    if (level > LIMIT_TEMPLATE_RECURSION * 2)
        return eval_fail(ev, "nested too deeply") != NULL;
    buffer_append_char(b, v->kind == VALUE_MAP ? '{' : '[');
    for (size_t i = 0; i < v->n && !ev->status; i++) {
        buffer_append_str(b, !i ? "" : indent < 0 ? ", " : ",");
        new_line(b, indent, level + 1);
        if (v->kind == VALUE_MAP) {
            const struct template_value *key = v->map.entries[i].key;
            buffer_append_str(b, key->kind == VALUE_STRING ? "" : "\"");
            (void)json(ev, b, key, indent, level + 1);
            buffer_append_str(b, key->kind == VALUE_STRING ? ": " : "\": ");
        }
        (void)json(ev, b, v->kind == VALUE_MAP ? v->map.entries[i].value : v->items[i], indent, level + 1);
    }
    if (v->n)
        new_line(b, indent, level);
    buffer_append_char(b, v->kind == VALUE_MAP ? '}' : ']');
    return !ev->status;
}

struct template_value *format_json(struct eval *ev, struct template_value *v,
                                   const struct arguments *args)
{
    const struct template_value *indent = argument(args, 1, "indent");
    struct buffer b;
    eval_buffer(ev, &b);
    (void)json(ev, &b, v, indent && indent->kind == VALUE_INT ? indent->integer : -1, 0);
    return eval_take(ev, &b);
}
