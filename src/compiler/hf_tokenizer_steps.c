/* What stands around the model in tokenizer.json: normaliser, pre-tokeniser, post-processor. */
#include "base/error.h"
#include "compiler/hf_tokenizer_internal.h"

#include <string.h>

static serverd_status read_type(const struct json_place *place, const char **type,
                                serverd_error *err)
{
    *type = "";
    serverd_status status = json_place_need(place, "type", err);
    return status == SERVERD_OK ? json_place_string(place, "type", type, err) : status;
}

/* ---- post-processors: the tokens in front of a text and behind it --------------------------- */

struct ends {
    int32_t begin, end; /* -1: none */
};

static serverd_status check_id(const struct hf_tokenizer *t, const json_t *value, int32_t *out,
                               serverd_error *err)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= t->n_tokens)
        return fail(err, SERVERD_CORRUPT, "%s: post_processor: no token has such an id",
                    t->root.file);
    *out = (int32_t)id;
    return SERVERD_OK;
}

/* ["[SEP]", 102] */
static serverd_status read_pair(const struct hf_tokenizer *t, const struct json_place *place,
                                const char *name, int32_t *out, serverd_error *err)
{
    const json_t *pair = json_place_get(place, name);
    if (!json_is_array(pair) || json_array_size(pair) != 2)
        return json_place_fail(place, name, "[text, id]", err);
    return check_id(t, json_array_get(pair, 1), out, err);
}

static serverd_status import_pairs(struct hf_tokenizer *t, const struct json_place *place,
                                   struct ends *out, serverd_error *err)
{
    serverd_status status = read_pair(t, place, "cls", &out->begin, err);
    return status == SERVERD_OK ? read_pair(t, place, "sep", &out->end, err) : status;
}

static serverd_status find_template_id(const struct hf_tokenizer *t, const struct json_place *place,
                                       const char *name, int32_t *out, serverd_error *err)
{
    const json_t *known = json_object_get(json_place_get(place, "special_tokens"), name);
    const json_t *ids = json_object_get(known, "ids");
    if (!json_is_array(ids) || json_array_size(ids) != 1)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: post_processor.special_tokens: \"%.64s\" is not one token", place->file,
                    name);
    return check_id(t, json_array_get(ids, 0), out, err);
}

/* single: at most one special token, the text, at most one special token. */
static serverd_status import_template(struct hf_tokenizer *t, const struct json_place *place,
                                      struct ends *out, serverd_error *err)
{
    const json_t *single = json_place_get(place, "single");
    bool has_text = false;
    if (!json_is_array(single))
        return json_place_fail(place, "single", "an array", err);
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        const char *name = json_string_value(json_object_get(special, "id"));
        int32_t *id = has_text ? &out->end : &out->begin;
        if (!special && json_object_get(item, "Sequence") && !has_text) {
            has_text = true;
            continue;
        }
        if (!name || *id >= 0)
            return fail(err, SERVERD_UNSUPPORTED,
                        "%s: post_processor.single: item %zu; one token before the text and one "
                        "behind it are supported",
                        place->file, i);
        serverd_status status = find_template_id(t, place, name, id, err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

static serverd_status import_nothing(struct hf_tokenizer *t, const struct json_place *place,
                                     struct ends *out, serverd_error *err)
{
    (void)t, (void)place, (void)out, (void)err;
    return SERVERD_OK;
}

static serverd_status import_post(struct hf_tokenizer *t, const struct json_place *place,
                                  struct ends *out, serverd_error *err);

static serverd_status import_post_sequence(struct hf_tokenizer *t, const struct json_place *place,
                                           struct ends *out, serverd_error *err)
{
    const json_t *items = json_place_get(place, "processors");
    serverd_status status = SERVERD_OK;
    if (!json_is_array(items))
        return json_place_fail(place, "processors", "an array", err);
    for (size_t i = 0; i < json_array_size(items) && status == SERVERD_OK; i++) {
        const struct json_place item = {
            .file = place->file, .where = "post_processor", .object = json_array_get(items, i)};
        status = import_post(t, &item, out, err);
    }
    return status;
}

/* Nests as deeply as JSON may. */
static serverd_status import_post(struct hf_tokenizer *t, const struct json_place *place,
                                  struct ends *out, serverd_error *err)
{
    static const struct {
        const char *type;
        serverd_status (*import)(struct hf_tokenizer *t, const struct json_place *place,
                                 struct ends *out, serverd_error *err);
    } rows[] = {{"TemplateProcessing", import_template},
                {"BertProcessing", import_pairs},
                {"RobertaProcessing", import_pairs},
                {"ByteLevel", import_nothing},
                {"Sequence", import_post_sequence}};
    const char *type;
    serverd_status status = read_type(place, &type, err);
    if (status != SERVERD_OK)
        return status;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].type, type) == 0)
            return rows[i].import(t, place, out, err);
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: post_processor: type \"%.32s\"; TemplateProcessing, BertProcessing, "
                "RobertaProcessing, ByteLevel and Sequence are supported",
                place->file, type);
}

