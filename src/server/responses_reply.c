#include "server/responses_reply.h"

#include "base/numeric.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_RESPONSE_TEXT (256 * MIB)
#define SECOND_NS           UINT64_C(1000000000)

enum item { ITEM_NONE, ITEM_MESSAGE, ITEM_REASONING, ITEM_CALL, ITEM_CUSTOM };

struct responses_reply {
    struct server *server; /* of the store */
    uint64_t tenant;
    struct api_fields fields;
    struct tool_use tools;
    struct output_parts parts;
    json_t *request; /* as the client wrote it: its members are shown again */
    struct responses_body body;
    char id[64], item_id[64];
    int64_t created;
    const char *model_name;
    uint32_t n_prompt, n_cached, n_output;
    uint32_t sequence; /* of the next event */
    bool has_begun;
    struct event finish;

    enum item item;       /* that is open */
    bool is_cut;          /* it ends before its end */
    struct buffer text;   /* of the open item: text or arguments */
    char *name, *call_id; /* of an open call */
    struct buffer output; /* items that are done, comma separated */
    uint32_t n_items;     /* done */
    json_t *answer;       /* the same as chat messages' members: content, tool_calls */
};

static void write_string(struct buffer *out, const char *text)
{
    buffer_append_json_string(out, text, strlen(text));
}

struct responses_reply *responses_reply_create(struct exchange *x, struct chat_call *call,
                                               json_t *request, struct responses_body *body)
{
    struct responses_reply *r = calloc(1, sizeof *r);
    const struct output_setup output = chat_call_output(x, call);
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
    buffer_init(&r->text, LIMIT_RESPONSE_TEXT);
    buffer_init(&r->output, LIMIT_RESPONSE_TEXT);
    api_make_id("resp_", r->id);
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
    buffer_deinit(&r->text);
    buffer_deinit(&r->output);
    free(r->name);
    free(r->call_id);
    free(r);
}

/* ---- the object ---- */

static void write_member(const struct responses_reply *r, const char *name, const char *otherwise,
                         struct buffer *out)
{
    const json_t *value = json_body_get(r->request, name);
    buffer_printf(out, ",\"%s\":", name);
    if (value)
        json_body_write(value, JSON_SPELLING_COMPACT, out);
    else
        buffer_append_str(out, otherwise);
}

static void write_usage(const struct responses_reply *r, struct buffer *out)
{
    buffer_printf(out,
                  "{\"input_tokens\":%u,\"input_tokens_details\":{\"cached_tokens\":%u},"
                  "\"output_tokens\":%u,\"output_tokens_details\":{\"reasoning_tokens\":%u},"
                  "\"total_tokens\":%u}",
                  r->n_prompt, r->n_cached, r->n_output, r->parts.n_reasoning,
                  r->n_prompt + r->n_output);
}

static void write_object(const struct responses_reply *r, const char *status, struct buffer *out)
{
    static const struct {
        const char *name, *otherwise;
    } members[] = {{"instructions", "null"},
                   {"max_output_tokens", "null"},
                   {"max_tool_calls", "null"},
                   {"previous_response_id", "null"},
                   {"reasoning", "{\"effort\":null,\"summary\":null}"},
                   {"store", "true"},
                   {"temperature", "null"},
                   {"text", "{\"format\":{\"type\":\"text\"}}"},
                   {"tool_choice", "\"auto\""},
                   {"tools", "[]"},
                   {"parallel_tool_calls", "true"},
                   {"top_p", "null"},
                   {"top_logprobs", "null"},
                   {"truncation", "\"disabled\""},
                   {"service_tier", "\"default\""},
                   {"user", "null"},
                   {"safety_identifier", "null"},
                   {"prompt_cache_key", "null"},
                   {"background", "false"},
                   {"metadata", "{}"}};
    bool is_done = strcmp(status, "in_progress") != 0;
    bool is_cut = strcmp(status, "incomplete") == 0;
    buffer_printf(out,
                  "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\","
                  "\"error\":null,\"incomplete_details\":%s,\"model\":",
                  r->id, (long long)r->created, status,
                  is_cut ? "{\"reason\":\"max_output_tokens\"}" : "null");
    write_string(out, r->model_name);
    buffer_append_str(out, ",\"output\":[");
    buffer_append(out, buffer_str(&r->output), r->output.len);
    buffer_append_char(out, ']');
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        write_member(r, members[i].name, members[i].otherwise, out);
    buffer_append_str(out, ",\"usage\":");
    if (is_done)
        write_usage(r, out);
    else
        buffer_append_str(out, "null");
    buffer_append_char(out, '}');
}

/* ---- items ---- */

