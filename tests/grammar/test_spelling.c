/* Bytes: JSON spellings, counted lengths, and that whatever is alive can be completed. */
#include "grammar/json_text.h"
#include "regular_fixture.h"

#include <stdio.h>

static const char *const patterns[] = {"",
                                       "^[^a]*$",
                                       "^(?:\\u00e9|\\u20ac|\\u{1F600}b)*$",
                                       "^[\\x00-\\x1f\"\\\\]+$",
                                       "^\\p{L}+$",
                                       "\\n",
                                       "^[\\u0800-\\uffff]+a?$",
                                       "^(?:a\\u00e9{3}|\\u00e8)*$",
                                       "^[a-f]{2}(?:[0-9]{2})*$",
                                       "^[^\\u{10000}-\\u{1FFFF}]*$",
                                       "^.*\\u{10FFFF}$",
                                       "^[\\ud7ff\\ue000]$",
                                       "^(?:[\\u00e9a]|\\u00e8.{5})$"};

static const uint32_t bounds[][2] = {{0, UINT32_MAX}, {3, UINT32_MAX}, {0, 4},    {2, 5},
                                     {0, 400},        {5, 1000},       {100, 100}};

enum { N_PATTERNS = sizeof patterns / sizeof *patterns, N_BOUNDS = sizeof bounds / sizeof *bounds };

static struct string_set make_set(int pattern, int bound)
{
    struct string_set plain = compile(patterns[pattern], REGEX_SEARCH), out;
    assert_int_equal(
        string_set_make(&budget, plain.automaton, bounds[bound][0], bounds[bound][1], &out, &err),
        SERVERD_OK);
    return out;
}

/* Bytes from each state to the nearest one that accepts. */
static uint32_t *distances(const struct dfa *dfa)
{
    uint32_t *distance = arena_array(budget.arena, dfa->n_states, sizeof *distance);
    assert_non_null(distance);
    for (uint32_t s = 0; s < dfa->n_states; s++)
        distance[s] = dfa->flags[s] & DFA_ACCEPTS ? 0 : UINT32_MAX - 1;
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t s = 1; s < dfa->n_states; s++) {
            for (uint32_t byte = 0; byte < 256; byte++) {
                uint32_t to = dfa_next(dfa, s, (uint8_t)byte);
                if (to != DFA_DEAD && distance[to] + 1 < distance[s]) {
                    distance[s] = distance[to] + 1;
                    changed = true;
                }
            }
        }
    }
    return distance;
}

/* A text that the DFA lets pass byte by byte, chosen at random among all bytes that are alive; it
 * may end wherever it is accepted, and must be able to end: behind max bytes it takes the shortest
 * way. */
static size_t random_walk(const struct dfa *dfa, const uint32_t *distance, char *out, size_t max)
{
    struct dfa_run run = dfa_begin(dfa);
    size_t n = 0;
    for (;;) {
        uint8_t alive[256];
        uint32_t n_alive = 0;
        for (uint32_t byte = 0; byte < 256; byte++) {
            struct dfa_run next = run;
            if (dfa_step(dfa, &next, (uint8_t)byte))
                alive[n_alive++] = (uint8_t)byte;
        }
        bool may_end = dfa_is_accepting(dfa, run);
        assert_int_equal(dfa_is_final(dfa, run), may_end && n_alive == 0);
        assert_int_equal(dfa_forced_byte(dfa, run), !may_end && n_alive == 1 ? alive[0] : -1);
        if (may_end && (n_alive == 0 || n > max || random_below(30) == 0))
            return n;
        if (n_alive == 0)
            fail_msg("a dead end behind '%.*s'", (int)n, out);
        assert_true(n < max + 8000);
        uint8_t chosen = alive[random_below(n_alive)];
        for (uint32_t i = 0; i < n_alive && n > max && run.count >= dfa->min; i++)
            if (distance[dfa_next(dfa, run.state, alive[i])] <
                distance[dfa_next(dfa, run.state, chosen)])
                chosen = alive[i];
        out[n] = (char)chosen;
        assert_true(dfa_step(dfa, &run, (uint8_t)out[n]));
        n++;
    }
}

