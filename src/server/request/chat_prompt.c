#include "server/request/chat_prompt.h"

#include "base/numeric.h"
#include "server/request/modality.h"
#include "server/request/tool_use.h"
#include "server/server_internal.h"
#include "text/template_json.h"

#include <stdio.h>
#include <string.h>

#define LIMIT_PROMPT_TEXT (64 * MIB)

/* Stands behind the text of a message that is left open, so that its end is found again in what
 * the template made of it. Like the guard it is no UTF-8 byte. */
#define OPEN_MARK '\xfe'

/* Making values for the template; is_failed: the arena is full. */
struct maker {
    struct arena *arena;
    const struct tokenizer *tokenizer;
    const json_t *messages, *tools;
    const json_t *open_message; /* NULL: none */
    bool is_failed;
    bool shows_tools; /* the template does; else the messages have them */
};

static struct template_value *keep(struct maker *m, struct template_value *value)
{
    m->is_failed = m->is_failed || !value;
    return value;
}

/* Text from the request: it cannot become control tokens. */
static struct template_value *guarded_text(struct maker *m, const char *text, size_t n,
                                           bool is_open)
{
    struct buffer copy;
    buffer_init(&copy, LIMIT_PROMPT_TEXT);
    tokenizer_guard(m->tokenizer, text, n, &copy);
    if (is_open)
        buffer_append_char(&copy, OPEN_MARK);
    struct template_value *value =
        copy.is_failed ? NULL : template_string(m->arena, buffer_str(&copy), copy.len);
    buffer_deinit(&copy);
    return keep(m, value);
}

static struct template_value *convert(struct maker *m, const json_t *value)
{
    return keep(m, template_from_json(m->arena, m->tokenizer, value));
}

static void set(struct maker *m, struct template_value *map, const char *key,
                struct template_value *value)
{
    if (!m->is_failed && value && !template_map_set(m->arena, map, key, strlen(key), value))
        m->is_failed = true;
}

/* ---- what the request says, before anything is made of it --------------------------------------
 */

static bool fault(struct api_error *e, const char *code, size_t i, const char *member,
                  const char *text)
{
    char param[64];
    (void)snprintf(param, sizeof param, "messages[%zu]%s%s", i, *member ? "." : "", member);
    api_error_set(e, code, param, "%s: %s", param, text);
    return false;
}

static bool check_role(const json_t *message, size_t i, struct api_error *e)
{
    static const char *const roles[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "function"};
    const json_t *value = json_body_get(message, "role");
    const char *role = json_string_value(value);
    if (!value)
        return fault(e, "missing_required_parameter", i, "role", "is missing.");
    for (size_t r = 0; role && r < sizeof roles / sizeof *roles; r++)
        if (strcmp(roles[r], role) == 0)
            return true;
    return fault(e, "invalid_value", i, "role",
                 "has to be system, developer, user, assistant, tool or function.");
}

/* The text of a part; NULL: it has none. */
static const json_t *part_text(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    bool is_refusal = type && strcmp(type, "refusal") == 0;
    if (!type || !(is_refusal || strcmp(type, "text") == 0))
        return NULL;
    const json_t *text = json_object_get(part, type);
    return json_is_string(text) ? text : NULL;
}

static bool check_content(const json_t *message, size_t i, struct api_error *e)
{
    const json_t *content = json_body_get(message, "content");
    bool may_lack = strcmp(json_string_value(json_body_get(message, "role")), "assistant") == 0;
    if (!content)
        return may_lack || fault(e, "missing_required_parameter", i, "content", "is missing.");
    if (!json_is_string(content) && !json_is_array(content))
        return fault(e, "invalid_type", i, "content", "has to be a string or a list of parts.");
    for (size_t p = 0; p < json_array_size(content); p++) {
        const json_t *part = json_array_get(content, p);
        const char *type = json_string_value(json_object_get(part, "type"));
        if (type && modality_is_other(type))
            return fault(e, "unsupported_modality", i, "content", MODALITY_REFUSAL);
        if (!part_text(part))
            return fault(e, "invalid_type", i, "content",
                         "has to be a string or a list of {type: \"text\", text}.");
    }
    return true;
}

