/* Compiling and matching in one line. */
#ifndef TESTS_GRAMMAR_FIXTURE_H
#define TESTS_GRAMMAR_FIXTURE_H

#include "grammar/matcher.h"

/* Fails the test with the message if it does not compile. */
struct grammar *compiled(enum grammar_form form, const char *text, bool checks);
struct grammar *compiled_with(enum grammar_form form, const char *text,
                              const struct grammar_options *options);

/* Bytes of `text` that are legal; *is_whole: all of them, and the text may be over there. */
size_t matched(struct grammar *grammar, const char *text, bool *is_whole);

void assert_accepts(struct grammar *grammar, const char *text);
/* Rejects at this byte; -1: wherever. */
void assert_rejects(struct grammar *grammar, const char *text, int at);

/* Does not compile: with this code, and `part` in its message. */
void assert_refused(enum grammar_form form, const char *text, bool checks, const char *code,
                    const char *part);

#endif
