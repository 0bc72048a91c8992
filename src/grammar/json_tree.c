#include "grammar/json_tree.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/utf8.h"

#include <string.h>

struct parser {
    const char *text;
    size_t n, at;
    uint32_t serial;
    struct arena *arena;
    serverd_error *err;
};

static serverd_status wrong(struct parser *p, const char *what)
{
    return fail(p->err, SERVERD_INVALID, "JSON at byte %zu: %s", p->at, what);
}

static serverd_status no_memory(struct parser *p)
{
    return fail(p->err, SERVERD_NOMEM, "JSON: takes more memory than is allowed");
}

static void skip_space(struct parser *p)
{
    while (p->at < p->n && memchr(" \t\n\r", p->text[p->at], 4))
        p->at++;
}

static bool hex4(const struct parser *p, size_t at, uint32_t *out)
{
    if (p->n - at < 4)
        return false;
    *out = 0;
    for (size_t i = at; i < at + 4; i++) {
        char c = p->text[i];
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a') + 10
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A') + 10
                                                : 16;
        if (digit > 15)
            return false;
        *out = *out * 16 + digit;
    }
    return true;
}

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80)
        return out[0] = (char)c, 1;
    if (c < 0x800)
        return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* The escape behind a backslash at p->at; its text is never longer than its spelling. */
static serverd_status parse_escape(struct parser *p, char *out, size_t *n)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *name = p->at < p->n && p->text[p->at] ? strchr(names, p->text[p->at]) : NULL;
    if (name) {
        out[(*n)++] = values[name - names];
        p->at++;
        return SERVERD_OK;
    }
    uint32_t high, low;
    if (p->at >= p->n || p->text[p->at] != 'u' || !hex4(p, p->at + 1, &high))
        return wrong(p, "no escape");
    p->at += 5;
    if (high >= 0xd800 && high < 0xe000) {
        if (high >= 0xdc00 || p->n - p->at < 6 || memcmp(p->text + p->at, "\\u", 2) != 0 ||
            !hex4(p, p->at + 2, &low) || low < 0xdc00 || low > 0xdfff)
            return wrong(p, "half of a surrogate pair");
        p->at += 6;
        high = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    }
    *n += put_utf8(out + *n, high);
    return SERVERD_OK;
}

static serverd_status parse_string(struct parser *p, const char **text, uint32_t *n_text)
{
    size_t end = ++p->at;
    while (end < p->n && p->text[end] != '"')
        end += p->text[end] == '\\' ? 2 : 1;
    if (end >= p->n)
        return wrong(p, "a string without end");
    char *out = arena_alloc(p->arena, end - p->at + 1);
    size_t n = 0;
    if (!out)
        return no_memory(p);
    while (p->at < end) {
        unsigned char c = (unsigned char)p->text[p->at];
        if (c < 0x20)
            return wrong(p, "a control character in a string");
        if (c == '\\') {
            p->at++;
            serverd_status status = parse_escape(p, out, &n);
            if (status != SERVERD_OK)
                return status;
            continue;
        }
        uint32_t code_point;
        size_t taken = utf8_decode(p->text + p->at, end - p->at, &code_point);
        if (utf8_valid_run(p->text + p->at, taken) != taken)
            return wrong(p, "no UTF-8");
        memcpy(out + n, p->text + p->at, taken);
        n += taken;
        p->at += taken;
    }
    p->at++;
    out[n] = '\0';
    *text = out;
    *n_text = (uint32_t)n;
    return SERVERD_OK;
}

static serverd_status parse_value(struct parser *p, unsigned depth, struct json_value *out);

static serverd_status parse_member_name(struct parser *p, struct json_value *child)
{
    skip_space(p);
    if (p->at >= p->n || p->text[p->at] != '"')
        return wrong(p, "a member's name is expected");
    serverd_status status = parse_string(p, &child->name, &child->name_n);
    skip_space(p);
    if (status == SERVERD_OK && (p->at >= p->n || p->text[p->at] != ':'))
        status = wrong(p, "':' is expected");
    p->at++;
    return status;
}

static serverd_status parse_children(struct parser *p, unsigned depth, struct json_value *out)
{
    bool is_object = out->kind == JSON_OBJECT;
    char close = is_object ? '}' : ']';
    const struct json_value **link = &out->first;
    p->at++;
    skip_space(p);
    if (p->at < p->n && p->text[p->at] == close) {
        p->at++;
        return SERVERD_OK;
    }
    for (;;) {
        struct json_value *child = arena_alloc(p->arena, sizeof *child);
        if (!child)
            return no_memory(p);
        child->parent = out;
        serverd_status status = is_object ? parse_member_name(p, child) : SERVERD_OK;
        if (status == SERVERD_OK)
            status = parse_value(p, depth + 1, child);
        if (status != SERVERD_OK)
            return status;
        *link = child;
        link = &child->next;
        out->n++;
        skip_space(p);
        char c = p->at < p->n ? p->text[p->at++] : '\0';
        if (c == close)
            return SERVERD_OK;
        if (c != ',')
            return wrong(p, "',' or the end of a list is expected");
    }
}

