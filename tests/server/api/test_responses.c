/* Responses: what comes along when it is asked for, what may be sent back, and that its parts are
 * those of a chat. */
#include "api_fixture.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RESPONSES "/v1/responses"

static const char template_open[] = "{% for m in messages %}{% if m.reasoning_content %}[{{ "
                                    "m.reasoning_content }}]{% endif %}{{ m.content }}{% endfor %}"
                                    "<think>\n{# </think> #}";

static struct api_reply call(struct api_world *world, const char *members)
{
    char body[4096];
    (void)snprintf(body, sizeof body,
                   "{\"temperature\":0,\"ignore_eos\":true,\"max_output_tokens\":24,"
                   "\"reasoning_budget\":4%s}",
                   members);
    return api_post(world, RESPONSES, body);
}

static json_t *ask(struct api_world *world, const char *members)
{
    struct api_reply reply = call(world, members);
    json_t *root = json_loadb(reply.body, reply.len, JSON_ALLOW_NUL, NULL);
    if (reply.status != 200 || !root)
        fail_msg("%d: %s", reply.status, reply.body);
    free(reply.body);
    return root;
}

static void refuse(struct api_world *world, const char *members, const char *part)
{
    struct api_reply reply = call(world, members);
    assert_int_equal(reply.status, 400);
    if (!strstr(reply.body, part))
        fail_msg("%s is not in %s", part, reply.body);
    free(reply.body);
}

static json_t *item(const json_t *root, size_t i)
{
    return json_array_get(json_object_get(root, "output"), i);
}

static const char *text_of(const json_t *one, const char *member)
{
    return json_string_value(
        json_object_get(json_array_get(json_object_get(one, member), 0), "text"));
}

static const json_t *logprobs_of(const json_t *root)
{
    return json_object_get(json_array_get(json_object_get(item(root, 1), "content"), 0),
                           "logprobs");
}

static void logprobs_come_if_they_are_included(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    json_t *plain = ask(world, ",\"input\":\"hi\"");
    assert_int_equal(json_array_size(logprobs_of(plain)), 0);
    json_t *root = ask(world, ",\"input\":\"hi\",\"include\":[\"message.output_text.logprobs\"],"
                              "\"top_logprobs\":2");
    const json_t *list = logprobs_of(root);
    const char *text = text_of(item(root, 1), "content");
    assert_string_equal(text, text_of(item(plain, 1), "content"));
    char joined[256] = "";
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        strncat(joined, json_string_value(json_object_get(one, "token")), 32);
        assert_int_equal(json_array_size(json_object_get(one, "top_logprobs")), 2);
    }
    assert_string_equal(joined, text);
    json_decref(root);
    json_decref(plain);
    refuse(world, ",\"input\":\"hi\",\"include\":5", "include");
    refuse(world, ",\"input\":\"hi\",\"top_logprobs\":99", "top_logprobs");
    api_world_destroy(world);
}

/* The data of the events of a type, in a list. */
static json_t *events(const char *stream, const char *type)
{
    json_t *list = json_array();
    for (const char *at = stream; (at = strstr(at, "\ndata: ")); at++) {
        json_t *data = json_loads(at + 7, JSON_ALLOW_NUL | JSON_DISABLE_EOF_CHECK, NULL);
        assert_non_null(data);
        if (strcmp(json_string_value(json_object_get(data, "type")), type) == 0)
            json_array_append(list, data);
        json_decref(data);
    }
    return list;
}

static void a_stream_has_the_same_logprobs(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    const char *members = ",\"input\":\"hi\",\"include\":[\"message.output_text.logprobs\"]";
    char streamed[256];
    (void)snprintf(streamed, sizeof streamed, "%s,\"stream\":true", members);
    json_t *whole = ask(world, members), *joined = json_array();
    struct api_reply reply = call(world, streamed);
    json_t *deltas = events(reply.body, "response.output_text.delta");
    size_t i;
    json_t *delta;
    json_array_foreach(deltas, i, delta)
        json_array_extend(joined, json_object_get(delta, "logprobs"));
    assert_true(json_array_size(deltas) > 3);
    assert_true(json_equal(joined, logprobs_of(whole)));
    json_t *done = events(reply.body, "response.output_text.done");
    assert_true(json_equal(json_object_get(json_array_get(done, 0), "logprobs"), joined));
    json_decref(done);
    json_decref(deltas);
    json_decref(joined);
    json_decref(whole);
    free(reply.body);
    api_world_destroy(world);
}

