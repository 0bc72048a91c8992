/* The post-processor of tokenizer.json: what stands around a text, and around a pair of texts. */
#include "base/error.h"
#include "compiler/hf_tokenizer_internal.h"

#include <string.h>

struct frame {
    struct frame_item item[VOCABULARY_MAX_FRAME];
    uint32_t n;
};

struct frames {
    struct frame single, pair;
    bool is_stated;
};

static serverd_status put(const struct json_place *place, int32_t token, uint32_t segment,
                          struct frame *frame, serverd_error *err)
{
    if (frame->n == VOCABULARY_MAX_FRAME)
        return fail(err, SERVERD_UNSUPPORTED, "%s: %s: more than %d tokens and texts", place->file,
                    place->where, VOCABULARY_MAX_FRAME);
    frame->item[frame->n++] = (struct frame_item){token, segment};
    return SERVERD_OK;
}

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

/* ---- BERT and RoBERTa ------------------------------------------------------------------------ */

/* ["[SEP]", 102] */
static serverd_status read_token(const struct hf_tokenizer *t, const struct json_place *place,
                                 const char *name, int32_t *out, serverd_error *err)
{
    const json_t *pair = json_place_get(place, name);
    if (!json_is_array(pair) || json_array_size(pair) != 2)
        return json_place_fail(place, name, "[text, id]", err);
    return check_id(t, json_array_get(pair, 1), out, err);
}

static serverd_status import_fixed(const struct hf_tokenizer *t, const struct json_place *place,
                                   uint32_t n_between, uint32_t second, struct frames *out,
                                   serverd_error *err)
{
    int32_t begin = -1, end = -1;
    serverd_status status = read_token(t, place, "cls", &begin, err);
    if (status != SERVERD_OK || (status = read_token(t, place, "sep", &end, err)) != SERVERD_OK)
        return status;
    const struct frame_item single[] = {{begin, 0}, {FRAME_FIRST, 0}, {end, 0}};
    const struct frame_item rest[] = {{end, 0}, {FRAME_SECOND, second}, {end, second}};
    memcpy(out->single.item, single, sizeof single);
    memcpy(out->pair.item, single, sizeof single);
    memcpy(out->pair.item + 2 + n_between - 1, rest, sizeof rest);
    if (n_between == 2)
        out->pair.item[2] = (struct frame_item){end, 0};
    out->single.n = 3;
    out->pair.n = 4 + n_between;
    return SERVERD_OK;
}

/* [CLS] A [SEP] B [SEP] */
static serverd_status import_bert(const struct hf_tokenizer *t, const struct json_place *place,
                                  struct frames *out, serverd_error *err)
{
    return import_fixed(t, place, 1, 1, out, err);
}

/* <s> A </s> </s> B </s>, all of one segment */
static serverd_status import_roberta(const struct hf_tokenizer *t, const struct json_place *place,
                                     struct frames *out, serverd_error *err)
{
    return import_fixed(t, place, 2, 0, out, err);
}

/* ---- templates ------------------------------------------------------------------------------- */

