/* The algebra of automata: every operation against the evaluation of its operands. */
#include "regular_fixture.h"

#include <stdio.h>

static const char *const patterns[] = {
    "^a*b$",        "^[ab]{2,3}$", "a",          "^(?:ab|b)*$", "^$",        "b$",
    "^[^a]*$",      "^\\w+$",      "^.{3}$",     "[\\u00e9A]",  "^(?:aa)*$", "^(?:.b?)*a$",
    "^(?!a)[^b]+$", "\\bab\\b",    "^a?b?a?b?$", "^\\S*$",      "[^]",       "[]",
    "^(?=.*a).{2}", "^[a-z]+_$",   "(?<=a)b",    "^(?:a|b.*)$", "^\\W*[0_]", "^(?:)$|^b",
};

enum { N_PATTERNS = sizeof patterns / sizeof *patterns, N_TEXTS = 400 };

static char texts[N_TEXTS][64];
static size_t lengths[N_TEXTS];

static void make_texts(void)
{
    random_seed(1);
    for (int i = 0; i < N_TEXTS; i++)
        lengths[i] = random_text(texts[i], (uint32_t)i / 60);
}

static const struct automaton *automaton_of(const char *pattern)
{
    struct string_set set = compile(pattern, REGEX_SEARCH);
    const struct automaton *out;
    assert_int_equal(string_set_fold(&budget, &set, &out, &err), SERVERD_OK);
    return out;
}

static const struct automaton *complement_of(const struct automaton *a)
{
    const struct automaton *out;
    assert_int_equal(automaton_complement(&budget, a, &out, &err), SERVERD_OK);
    return out;
}

static const struct automaton *union_of(const struct automaton *a, const struct automaton *b)
{
    const struct automaton *out;
    assert_int_equal(automaton_union(&budget, a, b, &out, &err), SERVERD_OK);
    return out;
}

static const struct automaton *intersection_of(const struct automaton *a, const struct automaton *b)
{
    const struct automaton *out;
    assert_int_equal(automaton_intersect(&budget, a, b, &out, &err), SERVERD_OK);
    return out;
}

static void boolean_operations_are_what_their_operands_say(void **state)
{
    make_texts();
    for (int i = 0; i < N_PATTERNS; i++) {
        for (int j = 0; j < N_PATTERNS; j++) {
            begin();
            const struct automaton *a = automaton_of(patterns[i]), *b = automaton_of(patterns[j]);
            const struct automaton *both = intersection_of(a, b), *either = union_of(a, b);
            const struct automaton *not_a = complement_of(a), *only_a;
            bool includes, disjoint;
            assert_int_equal(automaton_subtract(&budget, a, b, &only_a, &err), SERVERD_OK);
            assert_int_equal(automaton_includes(&budget, a, b, &includes, &err), SERVERD_OK);
            assert_int_equal(automaton_are_disjoint(&budget, a, b, &disjoint, &err), SERVERD_OK);
            for (int k = 0; k < N_TEXTS; k++) {
                bool in_a = automaton_accepts(a, texts[k], lengths[k]);
                bool in_b = automaton_accepts(b, texts[k], lengths[k]);
                assert_int_equal(automaton_accepts(both, texts[k], lengths[k]), in_a && in_b);
                assert_int_equal(automaton_accepts(either, texts[k], lengths[k]), in_a || in_b);
                assert_int_equal(automaton_accepts(only_a, texts[k], lengths[k]), in_a && !in_b);
                assert_int_equal(automaton_accepts(not_a, texts[k], lengths[k]), !in_a);
                assert_false(includes && in_b && !in_a);
                assert_false(disjoint && in_a && in_b);
            }
            /* One canonical form: laws hold table by table. */
            assert_true(automaton_equal(complement_of(not_a), a));
            assert_true(automaton_equal(complement_of(union_of(not_a, complement_of(b))), both));
            assert_true(automaton_equal(union_of(both, only_a), a));
            assert_int_equal(automaton_is_empty(both), disjoint);
            assert_int_equal(automaton_equal(either, a), includes);
            assert_true(automaton_is_anything(union_of(a, not_a)));
            assert_true(automaton_is_empty(intersection_of(a, not_a)));
        }
    }
    end();
}

