/* Matchers and masks: steps and their undoing, clones, forced bytes, masks against single tokens.
 */
#include "base/hash.h"
#include "base/limits.h"
#include "grammar/grammar_fixture.h"
#include "grammar/token_mask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char schema[] = "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": "
                             "\"string\", \"maxLength\": 5}, \"kind\": "
                             "{\"enum\": [\"long\", \"longer\", \"a\\\"b\"]}, \"n\": {\"type\": "
                             "\"number\"}, \"list\": {\"type\": "
                             "\"array\", \"items\": {\"anyOf\": [{\"type\": \"integer\"}, "
                             "{\"type\": \"object\", \"properties\": {\"k\": "
                             "{\"const\": 1}}, \"required\": [\"k\"]}, {\"type\": \"object\", "
                             "\"properties\": {\"k\": {\"const\": 2}}}]}}}, "
                             "\"patternProperties\": {\"^x[ab]$\": {\"type\": \"null\"}}, "
                             "\"required\": [\"name\", \"kind\"]}";

static struct matcher *started(struct grammar *grammar, const char *text)
{
    struct matcher *matcher = matcher_create(grammar);
    assert_non_null(matcher);
    assert_true(matcher_accept(matcher, text, strlen(text)));
    return matcher;
}

static bool accepts(struct matcher *matcher, const char *text)
{
    return matcher_accept(matcher, text, strlen(text));
}

static void steps_are_taken_back(void **state)
{
    struct grammar *grammar = compiled(GRAMMAR_JSON_SCHEMA, schema, false);
    struct matcher *matcher = started(grammar, "{\"name\": \"");
    assert_true(accepts(matcher, "abc"));
    assert_false(accepts(matcher, "def\"")); /* six characters: nothing is taken */
    assert_true(accepts(matcher, "de\""));
    assert_false(accepts(matcher, "}"));
    assert_true(matcher_rollback(matcher, 2));
    assert_true(accepts(matcher, "x\", \"kind\": \"long\"}"));
    assert_true(matcher_is_complete(matcher));
    assert_false(matcher_rollback(matcher, 3));
    assert_true(matcher_rollback(matcher, 2));
    assert_false(matcher_rollback(matcher, 1));
    assert_true(accepts(matcher, "{"));
    matcher_destroy(matcher);
    grammar_unref(grammar);
}

static void the_last_steps_can_be_taken_back(void **state)
{
    struct grammar *grammar = compiled(GRAMMAR_REGEX, "a*b", false);
    struct matcher *matcher = started(grammar, "");
    for (unsigned i = 0; i < 3 * LIMIT_GRAMMAR_ROLLBACK; i++) {
        assert_true(accepts(matcher, "a"));
        assert_true(matcher_allows(matcher, "b", 1));
    }
    assert_true(accepts(matcher, "b"));
    assert_true(matcher_rollback(matcher, LIMIT_GRAMMAR_ROLLBACK));
    assert_true(accepts(matcher, "ab"));
    matcher_destroy(matcher);
    grammar_unref(grammar);
}

static void looking_changes_nothing(void **state)
{
    struct grammar *grammar = compiled(GRAMMAR_JSON_SCHEMA, schema, false);
    struct matcher *matcher = started(grammar, "{\"name\": \"ab\"");
    for (int i = 0; i < 1000; i++) {
        assert_true(matcher_allows(matcher, ", \"kind\": \"longer\"}", 19));
        assert_false(matcher_allows(matcher, "}", 1));
    }
    assert_true(accepts(matcher, ", \"kind\": \"longer\"}"));
    matcher_destroy(matcher);
    grammar_unref(grammar);
}

