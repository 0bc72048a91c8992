#include "compiler/hf_texts.h"

#include "base/error.h"
#include "base/limits.h"
#include "compiler/json_file.h"
#include "compiler/model_file.h"

#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, NAME_BYTES = 64 };

static const struct json_bounds bounds = {LIMIT_HF_CONFIG_BYTES, LIMIT_HF_CONFIG_VALUES};

/* A file that need not be there: *root is NULL then. `path` is filled in all the same. */
static serverd_status read_optional(const char *folder, const char *name, char path[PATH_BYTES],
                                    json_t **root, serverd_error *err)
{
    *root = NULL;
    serverd_status status = join_path(folder, name, PATH_BYTES, path, err);
    if (status != SERVERD_OK || !model_file_exists(path))
        return status;
    return json_file_read(path, bounds, JSON_OBJECT, root, err);
}

/* ---- templates ----------------------------------------------------------------------------- */

struct template_list {
    const char *folder;
    struct arena *arena;
    struct program_template items[LIMIT_HF_TEMPLATES];
    uint32_t n;
};

static serverd_status add_template(struct template_list *list, const char *file, const char *name,
                                   const char *source, size_t len, serverd_error *err)
{
    if (list->n == LIMIT_HF_TEMPLATES)
        return fail(err, SERVERD_CORRUPT, "%s: more than %u chat templates", list->folder,
                    LIMIT_HF_TEMPLATES);
    if (len > LIMIT_TEMPLATE_SOURCE)
        return fail(err, SERVERD_CORRUPT,
                    "%s: chat template %.64s: %zu bytes, at most %zu are allowed", file, name, len,
                    LIMIT_TEMPLATE_SOURCE);
    for (uint32_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i].name, name) == 0)
            return fail(err, SERVERD_CORRUPT, "%s: chat template %.64s is there twice", file, name);
    struct program_template made = {.name = arena_copy(list->arena, name, strlen(name)),
                                    .source = arena_copy(list->arena, source, len),
                                    .len = (uint32_t)len};
    if (!made.name || !made.source)
        return fail(err, SERVERD_NOMEM, "%s: no memory for chat templates", file);
    list->items[list->n++] = made;
    return SERVERD_OK;
}

static serverd_status add_file(struct template_list *list, const char *path, const char *name,
                               serverd_error *err)
{
    char *source;
    size_t len;
    serverd_status status = model_file_read(path, LIMIT_TEMPLATE_SOURCE, &source, &len, err);
    if (status != SERVERD_OK)
        return status;
    status = add_template(list, path, name, source, len, err);
    free(source);
    return status;
}

static serverd_status add_named(struct template_list *list, const char *path, const json_t *items,
                                serverd_error *err)
{
    for (size_t i = 0; i < json_array_size(items); i++) {
        const json_t *item = json_array_get(items, i);
        const json_t *name = json_object_get(item, "name"),
                     *source = json_object_get(item, "template");
        if (!json_is_string(name) || !json_is_string(source))
            return fail(err, SERVERD_CORRUPT,
                        "%s: chat_template: item %zu has no name or no template", path, i);
        serverd_status status =
            add_template(list, path, json_string_value(name), json_string_value(source),
                         json_string_length(source), err);
        if (status != SERVERD_OK)
            return status;
    }
    return SERVERD_OK;
}

static serverd_status add_of_config(struct template_list *list, serverd_error *err)
{
    char path[PATH_BYTES];
    json_t *root;
    serverd_status status = read_optional(list->folder, "tokenizer_config.json", path, &root, err);
    if (status != SERVERD_OK || !root)
        return status;
    const json_t *found = json_object_get(root, "chat_template");
    if (json_is_string(found))
        status = add_template(list, path, "default", json_string_value(found),
                              json_string_length(found), err);
    else if (json_is_array(found))
        status = add_named(list, path, found, err);
    else if (found && !json_is_null(found))
        status = fail(err, SERVERD_CORRUPT, "%s: chat_template: neither text nor list", path);
    json_decref(root);
    return status;
}

/* NAME of NAME.jinja; false: another file. */
static bool template_name(const char *file, char out[NAME_BYTES])
{
    static const char end[] = ".jinja";
    size_t n = strlen(file), tail = sizeof end - 1;
    if (n <= tail || n - tail >= NAME_BYTES || file[0] == '.' || strcmp(file + n - tail, end) != 0)
        return false;
    memcpy(out, file, n - tail);
    out[n - tail] = '\0';
    return true;
}

