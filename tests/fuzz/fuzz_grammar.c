/* Any bytes as a schema, a grammar, a regex, choices or tags: compiling ends in a machine or an
 * error, and a machine reads any bytes. The first byte chooses the form; behind a zero byte comes
 * the text that is read. What production lets pass has no dead end. */
#include "grammar/matcher.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Some legal byte after the other: there has to be one until the text may end. */
static void go_on(struct matcher *matcher)
{
    for (unsigned step = 0; step < 24 && !matcher_may_end(matcher); step++) {
        bool is_alive = false;
        for (unsigned i = 0; i < 256 && !is_alive; i++) {
            char c = (char)(i * 151 + step * 7 + '"'); /* all bytes, quotes first now and then */
            is_alive = matcher_accept(matcher, &c, 1);
        }
        if (matcher_has_failed(matcher))
            return;
        if (!is_alive)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum grammar_form forms[] = {GRAMMAR_JSON_SCHEMA, GRAMMAR_GBNF, GRAMMAR_TAGS,
                                              GRAMMAR_REGEX, GRAMMAR_CHOICE};
    if (size < 2)
        return 0;
    const char *text = (const char *)data + 1;
    const char *end = memchr(text, '\0', size - 1);
    size_t n = end ? (size_t)(end - text) : size - 1;
    const char *instance = end ? end + 1 : text;
    size_t n_instance = end ? size - 2 - n : n;
    struct grammar_options options = {.checks = data[0] & 1, .max_ns = UINT64_C(2000000000)};
    struct grammar *grammar;
    const char *code;
    serverd_error err = {0};
    if (grammar_compile(forms[(data[0] >> 1) % 5], text, n, &options, &grammar, &code, &err) !=
        SERVERD_OK) {
        if (err.text[0] == '\0' || code[0] == '\0')
            abort();
        return 0;
    }
    struct matcher *matcher = matcher_create(grammar);
    if (matcher) {
        struct buffer forced;
        buffer_init(&forced, 1 << 16);
        (void)matcher_read(matcher, instance, n_instance);
        if (!options.checks && !matcher_has_failed(matcher))
            go_on(matcher);
        const bool ends = matcher_forced(matcher, 16, &forced);
        if (matcher_accept(matcher, buffer_str(&forced), forced.len) &&
            ends != matcher_is_complete(matcher))
            abort();
        buffer_deinit(&forced);
        matcher_destroy(matcher);
    }
    grammar_unref(grammar);
    return 0;
}
