#include "base/utf8.h"
#include "server/endpoints.h"
#include "server/request/chat_prompt.h"
#include "server/request/tool_use.h"

#include <string.h>

#define LIMIT_TOKENIZE_TOKENS (1u << 22)

/* A piece as a string, or as a list of bytes where it is no text. */
static void write_piece(const struct tokenizer *tokenizer, int32_t id, struct buffer *out)
{
    uint32_t n;
    const char *bytes = tokenizer_piece(tokenizer, id, &n);
    if (utf8_valid_run(bytes, n) == n) {
        buffer_append_char(out, '"');
        buffer_append_json(out, bytes, n);
        buffer_append_char(out, '"');
        return;
    }
    buffer_append_char(out, '[');
    for (uint32_t i = 0; i < n; i++)
        buffer_printf(out, "%s%u", i ? "," : "", (uint8_t)bytes[i]);
    buffer_append_char(out, ']');
}

static void write_strings(const struct tokenizer *tokenizer, const struct token_list *ids,
                          struct buffer *out)
{
    buffer_append_str(out, ",\"token_strs\":[");
    for (uint32_t i = 0; i < ids->n; i++) {
        uint32_t n;
        const char *bytes = tokenizer_piece(tokenizer, ids->id[i], &n);
        buffer_append_str(out, i ? ",\"" : "\"");
        buffer_append_json(out, bytes, n);
        buffer_append_char(out, '"');
    }
    buffer_append_char(out, ']');
}

static void reply_tokens(struct exchange *x, const struct api_fields *f,
                         const struct token_list *ids)
{
    const struct served_model *model = exchange_model(x);
    struct buffer body;
    buffer_init(&body, 256 * MIB);
    buffer_printf(&body, "{\"count\":%u,\"max_model_len\":%u,\"tokens\":[", ids->n,
                  model->context_size);
    for (uint32_t i = 0; i < ids->n; i++) {
        if (i)
            buffer_append_char(&body, ',');
        if (f->with_pieces) {
            buffer_printf(&body, "{\"id\":%d,\"piece\":", ids->id[i]);
            write_piece(model->tokenizer, ids->id[i], &body);
            buffer_append_char(&body, '}');
        } else {
            buffer_printf(&body, "%d", ids->id[i]);
        }
    }
    buffer_append_char(&body, ']');
    if (f->return_token_strs)
        write_strings(model->tokenizer, ids, &body);
    buffer_append_char(&body, '}');
    exchange_reply(x, 200, "application/json", &body);
    buffer_deinit(&body);
}

static bool encode_messages(struct exchange *x, const struct api_fields *f, struct token_list *ids,
                            struct api_error *e)
{
    struct buffer prompt;
    struct tool_use tools;
    buffer_init(&prompt, LIMIT_TEMPLATE_OUTPUT);
    bool is_good =
        tool_use_read(f, &tools, e) && chat_prompt_render(x, f, tools.list, &prompt, e) &&
        api_tokenize(x, buffer_str(&prompt), prompt.len,
                     TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, "messages", ids, e);
    buffer_deinit(&prompt);
    tool_use_release(&tools);
    return is_good;
}

/* prompt adds BOS and the like unless told not to; content does not unless told to. */
static bool encode(struct exchange *x, const struct api_fields *f, struct token_list *ids,
                   struct api_error *e)
{
    if (f->messages)
        return encode_messages(x, f, ids, e);
    const json_t *text = f->prompt ? f->prompt : f->content;
    const char *param = f->prompt || !f->content ? "prompt" : "content";
    if (!text) {
        api_error_set(e, "missing_required_parameter", "prompt",
                      "prompt, content or messages is missing.");
        return false;
    }
    if (!json_is_string(text)) {
        api_error_set(e, "invalid_type", param, "%s has to be a string.", param);
        return false;
    }
    bool adds = f->prompt ? f->add_special_tokens : f->add_special;
    unsigned flags =
        (adds ? TOKENIZER_ADD_SPECIAL : 0) | (f->parse_special ? TOKENIZER_PARSE_SPECIAL : 0);
    return api_tokenize(x, json_string_value(text), json_string_length(text), flags, param, ids, e);
}

void endpoint_tokenize(struct exchange *x)
{
    struct api_fields fields;
    struct api_error e;
    struct token_list ids;
    if (!api_fields_read(x, API_TOKENIZE, &fields, &e)) {
        exchange_fail(x, &e);
        return;
    }
    token_list_init(&ids, LIMIT_TOKENIZE_TOKENS);
    if (encode(x, &fields, &ids, &e))
        reply_tokens(x, &fields, &ids);
    else
        exchange_fail(x, &e);
    token_list_deinit(&ids);
    api_fields_release(&fields);
}

static void reply_text(struct exchange *x, const struct token_list *ids)
{
    static const char *const names[] = {"prompt", "text", "content"};
    struct buffer text, body;
    buffer_init(&text, 64 * MIB);
    buffer_init(&body, 512 * MIB);
    tokenizer_decode(exchange_model(x)->tokenizer, ids->id, ids->n, false, &text);
    for (size_t i = 0; i < 3; i++) {
        buffer_printf(&body, "%s\"%s\":\"", i ? "," : "{", names[i]);
        buffer_append_json(&body, buffer_str(&text), text.len);
        buffer_append_char(&body, '"');
    }
    buffer_append_char(&body, '}');
    exchange_reply(x, 200, "application/json", &body);
    buffer_deinit(&body);
    buffer_deinit(&text);
}

void endpoint_detokenize(struct exchange *x)
{
    struct api_fields fields;
    struct api_error e;
    struct token_list ids;
    if (!api_fields_read(x, API_DETOKENIZE, &fields, &e)) {
        exchange_fail(x, &e);
        return;
    }
    token_list_init(&ids, LIMIT_TOKENIZE_TOKENS);
    bool is_good = json_is_array(fields.tokens);
    if (!is_good)
        api_error_set(&e, fields.tokens ? "invalid_type" : "missing_required_parameter", "tokens",
                      "tokens has to be a list of token ids.");
    else
        is_good = api_read_ids(x, fields.tokens, "tokens", &ids, &e);
    if (is_good)
        reply_text(x, &ids);
    else
        exchange_fail(x, &e);
    token_list_deinit(&ids);
    api_fields_release(&fields);
}
