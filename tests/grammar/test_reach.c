/* How far texts go on whatever comes, against trying. */
#include "base/hash.h"
#include "grammar/grammar_fixture.h"
#include "grammar/grammar_internal.h"
#include "grammar/text_reach.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char *const characters[] = {"a",
                                         "Z",
                                         "0",
                                         " ",
                                         "/",
                                         "\x7f",
                                         "\xc2\x80",
                                         "\xdf\xbf",
                                         "\xe0\xa0\x80",
                                         "\xed\x9f\xbf",
                                         "\xef\xbf\xbf",
                                         "\xf0\x90\x80\x80",
                                         "\xf4\x8f\xbf\xbf"};
#define N_CHARACTERS (sizeof characters / sizeof *characters)

static bool step(const struct dfa *dfa, struct dfa_run *run, const char *text)
{
    for (; *text; text++)
        if (!dfa_step(dfa, run, (uint8_t)*text))
            return false;
    return true;
}

/* From one run: so many random ordinary characters pass; one more never does where it is exact. */
static void check_run(const struct machine_text *text, struct dfa_run run, uint64_t seed)
{
    uint8_t reach = text_reach_of(text->dfa, text->reach, run);
    uint32_t count = reach & REACH_COUNT;
    for (uint64_t k = 0; k < 20; k++) {
        struct dfa_run at = run;
        for (uint32_t i = 0; i < count; i++)
            if (!step(text->dfa, &at, characters[hash_mix(seed * 997 + k * 31 + i) % N_CHARACTERS]))
                fail_msg("reach %u, ends behind %u", count, i);
        for (size_t c = 0; (reach & REACH_EXACT) && c < N_CHARACTERS; c++) {
            struct dfa_run beyond = at;
            assert_false(step(text->dfa, &beyond, characters[c]));
        }
    }
}

static void reach_is_what_may_come(void **state)
{
    static const char *const schemas[] = {
        "{\"type\": \"string\"}",
        "{\"type\": \"string\", \"maxLength\": 5}",
        "{\"type\": \"string\", \"minLength\": 4, \"maxLength\": 9}",
        "{\"type\": \"string\", \"maxLength\": 2000}",
        "{\"type\": \"string\", \"minLength\": 1000, \"maxLength\": 2000}",
        "{\"type\": \"string\", \"pattern\": \"^x.{2,8}$\"}",
        "{\"type\": \"string\", \"pattern\": \"^[^/]*/.*$\"}",
        "{\"type\": \"string\", \"pattern\": \"^.*z$\", \"maxLength\": 3000}",
        "{\"type\": \"string\", \"pattern\": \"^(..)*$\", \"maxLength\": 30}",
        "{\"type\": \"string\", \"format\": \"date\"}",
    };
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        struct grammar *grammar = compiled(GRAMMAR_JSON_SCHEMA, schemas[i], false);
        for (uint32_t t = 0; t < grammar->machine.n_texts; t++) {
            const struct machine_text *text = &grammar->machine.texts[t];
            assert_non_null(text->reach);
            for (uint64_t seed = 0; seed < 40; seed++) { /* random walks, of any legal bytes */
                struct dfa_run run = dfa_begin(text->dfa);
                for (uint32_t n = 0; n < 50; n++) {
                    check_run(text, run, seed + n);
                    uint64_t random = hash_mix(seed * 1009 + n);
                    bool is_done = false;
                    for (unsigned byte = 0; byte < 256 && !is_done; byte++)
                        is_done = dfa_step(text->dfa, &run, (uint8_t)(random + byte * 37));
                    if (!is_done)
                        break;
                }
            }
        }
        grammar_unref(grammar);
    }
}

static void ordinary_characters_are_counted(void **state)
{
    static const struct {
        const char *text;
        uint32_t count;
    } rows[] = {{"", 0},
                {"abc", 3},
                {"\xc3\xa9\xf0\x9f\x98\x80", 2},
                {"a\"", UINT32_MAX},
                {"\\", UINT32_MAX},
                {"\n", UINT32_MAX},
                {"\xc3", UINT32_MAX},
                {"\xa9", UINT32_MAX},
                {"\xed\xa0\x80", UINT32_MAX}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(ordinary_characters(rows[i].text, strlen(rows[i].text)), rows[i].count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reach_is_what_may_come),
        cmocka_unit_test(ordinary_characters_are_counted),
    };
    return cmocka_run_group_tests_name("reach", tests, NULL, NULL);
}
