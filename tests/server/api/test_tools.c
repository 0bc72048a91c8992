/* Calls through all dialects, whole and streamed: the same ones, whatever the family writes. */
#include "api_fixture.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SCHEMA                                                                                     \
    "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\",\"maxLength\":6},"         \
    "\"unit\":{\"enum\":[\"c\",\"f\"]},\"days\":{\"type\":\"integer\",\"minimum\":0,"              \
    "\"maximum\":9}},\"required\":[\"city\",\"days\"],\"additionalProperties\":false}"
#define FUNCTION "\"name\":\"get\",\"parameters\":" SCHEMA
#define SAMPLING "\"temperature\":0,\"max_tokens\":200"
#define USER     "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define CHAT_BODY                                                                                  \
    "{" USER "," SAMPLING ",\"tools\":[{\"type\":\"function\",\"function\":{" FUNCTION "}}]"

static const char *const hints[] = {"<tool_call>",
                                    "<function= <parameter=",
                                    "[TOOL_CALLS] [ARGS]",
                                    "<|tool_call_argument_begin|>",
                                    "DSML invoke",
                                    "\"parameters\": ipython",
                                    "<|channel|> <|constrain|>",
                                    "<arg_key>",
                                    "[func_name1(params_name1=params_value1"};

static struct api_world *world_of(const char *hint)
{
    static char source[256]; /* the world keeps it */
    (void)snprintf(source, sizeof source,
                   "{%% for m in messages %%}{{ m.content }}{%% endfor %%}{# tools %s #}", hint);
    return api_world_create("llama", source);
}

static struct api_reply post(struct api_world *world, const char *path, const char *body)
{
    struct api_reply reply = api_post(world, path, body);
    if (reply.status != 200)
        fail_msg("%d: %s", reply.status, reply.body);
    return reply;
}

static json_t *ask(struct api_world *world, const char *path, const char *body)
{
    struct api_reply reply = post(world, path, body);
    json_t *root = json_loadb(reply.body, reply.len, JSON_ALLOW_NUL, NULL);
    assert_non_null(root);
    free(reply.body);
    return root;
}

/* The data of a stream's frames. */
static json_t *frames(struct api_world *world, const char *path, const char *body)
{
    struct api_reply reply = post(world, path, body);
    json_t *list = json_array();
    for (const char *at = reply.body; (at = strstr(at, "data: {")); at++) {
        json_t *data = json_loads(at + 6, JSON_ALLOW_NUL | JSON_DISABLE_EOF_CHECK, NULL);
        assert_non_null(data);
        (void)json_array_append_new(list, data);
    }
    free(reply.body);
    return list;
}

/* "name(arguments);" of each call. */
struct calls {
    char text[4096];
};

static void add(struct calls *calls, const char *text)
{
    strncat(calls->text, text ? text : "", sizeof calls->text - strlen(calls->text) - 1);
}

static void add_call(struct calls *calls, const char *name, const char *arguments)
{
    add(calls, name);
    add(calls, "(");
    add(calls, arguments);
    add(calls, ");");
}

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static json_t *first_choice(const json_t *root)
{
    return json_array_get(json_object_get(root, "choices"), 0);
}

static struct calls of_chat(struct api_world *world, const char *tail)
{
    struct calls calls = {""};
    char body[2048];
    size_t i;
    json_t *call;
    (void)snprintf(body, sizeof body, CHAT_BODY "%s}", tail);
    json_t *root = ask(world, "/v1/chat/completions", body);
    json_t *choice = first_choice(root);
    assert_string_equal(text_of(choice, "finish_reason"), "tool_calls");
    assert_true(json_is_null(json_object_get(json_object_get(choice, "message"), "content")));
    json_array_foreach(json_object_get(json_object_get(choice, "message"), "tool_calls"), i, call)
    {
        const json_t *function = json_object_get(call, "function");
        json_t *arguments = json_loads(text_of(function, "arguments"), JSON_ALLOW_NUL, NULL);
        assert_string_equal(text_of(function, "name"), "get");
        assert_true(json_is_string(json_object_get(arguments, "city")));
        assert_true(json_is_integer(json_object_get(arguments, "days")));
        json_decref(arguments);
        add_call(&calls, "get", text_of(function, "arguments"));
    }
    json_decref(root);
    return calls;
}