static void clones_go_their_own_way(void **state)
{
    struct grammar *grammar = compiled(GRAMMAR_JSON_SCHEMA, schema, false);
    struct matcher *one = started(grammar, "{\"name\": \"ab");
    struct matcher *two = matcher_clone(one);
    assert_non_null(two);
    assert_true(accepts(one, "\", \"kind\": \"long\", \"xa\": null"));
    assert_true(accepts(two, "c\", \"kind\": \"longer\"}"));
    assert_true(matcher_is_complete(two));
    matcher_destroy(two);
    assert_false(matcher_allows(one, ", \"xa\"", 6)); /* used */
    assert_true(accepts(one, ", \"xb\": null}"));
    matcher_destroy(one);
    grammar_unref(grammar);
}

static void forced_bytes_are_those_without_a_choice(void **state)
{
    static const struct {
        const char *text, *forced;
    } rows[] = {{"", "{\"name\": \""},
                {"{\"name\": \"abcde", "\", \"kind\": \""},
                {"{\"name\": \"a\"", ", \"kind\": \""},
                {"{\"name\": \"a\", \"kind\": \"a", "\\\"b\""},
                {"{\"name\": \"a\", \"kind\": \"l", "ong"},
                {"{\"name\": \"a\", \"kind\": \"long\"", ""},
                {"{\"name\": \"a\", \"kind\": \"long\"}", ""}};
    struct grammar *grammar = compiled(GRAMMAR_JSON_SCHEMA, schema, false);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct matcher *matcher = started(grammar, rows[i].text);
        struct buffer forced;
        buffer_init(&forced, 4096);
        (void)matcher_forced(matcher, 1000, &forced);
        assert_string_equal(buffer_str(&forced), rows[i].forced);
        buffer_deinit(&forced);
        matcher_destroy(matcher);
    }
    grammar_unref(grammar);
}

/* Memory follows what is open, not what was read. */
static void long_texts_do_not_pile_up(void **state)
{
    struct grammar *grammar = compiled(
        GRAMMAR_JSON_SCHEMA, "{\"type\": \"array\", \"items\": {\"type\": \"object\"}}", false);
    struct matcher *matcher = started(grammar, "[");
    for (int i = 0; i < 20000; i++) {
        char text[64];
        (void)snprintf(text, sizeof text, "%s{\"a%d\": [1, {\"b\": \"c\"}]}", i ? ", " : "", i);
        assert_true(accepts(matcher, text));
    }
    assert_true(accepts(matcher, "]"));
    assert_false(matcher_has_failed(matcher));
    matcher_destroy(matcher);
    grammar_unref(grammar);
}

/* ---- masks ----------------------------------------------------------------------------------- */

#define N_TOKENS 600

/* Bytes, pieces of JSON, and random strings of both. */
static struct token_trie *small_vocabulary(char (*bytes)[32])
{
    static const char *const pieces[] = {
        "{\"",        "\"",   "\": ", "\": \"",   "\", \"", "\"}",  "}",       ", ",
        "name",       "kind", "long", "longer",   "er\"",   "li",   "st\": [", "[1",
        "], ",        "1",    "12",   ".5",       "-",      "null", "true",    "xa",
        "xb\": null", "\\\"", "\\n",  "\xc3\xa9", "\xc3",   "\xa9", "abc",     "abcd\"",
        "{\"k\": ",   "<f=",  "get>", "</f>",     "hello",  "\n",   "\\u00"};
    struct text_of_token texts[N_TOKENS];
    const uint32_t n_pieces = sizeof pieces / sizeof *pieces;
    const int32_t ends[] = {0, 2};
    serverd_error err;
    struct token_trie *trie;
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        uint64_t random = hash_mix(i);
        if (i < 3)
            bytes[i][0] = '\0'; /* control tokens */
        else if (i < 259)
            bytes[i][0] = (char)(i - 3), bytes[i][1] = '\0';
        else if (i < 259 + n_pieces)
            (void)snprintf(bytes[i], 32, "%s", pieces[i - 259]);
        else
            (void)snprintf(bytes[i], 32, "%s%s", pieces[random % n_pieces],
                           pieces[(random >> 20) % n_pieces]);
        texts[i] = (struct text_of_token){bytes[i], i == 3 ? 1 : (uint32_t)strlen(bytes[i])};
    }
    assert_int_equal(token_trie_create(texts, N_TOKENS, ends, 2, &trie, &err), SERVERD_OK);
    return trie;
}

