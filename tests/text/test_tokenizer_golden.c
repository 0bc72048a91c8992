/* Token ids against those of the models' own tokenizers, which work on images that lie in mapped
 * files: built, written, mapped, the model forgotten. Arguments: the data folder. Vocabularies
 * of five families are always checked; the real models' where their files are: in the folder
 * SERVERD_TEST_MODELS, or the default model where serverd.sh keeps it. */
#include "base/file.h"
#include "base/limits.h"
#include "compiler/compile.h"
#include "program/tokenizer_image.h"
#include "text/fill_in.h"
#include "text/tokenizer.h"

#include <jansson.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SEPARATOR "\n__ggml_vocab_test__\n"

static const char *folder;
static serverd_error err;

struct loaded {
    struct mapping mapping;
    struct tokenizer *tokenizer;
};

/* The image of the model's tokenizer, written to a file and mapped from there. */
static struct mapping map_image(const char *model)
{
    char path[] = "/tmp/test_tokenizer_XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    const struct compile_options options = {.path = model, .vocabulary_only = true};
    struct program *program;
    struct buffer image;
    struct file file;
    struct mapping mapping = {0};
    buffer_init(&image, LIMIT_TOKENIZER_BYTES);
    if (compile_model(&options, &program, &err) != SERVERD_OK ||
        tokenizer_image_build(&program->vocabulary, &image, &err) != SERVERD_OK ||
        file_write_atomic(path, image.data, image.len, &err) != SERVERD_OK ||
        file_open(path, &file, &err) != SERVERD_OK || file_map(&file, &mapping, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    file_close(&file);
    (void)unlink(path);
    buffer_deinit(&image);
    program_unref(program);
    return mapping;
}

static struct loaded load(const char *path)
{
    struct loaded l = {.mapping = map_image(path)};
    const size_t before = mallinfo2().uordblks;
    if (tokenizer_open(l.mapping.data, l.mapping.bytes, &l.tokenizer, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    assert_true(mallinfo2().uordblks - before < 100 * KIB); /* it is used where it lies */
    return l;
}

static void unload(struct loaded *l)
{
    tokenizer_destroy(l->tokenizer);
    mapping_close(&l->mapping);
}

static char *read_text(const char *path, size_t *n)
{
    char *text;
    if (file_read(path, 64 << 20, &text, n, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    return text;
}

static void print_ids(const char *name, const struct token_list *ids)
{
    (void)fprintf(stderr, "%s:", name);
    for (uint32_t i = 0; i < ids->n; i++)
        (void)fprintf(stderr, " %d", ids->id[i]);
    (void)fprintf(stderr, "\n");
}

static bool same_ids(const struct loaded *l, const char *text, size_t n, unsigned flags,
                     const struct token_list *expected)
{
    struct token_list ids;
    token_list_init(&ids, 1 << 20);
    if (tokenizer_encode(l->tokenizer, text, n, flags, &ids, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    bool is_same = ids.n == expected->n &&
                   (ids.n == 0 || memcmp(ids.id, expected->id, ids.n * sizeof *ids.id) == 0);
    if (!is_same) {
        (void)fprintf(stderr, "text: %.*s\n", (int)n, text);
        print_ids("expected", expected);
        print_ids("found", &ids);
    }
    token_list_deinit(&ids);
    return is_same;
}

/* Ids of one line, up to its end; returns what follows. */
static char *read_line(char *line, struct token_list *out)
{
    char *end = strchrnul(line, '\n');
    bool is_last = *end == '\0';
    *end = '\0';
    out->n = 0;
    for (char *at = line, *next; *at; at = next) {
        long id = strtol(at, &next, 10);
        if (next == at)
            break;
        assert_true(token_list_add(out, (int32_t)id));
    }
    return is_last ? end : end + 1;
}

static void check_vocabulary(const char *name)
{
    char path[512];
    size_t n, m;
    (void)snprintf(path, sizeof path, "%s/vocab/%s", folder, name);
    struct loaded l = load(path);
    (void)snprintf(path, sizeof path, "%s/vocab/%s.inp", folder, name);
    char *texts = read_text(path, &n);
    (void)snprintf(path, sizeof path, "%s/vocab/%s.out", folder, name);
    char *lines = read_text(path, &m), *line = lines;
    struct token_list expected;
    token_list_init(&expected, 1 << 20);
    size_t bad = 0, count = 0;
    for (char *text = texts; text; count++) {
        char *end = strstr(text, SEPARATOR);
        size_t len = end ? (size_t)(end - text) : n - (size_t)(text - texts);
        line = read_line(line, &expected);
        bad += !same_ids(&l, text, len, 0, &expected);
        text = end ? end + strlen(SEPARATOR) : NULL;
    }
    (void)fprintf(stderr, "%s: %zu texts, %zu bad\n", name, count, bad);
    assert_true(count > 40);
    assert_int_equal(bad, 0);
    token_list_deinit(&expected);
    free(texts);
    free(lines);
    unload(&l);
}

static void vocabularies_of_five_families_give_the_reference_s_ids(void **state)
{
    (void)state;
    static const char *const names[] = {"ggml-vocab-bert-bge.gguf",
                                        "ggml-vocab-deepseek-coder.gguf", "ggml-vocab-gpt-2.gguf",
                                        "ggml-vocab-llama-bpe.gguf", "ggml-vocab-llama-spm.gguf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_vocabulary(names[i]);
}

/* ---- fill-in ---- */

static void check_piece(const struct tokenizer *tokenizer, int32_t id, const char *text)
{
    uint32_t n;
    const char *piece = tokenizer_piece(tokenizer, id, &n);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(piece, text, n);
}

static void tokens_of_a_fill_in_are_found_by_their_texts(void **state)
{
    (void)state;
    char path[512];
    (void)snprintf(path, sizeof path, "%s/vocab/ggml-vocab-deepseek-coder.gguf", folder);
    struct loaded l = load(path);
    const struct fill_in_tokens t = fill_in_tokens_of(l.tokenizer);
    check_piece(l.tokenizer, t.prefix, "<｜fim▁begin｜>");
    check_piece(l.tokenizer, t.suffix, "<｜fim▁hole｜>");
    check_piece(l.tokenizer, t.middle, "<｜fim▁end｜>");
    assert_int_equal(t.file, -1);
    unload(&l);
    (void)snprintf(path, sizeof path, "%s/vocab/ggml-vocab-gpt-2.gguf", folder);
    l = load(path);
    assert_int_equal(fill_in_tokens_of(l.tokenizer).prefix, -1);
    unload(&l);
}

static int32_t find_in_list(const void *list, const char *text)
{
    const char *const *texts = list;
    for (int32_t i = 0; texts[i]; i++)
        if (strcmp(texts[i], text) == 0)
            return i;
    return -1;
}

static void a_family_has_all_three_tokens_of_a_fill_in_or_none_of_its_tokens_counts(void **state)
{
    (void)state;
    const char *const mixed[] = {"<|fim_prefix|>", "<fim_suffix>", "<|fim_middle|>",
                                 "<file_sep>",     "<fim_prefix>", NULL},
                      *const whole[] = {"<|fim_prefix|>", "<file_sep>",   "<fim_middle>",
                                        "<fim_suffix>",   "<fim_prefix>", NULL};
    struct fill_in_tokens t = fill_in_find(find_in_list, mixed);
    assert_true(t.prefix == -1 && t.suffix == -1 && t.middle == -1 && t.file == -1);
    t = fill_in_find(find_in_list, whole);
    assert_true(t.prefix == 4 && t.suffix == 3 && t.middle == 2 && t.file == 1 && t.pad == -1);
}

/* The model's file, if it is here. */
static bool find_model(const char *name, char path[512])
{
    const char *models = getenv("SERVERD_TEST_MODELS"), *cache = getenv("XDG_CACHE_HOME"),
               *home = getenv("HOME");
    if (models) {
        (void)snprintf(path, 512, "%s/%s", models, name);
        if (access(path, R_OK) == 0)
            return true;
    }
    if (cache)
        (void)snprintf(path, 512, "%s/serverd/models/%s", cache, name);
    else
        (void)snprintf(path, 512, "%s/.cache/serverd/models/%s", home ? home : "", name);
    return access(path, R_OK) == 0;
}

static void read_ids(const json_t *list, struct token_list *out)
{
    out->n = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        assert_true(token_list_add(out, (int32_t)json_integer_value(json_array_get(list, i))));
}

static bool check_model(const char *golden, const char *model)
{
    char path[512], data[512];
    json_error_t error;
    if (!find_model(model, path))
        return false;
    struct loaded l = load(path);
    (void)snprintf(data, sizeof data, "%s/tokens/%s", folder, golden);
    json_t *rows = json_load_file(data, JSON_ALLOW_NUL, &error);
    assert_non_null(rows);
    struct token_list expected;
    token_list_init(&expected, 1 << 20);
    size_t bad = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i), *text = json_object_get(row, "text");
        read_ids(json_object_get(row, "ids"), &expected);
        bad += !same_ids(&l, json_string_value(text), json_string_length(text),
                         TOKENIZER_PARSE_SPECIAL, &expected);
        read_ids(json_object_get(row, "ids_no_special"), &expected);
        bad += !same_ids(&l, json_string_value(text), json_string_length(text), 0, &expected);
    }
    (void)fprintf(stderr, "%s: %zu rows, %zu bad\n", golden, json_array_size(rows), bad);
    assert_int_equal(bad, 0);
    token_list_deinit(&expected);
    json_decref(rows);
    unload(&l);
    return true;
}

static void real_models_give_their_own_ids(void **state)
{
    (void)state;
    bool has_any =
        check_model("smollm2-135m-instruct-q4_1.json", "SmolLM2-135M-Instruct.Q4_1.gguf");
    has_any |= check_model("qwen-0.5b-q4.json", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf");
    has_any |= check_model("gemma3-270m-q4_k_m.json", "gemma-3-270m-q4_k_m.gguf");
    if (!has_any)
        skip();
}

int main(int argc, char **argv)
{
    folder = argc > 1 ? argv[1] : ".";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vocabularies_of_five_families_give_the_reference_s_ids),
        cmocka_unit_test(real_models_give_their_own_ids),
        cmocka_unit_test(tokens_of_a_fill_in_are_found_by_their_texts),
        cmocka_unit_test(a_family_has_all_three_tokens_of_a_fill_in_or_none_of_its_tokens_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
