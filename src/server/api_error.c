#include "server/api_error.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The contract's words: each fixes status and type. */
static const struct {
    const char *code;
    int status;
    const char *type;
} words[] = {
    {"invalid_json", 400, "invalid_request_error"},
    {"missing_required_parameter", 400, "invalid_request_error"},
    {"invalid_type", 400, "invalid_request_error"},
    {"invalid_value", 400, "invalid_request_error"},
    {"unsupported_value", 400, "invalid_request_error"},
    {"unsupported_modality", 400, "invalid_request_error"},
    {"unknown_parameter", 400, "invalid_request_error"},
    {"context_length_exceeded", 400, "invalid_request_error"},
    {"invalid_schema", 400, "invalid_request_error"},
    {"unsupported_schema", 400, "invalid_request_error"},
    {"invalid_regex", 400, "invalid_request_error"},
    {"invalid_grammar", 400, "invalid_request_error"},
    {"grammar_too_complex", 400, "invalid_request_error"},
    {"previous_response_not_found", 400, "invalid_request_error"},
    {"template_error", 400, "invalid_request_error"},
    {"no_chat_template", 400, "invalid_request_error"},
    {"busy", 400, "invalid_request_error"},
    {"bad_request", 400, "invalid_request_error"},
    {"invalid_api_key", 401, "invalid_request_error"},
    {"insufficient_scope", 403, "permission_error"},
    {"not_found", 404, "invalid_request_error"},
    {"model_not_found", 404, "invalid_request_error"},
    {"method_not_allowed", 405, "invalid_request_error"},
    {"length_required", 411, "invalid_request_error"},
    {"request_too_large", 413, "invalid_request_error"},
    {"uri_too_long", 414, "invalid_request_error"},
    {"unsupported_media_type", 415, "invalid_request_error"},
    {"expectation_failed", 417, "invalid_request_error"},
    {"misdirected_request", 421, "invalid_request_error"},
    {"headers_too_large", 431, "invalid_request_error"},
    {"rate_limit_exceeded", 429, "rate_limit_error"},
    {"internal_error", 500, "server_error"},
    {"feature_disabled", 501, "not_supported_error"},
    {"not_implemented", 501, "not_supported_error"},
    {"model_loading", 503, "server_error"},
    {"model_unavailable", 503, "server_error"},
    {"draining", 503, "server_error"},
    {"queue_timeout", 503, "server_error"},
    {"too_many_connections", 503, "server_error"},
    {"timeout", 504, "server_error"},
    {"insufficient_storage", 507, "server_error"},
    {"http_version_not_supported", 505, "invalid_request_error"},
};

enum { N_WORDS = sizeof words / sizeof *words };

static void set_word(struct api_error *e, const char *code)
{
    size_t i = 0;
    while (i + 1 < N_WORDS && strcmp(words[i].code, code) != 0)
        i++;
    if (strcmp(words[i].code, code) != 0) /* a word that the table lacks is our fault */
        for (i = 0; strcmp(words[i].code, "internal_error") != 0;)
            i++;
    *e = (struct api_error){
        .http_status = words[i].status, .type = words[i].type, .code = words[i].code};
    if (e->http_status == 429 || e->http_status == 503)
        e->retry_after_ms = 1000;
}

void api_error_set(struct api_error *e, const char *code, const char *param, const char *format,
                   ...)
{
    va_list args;
    va_start(args, format);
    set_word(e, code);
    (void)snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    (void)vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
}

bool api_error_no_memory(struct api_error *e)
{
    api_error_set(e, "model_unavailable", NULL, "The server is out of memory.");
    return false;
}

void api_error_unknown_model(struct api_error *e, const char *name)
{
    api_error_set(e, "model_not_found", "model",
                  "The model `%.100s` does not exist; /v1/models lists those that do.", name);
}

void api_error_from(struct api_error *e, const serverd_error *err)
{
    static const struct {
        serverd_status status;
        const char *word;
        bool shows_text;
    } rows[] = {
        {SERVERD_UNSUPPORTED, "unsupported_value", true},
        {SERVERD_INVALID, "invalid_value", true},
        {SERVERD_NOMEM, "model_unavailable", false},
        {SERVERD_BUSY, "rate_limit_exceeded", true},
        {SERVERD_TIMEOUT, "timeout", true},
        {SERVERD_NUMERIC, "internal_error", true},
        {SERVERD_DEVICE_LOST, "model_unavailable", false},
    };
    const char *word = "internal_error";
    bool shows_text = false;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].status == err->code) {
            word = rows[i].word;
            shows_text = rows[i].shows_text;
        }
    }
    const char *hidden = err->code == SERVERD_NOMEM ? "The server is out of memory."
                         : err->code == SERVERD_DEVICE_LOST
                             ? "The model's device has failed; the server has to be restarted."
                             : "The server made an error; its log says more.";
    api_error_set(e, word, NULL, "%s", shows_text ? err->text : hidden);
}

static void write_string(struct buffer *out, const char *s)
{
    if (!s || !*s) {
        buffer_append_str(out, "null");
        return;
    }
    buffer_append_char(out, '"');
    buffer_append_json(out, s, strlen(s));
    buffer_append_char(out, '"');
}

void api_error_write(const struct api_error *e, struct buffer *out)
{
    buffer_append_str(out, "{\"error\":{\"message\":\"");
    buffer_append_json(out, e->message, strlen(e->message));
    buffer_printf(out, "\",\"type\":\"%s\",\"param\":", e->type);
    write_string(out, e->param);
    buffer_append_str(out, ",\"code\":");
    write_string(out, e->code);
    if (e->n_ctx > 0)
        buffer_printf(out, ",\"n_prompt_tokens\":%u,\"n_ctx\":%u", e->n_prompt_tokens, e->n_ctx);
    buffer_append_str(out, "}}");
}

/* Anthropic's types go by the status. */
static const char *anthropic_type(int status)
{
    static const struct {
        int status;
        const char *type;
    } types[] = {{401, "authentication_error"}, {403, "permission_error"},
                 {404, "not_found_error"},      {413, "request_too_large"},
                 {429, "rate_limit_error"},     {503, "overloaded_error"},
                 {504, "timeout_error"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].status == status)
            return types[i].type;
    return status >= 500 ? "api_error" : "invalid_request_error";
}

void api_error_write_anthropic(const struct api_error *e, const char *request_id,
                               struct buffer *out)
{
    buffer_printf(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":\"",
                  anthropic_type(e->http_status));
    buffer_append_json(out, e->message, strlen(e->message));
    buffer_append_str(out, "\"},\"request_id\":");
    write_string(out, request_id);
    buffer_append_char(out, '}');
}
