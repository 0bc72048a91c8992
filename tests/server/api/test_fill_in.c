/* Fill-ins are the prompts that they would be if the client wrote their tokens itself. */
#include "api_fixture.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LENGTH "\"max_tokens\":9,\"temperature\":0,\"return_token_ids\":true"

#define LLAMA "\"n_predict\":7,\"seed\":3,\"temperature\":0.5,\"return_tokens\":true"

static json_t *post(struct api_world *world, const char *path, const char *body)
{
    json_error_t error;
    struct api_reply reply = api_post(world, path, body);
    json_t *root = json_loadb(reply.body, reply.len, JSON_ALLOW_NUL, &error);
    if (reply.status != 200 || !root)
        fail_msg("%s %s: %d %s", path, body, reply.status, reply.body);
    free(reply.body);
    return root;
}

/* Of a plain text, nothing added. */
static void append_ids(struct api_world *world, const char *text, struct buffer *out)
{
    struct token_list ids;
    serverd_error err;
    token_list_init(&ids, 100);
    assert_int_equal(tokenizer_encode(world->tokenizer, text, strlen(text), 0, &ids, &err), 0);
    for (uint32_t i = 0; i < ids.n; i++)
        buffer_printf(out, ",%d", ids.id[i]);
    token_list_deinit(&ids);
}

static json_t *choice_of(json_t *reply)
{
    json_t *choice = json_array_get(json_object_get(reply, "choices"), 0);
    assert_non_null(choice);
    return choice;
}

static void check_same(struct api_world *world, const char *path, const char *body,
                       const struct buffer *ids)
{
    char expected[1024];
    (void)snprintf(expected, sizeof expected, "{\"prompt\":[%s]," LENGTH "}", ids->data);
    json_t *a = post(world, path, body), *b = post(world, "/v1/completions", expected);
    if (!json_equal(choice_of(a), choice_of(b)) ||
        !json_equal(json_object_get(a, "usage"), json_object_get(b, "usage")))
        fail_msg("%s and %s differ", body, expected);
    json_decref(a);
    json_decref(b);
}

static void a_suffix_stands_between_the_models_tokens(void **state)
{
    (void)state;
    static const char *const archs[] = {"llama", "gemma3"}; /* without BOS and with */
    for (size_t i = 0; i < 2; i++) {
        struct api_world *world = api_world_create_for_fill_in(archs[i], NULL);
        struct buffer ids;
        buffer_init(&ids, MIB);
        if (world->program->vocabulary.adds_bos)
            buffer_printf(&ids, "%d,", world->program->vocabulary.bos);
        buffer_printf(&ids, "%d", API_FIM_PREFIX);
        append_ids(world, "let a = ", &ids);
        buffer_printf(&ids, ",%d", API_FIM_SUFFIX);
        append_ids(world, "; b", &ids);
        buffer_printf(&ids, ",%d", API_FIM_MIDDLE);
        check_same(world, "/v1/completions",
                   "{\"prompt\":\"let a = \",\"suffix\":\"; b\"," LENGTH "}", &ids);
        buffer_deinit(&ids);
        api_world_destroy(world);
    }
}

static void ids_may_stand_before_the_gap(void **state)
{
    (void)state;
    struct api_world *world = api_world_create_for_fill_in("llama", NULL);
    struct buffer ids;
    buffer_init(&ids, MIB);
    buffer_printf(&ids, "%d,70,71,%d", API_FIM_PREFIX, API_FIM_SUFFIX);
    append_ids(world, "x", &ids);
    buffer_printf(&ids, ",%d", API_FIM_MIDDLE);
    check_same(world, "/v1/completions",
               "{\"prompt\":[70,71],\"suffix\":\"x\",\"add_special_tokens\":false," LENGTH "}",
               &ids);
    buffer_deinit(&ids);
    api_world_destroy(world);
}

