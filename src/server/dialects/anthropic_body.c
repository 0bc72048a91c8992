#include "server/dialects/anthropic_body.h"

#include "base/limits.h"
#include "base/numeric.h"
#include "server/dialects/dialect_body.h"
#include "server/request/modality.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_BLOCK_TEXT (64 * MIB)

/* Making the new body; the first failure stays. */
struct converter {
    struct dialect_body body;
    json_t *out, *messages;
};

static void set_new(struct converter *c, json_t *object, const char *name, json_t *value)
{
    body_own(&c->body, json_object_set_new(object, name, value));
}

static const char *type_of(const json_t *block)
{
    const char *type = json_string_value(json_body_get(block, "type"));
    return type ? type : "";
}

/* An id as the model's template gets it back: without what the replies put in front. */
static json_t *plain_id(const json_t *id)
{
    const char *text = json_string_value(id);
    return json_string(text && strncmp(text, "toolu_", 6) == 0 ? text + 6 : text ? text : "");
}

/* ---- texts ---- */

/* A line that is new in every request would keep the rest from being found in the prefix cache. */
static bool is_volatile(const struct converter *c, const char *text)
{
    return exchange_context(c->body.x)->options->strip_volatile_headers &&
           strncmp(text, "x-anthropic-billing-header:", 27) == 0;
}

static void append_text(struct converter *c, const json_t *block, const char *param,
                        struct buffer *out)
{
    const json_t *text = json_body_get(block, "text");
    const char *type = type_of(block);
    if (!is_text(type, "text") || !json_is_string(text)) {
        bool is_other = modality_is_other(type);
        body_refuse(&c->body, is_other ? "unsupported_modality" : "invalid_value", param,
                    is_other ? MODALITY_REFUSAL : "has to be a block of text.");
        return;
    }
    if (is_volatile(c, json_string_value(text)))
        return;
    if (out->len > 0)
        buffer_append_char(out, '\n');
    buffer_append(out, json_string_value(text), json_string_length(text));
}

/* A string, or blocks of text, a line each. NULL after a failure. */
static json_t *joined_text(struct converter *c, const json_t *content, const char *param)
{
    size_t i;
    json_t *block, *made = NULL;
    struct buffer text;
    if (json_is_string(content))
        return json_incref((json_t *)content);
    if (!json_is_array(content)) {
        body_refuse(&c->body, "invalid_type", param, "has to be a string or a list of blocks.");
        return NULL;
    }
    buffer_init(&text, LIMIT_BLOCK_TEXT);
    json_array_foreach((json_t *)content, i, block) append_text(c, block, param, &text);
    if (!c->body.is_failed)
        made = json_stringn(buffer_str(&text), text.len);
    body_own(&c->body, made || c->body.is_failed ? 0 : -1);
    buffer_deinit(&text);
    return made;
}

/* ---- messages ---- */

static void add_message(struct converter *c, json_t *message)
{
    body_own(&c->body, json_array_append_new(c->messages, message));
}

static void add_result(struct converter *c, const json_t *block, const char *param)
{
    const json_t *content = json_body_get(block, "content");
    json_t *text = content ? joined_text(c, content, param) : json_string("");
    if (json_is_true(json_body_get(block, "is_error")) && text) {
        json_t *marked = json_sprintf("Error: %s", json_string_value(text));
        json_decref(text);
        text = marked;
    }
    if (!c->body.is_failed)
        add_message(c, json_pack("{s:s,s:o,s:o}", "role", "tool", "tool_call_id",
                                 plain_id(json_body_get(block, "tool_use_id")), "content", text));
    else
        json_decref(text);
}

/* Results are messages of their own, in front of what else the user says. */
static void add_user(struct converter *c, const json_t *content, const char *param)
{
    size_t i;
    json_t *block;
    struct buffer text;
    buffer_init(&text, LIMIT_BLOCK_TEXT);
    json_array_foreach((json_t *)content, i, block)
    {
        if (is_text(type_of(block), "tool_result"))
            add_result(c, block, param);
        else
            append_text(c, block, param, &text);
    }
    if (!c->body.is_failed && (text.len > 0 || i == 0))
        add_message(
            c, json_pack("{s:s,s:s#}", "role", "user", "content", buffer_str(&text), text.len));
    buffer_deinit(&text);
}

static json_t *make_call(struct converter *c, const json_t *block)
{
    const json_t *input = json_body_get(block, "input");
    struct buffer arguments;
    buffer_init(&arguments, LIMIT_BLOCK_TEXT);
    if (input)
        json_body_write(input, JSON_SPELLING_SPACED, &arguments);
    json_t *call =
        arguments.is_failed
            ? NULL
            : json_pack("{s:o,s:s,s:{s:O?,s:s}}", "id", plain_id(json_body_get(block, "id")),
                        "type", "function", "function", "name", json_body_get(block, "name"),
                        "arguments", input ? buffer_str(&arguments) : "{}");
    buffer_deinit(&arguments);
    body_own(&c->body, call ? 0 : -1);
    return call;
}

