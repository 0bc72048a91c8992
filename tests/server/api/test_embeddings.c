/* Texts that are cut to truncate_prompt_tokens keep what stands around them. */
#include "api_fixture.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TEXT "the quick brown fox jumps over the lazy dog"

static json_t *embed(struct api_world *world, const char *input, const char *members)
{
    char body[4096];
    (void)snprintf(body, sizeof body, "{\"input\":%s%s}", input, members);
    struct api_reply reply = api_post(world, "/v1/embeddings", body);
    if (reply.status != 200)
        fail_msg("%s: %s", body, reply.body);
    json_t *root = json_loadb(reply.body, reply.len, 0, NULL);
    assert_non_null(root);
    free(reply.body);
    return root;
}

/* ids[0 .. n_front-1], then the last tokens of those behind, n in all. */
static void write_ids(const struct token_list *ids, uint32_t n_front, uint32_t n,
                      struct buffer *out)
{
    buffer_append_char(out, '[');
    for (uint32_t i = 0; i < n; i++)
        buffer_printf(out, "%s%d", i > 0 ? "," : "", ids->id[i < n_front ? i : ids->n - n + i]);
    buffer_append_char(out, ']');
}

static void check_cut(struct api_world *world, const struct token_list *ids, uint32_t n_front,
                      uint32_t n, const char *members)
{
    struct buffer expected;
    buffer_init(&expected, MIB);
    write_ids(ids, n_front, n, &expected);
    json_t *cut = embed(world, "\"" TEXT "\"", members), *whole = embed(world, expected.data, "");
    if (!json_equal(cut, whole))
        fail_msg("%s: not %s", members, expected.data);
    json_decref(cut);
    json_decref(whole);
    buffer_deinit(&expected);
}

static void a_text_keeps_its_last_tokens_and_its_frame(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("bert", NULL);
    struct token_list framed, plain;
    serverd_error err;
    token_list_init(&framed, 1000);
    token_list_init(&plain, 1000);
    assert_int_equal(tokenizer_encode(world->tokenizer, TEXT, strlen(TEXT), TOKENIZER_ADD_SPECIAL,
                                      &framed, &err),
                     0);
    assert_int_equal(tokenizer_encode(world->tokenizer, TEXT, strlen(TEXT), 0, &plain, &err), 0);
    assert_true(framed.n == plain.n + 2 && plain.n > 8);
    check_cut(world, &framed, 1, 7, ",\"truncate_prompt_tokens\":7");
    check_cut(world, &framed, 1, 3, ",\"truncate_prompt_tokens\":3");
    check_cut(world, &framed, 1, 3, ",\"truncate_prompt_tokens\":1"); /* one is left */
    check_cut(world, &framed, 1, framed.n, ",\"truncate_prompt_tokens\":-1");
    check_cut(world, &framed, 1, framed.n, ",\"truncate_prompt_tokens\":1000");
    check_cut(world, &plain, 0, 4, ",\"truncate_prompt_tokens\":4,\"add_special_tokens\":false");
    token_list_deinit(&framed);
    token_list_deinit(&plain);
    api_world_destroy(world);
}

static void ids_keep_their_last_ones(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("bert", NULL);
    json_t *cut = embed(world, "[5,6,7,8,9]", ",\"truncate_prompt_tokens\":2");
    json_t *expected = embed(world, "[8,9]", "");
    assert_true(json_equal(cut, expected));
    json_decref(cut);
    json_decref(expected);
    api_world_destroy(world);
}

/* What would be too long fits with -1. */
static void a_long_text_is_cut_to_what_fits(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("bert", NULL);
    char text[2048] = "\"", body[2200];
    for (int i = 0; i < 900; i++)
        strcat(text, "a ");
    strcat(text, "\"");
    (void)snprintf(body, sizeof body, "{\"input\":%s}", text);
    struct api_reply reply = api_post(world, "/v1/embeddings", body);
    assert_int_equal(reply.status, 400);
    free(reply.body);
    json_t *cut = embed(world, text, ",\"truncate_prompt_tokens\":-1");
    const json_t *usage = json_object_get(cut, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")),
                     world->model.context_size);
    json_decref(cut);
    api_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_keeps_its_last_tokens_and_its_frame),
        cmocka_unit_test(ids_keep_their_last_ones),
        cmocka_unit_test(a_long_text_is_cut_to_what_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
