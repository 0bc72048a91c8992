#include "server/dialects/responses_reply_internal.h"

#include "base/numeric.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void write_string(struct buffer *out, const char *text)
{
    buffer_append_json_string(out, text, strlen(text));
}

static void on_decided(void *user, enum stream_part part, uint64_t begin, uint64_t n)
{
    logprob_text_decide(user, part, begin + n);
}

struct responses_reply *responses_reply_create(struct exchange *x, struct chat_call *call,
                                               json_t *request, struct responses_body *body)
{
    struct responses_reply *r = calloc(1, sizeof *r);
    struct output_setup output = chat_call_output(x, call);
    if (r && body->n_logprobs >= 0) {
        output.decided = on_decided;
        output.user = &r->logprobs;
    }
    if (!r || !output_parts_init(&r->parts, &output)) {
        free(r);
        return NULL;
    }
    const struct served_model *model = exchange_model(x);
    r->server = x->server;
    r->tenant = x->tenant;
    r->fields = call->fields;
    r->tools = call->tools;
    call->fields.root = NULL;
    call->tools.list = NULL;
    r->request = request;
    r->body = *body;
    *body = (struct responses_body){0};
    r->answer = json_pack("{s:s,s:n}", "role", "assistant", "content");
    r->n_prompt = call->request->n_prompt;
    r->created = clock_wall_seconds(exchange_context(x)->clock);
    const char *adapter = api_adapter_name(model, r->fields.model);
    r->model_name = adapter ? adapter : model->name;
    r->style = (struct token_style){output.tokenizer, false, true};
    logprob_text_init(&r->logprobs);
    buffer_init(&r->item_logprobs, LIMIT_RESPONSE_TEXT);
    buffer_init(&r->text, LIMIT_RESPONSE_TEXT);
    buffer_init(&r->output, LIMIT_RESPONSE_TEXT);
    buffer_init(&r->content, LIMIT_RESPONSE_TEXT);
    api_make_id("resp_", r->id);
    if (*exchange_reply_id(x)) { /* it was asked for in the background */
        (void)snprintf(r->id, sizeof r->id, "%s", exchange_reply_id(x));
        (void)json_object_set_new(r->request, "background", json_true());
    }
    return r;
}

static void reply_destroy(void *state)
{
    struct responses_reply *r = state;
    output_parts_deinit(&r->parts);
    tool_use_release(&r->tools);
    api_fields_release(&r->fields);
    responses_body_release(&r->body);
    json_decref(r->request);
    json_decref(r->answer);
    logprob_text_deinit(&r->logprobs);
    buffer_deinit(&r->item_logprobs);
    buffer_deinit(&r->text);
    buffer_deinit(&r->output);
    buffer_deinit(&r->content);
    free(r->name);
    free(r->call_id);
    free(r);
}

/* ---- events of a stream ---- */

static void begin_event(struct responses_reply *r, const char *type, struct buffer *out)
{
    buffer_printf(out, "event: response.%s\ndata: {\"type\":\"response.%s\",\"sequence_number\":%u",
                  type, type, r->sequence++);
}

static void end_event(struct buffer *out)
{
    buffer_append_str(out, "}\n\n");
}

static void object_event(struct responses_reply *r, const char *type, const char *status,
                         const char *failure, struct buffer *out)
{
    begin_event(r, type, out);
    buffer_append_str(out, ",\"response\":");
    responses_write_object(r, status, failure, out);
    end_event(out);
}

static void item_event(struct responses_reply *r, const char *type, bool is_done,
                       struct buffer *out)
{
    begin_event(r, type, out);
    buffer_printf(out, ",\"output_index\":%u,\"item\":", r->n_items);
    responses_write_item(r, is_done, out);
    end_event(out);
}

/* Reasoning that is shown as its summary: other events, and another index. */
static bool is_summary(const struct responses_reply *r)
{
    return r->item == ITEM_REASONING && r->body.wants_summary;
}

/* What an event inside the open item begins with. */
static void begin_inner(struct responses_reply *r, const char *type, struct buffer *out)
{
    begin_event(r, type, out);
    buffer_printf(out, ",\"item_id\":\"%s\",\"output_index\":%u", r->item_id, r->n_items);
    if (is_summary(r))
        buffer_append_str(out, ",\"summary_index\":0");
    else if (r->item == ITEM_MESSAGE || r->item == ITEM_REASONING)
        buffer_append_str(out, ",\"content_index\":0");
}

static void part_event(struct responses_reply *r, bool is_done, struct buffer *out)
{
    const char *summary = is_done ? "reasoning_summary_part.done" : "reasoning_summary_part.added";
    const char *content = is_done ? "content_part.done" : "content_part.added";
    begin_inner(r, is_summary(r) ? summary : content, out);
    buffer_append_str(out, ",\"part\":");
    responses_write_part(r, is_done, out);
    end_event(out);
}

