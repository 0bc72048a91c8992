/* A chat's choices: messages and deltas of content, reasoning and tool calls. */
#include "server/dialects/openai_reply_internal.h"

#include <string.h>

/* ---- log probabilities ---- */

static void on_decided(void *user, enum stream_part part, uint64_t begin, uint64_t n)
{
    struct choice *choice = user;
    logprob_text_decide(&choice->logprobs, part, begin + n);
}

/* A token without text of its own is no part of a chat's content. */
static void add_logprobs(const struct openai_reply *reply, struct choice *choice,
                         const struct event *event)
{
    if (!event->is_hidden && token_has_text(&reply->style, event->token))
        logprob_text_hold(&choice->logprobs, &reply->style, event->logprobs, choice->parts.n_bytes);
}

static void write_logprobs(const struct openai_reply *reply, const struct choice *choice,
                           struct buffer *out)
{
    const struct logprob_text *l = &choice->logprobs;
    if (reply->n_logprobs < 0 || (reply->is_stream && l->content.len == 0))
        buffer_append_str(out, "null");
    else
        logprob_text_write_chat(l, out);
}

/* ---- chunks ---- */

static void write_call_delta(const struct openai_reply *reply, const struct choice *choice,
                             const struct output_part *part, struct buffer *out)
{
    const struct output_parts *parts = &choice->parts;
    bool is_legacy = reply->tools.is_legacy;
    if (is_legacy)
        buffer_append_str(out, "\"function_call\":{");
    else
        buffer_printf(out, "\"tool_calls\":[{\"index\":%u,", part->call);
    if (part->kind == OUTPUT_CALL) {
        const char *id = output_call_id(parts, part), *name = output_call_name(parts, part);
        if (!is_legacy) {
            buffer_append_str(out, "\"id\":");
            buffer_append_json_string(out, id, strlen(id));
            buffer_append_str(out, ",\"type\":\"function\",\"function\":{");
        }
        buffer_append_str(out, "\"name\":");
        buffer_append_json_string(out, name, strlen(name));
        buffer_append_str(out, ",\"arguments\":\"\"");
    } else {
        buffer_append_str(out, is_legacy ? "\"arguments\":" : "\"function\":{\"arguments\":");
        buffer_append_json_string(out, parts->text.data + part->begin, part->n);
    }
    buffer_append_str(out, is_legacy ? "}" : "}}]");
}

static void write_part_delta(const struct openai_reply *reply, const struct choice *choice,
                             const struct output_part *part, struct buffer *out)
{
    const char *text = part ? choice->parts.text.data + part->begin : "";
    size_t n = part ? part->n : 0;
    switch (part ? part->kind : OUTPUT_CONTENT) {
    case OUTPUT_CONTENT:
        buffer_append_str(out, "\"content\":");
        buffer_append_json_string(out, text, n);
        break;
    case OUTPUT_REASONING:
        buffer_append_str(out, "\"reasoning_content\":");
        buffer_append_json_string(out, text, n);
        buffer_append_str(out, ",\"reasoning\":");
        buffer_append_json_string(out, text, n);
        break;
    default:
        write_call_delta(reply, choice, part, out);
        break;
    }
}

/* A frame with one part; NULL: with no text at all. Log probabilities go with the content. */
static void write_part(struct openai_reply *reply, uint32_t index, const struct output_part *part,
                       struct buffer *out)
{
    struct choice *choice = &reply->choices[index];
    openai_begin_chunk(reply, index, out);
    buffer_append_str(out, ",\"delta\":{");
    if (!choice->has_begun)
        buffer_append_str(out, "\"role\":\"assistant\",");
    write_part_delta(reply, choice, part, out);
    buffer_append_str(out, "},\"logprobs\":");
    bool is_content = part && part->kind == OUTPUT_CONTENT;
    if (is_content)
        write_logprobs(reply, choice, out);
    else
        buffer_append_str(out, "null");
    openai_write_finish(reply, choice, false, out);
    openai_write_token_ids(reply, choice, out);
    buffer_append_char(out, '}');
    openai_end_chunk(reply, out);
    choice->has_begun = true;
    buffer_reset(&choice->token_ids);
    if (is_content)
        logprob_text_reset(&choice->logprobs);
}

static void write_finish(struct openai_reply *reply, uint32_t index, struct buffer *out)
{
    struct choice *choice = &reply->choices[index];
    openai_begin_chunk(reply, index, out);
    buffer_append_str(out, ",\"delta\":{},\"logprobs\":");
    write_logprobs(reply, choice, out);
    openai_write_finish(reply, choice, true, out);
    openai_write_token_ids(reply, choice, out);
    buffer_append_char(out, '}');
    openai_end_chunk(reply, out);
    choice->has_ended = true;
}

