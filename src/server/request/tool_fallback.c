/* Tools for models whose template has no place for them, in the form of the hermes family. */
#include "server/request/tool_use.h"

#include "base/limits.h"
#include "base/numeric.h"

#include <string.h>

#define LIMIT_FALLBACK_TEXT (64 * MIB)

static void append_content(struct buffer *out, const json_t *content)
{
    size_t i;
    json_t *part;
    if (json_is_string(content))
        buffer_append(out, json_string_value(content), json_string_length(content));
    json_array_foreach((json_t *)content, i, part)
    {
        const json_t *text = json_object_get(part, "text");
        if (i > 0)
            buffer_append_char(out, '\n');
        buffer_append(out, json_string_value(text), json_string_length(text));
    }
}

static void describe_tools(struct buffer *out, const json_t *list)
{
    size_t i;
    json_t *tool;
    buffer_append_str(out, "# Tools\n\nThese functions can be called:\n<tools>\n");
    json_array_foreach((json_t *)list, i, tool)
    {
        json_body_write(tool, JSON_SPELLING_SPACED, out);
        buffer_append_char(out, '\n');
    }
    buffer_append_str(out,
                      "</tools>\n\nTo call one, answer with its name and arguments as JSON, for "
                      "example:\n<tool_call>\n{\"name\": \"some_function\", \"arguments\": "
                      "{\"some_argument\": 1}}\n</tool_call>");
}

static void append_calls(struct buffer *out, const json_t *calls)
{
    size_t i;
    json_t *call;
    json_array_foreach((json_t *)calls, i, call)
    {
        const json_t *function = json_body_get(call, "function");
        const json_t *arguments = json_body_get(function, "arguments");
        if (out->len > 0)
            buffer_append_char(out, '\n');
        buffer_append_str(out, "<tool_call>\n{\"name\": ");
        json_body_write(json_body_get(function, "name"), JSON_SPELLING_SPACED, out);
        buffer_append_str(out, ", \"arguments\": ");
        if (json_is_string(arguments))
            buffer_append_str(out, json_string_value(arguments));
        else
            json_body_write(arguments, JSON_SPELLING_SPACED, out);
        buffer_append_str(out, "}\n</tool_call>");
    }
}

/* A message of this role with the text; takes the text's bytes as they are, which are UTF-8. */
static json_t *make_message(const char *role, const struct buffer *text)
{
    return text->is_failed
               ? NULL
               : json_pack("{s:s,s:s#}", "role", role, "content", buffer_str(text), text->len);
}

static json_t *convert(const json_t *message)
{
    const char *role = json_string_value(json_body_get(message, "role"));
    const json_t *calls = json_body_get(message, "tool_calls");
    const json_t *content = json_body_get(message, "content");
    bool is_result = role && (strcmp(role, "tool") == 0 || strcmp(role, "function") == 0);
    if (!is_result && json_array_size(calls) == 0)
        return json_incref((json_t *)message);
    struct buffer text;
    buffer_init(&text, LIMIT_FALLBACK_TEXT);
    if (is_result)
        buffer_append_str(&text, "<tool_response>\n");
    append_content(&text, content);
    if (is_result)
        buffer_append_str(&text, "\n</tool_response>");
    append_calls(&text, calls);
    json_t *made = make_message(is_result ? "user" : "assistant", &text);
    buffer_deinit(&text);
    return made;
}

json_t *tool_fallback_messages(const json_t *messages, const json_t *list)
{
    json_t *out = json_array();
    const json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_body_get(first, "role"));
    bool has_system = role && (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0);
    bool is_good = out != NULL;
    if (list) {
        struct buffer text;
        buffer_init(&text, LIMIT_FALLBACK_TEXT);
        if (has_system) {
            append_content(&text, json_body_get(first, "content"));
            buffer_append_str(&text, "\n\n");
        }
        describe_tools(&text, list);
        is_good = is_good && json_array_append_new(out, make_message("system", &text)) == 0;
        buffer_deinit(&text);
    }
    for (size_t i = list && has_system ? 1 : 0; i < json_array_size(messages) && is_good; i++)
        is_good = json_array_append_new(out, convert(json_array_get(messages, i))) == 0;
    if (is_good)
        return out;
    json_decref(out);
    return NULL;
}
