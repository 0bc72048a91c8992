#include "text/call_values.h"

#include "base/limits.h"
#include "text/json_value.h"

#include <string.h>

struct cursor {
    const char *at, *end;
};

static void put_string(struct buffer *out, const char *text, size_t n)
{
    buffer_append_char(out, '"');
    buffer_append_json(out, text, n);
    buffer_append_char(out, '"');
}

static bool starts_with(struct cursor c, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(c.end - c.at) >= n && memcmp(c.at, text, n) == 0;
}

static void skip_space(struct cursor *c)
{
    while (c->at < c->end && memchr(" \t\r\n", *c->at, 4))
        c->at++;
}

static bool take(struct cursor *c, const char *text)
{
    if (!starts_with(*c, text))
        return false;
    c->at += strlen(text);
    return true;
}

/* ---- tagged parameters ---- */

static void strip_frame(struct cursor *c)
{
    static const char open[] = "<![CDATA[", close[] = "]]>";
    struct cursor inner = *c;
    skip_space(&inner);
    while (inner.end > inner.at && memchr(" \t\r\n", inner.end[-1], 4))
        inner.end--;
    if ((size_t)(inner.end - inner.at) >= sizeof open + sizeof close - 2 &&
        starts_with(inner, open) && memcmp(inner.end - 3, close, 3) == 0) {
        c->at = inner.at + sizeof open - 1;
        c->end = inner.end - 3;
        return;
    }
    if (!take(c, "\r\n"))
        (void)take(c, "\n");
    if (c->end > c->at && c->end[-1] == '\n')
        c->end--;
    if (c->end > c->at && c->end[-1] == '\r')
        c->end--;
}

void call_value_to_json(const char *text, size_t n, bool is_string, struct buffer *out)
{
    struct cursor c = {text, text + n};
    strip_frame(&c);
    n = (size_t)(c.end - c.at);
    if (!is_string && json_value_is_valid(c.at, n)) {
        skip_space(&c);
        while (c.end > c.at && memchr(" \t\r\n", c.end[-1], 4))
            c.end--;
        buffer_append(out, c.at, (size_t)(c.end - c.at));
    } else {
        put_string(out, c.at, n);
    }
}

/* ---- Python's literals, and objects with bare keys ---- */

static bool is_word_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
}

static size_t word_length(const struct cursor *c)
{
    size_t n = 0;
    while (c->at + n < c->end && is_word_byte(c->at[n]))
        n++;
    return n;
}

/* The escapes that JSON and Python share become JSON's; other backslashes stay text. */
static bool take_quoted(struct cursor *c, struct buffer *out)
{
    static const char names[] = "abfnrtv0\\'\"", bytes[] = "\a\b\f\n\r\t\v\0\\'\"";
    const char quote = *c->at++;
    struct buffer text;
    buffer_init(&text, LIMIT_TOOL_ARGUMENTS);
    while (c->at < c->end && *c->at != quote) {
        const char *name = NULL;
        if (*c->at == '\\' && c->at + 1 < c->end)
            name = memchr(names, c->at[1], sizeof names - 1);
        if (name) {
            buffer_append_char(&text, bytes[name - names]);
            c->at += 2;
        } else if (starts_with(*c, "\\u") && c->end - c->at >= 6) {
            char literal[16];
            size_t n = 6;
            literal[0] = '"';
            if (starts_with((struct cursor){c->at + 6, c->end}, "\\u") && c->end - c->at >= 12)
                n = 12; /* perhaps a pair */
            memcpy(literal + 1, c->at, n);
            literal[n + 1] = '"';
            if (!json_string_decode(literal, n + 2, &text)) {
                literal[7] = '"';
                n = 6;
                if (!json_string_decode(literal, 8, &text))
                    break;
            }
            c->at += n;
        } else {
            buffer_append_char(&text, *c->at++);
        }
    }
    bool is_good = c->at < c->end && *c->at == quote && !text.is_failed;
    c->at += is_good;
    if (is_good)
        put_string(out, buffer_str(&text), text.len);
    buffer_deinit(&text);
    return is_good;
}