static bool is_in(const uint64_t *mask, uint32_t id)
{
    return mask[id / 64] >> (id % 64) & 1;
}

/* A byte is forced if and only if it is the only one that is legal. */
static void check_forced(struct matcher *matcher)
{
    struct buffer forced;
    int n_legal = 0, legal = 0;
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        if (matcher_allows(matcher, &c, 1)) {
            n_legal++;
            legal = byte;
        }
    }
    bool is_forced = n_legal == 1 && !matcher_may_end(matcher);
    buffer_init(&forced, 16);
    const bool ends = matcher_forced(matcher, 1, &forced);
    assert_int_equal(forced.len, is_forced);
    assert_true(!is_forced || (uint8_t)forced.data[0] == legal);
    assert_true(matcher_accept(matcher, buffer_str(&forced), forced.len));
    assert_int_equal(ends, matcher_is_complete(matcher));
    assert_true(matcher_rollback(matcher, 1));
    buffer_deinit(&forced);
}

/* Random walks over legal tokens: at each step the mask says what single tokens say; no dead end.
 */
static void walk(struct grammar *grammar, const struct token_trie *trie, struct mask_cache *cache,
                 uint64_t seed)
{
    struct matcher *matcher = matcher_create(grammar);
    uint64_t mask[(N_TOKENS + 63) / 64];
    bool has_ended = false;
    for (uint32_t step = 0; step < 60 && !has_ended; step++) {
        uint32_t legal[N_TOKENS], n_legal = 0;
        matcher_mask(matcher, cache, mask);
        for (uint32_t id = 0; id < N_TOKENS; id++) {
            if (is_in(mask, id) != matcher_allows_token(matcher, trie, id))
                fail_msg("seed %llu, step %u: token %u", (unsigned long long)seed, step, id);
            if (is_in(mask, id))
                legal[n_legal++] = id;
        }
        assert_true(n_legal > 0);
        check_forced(matcher);
        uint32_t id = legal[hash_mix(seed * 1000 + step) % n_legal];
        assert_true(matcher_accept_token(matcher, trie, id));
        has_ended = id == 0 || id == 2;
    }
    matcher_destroy(matcher);
}

