#include "server/responses_body.h"

#include "base/limits.h"
#include "base/numeric.h"
#include "server/dialect_body.h"
#include "server/modality.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_ITEM_TEXT (64 * MIB)

/* Making the chat; the first failure stays. */
struct converter {
    struct dialect_body body;
    struct responses_body *out;
    struct buffer thought; /* reasoning that the next message of the assistant had */
    char param[64];        /* the item that is looked at */
};

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_body_get(object, name));
    return text ? text : "";
}

/* ---- items ---- */

/* A string, or parts of text, a line each. */
static void append_parts(struct converter *c, const json_t *content, struct buffer *out)
{
    size_t i;
    json_t *part;
    if (json_is_string(content)) {
        buffer_append(out, json_string_value(content), json_string_length(content));
        return;
    }
    if (!json_is_array(content)) {
        body_refuse(&c->body, "invalid_type", c->param, "has to have a string or a list of parts.");
        return;
    }
    json_array_foreach((json_t *)content, i, part)
    {
        const char *type = text_of(part, "type");
        const json_t *text = json_body_get(part, is_text(type, "refusal") ? "refusal" : "text");
        if (modality_is_other(type))
            body_refuse(&c->body, "unsupported_modality", c->param, MODALITY_REFUSAL);
        else if (!json_is_string(text))
            body_refuse(&c->body, "invalid_value", c->param, "has a part that is no text.");
        if (i > 0)
            buffer_append_char(out, '\n');
        buffer_append(out, json_string_value(text), json_string_length(text));
    }
}

static json_t *take_text(struct converter *c, struct buffer *text)
{
    json_t *value = text->is_failed ? NULL : json_stringn(buffer_str(text), text->len);
    body_own(&c->body, value ? 0 : -1);
    buffer_deinit(text);
    return value;
}

static void add_message(struct converter *c, json_t *message)
{
    if (c->thought.len > 0 && is_text(text_of(message, "role"), "assistant")) {
        body_own(&c->body, json_object_set_new(message, "reasoning_content",
                                               json_stringn(c->thought.data, c->thought.len)));
        buffer_reset(&c->thought);
    }
    body_own(&c->body, json_array_append_new(c->out->messages, message));
}

static void add_text_message(struct converter *c, const json_t *item)
{
    const char *role = text_of(item, "role");
    struct buffer text;
    if (!(is_text(role, "user") || is_text(role, "assistant") || is_text(role, "system") ||
          is_text(role, "developer"))) {
        body_refuse(&c->body, "invalid_value", c->param,
                    "has to have the role user, assistant or system.");
        return;
    }
    buffer_init(&text, LIMIT_ITEM_TEXT);
    append_parts(c, json_body_get(item, "content"), &text);
    json_t *content = take_text(c, &text);
    add_message(c, json_pack("{s:s,s:o}", "role", role, "content", content));
}

/* Calls are of the message in front, if that is the assistant's. */
static void add_call(struct converter *c, const json_t *item, const char *arguments)
{
    size_t n = json_array_size(c->out->messages);
    json_t *last = n > 0 ? json_array_get(c->out->messages, n - 1) : NULL;
    if (!last || !is_text(text_of(last, "role"), "assistant")) {
        add_message(c, json_pack("{s:s,s:n}", "role", "assistant", "content"));
        last = json_array_get(c->out->messages, n);
    }
    json_t *calls = json_object_get(last, "tool_calls");
    if (!calls) {
        calls = json_array();
        body_own(&c->body, json_object_set_new(last, "tool_calls", calls));
    }
    body_own(&c->body, json_array_append_new(
                           calls, json_pack("{s:s,s:s,s:{s:s,s:s}}", "id", text_of(item, "call_id"),
                                            "type", "function", "function", "name",
                                            text_of(item, "name"), "arguments", arguments)));
}

/* As the model wrote it: its one argument. */
static void add_custom_call(struct converter *c, const json_t *item)
{
    const char *input = text_of(item, "input");
    struct buffer text;
    buffer_init(&text, LIMIT_ITEM_TEXT);
    buffer_append_str(&text, "{\"input\": ");
    buffer_append_json_string(&text, input, strlen(input));
    buffer_append_char(&text, '}');
    body_own(&c->body, text.is_failed ? -1 : 0);
    add_call(c, item, buffer_str(&text));
    buffer_deinit(&text);
}

