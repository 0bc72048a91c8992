/* Anthropic's Messages: the body becomes a chat, the events become blocks. */
#include "server/dialects/anthropic_body.h"
#include "server/dialects/anthropic_reply.h"
#include "server/endpoints.h"
#include "server/request/chat_call.h"

/* needs_limit: for count_tokens max_tokens means nothing. */
static bool read_call(struct exchange *x, bool needs_limit, struct chat_call *call,
                      struct api_error *e)
{
    struct api_fields fields;
    json_t *body, *chat;
    int64_t limit = 4096;
    if (!exchange_take_json(x, &body, e))
        return false;
    const json_t *stated = json_body_get(body, "max_tokens");
    if (needs_limit && stated && (!json_body_integer(stated, &limit) || limit < 1)) {
        api_error_set(e, "invalid_value", "max_tokens", "max_tokens has to be at least 1.");
        json_decref(body);
        return false;
    }
    chat = anthropic_body_convert(x, body, e);
    json_decref(body);
    if (!chat)
        return false;
    (void)json_object_set_new(chat, "max_tokens", json_integer(needs_limit ? limit : 0));
    return api_fields_read_json(x, API_CHAT, chat, &fields, e) &&
           chat_call_make_single(x, &fields, -1, call, e);
}

void endpoint_messages(struct exchange *x)
{
    struct chat_call call;
    struct api_error e;
    if (!read_call(x, true, &call, &e)) {
        exchange_fail(x, &e);
        return;
    }
    struct anthropic_reply *reply = anthropic_reply_create(x, &call);
    if (reply) {
        chat_call_generate(x, &call, &anthropic_reply_encoder, reply);
        return;
    }
    (void)api_error_no_memory(&e);
    chat_call_release(&call);
    exchange_fail(x, &e);
}

void endpoint_count_tokens(struct exchange *x)
{
    struct chat_call call;
    struct api_error e;
    struct buffer body;
    if (!read_call(x, false, &call, &e)) {
        exchange_fail(x, &e);
        return;
    }
    buffer_init(&body, 256);
    buffer_printf(&body, "{\"input_tokens\":%u}", call.request->n_prompt);
    exchange_reply(x, 200, "application/json", &body);
    buffer_deinit(&body);
    chat_call_release(&call);
}
