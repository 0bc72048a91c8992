/* How a model of each family writes its calls out, with their white space: what grammars let it
 * write. tool_family.h says what is read, which is more.
 *
 * A text is literals and slots in braces: `{name}` the function's name, `{arguments}` a JSON
 * object,
 * `{members}` the arguments one by one, `{number}` a small number, `{id}` nine letters and digits,
 * `{line}` a line end or none. Of a member: `{key}`, `{value}`; `{is_string}` true or false,
 * `{type}` the name of the value's type. */
#ifndef TEXT_CALL_WRITING_H
#define TEXT_CALL_WRITING_H

#include <stdbool.h>
#include <stddef.h>

struct tokenizer;

enum value_notation {
    VALUE_TAGGED, /* strings as they are, up to the literal behind {value}; others as JSON */
    VALUE_JSON,   /* all as JSON */
    VALUE_QUOTED  /* strings as they are between two `quote`s; others as JSON */
};

struct call_writing {
    const char *family;
    const char *hint;                         /* in the template; NULL: whatever it says */
    const char *begin, *call, *between, *end; /* NULL: nothing */
    const char *prefix; /* a control token that may come in front of it all; NULL: none */
    const char *member, *member_between;
    enum value_notation notation;
    const char *quote;
    bool is_single;      /* one call in a reply */
    bool is_at_start;    /* no mark announces it: calls are what a message begins with */
    const char *content; /* at the start of a message, where it is no call; NULL: nothing */
};

/* The first row that fits a family and a template's text; NULL: none. */
const struct call_writing *call_writing_find(const char *family, const char *template_text);

/* The i-th row, NULL behind the last; for tests. */
const struct call_writing *call_writing_at(size_t i);

enum writing_kind { WRITING_END, WRITING_TEXT, WRITING_TOKEN, WRITING_SLOT };

/* A piece of such a text: a literal, a control token of the vocabulary, or a slot's name. */
struct writing_piece {
    enum writing_kind kind;
    const char *text; /* inside of what was cut */
    size_t n;
};

/* The next piece of *at, which moves on. tokenizer NULL: there are no control tokens. */
struct writing_piece call_writing_next(const struct tokenizer *tokenizer, const char **at);

#endif
