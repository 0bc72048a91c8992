#include "server/dialects/anthropic_reply.h"

#include "server/request/stop_fields.h"
#include "text/json_value.h"

#include <stdlib.h>
#include <string.h>

enum block { BLOCK_NONE, BLOCK_TEXT, BLOCK_THINKING, BLOCK_TOOL };

struct anthropic_reply {
    const struct served_model *model;
    struct api_fields fields;
    struct tool_use tools;
    struct output_parts parts;
    char id[64];
    const char *request_id; /* the exchange's */
    const char *model_name;
    uint32_t n_prompt, n_cached, n_output;
    bool is_clipped;   /* the context ends before max_tokens */
    bool has_begun;    /* message_start has been written */
    enum block block;  /* that is open */
    uint32_t n_blocks; /* begun */
    struct event finish;
};

struct anthropic_reply *anthropic_reply_create(struct exchange *x, struct chat_call *call)
{
    struct anthropic_reply *reply = calloc(1, sizeof *reply);
    const struct output_setup output = chat_call_output(x, call);
    if (!reply || !output_parts_init(&reply->parts, &output)) {
        free(reply);
        return NULL;
    }
    reply->model = exchange_model(x);
    reply->fields = call->fields;
    reply->tools = call->tools;
    call->fields.root = NULL;
    call->tools.list = NULL;
    reply->n_prompt = call->request->n_prompt;
    reply->is_clipped = (int64_t)call->request->max_new_tokens < reply->fields.max_tokens;
    const char *adapter = api_adapter_name(reply->model, reply->fields.model);
    reply->model_name = adapter ? adapter : reply->model->name;
    reply->request_id = exchange_request_id(x);
    api_make_id("msg_", reply->id);
    return reply;
}

static void reply_destroy(void *state)
{
    struct anthropic_reply *reply = state;
    output_parts_deinit(&reply->parts);
    tool_use_release(&reply->tools);
    api_fields_release(&reply->fields);
    free(reply);
}

/* ---- JSON both kinds share ---- */

static void write_usage(const struct anthropic_reply *reply, uint32_t n_output, struct buffer *out)
{
    buffer_printf(out,
                  "{\"input_tokens\":%u,\"cache_creation_input_tokens\":0,"
                  "\"cache_read_input_tokens\":%u,\"output_tokens\":%u}",
                  reply->n_prompt - reply->n_cached, reply->n_cached, n_output);
}

static const char *stop_reason(const struct anthropic_reply *reply)
{
    if (reply->finish.finish == FINISH_LENGTH)
        return reply->is_clipped ? "model_context_window_exceeded" : "max_tokens";
    if (reply->finish.stop_index >= 0)
        return "stop_sequence";
    return reply->parts.n_calls > 0 ? "tool_use" : "end_turn";
}

static void write_stop(const struct anthropic_reply *reply, struct buffer *out)
{
    buffer_printf(out, "\"stop_reason\":\"%s\",\"stop_sequence\":", stop_reason(reply));
    const json_t *match = stop_fields_find(&reply->fields, reply->finish.stop_index);
    if (match)
        buffer_append_json_string(out, json_string_value(match), json_string_length(match));
    else
        buffer_append_str(out, "null");
}