static struct calls of_chat_stream(struct api_world *world, const char *tail)
{
    struct calls calls = {""};
    char body[2048];
    size_t i, n_calls = 0;
    json_t *frame;
    (void)snprintf(body, sizeof body, CHAT_BODY "%s,\"stream\":true}", tail);
    json_t *list = frames(world, "/v1/chat/completions", body);
    json_array_foreach(list, i, frame)
    {
        const json_t *delta = json_object_get(first_choice(frame), "delta");
        const json_t *call = json_array_get(json_object_get(delta, "tool_calls"), 0);
        const json_t *function = json_object_get(call, "function");
        assert_null(text_of(delta, "content"));
        if (text_of(function, "name")) {
            assert_int_equal(json_integer_value(json_object_get(call, "index")), n_calls);
            add(&calls, n_calls++ > 0 ? ");" : "");
            add(&calls, text_of(function, "name"));
            add(&calls, "(");
        }
        add(&calls, text_of(function, "arguments"));
    }
    add(&calls, ");");
    json_decref(list);
    return calls;
}

static struct calls of_messages(struct api_world *world)
{
    struct calls calls = {""};
    size_t i;
    json_t *block;
    json_t *root = ask(world, "/v1/messages",
                       "{" USER "," SAMPLING ",\"tool_choice\":{\"type\":\"any\","
                       "\"disable_parallel_tool_use\":true},\"tools\":[{\"name\":\"get\","
                       "\"input_schema\":" SCHEMA "}]}");
    assert_string_equal(text_of(root, "stop_reason"), "tool_use");
    json_array_foreach(json_object_get(root, "content"), i, block)
    {
        char *input = json_dumps(json_object_get(block, "input"), 0);
        assert_string_equal(text_of(block, "type"), "tool_use");
        add_call(&calls, text_of(block, "name"), input);
        free(input);
    }
    json_decref(root);
    return calls;
}

#define RESPONSE                                                                                   \
    "{\"input\":\"hi\",\"temperature\":0,\"max_output_tokens\":200,\"tool_choice\":\"required\","  \
    "\"parallel_tool_calls\":false,\"tools\":[{\"type\":\"function\"," FUNCTION "}]"

static struct calls of_responses(struct api_world *world)
{
    struct calls calls = {""};
    size_t i;
    json_t *item;
    json_t *root = ask(world, "/v1/responses", RESPONSE "}");
    json_array_foreach(json_object_get(root, "output"), i, item)
    {
        assert_string_equal(text_of(item, "type"), "function_call");
        add_call(&calls, text_of(item, "name"), text_of(item, "arguments"));
    }
    json_decref(root);
    return calls;
}

static struct calls of_responses_stream(struct api_world *world)
{
    struct calls calls = {""};
    size_t i;
    json_t *frame;
    json_t *list = frames(world, "/v1/responses", RESPONSE ",\"stream\":true}");
    json_array_foreach(list, i, frame)
    {
        const char *type = text_of(frame, "type");
        if (strcmp(type, "response.output_item.added") == 0) {
            add(&calls, text_of(json_object_get(frame, "item"), "name"));
            add(&calls, "(");
        } else if (strcmp(type, "response.function_call_arguments.delta") == 0) {
            add(&calls, text_of(frame, "delta"));
        } else if (strcmp(type, "response.output_item.done") == 0) {
            add(&calls, ");");
        }
    }
    json_decref(list);
    return calls;
}

/* As one text of JSON, which is what dialects may spell differently. */
static void assert_same_input(const struct calls *a, const struct calls *b)
{
    const char *x = strchr(a->text, '('), *y = strchr(b->text, '(');
    json_t *p = json_loads(x + 1, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL);
    json_t *q = json_loads(y + 1, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL);
    if (!json_is_object(p) || !json_equal(p, q))
        fail_msg("%s and %s", a->text, b->text);
    json_decref(p);
    json_decref(q);
}

/* Calls that replies had, of the world's family. */
static double count_calls(struct api_world *world, const char *result)
{
    char line[128];
    struct buffer text;
    buffer_init(&text, MIB);
    metrics_render(world->metrics, &text);
    (void)snprintf(line, sizeof line, "serverd_tool_calls_total{parser=\"%s\",result=\"%s\"} ",
                   world->model.output.family->name, result);
    const char *at = strstr(buffer_str(&text), line);
    const double n = at ? strtod(at + strlen(line), NULL) : 0;
    buffer_deinit(&text);
    return n;
}

static void every_dialect_has_the_same_call(void **state)
{
    (void)state;
    static const char one[] = ",\"tool_choice\":\"required\",\"parallel_tool_calls\":false";
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        struct api_world *world = world_of(hints[i]);
        const struct calls whole = of_chat(world, one), streamed = of_chat_stream(world, one);
        const struct calls messages = of_messages(world), responses = of_responses(world);
        const struct calls events = of_responses_stream(world);
        print_message("%s: %s\n", world->model.output.family->name, whole.text);
        assert_string_equal(whole.text, streamed.text);
        assert_string_equal(whole.text, responses.text);
        assert_string_equal(whole.text, events.text);
        assert_same_input(&whole, &messages);
        assert_true(count_calls(world, "ok") + count_calls(world, "cut") == 5);
        api_world_destroy(world);
    }
}

