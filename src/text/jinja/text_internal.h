/* Text operations of the template engine: characters, search, case, classes. Strings may hold
 * TOKENIZER_GUARD bytes between the characters of a user's text: they count as no character of
 * their own and a search sees through them, so that a template treats guarded text as it treats
 * plain text. */
#ifndef TEXT_JINJA_TEXT_INTERNAL_H
#define TEXT_JINJA_TEXT_INTERNAL_H

#include "text/jinja/eval.h"

enum text_case { CASE_LOWER, CASE_UPPER, CASE_TITLE, CASE_CAPITALIZED, CASE_SWAPPED };

enum text_class {
    CLASS_ALNUM,
    CLASS_ALPHA,
    CLASS_ASCII,
    CLASS_DECIMAL,
    CLASS_DIGIT,
    CLASS_NUMERIC,
    CLASS_PRINTABLE,
    CLASS_SPACE,
    CLASS_WORD, /* letters, digits, underscore */
};

/* Bytes of the last character, guards included; 0 if there is none. */
size_t text_last(struct text t);

/* Bytes of the line break that t begins with, as Python's splitlines() knows them; else 0. */
size_t text_line_break(struct text t);

/* The first (or last) place of needle; *len: the bytes it takes there. */
bool text_find(struct text t, struct text needle, bool from_end, size_t *at, size_t *len);
bool text_begins_with(struct text t, struct text prefix, size_t *len);
bool text_ends_with(struct text t, struct text suffix, size_t *len);

struct template_value *text_recased(struct eval *ev, struct text t, enum text_case to);
bool text_is_all(struct text t, enum text_class class); /* false for an empty text */

/* Python's islower(), isupper(), istitle(): at least one cased character. */
bool text_is_cased(struct text t, enum text_case in);

#endif