static void reasoning_may_be_a_summary(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    json_t *plain = ask(world, ",\"input\":\"hi\"");
    json_t *root = ask(world, ",\"input\":\"hi\",\"reasoning\":{\"summary\":\"auto\"}");
    assert_string_equal(text_of(item(root, 0), "summary"), text_of(item(plain, 0), "content"));
    assert_int_equal(json_array_size(json_object_get(item(root, 0), "content")), 0);
    struct api_reply reply =
        call(world, ",\"input\":\"hi\",\"stream\":true,\"reasoning\":{\"summary\":\"detailed\"}");
    assert_null(strstr(reply.body, "reasoning_text"));
    static const char *const types[] = {"part.added", "text.delta", "text.done", "part.done"};
    const char *at = reply.body;
    for (size_t i = 0; i < 4; i++) {
        char type[64];
        (void)snprintf(type, sizeof type, "event: response.reasoning_summary_%s\n", types[i]);
        at = strstr(at, type);
        assert_non_null(at);
    }
    free(reply.body);
    json_decref(root);
    json_decref(plain);
    api_world_destroy(world);
}

static json_int_t n_input(const json_t *root)
{
    return json_integer_value(json_object_get(json_object_get(root, "usage"), "input_tokens"));
}

/* Sent back in a chain of their own they make the same prompt. */
static void sealed_reasoning_comes_back(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    json_t *root = ask(
        world, ",\"input\":\"hi\",\"store\":false,\"include\":[\"reasoning.encrypted_content\"]");
    const char *sealed = json_string_value(json_object_get(item(root, 0), "encrypted_content"));
    const char *thought = text_of(item(root, 0), "content");
    assert_non_null(sealed);
    assert_null(strstr(sealed, thought));
    char open[1024], shut[1024], none[1024];
    static const char behind[] = "{\"role\":\"assistant\",\"content\":\"yes\"}";
    (void)snprintf(open, sizeof open,
                   ",\"input\":[{\"type\":\"reasoning\",\"summary\":[],\"content\":[{\"type\":"
                   "\"reasoning_text\",\"text\":\"%s\"}]},%s]",
                   thought, behind);
    (void)snprintf(shut, sizeof shut,
                   ",\"input\":[{\"type\":\"reasoning\",\"summary\":[],\"content\":null,"
                   "\"encrypted_content\":\"%s\"},%s]",
                   sealed, behind);
    (void)snprintf(none, sizeof none,
                   ",\"input\":[{\"type\":\"reasoning\",\"summary\":[],\"encrypted_content\":"
                   "\"gAAAA_of_another\"},%s]",
                   behind);
    json_t *a = ask(world, open), *b = ask(world, shut), *c = ask(world, none);
    assert_int_equal(n_input(a), n_input(b));
    assert_true(n_input(c) < n_input(b));
    assert_string_equal(text_of(item(a, 1), "content"), text_of(item(b, 1), "content"));
    json_decref(a);
    json_decref(b);
    json_decref(c);
    json_decref(root);
    refuse(world, ",\"input\":[{\"type\":\"reasoning\",\"encrypted_content\":5}]",
           "encrypted_content");
    api_world_destroy(world);
}

static void a_reference_is_the_item(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    json_t *root = ask(world, ",\"input\":\"hi\"");
    const char *id = json_string_value(json_object_get(item(root, 1), "id"));
    char by_id[1024], whole[1024];
    (void)snprintf(by_id, sizeof by_id, ",\"input\":[{\"type\":\"item_reference\",\"id\":\"%s\"}]",
                   id);
    (void)snprintf(whole, sizeof whole, ",\"input\":[{\"role\":\"assistant\",\"content\":\"%s\"}]",
                   text_of(item(root, 1), "content"));
    json_t *a = ask(world, by_id), *b = ask(world, whole);
    assert_int_equal(n_input(a), n_input(b));
    assert_string_equal(text_of(item(a, 1), "content"), text_of(item(b, 1), "content"));
    json_decref(a);
    json_decref(b);
    json_decref(root);
    refuse(world, ",\"input\":[{\"type\":\"item_reference\",\"id\":\"msg_nobody\"}]", "input[0]");
    refuse(world, ",\"input\":[{\"type\":\"item_reference\"}]", "input[0]");
    api_world_destroy(world);
}

static void wrong_members_are_refused(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", template_open);
    refuse(world, ",\"input\":\"x\",\"truncation\":\"some\"", "truncation");
    refuse(world, ",\"input\":\"x\",\"max_tool_calls\":0", "max_tool_calls");
    json_t *root = ask(world, ",\"input\":\"x\",\"truncation\":\"auto\",\"max_tool_calls\":3");
    assert_int_equal(json_integer_value(json_object_get(root, "max_tool_calls")), 3);
    json_decref(root);
    api_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logprobs_come_if_they_are_included),
        cmocka_unit_test(a_stream_has_the_same_logprobs),
        cmocka_unit_test(reasoning_may_be_a_summary),
        cmocka_unit_test(sealed_reasoning_comes_back),
        cmocka_unit_test(a_reference_is_the_item),
        cmocka_unit_test(wrong_members_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
