/* What the tests of regular languages share: a budget that is made anew, random numbers and texts,
 * short ways to ask. */
#ifndef TESTS_REGULAR_FIXTURE_H
#define TESTS_REGULAR_FIXTURE_H

#include "grammar/regex.h"
#include "grammar/spelling.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

extern struct grammar_budget budget;
extern serverd_error err;

/* A new budget of one second; what came from the old one is gone. */
void begin(void);
void end(void);

void random_seed(uint64_t seed);
uint32_t random_below(uint32_t n);
/* UTF-8 of up to max_length code points of a small alphabet; returns the bytes. */
size_t random_text(char *out, uint32_t max_length);

/* Fails the test, saying why, if the pattern does not compile. */
struct string_set compile(const char *pattern, enum regex_use use);
bool has(const struct string_set *set, const char *text);
const struct dfa *spelled(const struct string_set *set, enum spelling spelling);
/* The text of a JSON string as it is produced, without quotes; NUL-terminated. */
size_t json_spelling(const char *text, size_t n, char *out);
/* The same with random escapes. */
size_t any_spelling(const char *text, size_t n, char *out);

#endif