static void append_thought(const json_t *block, struct buffer *out)
{
    const json_t *text = json_body_get(block, "thinking");
    buffer_append(out, json_string_value(text), json_string_length(text));
}

static void add_assistant(struct converter *c, const json_t *content, const char *param)
{
    size_t i;
    json_t *block, *calls = json_array(), *message;
    struct buffer text, thought;
    buffer_init(&text, LIMIT_BLOCK_TEXT);
    buffer_init(&thought, LIMIT_BLOCK_TEXT);
    json_array_foreach((json_t *)content, i, block)
    {
        const char *type = type_of(block);
        if (is_text(type, "tool_use"))
            body_own(&c->body, json_array_append_new(calls, make_call(c, block)));
        else if (is_text(type, "thinking"))
            append_thought(block, &thought);
        else if (!is_text(type, "redacted_thinking"))
            append_text(c, block, param, &text);
    }
    message = json_pack("{s:s,s:s#}", "role", "assistant", "content", buffer_str(&text), text.len);
    if (thought.len > 0)
        set_new(c, message, "reasoning_content", json_stringn(thought.data, thought.len));
    if (json_array_size(calls) > 0)
        body_own(&c->body, json_object_set(message, "tool_calls", calls));
    if (text.len == 0 && json_array_size(calls) > 0)
        set_new(c, message, "content", json_null());
    add_message(c, message);
    json_decref(calls);
    buffer_deinit(&text);
    buffer_deinit(&thought);
}

static void convert_message(struct converter *c, const json_t *message, size_t i)
{
    char param[64];
    const char *role = json_string_value(json_body_get(message, "role"));
    const json_t *content = json_body_get(message, "content");
    (void)snprintf(param, sizeof param, "messages[%zu].role", i);
    if (!role ||
        !(is_text(role, "user") || is_text(role, "assistant") || is_text(role, "system"))) {
        body_refuse(&c->body, "invalid_value", param, "has to be user or assistant.");
        return;
    }
    (void)snprintf(param, sizeof param, "messages[%zu].content", i);
    if (json_is_string(content)) {
        add_message(c, json_pack("{s:s,s:O}", "role", role, "content", content));
    } else if (!json_is_array(content)) {
        body_refuse(&c->body, content ? "invalid_type" : "missing_required_parameter", param,
                    "has to be a string or a list of blocks.");
    } else if (is_text(role, "user")) {
        add_user(c, content, param);
    } else if (is_text(role, "assistant")) {
        add_assistant(c, content, param);
    } else {
        json_t *text = joined_text(c, content, param);
        if (text)
            add_message(c, json_pack("{s:s,s:o}", "role", role, "content", text));
    }
}

static void convert_messages(struct converter *c, const json_t *body)
{
    const json_t *list = json_body_get(body, "messages"), *system = json_body_get(body, "system");
    size_t i;
    json_t *message;
    if (system) {
        json_t *text = joined_text(c, system, "system");
        if (text && json_string_length(text) > 0)
            add_message(c, json_pack("{s:s,s:O}", "role", "system", "content", text));
        json_decref(text);
    }
    if (!json_is_array(list) || json_array_size(list) == 0 ||
        json_array_size(list) > LIMIT_MESSAGES) {
        body_refuse(&c->body, list ? "invalid_value" : "missing_required_parameter", "messages",
                    "has to be a list of messages.");
        return;
    }
    json_array_foreach((json_t *)list, i, message) convert_message(c, message, i);
    /* what the assistant has begun it goes on with */
    const json_t *last = json_array_get(list, json_array_size(list) - 1);
    const char *role = json_string_value(json_body_get(last, "role"));
    const json_t *text =
        json_body_get(json_array_get(c->messages, json_array_size(c->messages) - 1), "content");
    if (role && is_text(role, "assistant") && json_string_length(text) > 0) {
        set_new(c, c->out, "continue_final_message", json_true());
        set_new(c, c->out, "add_generation_prompt", json_false());
    }
}

/* ---- tools ---- */