static void write_head(const struct anthropic_reply *reply, struct buffer *out)
{
    buffer_printf(
        out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", reply->id);
    buffer_append_json_string(out, reply->model_name, strlen(reply->model_name));
    buffer_append_str(out, ",\"content\":[");
}

/* Ids of calls come in other forms; clients of this dialect know one. */
static void write_call_id(const char *id, struct buffer *out)
{
    buffer_append_str(out, "\"toolu_");
    const char *rest = strncmp(id, "call_", 5) == 0 ? id + 5 : id;
    buffer_append_json(out, rest, strlen(rest));
    buffer_append_char(out, '"');
}

/* ---- whole messages ---- */

/* The part at *i, as a block; arguments belong to the call in front of them. */
static void write_block(const struct anthropic_reply *reply, const struct output_part *list,
                        size_t n, size_t *i, struct buffer *out)
{
    const struct output_parts *parts = &reply->parts;
    const struct output_part *part = &list[*i];
    const char *text = parts->text.data + part->begin;
    if (part->kind == OUTPUT_CONTENT) {
        buffer_append_str(out, "{\"type\":\"text\",\"text\":");
        buffer_append_json_string(out, text, part->n);
    } else if (part->kind == OUTPUT_REASONING) {
        buffer_append_str(out, "{\"type\":\"thinking\",\"thinking\":");
        buffer_append_json_string(out, text, part->n);
        buffer_printf(out, ",\"signature\":\"%s\"", reply->id);
    } else {
        const char *name = output_call_name(parts, part);
        buffer_append_str(out, "{\"type\":\"tool_use\",\"id\":");
        write_call_id(output_call_id(parts, part), out);
        buffer_append_str(out, ",\"name\":");
        buffer_append_json_string(out, name, strlen(name));
        buffer_append_str(out, ",\"input\":");
        bool has_input = *i + 1 < n && list[*i + 1].kind == OUTPUT_ARGUMENTS;
        const char *input = has_input ? parts->text.data + list[*i + 1].begin : "";
        if (has_input && json_value_is_valid(input, list[*i + 1].n))
            buffer_append(out, input, list[*i + 1].n);
        else /* what a limit has cut is no object */
            buffer_append_str(out, "{}");
        *i += has_input;
    }
    buffer_append_char(out, '}');
}

static void write_message(const struct anthropic_reply *reply, struct buffer *out)
{
    size_t n;
    const struct output_part *list = output_parts_list(&reply->parts, &n);
    write_head(reply, out);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buffer_append_char(out, ',');
        write_block(reply, list, n, &i, out);
    }
    buffer_append_str(out, "],");
    write_stop(reply, out);
    buffer_append_str(out, ",\"usage\":");
    write_usage(reply, reply->n_output, out);
    buffer_append_char(out, '}');
}

/* ---- streams ---- */

static void begin_event(const char *type, struct buffer *out)
{
    buffer_printf(out, "event: %s\ndata: {\"type\":\"%s\"", type, type);
}

static void end_event(struct buffer *out)
{
    buffer_append_str(out, "}\n\n");
}