/* Log probabilities of content that were not shown yet: now they are. */
static void show_logprobs(struct responses_reply *r, struct buffer *out)
{
    const struct buffer *new = &r->logprobs.content;
    if (out) {
        buffer_append_str(out, ",\"logprobs\":[");
        buffer_append(out, buffer_str(new), new->len);
        buffer_append_char(out, ']');
    }
    if (new->len > 0 && r->item_logprobs.len > 0)
        buffer_append_char(&r->item_logprobs, ',');
    buffer_append(&r->item_logprobs, buffer_str(new), new->len);
    logprob_text_reset(&r->logprobs);
}

static void delta_event(struct responses_reply *r, const char *text, size_t n, struct buffer *out)
{
    static const char *const types[] = {[ITEM_MESSAGE] = "output_text.delta",
                                        [ITEM_REASONING] = "reasoning_text.delta",
                                        [ITEM_CALL] = "function_call_arguments.delta",
                                        [ITEM_CUSTOM] = "custom_tool_call_input.delta"};
    begin_inner(r, is_summary(r) ? "reasoning_summary_text.delta" : types[r->item], out);
    buffer_append_str(out, ",\"delta\":");
    buffer_append_json_string(out, text, n);
    if (r->item == ITEM_MESSAGE)
        show_logprobs(r, out);
    end_event(out);
}

static void done_event(struct responses_reply *r, struct buffer *out)
{
    static const struct {
        const char *type, *member;
    } types[] = {[ITEM_MESSAGE] = {"output_text.done", "text"},
                 [ITEM_REASONING] = {"reasoning_text.done", "text"},
                 [ITEM_CALL] = {"function_call_arguments.done", "arguments"},
                 [ITEM_CUSTOM] = {"custom_tool_call_input.done", "input"}};
    begin_inner(r, is_summary(r) ? "reasoning_summary_text.done" : types[r->item].type, out);
    buffer_printf(out, ",\"%s\":", types[r->item].member);
    buffer_append_json_string(out, buffer_str(&r->text), r->text.len);
    if (r->item == ITEM_MESSAGE)
        buffer_printf(out, ",\"logprobs\":[%s]", buffer_str(&r->item_logprobs));
    if (r->item == ITEM_CALL) {
        buffer_append_str(out, ",\"name\":");
        write_string(out, r->name);
    }
    end_event(out);
}

/* ---- parts to items; out NULL: the reply is no stream ---- */

/* The text of a custom tool is one member of the arguments. */
static void unwrap_custom(struct responses_reply *r)
{
    json_t *arguments = json_loadb(buffer_str(&r->text), r->text.len, JSON_ALLOW_NUL, NULL);
    const json_t *input = json_object_get(arguments, "input");
    if (json_is_string(input)) {
        buffer_reset(&r->text);
        buffer_append(&r->text, json_string_value(input), json_string_length(input));
    }
    json_decref(arguments);
}

/* What the item is in a conversation that goes on. */
static void remember(struct responses_reply *r)
{
    const char *text = buffer_str(&r->text);
    if (r->item == ITEM_MESSAGE) {
        buffer_append(&r->content, text, r->text.len);
    } else if (r->item == ITEM_CALL || r->item == ITEM_CUSTOM) {
        json_t *calls = json_object_get(r->answer, "tool_calls");
        if (!calls) {
            calls = json_array();
            json_object_set_new(r->answer, "tool_calls", calls);
        }
        json_array_append_new(calls, json_pack("{s:s,s:s,s:{s:s,s:s}}", "id", r->call_id, "type",
                                               "function", "function", "name", r->name, "arguments",
                                               text));
    }
}

static void close_item(struct responses_reply *r, struct buffer *out)
{
    if (r->item == ITEM_NONE)
        return;
    remember(r);
    if (r->item == ITEM_MESSAGE)
        show_logprobs(r, NULL);
    if (r->item == ITEM_CUSTOM) {
        unwrap_custom(r);
        if (out)
            delta_event(r, buffer_str(&r->text), r->text.len, out);
    }
    if (out) {
        done_event(r, out);
        if (r->item == ITEM_MESSAGE || r->item == ITEM_REASONING)
            part_event(r, true, out);
        item_event(r, "output_item.done", true, out);
    }
    if (r->n_items++ > 0)
        buffer_append_char(&r->output, ',');
    responses_write_item(r, true, &r->output);
    buffer_reset(&r->text);
    buffer_reset(&r->item_logprobs);
    r->item = ITEM_NONE;
}

static void open_item(struct responses_reply *r, enum item item, struct buffer *out)
{
    static const char *const prefixes[] = {[ITEM_MESSAGE] = "msg_",
                                           [ITEM_REASONING] = "rs_",
                                           [ITEM_CALL] = "fc_",
                                           [ITEM_CUSTOM] = "ctc_"};
    r->item = item;
    api_make_id(prefixes[item], r->item_id);
    if (!out)
        return;
    item_event(r, "output_item.added", false, out);
    if (item == ITEM_MESSAGE || item == ITEM_REASONING)
        part_event(r, false, out);
}

