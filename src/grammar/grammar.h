/* Structured output: what a text may be, compiled once and followed byte by byte.
 *
 *   grammar   compiled; immutable, shared by any number of threads, reference-counted
 *   matcher   how far one text has come; a sequence of a request has its own (matcher.h)
 *   mask      which tokens may come next (token_mask.h)
 *
 * Compiled in one of two ways. To *produce*: one spelling of every JSON value (canonical strings,
 * plain decimals, names in the order of `properties`, `required`, others; no name twice), formats
 * enforced, and never a dead end: whatever was let pass can be completed. To *check*: whatever JSON
 * allows is read: any order, spelling, white space; a text is accepted if and only if it is a valid
 * instance.
 *
 * Nothing is enforced in part: compiling ends with everything or with an error. All texts are
 * hostile: time, memory, nesting and alternatives are bounded (limits.h), and errors say which
 * keyword, by its JSON pointer, or which line.
 *
 * Caveats: a schema's text is to be passed on as the client wrote it; a JSON library in between may
 * round its numbers. Properties of one name in a text are refused, JSON itself being silent on
 * them. Half surrogate pairs (\ud800) are in no string. */
#ifndef GRAMMAR_GRAMMAR_H
#define GRAMMAR_GRAMMAR_H

#include "base/clock.h"
#include "serverd/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct grammar;

enum grammar_form {
    GRAMMAR_JSON_SCHEMA, /* text: a schema; draft 2020-12, or older by its $schema */
    GRAMMAR_JSON_OBJECT, /* text: ignored; any JSON object */
    GRAMMAR_REGEX,       /* text: an expression that matches the whole output */
    GRAMMAR_CHOICE,      /* text: a JSON list of strings, one of which is the output */
    GRAMMAR_GBNF,        /* text: rules, beginning with `root` */
    GRAMMAR_TAGS,        /* text: the JSON object of `structural_tag` */
};

enum json_whitespace {
    WHITESPACE_SPACED,  /* a space behind , and : */
    WHITESPACE_COMPACT, /* none */
    WHITESPACE_FLEXIBLE /* runs of at most LIMIT_GRAMMAR_SPACES between any two tokens */
};

struct tokenizer;

struct grammar_options {
    bool checks;                     /* else it produces */
    enum json_whitespace whitespace; /* of production */
    const struct clock *clock;       /* NULL: processor time of the calling thread */
    uint64_t max_ns;                 /* of compiling; 0: LIMIT_GRAMMAR_TIME_NS */
    size_t max_bytes;                /* of compiling, twice; 0: LIMIT_GRAMMAR_BYTES */
    /* Whose control tokens structural tags may ask for; NULL: there are none. */
    const struct tokenizer *tokenizer;
};

/* On failure *code is one of "invalid_schema", "unsupported_schema", "invalid_regex",
 * "invalid_grammar", "grammar_too_complex" (api.md 4.2), static, and *err has keyword and place.
 * Any thread; takes up to `max_ns` (a little more for the step that notices). */
serverd_status grammar_compile(enum grammar_form form, const char *text, size_t n,
                               const struct grammar_options *options, struct grammar **out,
                               const char **code, serverd_error *err);

/* What tells grammars to produce apart, for caches: a SHA-256 of form, white space and text. */
enum { GRAMMAR_KEY_BYTES = 32 };
void grammar_key(enum grammar_form form, enum json_whitespace whitespace, const char *text,
                 size_t n, uint8_t key[GRAMMAR_KEY_BYTES]);

struct grammar *grammar_ref(struct grammar *grammar);
void grammar_unref(struct grammar *grammar); /* NULL is fine */

/* Memory it holds, for caches. */
size_t grammar_bytes(const struct grammar *grammar);

#endif
