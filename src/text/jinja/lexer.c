/* Source text to tokens, with the white space rules of trim_blocks and lstrip_blocks. */
#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "base/utf8.h"
#include "text/jinja/ast.h"

#include <inttypes.h>
#include <string.h>

struct lexer {
    struct arena *arena;
    const char *s;
    size_t n, pos;
    size_t counted; /* line and line_start are those of this position */
    uint32_t line;
    size_t line_start;
    struct jinja_tokens *out;
    serverd_error *err;
};

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name_char(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static void locate(struct lexer *lx, size_t pos)
{
    for (; lx->counted < pos; lx->counted++)
        if (lx->s[lx->counted] == '\n') {
            lx->line++;
            lx->line_start = lx->counted + 1;
        }
}

static serverd_status lex_fail(struct lexer *lx, size_t pos, const char *what)
{
    locate(lx, pos);
    return fail(lx->err, SERVERD_INVALID, "chat template, line %" PRIu32 ", column %zu: %s",
                lx->line, pos - lx->line_start + 1, what);
}

static serverd_status push(struct lexer *lx, enum token_kind kind, size_t begin, size_t end,
                           struct template_value *value)
{
    struct jinja_tokens *out = lx->out;
    if (out->n == out->cap) {
        const size_t cap = out->cap ? 2 * out->cap : 256;
        struct token *items = arena_array(lx->arena, cap, sizeof *items);
        if (!items)
            return fail(lx->err, SERVERD_NOMEM, "chat template: out of memory");
        if (out->n)
            memcpy(items, out->items, out->n * sizeof *items);
        out->items = items;
        out->cap = cap;
    }
    locate(lx, begin);
    out->items[out->n++] = (struct token){kind,
                                          {lx->s + begin, end - begin},
                                          value,
                                          lx->line,
                                          (uint32_t)(begin - lx->line_start + 1)};
    return SERVERD_OK;
}

static bool at(const struct lexer *lx, size_t pos, const char *s)
{
    const size_t n = strlen(s);
    return pos <= lx->n && n <= lx->n - pos && !memcmp(lx->s + pos, s, n);
}

static size_t skip_space(const struct lexer *lx, size_t pos)
{
    while (pos < lx->n && is_space(lx->s[pos]))
        pos++;
    return pos;
}

/* Data before an opening mark: '-' strips all white space, lstrip_blocks the line's indent. */
static serverd_status push_data(struct lexer *lx, size_t begin, size_t end, char sign,
                                bool is_variable)
{
    size_t stop = end;
    if (sign == '-') {
        while (stop > begin && is_space(lx->s[stop - 1]))
            stop--;
    } else if (sign != '+' && !is_variable) {
        size_t start = end;
        while (start > begin && lx->s[start - 1] != '\n' && is_space(lx->s[start - 1]))
            start--;
        if (start == 0 || lx->s[start - 1] == '\n')
            stop = start;
    }
    return stop > begin ? push(lx, TOKEN_DATA, begin, stop, NULL) : SERVERD_OK;
}

/* Past "%}" or the like at pos; `trims` drops one newline. */
static size_t after_close(const struct lexer *lx, size_t pos, char sign, bool trims)
{
    pos += 2;
    if (sign == '-')
        return skip_space(lx, pos);
    if (trims && sign != '+' && pos < lx->n && lx->s[pos] == '\n')
        pos++;
    return pos;
}

static bool keyword_at(const struct lexer *lx, size_t *pos, const char *word)
{
    const size_t p = skip_space(lx, *pos);
    if (!at(lx, p, word))
        return false;
    *pos = skip_space(lx, p + strlen(word));
    return true;
}

static char sign_at(const struct lexer *lx, size_t pos)
{
    return pos < lx->n && (lx->s[pos] == '-' || lx->s[pos] == '+') ? lx->s[pos] : 0;
}

/* If "{% raw %}" opens at pos, its text up to endraw is data. */
static serverd_status lex_raw(struct lexer *lx, size_t pos, bool *is_raw)
{
    size_t p = pos + 2;
    p += sign_at(lx, p) != 0;
    *is_raw = false;
    if (!keyword_at(lx, &p, "raw"))
        return SERVERD_OK;
    const char sign = sign_at(lx, p);
    if (sign == '+' || !at(lx, p + (sign != 0), "%}"))
        return SERVERD_OK;
    *is_raw = true;
    const size_t begin = after_close(lx, p + (sign != 0), sign, false);
    for (size_t q = begin; q + 1 < lx->n; q++) {
        if (!at(lx, q, "{%"))
            continue;
        const char open_sign = sign_at(lx, q + 2);
        p = q + 2 + (open_sign != 0);
        if (!keyword_at(lx, &p, "endraw"))
            continue;
        const char close_sign = sign_at(lx, p);
        if (!at(lx, p + (close_sign != 0), "%}"))
            continue;
        lx->pos = after_close(lx, p + (close_sign != 0), close_sign, true);
        return push_data(lx, begin, q, open_sign, false);
    }
    return lex_fail(lx, pos, "raw block without endraw");
}

static int digit_value(char c)
{
    return is_digit(c)            ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : 99;
}

static bool read_digits(const char *s, size_t n, size_t at_least, size_t at_most, int base,
                        size_t *used, uint32_t *out)
{
    uint32_t v = 0;
    size_t i = 0;
    while (i < n && i < at_most && digit_value(s[i]) < base)
        v = v * (uint32_t)base + (uint32_t)digit_value(s[i++]);
    *used = i;
    *out = v;
    return i >= at_least;
}

/* Python's escapes; one that is unknown stays as written. Returns bytes read, 0 if malformed. */
static size_t unescape(const char *s, size_t n, char *out, size_t *len)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = s[0] ? strchr(from, s[0]) : NULL;
    size_t used = 0;
    uint32_t c = 0;
    if (s[0] == '\n')
        return 1;
    if (simple) {
        out[(*len)++] = to[simple - from];
        return 1;
    }
    if (s[0] >= '0' && s[0] <= '7') {
        (void)read_digits(s, n, 1, 3, 8, &used, &c);
        *len += utf8_encode(c, out + *len);
        return used;
    }
    const size_t wanted = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    if (wanted) {
        if (!read_digits(s + 1, n - 1, wanted, wanted, 16, &used, &c) || c > 0x10ffff)
            return 0;
        *len += utf8_encode(c, out + *len);
        return used + 1;
    }
    out[(*len)++] = '\\';
    out[(*len)++] = s[0];
    return 1;
}

