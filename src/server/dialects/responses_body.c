#include "server/dialects/responses_body.h"

#include "base/base64.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "server/dialects/dialect_body.h"
#include "server/request/api_request.h"
#include "server/request/modality.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_ITEM_TEXT (64 * MIB)

/* What encrypted_content begins with, in base64. It is opaque by agreement alone: there is nothing
 * in it that its reader has not been shown. */
static const char sealed_mark[] = "serverd reasoning 1:";

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

/* What responses_seal made; other texts were another server's. */
static bool add_sealed(struct converter *c, const json_t *text)
{
    struct buffer opened;
    buffer_init(&opened, LIMIT_ITEM_TEXT);
    bool is_ours =
        text && base64_decode(json_string_value(text), json_string_length(text), &opened);
    is_ours = is_ours && opened.len >= sizeof sealed_mark - 1 &&
              memcmp(opened.data, sealed_mark, sizeof sealed_mark - 1) == 0;
    if (is_ours)
        buffer_append(&c->thought, opened.data + sizeof sealed_mark - 1,
                      opened.len - (sizeof sealed_mark - 1));
    buffer_deinit(&opened);
    return is_ours;
}

void responses_seal(const char *thought, size_t n, struct buffer *out)
{
    struct buffer text;
    buffer_init(&text, LIMIT_ITEM_TEXT);
    buffer_append_str(&text, sealed_mark);
    buffer_append(&text, thought, n);
    base64_append(out, buffer_str(&text), text.len);
    buffer_deinit(&text);
}

static void add_reasoning(struct converter *c, const json_t *item)
{
    size_t i;
    json_t *part;
    const json_t *content = json_body_get(item, "content");
    const json_t *sealed = json_body_get(item, "encrypted_content");
    if (sealed && !json_is_string(sealed))
        body_refuse(&c->body, "invalid_type", c->param, "has encrypted_content that is no string.");
    if (json_array_size(content) == 0 && add_sealed(c, sealed))
        return;
    if (json_array_size(content) == 0)
        content = json_body_get(item, "summary");
    json_array_foreach((json_t *)content, i, part)
        buffer_append_str(&c->thought, text_of(part, "text"));
}

static json_t *item_with_id(json_t *list, const char *id)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i,
                       item) if (is_text(text_of(item, "id"), id)) return json_incref(item);
    return NULL;
}

/* The item that a stored response has under this id, a new reference. */
static json_t *find_item(struct converter *c, const char *id)
{
    struct exchange *x = c->body.x;
    struct stored_response stored;
    if (!*id || !response_store_find_item(&x->server->responses, id, x->tenant,
                                          clock_now_ns(exchange_context(x)->clock), &stored))
        return NULL;
    json_t *object = json_loads(stored.object, JSON_ALLOW_NUL, NULL);
    json_t *items = json_loads(stored.items, JSON_ALLOW_NUL, NULL);
    json_t *found = item_with_id(json_object_get(object, "output"), id);
    if (!found)
        found = item_with_id(items, id);
    json_decref(items);
    json_decref(object);
    stored_response_free(&stored);
    return found;
}

/* One that names another one; a type is not needed, if there is nothing but an id. */
static bool is_reference(const json_t *item)
{
    const char *type = text_of(item, "type");
    return is_text(type, "item_reference") ||
           (!*type && json_body_get(item, "id") && !json_body_get(item, "role") &&
            !json_body_get(item, "content"));
}

