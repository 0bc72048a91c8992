#include "compiler/hf_tokenizer_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "compiler/model_file.h"
#include "text/fill_in.h"

#include <string.h>

enum { PATH_BYTES = 4096 };

serverd_status hf_tokenizer_no_memory(const struct hf_tokenizer *t, serverd_error *err)
{
    return fail(err, SERVERD_NOMEM, "%s: no memory for its vocabulary", t->root.file);
}

serverd_status hf_tokenizer_put(struct hf_tokenizer *t, uint32_t id, const char *text, size_t len,
                                uint8_t type, float score, serverd_error *err)
{
    if (len > LIMIT_TOKEN_BYTES)
        return fail(err, SERVERD_CORRUPT, "%s: token %u: %zu bytes, at most %u are allowed",
                    t->root.file, id, len, LIMIT_TOKEN_BYTES);
    const char *copy = arena_copy(t->arena, text, len);
    if (!copy)
        return hf_tokenizer_no_memory(t, err);
    t->token[id] =
        (struct token_text){.bytes = copy, .len = (uint32_t)len, .score = score, .type = type};
    return SERVERD_OK;
}

serverd_status hf_tokenizer_type(const struct json_place *place, const char **type,
                                 serverd_error *err)
{
    *type = "";
    serverd_status status = json_place_need(place, "type", err);
    return status == SERVERD_OK ? json_place_string(place, "type", type, err) : status;
}

int32_t hf_tokenizer_find(const struct hf_tokenizer *t, const char *text)
{
    size_t len = strlen(text);
    for (uint32_t i = 0; i < t->n_tokens; i++)
        if (t->token[i].len == len && memcmp(t->token[i].bytes, text, len) == 0)
            return (int32_t)i;
    return -1;
}

/* ---- added tokens -------------------------------------------------------------------------- */

static serverd_status read_added_id(const struct hf_tokenizer *t, const json_t *item, uint32_t *id,
                                    serverd_error *err)
{
    const struct json_place place = {.file = t->root.file, .where = "added_tokens", .object = item};
    serverd_status status = json_place_need(&place, "id", err);
    if (status == SERVERD_OK)
        status = json_place_u32(&place, "id", 0, LIMIT_VOCAB - 1, id, err);
    return status;
}

/* Does the model itself know the token, by this text? Words of WordPiece are known by another one.
 */
static bool is_known(const struct hf_tokenizer *t, uint32_t id, const char *text, size_t len)
{
    const struct token_text *token = &t->token[id];
    return token->type != 0 && token->len == len && memcmp(token->bytes, text, len) == 0;
}

static serverd_status put_added(struct hf_tokenizer *t, const json_t *item, serverd_error *err)
{
    uint32_t id = 0;
    bool is_special = false;
    const struct json_place place = {.file = t->root.file, .where = "added_tokens", .object = item};
    serverd_status status = read_added_id(t, item, &id, err);
    if (status != SERVERD_OK ||
        (status = json_place_bool(&place, "special", &is_special, err)) != SERVERD_OK)
        return status;
    const json_t *content = json_place_get(&place, "content");
    if (!json_is_string(content))
        return json_place_fail(&place, "content", "a string", err);
    if (!is_known(t, id, json_string_value(content), json_string_length(content)))
        t->is_apart[id] = true;
    return hf_tokenizer_put(t, id, json_string_value(content), json_string_length(content),
                            is_special ? TOKEN_CONTROL : TOKEN_USER_DEFINED, t->token[id].score,
                            err);
}