/* What has gathered of a chat's choice: a frame for each part, and the finish alone. */
static void write_chunks(struct openai_reply *reply, uint32_t index, struct buffer *out)
{
    struct choice *choice = &reply->choices[index];
    size_t n;
    const struct output_part *list = output_parts_list(&choice->parts, &n);
    for (size_t i = 0; i < n; i++)
        write_part(reply, index, &list[i], out);
    output_parts_taken(&choice->parts);
    if (!choice->is_finished || choice->has_ended)
        return;
    if (!choice->has_begun)
        write_part(reply, index, NULL, out);
    write_finish(reply, index, out);
}

/* ---- whole replies ---- */

/* All parts of one kind, as one JSON string; false: there are none. */
static bool write_joined_parts(const struct output_parts *parts, enum output_kind kind,
                               const char *name, struct buffer *out)
{
    size_t n;
    const struct output_part *list = output_parts_list(parts, &n);
    bool has_begun = false;
    for (size_t i = 0; i < n; i++) {
        if (list[i].kind != kind)
            continue;
        if (!has_begun)
            buffer_printf(out, ",\"%s\":\"", name);
        has_begun = true;
        buffer_append_json(out, parts->text.data + list[i].begin, list[i].n);
    }
    if (has_begun)
        buffer_append_char(out, '"');
    return has_begun;
}

static void write_calls(const struct openai_reply *reply, const struct choice *choice,
                        struct buffer *out)
{
    const struct output_parts *parts = &choice->parts;
    size_t n;
    const struct output_part *list = output_parts_list(parts, &n);
    bool is_legacy = reply->tools.is_legacy;
    for (size_t i = 0; i < n; i++) {
        if (list[i].kind != OUTPUT_CALL)
            continue;
        const char *id = output_call_id(parts, &list[i]), *name = output_call_name(parts, &list[i]);
        if (is_legacy) {
            buffer_append_str(out, ",\"function_call\":{\"name\":");
        } else {
            buffer_append_str(out, list[i].call == 0 ? ",\"tool_calls\":[{\"id\":" : ",{\"id\":");
            buffer_append_json_string(out, id, strlen(id));
            buffer_append_str(out, ",\"type\":\"function\",\"function\":{\"name\":");
        }
        buffer_append_json_string(out, name, strlen(name));
        buffer_append_str(out, ",\"arguments\":");
        bool has_arguments = i + 1 < n && list[i + 1].kind == OUTPUT_ARGUMENTS;
        buffer_append_json_string(out, has_arguments ? parts->text.data + list[i + 1].begin : "",
                                  has_arguments ? list[i + 1].n : 0);
        buffer_append_str(out, is_legacy ? "}" : "}}");
    }
    if (parts->n_calls > 0 && !is_legacy)
        buffer_append_char(out, ']');
}

static void write_message(const struct openai_reply *reply, const struct choice *choice,
                          struct buffer *out)
{
    const struct output_parts *parts = &choice->parts;
    buffer_append_str(out, ",\"message\":{\"role\":\"assistant\"");
    if (!write_joined_parts(parts, OUTPUT_CONTENT, "content", out)) {
        bool has_other = output_parts_has(parts, OUTPUT_REASONING) || parts->n_calls > 0;
        buffer_append_str(out, has_other ? ",\"content\":null" : ",\"content\":\"\"");
    }
    buffer_append_str(out, ",\"refusal\":null");
    if (write_joined_parts(parts, OUTPUT_REASONING, "reasoning_content", out))
        (void)write_joined_parts(parts, OUTPUT_REASONING, "reasoning", out);
    write_calls(reply, choice, out);
    buffer_append_char(out, '}');
}

static void write_choice(const struct openai_reply *reply, uint32_t index, struct buffer *out)
{
    const struct choice *choice = &reply->choices[index];
    write_message(reply, choice, out);
    buffer_append_str(out, ",\"logprobs\":");
    write_logprobs(reply, choice, out);
    openai_write_finish(reply, choice, true, out);
    openai_write_token_ids(reply, choice, out);
}

/* There is one prompt. */
static void write_tail(const struct openai_reply *reply, struct buffer *out)
{
    openai_write_prompt_logprobs(reply, &reply->prompts[0], out);
    openai_write_prompt_ids(reply, &reply->prompts[0], out);
}

const struct choice_shape openai_chat_choice = {.id_prefix = "chatcmpl-",
                                                .object = "chat.completion",
                                                .chunk_object = "chat.completion.chunk",
                                                .has_one_prompt = true,
                                                .decided = on_decided,
                                                .add_logprobs = add_logprobs,
                                                .write_chunks = write_chunks,
                                                .write_choice = write_choice,
                                                .write_tail = write_tail};
