/* OpenAI's Responses: made from a chat, kept for a while, continued by id. */
#include "server/endpoints.h"
#include "server/responses_body.h"
#include "server/responses_reply.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <string.h>

static uint64_t now_ns(const struct exchange *x)
{
    return clock_now_ns(exchange_context(x)->clock);
}

/* The conversation that the request goes on with; *out NULL: none. */
static bool find_previous(struct exchange *x, const json_t *body, json_t **out, struct api_error *e)
{
    const char *id = json_string_value(json_body_get(body, "previous_response_id"));
    struct stored_response stored;
    *out = NULL;
    if (!id)
        return true;
    if (!response_store_get(&x->server->responses, id, x->tenant, now_ns(x), &stored)) {
        api_error_set(e, "previous_response_not_found", "previous_response_id",
                      "There is no response with the id %.64s.", id);
        return false;
    }
    *out = json_loads(stored.messages, 0, NULL);
    stored_response_free(&stored);
    return true;
}

/* On success `body` and `call` are made. */
static bool read_call(struct exchange *x, const json_t *root, struct responses_body *body,
                      struct chat_call *call, struct api_error *e)
{
    struct api_fields fields;
    json_t *before;
    if (!find_previous(x, root, &before, e))
        return false;
    bool is_good = responses_body_convert(x, root, before, body, e);
    json_decref(before);
    if (!is_good)
        return false;
    json_t *chat = body->chat;
    body->chat = NULL;
    if (api_fields_read_json(x, API_CHAT, chat, &fields, e) &&
        chat_call_make_single(x, &fields, -1, call, e))
        return true;
    responses_body_release(body);
    return false;
}

void endpoint_responses(struct exchange *x)
{
    struct responses_body body;
    struct chat_call call;
    struct api_error e;
    json_t *root;
    if (!exchange_take_json(x, &root, &e)) {
        exchange_fail(x, &e);
        return;
    }
    if (!read_call(x, root, &body, &call, &e)) {
        json_decref(root);
        exchange_fail(x, &e);
        return;
    }
    struct responses_reply *reply = responses_reply_create(x, &call, root, &body);
    if (reply) {
        chat_call_generate(x, &call, &responses_reply_encoder, reply);
        return;
    }
    api_error_set(&e, "model_unavailable", NULL, "The server is out of memory.");
    responses_body_release(&body);
    chat_call_release(&call);
    json_decref(root);
    exchange_fail(x, &e);
}

static void reply_count(struct exchange *x, const struct chat_call *call)
{
    struct buffer body;
    buffer_init(&body, 256);
    buffer_printf(&body, "{\"object\":\"response.input_tokens\",\"input_tokens\":%u}",
                  call->request->n_prompt);
    exchange_reply(x, 200, "application/json", &body);
    buffer_deinit(&body);
}

void endpoint_responses_input_tokens(struct exchange *x)
{
    struct responses_body body;
    struct chat_call call;
    struct api_error e;
    json_t *root = NULL;
    if (exchange_take_json(x, &root, &e) && read_call(x, root, &body, &call, &e)) {
        reply_count(x, &call);
        responses_body_release(&body);
        chat_call_release(&call);
    } else {
        exchange_fail(x, &e);
    }
    json_decref(root);
}

void endpoint_chat_input_tokens(struct exchange *x)
{
    struct api_fields fields;
    struct chat_call call;
    struct api_error e;
    if (api_fields_read(x, API_CHAT, &fields, &e) && chat_call_make(x, &fields, -1, &call, &e)) {
        reply_count(x, &call);
        chat_call_release(&call);
    } else {
        exchange_fail(x, &e);
    }
}

/* ---- stored ones ---- */

static void not_found(struct exchange *x, const char *id)
{
    struct api_error e;
    api_error_set(&e, "not_found", NULL, "There is no response with the id %.64s.", id);
    exchange_fail(x, &e);
}

static void reply_text(struct exchange *x, const char *before, const char *text, const char *behind)
{
    struct buffer body;
    buffer_init(&body, SIZE_MAX / 2);
    buffer_append_str(&body, before);
    buffer_append_str(&body, text);
    buffer_append_str(&body, behind);
    exchange_reply(x, 200, "application/json", &body);
    buffer_deinit(&body);
}

/* /v1/responses/{id} and what stands below it. */
void endpoint_responses_get(struct exchange *x)
{
    static const char items[] = "/input_items";
    char id[64];
    const char *rest = exchange_path_rest(x);
    size_t n = strlen(rest);
    bool wants_items = n > sizeof items && strcmp(rest + n - (sizeof items - 1), items) == 0;
    struct stored_response stored;
    (void)snprintf(id, sizeof id, "%.*s", (int)(wants_items ? n - (sizeof items - 1) : n), rest);
    if (!response_store_get(&x->server->responses, id, x->tenant, now_ns(x), &stored)) {
        not_found(x, id);
        return;
    }
    if (wants_items)
        reply_text(x, "{\"object\":\"list\",\"data\":", stored.items,
                   ",\"first_id\":null,\"last_id\":null,\"has_more\":false}");
    else
        reply_text(x, "", stored.object, "");
    stored_response_free(&stored);
}

void endpoint_responses_delete(struct exchange *x)
{
    const char *id = exchange_path_rest(x);
    struct buffer body;
    if (!response_store_delete(&x->server->responses, id, x->tenant, now_ns(x))) {
        not_found(x, id);
        return;
    }
    buffer_init(&body, 4096);
    buffer_append_str(&body, "{\"id\":\"");
    buffer_append_json(&body, id, strlen(id));
    buffer_append_str(&body, "\",\"object\":\"response\",\"deleted\":true}");
    exchange_reply(x, 200, "application/json", &body);
    buffer_deinit(&body);
}