static serverd_status import_ends(struct hf_tokenizer *t, serverd_error *err)
{
    struct ends ends = {-1, -1};
    struct vocabulary *v = t->vocabulary;
    struct json_place place = {.file = t->root.file};
    serverd_status status = json_place_object(&t->root, "post_processor", &place, err);
    if (status == SERVERD_OK && place.object)
        status = import_post(t, &place, &ends, err);
    if (status != SERVERD_OK)
        return status;
    if (v->kind == VOCABULARY_WORDPIECE) {
        v->cls = v->bos = ends.begin;
        v->separator = ends.end;
        v->adds_bos = ends.begin >= 0;
        v->adds_separator = ends.end >= 0;
        return SERVERD_OK;
    }
    v->bos = ends.begin;
    v->eos = ends.end;
    v->adds_bos = ends.begin >= 0;
    v->adds_eos = ends.end >= 0;
    return SERVERD_OK;
}

/* ---- BERT's normaliser and pre-tokeniser ---------------------------------------------------- */

static serverd_status import_bert_normaliser(struct hf_tokenizer *t, const struct json_place *place,
                                             serverd_error *err)
{
    struct vocabulary *v = t->vocabulary;
    bool cleans = true, splits_ideographs = true;
    serverd_status status;
    v->lowercases = true;
    if ((status = json_place_bool(place, "clean_text", &cleans, err)) != SERVERD_OK ||
        (status = json_place_bool(place, "handle_chinese_chars", &splits_ideographs, err)) !=
            SERVERD_OK ||
        (status = json_place_bool(place, "lowercase", &v->lowercases, err)) != SERVERD_OK)
        return status;
    v->strips_accents = v->lowercases;
    if (!cleans || !splits_ideographs)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: normalizer.%s: false is not supported with WordPiece", place->file,
                    cleans ? "handle_chinese_chars" : "clean_text");
    return json_place_bool(place, "strip_accents", &v->strips_accents, err);
}

static serverd_status need_type(const struct hf_tokenizer *t, const char *name, const char *needed,
                                struct json_place *out, serverd_error *err)
{
    const char *type;
    serverd_status status;
    if ((status = json_place_need(&t->root, name, err)) != SERVERD_OK ||
        (status = json_place_object(&t->root, name, out, err)) != SERVERD_OK ||
        (status = read_type(out, &type, err)) != SERVERD_OK)
        return status;
    if (strcmp(type, needed) != 0)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: %s: type \"%.32s\"; with WordPiece, %s is supported", t->root.file, name,
                    type, needed);
    return SERVERD_OK;
}

static serverd_status import_wordpiece_steps(struct hf_tokenizer *t, serverd_error *err)
{
    struct json_place normaliser, pre;
    serverd_status status;
    if ((status = need_type(t, "normalizer", "BertNormalizer", &normaliser, err)) != SERVERD_OK ||
        (status = need_type(t, "pre_tokenizer", "BertPreTokenizer", &pre, err)) != SERVERD_OK)
        return status;
    return import_bert_normaliser(t, &normaliser, err);
}

serverd_status hf_tokenizer_steps(struct hf_tokenizer *t, serverd_error *err)
{
    serverd_status status = import_wordpiece_steps(t, err);
    return status == SERVERD_OK ? import_ends(t, err) : status;
}
