/* Patterns against PCRE2, and facts of the dialect. */
#include "regular_fixture.h"

#include <stdio.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* A random pattern; lengths are bounded by depth. */
struct writer {
    char text[4096];
    size_t n;
};

static void put(struct writer *w, const char *text)
{
    size_t n = strlen(text);
    if (w->n + n < sizeof w->text) {
        memcpy(w->text + w->n, text, n + 1);
        w->n += n;
    }
}

static void write_choice(struct writer *w, uint32_t depth, bool is_fixed);

static void write_atom(struct writer *w, uint32_t depth, bool is_fixed)
{
    static const char *const atoms[] = {"a",
                                        "b",
                                        "a",
                                        "b",
                                        "A",
                                        "\xc3\xa9",
                                        ".",
                                        "[ab]",
                                        "[^a]",
                                        "\\d",
                                        "\\w",
                                        "\\W",
                                        "\\s",
                                        "[^\\w\\n]",
                                        "0",
                                        "_",
                                        "[a-\\d]",
                                        "\\x61",
                                        "\\n",
                                        "\\S",
                                        "[A-Z_]",
                                        "[^\\x00-\\x7f]",
                                        "\xf0\x9f\x98\x80",
                                        "\\-"};
    static const char *const guards[] = {"^", "$", "\\b", "\\B", "(?=", "(?!", "(?<=", "(?<!"};
    uint32_t kind = random_below(12);
    if (kind == 0 && depth > 0 && !is_fixed) {
        uint32_t guard = random_below(8);
        put(w, guards[guard]);
        if (guard >= 4) {
            write_choice(w, depth - 1, guard >= 6);
            put(w, ")");
        }
    } else if (kind < 4 && depth > 0) {
        static const char *const groups[] = {"(", "(?:", "(?<name>"};
        put(w, groups[random_below(w->n > 0 ? 2 : 3)]);
        write_choice(w, depth - 1, is_fixed);
        put(w, ")");
    } else {
        put(w, atoms[random_below(sizeof atoms / sizeof *atoms)]);
    }
}

static void write_choice(struct writer *w, uint32_t depth, bool is_fixed)
{
    static const char *const quantifiers[] = {"*",     "+",    "?",  "{2}",
                                              "{1,3}", "{2,}", "*?", "{0,2}?"};
    uint32_t n = is_fixed ? 1 : 1 + random_below(3) / 2;
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0)
            put(w, "|");
        uint32_t length = 1 + random_below(4);
        for (uint32_t k = 0; k < length; k++) {
            size_t before = w->n;
            write_atom(w, depth, is_fixed);
            char first = w->text[before], second = w->text[before + 1];
            bool is_guard = first == '^' || first == '$' ||
                            (first == '\\' && (second == 'b' || second == 'B')) ||
                            (first == '(' && second == '?' && w->text[before + 2] != ':');
            if (!is_fixed && !is_guard && random_below(3) == 0)
                put(w, quantifiers[random_below(sizeof quantifiers / sizeof *quantifiers)]);
        }
    }
}

static pcre2_code *compile_pcre(const char *pattern, bool is_whole)
{
    int code;
    size_t at;
    /* Its start optimisation misses matches: (?=a\b)(?:b*)*?a{1,3} in "a". */
    uint32_t options =
        PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALT_CIRCUMFLEX | PCRE2_NO_START_OPTIMIZE;
    if (is_whole)
        options |= PCRE2_ANCHORED | PCRE2_ENDANCHORED;
    return pcre2_compile((PCRE2_SPTR)pattern, strlen(pattern), options, &code, &at, NULL);
}

static uint32_t n_too_complex;