static serverd_status read_tokens(struct hf_tokenizer *t, const struct json_place *model,
                                  serverd_error *err)
{
    serverd_status status;
    const json_t *added = NULL;
    uint32_t n = 0;
    if ((status = json_place_array(&t->root, "added_tokens", &added, err)) != SERVERD_OK ||
        (status = hf_tokenizer_count(t, model, &n, err)) != SERVERD_OK)
        return status;
    for (size_t i = 0; i < json_array_size(added); i++) {
        uint32_t id = 0;
        if ((status = read_added_id(t, json_array_get(added, i), &id, err)) != SERVERD_OK)
            return status;
        n = id + 1 > n ? id + 1 : n;
    }
    if (n == 0)
        return fail(err, SERVERD_CORRUPT, "%s: there are no tokens", t->root.file);
    t->token = arena_array(t->arena, n, sizeof *t->token);
    t->is_apart = arena_array(t->arena, n, sizeof *t->is_apart);
    if (!t->token || !t->is_apart)
        return hf_tokenizer_no_memory(t, err);
    t->n_tokens = n;
    if ((status = hf_tokenizer_model(t, model, err)) != SERVERD_OK)
        return status;
    for (size_t i = 0; i < json_array_size(added); i++)
        if ((status = put_added(t, json_array_get(added, i), err)) != SERVERD_OK)
            return status;
    for (uint32_t i = 0; i < n; i++) /* ids that nothing has */
        if (t->token[i].type == 0)
            t->token[i] = (struct token_text){.bytes = "", .type = TOKEN_UNUSED};
    t->vocabulary->token = t->token;
    t->vocabulary->n_tokens = n;
    return SERVERD_OK;
}

/* ---- special tokens ------------------------------------------------------------------------ */

/* A text, or an object with its content; -1 if it is not stated or there is no such token. */
static int32_t named_token(const struct hf_tokenizer *t, const char *name)
{
    const json_t *value = json_place_get(&t->settings, name);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    const char *text = json_string_value(value);
    return text ? hf_tokenizer_find(t, text) : -1;
}

static int32_t find_text(const void *tokenizer, const char *text)
{
    return hf_tokenizer_find(tokenizer, text);
}

