/* Responses and their items as JSON. */
#include "server/dialects/responses_reply_internal.h"

#include <string.h>

static void write_string(struct buffer *out, const char *text)
{
    buffer_append_json_string(out, text, strlen(text));
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

static void write_error(const char *failure, struct buffer *out)
{
    buffer_append_str(out, "{\"code\":\"server_error\",\"message\":");
    write_string(out, failure);
    buffer_append_char(out, '}');
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

void responses_write_object(const struct responses_reply *r, const char *status,
                            const char *failure, struct buffer *out)
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
    bool is_done = strcmp(status, "in_progress") != 0 && strcmp(status, "queued") != 0;
    bool is_cut = strcmp(status, "incomplete") == 0;
    buffer_printf(out,
                  "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\","
                  "\"error\":",
                  r->id, (long long)r->created, status);
    if (failure)
        write_error(failure, out);
    else
        buffer_append_str(out, "null");
    buffer_printf(out, ",\"incomplete_details\":%s,\"model\":",
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

static const char *part_type(const struct responses_reply *r)
{
    if (r->item == ITEM_MESSAGE)
        return "output_text";
    return r->body.wants_summary ? "summary_text" : "reasoning_text";
}

void responses_write_part(const struct responses_reply *r, bool is_done, struct buffer *out)
{
    buffer_printf(out, "{\"type\":\"%s\",\"text\":", part_type(r));
    buffer_append_json_string(out, is_done ? buffer_str(&r->text) : "", is_done ? r->text.len : 0);
    if (r->item == ITEM_MESSAGE) {
        buffer_append_str(out, ",\"annotations\":[],\"logprobs\":[");
        if (is_done)
            buffer_append(out, buffer_str(&r->item_logprobs), r->item_logprobs.len);
        buffer_append_char(out, ']');
    }
    buffer_append_char(out, '}');
}

static void write_parts(const struct responses_reply *r, const char *member, bool has_part,
                        struct buffer *out)
{
    buffer_printf(out, ",\"%s\":[", member);
    if (has_part)
        responses_write_part(r, true, out);
    buffer_append_char(out, ']');
}

/* A message, or reasoning. */
static void write_text_item(const struct responses_reply *r, bool is_done, const char *status,
                            struct buffer *out)
{
    bool is_summary = r->item == ITEM_REASONING && r->body.wants_summary;
    if (r->item == ITEM_MESSAGE) {
        buffer_printf(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\"",
                      r->item_id);
    } else {
        buffer_printf(out, "{\"id\":\"%s\",\"type\":\"reasoning\"", r->item_id);
        write_parts(r, "summary", is_done && is_summary, out);
    }
    write_parts(r, "content", is_done && !is_summary, out);
    if (r->item == ITEM_REASONING && r->body.wants_encrypted && is_done) {
        buffer_append_str(out, ",\"encrypted_content\":\"");
        responses_seal(buffer_str(&r->text), r->text.len, out);
        buffer_append_char(out, '"');
    }
    buffer_printf(out, ",\"status\":\"%s\"}", status);
}

void responses_write_item(const struct responses_reply *r, bool is_done, struct buffer *out)
{
    const char *status = !is_done ? "in_progress" : r->is_cut ? "incomplete" : "completed";
    const char *text = is_done ? buffer_str(&r->text) : "";
    size_t n = is_done ? r->text.len : 0;
    if (r->item == ITEM_MESSAGE || r->item == ITEM_REASONING) {
        write_text_item(r, is_done, status, out);
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

const char *responses_reply_id(const struct responses_reply *r)
{
    return r->id;
}

void responses_write_queued(const struct responses_reply *r, struct buffer *out)
{
    responses_write_object(r, "queued", NULL, out);
}