static bool check_message(const json_t *message, size_t i, struct api_error *e)
{
    const json_t *calls = json_body_get(message, "tool_calls");
    if (!json_is_object(message))
        return fault(e, "invalid_type", i, "", "is no object.");
    if (!check_role(message, i, e) || !check_content(message, i, e))
        return false;
    if (calls && !json_is_array(calls))
        return fault(e, "invalid_type", i, "tool_calls", "has to be a list.");
    const bool is_result = strcmp(json_string_value(json_body_get(message, "role")), "tool") == 0;
    const json_t *id = json_body_get(message, "tool_call_id");
    if (is_result && !id)
        return fault(e, "missing_required_parameter", i, "tool_call_id", "is missing.");
    if (is_result && !json_is_string(id))
        return fault(e, "invalid_type", i, "tool_call_id", "has to be a string.");
    return true;
}

static bool check_messages(const struct api_fields *f, struct api_error *e)
{
    size_t n = json_array_size(f->messages);
    if (!f->messages) {
        api_error_set(e, "missing_required_parameter", "messages", "messages is missing.");
        return false;
    }
    if (!json_is_array(f->messages)) {
        api_error_set(e, "invalid_type", "messages", "messages has to be a list.");
        return false;
    }
    if (n == 0 || n > LIMIT_MESSAGES) {
        api_error_set(e, "invalid_value", "messages",
                      "messages has %zu elements, allowed are 1 to %u.", n, LIMIT_MESSAGES);
        return false;
    }
    for (size_t i = 0; i < n; i++)
        if (!check_message(json_array_get(f->messages, i), i, e))
            return false;
    return true;
}

/* ---- messages
 * ------------------------------------------------------------------------------------ */

/* Parts of text become one text, a line each. */
static void join_parts(const json_t *parts, struct buffer *out)
{
    for (size_t p = 0; p < json_array_size(parts); p++) {
        const json_t *text = part_text(json_array_get(parts, p));
        if (p > 0)
            buffer_append_char(out, '\n');
        buffer_append(out, json_string_value(text), json_string_length(text));
    }
}

static struct template_value *make_content(struct maker *m, const json_t *message)
{
    const json_t *content = json_body_get(message, "content");
    bool is_open = message == m->open_message;
    if (!content) {
        bool has_calls = json_array_size(json_body_get(message, "tool_calls")) > 0;
        return keep(m, has_calls ? template_none(m->arena) : template_string(m->arena, "", 0));
    }
    if (json_is_string(content))
        return guarded_text(m, json_string_value(content), json_string_length(content), is_open);
    struct buffer text;
    buffer_init(&text, LIMIT_PROMPT_TEXT);
    join_parts(content, &text);
    struct template_value *value = guarded_text(m, buffer_str(&text), text.len, is_open);
    m->is_failed = m->is_failed || text.is_failed;
    buffer_deinit(&text);
    return value;
}

/* Arguments of earlier calls reach the template as an object if they parse as one, within the
 * bounds of a body. */
static struct template_value *convert_call(struct maker *m, const json_t *call)
{
    json_t *copy = json_deep_copy(call);
    json_t *function = json_object_get(copy, "function");
    const json_t *arguments = json_object_get(function, "arguments");
    json_t *parsed = NULL;
    struct api_error ignored; /* then they stay text */
    if (json_is_string(arguments) &&
        json_body_parse(json_string_value(arguments), json_string_length(arguments), &parsed,
                        &ignored))
        (void)json_object_set(function, "arguments", parsed);
    struct template_value *value = copy ? convert(m, copy) : keep(m, NULL);
    json_decref(parsed);
    json_decref(copy);
    return value;
}

static void add_calls(struct maker *m, const json_t *message, struct template_value *out)
{
    const json_t *calls = json_body_get(message, "tool_calls");
    if (!calls)
        return;
    struct template_value *list = keep(m, template_list(m->arena));
    for (size_t c = 0; c < json_array_size(calls) && !m->is_failed; c++) {
        struct template_value *call = convert_call(m, json_array_get(calls, c));
        m->is_failed = m->is_failed || !template_list_add(m->arena, list, call);
    }
    set(m, out, "tool_calls", list);
}

