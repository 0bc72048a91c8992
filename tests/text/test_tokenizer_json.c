/* tokenizer.json of every kind against the ids of the tokenizers package. Argument: the data folder
 * (tests/tools/make_tokenizer_golden.py makes it). */
#include "base/limits.h"
#include "compiler/hf_tokenizer.h"
#include "text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *data;
static serverd_error err;

static struct program *import(const char *folder)
{
    const struct json_place config = {.file = "config.json", .where = ""};
    struct program *program = program_create(256 * MIB);
    assert_non_null(program);
    if (hf_tokenizer_import(folder, &config, program, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    assert_int_equal(program_check(program, &err), SERVERD_OK);
    return program;
}

static bool is_equal(const struct token_list *got, const json_t *ids)
{
    bool is_same = got->n == json_array_size(ids);
    for (uint32_t i = 0; is_same && i < got->n; i++)
        is_same = got->id[i] == json_integer_value(json_array_get(ids, i));
    return is_same;
}

static void print_difference(const char *name, const char *text, const struct token_list *got,
                             const json_t *ids)
{
    char *expected = json_dumps(ids, JSON_COMPACT);
    print_message("%s: \"%s\": expected %s, got", name, text, expected);
    for (uint32_t i = 0; i < got->n; i++)
        print_message(" %d", got->id[i]);
    print_message("\n");
    free(expected);
}

static unsigned check_pairs(const char *name, const struct tokenizer *tokenizer,
                            const json_t *pairs)
{
    unsigned n_wrong = 0;
    assert_true(json_array_size(pairs) > 10);
    for (size_t i = 0; i < json_array_size(pairs); i++) {
        const json_t *pair = json_array_get(pairs, i), *ids = json_object_get(pair, "ids");
        const json_t *first = json_object_get(pair, "first"),
                     *second = json_object_get(pair, "second");
        uint32_t n_first = 0;
        struct token_list got;
        token_list_init(&got, 10000);
        if (tokenizer_encode_pair(tokenizer, json_string_value(first), json_string_length(first),
                                  json_string_value(second), json_string_length(second), &got,
                                  &n_first, &err) != SERVERD_OK)
            fail_msg("%s: %s", name, err.text);
        if (!is_equal(&got, ids) ||
            n_first != json_integer_value(json_object_get(pair, "n_first"))) {
            print_difference(name, json_string_value(second), &got, ids);
            n_wrong++;
        }
        token_list_deinit(&got);
    }
    return n_wrong;
}

static unsigned check_decoded(const char *name, const struct tokenizer *tokenizer,
                              const json_t *decoded)
{
    unsigned n_wrong = 0;
    for (size_t i = 0; i < json_array_size(decoded); i++) {
        const json_t *item = json_array_get(decoded, i), *ids = json_object_get(item, "ids"),
                     *text = json_object_get(item, "text");
        int32_t list[1000];
        const size_t n = json_array_size(ids);
        struct buffer got;
        assert_true(n <= 1000);
        for (size_t k = 0; k < n; k++)
            list[k] = (int32_t)json_integer_value(json_array_get(ids, k));
        buffer_init(&got, MIB);
        tokenizer_decode(tokenizer, list, n, true, &got);
        if (got.len != json_string_length(text) ||
            memcmp(buffer_str(&got), json_string_value(text), got.len) != 0) {
            print_message("%s: expected \"%s\", got \"%s\"\n", name, json_string_value(text),
                          buffer_str(&got));
            n_wrong++;
        }
        buffer_deinit(&got);
    }
    return n_wrong;
}

static void check_kind(const char *name)
{
    char folder[512], path[600];
    json_t *root;
    struct tokenizer *tokenizer;
    (void)snprintf(folder, sizeof folder, "%s/%s", data, name);
    (void)snprintf(path, sizeof path, "%s/cases.json", folder);
    struct program *program = import(folder);
    if (tokenizer_create(&program->vocabulary, &tokenizer, &err) != SERVERD_OK ||
        json_file_read(path, (struct json_bounds){MIB, 100000}, JSON_OBJECT, &root, &err) !=
            SERVERD_OK)
        fail_msg("%s: %s", name, err.text);
    const json_t *cases = json_object_get(root, "cases");
    unsigned n_wrong = 0;
    assert_true(json_array_size(cases) > 20);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *text = json_object_get(json_array_get(cases, i), "text");
        const json_t *ids = json_object_get(json_array_get(cases, i), "ids");
        struct token_list got;
        token_list_init(&got, 10000);
        if (tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                             TOKENIZER_ADD_SPECIAL | TOKENIZER_PARSE_SPECIAL, &got,
                             &err) != SERVERD_OK)
            fail_msg("%s: %s", name, err.text);
        if (!is_equal(&got, ids)) {
            print_difference(name, json_string_value(text), &got, ids);
            n_wrong++;
        }
        token_list_deinit(&got);
    }
    size_t n = json_array_size(cases);
    n_wrong += check_pairs(name, tokenizer, json_object_get(root, "pairs"));
    n_wrong += check_decoded(name, tokenizer, json_object_get(root, "decoded"));
    json_decref(root);
    tokenizer_destroy(tokenizer);
    program_unref(program);
    if (n_wrong > 0)
        fail_msg("%s: %u of %zu texts have other ids", name, n_wrong, n);
}