static bool is_concatenation(const struct automaton *a, const struct automaton *b, const char *text,
                             size_t n)
{
    for (size_t i = 0; i <= n; i++)
        if ((i == n || ((uint8_t)text[i] & 0xc0) != 0x80) && automaton_accepts(a, text, i) &&
            automaton_accepts(b, text + i, n - i))
            return true;
    return false;
}

/* Of `count` pieces. */
static bool is_repetition(const struct automaton *a, const char *text, size_t n, uint32_t count)
{
    if (count == 0)
        return n == 0;
    for (size_t i = 0; i <= n; i++)
        if ((i == n || ((uint8_t)text[i] & 0xc0) != 0x80) && automaton_accepts(a, text, i) &&
            is_repetition(a, text + i, n - i, count - 1))
            return true;
    return false;
}

static void concatenation_and_repetition_cut_the_text(void **state)
{
    make_texts();
    for (int i = 0; i < N_PATTERNS; i++) {
        for (int j = 0; j < N_PATTERNS; j++) {
            const struct automaton *joined;
            begin();
            const struct automaton *a = automaton_of(patterns[i]), *b = automaton_of(patterns[j]);
            assert_int_equal(automaton_concat(&budget, a, b, &joined, &err), SERVERD_OK);
            for (int k = 0; k < N_TEXTS; k++)
                if (automaton_accepts(joined, texts[k], lengths[k]) !=
                    is_concatenation(a, b, texts[k], lengths[k]))
                    fail_msg("%s then %s: '%s'", patterns[i], patterns[j], texts[k]);
        }
        static const uint32_t bounds[][2] = {{0, 0},          {0, 2},          {1, 3}, {2, 2},
                                             {0, UINT32_MAX}, {2, UINT32_MAX}, {3, 1}};
        for (size_t r = 0; r < sizeof bounds / sizeof *bounds; r++) {
            const struct automaton *repeated;
            begin();
            const struct automaton *a = automaton_of(patterns[i]);
            assert_int_equal(
                automaton_repeat(&budget, a, bounds[r][0], bounds[r][1], &repeated, &err),
                SERVERD_OK);
            for (int k = 0; k < N_TEXTS / 2; k++) {
                bool expected = false;
                uint32_t most = bounds[r][1] == UINT32_MAX ? 8 : bounds[r][1];
                for (uint32_t n = bounds[r][0]; n <= most && !expected; n++)
                    expected = is_repetition(a, texts[k], lengths[k], n);
                if (automaton_accepts(repeated, texts[k], lengths[k]) != expected)
                    fail_msg("%s{%u,%u}: '%s'", patterns[i], bounds[r][0], bounds[r][1], texts[k]);
            }
        }
    }
    end();
}

static void literals_are_exactly_their_texts(void **state)
{
    enum { N = 5000 };
    static char words[N][24];
    static struct text_piece pieces[N];
    const struct automaton *a;
    struct text_piece *found;
    size_t n_found;
    begin();
    for (int i = 0; i < N; i++) {
        (void)snprintf(words[i], sizeof words[i], "%x\xc3\xa9%d", i * 7919, i % 7);
        pieces[i] = (struct text_piece){words[i], strlen(words[i])};
    }
    assert_int_equal(automaton_literals(&budget, pieces, N, &a, &err), SERVERD_OK);
    for (int i = 0; i < N; i++) {
        assert_true(automaton_accepts(a, pieces[i].bytes, pieces[i].n));
        assert_false(automaton_accepts(a, pieces[i].bytes, pieces[i].n - 1));
    }
    assert_int_equal(automaton_count(a, 1000000), N);
    assert_int_equal(automaton_count(a, 10), 10);
    assert_int_equal(automaton_enumerate(&budget, a, N, &found, &n_found, &err), SERVERD_OK);
    assert_int_equal(n_found, N);
    for (size_t i = 0; i + 1 < n_found; i++)
        assert_true(strcmp(found[i].bytes, found[i + 1].bytes) < 0);
    assert_int_equal(automaton_enumerate(&budget, a, N - 1, &found, &n_found, &err),
                     SERVERD_TIMEOUT);
    struct text_piece wrong = {"\xff", 1};
    assert_int_equal(automaton_literals(&budget, &wrong, 1, &a, &err), SERVERD_INVALID);
    assert_int_equal(automaton_literals(&budget, NULL, 0, &a, &err), SERVERD_OK);
    assert_true(automaton_is_empty(a));
    struct text_piece same[] = {{"x", 1}, {"x", 1}, {"", 0}};
    assert_int_equal(automaton_literals(&budget, same, 3, &a, &err), SERVERD_OK);
    assert_int_equal(automaton_count(a, 100), 2);
    end();
}