static serverd_status lex_string(struct lexer *lx)
{
    const size_t begin = lx->pos;
    const char quote = lx->s[begin];
    size_t end = begin + 1, len = 0;
    while (end < lx->n && lx->s[end] != quote)
        end += lx->s[end] == '\\' ? 2 : 1;
    if (end >= lx->n)
        return lex_fail(lx, begin, "string without end");
    char *out = arena_alloc(lx->arena, end - begin + 1); /* no escape grows */
    if (!out)
        return fail(lx->err, SERVERD_NOMEM, "chat template: out of memory");
    for (size_t i = begin + 1; i < end;) {
        if (lx->s[i] != '\\') {
            out[len++] = lx->s[i++];
            continue;
        }
        const size_t used = unescape(lx->s + i + 1, end - i - 1, out, &len);
        if (!used)
            return lex_fail(lx, i, "malformed escape in a string");
        i += 1 + used;
    }
    lx->pos = end + 1;
    struct template_value *v = value_text(lx->arena, out, len);
    return v ? push(lx, TOKEN_STRING, begin, end + 1, v)
             : fail(lx->err, SERVERD_NOMEM, "chat template: out of memory");
}

static size_t skip_digits(const struct lexer *lx, size_t p, char *text, size_t *len, size_t cap)
{
    while (p < lx->n &&
           (is_digit(lx->s[p]) || (lx->s[p] == '_' && p + 1 < lx->n && is_digit(lx->s[p + 1])))) {
        if (lx->s[p] != '_' && *len < cap)
            text[(*len)++] = lx->s[p];
        p++;
    }
    return p;
}