static void convert_tools(struct converter *c, const json_t *tools)
{
    size_t i;
    json_t *tool, *list = json_array();
    if (!json_is_array(tools))
        body_refuse(&c->body, "invalid_type", "tools", "has to be a list.");
    json_array_foreach((json_t *)tools, i, tool)
    {
        const char *type = type_of(tool);
        if (*type && !is_text(type, "custom")) {
            exchange_ignored_field(c->body.x, type); /* run by a server that this is not */
            continue;
        }
        json_t *function =
            json_pack("{s:O?,s:O*,s:O?,s:O*}", "name", json_body_get(tool, "name"), "description",
                      json_body_get(tool, "description"), "parameters",
                      json_body_get(tool, "input_schema"), "strict", json_body_get(tool, "strict"));
        body_own(&c->body, json_array_append_new(list, json_pack("{s:s,s:o}", "type", "function",
                                                                 "function", function)));
    }
    set_new(c, c->out, "tools", list);
}

static void convert_choice(struct converter *c, const json_t *choice)
{
    const char *type = type_of(choice);
    if (is_text(type, "auto") || is_text(type, "none"))
        set_new(c, c->out, "tool_choice", json_string(type));
    else if (is_text(type, "any"))
        set_new(c, c->out, "tool_choice", json_string("required"));
    else if (is_text(type, "tool"))
        set_new(c, c->out, "tool_choice",
                json_pack("{s:s,s:{s:O?}}", "type", "function", "function", "name",
                          json_body_get(choice, "name")));
    else
        body_refuse(&c->body, "invalid_value", "tool_choice",
                    "has to be of type auto, any, tool or none.");
    if (json_is_true(json_body_get(choice, "disable_parallel_tool_use")))
        set_new(c, c->out, "parallel_tool_calls", json_false());
}

/* ---- the rest ---- */

static void convert_thinking(struct converter *c, const json_t *thinking)
{
    const char *type = type_of(thinking);
    if (is_text(type, "enabled") || is_text(type, "disabled"))
        set_new(c, c->out, "chat_template_kwargs",
                json_pack("{s:b,s:b}", "enable_thinking", is_text(type, "enabled"), "thinking",
                          is_text(type, "enabled")));
    else if (!is_text(type, "adaptive"))
        body_refuse(&c->body, "invalid_value", "thinking",
                    "has to be of type enabled, disabled or adaptive.");
    json_t *budget = json_body_get(thinking, "budget_tokens");
    if (budget && !is_text(type, "disabled"))
        body_own(&c->body, json_object_set(c->out, "reasoning_budget", budget));
}

static void convert_output(struct converter *c, const json_t *config)
{
    json_t *effort = json_body_get(config, "effort"), *format = json_body_get(config, "format");
    if (effort)
        body_own(&c->body, json_object_set(c->out, "reasoning_effort", effort));
    if (format)
        set_new(c, c->out, "response_format",
                json_pack("{s:O?,s:{s:s,s:O?}}", "type", json_body_get(format, "type"),
                          "json_schema", "name", "output", "schema",
                          json_body_get(format, "schema")));
}

static void convert_members(struct converter *c, const json_t *body)
{
    static const struct {
        const char *from, *to;
    } same[] = {{"model", "model"},
                {"max_tokens", "max_tokens"},
                {"stream", "stream"},
                {"temperature", "temperature"},
                {"top_p", "top_p"},
                {"top_k", "top_k"},
                {"stop_sequences", "stop"},
                {"service_tier", "service_tier"},
                {"seed", "seed"}};
    static const char *const others[] = {"messages", "system",        "tools",    "tool_choice",
                                         "thinking", "output_config", "metadata", "cache_control"};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)body, name, value)
    {
        bool is_known = json_is_null(value);
        for (size_t i = 0; i < sizeof same / sizeof *same && !is_known; i++) {
            if (is_text(name, same[i].from)) {
                body_own(&c->body, json_object_set(c->out, same[i].to, value));
                is_known = true;
            }
        }
        for (size_t i = 0; i < sizeof others / sizeof *others && !is_known; i++)
            is_known = is_text(name, others[i]);
        if (!is_known) /* the fields of a chat say whether it means anything */
            body_own(&c->body, json_object_set(c->out, name, value));
    }
}

json_t *anthropic_body_convert(struct exchange *x, const json_t *body, struct api_error *e)
{
    struct converter c = {
        .body = {x, e, "messages", false}, .out = json_object(), .messages = json_array()};
    const json_t *tools = json_body_get(body, "tools"),
                 *choice = json_body_get(body, "tool_choice");
    const json_t *thinking = json_body_get(body, "thinking");
    convert_members(&c, body);
    convert_messages(&c, body);
    body_own(&c.body, json_object_set(c.out, "messages", c.messages));
    if (tools)
        convert_tools(&c, tools);
    if (choice)
        convert_choice(&c, choice);
    if (thinking)
        convert_thinking(&c, thinking);
    if (json_body_get(body, "output_config"))
        convert_output(&c, json_body_get(body, "output_config"));
    json_decref(c.messages);
    if (!c.body.is_failed)
        return c.out;
    json_decref(c.out);
    return NULL;
}
