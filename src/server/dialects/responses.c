/* OpenAI's Responses: made from a chat, kept for a while, continued by id. */
#include "server/dialects/responses_body.h"
#include "server/dialects/responses_reply.h"
#include "server/endpoints.h"
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
    const json_t *value = json_body_get(body, "previous_response_id");
    const char *id = json_string_value(value);
    struct stored_response stored;
    *out = NULL;
    if (value && !id)
        api_error_set(e, "invalid_type", "previous_response_id",
                      "previous_response_id has to be a string.");
    if (!id)
        return !value;
    if (!response_store_get(&x->server->responses, id, x->tenant, now_ns(x), &stored)) {
        api_error_set(e, "previous_response_not_found", "previous_response_id",
                      "There is no response with the id %.64s.", id);
        return false;
    }
    *out = json_loads(stored.messages, JSON_ALLOW_NUL, NULL);
    stored_response_free(&stored);
    if (!*out)
        (void)api_error_no_memory(e);
    return *out != NULL;
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
        chat_call_make_single(x, &fields, body->n_logprobs, call, e))
        return true;
    responses_body_release(body);
    return false;
}

/* The body of the request that is run instead. */
static void write_background_body(const json_t *root, struct buffer *out)
{
    json_t *copy = json_copy((json_t *)root);
    (void)json_object_del(copy, "background");
    (void)json_object_set_new(copy, "stream", json_true());
    json_body_write(copy, JSON_SPELLING_COMPACT, out);
    json_decref(copy);
}

/* What is known is replied at once, or its stream. Takes over all. */
static void run_in_background(struct exchange *x, struct responses_reply *reply,
                              const struct buffer *body, bool is_stream)
{
    struct buffer queued;
    struct api_error e;
    buffer_init(&queued, SIZE_MAX / 2);
    responses_write_queued(reply, &queued);
    const char *id = responses_reply_id(reply);
    if (!background_start(x, id, body, &queued, &e) ||
        (is_stream && !background_follow(x, id, -1, &e)))
        exchange_fail(x, &e);
    else if (!is_stream)
        exchange_reply(x, 200, "application/json", &queued);
    buffer_deinit(&queued);
    responses_reply_encoder.destroy(reply);
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
    const bool is_background = body.is_background, is_stream = call.fields.stream;
    struct buffer inner;
    buffer_init(&inner, SIZE_MAX / 2);
    if (is_background)
        write_background_body(root, &inner);
    struct responses_reply *reply = responses_reply_create(x, &call, root, &body);
    if (reply && is_background) {
        run_in_background(x, reply, &inner, is_stream);
        chat_call_release(&call);
        buffer_deinit(&inner);
        return;
    }
    buffer_deinit(&inner);
    if (reply) {
        chat_call_generate(x, &call, &responses_reply_encoder, reply);
        return;
    }
    (void)api_error_no_memory(&e);
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

static bool wants_stream(const struct exchange *x)
{
    char text[8];
    return exchange_query_text(x, "stream", text, sizeof text) && strcmp(text, "true") == 0;
}

/* ?stream=true&starting_after=N */
static void follow(struct exchange *x, const char *id)
{
    uint32_t after = UINT32_MAX;
    struct api_error e;
    if (!exchange_query_u32(x, "starting_after", 0, UINT32_MAX - 1, &after, &e) ||
        !background_follow(x, id, after == UINT32_MAX ? -1 : (int64_t)after, &e))
        exchange_fail(x, &e);
}

/* POST /v1/responses/{id}/cancel */
void endpoint_responses_cancel(struct exchange *x)
{
    static const char cancel[] = "/cancel";
    char id[64];
    const char *rest = exchange_path_rest(x);
    size_t n = strlen(rest), n_cancel = sizeof cancel - 1;
    struct buffer object;
    if (n <= n_cancel || strcmp(rest + n - n_cancel, cancel) != 0) {
        not_found(x, rest);
        return;
    }
    (void)snprintf(id, sizeof id, "%.*s", (int)(n - n_cancel), rest);
    buffer_init(&object, SIZE_MAX / 2);
    struct stored_response stored;
    struct api_error e;
    bool is_background = background_cancel(x, id);
    if (is_background && background_look(x, id, &object)) {
        exchange_reply(x, 200, "application/json", &object);
    } else if (!response_store_get(&x->server->responses, id, x->tenant, now_ns(x), &stored)) {
        not_found(x, id);
    } else {
        api_error_set(&e, "invalid_value", NULL,
                      "Only responses that were asked for with background: true can be cancelled.");
        if (is_background)
            reply_text(x, "", stored.object, "");
        else
            exchange_fail(x, &e);
        stored_response_free(&stored);
    }
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
    if (!wants_items && wants_stream(x)) {
        follow(x, id);
        return;
    }
    struct buffer object;
    buffer_init(&object, SIZE_MAX / 2);
    if (!wants_items && background_look(x, id, &object)) {
        exchange_reply(x, 200, "application/json", &object);
        return;
    }
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
    const bool was_made = background_forget(x, id);
    if (!response_store_delete(&x->server->responses, id, x->tenant, now_ns(x)) && !was_made) {
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
