#include "server/chat_prompt.h"
#include "server/endpoints.h"
#include "server/openai_reply.h"

#include <stdlib.h>
#include <string.h>

/* logprobs: true, with top_logprobs 0..20; -1: none. */
static bool read_logprobs(const struct api_fields *f, int32_t *out, struct api_error *e)
{
    if (f->logprobs && !json_is_boolean(f->logprobs)) {
        api_error_set(e, "invalid_type", "logprobs", "logprobs has to be true or false.");
        return false;
    }
    bool is_on = json_is_true(f->logprobs);
    if (!is_on && f->top_logprobs != API_UNSET && f->top_logprobs > 0) {
        api_error_set(e, "invalid_value", "top_logprobs", "top_logprobs needs logprobs: true.");
        return false;
    }
    *out = -1;
    if (is_on)
        *out = f->top_logprobs == API_UNSET ? 0 : (int32_t)f->top_logprobs;
    return true;
}

static bool check_fields(struct exchange *x, const struct api_fields *f, struct api_error *e)
{
    bool ignored;
    if (!api_check_generates(x, e))
        return false;
    return openai_read_stream_options(f, &ignored, &ignored, e);
}

static struct request *make_request(struct exchange *x, const struct api_fields *f,
                                    int32_t n_logprobs, struct api_error *e)
{
    struct buffer prompt;
    struct token_list ids;
    struct request *request = NULL;
    buffer_init(&prompt, LIMIT_TEMPLATE_OUTPUT);
    token_list_init(&ids, LIMIT_CONTEXT);
    if (chat_prompt_render(x, f, &prompt, e) &&
        api_tokenize(x, buffer_str(&prompt), prompt.len,
                     TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, "messages", &ids, e)) {
        if (ids.n == 0)
            api_error_set(e, "invalid_value", "messages", "The prompt has no tokens.");
        else
            request = api_make_request(x, f, ids.id, ids.n, -1, n_logprobs, "messages", e);
    }
    token_list_deinit(&ids);
    buffer_deinit(&prompt);
    return request;
}

static void generate(struct exchange *x, struct api_fields *f, struct request *request,
                     int32_t n_logprobs)
{
    bool is_stream = f->stream;
    const struct openai_reply_setup setup = {.exchange = x,
                                             .fields = f,
                                             .is_chat = true,
                                             .n_logprobs = n_logprobs,
                                             .n_shown = (uint32_t)f->n,
                                             .n_prompts = 1,
                                             .n_prompt_tokens = request->n_prompt};
    struct request **requests = calloc(1, sizeof *requests);
    struct openai_reply *reply = requests ? openai_reply_create(&setup) : NULL;
    if (reply) {
        requests[0] = request;
        exchange_generate(x, requests, 1, &openai_reply_encoder, reply, is_stream);
        return;
    }
    struct api_error e;
    api_error_set(&e, "model_unavailable", NULL, "The server is out of memory.");
    if (!requests)
        api_fields_release(f);
    free(requests);
    request_destroy(request);
    exchange_fail(x, &e);
}

void endpoint_chat_completions(struct exchange *x)
{
    struct api_fields fields;
    struct api_error e;
    int32_t n_logprobs = -1;
    if (!api_fields_read(x, API_CHAT, &fields, &e)) {
        exchange_fail(x, &e);
        return;
    }
    struct request *request = NULL;
    if (check_fields(x, &fields, &e) && read_logprobs(&fields, &n_logprobs, &e))
        request = make_request(x, &fields, n_logprobs, &e);
    if (request) {
        generate(x, &fields, request, n_logprobs);
        return;
    }
    api_fields_release(&fields);
    exchange_fail(x, &e);
}

void endpoint_apply_template(struct exchange *x)
{
    struct api_fields fields;
    struct api_error e;
    struct buffer prompt, body;
    if (!api_fields_read(x, API_APPLY_TEMPLATE, &fields, &e)) {
        exchange_fail(x, &e);
        return;
    }
    buffer_init(&prompt, LIMIT_TEMPLATE_OUTPUT);
    buffer_init(&body, 8 * LIMIT_TEMPLATE_OUTPUT);
    if (chat_prompt_render(x, &fields, &prompt, &e)) {
        size_t n = prompt.data ? tokenizer_unguard(prompt.data, prompt.len) : 0;
        buffer_append_str(&body, "{\"prompt\":\"");
        buffer_append_json(&body, buffer_str(&prompt), n);
        buffer_append_str(&body, "\"}");
        exchange_reply(x, 200, "application/json", &body);
    } else {
        exchange_fail(x, &e);
    }
    buffer_deinit(&body);
    buffer_deinit(&prompt);
    api_fields_release(&fields);
}