static void examples_are_shortest(void **state)
{
    static const char *const shortest[][2] = {
        {"^[b-z]{3}a$", "bbba"}, {"^(?:abc|de)$", "de"}, {"^a*$", ""}, {"^\\u{1F600}|xy", "xy"}};
    for (size_t i = 0; i < sizeof shortest / sizeof *shortest; i++) {
        const char *text;
        size_t n;
        begin();
        const struct automaton *a = automaton_of(shortest[i][0]);
        assert_int_equal(automaton_example(&budget, a, &text, &n, &err), SERVERD_OK);
        assert_int_equal(n, a->shortest[a->start] == 1 ? 4 : strlen(shortest[i][1]));
        assert_true(automaton_accepts(a, text, n));
    }
    end();
}

static void counts_are_exact_up_to_the_bound(void **state)
{
    begin();
    assert_int_equal(automaton_count(automaton_of("^[a-j]{3}$"), 5000), 1000);
    assert_int_equal(automaton_count(automaton_of("^[a-j]{3}$"), 10), 10);
    assert_int_equal(automaton_count(automaton_of("^[ab]{0,3}$"), 5000), 15);
    assert_int_equal(automaton_count(automaton_of("^a*$"), 5000), 5000);
    assert_int_equal(automaton_count(automaton_of("^.$"), UINT64_MAX), 0x10f800 - 4);
    assert_int_equal(automaton_count(automaton_of("^[^]{5}$"), UINT64_MAX), UINT64_MAX);
    assert_int_equal(automaton_count(automaton_of("^(?:yes)$"), 2), 1);
    assert_int_equal(automaton_count(automaton_of("[]"), 2), 0);
    end();
}

static void a_used_up_budget_is_an_error(void **state)
{
    const struct automaton *a;
    struct string_set set;
    begin();
    budget.max_states = 50;
    assert_int_equal(regex_compile(&budget, "^(?:ab){100}$", 13, REGEX_SEARCH, &set, &err),
                     SERVERD_TIMEOUT);
    begin();
    budget.max_cells = 100;
    assert_int_equal(regex_compile(&budget, "^(?:ab){100}$", 13, REGEX_SEARCH, &set, &err),
                     SERVERD_TIMEOUT);
    begin();
    budget.deadline_ns = 0;
    static const struct char_range letter = {'a', 'a'};
    const struct charset letters = {.ranges = &letter, .n_ranges = 1};
    assert_int_equal(automaton_repeat_set(&budget, letters, 5000, 6000, &a, &err), SERVERD_TIMEOUT);
    end();
    for (size_t limit = 16; limit < 16384; limit = limit * 3 / 2) { /* memory, wherever it ends */
        end();
        struct arena *arena = arena_create(limit);
        assert_non_null(arena);
        grammar_budget_init(&budget, arena, &system_clock, UINT64_MAX);
        serverd_status status = regex_compile(&budget, "^(?=.*(?:x|yz))(?i:abc|abd){1,3}$", 33,
                                              REGEX_SEARCH, &set, &err);
        assert_true(status == SERVERD_OK || status == SERVERD_TIMEOUT);
    }
    end();
}

/* Lengths: sets with bounds outside of the automaton. */

static void strings_are_counted_by_length(void **state)
{
    static const struct {
        const char *pattern;
        uint32_t min, max;
        uint64_t bound, expected;
    } cases[] = {
        {"^a*$", 3, 3, 10, 1},
        {"^a*$", 3, 5, 10, 3},
        {"^a*$", 0, 100000, 10, 10},
        {"^a*$", 5, UINT32_MAX, 10, 10},
        {"^(?:aa|a{40})$", 1, UINT32_MAX, 10, 2},
        {"^(?:aa|a{40})$", 3, UINT32_MAX, 10, 1},
        {"^(?:aa)*$", 3, 5, 10, 1},
        {"^[ab]*$", 0, 2, 100, 7},
        {"^(?:aa)*$", 0, 41, 100, 21},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct string_set set;
        uint64_t count;
        begin();
        const struct automaton *a = automaton_of(cases[i].pattern);
        assert_int_equal(string_set_make(&budget, a, cases[i].min, cases[i].max, &set, &err),
                         SERVERD_OK);
        assert_int_equal(string_set_count(&budget, &set, cases[i].bound, &count, &err), SERVERD_OK);
        assert_int_equal(count, cases[i].expected);
    }
    end();
}