static bool take_marked_text(struct cursor *c, struct buffer *out)
{
    static const char mark[] = "<|\"|>";
    const char *end;
    if (!take(c, mark))
        return false;
    end = memmem(c->at, (size_t)(c->end - c->at), mark, sizeof mark - 1);
    if (!end)
        return false;
    put_string(out, c->at, (size_t)(end - c->at));
    c->at = end + sizeof mark - 1;
    return true;
}

static bool take_word(struct cursor *c, struct buffer *out)
{
    static const struct {
        const char *word, *json;
    } words[] = {{"True", "true"}, {"False", "false"}, {"None", "null"},
                 {"true", "true"}, {"false", "false"}, {"null", "null"}};
    size_t n = word_length(c);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strlen(words[i].word) == n && memcmp(words[i].word, c->at, n) == 0) {
            buffer_append_str(out, words[i].json);
            c->at += n;
            return true;
        }
    }
    n = json_value_length(c->at, (size_t)(c->end - c->at));
    if (n == 0 || !strchr("-0123456789", *c->at))
        return false;
    buffer_append(out, c->at, n);
    c->at += n;
    return true;
}

static bool take_value(struct cursor *c, uint32_t depth, struct buffer *out);

static bool take_key(struct cursor *c, struct buffer *out)
{
    size_t n = word_length(c);
    skip_space(c);
    if (c->at < c->end && (*c->at == '"' || *c->at == '\''))
        return take_quoted(c, out);
    if (starts_with(*c, "<|\"|>"))
        return take_marked_text(c, out);
    n = word_length(c);
    if (n == 0)
        return false;
    put_string(out, c->at, n);
    c->at += n;
    return true;
}

/* Items or members up to the closing mark; the opening one is taken. between: behind a key. */
static bool take_items(struct cursor *c, uint32_t depth, const char *close, const char *between,
                       struct buffer *out)
{
    bool is_first = true;
    if (depth >= LIMIT_JSON_DEPTH)
        return false;
    for (skip_space(c); !take(c, close); skip_space(c), is_first = false) {
        if (!is_first) {
            if (!take(c, ","))
                return false;
            skip_space(c);
            if (take(c, close))
                return true;
            buffer_append_str(out, ", ");
        }
        if (between) {
            if (!take_key(c, out))
                return false;
            skip_space(c);
            if (!take(c, between))
                return false;
            buffer_append_str(out, ": ");
        }
        if (!take_value(c, depth + 1, out))
            return false;
    }
    return true;
}

static bool take_value(struct cursor *c, uint32_t depth, struct buffer *out)
{
    skip_space(c);
    if (c->at == c->end)
        return false;
    bool is_list = *c->at == '[' || *c->at == '(';
    if (is_list || *c->at == '{') {
        const char *close = *c->at == '[' ? "]" : *c->at == '(' ? ")" : "}";
        c->at++;
        buffer_append_char(out, is_list ? '[' : '{');
        if (!take_items(c, depth, close, is_list ? NULL : ":", out))
            return false;
        buffer_append_char(out, is_list ? ']' : '}');
        return true;
    }
    if (*c->at == '"' || *c->at == '\'')
        return take_quoted(c, out);
    return take_marked_text(c, out) || take_word(c, out);
}

bool call_object_to_json(const char *text, size_t n, struct buffer *out)
{
    struct cursor c = {text, text + n};
    skip_space(&c);
    if (c.at == c.end || *c.at != '{' || !take_value(&c, 0, out))
        return false;
    skip_space(&c);
    return c.at == c.end && !out->is_failed;
}

bool call_python_parse(const char *text, size_t n, struct tool_call_list *out)
{
    struct cursor c = {text, text + n};
    bool is_first = true;
    if (!take(&c, "["))
        return false;
    for (skip_space(&c); !take(&c, "]"); skip_space(&c), is_first = false) {
        if (!is_first && !take(&c, ","))
            return false;
        skip_space(&c);
        size_t n_name = word_length(&c);
        struct tool_call *call = n_name > 0 ? tool_call_list_add(out) : NULL;
        if (!call || !tool_call_set_name(call, c.at, n_name))
            return false;
        c.at += n_name;
        buffer_append_char(&call->arguments, '{');
        if (!take(&c, "(") || !take_items(&c, 0, ")", "=", &call->arguments))
            return false;
        buffer_append_char(&call->arguments, '}');
    }
    return !is_first && c.at == c.end;
}
