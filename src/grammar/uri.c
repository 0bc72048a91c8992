#include "grammar/uri.h"

#include <stdint.h>
#include <string.h>

struct span {
    const char *at;
    size_t n;
};

/* scheme ":" "//" authority path "?" query; a part that is not there has at == NULL. */
struct uri {
    struct span scheme, authority, path, query;
};

static struct uri split(const char *text)
{
    struct uri out = {0};
    size_t n = strcspn(text, "#"), scheme = strcspn(text, ":/?#");
    if (scheme > 0 && text[scheme] == ':') {
        out.scheme = (struct span){text, scheme};
        text += scheme + 1;
        n -= scheme + 1;
    }
    if (n >= 2 && text[0] == '/' && text[1] == '/') {
        size_t end = 2 + strcspn(text + 2, "/?#");
        out.authority = (struct span){text + 2, end - 2};
        text += end;
        n -= end;
    }
    size_t path = strcspn(text, "?#");
    out.path = (struct span){text, path};
    if (path < n)
        out.query = (struct span){text + path + 1, n - path - 1};
    return out;
}

static void append(struct buffer *out, struct span span)
{
    buffer_append(out, span.at, span.n);
}

/* Takes the last segment of out[from..] away, its slash too. */
static void drop_segment(struct buffer *out, size_t from)
{
    while (out->len > from && out->data[out->len - 1] != '/')
        out->len--;
    if (out->len > from)
        out->len--;
}

/* RFC 3986, 5.2.4. */
static void append_without_dots(struct buffer *out, const char *path, size_t n)
{
    size_t from = out->len, i = 0;
    while (i < n) {
        size_t end = i + (path[i] == '/');
        while (end < n && path[end] != '/')
            end++;
        size_t begin = i + (path[i] == '/'), length = end - begin;
        bool is_last = end == n;
        if (length == 1 && path[begin] == '.') {
            if (is_last)
                buffer_append_char(out, '/');
        } else if (length == 2 && memcmp(path + begin, "..", 2) == 0) {
            drop_segment(out, from);
            if (is_last)
                buffer_append_char(out, '/');
        } else {
            buffer_append(out, path + i, end - i);
        }
        i = end;
    }
}

static void append_merged(struct buffer *out, const struct uri *base, struct span path)
{
    struct buffer whole;
    buffer_init(&whole, 1 << 20);
    if (base->authority.at && base->path.n == 0) {
        buffer_append_char(&whole, '/');
    } else {
        append(&whole, base->path);
        while (whole.len > 0 && whole.data[whole.len - 1] != '/')
            whole.len--;
    }
    append(&whole, path);
    append_without_dots(out, buffer_str(&whole), whole.len);
    buffer_deinit(&whole);
}

void uri_resolve(const char *base_text, const char *reference, struct buffer *out)
{
    struct uri base = split(base_text), r = split(reference);
    bool has_authority = r.scheme.at || r.authority.at, has_path = has_authority || r.path.n > 0;
    struct span scheme = r.scheme.at ? r.scheme : base.scheme;
    struct span authority = has_authority ? r.authority : base.authority;
    struct span query = has_path || r.query.at ? r.query : base.query;
    if (scheme.at) {
        append(out, scheme);
        buffer_append_char(out, ':');
    }
    if (authority.at) {
        buffer_append_str(out, "//");
        append(out, authority);
    }
    if (!has_path)
        append(out, base.path);
    else if (has_authority || r.path.at[0] == '/')
        append_without_dots(out, r.path.at, r.path.n);
    else
        append_merged(out, &base, r.path);
    if (query.at) {
        buffer_append_char(out, '?');
        append(out, query);
    }
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

bool uri_decode(const char *text, size_t n, struct buffer *out)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] != '%') {
            buffer_append_char(out, text[i]);
            continue;
        }
        if (n - i < 3 || hex(text[i + 1]) < 0 || hex(text[i + 2]) < 0)
            return false;
        buffer_append_char(out, (char)(hex(text[i + 1]) * 16 + hex(text[i + 2])));
        i += 2;
    }
    return !out->is_failed;
}
