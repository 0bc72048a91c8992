/* Reasoning through the dialects: its budget, what stops do not see, how it is counted. */
#include "api_fixture.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHAT "/v1/chat/completions"

/* The prompt ends inside of a block, unless thinking is off. */
static const char template_open[] =
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>"
    "{% else %}<think>\n{% endif %}";

static json_t *ask(struct api_world *world, const char *path, const char *members)
{
    char body[1024];
    (void)snprintf(body, sizeof body,
                   "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"temperature\":0,"
                   "\"ignore_eos\":true,\"max_tokens\":30%s}",
                   members);
    struct api_reply reply = api_post(world, path, body);
    json_t *root = json_loadb(reply.body, reply.len, JSON_ALLOW_NUL, NULL);
    if (reply.status != 200 || !root)
        fail_msg("%d: %s", reply.status, reply.body);
    free(reply.body);
    return root;
}

static json_int_t n_reasoning(const json_t *root)
{
    return json_integer_value(json_object_get(
        json_object_get(json_object_get(root, "usage"), "completion_tokens_details"),
        "reasoning_tokens"));
}

static json_t *message(const json_t *root)
{
    return json_object_get(json_array_get(json_object_get(root, "choices"), 0), "message");
}

static void the_budget_ends_reasoning(void **state)
{
    (void)state;
    static const char *const names[] = {"reasoning_budget", "max_thinking_tokens",
                                        "thinking_token_budget"};
    struct api_world *world = api_world_create("llama", template_open);
    json_t *all = ask(world, CHAT, "");
    assert_true(n_reasoning(all) > 20);
    assert_true(json_is_null(json_object_get(message(all), "content")));
    const char *thought = json_string_value(json_object_get(message(all), "reasoning_content"));
    for (size_t i = 0; i < 3; i++) {
        char members[64];
        (void)snprintf(members, sizeof members, ",\"%s\":5", names[i]);
        json_t *cut = ask(world, CHAT, members);
        const char *part = json_string_value(json_object_get(message(cut), "reasoning_content"));
        assert_int_equal(n_reasoning(cut), 5);
        assert_true(strlen(part) > 0 && strncmp(thought, part, strlen(part)) == 0);
        assert_true(json_string_length(json_object_get(message(cut), "content")) > 0);
        json_decref(cut);
    }
    json_t *none = ask(world, CHAT, ",\"reasoning_budget\":0");
    assert_int_equal(n_reasoning(none), 0);
    assert_null(json_object_get(message(none), "reasoning_content"));
    json_decref(none);
    json_t *endless = ask(world, CHAT, ",\"reasoning_budget\":-1");
    assert_true(json_equal(message(endless), message(all)));
    json_decref(endless);
    json_decref(all);
    api_world_destroy(world);
}

static void no_effort_is_said_to_the_template(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    json_t *root = ask(world, CHAT, ",\"reasoning_effort\":\"none\"");
    assert_int_equal(n_reasoning(root), 0);
    assert_true(json_string_length(json_object_get(message(root), "content")) > 0);
    json_decref(root);
    api_world_destroy(world);
}

static void messages_have_the_same_budget(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    json_t *root =
        ask(world, "/v1/messages", ",\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":5}");
    const json_t *content = json_object_get(root, "content");
    assert_int_equal(json_array_size(content), 2);
    json_t *chat = ask(world, CHAT, ",\"reasoning_budget\":5");
    assert_true(json_equal(json_object_get(json_array_get(content, 0), "thinking"),
                           json_object_get(message(chat), "reasoning_content")));
    assert_true(json_equal(json_object_get(json_array_get(content, 1), "text"),
                           json_object_get(message(chat), "content")));
    assert_int_equal(n_reasoning(chat), 5);
    assert_true(metrics_get(world->metrics, METRIC_REASONING_TOKENS) == 10);
    json_decref(chat);
    json_decref(root);
    api_world_destroy(world);
}

static void stops_are_not_looked_for_in_reasoning(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    json_t *whole = ask(world, CHAT, ",\"reasoning_budget\":5");
    const char *thought = json_string_value(json_object_get(message(whole), "reasoning_content"));
    char members[128], stop[2] = {thought[1], '\0'};
    (void)snprintf(members, sizeof members, ",\"reasoning_budget\":5,\"stop\":\"%s\"", stop);
    json_t *root = ask(world, CHAT, members);
    assert_true(json_equal(json_object_get(message(root), "reasoning_content"),
                           json_object_get(message(whole), "reasoning_content")));
    json_decref(root);
    json_decref(whole);
    api_world_destroy(world);
}

/* One delta has all of it, and the parts are the same. */
static void reasoning_need_not_be_streamed(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    json_t *whole = ask(world, CHAT, ",\"reasoning_budget\":6");
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],"
                               "\"temperature\":0,\"ignore_eos\":true,\"max_tokens\":30,"
                               "\"reasoning_budget\":6,\"stream\":true,\"stream_reasoning\":false}";
    struct api_reply reply = api_post(world, CHAT, body);
    const char *first = strstr(reply.body, "\"reasoning_content\":");
    assert_non_null(first);
    assert_null(strstr(first + 1, "\"reasoning_content\":"));
    char *thought =
        json_dumps(json_object_get(message(whole), "reasoning_content"), JSON_ENCODE_ANY);
    assert_memory_equal(first + strlen("\"reasoning_content\":"), thought, strlen(thought));
    assert_non_null(strstr(first, "\"content\":"));
    free(thought);
    free(reply.body);
    json_decref(whole);
    api_world_destroy(world);
}

static void a_budget_out_of_range_is_refused(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    struct api_reply reply = api_post(world, CHAT,
                                      "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                                      "\"reasoning_budget\":-2}");
    assert_int_equal(reply.status, 400);
    assert_non_null(strstr(reply.body, "reasoning_budget"));
    free(reply.body);
    api_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_budget_ends_reasoning),
        cmocka_unit_test(no_effort_is_said_to_the_template),
        cmocka_unit_test(messages_have_the_same_budget),
        cmocka_unit_test(stops_are_not_looked_for_in_reasoning),
        cmocka_unit_test(reasoning_need_not_be_streamed),
        cmocka_unit_test(a_budget_out_of_range_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