static void compare_with_pcre(const char *pattern, enum regex_use use, bool spells)
{
    pcre2_code *code = compile_pcre(pattern, use == REGEX_WHOLE);
    if (!code)
        return; /* a look-behind that PCRE2 cannot do */
    pcre2_match_data *match = pcre2_match_data_create(4, NULL);
    struct string_set set;
    if (regex_compile(&budget, pattern, strlen(pattern), use, &set, &err) == SERVERD_OK) {
        const struct dfa *plain = NULL, *json = NULL;
        if (spells && set.automaton->n_states < 2000) {
            plain = spelled(&set, SPELLING_PLAIN);
            json = spelled(&set, SPELLING_JSON);
        }
        for (int i = 0; i < 40; i++) {
            char text[128], spelling[512];
            size_t n = random_text(text, (uint32_t)i / 3);
            int found = pcre2_match(code, (PCRE2_SPTR)text, n, 0, 0, match, NULL);
            if (found < 0 && found != PCRE2_ERROR_NOMATCH)
                continue; /* it backtracked for too long */
            if (string_set_has(&set, text, n) != (found >= 0))
                fail_msg("pattern %s, text '%s': PCRE2 says %d", pattern, text, found >= 0);
            if (plain && dfa_accepts(plain, text, n) != (found >= 0))
                fail_msg("pattern %s, text '%s' in bytes: PCRE2 says %d", pattern, text,
                         found >= 0);
            size_t n_spelling = json_spelling(text, n, spelling);
            if (json && dfa_accepts(json, spelling, n_spelling) != (found >= 0))
                fail_msg("pattern %s, JSON '%s': PCRE2 says %d", pattern, spelling, found >= 0);
        }
    } else if (err.code == SERVERD_TIMEOUT) {
        n_too_complex++;
    } else if (err.code != SERVERD_UNSUPPORTED) {
        fail_msg("%s: %s", pattern, err.text);
    }
    pcre2_match_data_free(match);
    pcre2_code_free(code);
}

static void random_patterns_match_as_pcre2_says(void **state)
{
    for (uint64_t seed = 0; seed < 4000; seed++) {
        random_seed(seed * 7919 + 5);
        struct writer w = {.n = 0};
        if (seed % 5 == 0)
            put(&w, "(?i)");
        write_choice(&w, 3, false);
        begin();
        compare_with_pcre(w.text, seed % 2 ? REGEX_WHOLE : REGEX_SEARCH, seed % 8 == 0);
    }
    assert_true(n_too_complex < 4);
    end();
}

static void write_long(struct writer *w, bool ends)
{
    static const char *const items[] = {"a", "[ab]", ".", "(?:(?!bb)[^ ])", "(?:a|b)", "\\w"};
    static const char *const bounds[] = {"{0,8}", "{2,9}", "{8,}", "{8}", "{3,10}", "{9,9}"};
    static const char *const fixed[] = {"a", "(?:ab|ba)", "b{2}", "[^b]", "(?=a|b)", "\\b"};
    uint32_t n = random_below(3), at = random_below(n + 1);
    for (uint32_t i = 0; i <= n; i++) {
        if (i == at) {
            put(w, items[random_below(6)]);
            put(w, bounds[random_below(6)]);
        } else {
            put(w, fixed[random_below(6)]);
        }
    }
    if (ends)
        put(w, "$");
}

/* Repetitions that become lengths, alone, beside each other, and nearly. */
static void random_lengths_match_as_pcre2_says(void **state)
{
    n_too_complex = 0;
    for (uint64_t seed = 0; seed < 2000; seed++) {
        random_seed(seed * 6151 + 1);
        struct writer w = {.n = 0};
        if (random_below(8) > 0)
            put(&w, "^");
        if (random_below(2)) {
            put(&w, random_below(6) ? "(?=" : "(?!");
            write_long(&w, random_below(6) > 0);
            put(&w, ")");
        }
        write_long(&w, random_below(8) > 0);
        begin();
        compare_with_pcre(w.text, seed % 2 ? REGEX_WHOLE : REGEX_SEARCH, true);
    }
    assert_true(n_too_complex < 4);
    end();
}

/* A text, and whether it matches. */
struct match_case {
    const char *pattern, *text;
    bool matches;
};

static void check_cases(const struct match_case *cases, size_t n, enum regex_use use)
{
    for (size_t i = 0; i < n; i++) {
        begin();
        struct string_set set = compile(cases[i].pattern, use);
        if (has(&set, cases[i].text) != cases[i].matches)
            fail_msg("%s on '%s'", cases[i].pattern, cases[i].text);
    }
    end();
}