static serverd_status push_number(struct lexer *lx, size_t end, struct template_value *v)
{
    const size_t begin = lx->pos;
    lx->pos = end;
    return v ? push(lx, TOKEN_NUMBER, begin, end, v)
             : fail(lx->err, SERVERD_NOMEM, "chat template: out of memory");
}

static serverd_status lex_number(struct lexer *lx)
{
    char text[400];
    size_t len = 0, p = lx->pos;
    const char kind = p + 1 < lx->n && lx->s[p] == '0' ? (char)(lx->s[p + 1] | 0x20) : 0;
    if (kind == 'x' || kind == 'o' || kind == 'b') {
        const int base = kind == 'x' ? 16 : kind == 'o' ? 8 : 2;
        int64_t v = 0;
        for (p += 2; p < lx->n && (digit_value(lx->s[p]) < base || lx->s[p] == '_'); p++)
            if (lx->s[p] != '_' && (__builtin_mul_overflow(v, base, &v) ||
                                    __builtin_add_overflow(v, digit_value(lx->s[p]), &v)))
                return lex_fail(lx, lx->pos, "integer out of range");
        return push_number(lx, p, template_int(lx->arena, v));
    }
    bool is_float = false;
    p = skip_digits(lx, p, text, &len, 300);
    if (p + 1 < lx->n && lx->s[p] == '.' && is_digit(lx->s[p + 1])) {
        is_float = true;
        text[len++] = '.';
        p = skip_digits(lx, p + 1, text, &len, 350);
    }
    if (p < lx->n && (lx->s[p] | 0x20) == 'e') {
        const size_t signed_exp = p + 1 < lx->n && (lx->s[p + 1] == '+' || lx->s[p + 1] == '-');
        if (p + 1 + signed_exp < lx->n && is_digit(lx->s[p + 1 + signed_exp])) {
            is_float = true;
            text[len++] = 'e';
            if (signed_exp)
                text[len++] = lx->s[p + 1];
            p = skip_digits(lx, p + 1 + signed_exp, text, &len, 390);
        }
    }
    text[len] = 0;
    double real;
    int64_t integer;
    if (is_float ? !parse_f64(text, &real) : !parse_i64(text, 0, INT64_MAX, &integer))
        return lex_fail(lx, lx->pos, "number out of range");
    return push_number(
        lx, p, is_float ? template_float(lx->arena, real) : template_int(lx->arena, integer));
}

static size_t operator_length(const struct lexer *lx)
{
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (at(lx, lx->pos, two[i]))
            return 2;
    return lx->s[lx->pos] && strchr("+-/*%~[](){}<>=.:|,;", lx->s[lx->pos]) ? 1 : 0;
}

/* From after "{{" or "{%" to the closing mark, which counts only outside of brackets. */
static serverd_status lex_inside(struct lexer *lx, size_t begin, const char *close,
                                 enum token_kind close_kind)
{
    unsigned depth = 0;
    const bool is_block = close_kind == TOKEN_BLOCK_END;
    for (;;) {
        lx->pos = skip_space(lx, lx->pos);
        if (lx->pos >= lx->n)
            return lex_fail(lx, begin, is_block ? "'{%' without '%}'" : "'{{' without '}}'");
        const char c = lx->s[lx->pos];
        if (!depth) {
            const char sign = is_block ? sign_at(lx, lx->pos) : c == '-' ? '-' : 0;
            const size_t p = lx->pos + (sign != 0);
            if (at(lx, p, close)) {
                const serverd_status status = push(lx, close_kind, p, p + 2, NULL);
                lx->pos = after_close(lx, p, sign, is_block);
                return status;
            }
        }
        serverd_status status;
        size_t n;
        if (c == '"' || c == '\'') {
            status = lex_string(lx);
        } else if (is_digit(c)) {
            status = lex_number(lx);
        } else if (is_name_char(c)) {
            size_t p = lx->pos;
            while (p < lx->n && is_name_char(lx->s[p]))
                p++;
            status = push(lx, TOKEN_NAME, lx->pos, p, NULL);
            lx->pos = p;
        } else if ((n = operator_length(lx)) != 0) {
            if (c == '(' || c == '[' || c == '{')
                depth++;
            else if ((c == ')' || c == ']' || c == '}') && depth-- == 0)
                return lex_fail(lx, lx->pos, "closing bracket without an opening one");
            status = push(lx, TOKEN_OPERATOR, lx->pos, lx->pos + n, NULL);
            lx->pos += n;
        } else {
            return lex_fail(lx, lx->pos, "unexpected character");
        }
        if (status)
            return status;
    }
}

