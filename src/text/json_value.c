#include "text/json_value.h"

#include "base/limits.h"
#include "base/utf8.h"

#include <string.h>

struct cursor {
    const char *at, *end;
};

static void skip_space(struct cursor *c)
{
    while (c->at < c->end && memchr(" \t\r\n", *c->at, 4))
        c->at++;
}

static bool take(struct cursor *c, char wanted)
{
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

static bool take_word(struct cursor *c, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(c->end - c->at) < n || memcmp(c->at, word, n) != 0)
        return false;
    c->at += n;
    return true;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool take_hex4(struct cursor *c, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++) {
        int digit = c->at < c->end ? hex_value(*c->at) : -1;
        if (digit < 0)
            return false;
        *out = *out << 4 | (uint32_t)digit;
        c->at++;
    }
    return true;
}

/* Behind the backslash. */
static bool take_escape(struct cursor *c, struct buffer *out)
{
    static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    if (c->at == c->end)
        return false;
    const char *at = memchr(names, *c->at, sizeof names - 1);
    if (at) {
        c->at++;
        if (out)
            buffer_append_char(out, bytes[at - names]);
        return true;
    }
    uint32_t code, low;
    char utf8[4];
    if (!take(c, 'u') || !take_hex4(c, &code))
        return false;
    if (!out)
        return true; /* the grammar of JSON allows half a pair */
    if (code >= 0xd800 && code < 0xdc00) {
        if (!take_word(c, "\\u") || !take_hex4(c, &low) || low < 0xdc00 || low > 0xdfff)
            return false;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000) {
        return false;
    }
    buffer_append(out, utf8, utf8_encode(code, utf8));
    return true;
}

/* out: NULL for a look alone. */
static bool take_string(struct cursor *c, struct buffer *out)
{
    if (!take(c, '"'))
        return false;
    while (c->at < c->end && *c->at != '"') {
        if ((uint8_t)*c->at < 0x20)
            return false;
        if (take(c, '\\')) {
            if (!take_escape(c, out))
                return false;
            continue;
        }
        if (out)
            buffer_append_char(out, *c->at);
        c->at++;
    }
    return take(c, '"');
}

static bool take_digits(struct cursor *c)
{
    const char *begin = c->at;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9')
        c->at++;
    return c->at > begin;
}

static bool take_number(struct cursor *c)
{
    (void)take(c, '-');
    if (!take(c, '0') && !take_digits(c))
        return false;
    if (take(c, '.') && !take_digits(c))
        return false;
    if (take(c, 'e') || take(c, 'E')) {
        if (!take(c, '+'))
            (void)take(c, '-');
        return take_digits(c);
    }
    return true;
}

static bool take_value(struct cursor *c, uint32_t depth);

/* Members or items up to the closing bracket; the opening one is taken. */
static bool take_members(struct cursor *c, uint32_t depth, char close, bool has_keys)
{
    if (depth >= LIMIT_JSON_DEPTH)
        return false;
    skip_space(c);
    if (take(c, close))
        return true;
    do {
        skip_space(c);
        if (has_keys) {
            if (!take_string(c, NULL))
                return false;
            skip_space(c);
            if (!take(c, ':'))
                return false;
        }
        if (!take_value(c, depth + 1))
            return false;
        skip_space(c);
    } while (take(c, ','));
    return take(c, close);
}

static bool take_value(struct cursor *c, uint32_t depth)
{
    skip_space(c);
    if (take(c, '{'))
        return take_members(c, depth, '}', true);
    if (take(c, '['))
        return take_members(c, depth, ']', false);
    if (c->at < c->end && *c->at == '"')
        return take_string(c, NULL);
    return take_word(c, "true") || take_word(c, "false") || take_word(c, "null") || take_number(c);
}

size_t json_value_length(const char *text, size_t n)
{
    struct cursor c = {text, text + n};
    return take_value(&c, 0) ? (size_t)(c.at - text) : 0;
}

bool json_value_is_valid(const char *text, size_t n)
{
    struct cursor c = {text, text + n};
    if (!take_value(&c, 0))
        return false;
    skip_space(&c);
    return c.at == c.end;
}

bool json_string_decode(const char *text, size_t n, struct buffer *out)
{
    struct cursor c = {text, text + n};
    return take_string(&c, out) && c.at == c.end && !out->is_failed;
}