static void add_item(struct converter *c, const json_t *item)
{
    const char *type = text_of(item, "type");
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

/* As it is kept: with an id, so that others can refer to it. */
static void keep_item(struct converter *c, json_t *item)
{
    char id[64];
    const char *type = text_of(item, "type");
    json_t *kept = json_copy(item);
    api_make_id(!*type || is_text(type, "message") ? "msg_" : "item_", id);
    if (!json_body_get(kept, "id"))
        body_own(&c->body, json_object_set_new(kept, "id", json_string(id)));
    body_own(&c->body, json_array_append_new(c->out->items, kept));
}

static void add_input_item(struct converter *c, json_t *item, size_t i)
{
    (void)snprintf(c->param, sizeof c->param, "input[%zu]", i);
    if (!is_reference(item)) {
        add_item(c, item);
        if (json_is_object(item))
            keep_item(c, item);
        return;
    }
    json_t *found = find_item(c, text_of(item, "id"));
    if (found) {
        add_item(c, found);
        keep_item(c, found);
    } else {
        body_refuse(&c->body, "invalid_value", c->param, "refers to an item that is not stored.");
    }
    json_decref(found);
}

static void add_input(struct converter *c, const json_t *input)
{
    size_t i;
    json_t *item;
    if (json_is_string(input)) {
        json_t *message = json_pack("{s:s,s:s,s:[{s:s,s:O}]}", "type", "message", "role", "user",
                                    "content", "type", "input_text", "text", input);
        keep_item(c, message);
        json_decref(message);
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
        if (c->body.is_failed) /* the store is searched for each item that is named */
            return;
        add_input_item(c, item, i);
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

/* What comes along only where it is asked for. */
static void convert_include(struct converter *c, const json_t *body)
{
    size_t i;
    json_t *item;
    const json_t *include = json_body_get(body, "include");
    int64_t n_top = 0;
    if (include && !json_is_array(include))
        body_refuse(&c->body, "invalid_type", "include", "has to be a list.");
    if (json_body_get(body, "top_logprobs") &&
        (!json_body_integer(json_body_get(body, "top_logprobs"), &n_top) || n_top < 0 ||
         n_top > LIMIT_TOP_LOGPROBS))
        body_refuse(&c->body, "invalid_value", "top_logprobs", "has to be 0 to 20.");
    json_array_foreach((json_t *)include, i, item)
    {
        const char *name = json_string_value(item);
        if (name && is_text(name, "message.output_text.logprobs"))
            c->out->n_logprobs = (int32_t)n_top;
        else if (name && is_text(name, "reasoning.encrypted_content"))
            c->out->wants_encrypted = true;
        else if (name) /* of tools that others run */
            exchange_ignored_field(c->body.x, name);
    }
}

static void convert_reasoning(struct converter *c, const json_t *reasoning)
{
    json_t *effort = json_body_get(reasoning, "effort");
    const json_t *summary = json_body_get(reasoning, "summary");
    if (!summary)
        summary = json_body_get(reasoning, "generate_summary");
    if (effort)
        body_own(&c->body, json_object_set(c->out->chat, "reasoning_effort", effort));
    c->out->wants_summary = json_is_string(summary) && !is_text(json_string_value(summary), "none");
}

static void convert_truncation(struct converter *c, const json_t *value)
{
    const char *text = json_string_value(value);
    if (text && is_text(text, "auto")) /* what comes first goes first */
        body_own(&c->body,
                 json_object_set_new(c->out->chat, "truncate_prompt_tokens", json_integer(-1)));
    else if (value && !(text && is_text(text, "disabled")))
        body_refuse(&c->body, "invalid_value", "truncation", "has to be auto or disabled.");
}

static void convert_members(struct converter *c, const json_t *body)
{
    static const char *const own_members[] = {
        "input",   "instructions",         "tools",      "tool_choice", "text",        "reasoning",
        "include", "previous_response_id", "background", "truncation",  "top_logprobs"};
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
    convert_include(c, body);
    convert_reasoning(c, json_body_get(body, "reasoning"));
    convert_truncation(c, json_body_get(body, "truncation"));
    c->out->is_background = json_is_true(json_body_get(body, "background"));
    if (c->out->is_background && json_is_false(json_body_get(body, "store")))
        body_refuse(&c->body, "invalid_value", "background", "needs store: true.");
    if (c->out->is_background && exchange_context(c->body.x)->options->response_ttl <= 0)
        body_refuse(&c->body, "unsupported_value", "background", "nothing is stored here.");
}

bool responses_body_convert(struct exchange *x, const json_t *body, const json_t *before,
                            struct responses_body *out, struct api_error *e)
{
    struct converter c = {.body = {x, e, "input", false}, .out = out};
    json_t *instructions = json_body_get(body, "instructions");
    *out = (struct responses_body){.chat = json_object(),
                                   .items = json_array(),
                                   .messages = before ? json_deep_copy(before) : json_array(),
                                   .customs = json_object(),
                                   .n_logprobs = -1};
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
