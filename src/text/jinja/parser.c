/* Tokens to a tree, by recursive descent with jinja2's precedences. */
#include "base/error.h"
#include "base/limits.h"
#include "text/jinja/ast.h"

#include <inttypes.h>
#include <string.h>

/* A NULL node means that `status` holds the error. */
struct parser {
    struct arena *arena;
    const struct token *token;
    unsigned depth, loops;
    struct node *macro; /* innermost macro or call block */
    serverd_status status;
    serverd_error *err;
};

static struct node *parse_expression(struct parser *p);
static struct node *parse_unary(struct parser *p);
static struct node *parse_body(struct parser *p, const char *const *ends);

static struct node *parse_fail(struct parser *p, const char *what)
{
    const struct token *t = p->token;
    if (!p->status)
        p->status =
            fail(p->err, SERVERD_INVALID,
                 "chat template, line %" PRIu32 ", column %" PRIu32 ": %s, found %s%.*s%s", t->line,
                 t->column, what, t->kind == TOKEN_END ? "the end" : "'",
                 t->text.n > 40 ? 40 : (int)t->text.n, t->text.s, t->kind == TOKEN_END ? "" : "'");
    return NULL;
}

static struct node *node_new(struct parser *p, enum node_kind kind)
{
    struct node *n = arena_alloc(p->arena, sizeof *n);
    if (!n) {
        p->status = fail(p->err, SERVERD_NOMEM, "chat template: out of memory");
        return NULL;
    }
    n->kind = kind;
    n->line = p->token->line;
    n->column = p->token->column;
    return n;
}

static struct node *node_value(struct parser *p, struct template_value *v)
{
    struct node *n = node_new(p, NODE_CONST);
    if (n && !v)
        p->status = fail(p->err, SERVERD_NOMEM, "chat template: out of memory");
    if (n)
        n->value = v;
    return p->status ? NULL : n;
}

static struct node *node_two(struct parser *p, enum node_kind kind, struct node *a, struct node *b)
{
    struct node *n = a && b ? node_new(p, kind) : NULL;
    if (n) {
        n->a = a;
        n->b = b;
    }
    return n;
}

static bool is_text(const struct parser *p, enum token_kind kind, const char *s)
{
    return p->token->kind == kind && p->token->text.n == strlen(s) &&
           !memcmp(p->token->text.s, s, p->token->text.n);
}

static bool is_op(const struct parser *p, const char *s)
{
    return is_text(p, TOKEN_OPERATOR, s);
}

static bool is_word(const struct parser *p, const char *s)
{
    return is_text(p, TOKEN_NAME, s);
}

static bool take_op(struct parser *p, const char *s)
{
    const bool found = is_op(p, s);
    p->token += found;
    return found;
}

static bool take_word(struct parser *p, const char *s)
{
    const bool found = is_word(p, s);
    p->token += found;
    return found;
}

static bool need_op(struct parser *p, const char *s)
{
    if (take_op(p, s))
        return true;
    char what[32] = "expected '";
    strncat(what, s, 4);
    strncat(what, "'", 2);
    (void)parse_fail(p, what);
    return false;
}

static bool need_block_end(struct parser *p)
{
    if (p->token->kind != TOKEN_BLOCK_END)
        return parse_fail(p, "expected '%}'") != NULL;
    p->token++;
    return true;
}

static bool need_name(struct parser *p, struct text *out)
{
    if (p->token->kind != TOKEN_NAME)
        return parse_fail(p, "expected a name") != NULL;
    *out = p->token++->text;
    return true;
}

/* Deep nesting would overflow the stack here and in the evaluator. */
static bool enter(struct parser *p)
{
    if (++p->depth > LIMIT_TEMPLATE_NESTING)
        return parse_fail(p, "nested too deeply") != NULL;
    return true;
}

static struct node *parse_arguments(struct parser *p)
{
    struct node *first = NULL, **tail = &first;
    while (!is_op(p, ")")) {
        struct node *arg;
        if (is_op(p, "*") || is_op(p, "**")) {
            arg = node_new(p, NODE_SPREAD);
            if (!arg)
                return NULL;
            arg->op = is_op(p, "*") ? '*' : 'D';
            p->token++;
            arg->a = parse_expression(p);
            if (!arg->a)
                return NULL;
        } else if (p->token->kind == TOKEN_NAME && p->token[1].kind == TOKEN_OPERATOR &&
                   p->token[1].text.n == 1 && p->token[1].text.s[0] == '=') {
            arg = node_new(p, NODE_KEYWORD);
            if (!arg)
                return NULL;
            arg->name = p->token->text;
            p->token += 2;
            arg->a = parse_expression(p);
            if (!arg->a)
                return NULL;
        } else {
            arg = parse_expression(p);
            if (!arg)
                return NULL;
        }
        *tail = arg;
        tail = &arg->next;
        if (!take_op(p, ","))
            break;
    }
    (void)need_op(p, ")");
    return first;
}

