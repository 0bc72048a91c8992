/* From the text of a pattern to its syntax tree. Recursive descent, one level per group. */
#include "base/error.h"
#include "base/utf8.h"
#include "grammar/regex_internal.h"

#include <string.h>

static serverd_status parse_choice(struct regex_parser *p, struct regex_node **out);

static struct regex_node *make_node(struct regex_parser *p, enum regex_kind kind)
{
    if (++p->n_nodes > LIMIT_REGEX_NODES)
        return NULL;
    struct regex_node *node = arena_alloc(p->budget->arena, sizeof *node);
    if (node)
        node->kind = (uint8_t)kind;
    return node;
}

static void append(struct regex_node *parent, struct regex_node *child)
{
    if (parent->last)
        parent->last->next = child;
    else
        parent->first = child;
    parent->last = child;
}

static serverd_status make_set(struct regex_parser *p, struct charset set, struct regex_node **out)
{
    *out = make_node(p, REGEX_SET);
    if (!*out)
        return grammar_budget_memory(p->err);
    (*out)->set = set;
    return SERVERD_OK;
}

static serverd_status make_guard(struct regex_parser *p, enum nfa_guard guard,
                                 struct regex_node **out)
{
    *out = make_node(p, REGEX_GUARD);
    if (!*out)
        return grammar_budget_memory(p->err);
    (*out)->guard = (uint8_t)guard;
    return SERVERD_OK;
}

/* i m s x, and u and a of Python, which change nothing here. A capital or another letter: false. */
static bool set_flag(struct regex_parser *p, uint32_t c, bool value)
{
    switch (c) {
    case 'i':
        p->ignores_case = value;
        return true;
    case 'm':
        p->is_multiline = value;
        return true;
    case 's':
        p->dot_is_all = value;
        return true;
    case 'x':
        p->is_extended = value;
        return true;
    case 'u':
    case 'a':
        return true;
    default:
        return false;
    }
}

/* Behind "(?": flags, up to ':' or ')'. *is_group: it was a colon. */
static serverd_status parse_flags(struct regex_parser *p, bool *is_group)
{
    bool value = true;
    for (;;) {
        if (regex_take_if(p, ':') || regex_peek(p) == ')') {
            *is_group = p->pattern[p->at - 1] == ':';
            return *is_group || regex_take_if(p, ')') ? SERVERD_OK : regex_wrong(p, "flags");
        }
        if (value && regex_take_if(p, '-'))
            value = false;
        else if (!set_flag(p, regex_peek(p), value))
            return regex_wrong(p, "an unknown kind of group");
        else
            p->at++;
    }
}