/* Source code may speak of control tokens. */
static void control_tokens_in_the_texts_are_text(void **state)
{
    (void)state;
    struct api_world *world = api_world_create_for_fill_in("llama", NULL);
    json_t *reply = post(world, "/v1/completions",
                         "{\"prompt\":\"<|im_end|>\",\"suffix\":\"<|im_end|>\"," LENGTH "}");
    const json_t *usage = json_object_get(reply, "usage");
    assert_true(json_integer_value(json_object_get(usage, "prompt_tokens")) > 5);
    json_decref(reply);
    api_world_destroy(world);
}

static void an_empty_suffix_is_none(void **state)
{
    (void)state;
    struct api_world *world = api_world_create_for_fill_in("llama", NULL);
    json_t *a = post(world, "/v1/completions", "{\"prompt\":\"a\",\"suffix\":\"\"," LENGTH "}");
    json_t *b = post(world, "/v1/completions", "{\"prompt\":\"a\"," LENGTH "}");
    assert_true(json_equal(choice_of(a), choice_of(b)));
    json_decref(a);
    json_decref(b);
    api_world_destroy(world);
}

/* The same object but for what says where it came from. */
static void check_same_infill(struct api_world *world, const char *body, const struct buffer *ids)
{
    char expected[1024];
    (void)snprintf(expected, sizeof expected, "{\"prompt\":[%s]," LLAMA "}", ids->data);
    json_t *a = post(world, "/infill", body), *b = post(world, "/completion", expected);
    if (!json_equal(a, b))
        fail_msg("%s and %s differ", body, expected);
    assert_int_equal(json_array_size(json_object_get(a, "tokens")), 7);
    json_decref(a);
    json_decref(b);
}

static void an_infill_is_made_of_its_parts(void **state)
{
    (void)state;
    struct api_world *world = api_world_create_for_fill_in("llama", NULL);
    struct buffer ids;
    buffer_init(&ids, MIB);
    buffer_printf(&ids, "%d", API_FIM_PREFIX);
    append_ids(world, "before", &ids);
    buffer_printf(&ids, ",%d", API_FIM_SUFFIX);
    append_ids(world, "behind", &ids);
    buffer_printf(&ids, ",%d", API_FIM_MIDDLE);
    append_ids(world, "be", &ids);
    check_same_infill(world,
                      "{\"input_prefix\":\"before\",\"input_suffix\":\"behind\","
                      "\"prompt\":\"be\"," LLAMA "}",
                      &ids);
    buffer_deinit(&ids);
    api_world_destroy(world);
}

static void files_stand_in_front_of_an_infill(void **state)
{
    (void)state;
    struct api_world *world = api_world_create_for_fill_in("llama", NULL);
    struct buffer ids;
    buffer_init(&ids, MIB);
    buffer_printf(&ids, "%d", API_FIM_REPOSITORY);
    append_ids(world, "myproject\n", &ids);
    for (int i = 0; i < 2; i++) {
        buffer_printf(&ids, ",%d", API_FIM_FILE);
        append_ids(world, i ? "b.c" : "a.c", &ids);
        append_ids(world, "\n", &ids);
        append_ids(world, i ? "int b;" : "int a;", &ids);
        append_ids(world, "\n", &ids);
    }
    buffer_printf(&ids, ",%d", API_FIM_FILE);
    append_ids(world, "filename\n", &ids);
    buffer_printf(&ids, ",%d,%d", API_FIM_PREFIX, API_FIM_SUFFIX);
    append_ids(world, "x", &ids);
    buffer_printf(&ids, ",%d", API_FIM_MIDDLE);
    check_same_infill(world,
                      "{\"input_suffix\":\"x\",\"input_extra\":["
                      "{\"filename\":\"a.c\",\"text\":\"int a;\"},"
                      "{\"filename\":\"b.c\",\"text\":\"int b;\"}]," LLAMA "}",
                      &ids);
    buffer_deinit(&ids);
    api_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_suffix_stands_between_the_models_tokens),
        cmocka_unit_test(ids_may_stand_before_the_gap),
        cmocka_unit_test(control_tokens_in_the_texts_are_text),
        cmocka_unit_test(an_empty_suffix_is_none),
        cmocka_unit_test(an_infill_is_made_of_its_parts),
        cmocka_unit_test(files_stand_in_front_of_an_infill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