/* Decodes a spelling by the reader; false if it is none. */
static bool decode(const char *spelling, size_t n, char *out, size_t *n_out)
{
    struct json_reader reader = {0};
    *n_out = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t c;
        enum json_reader_result result = json_reader_step(&reader, (uint8_t)spelling[i], &c);
        if (result == JSON_READER_REFUSED || result == JSON_READER_QUOTE)
            return false;
        if (result == JSON_READER_MORE)
            continue;
        if (c < 0x80) {
            out[(*n_out)++] = (char)c;
        } else if (c < 0x800) {
            out[(*n_out)++] = (char)(0xc0 | c >> 6);
            out[(*n_out)++] = (char)(0x80 | (c & 0x3f));
        } else {
            if (c < 0x10000) {
                out[(*n_out)++] = (char)(0xe0 | c >> 12);
            } else {
                out[(*n_out)++] = (char)(0xf0 | c >> 18);
                out[(*n_out)++] = (char)(0x80 | (c >> 12 & 0x3f));
            }
            out[(*n_out)++] = (char)(0x80 | (c >> 6 & 0x3f));
            out[(*n_out)++] = (char)(0x80 | (c & 0x3f));
        }
    }
    return reader.phase == 0;
}

static void what_is_produced_is_canonical_and_of_the_set(void **state)
{
    static char spelling[20000], text[20000], again[40000];
    for (int i = 0; i < N_PATTERNS; i++) {
        for (int j = 0; j < N_BOUNDS; j++) {
            begin();
            struct string_set set = make_set(i, j);
            const struct dfa *json = spelled(&set, SPELLING_JSON);
            const struct dfa *plain = spelled(&set, SPELLING_PLAIN);
            assert_int_equal(string_set_is_empty(&set), json->start == DFA_DEAD);
            random_seed((uint64_t)(i * 100 + j));
            const uint32_t *json_distance = distances(json), *plain_distance = distances(plain);
            for (int k = 0; k < 20 && json->start != DFA_DEAD; k++) {
                size_t n_text, n = random_walk(json, json_distance, spelling, random_below(100));
                assert_true(decode(spelling, n, text, &n_text));
                if (!string_set_has(&set, text, n_text))
                    fail_msg("%s {%u,%u}: %.*s", patterns[i], bounds[j][0], bounds[j][1], (int)n,
                             spelling);
                assert_int_equal(json_spelling(text, n_text, again), n);
                assert_memory_equal(again, spelling, n);
                assert_true(dfa_accepts(plain, text, n_text));
                n = random_walk(plain, plain_distance, text, random_below(100));
                assert_true(string_set_has(&set, text, n));
            }
        }
    }
    end();
}

/* What the reader's set and the DFAs say of random texts; the reader in any spelling. */
static void random_texts_are_judged_alike(void **state)
{
    static char text[512], spelling[4096];
    for (int i = 0; i < N_PATTERNS; i++) {
        for (int j = 0; j < N_BOUNDS; j++) {
            begin();
            struct string_set set = make_set(i, j);
            const struct dfa *json = spelled(&set, SPELLING_JSON);
            const struct dfa *plain = spelled(&set, SPELLING_PLAIN);
            random_seed((uint64_t)(i * 100 + j));
            for (int k = 0; k < 200; k++) {
                size_t n = random_text(text, (uint32_t)k / 20);
                bool expected = string_set_has(&set, text, n);
                assert_int_equal(dfa_accepts(plain, text, n), expected);
                size_t n_spelling = json_spelling(text, n, spelling);
                assert_int_equal(dfa_accepts(json, spelling, n_spelling), expected);
                n_spelling = any_spelling(text, n, spelling);
                spelling[n_spelling++] = '"';
                struct string_run run = string_run_begin(&set);
                enum json_reader_result result = JSON_READER_MORE;
                for (size_t at = 0; at < n_spelling && result != JSON_READER_REFUSED; at++)
                    result = string_run_step(&set, &run, (uint8_t)spelling[at]);
                if ((result == JSON_READER_QUOTE) != expected)
                    fail_msg("%s {%u,%u}: %s", patterns[i], bounds[j][0], bounds[j][1], spelling);
            }
        }
    }
    end();
}