/* A call or an answer of that form. */
static void content_with_a_form_stands_beside_tools(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        struct api_world *world = world_of(hints[i]);
        json_t *root =
            ask(world, "/v1/chat/completions",
                CHAT_BODY ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{"
                          "\"name\":\"a\",\"schema\":{\"type\":\"object\",\"properties\":{"
                          "\"n\":{\"type\":\"boolean\"}},\"required\":[\"n\"],"
                          "\"additionalProperties\":false}}}}");
        const json_t *choice = first_choice(root);
        const char *finish = text_of(choice, "finish_reason");
        const char *content = text_of(json_object_get(choice, "message"), "content");
        if (strcmp(finish, "length") == 0) { /* a call's arguments may be any object */
            print_message("%s: a call that goes on\n", world->model.output.family->name);
        } else if (strcmp(finish, "tool_calls") != 0) {
            json_t *value = content ? json_loads(content, 0, NULL) : NULL;
            assert_string_equal(finish, "stop");
            assert_true(json_is_boolean(json_object_get(value, "n")));
            json_decref(value);
        } else {
            assert_null(content);
        }
        json_decref(root);
        api_world_destroy(world);
    }
}

/* What a notation cannot say is refused if it has to hold, and left out if not. */
static void what_cannot_be_enforced_is_refused(void **state)
{
    (void)state;
    static const char body[] =
        "{" USER "," SAMPLING ",\"tool_choice\":\"required\",\"tools\":[{\"type\":\"function\","
        "\"function\":{\"name\":\"get\",%s\"parameters\":{\"type\":\"object\",\"minProperties\":1,"
        "\"properties\":{\"a\":{\"type\":\"boolean\"}}}}}]}";
    char text[1024];
    struct api_world *world = world_of("<function= <parameter=");
    (void)snprintf(text, sizeof text, body, "\"strict\":true,");
    struct api_reply reply = api_post(world, "/v1/chat/completions", text);
    assert_int_equal(reply.status, 400);
    assert_non_null(strstr(reply.body, "unsupported_schema"));
    free(reply.body);
    world->options.tool_strict = true; /* of all, as far as it can be said */
    (void)snprintf(text, sizeof text, body, "");
    json_decref(ask(world, "/v1/chat/completions", text));
    api_world_destroy(world);
    world = world_of("<tool_call>"); /* JSON says anything */
    (void)snprintf(text, sizeof text, body, "\"strict\":true,");
    json_decref(ask(world, "/v1/chat/completions", text));
    api_world_destroy(world);
}

/* Many clients have one strict tool of their own and others that somebody else wrote. */
static void a_strict_tool_says_nothing_of_others(void **state)
{
    (void)state;
    static const char body[] =
        "{" USER "," SAMPLING ",\"tools\":[{\"type\":\"custom\",\"custom\":{\"name\":\"patch\"}},"
        "{\"type\":\"function\",\"function\":{\"name\":\"get\",\"strict\":%s,\"parameters\":{"
        "\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"https://x.example/a\"}}}}}]}";
    char text[1024];
    struct api_world *world = world_of("<tool_call>");
    (void)snprintf(text, sizeof text, body, "false");
    json_decref(ask(world, "/v1/chat/completions", text));
    (void)snprintf(text, sizeof text, body, "true");
    struct api_reply reply = api_post(world, "/v1/chat/completions", text);
    assert_int_equal(reply.status, 400);
    assert_non_null(strstr(reply.body, "unsupported_schema"));
    free(reply.body);
    api_world_destroy(world);
}

static void where_no_tool_is_allowed_there_is_text(void **state)
{
    (void)state;
    struct api_world *world = world_of("<tool_call>");
    json_t *root = ask(world, "/v1/chat/completions",
                       CHAT_BODY ",\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{"
                                 "\"mode\":\"auto\",\"tools\":[]}}}");
    assert_null(json_object_get(json_object_get(first_choice(root), "message"), "tool_calls"));
    json_decref(root);
    api_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dialect_has_the_same_call),
        cmocka_unit_test(content_with_a_form_stands_beside_tools),
        cmocka_unit_test(what_cannot_be_enforced_is_refused),
        cmocka_unit_test(a_strict_tool_says_nothing_of_others),
        cmocka_unit_test(where_no_tool_is_allowed_there_is_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
