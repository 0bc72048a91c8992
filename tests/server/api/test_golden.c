/* Whole replies, byte for byte. A golden file holds calls and their replies:
 *   > /v1/completions {"prompt":"a"}
 *   200 {"id":...}
 * Streams are shown line by line, empty lines as "~". With --update the file is written anew:
 * read the difference before you keep it. */
#include "api_fixture.h"

#include "base/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *folder;
static bool is_update;

/* One call's lines, as the golden file has them. */
static void show_call(struct api_world *world, const char *line, size_t n, struct buffer *out)
{
    char path[64];
    size_t path_len = strcspn(line + 2, " \n"), at = 2 + path_len;
    assert_true(path_len < sizeof path);
    (void)snprintf(path, sizeof path, "%.*s", (int)path_len, line + 2);
    at += at < n;
    struct api_reply reply = api_call(world, path, line + at, n - at);
    api_reply_hide_ids(&reply);
    buffer_append(out, line, n);
    buffer_printf(out, "\n%d ", reply.status);
    for (const char *s = reply.body; *s;) {
        size_t len = strcspn(s, "\n");
        buffer_append(out, len > 0 ? s : "~", len > 0 ? len : 1);
        buffer_append_char(out, '\n');
        s += len + (s[len] == '\n');
    }
    if (reply.ignored[0])
        buffer_printf(out, "ignored: %s\n", reply.ignored);
    buffer_append_char(out, '\n');
    free(reply.body);
}

static void check_file(const char *name, const char *arch)
{
    char path[512];
    char *golden;
    size_t n;
    serverd_error err;
    struct buffer found;
    struct api_world *world = api_world_create(arch, NULL);
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    if (file_read(path, MIB, &golden, &n, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    buffer_init(&found, 16 * MIB);
    for (const char *s = golden; *s;) {
        size_t len = strcspn(s, "\n");
        if (s[0] == '#') {
            buffer_append(&found, s, len + 1);
        } else if (s[0] == '>') {
            show_call(world, s, len, &found);
        }
        s += len + (s[len] == '\n');
    }
    if (is_update) {
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        assert_int_equal(fwrite(found.data, 1, found.len, f), found.len);
        assert_int_equal(fclose(f), 0);
    } else {
        assert_string_equal(buffer_str(&found), golden);
    }
    buffer_deinit(&found);
    free(golden);
    api_world_destroy(world);
}

static void chat_replies_are_as_recorded(void **state)
{
    (void)state;
    check_file("chat.txt", "llama");
}

static void completion_replies_are_as_recorded(void **state)
{
    (void)state;
    check_file("completions.txt", "llama");
}

static void embedding_replies_are_as_recorded(void **state)
{
    (void)state;
    check_file("embeddings.txt", "bert");
}

static void rerank_replies_are_as_recorded(void **state)
{
    (void)state;
    check_file("rerank.txt", "bert");
}

static void score_replies_are_as_recorded(void **state)
{
    (void)state;
    check_file("score.txt", "llama");
}

static void llama_replies_are_as_recorded(void **state)
{
    (void)state;
    check_file("llama.txt", "llama");
}

static void tokenizer_and_model_replies_are_as_recorded(void **state)
{
    (void)state;
    check_file("tokenizer.txt", "llama");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        (void)fprintf(stderr, "usage: %s FOLDER [--update]\n", argv[0]);
        return 2;
    }
    folder = argv[1];
    is_update = argc > 2 && strcmp(argv[2], "--update") == 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chat_replies_are_as_recorded),
        cmocka_unit_test(completion_replies_are_as_recorded),
        cmocka_unit_test(embedding_replies_are_as_recorded),
        cmocka_unit_test(rerank_replies_are_as_recorded),
        cmocka_unit_test(score_replies_are_as_recorded),
        cmocka_unit_test(llama_replies_are_as_recorded),
        cmocka_unit_test(tokenizer_and_model_replies_are_as_recorded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