static void take_call(struct responses_reply *r, const struct output_part *part, struct buffer *out)
{
    close_item(r, out);
    free(r->name);
    free(r->call_id);
    r->name = strdup(output_call_name(&r->parts, part));
    r->call_id = strdup(output_call_id(&r->parts, part));
    if (!r->name || !r->call_id) {
        r->output.is_failed = true;
        return;
    }
    bool is_custom = json_object_get(r->body.customs, r->name) != NULL;
    open_item(r, is_custom ? ITEM_CUSTOM : ITEM_CALL, out);
}

static void take_part(struct responses_reply *r, const struct output_part *part, struct buffer *out)
{
    const char *text = r->parts.text.data + part->begin;
    if (part->kind == OUTPUT_CALL) {
        take_call(r, part, out);
        return;
    }
    enum item wanted = part->kind == OUTPUT_CONTENT     ? ITEM_MESSAGE
                       : part->kind == OUTPUT_REASONING ? ITEM_REASONING
                                                        : r->item;
    if (wanted != r->item) {
        close_item(r, out);
        open_item(r, wanted, out);
    }
    if (r->item == ITEM_NONE)
        return;
    buffer_append(&r->text, text, part->n);
    if (out && r->item != ITEM_CUSTOM)
        delta_event(r, text, part->n, out);
}

static void begin(struct responses_reply *r, struct buffer *out)
{
    if (r->has_begun || !out)
        return;
    r->has_begun = true;
    object_event(r, "created", "in_progress", NULL, out);
    object_event(r, "in_progress", "in_progress", NULL, out);
}

static void take_parts(struct responses_reply *r, struct buffer *out)
{
    size_t n;
    const struct output_part *list = output_parts_list(&r->parts, &n);
    if (n > 0)
        begin(r, out);
    for (size_t i = 0; i < n; i++)
        take_part(r, &list[i], out);
    output_parts_taken(&r->parts);
}

/* ---- the end ---- */

static void store(struct responses_reply *r, const struct buffer *object)
{
    const struct server_context *context = &r->server->context;
    uint64_t now = clock_now_ns(context->clock);
    uint64_t ttl = (uint64_t)(context->options->response_ttl * 1e9);
    if (json_is_false(json_body_get(r->request, "store")) || ttl == 0)
        return;
    if (r->content.len > 0)
        (void)json_object_set_new(r->answer, "content",
                                  json_stringn(buffer_str(&r->content), r->content.len));
    (void)json_array_append(r->body.messages, r->answer);
    struct stored_response texts = {.object = strdup(buffer_str(object)),
                                    .items = json_dumps(r->body.items, JSON_COMPACT),
                                    .messages = json_dumps(r->body.messages, JSON_COMPACT)};
    (void)response_store_put(&r->server->responses, r->id, r->tenant, now + ttl, &texts, now);
}

static void finish(struct responses_reply *r, struct buffer *out)
{
    bool is_stream = r->fields.stream;
    const char *status = r->finish.finish == FINISH_LENGTH ? "incomplete" : "completed";
    struct buffer object;
    begin(r, is_stream ? out : NULL);
    take_parts(r, is_stream ? out : NULL);
    r->is_cut = r->finish.finish == FINISH_LENGTH || r->parts.has_cut_call;
    close_item(r, is_stream ? out : NULL);
    buffer_init(&object, LIMIT_RESPONSE_TEXT);
    responses_write_object(r, status, NULL, &object);
    if (!object.is_failed)
        store(r, &object);
    if (is_stream)
        object_event(r, status, status, NULL, out);
    else
        buffer_append(out, buffer_str(&object), object.len);
    buffer_deinit(&object);
}

static void on_event(void *state, struct event *event, struct buffer *out)
{
    struct responses_reply *r = state;
    (void)out; /* frames are made of several events: see on_flush */
    r->n_cached = event->n_cached;
    switch (event->kind) {
    case EVENT_TOKEN:
        r->n_output++;
        if (event->logprobs && !event->is_hidden && token_has_text(&r->style, event->token))
            logprob_text_hold(&r->logprobs, &r->style, event->logprobs, r->parts.n_bytes);
        if (!event->is_hidden)
            output_parts_push(&r->parts, event->token);
        output_parts_release(&r->parts, event->release);
        break;
    case EVENT_FINISH:
        r->finish = *event;
        output_parts_finish(&r->parts, event->release, event->finish == FINISH_LENGTH);
        break;
    case EVENT_END:
        r->n_output = event->n_output;
        break;
    default:
        break;
    }
}

static void on_flush(void *state, struct buffer *out)
{
    take_parts(state, out);
}

static void on_end(void *state, struct buffer *out)
{
    finish(state, out);
}

static void on_error(void *state, const struct api_error *e, struct buffer *out)
{
    struct responses_reply *r = state;
    begin(r, out);
    object_event(r, "failed", "failed", e->message, out);
}

const struct reply_encoder responses_reply_encoder = {.on_event = on_event,
                                                      .on_flush = on_flush,
                                                      .on_end = on_end,
                                                      .on_error = on_error,
                                                      .destroy = reply_destroy};