static bool starts_primary(const struct parser *p)
{
    static const char *const words[] = {"else", "or", "and", "is", "not", "if", "in", NULL};
    if (p->token->kind == TOKEN_STRING || p->token->kind == TOKEN_NUMBER)
        return true;
    if (p->token->kind == TOKEN_NAME) {
        for (size_t i = 0; words[i]; i++)
            if (is_word(p, words[i]))
                return false;
        return true;
    }
    return is_op(p, "[") || is_op(p, "{") || is_op(p, "(");
}

static struct node *parse_items(struct parser *p, enum node_kind kind, const char *close)
{
    struct node *n = node_new(p, kind);
    if (!n)
        return NULL;
    struct node **tail = &n->list;
    while (!is_op(p, close)) {
        struct node *item = parse_expression(p);
        if (!item)
            return NULL;
        *tail = item;
        tail = &item->next;
        if (kind == NODE_DICT) {
            if (!need_op(p, ":") || !(item = parse_expression(p)))
                return NULL;
            *tail = item;
            tail = &item->next;
        }
        if (!take_op(p, ",")) {
            if (kind == NODE_TUPLE && n->list == item && !item->next) {
                if (!need_op(p, close))
                    return NULL;
                return item; /* parentheses only */
            }
            break;
        }
    }
    return need_op(p, close) ? n : NULL;
}

/* `a, b` without parentheses is a tuple. */
static struct node *parse_tuple(struct parser *p, struct node *(*parse)(struct parser *))
{
    struct node *first = parse(p);
    if (!first || !is_op(p, ","))
        return first;
    struct node *tuple = node_new(p, NODE_TUPLE);
    if (!tuple)
        return NULL;
    tuple->list = first;
    for (struct node *last = first; take_op(p, ",");) {
        if (!starts_primary(p) && !is_op(p, "-"))
            break;
        last->next = parse(p);
        last = last->next;
        if (!last)
            return NULL;
    }
    return tuple;
}

enum constant { CONSTANT_FALSE, CONSTANT_TRUE, CONSTANT_NONE, NO_CONSTANT };

