#include "server/dialects/openai_reply.h"
#include "server/endpoints.h"
#include "server/request/chat_prompt.h"

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

static void generate(struct exchange *x, struct chat_call *call, int32_t n_logprobs)
{
    const struct openai_reply_setup setup = {.exchange = x,
                                             .call = call,
                                             .n_logprobs = n_logprobs,
                                             .n_shown = (uint32_t)call->fields.n,
                                             .n_prompts = 1,
                                             .n_prompt_tokens = call->request->n_prompt};
    struct openai_reply *reply = openai_reply_create(&setup);
    if (reply &&
        !openai_reply_set_prompt(reply, 0, call->request->prompt, call->request->n_prompt)) {
        openai_reply_destroy(reply);
        reply = NULL;
    }
    if (reply) {
        chat_call_generate(x, call, &openai_reply_encoder, reply);
        return;
    }
    struct api_error e;
    (void)api_error_no_memory(&e);
    chat_call_release(call);
    exchange_fail(x, &e);
}

void endpoint_chat_completions(struct exchange *x)
{
    struct api_fields fields;
    struct api_error e;
    struct chat_call call;
    int32_t n_logprobs = -1;
    bool ignored;
    if (!api_fields_read(x, API_CHAT, &fields, &e)) {
        exchange_fail(x, &e);
        return;
    }
    if (!openai_read_stream_options(&fields, &ignored, &ignored, &e) ||
        !read_logprobs(&fields, &n_logprobs, &e)) {
        api_fields_release(&fields);
        exchange_fail(x, &e);
    } else if (chat_call_make(x, &fields, n_logprobs, &call, &e)) {
        generate(x, &call, n_logprobs);
    } else {
        exchange_fail(x, &e);
    }
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
    struct tool_use tools;
    buffer_init(&prompt, LIMIT_TEMPLATE_OUTPUT);
    buffer_init(&body, 8 * LIMIT_TEMPLATE_OUTPUT);
    if (tool_use_read(&fields, &tools, &e) &&
        chat_prompt_render(x, &fields, tools.list, &prompt, &e)) {
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
    tool_use_release(&tools);
    api_fields_release(&fields);
}
