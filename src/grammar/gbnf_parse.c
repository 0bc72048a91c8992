#include "grammar/gbnf_internal.h"

#include "base/buffer.h"
#include "base/error.h"
#include "base/utf8.h"

#include <string.h>

serverd_status gbnf_wrong(const struct gbnf *gbnf, size_t at, const char *what)
{
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < gbnf->n; i++) {
        column = gbnf->text[i] == '\n' ? 1 : column + 1;
        line += gbnf->text[i] == '\n';
    }
    return fail(gbnf->err, SERVERD_INVALID, "%zu:%zu: %s", line, column, what);
}

struct parser {
    struct gbnf *gbnf;
    size_t at;
    unsigned depth;
    serverd_status status;
};

static void *wrong(struct parser *p, const char *what)
{
    if (p->status == SERVERD_OK)
        p->status = gbnf_wrong(p->gbnf, p->at, what);
    return NULL;
}

static char look(const struct parser *p)
{
    return p->at < p->gbnf->n ? p->gbnf->text[p->at] : '\0';
}

static void skip_space(struct parser *p)
{
    while (p->at < p->gbnf->n) {
        char c = look(p);
        if (c == '#')
            while (p->at < p->gbnf->n && look(p) != '\n')
                p->at++;
        else if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
            p->at++;
        else
            break;
    }
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static size_t name_length(const struct parser *p)
{
    size_t n = 0;
    while (p->at + n < p->gbnf->n && is_name(p->gbnf->text[p->at + n]))
        n++;
    return n;
}

/* Whether `name ::=` stands here: the next rule, wherever lines end. */
static bool is_rule_head(struct parser *p)
{
    size_t at = p->at, n = name_length(p);
    p->at += n;
    skip_space(p);
    bool is_head = n > 0 && p->gbnf->n - p->at >= 3 && memcmp(p->gbnf->text + p->at, "::=", 3) == 0;
    p->at = at;
    return is_head;
}

static uint32_t find_rule(struct parser *p, size_t n)
{
    struct gbnf *gbnf = p->gbnf;
    const char *name = gbnf->text + p->at;
    for (uint32_t i = 0; i < gbnf->n_rules; i++)
        if (gbnf->rules[i].n_name == n && memcmp(gbnf->rules[i].name, name, n) == 0)
            return i;
    if (gbnf->n_rules == LIMIT_GRAMMAR_RULES) {
        if (p->status == SERVERD_OK)
            p->status = fail(gbnf->err, SERVERD_TIMEOUT, "more than %u rules", LIMIT_GRAMMAR_RULES);
        return 0;
    }
    gbnf->rules[gbnf->n_rules] =
        (struct gbnf_rule){.name = name, .n_name = (uint32_t)n, .at = (uint32_t)p->at};
    return gbnf->n_rules++;
}

static struct gbnf_node *new_node(struct parser *p, enum gbnf_kind kind)
{
    struct gbnf_node *node = arena_alloc(p->gbnf->budget->arena, sizeof *node);
    if (!node) {
        if (p->status == SERVERD_OK)
            p->status = grammar_budget_memory(p->gbnf->err);
        return NULL;
    }
    node->kind = kind;
    node->at = (uint32_t)p->at;
    return node;
}

/* ---- characters ------------------------------------------------------------------------------ */

static bool hex(struct parser *p, unsigned digits, uint32_t *out)
{
    *out = 0;
    for (unsigned i = 0; i < digits; i++, p->at++) {
        char c = look(p);
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

/* A character of a literal or class, its escapes undone. */
static bool read_character(struct parser *p, uint32_t *out)
{
    static const char names[] = "nrt\"\\[]-^'/", values[] = "\n\r\t\"\\[]-^'/";
    bool is_good = true;
    if (p->at >= p->gbnf->n)
        return false;
    if (look(p) != '\\') {
        size_t n = utf8_decode(p->gbnf->text + p->at, p->gbnf->n - p->at, out);
        is_good = utf8_valid_run(p->gbnf->text + p->at, n) == n;
        p->at += n;
        return is_good;
    }
    p->at++;
    char c = look(p);
    const char *name = c ? strchr(names, c) : NULL;
    p->at++;
    if (name)
        *out = (uint8_t)values[name - names];
    else if (c == 'x')
        is_good = hex(p, 2, out);
    else if (c == 'u')
        is_good = hex(p, 4, out);
    else
        is_good = c == 'U' && hex(p, 8, out);
    return is_good && *out <= 0x10ffff && (*out < 0xd800 || *out > 0xdfff);
}

static struct gbnf_node *regex_node(struct parser *p, size_t at, struct buffer *regex)
{
    struct gbnf_node *node = new_node(p, GBNF_REGEX);
    if (node && regex->is_failed)
        p->status = fail(p->gbnf->err, SERVERD_TIMEOUT, "a literal or class that is too long");
    if (node && p->status == SERVERD_OK) {
        node->at = (uint32_t)at;
        node->regex = arena_copy(p->gbnf->budget->arena, buffer_str(regex), regex->len);
        node->n_regex = (uint32_t)regex->len;
        node->is_nullable = regex->len == 0;
        if (!node->regex)
            p->status = grammar_budget_memory(p->gbnf->err);
    }
    return p->status == SERVERD_OK ? node : NULL;
}

static struct gbnf_node *parse_literal(struct parser *p)
{
    struct buffer regex;
    size_t begin = p->at++;
    buffer_init(&regex, LIMIT_GRAMMAR_INLINE);
    while (p->status == SERVERD_OK && look(p) != '"') {
        uint32_t c;
        if (!read_character(p, &c))
            wrong(p, "a literal without end, or no such character");
        else
            buffer_printf(&regex, "\\u{%x}", c);
    }
    p->at++;
    struct gbnf_node *node = p->status == SERVERD_OK ? regex_node(p, begin, &regex) : NULL;
    buffer_deinit(&regex);
    return node;
}

static struct gbnf_node *parse_class(struct parser *p)
{
    struct buffer regex;
    size_t begin = p->at++;
    buffer_init(&regex, LIMIT_GRAMMAR_INLINE);
    buffer_append_char(&regex, '[');
    if (look(p) == '^') {
        buffer_append_char(&regex, '^');
        p->at++;
    }
    while (p->status == SERVERD_OK && look(p) != ']') {
        uint32_t first, last;
        if (!read_character(p, &first)) {
            wrong(p, "a class without end, or no such character");
            break;
        }
        last = first;
        if (look(p) == '-' && p->at + 1 < p->gbnf->n && p->gbnf->text[p->at + 1] != ']') {
            p->at++;
            if (!read_character(p, &last) || last < first)
                wrong(p, "no range of characters");
        }
        buffer_printf(&regex, "\\u{%x}-\\u{%x}", first, last);
    }
    p->at++;
    buffer_append_char(&regex, ']');
    struct gbnf_node *node = p->status == SERVERD_OK ? regex_node(p, begin, &regex) : NULL;
    buffer_deinit(&regex);
    return node;
}

static struct gbnf_node *parse_dot(struct parser *p)
{
    struct buffer regex;
    buffer_init(&regex, 64);
    buffer_append_str(&regex, "[\\u{0}-\\u{10ffff}]");
    struct gbnf_node *node = regex_node(p, p->at++, &regex);
    buffer_deinit(&regex);
    return node;
}

/* ---- expressions ----------------------------------------------------------------------------- */

static struct gbnf_node *parse_either(struct parser *p);

static struct gbnf_node *parse_atom(struct parser *p)
{
    char c = look(p);
    if (c == '"')
        return parse_literal(p);
    if (c == '[')
        return parse_class(p);
    if (c == '.')
        return parse_dot(p);
    if (c == '(') {
        p->at++;
        struct gbnf_node *node = parse_either(p);
        if (node && look(p) != ')')
            return wrong(p, "')' is expected");
        p->at++;
        return node;
    }
    size_t n = name_length(p);
    if (n == 0)
        return wrong(p, "no literal, class, rule or group");
    struct gbnf_node *node = new_node(p, GBNF_RULE);
    if (node)
        node->rule = find_rule(p, n);
    p->at += n;
    return node;
}

static bool read_count(struct parser *p, uint32_t *out)
{
    size_t begin = p->at;
    uint64_t count = 0;
    for (; look(p) >= '0' && look(p) <= '9'; p->at++)
        count = count * 10 + (uint64_t)(look(p) - '0') > LIMIT_GRAMMAR_REPEAT
                    ? LIMIT_GRAMMAR_REPEAT + 1
                    : count * 10 + (uint64_t)(look(p) - '0');
    *out = (uint32_t)count;
    return p->at > begin;
}

/* *, +, ?, {m}, {m,}, {m,n}, {,n}; false: none stands here. */
static bool read_repetition(struct parser *p, uint32_t *min, uint32_t *max)
{
    char c = look(p);
    *min = c == '+';
    *max = c == '?' ? 1 : UINT32_MAX;
    if (c == '*' || c == '+' || c == '?') {
        p->at++;
        return true;
    }
    if (c != '{')
        return false;
    p->at++;
    skip_space(p);
    bool has_min = read_count(p, min);
    skip_space(p);
    if (look(p) == ',') {
        p->at++;
        skip_space(p);
        if (!read_count(p, max))
            *max = UINT32_MAX;
    } else {
        *max = has_min ? *min : 0;
        if (!has_min)
            wrong(p, "no number of repetitions");
    }
    skip_space(p);
    if (look(p) != '}' || *min > *max)
        wrong(p, "no range of repetitions");
    else if (*min > LIMIT_GRAMMAR_REPEAT || (*max != UINT32_MAX && *max > LIMIT_GRAMMAR_REPEAT))
        p->status =
            fail(p->gbnf->err, SERVERD_TIMEOUT, "more than %u repetitions", LIMIT_GRAMMAR_REPEAT);
    p->at++;
    return true;
}

static struct gbnf_node *parse_item(struct parser *p)
{
    struct gbnf_node *node = parse_atom(p);
    uint32_t min, max;
    skip_space(p);
    while (node && p->status == SERVERD_OK && read_repetition(p, &min, &max)) {
        struct gbnf_node *repeat = new_node(p, GBNF_REPEAT);
        if (!repeat)
            return NULL;
        repeat->first = node;
        repeat->min = min;
        repeat->max = max;
        node = repeat;
        if (++p->depth > LIMIT_GRAMMAR_NESTING)
            return wrong(p, "nested too deeply");
        skip_space(p);
    }
    return p->status == SERVERD_OK ? node : NULL;
}

static struct gbnf_node *parse_series(struct parser *p)
{
    struct gbnf_node *series = new_node(p, GBNF_SERIES), **link = series ? &series->first : NULL;
    for (;;) {
        skip_space(p);
        char c = look(p);
        if (!series || p->status != SERVERD_OK)
            return NULL;
        if (p->at >= p->gbnf->n || c == '|' || c == ')' || is_rule_head(p))
            return series;
        unsigned depth = p->depth;
        *link = parse_item(p);
        p->depth = depth;
        if (!*link)
            return NULL;
        link = &(*link)->next;
    }
}

static struct gbnf_node *parse_either(struct parser *p)
{
    struct gbnf_node *either = new_node(p, GBNF_EITHER), **link = either ? &either->first : NULL;
    if (++p->depth > LIMIT_GRAMMAR_NESTING)
        return wrong(p, "nested too deeply");
    while (either) {
        serverd_status status = grammar_budget_spend(p->gbnf->budget, 1, p->gbnf->err);
        if (status != SERVERD_OK)
            p->status = status;
        *link = parse_series(p);
        if (!*link)
            return NULL;
        link = &(*link)->next;
        if (look(p) != '|')
            break;
        p->at++;
    }
    p->depth--;
    return either;
}

static void parse_rule(struct parser *p)
{
    size_t n = name_length(p);
    if (!is_rule_head(p)) {
        wrong(p, "a rule is expected: name ::= ...");
        return;
    }
    uint32_t rule = find_rule(p, n);
    if (p->status == SERVERD_OK && p->gbnf->rules[rule].body) {
        wrong(p, "a rule that is there already");
        return;
    }
    p->at += n;
    skip_space(p);
    p->at += 3;
    struct gbnf_node *body = p->status == SERVERD_OK ? parse_either(p) : NULL;
    if (body && look(p) == ')')
        wrong(p, "')' without '('");
    if (body)
        p->gbnf->rules[rule].body = body;
}

serverd_status gbnf_parse(struct gbnf *gbnf, uint32_t *root)
{
    struct parser p = {.gbnf = gbnf};
    gbnf->rules = arena_array(gbnf->budget->arena, LIMIT_GRAMMAR_RULES, sizeof *gbnf->rules);
    if (!gbnf->rules)
        return grammar_budget_memory(gbnf->err);
    for (skip_space(&p); p.status == SERVERD_OK && p.at < gbnf->n; skip_space(&p))
        parse_rule(&p);
    *root = UINT32_MAX;
    for (uint32_t i = 0; i < gbnf->n_rules && p.status == SERVERD_OK; i++) {
        const struct gbnf_rule *rule = &gbnf->rules[i];
        if (!rule->body)
            p.status = gbnf_wrong(gbnf, rule->at, "a rule that is not defined");
        if (rule->n_name == 4 && memcmp(rule->name, "root", 4) == 0)
            *root = i;
    }
    if (p.status == SERVERD_OK && *root == UINT32_MAX)
        p.status = fail(gbnf->err, SERVERD_INVALID, "1:1: no rule \"root\"");
    return p.status;
}