static serverd_status parse_word(struct parser *p, struct json_value *out)
{
    static const char *const words[] = {
        [JSON_NULL] = "null", [JSON_FALSE] = "false", [JSON_TRUE] = "true"};
    for (unsigned kind = JSON_NULL; kind <= JSON_TRUE; kind++) {
        size_t n = strlen(words[kind]);
        if (p->n - p->at >= n && memcmp(p->text + p->at, words[kind], n) == 0) {
            out->kind = kind;
            p->at += n;
            return SERVERD_OK;
        }
    }
    size_t end = p->at;
    while (end < p->n && p->text[end] && strchr("+-.0123456789eE", p->text[end]))
        end++;
    if (end - p->at > LIMIT_JSON_NUMBER_BYTES)
        return wrong(p, "a number that is too long");
    struct decimal *number = arena_alloc(p->arena, sizeof *number);
    if (!number)
        return no_memory(p);
    if (!decimal_parse(p->arena, p->text + p->at, end - p->at, number))
        return wrong(p, "no value");
    out->kind = JSON_NUMBER;
    out->number = number;
    p->at = end;
    return SERVERD_OK;
}

static serverd_status parse_value(struct parser *p, unsigned depth, struct json_value *out)
{
    if (depth > LIMIT_GRAMMAR_NESTING)
        return wrong(p, "nested too deeply");
    skip_space(p);
    out->serial = p->serial++;
    char c = p->at < p->n ? p->text[p->at] : '\0';
    if (c == '{' || c == '[') {
        out->kind = c == '{' ? JSON_OBJECT : JSON_ARRAY;
        return parse_children(p, depth, out);
    }
    if (c == '"') {
        out->kind = JSON_STRING;
        return parse_string(p, &out->text, &out->n);
    }
    return parse_word(p, out);
}

serverd_status json_tree_parse(const char *text, size_t n, struct arena *arena,
                               const struct json_value **out, serverd_error *err)
{
    struct parser p = {.text = text, .n = n, .arena = arena, .err = err};
    struct json_value *root = arena_alloc(arena, sizeof *root);
    if (!root)
        return no_memory(&p);
    if (n > UINT32_MAX / 2)
        return wrong(&p, "a text that is too long");
    serverd_status status = parse_value(&p, 0, root);
    skip_space(&p);
    if (status == SERVERD_OK && p.at != p.n)
        status = wrong(&p, "something behind the value");
    *out = root;
    return status;
}

const struct json_value *json_member_n(const struct json_value *object, const char *name, size_t n)
{
    const struct json_value *found = NULL;
    if (object && object->kind == JSON_OBJECT)
        for (const struct json_value *v = object->first; v; v = v->next)
            if (v->name_n == n && memcmp(v->name, name, n) == 0)
                found = v;
    return found;
}

const struct json_value *json_member(const struct json_value *object, const char *name)
{
    return json_member_n(object, name, strlen(name));
}

bool json_is_text(const struct json_value *value, const char *text)
{
    return value && value->kind == JSON_STRING && value->n == strlen(text) &&
           memcmp(value->text, text, value->n) == 0;
}

bool json_value_equal(const struct json_value *a, const struct json_value *b)
{
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case JSON_NUMBER:
        return decimal_compare(a->number, b->number) == 0;
    case JSON_STRING:
        return a->n == b->n && memcmp(a->text, b->text, a->n) == 0;
    case JSON_ARRAY:
        if (a->n != b->n)
            return false;
        for (a = a->first, b = b->first; a; a = a->next, b = b->next)
            if (!json_value_equal(a, b))
                return false;
        return true;
    case JSON_OBJECT:
        if (a->n != b->n)
            return false;
        for (a = a->first; a; a = a->next) {
            const struct json_value *other = json_member_n(b, a->name, a->name_n);
            if (!other || !json_value_equal(a, other))
                return false;
        }
        return true;
    default:
        return true;
    }
}

uint64_t json_hash(const struct json_value *value)
{
    uint64_t hash = hash_mix(value->kind);
    switch (value->kind) {
    case JSON_NUMBER:
        return hash_bytes(value->number->digits, value->number->n_digits,
                          hash + (uint64_t)value->number->exponent * 2 +
                              value->number->is_negative);
    case JSON_STRING:
        return hash_bytes(value->text, value->n, hash);
    case JSON_ARRAY:
        for (const struct json_value *v = value->first; v; v = v->next)
            hash = hash_mix(hash ^ json_hash(v));
        return hash;
    case JSON_OBJECT: /* a sum: the order of members does not count */
        for (const struct json_value *v = value->first; v; v = v->next)
            hash += hash_mix(hash_bytes(v->name, v->name_n, 0) ^ json_hash(v));
        return hash;
    default:
        return hash;
    }
}

static void append_escaped(struct buffer *out, const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (name[i] == '~' || name[i] == '/')
            buffer_append_str(out, name[i] == '~' ? "~0" : "~1");
        else
            buffer_append_char(out, name[i]);
    }
}

void json_pointer(const struct json_value *value, struct buffer *out)
{
    const struct json_value *chain[LIMIT_GRAMMAR_NESTING + 2];
    size_t n = 0;
    for (; value->parent && n < sizeof chain / sizeof *chain; value = value->parent)
        chain[n++] = value;
    buffer_append_char(out, '#');
    while (n-- > 0) {
        const struct json_value *v = chain[n];
        buffer_append_char(out, '/');
        if (v->name) {
            append_escaped(out, v->name, v->name_n);
            continue;
        }
        uint32_t index = 0;
        for (const struct json_value *s = v->parent->first; s != v; s = s->next)
            index++;
        buffer_append_u64(out, index);
    }
}
