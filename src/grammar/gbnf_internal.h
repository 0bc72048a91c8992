/* Grammars in GBNF: rules as a tree, on their way into the machine's code. */
#ifndef GRAMMAR_GBNF_INTERNAL_H
#define GRAMMAR_GBNF_INTERNAL_H

#include "grammar/budget.h"

#include <stdbool.h>

enum gbnf_kind {
    GBNF_REGEX,  /* one literal, class or dot, as a regular expression */
    GBNF_RULE,   /* another rule */
    GBNF_SERIES, /* children one behind the other; none: the empty text */
    GBNF_EITHER, /* one of the children */
    GBNF_REPEAT, /* min..max times the child */
};

struct gbnf_node {
    enum gbnf_kind kind;
    uint32_t at; /* byte in the text, for messages */
    const char *regex;
    uint32_t n_regex;
    uint32_t rule, min, max; /* max UINT32_MAX: no bound */
    struct gbnf_node *first, *next;
    bool is_nullable, is_productive;
    uint32_t n_inline; /* bytes of the regular expression that it is; 0: it is none, or too long */
};

struct gbnf_rule {
    const char *name;
    uint32_t n_name, at;
    struct gbnf_node *body; /* NULL: mentioned, not defined */
    bool is_visited, is_open;
    uint32_t code; /* + 1: where it begins; 0: nowhere yet */
};

struct gbnf {
    const char *text;
    size_t n;
    struct gbnf_rule *rules; /* [LIMIT_GRAMMAR_RULES] */
    uint32_t n_rules;
    struct grammar_budget *budget;
    serverd_error *err;
};

/* SERVERD_INVALID with line and column; root's index in *root. */
serverd_status gbnf_parse(struct gbnf *gbnf, uint32_t *root);

/* The error `what` at a byte of the text. */
serverd_status gbnf_wrong(const struct gbnf *gbnf, size_t at, const char *what);

#endif
