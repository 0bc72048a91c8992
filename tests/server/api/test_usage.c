/* What a reply says it used is what was used: prompt tokens that were cached are exact, whatever
 * the endpoint, stream or not, and add up to what the metrics count. */
#include "api_fixture.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHAT        "/v1/chat/completions"
#define COMPLETIONS "/v1/completions"

enum { PAGE = 16 };

struct usage {
    json_int_t prompt, cached, output;
};

static struct usage read_usage(const json_t *root)
{
    const json_t *usage = json_object_get(root, "usage");
    const json_t *details = json_object_get(usage, "prompt_tokens_details");
    const struct usage found = {
        .prompt = json_integer_value(json_object_get(usage, "prompt_tokens")),
        .cached = json_integer_value(json_object_get(details, "cached_tokens")),
        .output = json_integer_value(json_object_get(usage, "completion_tokens")),
    };
    assert_true(json_is_integer(json_object_get(details, "cached_tokens")));
    assert_int_equal(json_integer_value(json_object_get(usage, "total_tokens")),
                     found.prompt + found.output);
    return found;
}

static struct usage ask(struct api_world *world, const char *path, const char *body)
{
    struct api_reply reply = api_post(world, path, body);
    json_t *root = json_loadb(reply.body, reply.len, JSON_ALLOW_NUL, NULL);
    if (reply.status != 200 || !root)
        fail_msg("%d: %s", reply.status, reply.body);
    struct usage usage = read_usage(root);
    json_decref(root);
    free(reply.body);
    return usage;
}

/* The usage of every frame that has one: the last is the request's, the others that so far. */
static struct usage ask_stream(struct api_world *world, const char *path, const char *body,
                               bool is_continuous)
{
    struct api_reply reply = api_post(world, path, body);
    struct usage last = {.cached = -1};
    uint32_t n_frames = 0;
    assert_int_equal(reply.status, 200);
    for (const char *at = reply.body; strncmp(at, "data: {", 7) == 0; n_frames++) {
        const char *end = strstr(at, "\n\n");
        json_t *root = json_loadb(at + 6, (size_t)(end - at) - 6, JSON_ALLOW_NUL, NULL);
        if (json_is_object(json_object_get(root, "usage"))) {
            struct usage usage = read_usage(root);
            assert_true(last.cached < 0 || last.cached == usage.cached);
            assert_true(usage.output >= last.output);
            last = usage;
        } else {
            assert_false(is_continuous);
        }
        json_decref(root);
        at = end + 2;
    }
    assert_true(n_frames > 1);
    free(reply.body);
    return last;
}

/* What a prompt of n tokens may take of the same one: whole pages, all but the last token, which
 * always runs. */
static json_int_t reusable(json_int_t n)
{
    return n % PAGE == 0 ? n - 1 : n / PAGE * PAGE;
}

static void check(struct usage found, json_int_t cached, json_int_t output)
{
    assert_int_equal(found.cached, cached);
    assert_int_equal(found.output, output);
}

#define LETTERS                                                                                    \
    "the quick brown fox jumps over the lazy dog and then the dog jumps over the quick fox while " \
    "zebras, yaks and walruses look on: who would have thought of that in the year 1984?"
#define ONE    "\"max_tokens\":1,\"ignore_eos\":true"
#define STREAM ",\"stream\":true,\"stream_options\":{\"include_usage\":true"

static void a_completion_names_its_cached_tokens(void **state)
{
    (void)state;
    struct api_world *world = api_world_create_with_cache("llama");
    const char *body = "{\"prompt\":\"" LETTERS "\"," ONE "}";
    struct usage first = ask(world, COMPLETIONS, body);
    assert_true(first.prompt > 3 * PAGE);
    check(first, 0, 1);
    check(ask(world, COMPLETIONS, body), reusable(first.prompt), 1);
    check(ask_stream(world, COMPLETIONS, "{\"prompt\":\"" LETTERS "\"," ONE STREAM "}}", false),
          reusable(first.prompt), 1);
    check(ask_stream(world, COMPLETIONS,
                     "{\"prompt\":\"" LETTERS "\"," ONE STREAM ",\"continuous_usage_stats\":true}}",
                     true),
          reusable(first.prompt), 1);
    /* n choices have one prompt; the prompts of a list are added up */
    check(ask(world, COMPLETIONS, "{\"prompt\":\"" LETTERS "\",\"n\":3," ONE "}"),
          reusable(first.prompt), 3);
    check(ask(world, COMPLETIONS, "{\"prompt\":[\"" LETTERS "\",\"x\",\"" LETTERS "\"]," ONE "}"),
          2 * reusable(first.prompt), 3);
    check(ask_stream(world, COMPLETIONS,
                     "{\"prompt\":[\"" LETTERS "\",\"" LETTERS "\"],\"n\":2," ONE STREAM
                     ",\"continuous_usage_stats\":true}}",
                     true),
          2 * reusable(first.prompt), 4);
    /* another namespace */
    check(ask(world, COMPLETIONS, "{\"prompt\":\"" LETTERS "\",\"cache_salt\":\"x\"," ONE "}"), 0,
          1);
    api_world_destroy(world);
}

static void a_chat_names_its_cached_tokens(void **state)
{
    (void)state;
    struct api_world *world = api_world_create_with_cache("llama");
    const char *body = "{\"messages\":[{\"role\":\"user\",\"content\":\"" LETTERS "\"}]," ONE "}";
    struct usage first = ask(world, CHAT, body);
    check(first, 0, 1);
    check(ask(world, CHAT, body), reusable(first.prompt), 1);
    check(ask_stream(world, CHAT,
                     "{\"messages\":[{\"role\":\"user\",\"content\":\"" LETTERS "\"}]," ONE STREAM
                     "}}",
                     false),
          reusable(first.prompt), 1);
    check(ask_stream(world, CHAT,
                     "{\"messages\":[{\"role\":\"user\",\"content\":\"" LETTERS
                     "\"}],\"n\":2," ONE STREAM ",\"continuous_usage_stats\":true}}",
                     true),
          reusable(first.prompt), 2);
    api_world_destroy(world);
}

static void all_usages_add_up_to_the_metrics(void **state)
{
    (void)state;
    struct api_world *world = api_world_create_with_cache("llama");
    json_int_t prompt = 0, cached = 0, output = 0;
    for (uint32_t i = 0; i < 40; i++) {
        char body[512];
        (void)snprintf(body, sizeof body,
                       "{\"prompt\":\"%.*s%.*s\",\"n\":%u,\"max_tokens\":%u,\"temperature\":3}",
                       (int)(40 + 20 * (i % 5)), LETTERS, (int)(i % 20), &LETTERS[i % 26],
                       1 + i % 3, 1 + i % 25);
        struct usage usage = ask(world, COMPLETIONS, body);
        prompt += usage.prompt;
        cached += usage.cached;
        output += usage.output;
    }
    assert_true(cached > 0);
    assert_true(metrics_get(world->metrics, METRIC_PROMPT_TOKENS) == (double)prompt);
    assert_true(metrics_get(world->metrics, METRIC_CACHED_TOKENS) == (double)cached);
    assert_true(metrics_get(world->metrics, METRIC_COMPUTED_TOKENS) == (double)(prompt - cached));
    assert_true(metrics_get(world->metrics, METRIC_GENERATED_TOKENS) == (double)output);
    api_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_completion_names_its_cached_tokens),
        cmocka_unit_test(a_chat_names_its_cached_tokens),
        cmocka_unit_test(all_usages_add_up_to_the_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