/* All texts of up to 3 bytes: nothing but well-formed UTF-8 is spelled, and all of it. */
static void every_short_text_is_spelled_iff_it_is_well_formed(void **state)
{
    begin();
    struct string_set set = compile("", REGEX_SEARCH);
    const struct dfa *plain = spelled(&set, SPELLING_PLAIN);
    for (uint32_t word = 0; word < 1u << 24; word++) {
        char text[3] = {(char)(word >> 16), (char)(word >> 8), (char)word};
        for (size_t n = word < 256 ? 1 : word < 65536 ? 2 : 3; n <= 3; n++) {
            const char *start = text + 3 - n;
            if (dfa_accepts(plain, start, n) != automaton_accepts(set.automaton, start, n))
                fail_msg("%06x, %zu bytes", word, n);
            if (word >= 256)
                break;
        }
    }
    assert_true(dfa_accepts(plain, "\xf4\x8f\xbf\xbf", 4));
    assert_false(dfa_accepts(plain, "\xf4\x90\x80\x80", 4));
    assert_false(dfa_accepts(plain, "\xf0\x8f\xbf\xbf", 4));
    assert_true(dfa_accepts(plain, "\xf0\x90\x80\x80", 4));
    end();
}

struct reader_case {
    const char *spelling;
    bool is_valid;
};

static void the_reader_knows_every_spelling(void **state)
{
    static const struct reader_case cases[] = {
        {"a\\n\\/\\u0041", true},
        {"\\ud83d\\ude00", true},
        {"\\uD83D\\uDe00", true},
        {"\\ud83d", false},
        {"\\ude00", false},
        {"\\ud83d\\u0041", false},
        {"\\ud83dx", false},
        {"\\x41", false},
        {"\\u00g0", false},
        {"\n", false},
        {"\x7f", true},
        {"\xc3\xa9", true},
        {"\xc0\x80", false},
        {"\xe0\x80\x80", false},
        {"\xed\xa0\x80", false},
        {"\xf5\x80\x80\x80", false},
        {"\xf0\x80\x80\x80", false},
        {"\xc3", false},
        {"\xc3\xc3", false},
        {"\x80", false},
        {"\\", false},
        {"\\u0000", true},
        {"\xf4\x8f\xbf\xbf", true},
        {"\xf4\x90\x80\x80", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[64];
        size_t n;
        if (decode(cases[i].spelling, strlen(cases[i].spelling), text, &n) != cases[i].is_valid)
            fail_msg("%s", cases[i].spelling);
    }
}

static void long_lengths_cost_no_states(void **state)
{
    struct string_set any, set;
    static char text[100001];
    begin();
    any = compile("", REGEX_SEARCH);
    assert_int_equal(string_set_make(&budget, any.automaton, 10, 100000, &set, &err), SERVERD_OK);
    const struct dfa *dfa = spelled(&set, SPELLING_JSON);
    assert_true(dfa->n_states < 20);
    memset(text, 'x', sizeof text);
    assert_true(dfa_accepts(dfa, text, 100000));
    assert_false(dfa_accepts(dfa, text, 100001));
    assert_true(dfa_accepts(dfa, text, 10));
    assert_false(dfa_accepts(dfa, text, 9));
    /* Lengths with gaps between two bounds are multiplied in. */
    any = compile("^(?:ab)*$", REGEX_SEARCH);
    assert_int_equal(string_set_make(&budget, any.automaton, 3, 1001, &set, &err), SERVERD_OK);
    assert_int_equal(set.max, UINT32_MAX);
    dfa = spelled(&set, SPELLING_JSON);
    for (size_t i = 0; i < 1002; i++)
        text[i] = "ab"[i % 2];
    assert_true(dfa_accepts(dfa, text, 1000));
    assert_false(dfa_accepts(dfa, text, 1002));
    assert_false(dfa_accepts(dfa, text, 2));
    /* Nothing between the bounds: empty, not a dead end. */
    assert_int_equal(string_set_make(&budget, any.automaton, 3, 3, &set, &err), SERVERD_OK);
    assert_true(string_set_is_empty(&set));
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_produced_is_canonical_and_of_the_set),
        cmocka_unit_test(random_texts_are_judged_alike),
        cmocka_unit_test(every_short_text_is_spelled_iff_it_is_well_formed),
        cmocka_unit_test(the_reader_knows_every_spelling),
        cmocka_unit_test(long_lengths_cost_no_states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