static void add_result(struct converter *c, const json_t *item)
{
    struct buffer text;
    buffer_init(&text, LIMIT_ITEM_TEXT);
    append_parts(c, json_body_get(item, "output"), &text);
    json_t *content = take_text(c, &text);
    add_message(c, json_pack("{s:s,s:s,s:o}", "role", "tool", "tool_call_id",
                             text_of(item, "call_id"), "content", content));
}

static void add_reasoning(struct converter *c, const json_t *item)
{
    size_t i;
    json_t *part;
    const json_t *content = json_body_get(item, "content");
    if (json_array_size(content) == 0)
        content = json_body_get(item, "summary");
    json_array_foreach((json_t *)content, i, part)
        buffer_append_str(&c->thought, text_of(part, "text"));
}

static void add_item(struct converter *c, const json_t *item, size_t i)
{
    const char *type = text_of(item, "type");
    (void)snprintf(c->param, sizeof c->param, "input[%zu]", i);
    if (!json_is_object(item))
        body_refuse(&c->body, "invalid_type", c->param, "is no object.");
    else if (!*type || is_text(type, "message"))
        add_text_message(c, item);
    else if (is_text(type, "function_call"))
        add_call(c, item, text_of(item, "arguments"));
    else if (is_text(type, "custom_tool_call"))
        add_custom_call(c, item);
    else if (is_text(type, "function_call_output") || is_text(type, "custom_tool_call_output"))
        add_result(c, item);
    else if (is_text(type, "reasoning"))
        add_reasoning(c, item);
    else
        body_refuse(&c->body, "unsupported_value", c->param,
                    "is of a type that is not known here.");
}

static void add_input(struct converter *c, const json_t *input)
{
    size_t i;
    json_t *item;
    if (json_is_string(input)) {
        body_own(&c->body, json_array_append_new(c->out->items,
                                                 json_pack("{s:s,s:s,s:[{s:s,s:O}]}", "type",
                                                           "message", "role", "user", "content",
                                                           "type", "input_text", "text", input)));
        add_message(c, json_pack("{s:s,s:O}", "role", "user", "content", input));
        return;
    }
    if (!json_is_array(input) || json_array_size(input) > LIMIT_MESSAGES) {
        body_refuse(&c->body, input ? "invalid_type" : "missing_required_parameter", "input",
                    "has to be a string or a list of items.");
        return;
    }
    json_array_foreach((json_t *)input, i, item)
    {
        add_item(c, item, i);
        body_own(&c->body, json_array_append(c->out->items, item));
    }
}

/* ---- tools ---- */

static bool is_hosted(const char *type)
{
    static const char *const kinds[] = {"web_search", "file_search", "code_interpreter",
                                        "mcp",        "local_shell", "image_generation",
                                        "computer",   "shell",       "apply_patch"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(type, kinds[i], strlen(kinds[i])) == 0)
            return true;
    return false;
}

static void convert_tools(struct converter *c, const json_t *tools)
{
    size_t i;
    json_t *tool, *list = json_array();
    if (!json_is_array(tools))
        body_refuse(&c->body, "invalid_type", "tools", "has to be a list.");
    json_array_foreach((json_t *)tools, i, tool)
    {
        const char *type = text_of(tool, "type");
        if (is_text(type, "function") || is_text(type, "custom")) {
            json_t *inner = json_copy(tool);
            (void)json_object_del(inner, "type");
            if (is_text(type, "custom"))
                body_own(&c->body,
                         json_object_set_new(c->out->customs, text_of(tool, "name"), json_true()));
            body_own(&c->body, json_array_append_new(
                                   list, json_pack("{s:s,s:o}", "type", type, type, inner)));
        } else if (is_hosted(type)) {
            exchange_ignored_field(c->body.x, type); /* run by a server that this is not */
        } else {
            body_refuse(&c->body, "unsupported_value", "tools",
                        "has one of a type that is not known here.");
        }
    }
    body_own(&c->body, json_object_set_new(c->out->chat, "tools", list));
}