static enum constant constant_here(const struct parser *p)
{
    static const struct {
        const char *name;
        enum constant value;
    } words[] = {{"true", CONSTANT_TRUE},   {"True", CONSTANT_TRUE}, {"false", CONSTANT_FALSE},
                 {"False", CONSTANT_FALSE}, {"none", CONSTANT_NONE}, {"None", CONSTANT_NONE}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (is_word(p, words[i].name))
            return words[i].value;
    return NO_CONSTANT;
}

static struct node *parse_name_or_constant(struct parser *p)
{
    const enum constant constant = constant_here(p);
    if (constant != NO_CONSTANT) {
        p->token++;
        return node_value(p, constant == CONSTANT_NONE
                                 ? template_none(p->arena)
                                 : template_bool(p->arena, constant == CONSTANT_TRUE));
    }
    struct node *n = node_new(p, NODE_NAME);
    if (!n)
        return NULL;
    if (p->macro) {
        p->macro->uses_caller |= is_word(p, "caller");
        p->macro->uses_varargs |= is_word(p, "varargs");
        p->macro->uses_kwargs |= is_word(p, "kwargs");
    }
    n->name = p->token++->text;
    return n;
}

static struct node *parse_strings(struct parser *p)
{
    struct node *first = node_value(p, p->token->value);
    if (!first || p->token[1].kind != TOKEN_STRING) {
        p->token++;
        return first;
    }
    struct node *all = node_new(p, NODE_CONCAT), **tail;
    if (!all)
        return NULL;
    for (tail = &all->list; p->token->kind == TOKEN_STRING; p->token++) {
        *tail = node_value(p, p->token->value);
        if (!*tail)
            return NULL;
        tail = &(*tail)->next;
    }
    return all;
}

static struct node *parse_primary(struct parser *p)
{
    switch (p->token->kind) {
    case TOKEN_NAME:
        return parse_name_or_constant(p);
    case TOKEN_STRING:
        return parse_strings(p);
    case TOKEN_NUMBER: {
        struct node *n = node_value(p, p->token->value);
        p->token++;
        return n;
    }
    default:
        break;
    }
    if (take_op(p, "("))
        return parse_items(p, NODE_TUPLE, ")");
    if (take_op(p, "["))
        return parse_items(p, NODE_LIST, "]");
    if (take_op(p, "{"))
        return parse_items(p, NODE_DICT, "}");
    return parse_fail(p, "expected an expression");
}

static bool parse_slice_part(struct parser *p, struct node **out)
{
    if (is_op(p, ":") || is_op(p, "]") || is_op(p, ","))
        return true;
    return (*out = parse_expression(p)) != NULL;
}

static struct node *parse_subscript(struct parser *p)
{
    struct node *slice = node_new(p, NODE_SLICE);
    if (!slice || !parse_slice_part(p, &slice->a))
        return NULL;
    if (!is_op(p, ":")) {
        if (!slice->a)
            return parse_fail(p, "expected a subscript");
        return need_op(p, "]") ? slice->a : NULL;
    }
    p->token++;
    if (!parse_slice_part(p, &slice->b))
        return NULL;
    if (take_op(p, ":") && !parse_slice_part(p, &slice->c))
        return NULL;
    return need_op(p, "]") ? slice : NULL;
}

/* filter or test name with its arguments; a.b.c names are joined by their first and last byte */
static bool parse_call_name(struct parser *p, struct node *n)
{
    if (!need_name(p, &n->name))
        return false;
    if (take_op(p, "("))
        n->list = parse_arguments(p);
    return !p->status;
}

static struct node *parse_filters(struct parser *p, struct node *a)
{
    do {
        struct node *n = node_new(p, NODE_FILTER);
        if (!n || !parse_call_name(p, n) || !enter(p))
            return NULL;
        n->a = a;
        a = n;
    } while (take_op(p, "|"));
    return a;
}

static struct node *parse_test(struct parser *p, struct node *a)
{
    struct node *n = node_new(p, NODE_TEST);
    if (!n)
        return NULL;
    n->op = take_word(p, "not") ? '!' : 0;
    n->a = a;
    if (!need_name(p, &n->name))
        return NULL;
    if (take_op(p, "("))
        n->list = parse_arguments(p);
    else if (take_word(p, "is"))
        return parse_fail(p, "You cannot chain multiple tests with is");
    else if (starts_primary(p))
        n->list = parse_unary(p);
    return p->status ? NULL : n;
}

static struct node *parse_postfix(struct parser *p, struct node *a, bool with_filters)
{
    while (a && enter(p)) {
        struct node *n;
        if (take_op(p, ".")) {
            if (p->token->kind == TOKEN_NUMBER) {
                n = node_two(p, NODE_ITEM, a, node_value(p, p->token->value));
                p->token++;
            } else {
                n = node_new(p, NODE_ATTRIBUTE);
                if (!n || !need_name(p, &n->name))
                    return NULL;
                n->a = a;
            }
        } else if (take_op(p, "[")) {
            n = node_two(p, NODE_ITEM, a, parse_subscript(p));
        } else if (is_op(p, "(")) {
            n = node_new(p, NODE_CALL);
            p->token++;
            if (!n)
                return NULL;
            n->a = a;
            n->list = parse_arguments(p);
        } else if (with_filters && take_op(p, "|")) {
            n = parse_filters(p, a);
        } else if (with_filters && take_word(p, "is")) {
            n = parse_test(p, a);
        } else {
            return a;
        }
        if (p->status)
            return NULL;
        a = n;
    }
    return NULL;
}

static struct node *parse_power(struct parser *p);

static struct node *parse_sign(struct parser *p, bool with_filters)
{
    if (is_op(p, "-") || is_op(p, "+")) {
        struct node *n = node_new(p, is_op(p, "-") ? NODE_NEG : NODE_POS);
        p->token++;
        if (!n || !enter(p) || !(n->a = parse_sign(p, false)))
            return NULL;
        return with_filters ? parse_postfix(p, n, true) : n;
    }
    return parse_postfix(p, parse_primary(p), with_filters);
}

static struct node *parse_unary(struct parser *p)
{
    return parse_sign(p, false);
}

static struct node *parse_unary_filtered(struct parser *p)
{
    return parse_sign(p, true);
}

struct level {
    const char *sign;
    int op;
};

static struct node *parse_level(struct parser *p, struct node *(*next)(struct parser *),
                                const struct level *rows)
{
    struct node *a = next(p);
    while (a) {
        const struct level *row = rows;
        while (row->sign && !is_op(p, row->sign))
            row++;
        if (!row->sign || !enter(p))
            break;
        p->token++;
        a = node_two(p, NODE_BINARY, a, next(p));
        if (a)
            a->op = row->op;
    }
    return p->status ? NULL : a;
}

static struct node *parse_power(struct parser *p)
{
    static const struct level rows[] = {{"**", OP_POW}, {NULL, 0}};
    return parse_level(p, parse_unary_filtered, rows);
}

static struct node *parse_product(struct parser *p)
{
    static const struct level rows[] = {
        {"*", OP_MUL}, {"/", OP_DIV}, {"//", OP_FLOOR_DIV}, {"%", OP_MOD}, {NULL, 0}};
    return parse_level(p, parse_power, rows);
}

static struct node *parse_concat(struct parser *p)
{
    struct node *first = parse_product(p);
    if (!first || !is_op(p, "~"))
        return first;
    struct node *all = node_new(p, NODE_CONCAT);
    if (!all)
        return NULL;
    all->list = first;
    for (struct node *last = first; take_op(p, "~"); last = last->next)
        if (!(last->next = parse_product(p)))
            return NULL;
    return all;
}

static struct node *parse_sum(struct parser *p)
{
    static const struct level rows[] = {{"+", OP_ADD}, {"-", OP_SUB}, {NULL, 0}};
    return parse_level(p, parse_concat, rows);
}

static int take_comparison(struct parser *p)
{
    static const struct level rows[] = {{"==", CMP_EQ}, {"!=", CMP_NE}, {"<", CMP_LT},
                                        {"<=", CMP_LE}, {">", CMP_GT},  {">=", CMP_GE}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (take_op(p, rows[i].sign))
            return rows[i].op;
    if (take_word(p, "in"))
        return CMP_IN;
    if (is_word(p, "not") && p->token[1].kind == TOKEN_NAME && p->token[1].text.n == 2 &&
        !memcmp(p->token[1].text.s, "in", 2)) {
        p->token += 2;
        return CMP_NOT_IN;
    }
    return 0;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *a = parse_sum(p), *all = NULL, **tail = NULL;
    int op;
    while (a && (op = take_comparison(p)) != 0) {
        if (!all) {
            all = node_two(p, NODE_COMPARE, a, a);
            if (!all)
                return NULL;
            tail = &all->list;
        }
        struct node *operand = node_new(p, NODE_OPERAND);
        if (!operand || !(operand->a = parse_sum(p)))
            return NULL;
        operand->op = op;
        *tail = operand;
        tail = &operand->next;
    }
    return all ? all : a;
}

static struct node *parse_not(struct parser *p)
{
    if (!is_word(p, "not"))
        return parse_compare(p);
    struct node *n = node_new(p, NODE_NOT);
    p->token++;
    if (!n || !enter(p) || !(n->a = parse_not(p)))
        return NULL;
    return n;
}

static struct node *parse_and(struct parser *p)
{
    struct node *a = parse_not(p);
    while (a && take_word(p, "and") && enter(p))
        a = node_two(p, NODE_AND, a, parse_not(p));
    return p->status ? NULL : a;
}

static struct node *parse_or(struct parser *p)
{
    struct node *a = parse_and(p);
    while (a && take_word(p, "or") && enter(p))
        a = node_two(p, NODE_OR, a, parse_and(p));
    return p->status ? NULL : a;
}

static struct node *parse_expression(struct parser *p)
{
    const unsigned depth = p->depth;
    if (!enter(p))
        return NULL;
    struct node *a = parse_or(p);
    while (a && take_word(p, "if")) {
        struct node *n = node_new(p, NODE_IF_ELSE);
        if (!n || !(n->b = parse_or(p)))
            return NULL;
        n->a = a;
        if (take_word(p, "else") && !(n->c = parse_expression(p)))
            return NULL;
        a = n;
    }
    p->depth = depth;
    return p->status ? NULL : a;
}

/* ---- statements ---- */

static struct node *parse_target_item(struct parser *p)
{
    if (is_op(p, "("))
        return parse_primary(p);
    if (constant_here(p) != NO_CONSTANT)
        return parse_fail(p, "cannot assign to a constant");
    struct node *n = node_new(p, NODE_NAME);
    if (!n || !need_name(p, &n->name))
        return NULL;
    if (take_op(p, ".")) {
        struct node *attribute = node_new(p, NODE_ATTRIBUTE);
        if (!attribute || !need_name(p, &attribute->name))
            return NULL;
        attribute->a = n;
        return attribute;
    }
    return n;
}

static struct node *parse_target(struct parser *p)
{
    return parse_tuple(p, parse_target_item);
}

static struct node *parse_until(struct parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    struct node *body = need_block_end(p) ? parse_body(p, ends) : NULL;
    if (p->status)
        return NULL;
    p->token++;
    (void)need_block_end(p);
    return body;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    struct node *first = NULL, **at = &first;
    for (;;) {
        struct node *n = node_new(p, NODE_IF);
        if (!n || !(n->a = parse_tuple(p, parse_expression)) || !need_block_end(p))
            return NULL;
        n->list = parse_body(p, ends);
        if (p->status)
            return NULL;
        *at = n;
        n->op = n == first ? 0 : 'E'; /* tells an elif from an if inside of else */
        at = &n->other;
        if (!take_word(p, "elif"))
            break;
    }
    if (take_word(p, "else")) {
        *at = parse_until(p, "endif");
        return p->status ? NULL : first;
    }
    p->token++;
    return need_block_end(p) ? first : NULL;
}

static struct node *parse_or_tuple(struct parser *p)
{
    return parse_or(p);
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL};
    struct node *n = node_new(p, NODE_FOR);
    if (!n || !(n->a = parse_target(p)))
        return NULL;
    if (!take_word(p, "in"))
        return parse_fail(p, "expected 'in'");
    if (!(n->b = parse_tuple(p, parse_or_tuple)))
        return NULL;
    if (take_word(p, "if") && !(n->c = parse_expression(p)))
        return NULL;
    n->op = take_word(p, "recursive") ? 'R' : 0;
    if (!need_block_end(p))
        return NULL;
    p->loops++;
    n->list = parse_body(p, ends);
    p->loops--;
    if (p->status)
        return NULL;
    if (take_word(p, "else")) {
        n->other = parse_until(p, "endfor");
        return p->status ? NULL : n;
    }
    p->token++;
    return need_block_end(p) ? n : NULL;
}

static struct node *parse_set(struct parser *p)
{
    struct node *n = node_new(p, NODE_SET);
    if (!n || !(n->a = parse_target(p)))
        return NULL;
    if (take_op(p, "="))
        return (n->b = parse_tuple(p, parse_expression)) && need_block_end(p) ? n : NULL;
    n->kind = NODE_SET_BLOCK;
    if (take_op(p, "|") && !(n->b = parse_filters(p, NULL)))
        return NULL;
    n->list = parse_until(p, "endset");
    return n;
}

static bool parse_parameters(struct parser *p, struct node *n)
{
    struct node **tail = &n->parameters;
    if (!need_op(p, "("))
        return false;
    while (!is_op(p, ")")) {
        struct node *parameter = node_new(p, NODE_KEYWORD);
        if (!parameter || !need_name(p, &parameter->name))
            return false;
        if (take_op(p, "=") && !(parameter->a = parse_expression(p)))
            return false;
        *tail = parameter;
        tail = &parameter->next;
        if (!take_op(p, ","))
            break;
    }
    return need_op(p, ")");
}

static struct node *parse_macro_body(struct parser *p, struct node *n, const char *end)
{
    struct node *outer = p->macro;
    const unsigned loops = p->loops;
    p->macro = n;
    p->loops = 0;
    n->list = parse_until(p, end);
    p->macro = outer;
    p->loops = loops;
    return n;
}

static struct node *parse_macro(struct parser *p)
{
    struct node *n = node_new(p, NODE_MACRO);
    if (!n || !need_name(p, &n->name) || !parse_parameters(p, n))
        return NULL;
    return parse_macro_body(p, n, "endmacro");
}

static struct node *parse_call_block(struct parser *p)
{
    struct node *n = node_new(p, NODE_CALL_BLOCK);
    if (!n || (is_op(p, "(") && !parse_parameters(p, n)) || !(n->a = parse_expression(p)))
        return NULL;
    if (n->a->kind != NODE_CALL)
        return parse_fail(p, "expected a call");
    n->name = (struct text){"caller", 6};
    return parse_macro_body(p, n, "endcall");
}

static struct node *parse_filter_block(struct parser *p)
{
    struct node *n = node_new(p, NODE_FILTER_BLOCK);
    if (!n || !(n->b = parse_filters(p, NULL)))
        return NULL;
    n->list = parse_until(p, "endfilter");
    return n;
}

static struct node *parse_with(struct parser *p)
{
    struct node *n = node_new(p, NODE_WITH);
    if (!n)
        return NULL;
    for (struct node **tail = &n->parameters; p->token->kind != TOKEN_BLOCK_END;) {
        struct node *set = node_new(p, NODE_SET);
        if (!set || !(set->a = parse_target_item(p)) || !need_op(p, "=") ||
            !(set->b = parse_expression(p)))
            return NULL;
        *tail = set;
        tail = &set->next;
        if (!take_op(p, ","))
            break;
    }
    n->list = parse_until(p, "endwith");
    return n;
}

static struct node *parse_generation(struct parser *p)
{
    struct node *n = node_new(p, NODE_SCOPE);
    if (n)
        n->list = parse_until(p, "endgeneration");
    return n;
}

static struct node *parse_leave(struct parser *p, enum node_kind kind)
{
    if (!p->loops)
        return parse_fail(p, "break or continue outside of a loop");
    struct node *n = node_new(p, kind);
    return n && need_block_end(p) ? n : NULL;
}

static struct node *parse_break(struct parser *p)
{
    return parse_leave(p, NODE_BREAK);
}

static struct node *parse_continue(struct parser *p)
{
    return parse_leave(p, NODE_CONTINUE);
}

static struct node *parse_statement(struct parser *p)
{
    static const struct {
        const char *name;
        struct node *(*parse)(struct parser *);
    } rows[] = {
        {"if", parse_if},           {"for", parse_for},
        {"set", parse_set},         {"macro", parse_macro},
        {"call", parse_call_block}, {"filter", parse_filter_block},
        {"with", parse_with},       {"generation", parse_generation},
        {"break", parse_break},     {"continue", parse_continue},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (take_word(p, rows[i].name)) {
            const unsigned depth = p->depth;
            struct node *n = enter(p) ? rows[i].parse(p) : NULL;
            p->depth = depth;
            return p->status ? NULL : n;
        }
    return parse_fail(p, "unknown tag");
}

static struct node *parse_piece(struct parser *p)
{
    struct node *n;
    switch (p->token->kind) {
    case TOKEN_DATA:
        n = node_new(p, NODE_DATA);
        if (n && !(n->value = value_text(p->arena, p->token->text.s, p->token->text.n)))
            p->status = fail(p->err, SERVERD_NOMEM, "chat template: out of memory");
        p->token++;
        break;
    case TOKEN_VARIABLE_BEGIN:
        n = node_new(p, NODE_OUTPUT);
        p->token++;
        if (!n || !(n->a = parse_tuple(p, parse_expression)))
            return NULL;
        if (p->token->kind != TOKEN_VARIABLE_END)
            return parse_fail(p, "expected '}}'");
        p->token++;
        break;
    case TOKEN_BLOCK_BEGIN:
        p->token++;
        return parse_statement(p);
    default:
        return parse_fail(p, "unexpected token");
    }
    return p->status ? NULL : n;
}

/* Up to one of the tags `ends`, which is left as the present token. */
static struct node *parse_body(struct parser *p, const char *const *ends)
{
    struct node *first = NULL, **tail = &first;
    for (;;) {
        if (p->token->kind == TOKEN_END) {
            if (ends[0])
                (void)parse_fail(p, "a block is not closed");
            return p->status ? NULL : first;
        }
        if (p->token->kind == TOKEN_BLOCK_BEGIN)
            for (size_t i = 0; ends[i]; i++) {
                p->token++;
                const bool found = is_word(p, ends[i]);
                if (found)
                    return first;
                p->token--;
            }
        struct node *n = parse_piece(p);
        if (!n)
            return NULL;
        *tail = n;
        tail = &n->next;
    }
}

serverd_status jinja_parse(struct arena *arena, const struct jinja_tokens *tokens,
                           struct node **out, serverd_error *err)
{
    static const char *const none[] = {NULL};
    struct parser p = {.arena = arena, .token = tokens->items, .err = err};
    struct node *body = parse_body(&p, none);
    if (p.status)
        return p.status;
    *out = body;
    return SERVERD_OK;
}