static void masks_say_what_single_tokens_say(void **state)
{
    static const struct {
        enum grammar_form form;
        const char *text;
    } rows[] = {
        {GRAMMAR_JSON_SCHEMA, schema},
        {GRAMMAR_JSON_OBJECT, ""},
        {GRAMMAR_JSON_SCHEMA, "{\"type\": \"array\", \"items\": {\"type\": \"string\", "
                              "\"pattern\": \"^[a-z]*1?$\"}, \"maxItems\": 3}"},
        {GRAMMAR_JSON_SCHEMA,
         "{\"type\": \"array\", \"uniqueItems\": true, \"items\": {\"type\": \"string\"}}"},
        {GRAMMAR_JSON_SCHEMA, "{\"type\": \"array\", \"uniqueItems\": true, \"minItems\": 3, "
                              "\"items\": {\"anyOf\": [{\"enum\": "
                              "[\"long\", \"longer\", true]}, {\"type\": \"integer\", \"minimum\": "
                              "9, \"maximum\": 12}]}}"},
        {GRAMMAR_REGEX, "[a-z{\"]+(, [0-9]+)*"},
        {GRAMMAR_CHOICE, "[\"long\", \"longer\", \"long hello\"]"},
        {GRAMMAR_GBNF, "root ::= \"{\" inner* \"}\"\ninner ::= [a-z\"]+ | root | \"[1], \""},
        {GRAMMAR_TAGS, "{\"structures\": [{\"begin\": \"<f=get>\", \"schema\": {\"type\": "
                       "\"array\"}, \"end\": \"</f>\"}], "
                       "\"triggers\": [\"<f=\"]}"},
        {GRAMMAR_TAGS,
         "{\"format\": {\"type\": \"interleaved\", \"triggers\": [\"<f=\"], \"parts\": "
         "[{\"begin\": "
         "\"<f=\", \"content\": {\"type\": \"members\", \"separator\": \", \", \"members\": "
         "[{\"content\": {\"type\": \"const_string\", \"value\": \"long\"}}, {\"content\": "
         "{\"type\": "
         "\"repeat\", \"separator\": \"1\", \"min\": 1, \"max\": 3, \"content\": {\"type\": "
         "\"json_schema\", \"json_schema\": {\"type\": \"boolean\"}}}, \"is_required\": true}, "
         "{\"content\": {\"type\": \"string\", \"stop\": \"\\\"\", \"schema\": {\"type\": "
         "\"string\", "
         "\"maxLength\": 9}}}]}}, {\"begin\": \"hello\", \"content\": {\"type\": \"const_string\", "
         "\"value\": \"1\"}, \"is_last\": true}]}}"},
    };
    static char bytes[N_TOKENS][32];
    struct token_trie *trie = small_vocabulary(bytes);
    struct mask_cache *cache = mask_cache_create(trie, 1 << 16);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct grammar *grammar = compiled(rows[i].form, rows[i].text, false);
        for (uint64_t seed = 0; seed < 12; seed++)
            walk(grammar, trie, cache, seed);
        grammar_unref(grammar);
    }
    struct grammar *grammar =
        compiled(GRAMMAR_JSON_SCHEMA, schema, true); /* checking has masks too */
    walk(grammar, trie, cache, 1);
    grammar_unref(grammar);
    mask_cache_destroy(cache);
    token_trie_destroy(trie);
}

static void end_tokens_are_legal_where_the_text_may_end(void **state)
{
    static char bytes[N_TOKENS][32];
    struct token_trie *trie = small_vocabulary(bytes);
    struct mask_cache *cache = mask_cache_create(trie, 1 << 20);
    uint64_t mask[(N_TOKENS + 63) / 64];
    struct grammar *grammar = compiled(GRAMMAR_CHOICE, "[\"a\", \"ab\"]", false);
    struct matcher *matcher = matcher_create(grammar);
    matcher_mask(matcher, cache, mask);
    assert_false(is_in(mask, 0) || is_in(mask, 1));
    assert_true(accepts(matcher, "a"));
    matcher_mask(matcher, cache, mask);
    assert_true(is_in(mask, 0) && is_in(mask, 2) && !is_in(mask, 1) && is_in(mask, 3 + 'b'));
    assert_false(matcher_is_complete(matcher));
    assert_true(accepts(matcher, "b"));
    assert_true(matcher_is_complete(matcher));
    assert_true(matcher_accept_token(matcher, trie, 2));
    assert_false(matcher_accept_token(matcher, trie, N_TOKENS));
    matcher_destroy(matcher);
    grammar_unref(grammar);
    mask_cache_destroy(cache);
    token_trie_destroy(trie);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_taken_back),
        cmocka_unit_test(the_last_steps_can_be_taken_back),
        cmocka_unit_test(looking_changes_nothing),
        cmocka_unit_test(clones_go_their_own_way),
        cmocka_unit_test(forced_bytes_are_those_without_a_choice),
        cmocka_unit_test(long_texts_do_not_pile_up),
        cmocka_unit_test(masks_say_what_single_tokens_say),
        cmocka_unit_test(end_tokens_are_legal_where_the_text_may_end),
    };
    return cmocka_run_group_tests_name("matcher", tests, NULL, NULL);
}
