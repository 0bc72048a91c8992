#include "grammar/grammar_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct grammar *compiled_with(enum grammar_form form, const char *text,
                              const struct grammar_options *options)
{
    struct grammar *grammar = NULL;
    const char *code;
    serverd_error err;
    if (grammar_compile(form, text, strlen(text), options, &grammar, &code, &err) != SERVERD_OK)
        fail_msg("%.200s: %s: %s", text, code, err.text);
    return grammar;
}

struct grammar *compiled(enum grammar_form form, const char *text, bool checks)
{
    const struct grammar_options options = {.checks = checks, .max_ns = UINT64_C(20000000000)};
    return compiled_with(form, text, &options);
}

size_t matched(struct grammar *grammar, const char *text, bool *is_whole)
{
    struct matcher *matcher = matcher_create(grammar);
    assert_non_null(matcher);
    size_t n = matcher_read(matcher, text, strlen(text));
    *is_whole = n == strlen(text) && matcher_may_end(matcher);
    assert_false(matcher_has_failed(matcher));
    matcher_destroy(matcher);
    return n;
}

void assert_accepts(struct grammar *grammar, const char *text)
{
    bool is_whole;
    size_t n = matched(grammar, text, &is_whole);
    if (!is_whole)
        fail_msg("rejected at %zu: %s", n, text);
}

void assert_rejects(struct grammar *grammar, const char *text, int at)
{
    bool is_whole;
    size_t n = matched(grammar, text, &is_whole);
    if (is_whole)
        fail_msg("accepted: %s", text);
    if (at >= 0 && n != (size_t)at)
        fail_msg("rejected at %zu instead of %d: %s", n, at, text);
}

void assert_refused(enum grammar_form form, const char *text, bool checks, const char *code,
                    const char *part)
{
    const struct grammar_options options = {.checks = checks, .max_ns = UINT64_C(20000000000)};
    struct grammar *grammar = NULL;
    const char *found;
    serverd_error err;
    if (grammar_compile(form, text, strlen(text), &options, &grammar, &found, &err) == SERVERD_OK)
        fail_msg("compiled: %.200s", text);
    if (strcmp(found, code) != 0 || !strstr(err.text, part))
        fail_msg("%.200s: %s: %s, not %s: %s", text, found, err.text, code, part);
}