static bool has_length(const struct string_set *set, const char *text, size_t n, uint32_t min,
                       uint32_t max)
{
    uint32_t length = 0;
    for (size_t i = 0; i < n; i++)
        length += ((uint8_t)text[i] & 0xc0) != 0x80;
    return length >= min && length <= max && automaton_accepts(set->automaton, text, n);
}

static void sets_of_strings_are_closed(void **state)
{
    static const uint32_t bounds[][2] = {{0, UINT32_MAX}, {2, UINT32_MAX}, {0, 3},   {1, 4},
                                         {3, 3},          {4, 2},          {0, 200}, {2, 500}};
    enum { N_BOUNDS = sizeof bounds / sizeof *bounds };
    make_texts();
    for (uint64_t seed = 0; seed < 600; seed++) {
        struct string_set plain[2], sets[2], both, parts[3], rest[3];
        uint32_t which[2];
        size_t n_parts, n_rest;
        random_seed(seed + 100);
        begin();
        for (int i = 0; i < 2; i++) {
            plain[i].automaton = automaton_of(patterns[random_below(N_PATTERNS)]);
            which[i] = random_below(N_BOUNDS);
            assert_int_equal(string_set_make(&budget, plain[i].automaton, bounds[which[i]][0],
                                             bounds[which[i]][1], &sets[i], &err),
                             SERVERD_OK);
        }
        assert_int_equal(string_set_intersect(&budget, &sets[0], &sets[1], &both, &err),
                         SERVERD_OK);
        assert_int_equal(string_set_subtract(&budget, &sets[0], &sets[1], parts, &n_parts, &err),
                         SERVERD_OK);
        assert_int_equal(string_set_complement(&budget, &sets[0], rest, &n_rest, &err), SERVERD_OK);
        struct string_set either;
        bool merged;
        uint64_t count;
        assert_int_equal(string_set_union(&budget, &sets[0], &sets[1], &either, &merged, &err),
                         SERVERD_OK);
        assert_int_equal(string_set_count(&budget, &both, 3, &count, &err), SERVERD_OK);
        assert_int_equal(count == 0, string_set_is_empty(&both));
        bool seen = false;
        for (int k = 0; k < N_TEXTS; k++) {
            bool in[2];
            size_t n_in = 0, n_out = 0;
            for (int i = 0; i < 2; i++) {
                in[i] = has_length(&plain[i], texts[k], lengths[k], bounds[which[i]][0],
                                   bounds[which[i]][1]);
                assert_int_equal(string_set_has(&sets[i], texts[k], lengths[k]), in[i]);
            }
            assert_int_equal(string_set_has(&both, texts[k], lengths[k]), in[0] && in[1]);
            seen |= in[0] && in[1];
            for (size_t i = 0; i < n_parts; i++)
                n_in += string_set_has(&parts[i], texts[k], lengths[k]);
            for (size_t i = 0; i < n_rest; i++)
                n_out += string_set_has(&rest[i], texts[k], lengths[k]);
            assert_int_equal(n_in, in[0] && !in[1]);
            assert_int_equal(n_out, !in[0]);
            if (merged)
                assert_int_equal(string_set_has(&either, texts[k], lengths[k]), in[0] || in[1]);
        }
        assert_false(seen && count == 0);
    }
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boolean_operations_are_what_their_operands_say),
        cmocka_unit_test(concatenation_and_repetition_cut_the_text),
        cmocka_unit_test(literals_are_exactly_their_texts),
        cmocka_unit_test(examples_are_shortest),
        cmocka_unit_test(counts_are_exact_up_to_the_bound),
        cmocka_unit_test(a_used_up_budget_is_an_error),
        cmocka_unit_test(strings_are_counted_by_length),
        cmocka_unit_test(sets_of_strings_are_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