static void find_specials(const struct hf_tokenizer *t)
{
    struct vocabulary *v = t->vocabulary;
    struct {
        const char *name;
        int32_t *id;
    } rows[] = {{"bos_token", &v->bos},     {"eos_token", &v->eos},
                {"unk_token", &v->unknown}, {"sep_token", &v->separator},
                {"pad_token", &v->padding}, {"cls_token", &v->cls},
                {"mask_token", &v->mask}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (*rows[i].id < 0)
            *rows[i].id = named_token(t, rows[i].name);
    const struct fill_in_tokens fill_in = fill_in_find(find_text, t);
    v->fim_prefix = fill_in.prefix;
    v->fim_suffix = fill_in.suffix;
    v->fim_middle = fill_in.middle;
    v->fim_pad = fill_in.pad;
    v->fim_repo = fill_in.repository;
    v->fim_separator = fill_in.file;
}

/* ---- end tokens: those of both configurations ---------------------------------------------- */

static bool has_end(const struct vocabulary *v, const int32_t *list, uint32_t id)
{
    for (uint32_t i = 0; i < v->n_end_tokens; i++)
        if (list[i] == (int32_t)id)
            return true;
    return false;
}

static serverd_status add_end(struct hf_tokenizer *t, const struct json_place *place,
                              const json_t *item, int32_t *list, serverd_error *err)
{
    struct vocabulary *v = t->vocabulary;
    json_int_t id = json_integer_value(item);
    if (!json_is_integer(item) || id < 0 || id >= v->n_tokens)
        return json_place_fail(place, "eos_token_id", "a token's id, or a list of them", err);
    if (v->eos < 0)
        v->eos = (int32_t)id;
    if (has_end(v, list, (uint32_t)id))
        return SERVERD_OK;
    if (v->n_end_tokens == VOCABULARY_MAX_END_TOKENS)
        return fail(err, SERVERD_CORRUPT, "%s: eos_token_id: more than %d tokens", place->file,
                    VOCABULARY_MAX_END_TOKENS);
    list[v->n_end_tokens++] = (int32_t)id;
    return SERVERD_OK;
}

static serverd_status add_ends(struct hf_tokenizer *t, const struct json_place *place,
                               int32_t *list, serverd_error *err)
{
    const json_t *value = json_place_get(place, "eos_token_id");
    serverd_status status = SERVERD_OK;
    if (!value)
        return SERVERD_OK;
    if (!json_is_array(value))
        return add_end(t, place, value, list, err);
    for (size_t i = 0; i < json_array_size(value) && status == SERVERD_OK; i++)
        status = add_end(t, place, json_array_get(value, i), list, err);
    return status;
}

static serverd_status import_ends(struct hf_tokenizer *t, const struct json_place *generation,
                                  serverd_error *err)
{
    struct json_place text = *t->config;
    int32_t *list = arena_array(t->arena, VOCABULARY_MAX_END_TOKENS, sizeof *list);
    serverd_status status;
    if (!list)
        return hf_tokenizer_no_memory(t, err);
    t->vocabulary->end_token = list;
    if ((status = add_ends(t, generation, list, err)) != SERVERD_OK ||
        (status = add_ends(t, t->config, list, err)) != SERVERD_OK ||
        (status = json_place_object(t->config, "text_config", &text, err)) != SERVERD_OK)
        return status;
    return add_ends(t, &text, list, err);
}

/* ---- the whole ----------------------------------------------------------------------------- */

static serverd_status import_vocabulary(struct hf_tokenizer *t, const struct json_place *generation,
                                        serverd_error *err)
{
    serverd_status status;
    struct json_place model = {.file = t->root.file};
    if ((status = json_place_need(&t->root, "model", err)) != SERVERD_OK ||
        (status = json_place_object(&t->root, "model", &model, err)) != SERVERD_OK ||
        (status = read_tokens(t, &model, err)) != SERVERD_OK ||
        (status = hf_tokenizer_steps(t, err)) != SERVERD_OK ||
        (status = hf_tokenizer_decoder(t, err)) != SERVERD_OK ||
        (status = hf_tokenizer_frame(t, err)) != SERVERD_OK)
        return status;
    find_specials(t);
    return import_ends(t, generation, err);
}

/* A file that need not be there: *root is NULL then. */
static serverd_status read_optional(const char *folder, const char *name, char path[PATH_BYTES],
                                    json_t **root, serverd_error *err)
{
    const struct json_bounds bounds = {LIMIT_HF_CONFIG_BYTES, LIMIT_HF_CONFIG_VALUES};
    serverd_status status = join_path(folder, name, PATH_BYTES, path, err);
    if (status != SERVERD_OK || !model_file_exists(path))
        return status;
    return json_file_read(path, bounds, JSON_OBJECT, root, err);
}

serverd_status hf_tokenizer_import(const char *folder, const struct json_place *config,
                                   struct program *program, serverd_error *err)
{
    char paths[3][PATH_BYTES];
    json_t *root = NULL, *settings = NULL, *generation = NULL;
    const struct json_bounds bounds = {LIMIT_TOKENIZER_JSON, LIMIT_TOKENIZER_VALUES};
#define ID(field) program->vocabulary.field = -1;
    VOCABULARY_IDS(ID)
#undef ID
    serverd_status status = join_path(folder, "tokenizer.json", PATH_BYTES, paths[0], err);
    if (status == SERVERD_OK && !model_file_exists(paths[0]))
        return SERVERD_OK; /* as a GGUF file without a vocabulary */
    if (status == SERVERD_OK)
        status = json_file_read(paths[0], bounds, JSON_OBJECT, &root, err);
    if (status == SERVERD_OK)
        status = read_optional(folder, "tokenizer_config.json", paths[1], &settings, err);
    if (status == SERVERD_OK)
        status = read_optional(folder, "generation_config.json", paths[2], &generation, err);
    if (status == SERVERD_OK) {
        struct hf_tokenizer t = {.root = {.file = paths[0], .where = "", .object = root},
                                 .settings = {.file = paths[1], .where = "", .object = settings},
                                 .config = config,
                                 .arena = program->arena,
                                 .vocabulary = &program->vocabulary};
        const struct json_place place = {.file = paths[2], .where = "", .object = generation};
        status = import_vocabulary(&t, &place, err);
    }
    json_decref(root);
    json_decref(settings);
    json_decref(generation);
    return status;
}
