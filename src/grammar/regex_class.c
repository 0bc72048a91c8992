/* Characters and sets of characters in patterns. */
#include "base/error.h"
#include "base/utf8.h"
#include "grammar/regex_internal.h"

#include <string.h>

uint32_t regex_peek(const struct regex_parser *p)
{
    uint32_t c;
    if (p->at >= p->n)
        return UINT32_MAX;
    (void)utf8_decode(p->pattern + p->at, p->n - p->at, &c);
    return c;
}

uint32_t regex_take(struct regex_parser *p)
{
    uint32_t c;
    if (p->at >= p->n)
        return UINT32_MAX;
    p->at += utf8_decode(p->pattern + p->at, p->n - p->at, &c);
    return c;
}

bool regex_take_if(struct regex_parser *p, char c)
{
    if (p->at >= p->n || p->pattern[p->at] != c)
        return false;
    p->at++;
    return true;
}

serverd_status regex_wrong(struct regex_parser *p, const char *what)
{
    return fail(p->err, SERVERD_INVALID, "pattern, byte %zu: %s", p->at, what);
}

serverd_status regex_unsupported(struct regex_parser *p, const char *what)
{
    return fail(p->err, SERVERD_UNSUPPORTED, "pattern, byte %zu: %s cannot be enforced", p->at,
                what);
}

serverd_status regex_single(struct regex_parser *p, uint32_t c, struct charset *out)
{
    struct char_range r = {c, c};
    bool has_case = c >= 0x80 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return p->ignores_case && has_case ? charset_fold_one(p->budget, c, out, p->err)
                                       : charset_make(p->budget, &r, 1, out, p->err);
}

