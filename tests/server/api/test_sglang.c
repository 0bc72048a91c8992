/* SGLang's dialect: prompts of one body that are to be generated in different ways. */
#include "api_fixture.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GENERATE "/generate"
#define GREEDY   "\"temperature\":0,\"ignore_eos\":true,\"max_new_tokens\":12"

static int start(void **state)
{
    *state = api_world_create("llama", NULL);
    return *state ? 0 : -1;
}

static int stop(void **state)
{
    api_world_destroy(*state);
    return 0;
}

static json_t *generate(struct api_world *world, const char *body)
{
    struct api_reply reply = api_post(world, GENERATE, body);
    json_t *root = json_loadb(reply.body, reply.len, JSON_ALLOW_NUL, NULL);
    if (reply.status != 200 || !root)
        fail_msg("%s", reply.body);
    free(reply.body);
    return root;
}

static void refuses(struct api_world *world, const char *body, const char *param)
{
    struct api_reply reply = api_post(world, GENERATE, body);
    char wanted[64];
    (void)snprintf(wanted, sizeof wanted, "\"param\":\"%s\"", param);
    if (reply.status != 400 || !strstr(reply.body, wanted))
        fail_msg("%s: %s", body, reply.body);
    free(reply.body);
}

static const char *text_of(const json_t *choice)
{
    return json_string_value(json_object_get(choice, "text"));
}

static const char *matched_in(const json_t *choice)
{
    const json_t *meta = json_object_get(choice, "meta_info");
    return json_string_value(json_object_get(json_object_get(meta, "finish_reason"), "matched"));
}

static void each_prompt_ends_at_its_own_stops(void **state)
{
    json_t *free_choice = generate(*state, "{\"text\":\"hello\",\"sampling_params\":{" GREEDY "}}");
    const char *text = text_of(free_choice);
    char body[512];
    assert_true(strlen(text) >= 8);
    (void)snprintf(body, sizeof body,
                   "{\"text\":[\"hello\",\"hello\"],\"sampling_params\":[{" GREEDY
                   ",\"stop\":[\"~none~\",\"%.2s\"]},{" GREEDY ",\"stop\":\"%.3s\"}]}",
                   text + 5, text + 2);
    json_t *list = generate(*state, body);
    assert_int_equal(json_array_size(list), 2);
    const char *first = matched_in(json_array_get(list, 0)),
               *second = matched_in(json_array_get(list, 1));
    assert_non_null(first);
    assert_non_null(second);
    assert_memory_equal(first, text + 5, 2);
    assert_memory_equal(second, text + 2, 3);
    json_decref(list);
    json_decref(free_choice);
}

/* Never enforced for some of the prompts alone. */
static void all_prompts_have_one_form(void **state)
{
    static const char form[] = "\"max_new_tokens\":8,\"regex\":\"[ab]{3}\"";
    char body[512];
    (void)snprintf(body, sizeof body,
                   "{\"text\":[\"a\",\"b\"],\"sampling_params\":[{%s},{%s,\"temperature\":0}]}",
                   form, form);
    json_t *list = generate(*state, body);
    for (size_t i = 0; i < 2; i++) {
        const char *text = text_of(json_array_get(list, i));
        assert_int_equal(strlen(text), 3);
        assert_int_equal(strspn(text, "ab"), 3);
    }
    json_decref(list);
    (void)snprintf(body, sizeof body, "{\"text\":[\"a\",\"b\"],\"sampling_params\":[{%s},{}]}",
                   form);
    refuses(*state, body, "sampling_params");
    (void)snprintf(body, sizeof body, "{\"text\":[\"a\",\"b\"],\"sampling_params\":[{},{%s}]}",
                   form);
    refuses(*state, body, "sampling_params");
    (void)snprintf(body, sizeof body,
                   "{\"text\":[\"a\",\"b\"],\"sampling_params\":[{%s},{\"regex\":\"[ab]{4}\"}]}",
                   form);
    refuses(*state, body, "sampling_params");
}

static void tags_are_a_text_or_an_object_and_never_ignored(void **state)
{
#define TAGS(q)                                                                                    \
    "{" q "type" q ":" q "structural_tag" q "," q "format" q ":{" q "type" q ":" q                 \
    "const_string" q "," q "value" q ":" q "abc" q "}}"
    static const char *const good[] = {TAGS("\""), "\"" TAGS("\\\"") "\""};
    static const char *const bad[] = {"\"{\"", "\"\"", "5", "true", "{}", "[]", "\"5\""};
    char body[512];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        (void)snprintf(body, sizeof body,
                       "{\"text\":\"x\",\"sampling_params\":{\"structural_tag\":%s}}", good[i]);
        json_t *choice = generate(*state, body);
        assert_string_equal(text_of(choice), "abc");
        json_decref(choice);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        (void)snprintf(body, sizeof body,
                       "{\"text\":\"x\",\"sampling_params\":{\"structural_tag\":%s}}", bad[i]);
        refuses(*state, body, "response_format");
    }
    json_decref(generate(*state, "{\"text\":\"x\",\"sampling_params\":{\"structural_tag\":null,"
                                 "\"max_new_tokens\":1}}"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_prompt_ends_at_its_own_stops, start, stop),
        cmocka_unit_test_setup_teardown(all_prompts_have_one_form, start, stop),
        cmocka_unit_test_setup_teardown(tags_are_a_text_or_an_object_and_never_ignored, start,
                                        stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
