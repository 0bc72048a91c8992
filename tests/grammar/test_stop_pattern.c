/* Stop patterns against PCRE2, which is asked about every piece of the text: the first match is
 * found wherever tokens are cut, and no byte of it was given out before. */
#include "grammar/stop_pattern.h"

#include "base/limits.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t random_state;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

static uint64_t no_time(void *context)
{
    (void)context;
    return 1;
}

static const struct clock clock_without_time = {.now_ns = no_time};

static serverd_status compile(const char *pattern, struct arena *arena, const struct dfa **out)
{
    serverd_error err;
    return stop_pattern_compile(pattern, strlen(pattern), &clock_without_time, arena, out, &err);
}

/* ---- the naive search ---- */

static pcre2_code *whole(const char *pattern)
{
    int error;
    size_t at;
    pcre2_code *code =
        pcre2_compile((const uint8_t *)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED, &error, &at, NULL);
    assert_non_null(code);
    return code;
}

static bool matches(const pcre2_code *code, const char *text, size_t n)
{
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    int found = pcre2_match(code, (const uint8_t *)text, n, 0, 0, data, NULL);
    pcre2_match_data_free(data);
    return found >= 0;
}

static bool is_continuation(char byte)
{
    return ((uint8_t)byte & 0xc0) == 0x80;
}

/* Of all patterns the match that ends first, and of those the longest; false: there is none. */
static bool find_first(pcre2_code *const *codes, uint32_t n_codes, const char *text, size_t n,
                       uint64_t *begin, uint64_t *end)
{
    for (size_t to = 1; to <= n; to++) {
        for (size_t from = 0; from < to && (to == n || !is_continuation(text[to])); from++)
            for (uint32_t i = 0; i < n_codes && !is_continuation(text[from]); i++)
                if (matches(codes[i], text + from, to - from)) {
                    *begin = from;
                    *end = to;
                    return true;
                }
    }
    return false;
}

/* ---- */

static void make_text(char *text, size_t n)
{
    static const char *const pieces[] = {"a", "b", "c", "1", "\n", " ", "é", "."};
    text[0] = '\0';
    while (strlen(text) + 3 < n)
        strcat(text, pieces[draw(sizeof pieces / sizeof *pieces)]);
}

/* The text in tokens of random length; returns whether a match was found. */
static bool scan(struct stop_scanner *scanner, const char *text, size_t n, uint64_t *begin,
                 uint64_t *end)
{
    uint64_t released = 0;
    uint32_t index;
    for (size_t at = 0; at < n;) {
        const uint32_t len = draw(5), taken = len < n - at ? len : (uint32_t)(n - at);
        if (stop_scanner_push(scanner, text + at, taken, &index, begin, end)) {
            assert_true(*begin >= released); /* nothing of it is out */
            return true;
        }
        at += taken;
        assert_true(stop_scanner_safe(scanner) >= released && stop_scanner_safe(scanner) <= at);
        released = stop_scanner_safe(scanner);
    }
    return false;
}

static void check(const char *const *patterns, uint32_t n, uint64_t seed)
{
    enum { N_TEXT = 40 };
    char text[N_TEXT + 8];
    const struct dfa *dfas[LIMIT_STOP_PATTERNS];
    pcre2_code *codes[LIMIT_STOP_PATTERNS];
    struct arena *arena = arena_create(64 * MIB);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(compile(patterns[i], arena, &dfas[i]), SERVERD_OK);
        codes[i] = whole(patterns[i]);
    }
    for (uint64_t k = 0; k < 40; k++) {
        random_state = seed * 1000 + k;
        make_text(text, N_TEXT);
        struct stop_scanner *scanner = stop_scanner_create(dfas, n);
        uint64_t begin = 0, end = 0, expected_begin = 0, expected_end = 0;
        const bool is_there =
            find_first(codes, n, text, strlen(text), &expected_begin, &expected_end);
        const bool is_found = scan(scanner, text, strlen(text), &begin, &end);
        if (is_found != is_there || (is_there && (begin != expected_begin || end != expected_end)))
            fail_msg("%s in %s, seed %u: %d %u..%u, expected %d %u..%u", patterns[0], text,
                     (unsigned)random_state, is_found, (unsigned)begin, (unsigned)end, is_there,
                     (unsigned)expected_begin, (unsigned)expected_end);
        stop_scanner_destroy(scanner);
    }
    for (uint32_t i = 0; i < n; i++)
        pcre2_code_free(codes[i]);
    arena_destroy(arena);
}

static void the_first_match_is_found_however_tokens_are_cut(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "abc",          "a+b",  "[ab]+c",   "(ab|ba)+1", "\\d\\d",       "\\n\\n",
        "a.c",          "é+a",  "[^a]b",    "a{2,3}",    "(a|ab)(c|bc)", "b(a|c)*b",
        "\\s+[a-c]\\s", "1.*1", "(?i)A\\.", "[a-cé]{4}",
    };
    const uint32_t n = sizeof patterns / sizeof *patterns;
    for (uint32_t i = 0; i < n; i++) {
        const char *const pair[] = {patterns[i], patterns[(i + 5) % n]};
        check(pair, 1, i);
        check(pair, 2, 100 + i);
    }
}

static void text_that_is_skipped_holds_no_match_and_ends_those_before_it(void **state)
{
    (void)state;
    const struct dfa *dfa;
    struct arena *arena = arena_create(MIB);
    uint32_t index;
    uint64_t begin, end;
    assert_int_equal(compile("ab+c", arena, &dfa), SERVERD_OK);
    struct stop_scanner *scanner = stop_scanner_create(&dfa, 1);
    assert_false(stop_scanner_push(scanner, "xab", 3, &index, &begin, &end));
    assert_int_equal(stop_scanner_safe(scanner), 1);
    stop_scanner_skip(scanner, 4);
    assert_int_equal(stop_scanner_safe(scanner), 7);
    assert_false(stop_scanner_push(scanner, "bc", 2, &index, &begin, &end));
    assert_true(stop_scanner_push(scanner, "abbcabc", 7, &index, &begin, &end));
    assert_int_equal(begin, 9);
    assert_int_equal(end, 13);
    stop_scanner_destroy(scanner);
    arena_destroy(arena);
}

static void what_is_no_stop_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        serverd_status status;
    } rows[] = {
        {"(", SERVERD_INVALID},
        {"a*", SERVERD_INVALID},
        {"", SERVERD_INVALID},
        {"(a)\\1", SERVERD_UNSUPPORTED},
        {"[ab]*a[ab]{14}", SERVERD_TIMEOUT},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct arena *arena = arena_create(64 * MIB);
        const struct dfa *dfa;
        assert_int_equal(compile(rows[i].pattern, arena, &dfa), rows[i].status);
        arena_destroy(arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_match_is_found_however_tokens_are_cut),
        cmocka_unit_test(text_that_is_skipped_holds_no_match_and_ends_those_before_it),
        cmocka_unit_test(what_is_no_stop_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