static void searches_understand_the_dialect(void **state)
{
    static const struct match_case cases[] = {
        {"", "", true},
        {"", "abc", true},
        {"a|^$", "", true},
        {"a|^$", "b", false},
        {"x^a", "xa", false},
        {"a$b", "ab", false},
        {"^[^]$", "\n", true},
        {"[]", "", false},
        {"^[a-\\w]$", "-", true},
        {"^\\u{1F600}$", "\xf0\x9f\x98\x80", true},
        {"^\\uD83D\\uDE00$", "\xf0\x9f\x98\x80", true},
        {"^[\\uD83D\\uDE00]$", "\xf0\x9f\x98\x80", true},
        {"^.$", "\xf0\x9f\x98\x80", true},
        {"^.$", "\xe2\x80\xa8", false},
        {"^\\d$", "\xd9\xa3", false},
        {"^\\w$", "\xc3\xa9", false},
        {"^\\s$", "\xe3\x80\x80", true},
        {"^\\s$", "\xef\xbb\xbf", true},
        {"^\\S$", "\xe2\x80\xa9", false},
        {"^\\p{L}+$", "\xc3\xa9\xd0\x94", true},
        {"^\\p{Letter}+$", "1", false},
        {"^\\p{Script=Greek}$", "\xce\xb1", true},
        {"^\\p{Script=Greek}$", "a", false},
        {"^\\P{Lu}$", "a", true},
        {"^[\\p{Lu}\\d]+$", "A1", true},
        {"^\\p{ASCII}$", "\xc3\xa9", false},
        {"^\\p{Alphabetic}$", "\xc3\xa9", true},
        {"^\\cC$", "\x03", true},
        {"^[\\b]$", "\b", true},
        {"^\\0$", "0", false},
        {"^{.*}$", "{x}", true},
        {"^a{,3}$", "a{,3}", true},
        {"^]$", "]", true},
        {"^\\/\\-\\_$", "/-_", true},
        {"^(?i)straSSe$", "STRASSE", true},
        {"^(?i:\\u0131)$", "I", false},
        {"^(?i:i)$", "\xc4\xb0", false},
        {"^(?i:\xc3\x9f)$", "\xe1\xba\x9e", true},
        {"^(?i:\\u03c3)$", "\xcf\x82", true},
        {"^(?i:\\u1f88)$", "\xe1\xbe\x80", true},
        {"(?i:K)", "\xe2\x84\xaa", true},
        {"^(?i:[a-f]+)[a-f]$", "ABf", true},
        {"^(?i:[a-f]+)[a-f]$", "ABF", false},
        {"^(?s:.)$", "\n", true},
        {"(?m)^b$", "a\nb\nc", true},
        {"^(?!.*foo).*bar", "abar", true},
        {"^(?!.*foo).*bar", "abarfoo", false},
        {"(?<!\\$)\\b\\d+", "$12 7", true},
        {"^(?:(?!--)[a-z-])+$", "a-b-c", true},
        {"^(?:(?!--)[a-z-])+$", "a--b", false},
        {"^(?=[A-Z]*$)(?=.{3}$)", "ABC", true},
        {"^(?=[A-Z]*$)(?=.{3}$)", "ABCD", false},
        {"^(?=(?!b)a)", "ab", true},
        {"(?=\\bfoo)f", "a foo", true},
        {"(?=\\bfoo)f", "afoo", false},
        {"^(?<year>\\d{4})-(?<month>\\d\\d)$", "2024-02", true},
        {"^\\S(?:.*\\S)?$", " a", false},
        {"^a{0}$", "", true},
        {"^(?:a{0,2}){2}$", "aaaa", true},
        {"^(?:a{0,2}){2}$", "aaaaa", false},
        {"^(?:|a)+$", "aaa", true},
    };
    check_cases(cases, sizeof cases / sizeof *cases, REGEX_SEARCH);
}