/* \d \s \w; the capital letter is the complement. */
static serverd_status class_escape(struct regex_parser *p, uint32_t letter, struct charset *out)
{
    static const struct char_range digit[] = {{'0', '9'}};
    static const struct char_range space[] = {
        {'\t', '\r'},     {' ', ' '},       {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
        {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
    struct charset set = nfa_word_set();
    if (letter == 'd' || letter == 'D')
        set = (struct charset){.ranges = digit, .n_ranges = 1};
    if (letter == 's' || letter == 'S')
        set = (struct charset){.ranges = space, .n_ranges = sizeof space / sizeof *space};
    *out = set;
    return letter < 'a' ? charset_complement(p->budget, set, out, p->err) : SERVERD_OK;
}

/* `n_digits` hexadecimal digits. */
static bool take_hex(struct regex_parser *p, size_t n_digits, uint32_t *out)
{
    uint32_t value = 0;
    if (p->n - p->at < n_digits)
        return false;
    for (size_t i = 0; i < n_digits; i++) {
        char c = p->pattern[p->at + i];
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16)
            return false;
        value = value * 16 + digit;
    }
    p->at += n_digits;
    *out = value;
    return true;
}

/* Behind \u: four digits, a pair of surrogates, or {digits}. */
static bool take_unicode(struct regex_parser *p, uint32_t *out)
{
    if (regex_take_if(p, '{')) {
        size_t n = 0;
        while (p->at + n < p->n && p->pattern[p->at + n] != '}')
            n++;
        size_t zeros = 0;
        while (zeros + 1 < n && p->pattern[p->at + zeros] == '0')
            zeros++;
        p->at += zeros;
        return n > 0 && n - zeros <= 6 && take_hex(p, n - zeros, out) && *out <= CODE_POINT_MAX &&
               regex_take_if(p, '}');
    }
    if (!take_hex(p, 4, out))
        return false;
    size_t behind = p->at;
    uint32_t low;
    if (*out >= 0xd800 && *out <= 0xdbff && regex_take_if(p, '\\') && regex_take_if(p, 'u') &&
        take_hex(p, 4, &low) && low >= 0xdc00 && low <= 0xdfff)
        *out = 0x10000 + ((*out - 0xd800) << 10) + (low - 0xdc00);
    else
        p->at = behind;
    return true;
}

/* Behind \p or \P: {name}, or one letter as Rust has it. */
static serverd_status property_escape(struct regex_parser *p, bool is_negated, struct charset *out)
{
    const char *name = p->pattern + p->at;
    size_t n = 1;
    if (regex_take_if(p, '{')) {
        name++;
        const char *end = memchr(name, '}', p->n - p->at);
        if (!end)
            return regex_wrong(p, "\\p without }");
        n = (size_t)(end - name);
        p->at += n + 1;
        if (n > 0 && *name == '^') {
            is_negated = !is_negated;
            name++;
            n--;
        }
    } else if (p->at < p->n) {
        p->at++;
    } else {
        return regex_wrong(p, "\\p at the end");
    }
    serverd_status status = charset_property(p->budget, name, n, out, p->err);
    if (status)
        return error_context(p->err, "pattern, byte %zu", p->at);
    if (p->ignores_case)
        status = charset_fold_case(p->budget, *out, out, p->err);
    if (!status && is_negated)
        status = charset_complement(p->budget, *out, out, p->err);
    return status;
}

serverd_status regex_parse_escape(struct regex_parser *p, bool in_class, struct charset *out,
                                  bool *is_class)
{
    static const struct {
        char letter, value;
    } controls[] = {{'f', '\f'}, {'n', '\n'}, {'r', '\r'}, {'t', '\t'}, {'v', '\v'}};
    uint32_t c = regex_take(p), value = c;
    *is_class = false;
    if (c == UINT32_MAX)
        return regex_wrong(p, "a backslash at the end");
    if (c == 'p' || c == 'P') {
        *is_class = true;
        return property_escape(p, c == 'P', out);
    }
    if (c < 0x80 && c != 0 && strchr("dDsSwW", (int)c)) {
        *is_class = true;
        return class_escape(p, c, out);
    }
    for (size_t i = 0; i < sizeof controls / sizeof *controls; i++)
        if (c == (uint32_t)controls[i].letter)
            return regex_single(p, (uint32_t)controls[i].value, out);
    if (c == 'b' && in_class) {
        value = '\b';
    } else if (c == '0') {
        value = 0;
        if (regex_peek(p) >= '0' && regex_peek(p) <= '9')
            return regex_wrong(p, "an octal escape");
    } else if (c == 'c') {
        uint32_t letter = regex_take(p);
        if (!((letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z')))
            return regex_wrong(p, "\\c without a letter");
        value = letter % 32;
    } else if (c == 'x') {
        if (p->use == REGEX_WHOLE && regex_peek(p) == '{' ? !take_unicode(p, &value)
                                                          : !take_hex(p, 2, &value))
            return regex_wrong(p, "\\x without two hexadecimal digits");
    } else if (c == 'u') {
        if (!take_unicode(p, &value))
            return regex_wrong(p, "\\u without four hexadecimal digits or {...}");
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '1' && c <= '9')) {
        return regex_wrong(p, "an unknown escape");
    }
    return regex_single(p, value, out);
}

/* Ranges of a class as they come. */
struct range_list {
    struct char_range *ranges;
    size_t n, cap;
};

static bool add_range(struct arena *arena, struct range_list *list, struct char_range r)
{
    if (list->n == list->cap) {
        size_t cap = list->cap > 0 ? 2 * list->cap : 16;
        struct char_range *grown =
            arena_grow(arena, list->ranges, list->n * sizeof r, cap * sizeof r);
        if (!grown)
            return false;
        list->ranges = grown;
        list->cap = cap;
    }
    list->ranges[list->n++] = r;
    return true;
}

/* One character or set of a class; *c is UINT32_MAX if it is a set, which was added. */
static serverd_status class_atom(struct regex_parser *p, struct range_list *list, uint32_t *c)
{
    if (regex_peek(p) != '\\') {
        *c = regex_take(p);
        return SERVERD_OK;
    }
    p->at++;
    struct charset set;
    bool is_class, ignores_case = p->ignores_case;
    p->ignores_case = false; /* the whole class is folded later */
    serverd_status status = regex_parse_escape(p, true, &set, &is_class);
    p->ignores_case = ignores_case;
    if (status)
        return status;
    *c = is_class ? UINT32_MAX : set.n_ranges > 0 ? set.ranges[0].first : 0xd800;
    for (uint32_t i = 0; is_class && i < set.n_ranges; i++)
        if (!add_range(p->budget->arena, list, set.ranges[i]))
            return grammar_budget_memory(p->err);
    return SERVERD_OK;
}

serverd_status regex_parse_class(struct regex_parser *p, struct charset *out)
{
    struct range_list list = {0};
    bool is_negated = regex_take_if(p, '^');
    while (!regex_take_if(p, ']')) {
        uint32_t first, last;
        if (regex_peek(p) == UINT32_MAX)
            return regex_wrong(p, "a class without ]");
        serverd_status status = class_atom(p, &list, &first);
        if (status)
            return status;
        last = first;
        bool is_range =
            p->at + 1 < p->n && p->pattern[p->at] == '-' && p->pattern[p->at + 1] != ']';
        if (is_range && first != UINT32_MAX) {
            size_t minus = p->at++;
            status = class_atom(p, &list, &last);
            if (status)
                return status;
            if (last == UINT32_MAX) { /* [a-\d]: the minus stands for itself */
                last = first;
                if (!add_range(p->budget->arena, &list, (struct char_range){'-', '-'}))
                    return grammar_budget_memory(p->err);
            } else if (last < first) {
                p->at = minus;
                return regex_wrong(p, "a range that is out of order");
            }
        }
        if (first != UINT32_MAX &&
            !add_range(p->budget->arena, &list, (struct char_range){first, last}))
            return grammar_budget_memory(p->err);
    }
    serverd_status status = charset_make(p->budget, list.ranges, list.n, out, p->err);
    if (!status && p->ignores_case)
        status = charset_fold_case(p->budget, *out, out, p->err);
    if (!status && is_negated)
        status = charset_complement(p->budget, *out, out, p->err);
    return status;
}
