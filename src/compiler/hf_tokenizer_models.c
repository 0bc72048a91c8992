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

/* ---- BPE ----------------------------------------------------------------------------------- */

/* "<0xNN>" */
static bool is_byte_text(const char *text, size_t len)
{
    static const char hex[] = "0123456789ABCDEFabcdef";
    return len == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>' && strchr(hex, text[3]) &&
           strchr(hex, text[4]);
}

static serverd_status put_plain(struct hf_tokenizer *t, uint32_t id, const char *text, size_t len,
                                float score, serverd_error *err)
{
    if (t->token[id].type != 0)
        return fail_double(t, id, err);
    bool is_byte = t->vocabulary->falls_back_to_bytes && is_byte_text(text, len);
    return hf_tokenizer_put(t, id, text, len, is_byte ? TOKEN_BYTE : TOKEN_NORMAL, score, err);
}

/* Both texts of a merge: "left right", or [left, right]. */
static bool merge_parts(const json_t *item, const char **left, size_t *n_left, const char **right,
                        size_t *n_right)
{
    if (json_is_string(item)) {
        *left = json_string_value(item);
        const char *space = json_string_length(item) > 1 ? strchr(*left + 1, ' ') : NULL;
        if (!space)
            return false;
        *n_left = (size_t)(space - *left);
        *right = space + 1;
        *n_right = json_string_length(item) - *n_left - 1;
        return true;
    }
    const json_t *a = json_array_get(item, 0), *b = json_array_get(item, 1);
    if (!json_is_string(a) || !json_is_string(b) || json_array_size(item) != 2)
        return false;
    *left = json_string_value(a);
    *n_left = json_string_length(a);
    *right = json_string_value(b);
    *n_right = json_string_length(b);
    return true;
}

/* A blank inside a part would be taken for the one between them. */
static bool has_blank(const char *text, size_t n)
{
    return n == 0 || memchr(text, ' ', n) != NULL;
}

static serverd_status import_merges(struct hf_tokenizer *t, const struct json_place *model,
                                    serverd_error *err)
{
    const json_t *merges = json_place_get(model, "merges");
    size_t n = json_array_size(merges);
    if (!json_is_array(merges) || n > 2 * (size_t)LIMIT_VOCAB)
        return json_place_fail(model, "merges", "an array of at most 8388608 merges", err);
    struct merge_text *made = arena_array(t->arena, n ? n : 1, sizeof *made);
    if (!made)
        return hf_tokenizer_no_memory(t, err);
    for (size_t i = 0; i < n; i++) {
        const char *left, *right;
        size_t n_left, n_right;
        if (!merge_parts(json_array_get(merges, i), &left, &n_left, &right, &n_right) ||
            has_blank(left, n_left) || has_blank(right, n_right) || n_left > LIMIT_TOKEN_BYTES ||
            n_right > LIMIT_TOKEN_BYTES)
            return fail(err, SERVERD_CORRUPT,
                        "%s: model.merges[%zu]: two texts without blanks are needed", model->file,
                        i);
        char *text = arena_alloc(t->arena, n_left + n_right + 2);
        if (!text)
            return hf_tokenizer_no_memory(t, err);
        memcpy(text, left, n_left);
        text[n_left] = ' ';
        memcpy(text + n_left + 1, right, n_right);
        made[i] = (struct merge_text){.bytes = text, .len = (uint32_t)(n_left + n_right + 1)};
    }
    t->vocabulary->merge = made;
    t->vocabulary->n_merges = (uint32_t)n;
    return SERVERD_OK;
}

/* A member that has to be absent, null or empty. */
static serverd_status need_none(const struct json_place *model, const char *name,
                                serverd_error *err)
{
    const json_t *value = json_place_get(model, name);
    bool is_empty = json_is_string(value) && json_string_length(value) == 0;
    if (value && !is_empty && !(json_is_number(value) && json_number_value(value) == 0.0))
        return fail(err, SERVERD_UNSUPPORTED, "%s: model.%s is not supported", model->file, name);
    return SERVERD_OK;
}

static serverd_status import_bpe(struct hf_tokenizer *t, const struct json_place *model,
                                 serverd_error *err)
{
    serverd_status status;
    struct vocabulary *v = t->vocabulary;
    const char *text, *unknown = NULL;
    json_t *value;
    v->kind = VOCABULARY_BPE_UTF8; /* the steps may say that bytes are mapped */
    v->is_stepwise = v->ignores_merges_set = true;
    const json_t *vocab = json_place_get(model, "vocab");
    if (!json_is_object(vocab))
        return json_place_fail(model, "vocab", "an object", err);
    if ((status = need_none(model, "dropout", err)) != SERVERD_OK ||
        (status = need_none(model, "continuing_subword_prefix", err)) != SERVERD_OK ||
        (status = need_none(model, "end_of_word_suffix", err)) != SERVERD_OK ||
        (status = json_place_bool(model, "byte_fallback", &v->falls_back_to_bytes, err)) !=
            SERVERD_OK ||
        (status = json_place_bool(model, "fuse_unk", &v->fuses_unknown, err)) != SERVERD_OK ||
        (status = json_place_bool(model, "ignore_merges", &v->ignores_merges, err)) != SERVERD_OK ||
        (status = json_place_string(model, "unk_token", &unknown, err)) != SERVERD_OK)
        return status;
    json_object_foreach((json_t *)vocab, text, value)
    {
        uint32_t id = (uint32_t)json_integer_value(value);
        if ((status = put_plain(t, id, text, strlen(text), 0, err)) != SERVERD_OK)
            return status;
        if (unknown && strcmp(text, unknown) == 0)
            v->unknown = (int32_t)id;
    }
    return import_merges(t, model, err);
}

/* ---- Unigram ------------------------------------------------------------------------------- */

static serverd_status import_unigram(struct hf_tokenizer *t, const struct json_place *model,
                                     serverd_error *err)
{
    serverd_status status;
    struct vocabulary *v = t->vocabulary;
    uint32_t unknown = UINT32_MAX;
    v->kind = VOCABULARY_UNIGRAM;
    v->is_stepwise = v->ignores_merges_set = true;
    const json_t *vocab = json_place_get(model, "vocab");
    if (!json_is_array(vocab))
        return json_place_fail(model, "vocab", "an array", err);
    if ((status = json_place_bool(model, "byte_fallback", &v->falls_back_to_bytes, err)) !=
            SERVERD_OK ||
        (status = json_place_u32(model, "unk_id", 0, LIMIT_VOCAB - 1, &unknown, err)) != SERVERD_OK)
        return status;
    for (uint32_t i = 0; i < json_array_size(vocab); i++) {
        const json_t *item = json_array_get(vocab, i);
        const json_t *text = json_array_get(item, 0), *score = json_array_get(item, 1);
        if (!json_is_string(text) || !json_is_number(score) ||
            !isfinite((float)json_number_value(score)))
            return fail(err, SERVERD_CORRUPT, "%s: model.vocab[%u]: [text, score] is needed",
                        model->file, i);
        if ((status = put_plain(t, i, json_string_value(text), json_string_length(text),
                                (float)json_number_value(score), err)) != SERVERD_OK)
            return status;
    }
    if (unknown != UINT32_MAX && unknown >= json_array_size(vocab))
        return json_place_fail(model, "unk_id", "the id of a token", err);
    if (unknown != UINT32_MAX) {
        v->unknown = (int32_t)unknown;
        t->token[unknown].type = TOKEN_UNKNOWN;
    }
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
    } rows[] = {{"WordPiece", import_wordpiece}, {"BPE", import_bpe}, {"Unigram", import_unigram}};
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
