/* The models of tokenizer.json: WordPiece, BPE, Unigram. */
#include "base/error.h"
#include "base/limits.h"
#include "compiler/hf_tokenizer_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WORD_START "\xe2\x96\x81"

static serverd_status read_type(const struct json_place *model, const char **type,
                                serverd_error *err)
{
    *type = "";
    serverd_status status = json_place_string(model, "type", type, err);
    if (status == SERVERD_OK && (*type)[0] == '\0') /* as the first versions of the format */
        *type = json_place_get(model, "merges") ? "BPE" : "";
    return status;
}

/* ---- how many tokens ----------------------------------------------------------------------- */

static serverd_status count_map(const struct json_place *model, const json_t *vocab, uint32_t *n,
                                serverd_error *err)
{
    const char *text;
    json_t *value;
    json_object_foreach((json_t *)vocab, text, value)
    {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= (json_int_t)LIMIT_VOCAB)
            return fail(err, SERVERD_CORRUPT,
                        "%s: model.vocab: the id of \"%.64s\" is not in 0..%u", model->file, text,
                        LIMIT_VOCAB - 1);
        *n = (uint32_t)id + 1 > *n ? (uint32_t)id + 1 : *n;
    }
    return SERVERD_OK;
}

serverd_status hf_tokenizer_count(struct hf_tokenizer *t, const struct json_place *model,
                                  uint32_t *n_tokens, serverd_error *err)
{
    (void)t;
    const json_t *vocab = json_place_get(model, "vocab");
    if (json_is_array(vocab)) {
        if (json_array_size(vocab) > LIMIT_VOCAB)
            return fail(err, SERVERD_CORRUPT, "%s: model.vocab: %zu tokens, at most %u are allowed",
                        model->file, json_array_size(vocab), LIMIT_VOCAB);
        *n_tokens = (uint32_t)json_array_size(vocab);
        return SERVERD_OK;
    }
    if (!json_is_object(vocab))
        return json_place_fail(model, "vocab", "an object or an array", err);
    return count_map(model, vocab, n_tokens, err);
}

/* ---- WordPiece ----------------------------------------------------------------------------- */

/* The vocabulary marks the begin of a word (U+2581) instead of what goes on with one ("##"). */
static serverd_status put_wordpiece(struct hf_tokenizer *t, uint32_t id, const char *text,
                                    const char *prefix, serverd_error *err)
{
    size_t len = strlen(text), n = strlen(prefix);
    if (len > n && strncmp(text, prefix, n) == 0)
        return hf_tokenizer_put(t, id, text + n, len - n, TOKEN_NORMAL, 0, err);
    if (len > LIMIT_TOKEN_BYTES)
        return fail(err, SERVERD_CORRUPT, "%s: token %u: %zu bytes, at most %u are allowed",
                    t->root.file, id, len, LIMIT_TOKEN_BYTES);
    char *marked = malloc(len + 4);
    if (!marked)
        return hf_tokenizer_no_memory(t, err);
    memcpy(marked, WORD_START, 3);
    memcpy(marked + 3, text, len + 1);
    serverd_status status = hf_tokenizer_put(t, id, marked, len + 3, TOKEN_NORMAL, 0, err);
    free(marked);
    return status;
}

static serverd_status fail_double(const struct hf_tokenizer *t, uint32_t id, serverd_error *err)
{
    return fail(err, SERVERD_CORRUPT, "%s: model.vocab: two tokens have the id %u", t->root.file,
                id);
}

static serverd_status import_wordpiece(struct hf_tokenizer *t, const struct json_place *model,
                                       serverd_error *err)
{
    serverd_status status;
    const char *prefix = "##", *unknown = "[UNK]", *text;
    uint32_t max_chars = 100;
    json_t *value;
    t->vocabulary->kind = VOCABULARY_WORDPIECE;
    if ((status = json_place_string(model, "continuing_subword_prefix", &prefix, err)) !=
            SERVERD_OK ||
        (status = json_place_string(model, "unk_token", &unknown, err)) != SERVERD_OK ||
        (status = json_place_u32(model, "max_input_chars_per_word", 0, UINT32_MAX, &max_chars,
                                 err)) != SERVERD_OK)
        return status;
    if (max_chars != 100)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: model.max_input_chars_per_word: %u; 100 is supported", model->file,
                    max_chars);
    const json_t *vocab = json_place_get(model, "vocab");
    if (!json_is_object(vocab))
        return json_place_fail(model, "vocab", "an object", err);
    json_object_foreach((json_t *)vocab, text, value)
    {
        uint32_t id = (uint32_t)json_integer_value(value);
        if (t->token[id].type != 0)
            return fail_double(t, id, err);
        if (strcmp(text, unknown) == 0) {
            t->vocabulary->unknown = (int32_t)id;
            status = hf_tokenizer_put(t, id, text, strlen(text), TOKEN_UNKNOWN, 0, err);
        } else {
            status = put_wordpiece(t, id, text, prefix, err);
        }
        if (status != SERVERD_OK)
            return status;
    }
    if (t->vocabulary->unknown < 0)
        return fail(err, SERVERD_CORRUPT, "%s: model.unk_token: no token is \"%.64s\"", model->file,
                    unknown);
    return SERVERD_OK;
}

/* ---- the table ----------------------------------------------------------------------------- */

serverd_status hf_tokenizer_model(struct hf_tokenizer *t, const struct json_place *model,
                                  serverd_error *err)
{
    static const struct {
        const char *type;
        serverd_status (*import)(struct hf_tokenizer *t, const struct json_place *model,
                                 serverd_error *err);
    } rows[] = {{"WordPiece", import_wordpiece}};
    const char *type;
    serverd_status status = read_type(model, &type, err);
    if (status != SERVERD_OK)
        return status;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].type, type) == 0)
            return rows[i].import(t, model, err);
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: model.type: \"%.32s\"; BPE, Unigram and WordPiece are supported", model->file,
                type);
}
