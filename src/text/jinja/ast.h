/* Tokens and the syntax tree of a template. All of it lives in the template's arena and is
 * immutable once parsed. One node form serves all kinds; the comments say which fields are used. */
#ifndef TEXT_JINJA_AST_H
#define TEXT_JINJA_AST_H

#include "base/arena.h"
#include "serverd/status.h"
#include "text/jinja/value_internal.h"

enum token_kind {
    TOKEN_DATA,
    TOKEN_VARIABLE_BEGIN,
    TOKEN_VARIABLE_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_NUMBER,
    TOKEN_OPERATOR,
    TOKEN_END,
};

struct token {
    enum token_kind kind;
    struct text text;             /* data, name, operator */
    struct template_value *value; /* string, number */
    uint32_t line, column;
};

struct jinja_tokens {
    struct token *items;
    size_t n, cap;
};

serverd_status jinja_lex(struct arena *arena, const char *source, size_t n,
                         struct jinja_tokens *out, serverd_error *err);

enum node_kind {
    /* expressions */
    NODE_CONST,   /* value */
    NODE_NAME,    /* name */
    NODE_LIST,    /* list */
    NODE_TUPLE,   /* list */
    NODE_DICT,    /* list: key, value, key, ... */
    NODE_NOT,     /* a */
    NODE_NEG,     /* a */
    NODE_POS,     /* a */
    NODE_AND,     /* a, b */
    NODE_OR,      /* a, b */
    NODE_BINARY,  /* a, b, op */
    NODE_CONCAT,  /* list */
    NODE_COMPARE, /* a; list of NODE_OPERAND (op, a) */
    NODE_OPERAND,
    NODE_IF_ELSE,   /* a if b else c */
    NODE_ATTRIBUTE, /* a, name */
    NODE_ITEM,      /* a, b */
    NODE_SLICE,     /* as b of an item: a:b:c, each may be NULL */
    NODE_CALL,      /* a; list of arguments */
    NODE_FILTER,    /* a (NULL: the text of a filter block), name, list of arguments */
    NODE_TEST,      /* a, name, list of arguments; op '!' negates */
    NODE_KEYWORD,   /* argument: name, a */
    NODE_SPREAD,    /* argument: *a (op '*') or **a (op 'D') */
    /* statements; body is `list`, other is the else branch */
    NODE_DATA,         /* value */
    NODE_OUTPUT,       /* a */
    NODE_IF,           /* a, list, other (an else body, possibly one NODE_IF) */
    NODE_FOR,          /* a target, b iterable, c filter, list, other; op 'R' recursive */
    NODE_SET,          /* a target, b value */
    NODE_SET_BLOCK,    /* a target, b filter chain or NULL, list */
    NODE_MACRO,        /* name, parameters (NODE_KEYWORD, a default or NULL), list */
    NODE_CALL_BLOCK,   /* a call, parameters, list */
    NODE_FILTER_BLOCK, /* b filter chain, list */
    NODE_WITH,         /* parameters: NODE_SET, list */
    NODE_SCOPE,        /* list */
    NODE_DO,           /* a */
    NODE_BREAK,
    NODE_CONTINUE,
};

enum binary_op { OP_ADD = 1, OP_SUB, OP_MUL, OP_DIV, OP_FLOOR_DIV, OP_MOD, OP_POW };
enum compare_op { CMP_EQ = 1, CMP_NE, CMP_LT, CMP_LE, CMP_GT, CMP_GE, CMP_IN, CMP_NOT_IN };

struct node {
    enum node_kind kind;
    int op;
    uint32_t line, column;
    struct text name;
    struct template_value *value;
    struct node *a, *b, *c;
    struct node *list, *other, *parameters; /* chained by next */
    struct node *next;
    bool uses_caller, uses_varargs, uses_kwargs; /* of a macro */
};

serverd_status jinja_parse(struct arena *arena, const struct jinja_tokens *tokens,
                           struct node **out, serverd_error *err);

#endif