static void start_message(struct anthropic_reply *reply, struct buffer *out)
{
    if (reply->has_begun)
        return;
    reply->has_begun = true;
    begin_event("message_start", out);
    buffer_append_str(out, ",\"message\":");
    write_head(reply, out);
    buffer_append_str(out, "],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
    write_usage(reply, 0, out);
    buffer_append_char(out, '}');
    end_event(out);
}

static void begin_delta(const struct anthropic_reply *reply, const char *type, struct buffer *out)
{
    begin_event("content_block_delta", out);
    buffer_printf(out, ",\"index\":%u,\"delta\":{\"type\":\"%s\"", reply->n_blocks - 1, type);
}

static void stop_block(struct anthropic_reply *reply, struct buffer *out)
{
    if (reply->block == BLOCK_NONE)
        return;
    if (reply->block == BLOCK_THINKING) {
        begin_delta(reply, "signature_delta", out);
        buffer_printf(out, ",\"signature\":\"%s\"}", reply->id);
        end_event(out);
    }
    begin_event("content_block_stop", out);
    buffer_printf(out, ",\"index\":%u", reply->n_blocks - 1);
    end_event(out);
    reply->block = BLOCK_NONE;
}

/* The block that a part belongs to is open afterwards. */
static void start_block(struct anthropic_reply *reply, const struct output_part *part,
                        struct buffer *out)
{
    enum block wanted = part->kind == OUTPUT_CONTENT     ? BLOCK_TEXT
                        : part->kind == OUTPUT_REASONING ? BLOCK_THINKING
                                                         : BLOCK_TOOL;
    if (reply->block == wanted && part->kind != OUTPUT_CALL)
        return;
    stop_block(reply, out);
    reply->block = wanted;
    begin_event("content_block_start", out);
    buffer_printf(out, ",\"index\":%u,\"content_block\":", reply->n_blocks++);
    if (wanted == BLOCK_TEXT) {
        buffer_append_str(out, "{\"type\":\"text\",\"text\":\"\"}");
    } else if (wanted == BLOCK_THINKING) {
        buffer_append_str(out, "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}");
    } else {
        const char *name = output_call_name(&reply->parts, part);
        buffer_append_str(out, "{\"type\":\"tool_use\",\"id\":");
        write_call_id(output_call_id(&reply->parts, part), out);
        buffer_append_str(out, ",\"name\":");
        buffer_append_json_string(out, name, strlen(name));
        buffer_append_str(out, ",\"input\":{}}");
    }
    end_event(out);
}

static void write_delta(struct anthropic_reply *reply, const struct output_part *part,
                        struct buffer *out)
{
    static const struct {
        const char *type, *member;
    } deltas[] = {
        [OUTPUT_CONTENT] = {"text_delta", "text"},
        [OUTPUT_REASONING] = {"thinking_delta", "thinking"},
        [OUTPUT_ARGUMENTS] = {"input_json_delta", "partial_json"},
    };
    start_block(reply, part, out);
    if (part->kind == OUTPUT_CALL)
        return;
    begin_delta(reply, deltas[part->kind].type, out);
    buffer_printf(out, ",\"%s\":", deltas[part->kind].member);
    buffer_append_json_string(out, reply->parts.text.data + part->begin, part->n);
    buffer_append_char(out, '}');
    end_event(out);
}

static void write_parts(struct anthropic_reply *reply, struct buffer *out)
{
    size_t n;
    const struct output_part *list = output_parts_list(&reply->parts, &n);
    if (n > 0)
        start_message(reply, out);
    for (size_t i = 0; i < n; i++)
        write_delta(reply, &list[i], out);
    output_parts_taken(&reply->parts);
}

static void write_stream_end(struct anthropic_reply *reply, struct buffer *out)
{
    start_message(reply, out);
    write_parts(reply, out);
    stop_block(reply, out);
    begin_event("message_delta", out);
    buffer_append_str(out, ",\"delta\":{");
    write_stop(reply, out);
    buffer_append_str(out, "},\"usage\":");
    write_usage(reply, reply->n_output, out);
    end_event(out);
    begin_event("message_stop", out);
    end_event(out);
}

/* ---- events ---- */

static void on_event(void *state, struct event *event, struct buffer *out)
{
    struct anthropic_reply *reply = state;
    (void)out; /* frames are made of several events: see on_flush */
    reply->n_cached = event->n_cached;
    switch (event->kind) {
    case EVENT_TOKEN:
        if (!event->is_hidden)
            output_parts_push(&reply->parts, event->token);
        output_parts_release(&reply->parts, event->release);
        break;
    case EVENT_FINISH:
        reply->finish = *event;
        output_parts_finish(&reply->parts, event->release, event->finish == FINISH_LENGTH);
        break;
    case EVENT_END:
        reply->n_output = event->n_output;
        break;
    default:
        break;
    }
}

static void on_flush(void *state, struct buffer *out)
{
    write_parts(state, out);
}

static void on_end(void *state, struct buffer *out)
{
    struct anthropic_reply *reply = state;
    if (reply->fields.stream)
        write_stream_end(reply, out);
    else
        write_message(reply, out);
}

static void on_error(void *state, const struct api_error *e, struct buffer *out)
{
    struct anthropic_reply *reply = state;
    write_parts(reply, out);
    buffer_append_str(out, "event: error\ndata: ");
    api_error_write_anthropic(e, reply->request_id, out);
    buffer_append_str(out, "\n\n");
}

const struct reply_encoder anthropic_reply_encoder = {.on_event = on_event,
                                                      .on_flush = on_flush,
                                                      .on_end = on_end,
                                                      .on_error = on_error,
                                                      .destroy = reply_destroy,
                                                      .ping = "event: ping\ndata: "
                                                              "{\"type\":\"ping\"}\n\n"};