static int compare_templates(const void *a, const void *b)
{
    return strcmp(((const struct program_template *)a)->name,
                  ((const struct program_template *)b)->name);
}

static serverd_status add_if_template(void *arg, const char *file, serverd_error *err)
{
    struct template_list *list = arg;
    char folder[PATH_BYTES], path[PATH_BYTES], name[NAME_BYTES];
    serverd_status status;
    if (!template_name(file, name))
        return SERVERD_OK;
    if ((status = join_path(list->folder, "additional_chat_templates", sizeof folder, folder,
                            err)) != SERVERD_OK ||
        (status = join_path(folder, file, sizeof path, path, err)) != SERVERD_OK)
        return status;
    return add_file(list, path, name, err);
}

/* The folder's order is the file system's, so what was found is sorted. */
static serverd_status add_of_folder(struct template_list *list, serverd_error *err)
{
    char folder[PATH_BYTES];
    serverd_status status =
        join_path(list->folder, "additional_chat_templates", sizeof folder, folder, err);
    uint32_t first = list->n;
    if (status == SERVERD_OK)
        status = model_file_list(folder, add_if_template, list, err);
    qsort(list->items + first, list->n - first, sizeof list->items[0], compare_templates);
    return status;
}

static serverd_status collect(struct template_list *list, serverd_error *err)
{
    char path[PATH_BYTES];
    serverd_status status = join_path(list->folder, "chat_template.jinja", sizeof path, path, err);
    if (status != SERVERD_OK)
        return status;
    status =
        model_file_exists(path) ? add_file(list, path, "default", err) : add_of_config(list, err);
    return status == SERVERD_OK ? add_of_folder(list, err) : status;
}

serverd_status hf_templates_import(const char *folder, struct program *program, serverd_error *err)
{
    struct template_list list = {.folder = folder, .arena = program->arena};
    serverd_status status = collect(&list, err);
    if (status != SERVERD_OK)
        return status;
    struct program_template *templates =
        arena_array(program->arena, list.n ? list.n : 1, sizeof *templates);
    if (!templates)
        return fail(err, SERVERD_NOMEM, "%s: no memory for chat templates", folder);
    memcpy(templates, list.items, list.n * sizeof *templates);
    program->templates = templates;
    program->n_templates = list.n;
    return SERVERD_OK;
}

/* ---- sampling ------------------------------------------------------------------------------ */

static serverd_status read_sampling(const struct json_place *place, struct program_sampling *out,
                                    serverd_error *err)
{
    serverd_status status;
    bool draws = true;
    if ((status = json_place_bool(place, "do_sample", &draws, err)) != SERVERD_OK || !draws)
        return status;
    struct program_sampling made = {0};
    struct {
        const char *name;
        bool *has;
        float *value;
        double max;
    } rows[] = {
        {"temperature", &made.has_temperature, &made.temperature, 100},
        {"top_p", &made.has_top_p, &made.top_p, 1},
        {"min_p", &made.has_min_p, &made.min_p, 1},
        {"repetition_penalty", &made.has_repetition_penalty, &made.repetition_penalty, 100},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double x = 0;
        if ((status = json_place_f64(place, rows[i].name, 0, rows[i].max, &x, err)) != SERVERD_OK)
            return status;
        *rows[i].has = json_place_get(place, rows[i].name) != NULL;
        *rows[i].value = (float)x;
    }
    uint32_t top_k = 0;
    if ((status = json_place_u32(place, "top_k", 0, INT32_MAX, &top_k, err)) != SERVERD_OK)
        return status;
    made.has_top_k = json_place_get(place, "top_k") != NULL;
    made.top_k = (int32_t)top_k;
    *out = made;
    return SERVERD_OK;
}

serverd_status hf_sampling_import(const char *folder, struct program_sampling *out,
                                  serverd_error *err)
{
    char path[PATH_BYTES];
    json_t *root;
    serverd_status status = read_optional(folder, "generation_config.json", path, &root, err);
    if (status != SERVERD_OK || !root)
        return status;
    const struct json_place place = {.file = path, .where = "", .object = root};
    status = read_sampling(&place, out, err);
    json_decref(root);
    return status;
}