static serverd_status lex_comment(struct lexer *lx, size_t begin)
{
    for (size_t p = begin + 2; p + 1 < lx->n; p++)
        if (at(lx, p, "#}")) {
            const char sign = p > begin + 2 ? sign_at(lx, p - 1) : 0;
            lx->pos = after_close(lx, p, sign, true);
            return SERVERD_OK;
        }
    return lex_fail(lx, begin, "comment without end");
}

static serverd_status lex_mark(struct lexer *lx, size_t begin, size_t mark)
{
    const char kind = lx->s[mark + 1], sign = sign_at(lx, mark + 2);
    bool is_raw = false;
    serverd_status status = push_data(lx, begin, mark, sign, kind == '{');
    if (status)
        return status;
    if (kind == '#')
        return lex_comment(lx, mark);
    if (kind == '%') {
        status = lex_raw(lx, mark, &is_raw);
        if (status || is_raw)
            return status;
    }
    status = push(lx, kind == '%' ? TOKEN_BLOCK_BEGIN : TOKEN_VARIABLE_BEGIN, mark, mark + 2, NULL);
    lx->pos = mark + 2 + (sign != 0);
    if (status)
        return status;
    return kind == '%' ? lex_inside(lx, mark, "%}", TOKEN_BLOCK_END)
                       : lex_inside(lx, mark, "}}", TOKEN_VARIABLE_END);
}

/* Newlines become \n and the last one is dropped, as jinja2 does. */
static size_t normalise(char *s, size_t n)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\r' && i + 1 < n && s[i + 1] == '\n')
            continue;
        s[len++] = s[i] == '\r' ? '\n' : s[i];
    }
    return len && s[len - 1] == '\n' ? len - 1 : len;
}

serverd_status jinja_lex(struct arena *arena, const char *source, size_t n,
                         struct jinja_tokens *out, serverd_error *err)
{
    if (n > LIMIT_TEMPLATE_SOURCE)
        return fail(err, SERVERD_INVALID, "chat template: %zu bytes, at most %zu allowed", n,
                    LIMIT_TEMPLATE_SOURCE);
    char *copy = arena_copy(arena, n ? source : "", n);
    if (!copy)
        return fail(err, SERVERD_NOMEM, "chat template: out of memory");
    struct lexer lx = {
        .arena = arena, .s = copy, .n = normalise(copy, n), .line = 1, .out = out, .err = err};
    while (lx.pos < lx.n) {
        const size_t begin = lx.pos;
        size_t mark = begin;
        while (mark < lx.n && !(at(&lx, mark, "{%") || at(&lx, mark, "{{") || at(&lx, mark, "{#")))
            mark++;
        const serverd_status status =
            mark == lx.n ? push(&lx, TOKEN_DATA, begin, mark, NULL) : lex_mark(&lx, begin, mark);
        if (status)
            return status;
        if (mark == lx.n)
            break;
    }
    return push(&lx, TOKEN_END, lx.n, lx.n, NULL);
}