/* A name of special_tokens stands for one token or several. */
static serverd_status put_special(const struct hf_tokenizer *t, const struct json_place *place,
                                  const char *name, uint32_t segment, struct frame *frame,
                                  serverd_error *err)
{
    const json_t *known = json_object_get(json_place_get(place, "special_tokens"), name);
    const json_t *ids = json_object_get(known, "ids");
    if (!json_is_array(ids))
        return fail(err, SERVERD_CORRUPT,
                    "%s: post_processor.special_tokens: \"%.64s\" has no list of ids", place->file,
                    name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id = -1;
        serverd_status status = check_id(t, json_array_get(ids, i), &id, err);
        if (status != SERVERD_OK || (status = put(place, id, segment, frame, err)) != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

/* {"SpecialToken": {"id": "[SEP]", "type_id": 1}} or {"Sequence": {"id": "B", "type_id": 1}} */
static serverd_status put_item(const struct hf_tokenizer *t, const struct json_place *place,
                               const json_t *item, struct frame *frame, serverd_error *err)
{
    const json_t *special = json_object_get(item, "SpecialToken");
    const json_t *inner = special ? special : json_object_get(item, "Sequence");
    const json_t *type = json_object_get(inner, "type_id");
    const char *id = json_string_value(json_object_get(inner, "id"));
    json_int_t segment = json_integer_value(type);
    bool is_text = !special && id && (strcmp(id, "A") == 0 || strcmp(id, "B") == 0);
    if (!id || !(special || is_text) || (type && !json_is_integer(type)))
        return fail(err, SERVERD_CORRUPT,
                    "%s: post_processor: an item is neither a special token nor a text",
                    place->file);
    if (segment < 0 || segment > 1)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: post_processor: type_id %lld; 0 and 1 are supported", place->file,
                    (long long)segment);
    if (special)
        return put_special(t, place, id, (uint32_t)segment, frame, err);
    return put(place, id[0] == 'A' ? FRAME_FIRST : FRAME_SECOND, (uint32_t)segment, frame, err);
}

/* The texts once each and in order, segments that do not descend. */
static serverd_status check_frame(const struct json_place *place, const struct frame *frame,
                                  int32_t last_text, serverd_error *err)
{
    int32_t next = FRAME_FIRST;
    uint32_t segment = 0;
    for (uint32_t i = 0; i < frame->n; i++) {
        const struct frame_item *item = &frame->item[i];
        bool is_in_order = item->token >= 0 || (item->token == next && next >= last_text);
        if (!is_in_order || item->segment < segment)
            return fail(err, SERVERD_UNSUPPORTED,
                        "%s: %s: its texts or its type_ids are in an order that is not supported",
                        place->file, place->where);
        next -= item->token < 0;
        segment = item->segment;
    }
    return next == last_text - 1 ? SERVERD_OK
                                 : fail(err, SERVERD_UNSUPPORTED, "%s: %s: a text is missing",
                                        place->file, place->where);
}

static serverd_status import_list(const struct hf_tokenizer *t, const struct json_place *place,
                                  const char *name, int32_t last_text, struct frame *frame,
                                  serverd_error *err)
{
    const json_t *list = json_place_get(place, name);
    serverd_status status = SERVERD_OK;
    if (!json_is_array(list))
        return json_place_fail(place, name, "an array", err);
    for (size_t i = 0; i < json_array_size(list) && status == SERVERD_OK; i++)
        status = put_item(t, place, json_array_get(list, i), frame, err);
    return status == SERVERD_OK ? check_frame(place, frame, last_text, err) : status;
}

/* One text is of segment 0, whatever is stated: there is nothing to tell it from. */
static serverd_status import_template(const struct hf_tokenizer *t, const struct json_place *place,
                                      struct frames *out, serverd_error *err)
{
    serverd_status status = import_list(t, place, "single", FRAME_FIRST, &out->single, err);
    for (uint32_t i = 0; i < out->single.n; i++)
        out->single.item[i].segment = 0;
    if (status != SERVERD_OK || json_array_size(json_place_get(place, "pair")) == 0)
        return status;
    return import_list(t, place, "pair", FRAME_SECOND, &out->pair, err);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static serverd_status import_post(const struct hf_tokenizer *t, const struct json_place *place,
                                  struct frames *out, serverd_error *err);

/* Nests as deeply as JSON may. */
static serverd_status import_sequence(const struct hf_tokenizer *t, const struct json_place *place,
                                      struct frames *out, serverd_error *err)
{
    const json_t *items = json_place_get(place, "processors");
    serverd_status status = SERVERD_OK;
    if (!json_is_array(items))
        return json_place_fail(place, "processors", "an array", err);
    for (size_t i = 0; i < json_array_size(items) && status == SERVERD_OK; i++) {
        const struct json_place item = {
            .file = place->file, .where = place->where, .object = json_array_get(items, i)};
        status = import_post(t, &item, out, err);
    }
    return status;
}

static serverd_status import_post(const struct hf_tokenizer *t, const struct json_place *place,
                                  struct frames *out, serverd_error *err)
{
    static const struct {
        const char *type;
        serverd_status (*import)(const struct hf_tokenizer *t, const struct json_place *place,
                                 struct frames *out, serverd_error *err); /* NULL: adds nothing */
    } rows[] = {{"TemplateProcessing", import_template},
                {"BertProcessing", import_bert},
                {"RobertaProcessing", import_roberta},
                {"ByteLevel", NULL}};
    const char *type;
    serverd_status status = hf_tokenizer_type(place, &type, err);
    if (status != SERVERD_OK)
        return status;
    if (strcmp(type, "Sequence") == 0)
        return import_sequence(t, place, out, err);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (strcmp(rows[i].type, type) != 0)
            continue;
        if (!rows[i].import)
            return SERVERD_OK;
        if (out->is_stated)
            return fail(err, SERVERD_UNSUPPORTED,
                        "%s: post_processor: %s behind another one that adds tokens", place->file,
                        type);
        out->is_stated = true;
        return rows[i].import(t, place, out, err);
    }
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: post_processor: type \"%.32s\"; TemplateProcessing, BertProcessing, "
                "RobertaProcessing, ByteLevel and Sequence are supported",
                place->file, type);
}

/* The token next to the text: the last in front of it, or the first behind it; -1: none. */
static int32_t token_beside_text(const struct frame *frame, int step)
{
    for (uint32_t i = 0; i < frame->n; i++) {
        int64_t k = (int64_t)i + step;
        if (frame->item[i].token == FRAME_FIRST)
            return k >= 0 && k < frame->n ? frame->item[k].token : -1;
    }
    return -1;
}

static serverd_status keep(const struct hf_tokenizer *t, const struct frame *frame,
                           const struct frame_item **items, uint32_t *n, serverd_error *err)
{
    struct frame_item *copy = arena_array(t->arena, VOCABULARY_MAX_FRAME, sizeof *copy);
    if (!copy)
        return hf_tokenizer_no_memory(t, err);
    memcpy(copy, frame->item, frame->n * sizeof *copy);
    *items = copy;
    *n = frame->n;
    return SERVERD_OK;
}

serverd_status hf_tokenizer_frame(struct hf_tokenizer *t, serverd_error *err)
{
    struct frames frames = {0};
    struct vocabulary *v = t->vocabulary;
    struct json_place place = {.file = t->root.file};
    serverd_status status = json_place_object(&t->root, "post_processor", &place, err);
    place.where = "post_processor";
    if (status == SERVERD_OK && place.object)
        status = import_post(t, &place, &frames, err);
    if (status != SERVERD_OK)
        return status;
    if (frames.single.n == 0)
        frames.single = (struct frame){.item = {{FRAME_FIRST, 0}}, .n = 1};
    if (frames.pair.n == 0)
        frames.pair = (struct frame){.item = {{FRAME_FIRST, 0}, {FRAME_SECOND, 1}}, .n = 2};
    int32_t begin = token_beside_text(&frames.single, -1);
    int32_t end = token_beside_text(&frames.single, 1);
    v->bos = begin;
    v->adds_bos = begin >= 0;
    if (v->kind == VOCABULARY_WORDPIECE) {
        v->cls = begin;
        v->separator = end;
        v->adds_separator = end >= 0;
    } else {
        v->eos = end;
        v->adds_eos = end >= 0;
    }
    status = keep(t, &frames.single, &v->single, &v->n_single, err);
    return status == SERVERD_OK ? keep(t, &frames.pair, &v->pair, &v->n_pair, err) : status;
}