static void add_message(struct maker *m, const json_t *message, bool knows_developer,
                        struct template_value *list)
{
    const char *role = json_string_value(json_body_get(message, "role"));
    if (strcmp(role, "developer") == 0 && !knows_developer)
        role = "system";
    struct template_value *out = keep(m, template_map(m->arena));
    set(m, out, "role", keep(m, template_string(m->arena, role, strlen(role))));
    set(m, out, "content", make_content(m, message));
    add_calls(m, message, out);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)message, key, value)
    {
        bool is_done = strcmp(key, "role") == 0 || strcmp(key, "content") == 0 ||
                       strcmp(key, "tool_calls") == 0;
        if (!is_done && !json_is_null(value))
            set(m, out, key, convert(m, value));
    }
    if (!m->is_failed && !template_list_add(m->arena, list, out))
        m->is_failed = true;
}

/* The last message is left open if the request says so. */
static bool choose_open(struct maker *m, const struct api_fields *f, struct api_error *e)
{
    const json_t *last = json_array_get(m->messages, json_array_size(m->messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    const json_t *content = json_object_get(last, "content");
    if (!f->continue_final_message)
        return true;
    if (json_is_true(json_body_get(f->root, "add_generation_prompt"))) {
        api_error_set(e, "invalid_value", "continue_final_message",
                      "continue_final_message and add_generation_prompt exclude each other.");
        return false;
    }
    if (!role || strcmp(role, "assistant") != 0 ||
        json_string_length(content) + json_array_size(content) == 0) {
        api_error_set(e, "invalid_value", "continue_final_message",
                      "continue_final_message needs a last message of the assistant with text.");
        return false;
    }
    m->open_message = last;
    return true;
}

static bool make_messages(struct maker *m, struct exchange *x, const struct api_fields *f,
                          struct template_value **out, struct api_error *e)
{
    size_t n = json_array_size(m->messages);
    if (!choose_open(m, f, e))
        return false;
    bool knows_developer = strstr(exchange_model(x)->chat_template_source, "developer") != NULL;
    *out = keep(m, template_list(m->arena));
    for (size_t i = 0; i < n && !m->is_failed; i++)
        add_message(m, json_array_get(m->messages, i), knows_developer, *out);
    return true;
}

/* ---- rendering
 * ----------------------------------------------------------------------------------- */

static void set_token(struct maker *m, struct template_value *globals, const char *name, int32_t id)
{
    uint32_t n = 0;
    const char *text = id >= 0 ? tokenizer_piece(m->tokenizer, id, &n) : "";
    set(m, globals, name, keep(m, template_string(m->arena, text, n)));
}

static bool make_globals(struct maker *m, struct exchange *x, const struct api_fields *f,
                         struct template_value **out, struct api_error *e)
{
    struct template_value *messages = NULL;
    const struct vocabulary *v = tokenizer_vocabulary(m->tokenizer);
    if (f->chat_template_kwargs && !json_is_object(f->chat_template_kwargs)) {
        api_error_set(e, "invalid_type", "chat_template_kwargs",
                      "chat_template_kwargs has to be an object.");
        return false;
    }
    if (!make_messages(m, x, f, &messages, e))
        return false;
    struct template_value *globals = keep(m, template_map(m->arena));
    bool is_open = f->continue_final_message;
    bool shows_tools = m->tools && m->shows_tools;
    set(m, globals, "tools", shows_tools ? convert(m, m->tools) : keep(m, template_none(m->arena)));
    set(m, globals, "documents",
        f->documents ? convert(m, f->documents) : keep(m, template_none(m->arena)));
    set_token(m, globals, "bos_token", v->bos);
    set_token(m, globals, "eos_token", v->eos);
    set_token(m, globals, "pad_token", v->padding);
    set_token(m, globals, "unk_token", v->unknown);
    if (f->reasoning_effort) {
        bool is_off = strcmp(f->reasoning_effort, "none") == 0;
        size_t n = strlen(f->reasoning_effort);
        if (!is_off)
            set(m, globals, "reasoning_effort",
                keep(m, template_string(m->arena, f->reasoning_effort, n)));
        /* what templates call it */
        set(m, globals, "enable_thinking", keep(m, template_bool(m->arena, !is_off)));
        set(m, globals, "thinking", keep(m, template_bool(m->arena, !is_off)));
    }
    const char *key;
    json_t *value;
    json_object_foreach(f->chat_template_kwargs, key, value)
        set(m, globals, key, convert(m, value));
    set(m, globals, "messages", messages);
    set(m, globals, "add_generation_prompt",
        keep(m, template_bool(m->arena, f->add_generation_prompt && !is_open)));
    *out = globals;
    return true;
}

/* Cuts what the template puts behind the open message's text. */
static bool leave_open(struct buffer *out, struct api_error *e)
{
    char *mark = out->len > 0 ? memrchr(out->data, OPEN_MARK, out->len) : NULL;
    if (!mark) {
        api_error_set(e, "template_error", "continue_final_message",
                      "The chat template changes the last message, so it cannot be continued.");
        return false;
    }
    /* a template that shows the text more than once leaves marks behind */
    size_t n = 0;
    for (const char *at = out->data; at < mark; at++)
        if (*at != OPEN_MARK)
            out->data[n++] = *at;
    out->data[n] = '\0';
    out->len = n;
    return true;
}

static bool render(struct exchange *x, struct maker *m, const struct chat_template *tmpl,
                   const struct api_fields *f, struct buffer *out, struct api_error *e)
{
    struct template_value *globals = NULL;
    if (!make_globals(m, x, f, &globals, e))
        return false;
    if (m->is_failed) {
        api_error_set(e, "request_too_large", "messages", "The messages are too large.");
        return false;
    }
    serverd_error err;
    struct template_budget budget = template_budget_default();
    const struct clock *clock = exchange_context(x)->clock;
    uint64_t begin = clock_now_ns(clock);
    serverd_status status =
        chat_template_render(tmpl, m->arena, globals, &budget, clock, out, &err);
    metrics_observe(exchange_context(x)->metrics, METRIC_TEMPLATE_TIME,
                    (double)(clock_now_ns(clock) - begin) * 1e-9);
    if (status == SERVERD_OK)
        return f->continue_final_message ? leave_open(out, e) : true;
    api_error_set(e, "template_error", "messages", "The chat template refuses the messages: %s",
                  err.text);
    return false;
}

/* The request's own template; *out NULL: it has none. False: *e. */
static bool compile_own(struct exchange *x, const struct api_fields *f, struct chat_template **out,
                        struct api_error *e)
{
    serverd_error err;
    *out = NULL;
    if (!f->chat_template || *f->chat_template == '\0')
        return true;
    if (!exchange_context(x)->options->trust_request_templates) {
        api_error_set(e, "unsupported_value", "chat_template",
                      "This server takes no templates from requests "
                      "(--trust-request-templates).");
        return false;
    }
    if (chat_template_compile(f->chat_template, strlen(f->chat_template), out, &err) == SERVERD_OK)
        return true;
    api_error_set(e, "template_error", "chat_template", "chat_template: %s", err.text);
    return false;
}

/* own: the request's template, which is trusted to show tools; NULL: the model's. */
static bool render_with(struct exchange *x, const struct chat_template *own,
                        const struct api_fields *f, const json_t *tools, struct buffer *out,
                        struct api_error *e)
{
    const struct served_model *model = exchange_model(x);
    if (!own && !model->chat_template) {
        api_error_set(e, "no_chat_template", NULL,
                      "This model has no chat template; use /v1/completions, or start serverd with "
                      "--chat-template FILE.");
        return false;
    }
    if (!check_messages(f, e))
        return false;
    const bool shows_tools = own || model->output.template_has_tools;
    json_t *messages =
        shows_tools ? json_incref(f->messages) : tool_fallback_messages(f->messages, tools);
    struct maker m = {.arena = arena_create(LIMIT_TEMPLATE_MEMORY),
                      .tokenizer = model->tokenizer,
                      .messages = messages,
                      .tools = tools,
                      .shows_tools = shows_tools};
    bool is_good = m.arena && messages;
    if (is_good)
        is_good = render(x, &m, own ? own : model->chat_template, f, out, e);
    else
        (void)api_error_no_memory(e);
    if (m.arena)
        arena_destroy(m.arena);
    json_decref(messages);
    if (is_good && out->is_failed) {
        api_error_set(e, "request_too_large", "messages", "The rendered prompt is too large.");
        return false;
    }
    return is_good;
}

bool chat_prompt_render(struct exchange *x, const struct api_fields *f, const json_t *tools,
                        struct buffer *out, struct api_error *e)
{
    struct chat_template *own;
    if (!compile_own(x, f, &own, e))
        return false;
    const bool is_good = render_with(x, own, f, tools, out, e);
    if (own)
        chat_template_destroy(own);
    return is_good;
}
