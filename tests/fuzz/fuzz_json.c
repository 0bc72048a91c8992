/* Any bytes as the body of any endpoint that takes one: the first byte chooses it. The request
 * runs on the null delegate for a few steps, then its client leaves. Every reply that is not a
 * stream is JSON, and nothing is left in the engine. */
#include "server/api/api_fixture.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_STEPS 24

static const struct {
    const char *path;
    bool is_encoder;
} targets[] = {
    {"/v1/chat/completions", false},
    {"/v1/completions", false},
    {"/v1/embeddings", true},
    {"/tokenize", false},
    {"/detokenize", false},
    {"/apply-template", false},
    {"/v1/messages", false},
    {"/v1/responses", false},
    {"/generate", false},
    {"/v1/messages/count_tokens", false},
    {"/completion", false},
    {"/infill", false},
};

/* Tools and documents show, too. */
#define TEMPLATE                                                                                   \
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"                             \
    "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"        \
    "{{ documents | tojson }}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

/* Keys with a zero byte are legal in JSON and not for this parser, so pieces are not checked. */
static void check_body(const struct api_reply *reply)
{
    json_error_t error;
    if (reply->status == 500)
        abort();
    if (reply->was_aborted || strncmp(reply->body, "event: ", 7) == 0 ||
        strncmp(reply->body, "data: ", 6) == 0)
        return;
    json_t *root = json_loadb(reply->body, reply->len, JSON_ALLOW_NUL, &error);
    if (!root && json_error_code(&error) != json_error_null_byte_in_key)
        abort();
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct api_world *worlds[2];
    if (!worlds[0]) {
        worlds[0] = api_world_create_for_fill_in("llama", TEMPLATE);
        worlds[1] = api_world_create("bert", NULL);
    }
    if (size == 0)
        return 0;
    size_t i = data[0] % (sizeof targets / sizeof *targets);
    struct api_reply reply = api_call_and_leave(worlds[targets[i].is_encoder], targets[i].path,
                                                (const char *)data + 1, size - 1, MAX_STEPS);
    check_body(&reply);
    free(reply.body);
    return 0;
}
