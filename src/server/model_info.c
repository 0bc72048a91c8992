/* What clients ask about the model and its tokenizer before they use it. */
#include "base/utf8.h"
#include "server/dialects/llama_settings.h"
#include "server/endpoints.h"

#include <string.h>

#ifndef PROJECT_VERSION
#define PROJECT_VERSION "0"
#endif

void endpoint_model_info(struct exchange *x)
{
    const struct served_model *model = exchange_model(x);
    const char *path = model->path;
    struct buffer body;
    buffer_init(&body, 64 * KIB);
    buffer_append_str(&body, "{\"model_path\":");
    buffer_append_json_string(&body, path ? path : "", path ? strlen(path) : 0);
    buffer_append_str(&body, ",\"served_model_name\":");
    buffer_append_json_string(&body, model->name, strlen(model->name));
    buffer_append_str(&body, ",\"tokenizer_path\":"); /* it is a part of the model */
    buffer_append_json_string(&body, path ? path : "", path ? strlen(path) : 0);
    buffer_printf(&body, ",\"is_generation\":%s}",
                  model->program->config.is_encoder ? "false" : "true");
    exchange_reply(x, 200, "application/json", &body);
}

/* ---- llama-server's form ------------------------------------------------------------------------
 */

/* The settings of a request that says nothing. False: *e. */
static bool write_default_settings(struct exchange *x, struct buffer *out, struct api_error *e)
{
    static const int32_t any_token[] = {0};
    struct api_fields fields;
    json_t *nothing = json_object();
    if (!nothing)
        return api_error_no_memory(e);
    if (!api_fields_read_json(x, API_LLAMA, nothing, &fields, e))
        return false;
    struct request *request = api_make_request(x, &fields, any_token, 1, -1, -1, "prompt", e);
    if (request)
        llama_settings_write(x, &fields, request, true, out);
    if (request)
        request_destroy(request);
    api_fields_release(&fields);
    return request != NULL;
}

static void append_text(struct buffer *out, const char *text)
{
    buffer_append_json_string(out, text ? text : "", text ? strlen(text) : 0);
}

void endpoint_props(struct exchange *x)
{
    const struct served_model *model = exchange_model(x);
    const struct options *options = exchange_context(x)->options;
    struct api_error e;
    struct buffer body;
    buffer_init(&body, 64 * MIB);
    buffer_printf(
        &body, "{\"default_generation_settings\":{\"n_ctx\":%u,\"params\":", model->context_size);
    if (!write_default_settings(x, &body, &e)) {
        buffer_deinit(&body);
        exchange_fail(x, &e);
        return;
    }
    buffer_printf(&body, "},\"total_slots\":%u,\"model_alias\":", (uint32_t)options->max_running);
    append_text(&body, model->name);
    buffer_append_str(&body, ",\"model_path\":");
    append_text(&body, model->path);
    buffer_append_str(&body, ",\"chat_template\":");
    append_text(&body, model->chat_template_source);
    buffer_append_str(&body, ",\"modalities\":{\"vision\":false,\"audio\":false},"
                             "\"build_info\":\"serverd " PROJECT_VERSION "\"}");
    exchange_reply(x, 200, "application/json", &body);
}

/* ---- the tokenizer -----------------------------------------------------------------------------
 */

/* The name that Hugging Face's library has for such a tokenizer. */
static const char *tokenizer_class(enum vocabulary_kind kind)
{
    static const char *const names[] = {[VOCABULARY_NONE] = "PreTrainedTokenizerFast",
                                        [VOCABULARY_BPE] = "PreTrainedTokenizerFast",
                                        [VOCABULARY_BPE_UTF8] = "PreTrainedTokenizerFast",
                                        [VOCABULARY_SPM] = "LlamaTokenizerFast",
                                        [VOCABULARY_WORDPIECE] = "BertTokenizerFast",
                                        [VOCABULARY_UNIGRAM] = "XLMRobertaTokenizerFast"};
    return (size_t)kind < sizeof names / sizeof *names ? names[kind] : names[0];
}

/* Special tokens stand in the vocabulary as they stand in texts. */
static void write_token(const struct vocabulary *vocabulary, int32_t id, struct buffer *out)
{
    uint32_t n;
    if (id < 0 || (uint32_t)id >= vocabulary->n_tokens) {
        buffer_append_str(out, "null");
        return;
    }
    const char *text = vocabulary_text(vocabulary, (uint32_t)id, &n);
    buffer_append_json_string(out, text, utf8_valid_run(text, n));
}

static void write_added(const struct vocabulary *vocabulary, struct buffer *out)
{
    bool is_first = true;
    for (uint32_t id = 0; id < vocabulary->n_tokens; id++) {
        const enum token_type type = vocabulary_type(vocabulary, id);
        if (type != TOKEN_CONTROL && type != TOKEN_USER_DEFINED)
            continue;
        buffer_printf(out, "%s\"%u\":{\"content\":", is_first ? "" : ",", id);
        write_token(vocabulary, (int32_t)id, out);
        buffer_printf(out,
                      ",\"lstrip\":false,\"normalized\":false,\"rstrip\":false,"
                      "\"single_word\":false,\"special\":%s}",
                      type == TOKEN_CONTROL ? "true" : "false");
        is_first = false;
    }
}

void endpoint_tokenizer_info(struct exchange *x)
{
    const struct served_model *model = exchange_model(x);
    const struct vocabulary *vocabulary = tokenizer_vocabulary(model->tokenizer);
    const struct {
        const char *name;
        int32_t id;
    } specials[] = {{"bos_token", vocabulary->bos},
                    {"eos_token", vocabulary->eos},
                    {"pad_token", vocabulary->padding},
                    {"unk_token", vocabulary->unknown}};
    struct buffer body;
    buffer_init(&body, 256 * MIB);
    buffer_printf(&body, "{\"tokenizer_class\":\"%s\",\"model_max_length\":%u,\"vocab_size\":%u",
                  tokenizer_class(vocabulary->kind), model->context_size, vocabulary->n_tokens);
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
        buffer_printf(&body, ",\"%s\":", specials[i].name);
        write_token(vocabulary, specials[i].id, &body);
    }
    buffer_append_str(&body, ",\"added_tokens_decoder\":{");
    write_added(vocabulary, &body);
    buffer_append_str(&body, "},\"chat_template\":");
    if (model->chat_template_source)
        buffer_append_json_string(&body, model->chat_template_source,
                                  strlen(model->chat_template_source));
    else
        buffer_append_str(&body, "null");
    buffer_append_char(&body, '}');
    exchange_reply(x, 200, "application/json", &body);
}
