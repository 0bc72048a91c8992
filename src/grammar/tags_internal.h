/* Between the files of structural tags: the code that is being appended, and what formats are made
 * of. The first failure stays; after it everything is harmless. */
#ifndef GRAMMAR_TAGS_INTERNAL_H
#define GRAMMAR_TAGS_INTERNAL_H

#include "grammar/tags.h"

/* Texts that a reader takes as they are, of one kind (tags_calls.c). */
struct tags_readable {
    const char *stop;
    size_t n_stop;
    bool is_framed, is_exact;
    const struct automaton *texts;
};
enum { TAGS_READABLE = 8 };

struct tags {
    struct machine_builder *builder;
    const char **code;
    serverd_error *err;
    serverd_status status;
    unsigned depth;
    struct tags_readable readable[TAGS_READABLE]; /* that were made */
    size_t n_readable;
};

void tags_wrong(struct tags *t, const struct json_value *where, const char *what);
/* False: something has failed. `invalid`: the code of SERVERD_INVALID. */
bool tags_check(struct tags *t, serverd_status status, const char *invalid);

/* Instructions: appends one, where the next one will be, where one leads. */
uint32_t tags_add(struct tags *t, enum machine_op op, uint32_t a);
uint32_t tags_here(const struct tags *t);
void tags_set_target(struct tags *t, uint32_t at, uint32_t target);

/* Code that reads a text of the language; exactly this text, which may be empty. */
void tags_add_automaton(struct tags *t, const struct automaton *automaton);
void tags_add_literal(struct tags *t, const char *text, size_t n);

/* Languages, NULL after a failure: one of the texts; texts that end with one of `ends`, and nowhere
 * before with one of `stops`; texts in which no stop occurs. */
const struct automaton *tags_literals(struct tags *t, const struct text_piece *texts, size_t n);
const struct automaton *tags_up_to(struct tags *t, const struct automaton *ends,
                                   const struct automaton *stops);
const struct automaton *tags_without(struct tags *t, const struct automaton *stops);

/* Members. The first two fail if it is not there. */
const struct json_value *tags_field(struct tags *t, const struct json_value *object,
                                    const char *name, enum json_kind kind);
const struct json_value *tags_list(struct tags *t, const struct json_value *object,
                                   const char *name);
bool tags_flag(const struct json_value *object, const char *name);

/* Alternatives: for each of them either_begin, its code, either_next; then either_end. */
struct either {
    uint32_t split, jumps; /* jumps: a list through their targets */
};
#define EITHER_NONE ((struct either){UINT32_MAX, UINT32_MAX})
void either_begin(struct tags *t, struct either *either, bool is_last);
void either_next(struct tags *t, struct either *either);
void either_end(struct tags *t, const struct either *either);

/* The code of one format, nested as it is. */
void tags_add_format(struct tags *t, const struct json_value *format);

/* The formats that calls of tools are made of (tags_calls.c); false: it is none of them. */
bool tags_add_call_format(struct tags *t, const struct json_value *format);

#endif