#define KIND(name)                                                                                 \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        check_kind(#name);                                                                         \
    }

KIND(byte_level)
KIND(roberta)
KIND(qwen)
KIND(llama2)
KIND(gemma)
KIND(digits)
KIND(unigram)
KIND(unigram_first)
KIND(wordpiece)
KIND(wordpiece_cased)

enum { NORMALISED_CONTROL = 4 }; /* "<n>" in the folder "added", which lowercases */

static unsigned count_controls(const struct tokenizer *tokenizer, const char *text, size_t n)
{
    unsigned count = 0;
    struct token_list got;
    token_list_init(&got, 1000);
    if (tokenizer_encode(tokenizer, text, n, TOKENIZER_PARSE_SPECIAL, &got, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < got.n; i++)
        count += got.id[i] == NORMALISED_CONTROL;
    token_list_deinit(&got);
    return count;
}

static void guarded_text_never_becomes_a_control_token_that_is_normalised(void **state)
{
    (void)state;
    char folder[512];
    struct tokenizer *tokenizer;
    struct buffer text;
    (void)snprintf(folder, sizeof folder, "%s/added", data);
    struct program *program = import(folder);
    assert_int_equal(tokenizer_create(&program->vocabulary, &tokenizer, &err), SERVERD_OK);
    assert_int_equal(count_controls(tokenizer, "<N>", 3), 1); /* it is, without guards */
    assert_int_equal(count_controls(tokenizer, "<n>", 3), 1);
    buffer_init(&text, MIB);
    buffer_append_str(&text, "<n>");
    tokenizer_guard(tokenizer, "a <n> <N>", 9, &text);
    assert_int_equal(count_controls(tokenizer, buffer_str(&text), text.len), 1);
    buffer_reset(&text);
    tokenizer_guard(tokenizer, "<n><N>", 6, &text);
    assert_int_equal(count_controls(tokenizer, buffer_str(&text), text.len), 0);
    buffer_deinit(&text);
    tokenizer_destroy(tokenizer);
    program_unref(program);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    data = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level),
        cmocka_unit_test(roberta),
        cmocka_unit_test(qwen),
        cmocka_unit_test(llama2),
        cmocka_unit_test(gemma),
        cmocka_unit_test(digits),
        cmocka_unit_test(unigram),
        cmocka_unit_test(unigram_first),
        cmocka_unit_test(wordpiece),
        cmocka_unit_test(wordpiece_cased),
        cmocka_unit_test(guarded_text_never_becomes_a_control_token_that_is_normalised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
