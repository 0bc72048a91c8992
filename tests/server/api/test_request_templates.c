/* Chat templates that requests bring. */
#include "api_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PATH "/apply-template"
#define OWN                                                                                        \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"chat_template\":\"[{{ "              \
    "messages[0].content }}|{{ tools | length }}]\",\"tools\":[{\"type\":\"function\","            \
    "\"function\":{\"name\":\"f\"}}]}"

static void check(struct api_world *world, const char *path, const char *body, int status,
                  const char *text)
{
    struct api_reply reply = api_post(world, path, body);
    if (reply.status != status || !strstr(reply.body, text))
        fail_msg("%s: %d %s", body, reply.status, reply.body);
    free(reply.body);
}

static void they_are_used_where_requests_are_trusted(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    world->options.trust_request_templates = true;
    check(world, PATH, OWN, 200, "{\"prompt\":\"[hi|1]\"}");
    check(world, "/v1/chat/completions",
          "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":1,"
          "\"chat_template\":\"x\"}",
          200, "\"prompt_tokens\":1,");
    check(world, PATH,
          "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"chat_template\":\"\"}", 200,
          "<|im_start|>"); /* the model's */
    api_world_destroy(world);
}

static void elsewhere_they_are_refused(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    check(world, PATH, OWN, 400, "unsupported_value");
    api_world_destroy(world);
}

static void broken_ones_are_errors_of_the_request(void **state)
{
    (void)state;
    struct api_world *world = api_world_create("llama", NULL);
    world->options.trust_request_templates = true;
    check(world, PATH,
          "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"chat_template\":\"{% if %}\"}",
          400, "template_error");
    check(world, PATH,
          "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"chat_template\":\"{% for i in "
          "range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}\"}",
          400, "template_error");
    api_world_destroy(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_are_used_where_requests_are_trusted),
        cmocka_unit_test(elsewhere_they_are_refused),
        cmocka_unit_test(broken_ones_are_errors_of_the_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