/* Behind "(?<" or "(?P<": the name and its '>'. */
static serverd_status skip_name(struct regex_parser *p)
{
    size_t first = p->at;
    while (regex_peek(p) != UINT32_MAX && regex_peek(p) != '>') {
        uint32_t c = regex_take(p);
        if (c < 0x80 && c != '_' && c != '$' && !(c >= '0' && c <= '9' && p->at - 1 > first) &&
            !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z'))
            return regex_wrong(p, "a group's name");
    }
    return p->at > first && regex_take_if(p, '>') ? SERVERD_OK : regex_wrong(p, "a group's name");
}

static bool take_text(struct regex_parser *p, const char *text)
{
    size_t n = strlen(text);
    if (p->n - p->at < n || memcmp(p->pattern + p->at, text, n) != 0)
        return false;
    p->at += n;
    return true;
}

/* Behind '(': the group, up to and with ')'. *out NULL: flags, nothing to repeat. */
static serverd_status parse_group(struct regex_parser *p, struct regex_node **out)
{
    static const struct {
        const char *text;
        bool is_behind, is_negated;
    } looks[] = {
        {"?=", false, false}, {"?!", false, true}, {"?<=", true, false}, {"?<!", true, true}};
    struct regex_parser saved = *p;
    struct regex_node *look = NULL, *child;
    serverd_status status = SERVERD_OK;
    *out = NULL;
    for (size_t i = 0; !look && i < sizeof looks / sizeof *looks; i++) {
        if (!take_text(p, looks[i].text))
            continue;
        look = make_node(p, REGEX_LOOK);
        if (!look)
            return grammar_budget_memory(p->err);
        look->at = (uint32_t)saved.at - 1;
        look->is_behind = looks[i].is_behind;
        look->is_negated = looks[i].is_negated;
    }
    if (!look && regex_take_if(p, '?')) {
        bool is_group = true;
        if (take_text(p, "P=") || take_text(p, "P>") || regex_peek(p) == '&' ||
            regex_peek(p) == 'R')
            return regex_unsupported(p, "a back-reference or recursion");
        if (take_text(p, ">"))
            return regex_unsupported(p, "an atomic group");
        if (take_text(p, "("))
            return regex_unsupported(p, "a conditional group");
        if (take_text(p, "#")) {
            while (regex_peek(p) != UINT32_MAX && regex_peek(p) != ')')
                p->at++;
            return regex_take_if(p, ')') ? SERVERD_OK : regex_wrong(p, "a comment without )");
        }
        if (take_text(p, "<") || take_text(p, "P<"))
            status = skip_name(p);
        else
            status = parse_flags(p, &is_group);
        if (status)
            return status;
        if (!is_group)
            return SERVERD_OK; /* the flags hold until the group around ends */
    }
    status = parse_choice(p, &child);
    if (status)
        return status;
    if (!regex_take_if(p, ')'))
        return regex_wrong(p, "a group without )");
    p->ignores_case = saved.ignores_case;
    p->dot_is_all = saved.dot_is_all;
    p->is_multiline = saved.is_multiline;
    p->is_extended = saved.is_extended;
    if (look)
        append(look, child);
    *out = look ? look : child;
    return SERVERD_OK;
}

/* Behind a backslash outside of classes. */
static serverd_status parse_escape(struct regex_parser *p, struct regex_node **out)
{
    uint32_t c = regex_peek(p);
    bool is_class;
    struct charset set;
    if (c == 'b' || c == 'B') {
        p->at++;
        return make_guard(p, c == 'b' ? GUARD_WORD_BORDER : GUARD_NO_WORD_BORDER, out);
    }
    if (p->use == REGEX_WHOLE && (c == 'A' || c == 'Z' || c == 'z')) {
        p->at++;
        return make_guard(p, c == 'A' ? GUARD_TEXT_START : GUARD_TEXT_END, out);
    }
    if ((c >= '1' && c <= '9') || c == 'k')
        return regex_unsupported(p, "a back-reference");
    serverd_status status = regex_parse_escape(p, false, &set, &is_class);
    return status ? status : make_set(p, set, out);
}

/* {m}, {m,}, {m,n}: true if that is what stands here, and takes it. */
static bool take_braces(struct regex_parser *p, uint32_t *min, uint32_t *max)
{
    size_t saved = p->at;
    uint32_t values[2] = {0, UINT32_MAX};
    size_t n_digits[2] = {0};
    bool has_comma = false;
    p->at++;
    for (;;) {
        uint32_t c = regex_take(p);
        if (c >= '0' && c <= '9') {
            uint64_t value = (n_digits[has_comma]++ > 0 ? values[has_comma] : 0) * 10ull + c - '0';
            values[has_comma] = value < UINT32_MAX - 1 ? (uint32_t)value : UINT32_MAX - 1;
        } else if (c == ',' && !has_comma) {
            has_comma = true;
        } else if (c == '}' && (n_digits[0] > 0 || (p->use == REGEX_WHOLE && n_digits[1] > 0))) {
            break;
        } else {
            p->at = saved;
            return false;
        }
    }
    *min = values[0];
    *max = has_comma ? values[1] : values[0];
    return true;
}

/* * + ? {m,n} with what may stand behind them; *found: there is one. */
static serverd_status parse_quantifier(struct regex_parser *p, uint32_t *min, uint32_t *max,
                                       bool *found)
{
    uint32_t c = regex_peek(p);
    *found = true;
    *min = c == '+' ? 1 : 0;
    *max = c == '?' ? 1 : UINT32_MAX;
    if (c == '*' || c == '+' || c == '?')
        p->at++;
    else
        *found = c == '{' && take_braces(p, min, max);
    if (!*found)
        return SERVERD_OK;
    if (*min > *max)
        return regex_wrong(p, "a quantifier that is out of order");
    if (regex_take_if(p, '?')) /* lazy: the same language */
        return SERVERD_OK;
    if (p->use == REGEX_WHOLE && regex_peek(p) == '+')
        return regex_unsupported(p, "a possessive quantifier");
    return SERVERD_OK;
}

static bool starts_quantifier(struct regex_parser *p)
{
    uint32_t c = regex_peek(p), min, max;
    struct regex_parser copy = *p;
    return c == '*' || c == '+' || c == '?' || (c == '{' && take_braces(&copy, &min, &max));
}

/* One item without its quantifier; *out NULL: nothing that can be repeated. */
static serverd_status parse_atom(struct regex_parser *p, struct regex_node **out)
{
    static const struct char_range all = {0, CODE_POINT_MAX};
    struct charset set;
    serverd_status status;
    if (starts_quantifier(p))
        return regex_wrong(p, "nothing to repeat");
    uint32_t c = regex_take(p);
    switch (c) {
    case '(':
        if (++p->depth > LIMIT_REGEX_DEPTH)
            return fail(p->err, SERVERD_TIMEOUT, "too complex: groups nested deeper than %u",
                        LIMIT_REGEX_DEPTH);
        status = parse_group(p, out);
        p->depth--;
        return status;
    case '[':
        status = regex_parse_class(p, &set);
        break;
    case '\\':
        return parse_escape(p, out);
    case '^':
        return make_guard(p, p->is_multiline ? GUARD_LINE_START : GUARD_TEXT_START, out);
    case '$':
        return make_guard(p, p->is_multiline ? GUARD_LINE_END : GUARD_TEXT_END, out);
    case '.':
        status = p->dot_is_all ? charset_make(p->budget, &all, 1, &set, p->err)
                               : charset_complement(p->budget, nfa_newline_set(), &set, p->err);
        break;
    default:
        status = regex_single(p, c, &set);
    }
    return status ? status : make_set(p, set, out);
}

/* (?x): white space and comments between items mean nothing. */
static void skip_space(struct regex_parser *p)
{
    while (p->is_extended && p->at < p->n) {
        uint32_t c = regex_peek(p);
        if (c == '#')
            while (p->at < p->n && p->pattern[p->at] != '\n')
                p->at++;
        else if (c == ' ' || (c >= '\t' && c <= '\r'))
            p->at++;
        else
            break;
    }
}

static serverd_status parse_sequence(struct regex_parser *p, struct regex_node **out)
{
    struct regex_node *sequence = make_node(p, REGEX_SEQUENCE);
    if (!sequence)
        return grammar_budget_memory(p->err);
    for (;;) {
        struct regex_node *atom = NULL;
        uint32_t min, max;
        bool found;
        skip_space(p);
        if (p->at >= p->n || regex_peek(p) == '|' || regex_peek(p) == ')')
            break;
        bool is_group = regex_peek(p) == '(';
        serverd_status status = parse_atom(p, &atom);
        if (status)
            return status;
        if (!atom)
            continue;
        skip_space(p);
        bool is_guard = atom->kind == REGEX_GUARD && !is_group;
        if (is_guard && starts_quantifier(p))
            return regex_wrong(p, "nothing to repeat");
        status = parse_quantifier(p, &min, &max, &found);
        if (status)
            return status;
        if (found) {
            struct regex_node *repeat = make_node(p, REGEX_REPEAT);
            if (!repeat)
                return grammar_budget_memory(p->err);
            repeat->min = min;
            repeat->max = max;
            append(repeat, atom);
            atom = repeat;
        }
        if (atom->kind == REGEX_SEQUENCE) { /* a group that is not repeated: its items */
            for (struct regex_node *item = atom->first, *next; item; item = next) {
                next = item->next;
                item->next = NULL;
                append(sequence, item);
            }
        } else {
            append(sequence, atom);
        }
    }
    *out = sequence;
    if (!sequence->first)
        sequence->kind = REGEX_EMPTY;
    else if (sequence->first == sequence->last)
        *out = sequence->first;
    return SERVERD_OK;
}

/* (?:a|[bc]) is [abc]. */
static serverd_status merge_sets(struct regex_parser *p, struct regex_node *choice)
{
    size_t n_ranges = 0, n = 0;
    for (const struct regex_node *child = choice->first; child; child = child->next) {
        if (child->kind != REGEX_SET)
            return SERVERD_OK;
        n_ranges += child->set.n_ranges;
    }
    struct char_range *ranges =
        arena_array(p->budget->arena, n_ranges > 0 ? n_ranges : 1, sizeof *ranges);
    if (!ranges)
        return grammar_budget_memory(p->err);
    for (const struct regex_node *child = choice->first; child; child = child->next)
        for (uint32_t i = 0; i < child->set.n_ranges; i++)
            ranges[n++] = child->set.ranges[i];
    choice->kind = REGEX_SET;
    choice->first = choice->last = NULL;
    return charset_make(p->budget, ranges, n, &choice->set, p->err);
}

static serverd_status parse_choice(struct regex_parser *p, struct regex_node **out)
{
    struct regex_node *choice = NULL, *item;
    serverd_status status = parse_sequence(p, out);
    while (!status && regex_take_if(p, '|')) {
        if (!choice) {
            choice = make_node(p, REGEX_CHOICE);
            if (!choice)
                return grammar_budget_memory(p->err);
            append(choice, *out);
            *out = choice;
        }
        status = parse_sequence(p, &item);
        if (!status)
            append(choice, item);
    }
    return !status && choice ? merge_sets(p, choice) : status;
}

serverd_status regex_parse(struct grammar_budget *budget, const char *pattern, size_t n,
                           enum regex_use use, struct regex_node **out, serverd_error *err)
{
    struct regex_parser p = {.budget = budget, .pattern = pattern, .n = n, .use = use, .err = err};
    if (n > LIMIT_REGEX_BYTES)
        return fail(err, SERVERD_TIMEOUT,
                    "too complex: a pattern of %zu bytes, at most %zu allowed", n,
                    LIMIT_REGEX_BYTES);
    p.at = utf8_valid_run(pattern, n);
    if (p.at != n)
        return regex_wrong(&p, "not well-formed UTF-8");
    p.at = 0;
    serverd_status status = parse_choice(&p, out);
    if (!status && p.at < n)
        status = regex_wrong(&p, "a ) that closes nothing");
    return status;
}
