/* What clients ask about the model and its tokenizer before they use it. */
#include "base/utf8.h"
#include "server/endpoints.h"
#include "server/exchange.h"

#include <string.h>

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