static void convert_choice(struct converter *c, json_t *choice)
{
    const char *type = text_of(choice, "type");
    json_t *made = NULL;
    if (is_text(type, "function") || is_text(type, "custom"))
        made = json_pack("{s:s,s:{s:s}}", "type", "function", "function", "name",
                         text_of(choice, "name"));
    else if (is_text(type, "allowed_tools"))
        made = json_pack("{s:s,s:{s:O?,s:O?}}", "type", type, type, "mode",
                         json_body_get(choice, "mode"), "tools", json_body_get(choice, "tools"));
    body_own(&c->body, made ? json_object_set_new(c->out->chat, "tool_choice", made)
                            : json_object_set(c->out->chat, "tool_choice", choice));
}

/* ---- the rest ---- */

static void convert_format(struct converter *c, const json_t *text)
{
    json_t *format = json_body_get(text, "format");
    if (!format)
        return;
    if (!is_text(text_of(format, "type"), "json_schema")) {
        body_own(&c->body, json_object_set(c->out->chat, "response_format", format));
        return;
    }
    json_t *inner = json_copy(format);
    (void)json_object_del(inner, "type");
    body_own(&c->body, json_object_set_new(
                           c->out->chat, "response_format",
                           json_pack("{s:s,s:o}", "type", "json_schema", "json_schema", inner)));
}

static void convert_members(struct converter *c, const json_t *body)
{
    static const char *const own_members[] = {
        "input",      "instructions",   "tools",      "tool_choice",
        "text",       "reasoning",      "include",    "previous_response_id",
        "background", "max_tool_calls", "truncation", "conversation",
        "prompt"};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)body, name, value)
    {
        bool is_own = json_is_null(value);
        for (size_t i = 0; i < sizeof own_members / sizeof *own_members; i++)
            is_own = is_own || is_text(name, own_members[i]);
        if (!is_own)
            body_own(&c->body,
                     json_object_set(c->out->chat,
                                     is_text(name, "max_output_tokens") ? "max_tokens" : name,
                                     value));
    }
    json_t *effort = json_body_get(json_body_get(body, "reasoning"), "effort");
    if (effort)
        body_own(&c->body, json_object_set(c->out->chat, "reasoning_effort", effort));
    if (json_is_true(json_body_get(body, "background")))
        body_refuse(&c->body, "unsupported_value", "background",
                    "responses are made while one waits.");
}

bool responses_body_convert(struct exchange *x, const json_t *body, const json_t *before,
                            struct responses_body *out, struct api_error *e)
{
    struct converter c = {.body = {x, e, "input", false}, .out = out};
    json_t *instructions = json_body_get(body, "instructions");
    *out = (struct responses_body){.chat = json_object(),
                                   .items = json_array(),
                                   .messages = before ? json_deep_copy(before) : json_array(),
                                   .customs = json_object()};
    buffer_init(&c.thought, LIMIT_ITEM_TEXT);
    convert_members(&c, body);
    add_input(&c, json_body_get(body, "input"));
    if (json_body_get(body, "tools"))
        convert_tools(&c, json_body_get(body, "tools"));
    if (json_body_get(body, "tool_choice"))
        convert_choice(&c, json_body_get(body, "tool_choice"));
    convert_format(&c, json_body_get(body, "text"));
    json_t *messages = json_array();
    if (instructions)
        body_own(&c.body, json_array_append_new(messages, json_pack("{s:s,s:O}", "role", "system",
                                                                    "content", instructions)));
    body_own(&c.body, json_array_extend(messages, out->messages));
    body_own(&c.body, json_object_set_new(out->chat, "messages", messages));
    buffer_deinit(&c.thought);
    if (c.body.is_failed)
        responses_body_release(out);
    return !c.body.is_failed;
}

void responses_body_release(struct responses_body *body)
{
    json_decref(body->chat);
    json_decref(body->items);
    json_decref(body->messages);
    json_decref(body->customs);
    *body = (struct responses_body){0};
}