static void whole_texts_have_what_python_and_rust_write(void **state)
{
    static const struct match_case cases[] = {
        {"a|ab", "ab", true},       {"a", "ba", false},         {"\\Aab\\Z", "ab", true},
        {"\\Aab\\z", "abc", false}, {"(?P<x>a)b", "ab", true},  {"(?x) a b # c\n c", "abc", true},
        {"a{,2}", "aa", true},      {"a{,2}", "aaa", false},    {"(?i)yes|no", "NO", true},
        {"\\x{41}", "A", true},     {"a(?#note)b", "ab", true}, {"\\pL", "x", true},
        {"(?:a|b|)", "", true},
    };
    check_cases(cases, sizeof cases / sizeof *cases, REGEX_WHOLE);
}

struct wrong_case {
    const char *pattern;
    serverd_status code;
    const char *text; /* part of the message */
};

static void wrong_patterns_are_refused_by_name(void **state)
{
    static const struct wrong_case cases[] = {
        {"a(b", SERVERD_INVALID, "byte 3: a group without )"},
        {"a)b", SERVERD_INVALID, "byte 1"},
        {"[a", SERVERD_INVALID, "without ]"},
        {"*a", SERVERD_INVALID, "byte 0: nothing to repeat"},
        {"a**", SERVERD_INVALID, "nothing to repeat"},
        {"a{2,1}", SERVERD_INVALID, "out of order"},
        {"[b-a]", SERVERD_INVALID, "out of order"},
        {"\\", SERVERD_INVALID, "backslash"},
        {"\\a", SERVERD_INVALID, "unknown escape"},
        {"\\Z", SERVERD_INVALID, "unknown escape"},
        {"\\u12", SERVERD_INVALID, "\\u"},
        {"\\u{110000}", SERVERD_INVALID, "\\u"},
        {"\\p{Nonsense}", SERVERD_INVALID, "property"},
        {"\\p{L", SERVERD_INVALID, "\\p"},
        {"(?<1a>b)", SERVERD_INVALID, "name"},
        {"(?y)a", SERVERD_INVALID, "group"},
        {"\xff", SERVERD_INVALID, "UTF-8"},
        {"^*", SERVERD_INVALID, "nothing to repeat"},
        {"(a)\\1", SERVERD_UNSUPPORTED, "back-reference"},
        {"(?<n>a)\\k<n>", SERVERD_UNSUPPORTED, "back-reference"},
        {"(?>a)", SERVERD_UNSUPPORTED, "atomic"},
        {"(?(1)a|b)", SERVERD_UNSUPPORTED, "conditional"},
        {"x(?<=a(?=b))", SERVERD_UNSUPPORTED, "byte 1: a look-behind"},
        {"(?=(?<=a)b)", SERVERD_UNSUPPORTED, "byte 0: a look-ahead"},
        {"(?:(?:a{1000}){1000}){1000}", SERVERD_TIMEOUT, "too complex"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct string_set set;
        begin();
        const char *pattern = cases[i].pattern;
        serverd_status status =
            regex_compile(&budget, pattern, strlen(pattern), REGEX_SEARCH, &set, &err);
        if (status != cases[i].code || !strstr(err.text, cases[i].text))
            fail_msg("%s: %d %s", pattern, status, status ? err.text : "compiled");
    }
    end();
}

static void long_repetitions_are_lengths(void **state)
{
    begin();
    struct string_set set = compile("^[a-z][a-z0-9]{0,99999}$", REGEX_SEARCH);
    assert_int_equal(set.max, 100000);
    assert_true(set.automaton->n_states < 5);
    assert_true(has(&set, "a0"));
    assert_false(has(&set, "0"));
    assert_false(has(&set, ""));
    set = compile("(?:ab){2}.{500}c", REGEX_WHOLE);
    static char text[520];
    memset(text, 'x', 505);
    memcpy(text, "abab", 4);
    text[504] = 'c';
    assert_true(has(&set, text));
    text[504] = 'x';
    text[505] = 'c';
    assert_false(has(&set, text));
    set = compile("x.{100,}", REGEX_WHOLE); /* bounded on one side alone */
    assert_int_equal(set.min, 101);
    set = compile("^(?=.{3,254}$)(?=[a-z].*$)(?:a|b+c)*$", REGEX_SEARCH);
    assert_int_equal(set.min, 3);
    assert_int_equal(set.max, 254);
    assert_true(has(&set, "abbc"));
    assert_false(has(&set, "aa"));
    set = compile("^(?=.{3,20}$).{0,10}$", REGEX_SEARCH);
    assert_true(has(&set, "0123456789"));
    assert_false(has(&set, "0123456789a"));
    assert_false(has(&set, "01"));
    set = compile("(?=.{2,8}$)a", REGEX_SEARCH); /* from anywhere: no length of the text */
    assert_true(has(&set, "0123456789abc"));
    assert_false(has(&set, "a123456789"));
    /* Not a length: the repetition is not the only thing that varies. */
    set = compile("^a*b{0,20}$", REGEX_SEARCH);
    assert_true(has(&set, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"));
    end();
}

/* Each is answered, whatever the answer is, in the time that is allowed. */
static void hostile_patterns_are_answered_in_time(void **state)
{
    static char many[LIMIT_REGEX_BYTES];
    size_t n = 0;
    for (int i = 0; i < 10000; i++)
        n += (size_t)snprintf(many + n, sizeof many - n, "%s%x", i ? "|" : "", i * 97);
    assert_true(n < sizeof many);
    const char *patterns[] = {
        "(a+)+$",
        "(?:a|a){1000}{1000}",
        "(?:(?:a|a){1000}){1000}",
        "\\p{L}{500}",
        "^\\p{L}{500}$",
        "^(?:\\p{L}\\p{N}?){500}$",
        "(?:a|b)*a(?:a|b){20}",
        "(?:a|b)*a(?:a|b){200}c",
        "^(?:.*a){12}",
        "(?:.{0,1000}x){10}",
        "((((((((((a*)*)*)*)*)*)*)*)*)*)*",
        "(?=.*a)(?=.*b)(?=.*c)(?=.*d)(?=.*e)(?=.*f)(?=.*g)(?=.*h)(?=.*i)(?=.*j)(?=.*k)(?=.*l)",
        "^(?:(?=a.{10})|b)*",
        "(?<=a.{12})b(?<=c.{15})",
        "(?:\\p{L}|\\p{N}|\\p{P}|\\p{S}|\\p{Z}|\\p{M}){0,300}\\b(?=\\p{Greek}{3})",
        many,
        "^(?:a{0,4294967294}){4294967294}$",
        "(?i)(?:\\p{Ll}{3}|\\p{Lu}{2}){50}",
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        struct string_set set;
        const struct dfa *dfa;
        begin();
        uint64_t start = clock_now_ns(&system_clock);
        budget.deadline_ns = start + 300000000u;
        serverd_status status =
            regex_compile(&budget, patterns[i], strlen(patterns[i]), REGEX_SEARCH, &set, &err);
        if (!status)
            status = spell(&budget, &set, SPELLING_JSON, budget.arena, &dfa, &err);
        uint64_t ms = (clock_now_ns(&system_clock) - start) / 1000000;
        print_message("%5u ms  %.50s: %s\n", (unsigned)ms, patterns[i],
                      status ? err.text : "compiled");
        assert_true(status == SERVERD_OK || status == SERVERD_TIMEOUT || status == SERVERD_INVALID);
        assert_true(ms < 3000); /* 0.3 s, on a machine that does other things too */
    }
    end();
}

static void ten_thousand_words_compile(void **state)
{
    static char many[LIMIT_REGEX_BYTES];
    size_t n = 0;
    for (int i = 0; i < 8000; i++)
        n += (size_t)snprintf(many + n, sizeof many - n, "%s%x", i ? "|" : "", i * 7919 + 4096);
    begin();
    struct string_set set = compile(many, REGEX_SEARCH);
    assert_true(has(&set, "zz1000zz"));
    assert_true(has(&set, "2eef"));
    assert_false(has(&set, "2ee"));
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_patterns_match_as_pcre2_says),
        cmocka_unit_test(random_lengths_match_as_pcre2_says),
        cmocka_unit_test(searches_understand_the_dialect),
        cmocka_unit_test(whole_texts_have_what_python_and_rust_write),
        cmocka_unit_test(wrong_patterns_are_refused_by_name),
        cmocka_unit_test(long_repetitions_are_lengths),
        cmocka_unit_test(hostile_patterns_are_answered_in_time),
        cmocka_unit_test(ten_thousand_words_compile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
