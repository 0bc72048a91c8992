/* The syntax tree of a pattern: regex_parse.c makes it, regex.c makes an automaton from it. */
#ifndef GRAMMAR_REGEX_INTERNAL_H
#define GRAMMAR_REGEX_INTERNAL_H

#include "grammar/nfa_internal.h"
#include "grammar/regex.h"

enum regex_kind {
    REGEX_EMPTY,
    REGEX_SET,      /* one character of `set`; none if it is empty */
    REGEX_SEQUENCE, /* the children, one behind the other */
    REGEX_CHOICE,   /* one of the children */
    REGEX_REPEAT,   /* the only child, min..max times (UINT32_MAX: no bound) */
    REGEX_GUARD,    /* enum nfa_guard */
    REGEX_LOOK,     /* the only child, ahead or behind */
};

struct regex_node {
    uint8_t kind, guard;
    bool is_behind, is_negated;
    bool is_factored; /* regex_factor has seen it */
    uint32_t min, max;
    uint32_t look; /* its number in the automaton + 1, once it has one */
    uint32_t at;   /* of a look: its byte in the pattern */
    struct charset set;
    struct regex_node *first, *last, *next; /* children; sibling */
};

/* In the budget's arena. */
serverd_status regex_parse(struct grammar_budget *budget, const char *pattern, size_t n,
                           enum regex_use use, struct regex_node **out, serverd_error *err);

/* The items between brackets, and what an escape stands for; regex_class.c. */
struct regex_parser {
    struct grammar_budget *budget;
    const char *pattern;
    size_t n, at;
    enum regex_use use;
    bool ignores_case, dot_is_all, is_multiline, is_extended; /* i s m x */
    uint32_t depth, n_nodes;
    serverd_error *err;
};

/* The next code point without taking it; UINT32_MAX at the end. */
uint32_t regex_peek(const struct regex_parser *p);
uint32_t regex_take(struct regex_parser *p);
bool regex_take_if(struct regex_parser *p, char c);
/* An error at the present position. */
serverd_status regex_wrong(struct regex_parser *p, const char *what);
serverd_status regex_unsupported(struct regex_parser *p, const char *what);

/* An escape behind its backslash that stands for characters: one, *is_class false, or a set. Not
 * for assertions and back-references, which the caller has looked for. */
serverd_status regex_parse_escape(struct regex_parser *p, bool in_class, struct charset *out,
                                  bool *is_class);
/* Behind the opening bracket, up to and with the closing one. */
serverd_status regex_parse_class(struct regex_parser *p, struct charset *out);
/* The set of one code point, case ignored or not. */
serverd_status regex_single(struct regex_parser *p, uint32_t c, struct charset *out);

/* Rewrites a choice of many alternatives; the same language. */
serverd_status regex_factor(struct grammar_budget *budget, struct regex_node *choice,
                            serverd_error *err);

#endif
