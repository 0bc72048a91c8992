/* An excerpt of the JSON-Schema-Test-Suite: every schema compiles, and no verdict is wrong. What is
 * produced of a schema is valid by the same schema, checked. */
#include "base/hash.h"
#include "grammar/grammar_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

static const char *path;

static char *text_of(const json_t *value)
{
    /* 15 digits: 0.1 stays 0.1 */
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
    assert_non_null(text);
    return text;
}

static void check_group(const char *file, const json_t *group)
{
    char *schema = text_of(json_object_get(group, "schema"));
    struct grammar *grammar = compiled(GRAMMAR_JSON_SCHEMA, schema, true);
    size_t i;
    const json_t *test;
    json_array_foreach(json_object_get(group, "tests"), i, test)
    {
        char *data = text_of(json_object_get(test, "data"));
        bool is_whole;
        (void)matched(grammar, data, &is_whole);
        if (is_whole != json_is_true(json_object_get(test, "valid")))
            fail_msg("%s: %s: %s: %s", file,
                     json_string_value(json_object_get(group, "description")),
                     json_string_value(json_object_get(test, "description")), data);
        free(data);
    }
    grammar_unref(grammar);
    free(schema);
}

static json_t *read_suite(void)
{
    json_error_t error;
    json_t *suite = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!suite)
        fail_msg("%s: %s", path, error.text);
    return suite;
}

static void no_verdict_is_wrong(void **state)
{
    json_t *suite = read_suite(), *groups;
    const char *file;
    json_object_foreach(suite, file, groups)
    {
        size_t i;
        const json_t *group;
        json_array_foreach(groups, i, group) check_group(file, group);
    }
    json_decref(suite);
}

/* Random bytes among the legal ones, ends first when it gets long; NULL: no end was found. */
static char *random_text(struct grammar *grammar, uint64_t seed)
{
    struct matcher *matcher = matcher_create(grammar);
    struct buffer text;
    buffer_init(&text, 4096);
    bool has_end = false;
    for (size_t n = 0; n < 2000 && !has_end; n++) {
        char legal[256];
        size_t n_legal = 0, n_ends = 0;
        for (int pass = 0; pass < 2; pass++) /* ends first */
            for (int byte = 0; byte < 256; byte++) {
                char c = (char)byte;
                bool is_end = c == '"' || c == '}' || c == ']';
                if (is_end == (pass == 0) && matcher_allows(matcher, &c, 1))
                    legal[n_legal++] = c;
                n_ends = pass == 0 ? n_legal : n_ends;
            }
        if (n_legal == 0 && !matcher_may_end(matcher))
            fail_msg("seed %llu: dead end behind %s", (unsigned long long)seed, buffer_str(&text));
        has_end = n_legal == 0 || (matcher_may_end(matcher) && n > 20);
        if (has_end)
            break;
        size_t choices = n_ends > 0 && (n > 60 || hash_mix(seed + n) % 4 == 0) ? n_ends : n_legal;
        char c = legal[hash_mix(seed * 7919 + n) % choices];
        assert_true(matcher_accept(matcher, &c, 1));
        buffer_append_char(&text, c);
    }
    matcher_destroy(matcher);
    char *out = has_end ? strdup(buffer_str(&text)) : NULL;
    buffer_deinit(&text);
    return out;
}

static void what_is_produced_is_valid(void **state)
{
    json_t *suite = read_suite(), *groups;
    const char *file, *code;
    serverd_error err;
    uint32_t n_texts = 0;
    json_object_foreach(suite, file, groups)
    {
        size_t i;
        const json_t *group;
        json_array_foreach(groups, i, group)
        {
            char *schema = text_of(json_object_get(group, "schema"));
            const struct grammar_options options = {.max_ns = UINT64_C(20000000000)};
            struct grammar *producer = NULL, *checker = compiled(GRAMMAR_JSON_SCHEMA, schema, true);
            bool is_there = grammar_compile(GRAMMAR_JSON_SCHEMA, schema, strlen(schema), &options,
                                            &producer, &code, &err) == SERVERD_OK;
            for (uint64_t seed = 0; is_there && seed < 3; seed++) {
                char *text = random_text(producer, seed);
                if (text)
                    assert_accepts(checker, text);
                n_texts += text != NULL;
                free(text);
            }
            if (is_there)
                grammar_unref(producer);
            grammar_unref(checker);
            free(schema);
        }
    }
    assert_true(n_texts > 100);
    json_decref(suite);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_verdict_is_wrong),
        cmocka_unit_test(what_is_produced_is_valid),
    };
    static char name[4096];
    (void)snprintf(name, sizeof name, "%s/json_schema/draft2020-12_excerpt.json", argv[1]);
    path = name;
    return argc == 2 ? cmocka_run_group_tests_name("suite", tests, NULL, NULL) : 1;
}