/* The open item as it stands; is_done: with its text. */
static void write_item(const struct responses_reply *r, bool is_done, struct buffer *out)
{
    const char *status = !is_done ? "in_progress" : r->is_cut ? "incomplete" : "completed";
    const char *text = is_done ? buffer_str(&r->text) : "";
    size_t n = is_done ? r->text.len : 0;
    if (r->item == ITEM_MESSAGE || r->item == ITEM_REASONING) {
        bool is_message = r->item == ITEM_MESSAGE;
        buffer_printf(out, "{\"id\":\"%s\",\"type\":\"%s\",%s\"content\":[", r->item_id,
                      is_message ? "message" : "reasoning",
                      is_message ? "\"role\":\"assistant\"," : "\"summary\":[],");
        if (is_done) {
            buffer_printf(
                out, "{\"type\":\"%s\",\"text\":", is_message ? "output_text" : "reasoning_text");
            buffer_append_json_string(out, text, n);
            buffer_append_str(out, is_message ? ",\"annotations\":[],\"logprobs\":[]}" : "}");
        }
        buffer_printf(out, "],\"status\":\"%s\"}", status);
        return;
    }
    bool is_custom = r->item == ITEM_CUSTOM;
    buffer_printf(out, "{\"id\":\"%s\",\"type\":\"%s\",\"call_id\":", r->item_id,
                  is_custom ? "custom_tool_call" : "function_call");
    write_string(out, r->call_id);
    buffer_append_str(out, ",\"name\":");
    write_string(out, r->name);
    buffer_append_str(out, is_custom ? ",\"input\":" : ",\"arguments\":");
    buffer_append_json_string(out, text, n);
    buffer_printf(out, ",\"status\":\"%s\"}", status);
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
                         struct buffer *out)
{
    begin_event(r, type, out);
    buffer_append_str(out, ",\"response\":");
    write_object(r, status, out);
    end_event(out);
}

static void item_event(struct responses_reply *r, const char *type, bool is_done,
                       struct buffer *out)
{
    begin_event(r, type, out);
    buffer_printf(out, ",\"output_index\":%u,\"item\":", r->n_items);
    write_item(r, is_done, out);
    end_event(out);
}

/* What an event inside the open item begins with. */
static void begin_inner(struct responses_reply *r, const char *type, struct buffer *out)
{
    begin_event(r, type, out);
    buffer_printf(out, ",\"item_id\":\"%s\",\"output_index\":%u", r->item_id, r->n_items);
    if (r->item == ITEM_MESSAGE || r->item == ITEM_REASONING)
        buffer_append_str(out, ",\"content_index\":0");
}

static void part_event(struct responses_reply *r, const char *type, bool is_done,
                       struct buffer *out)
{
    bool is_message = r->item == ITEM_MESSAGE;
    begin_inner(r, type, out);
    buffer_printf(
        out, ",\"part\":{\"type\":\"%s\",\"text\":", is_message ? "output_text" : "reasoning_text");
    buffer_append_json_string(out, is_done ? buffer_str(&r->text) : "", is_done ? r->text.len : 0);
    buffer_append_str(out, is_message ? ",\"annotations\":[],\"logprobs\":[]}" : "}");
    end_event(out);
}

static void delta_event(struct responses_reply *r, const char *text, size_t n, struct buffer *out)
{
    static const char *const types[] = {[ITEM_MESSAGE] = "output_text.delta",
                                        [ITEM_REASONING] = "reasoning_text.delta",
                                        [ITEM_CALL] = "function_call_arguments.delta",
                                        [ITEM_CUSTOM] = "custom_tool_call_input.delta"};
    begin_inner(r, types[r->item], out);
    buffer_append_str(out, ",\"delta\":");
    buffer_append_json_string(out, text, n);
    if (r->item == ITEM_MESSAGE)
        buffer_append_str(out, ",\"logprobs\":[]");
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
    begin_inner(r, types[r->item].type, out);
    buffer_printf(out, ",\"%s\":", types[r->item].member);
    buffer_append_json_string(out, buffer_str(&r->text), r->text.len);
    if (r->item == ITEM_MESSAGE)
        buffer_append_str(out, ",\"logprobs\":[]");
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
    json_t *arguments = json_loadb(buffer_str(&r->text), r->text.len, 0, NULL);
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
        json_object_set_new(r->answer, "content", json_stringn(text, r->text.len));
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
    if (r->item == ITEM_CUSTOM) {
        unwrap_custom(r);
        if (out)
            delta_event(r, buffer_str(&r->text), r->text.len, out);
    }
    if (out) {
        done_event(r, out);
        if (r->item == ITEM_MESSAGE || r->item == ITEM_REASONING)
            part_event(r, "content_part.done", true, out);
        item_event(r, "output_item.done", true, out);
    }
    if (r->n_items++ > 0)
        buffer_append_char(&r->output, ',');
    write_item(r, true, &r->output);
    buffer_reset(&r->text);
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
        part_event(r, "content_part.added", false, out);
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
    object_event(r, "created", "in_progress", out);
    object_event(r, "in_progress", "in_progress", out);
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
    write_object(r, status, &object);
    if (!object.is_failed)
        store(r, &object);
    if (is_stream)
        object_event(r, status, status, out);
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
    begin_event(r, "failed", out);
    buffer_printf(out,
                  ",\"response\":{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,"
                  "\"status\":\"failed\",\"error\":{\"code\":\"server_error\",\"message\":",
                  r->id, (long long)r->created);
    write_string(out, e->message);
    buffer_append_str(out, "},\"incomplete_details\":null,\"model\":");
    write_string(out, r->model_name);
    buffer_append_str(out, ",\"output\":[],\"tools\":[],\"tool_choice\":\"auto\","
                           "\"parallel_tool_calls\":true,\"usage\":null}");
    end_event(out);
}

const struct reply_encoder responses_reply_encoder = {.on_event = on_event,
                                                      .on_flush = on_flush,
                                                      .on_end = on_end,
                                                      .on_error = on_error,
                                                      .destroy = reply_destroy};
