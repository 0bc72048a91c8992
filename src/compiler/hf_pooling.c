#include "compiler/hf_pooling.h"

#include "base/error.h"
#include "base/limits.h"
#include "compiler/model_file.h"

#include <string.h>

enum { PATH_BYTES = 4096 };

static const struct json_bounds bounds = {LIMIT_HF_CONFIG_BYTES, LIMIT_HF_CONFIG_VALUES};

static const char prefix[] = "pooling_mode_";

static const struct {
    const char *name; /* without the prefix */
    uint32_t pooling;
} modes[] = {{"mean_tokens", SERVERD_POOL_MEAN},
             {"cls_token", SERVERD_POOL_CLS},
             {"lasttoken", SERVERD_POOL_LAST}};

/* The flag that is set, of those that begin with the prefix. */
static serverd_status choose_mode(const struct json_place *place, uint32_t *out, serverd_error *err)
{
    const char *name, *chosen = NULL;
    json_t *value;
    json_object_foreach((json_t *)place->object, name, value)
    {
        if (strncmp(name, prefix, sizeof prefix - 1) != 0 || !json_is_true(value))
            continue;
        if (chosen)
            return fail(err, SERVERD_UNSUPPORTED, "%s: %s and %.64s together are not supported",
                        place->file, chosen, name);
        chosen = name;
    }
    if (!chosen)
        return fail(err, SERVERD_CORRUPT, "%s: no pooling_mode_... is set", place->file);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(modes[i].name, chosen + sizeof prefix - 1) == 0) {
            *out = modes[i].pooling;
            return SERVERD_OK;
        }
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: %.64s is not supported; mean_tokens, cls_token and lasttoken are", place->file,
                chosen);
}

static serverd_status read_pooling(const char *folder, const struct json_place *module,
                                   uint32_t *out, serverd_error *err)
{
    char parent[PATH_BYTES], path[PATH_BYTES];
    const char *name = "";
    json_t *root;
    serverd_status status = json_place_string(module, "path", &name, err);
    if (status != SERVERD_OK)
        return status;
    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/'))
        return json_place_fail(module, "path", "a plain name", err);
    if ((status = join_path(folder, name, sizeof parent, parent, err)) != SERVERD_OK ||
        (status = join_path(parent, "config.json", sizeof path, path, err)) != SERVERD_OK ||
        (status = json_file_read(path, bounds, JSON_OBJECT, &root, err)) != SERVERD_OK)
        return status;
    const struct json_place place = {.file = path, .where = "", .object = root};
    status = choose_mode(&place, out, err);
    json_decref(root);
    return status;
}

/* "sentence_transformers.models.Pooling": what counts is behind the last point. */
static serverd_status read_module(const char *folder, const struct json_place *module,
                                  struct hf_pooling *out, serverd_error *err)
{
    const char *type = "";
    serverd_status status = json_place_string(module, "type", &type, err);
    if (status != SERVERD_OK)
        return status;
    const char *point = strrchr(type, '.'), *name = point ? point + 1 : type;
    if (strcmp(name, "Transformer") == 0 || strcmp(name, "Normalize") == 0)
        return SERVERD_OK;
    if (strcmp(name, "Pooling") == 0)
        return read_pooling(folder, module, &out->pooling, err);
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: module \"%.64s\" is not supported; Transformer, Pooling and Normalize are",
                module->file, type);
}

static serverd_status read_modules(const char *folder, const char *path, const json_t *modules,
                                   struct hf_pooling *out, serverd_error *err)
{
    for (size_t i = 0; i < json_array_size(modules); i++) {
        const struct json_place module = {
            .file = path, .where = "module", .object = json_array_get(modules, i)};
        serverd_status status = read_module(folder, &module, out, err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

static serverd_status read_limit(const char *folder, uint32_t *out, serverd_error *err)
{
    char path[PATH_BYTES];
    json_t *root;
    serverd_status status = join_path(folder, "sentence_bert_config.json", sizeof path, path, err);
    if (status != SERVERD_OK || !model_file_exists(path))
        return status;
    if ((status = json_file_read(path, bounds, JSON_OBJECT, &root, err)) != SERVERD_OK)
        return status;
    const struct json_place place = {.file = path, .where = "", .object = root};
    status = json_place_u32(&place, "max_seq_length", 1, LIMIT_CONTEXT, out, err);
    json_decref(root);
    return status;
}

serverd_status hf_pooling_read(const char *folder, struct hf_pooling *out, serverd_error *err)
{
    char path[PATH_BYTES];
    json_t *modules;
    struct hf_pooling made = {.pooling = SERVERD_POOL_NONE};
    serverd_status status = join_path(folder, "modules.json", sizeof path, path, err);
    if (status != SERVERD_OK)
        return status;
    if (model_file_exists(path)) {
        if ((status = json_file_read(path, bounds, JSON_ARRAY, &modules, err)) != SERVERD_OK)
            return status;
        status = read_modules(folder, path, modules, &made, err);
        json_decref(modules);
        if (status == SERVERD_OK)
            status = read_limit(folder, &made.max_tokens, err);
    }
    if (status == SERVERD_OK)
        *out = made;
    return status;
}
