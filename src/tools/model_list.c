#include "tools/model_list.h"

#include "base/error.h"
#include "base/limits.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The last part of a split file's name but for its numbers: -00001-of-00003. */
#define SHARD_BYTES 15u

/* ---- names -------------------------------------------------------------------------------------
 */

/* False: the name is no first shard's. */
static bool is_first_shard(const char *end_of_name)
{
    return strncmp(end_of_name, "-00001-of-", 10) == 0 &&
           strspn(end_of_name + 10, "0123456789") >= 5;
}

static bool is_shard(const char *name, size_t n)
{
    const char *at = n > SHARD_BYTES ? name + n - SHARD_BYTES : "";
    return at[0] == '-' && strncmp(at + 6, "-of-", 4) == 0 && strspn(at + 1, "0123456789") == 5 &&
           strspn(at + 10, "0123456789") >= 5;
}

/* Bytes of a file's name in front of its ending; 0: it has none of a model's. */
static size_t stem_of(const char *file, size_t n)
{
    static const char *const endings[] = {".gguf", ".sdp", ".zip"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t len = strlen(endings[i]);
        if (n > len && memcmp(file + n - len, endings[i], len) == 0)
            return n - len;
    }
    return 0;
}

/* The file's name without its ending, or the folder's; of a split file without the numbers. */
static char *name_of_path(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') /* of a folder */
        end--;
    const char *slash = memrchr(path, '/', end > 1 ? end - 1 : 0);
    const char *file = slash ? slash + 1 : path;
    size_t n = (size_t)(path + end - file), stem = stem_of(file, n);
    if (stem > 0)
        n = stem;
    if (is_shard(file, n))
        n -= SHARD_BYTES;
    return strndup(file, n);
}

/* ---- adding ------------------------------------------------------------------------------------
 */

static struct model_config *find(const struct model_list *list, const char *name, size_t n)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (strlen(list->items[i].name) == n && memcmp(list->items[i].name, name, n) == 0)
            return &list->items[i];
    return NULL;
}

/* Takes both texts over, of the heap; NULL: there was no memory for them. */
static serverd_status add(struct model_list *list, char *name, char *path, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    if (!name || !path)
        status = fail(err, SERVERD_NOMEM, "models: no memory");
    else if (*name == '\0' || *path == '\0' || strchr(name, ','))
        status = fail(err, SERVERD_INVALID, "models: %.200s=%.200s is not NAME=PATH", name, path);
    else if (strlen(name) >= LIMIT_MODEL_NAME)
        status =
            fail(err, SERVERD_INVALID, "models: %.200s: a name of %zu bytes, at most %u allowed",
                 name, strlen(name), LIMIT_MODEL_NAME - 1);
    else if (find(list, name, strlen(name)))
        status = fail(err, SERVERD_INVALID, "models: two are named %.200s", name);
    else if (list->n == LIMIT_MODELS)
        status = fail(err, SERVERD_INVALID, "models: more than %u", LIMIT_MODELS);
    if (status == SERVERD_OK) {
        list->items[list->n++] = (struct model_config){.name = name, .path = path};
        return SERVERD_OK;
    }
    free(name);
    free(path);
    return status;
}

static serverd_status add_default(struct model_list *list, const struct options *options,
                                  serverd_error *err)
{
    if (!options->model_path)
        return SERVERD_OK;
    char *name = options->served_model_name ? strdup(options->served_model_name)
                                            : name_of_path(options->model_path);
    return add(list, name, strdup(options->model_path), err);
}

/* Calls `take` for each part of a list with commas until one fails. */
static serverd_status for_each(const char *text, struct model_list *list,
                               serverd_status (*take)(struct model_list *list, const char *item,
                                                      size_t n, serverd_error *err),
                               serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    while (text && *text && status == SERVERD_OK) {
        const size_t n = strcspn(text, ",");
        if (n > 0)
            status = take(list, text, n, err);
        text += n + (text[n] == ',');
    }
    return status;
}

static serverd_status add_named(struct model_list *list, const char *item, size_t n,
                                serverd_error *err)
{
    const char *path = memchr(item, '=', n);
    if (!path)
        return fail(err, SERVERD_INVALID, "models: %.*s is not NAME=PATH", (int)n, item);
    const size_t n_name = (size_t)(path - item);
    return add(list, strndup(item, n_name), strndup(path + 1, n - n_name - 1), err);
}

/* ---- the folder --------------------------------------------------------------------------------
 */

/* Files of a model's kind, of a split one the first, and folders with a config.json. */
static bool is_model(const char *path, const char *file)
{
    char config[4096];
    struct stat status;
    if (stat(path, &status) != 0)
        return false;
    if (S_ISDIR(status.st_mode)) {
        const int n = snprintf(config, sizeof config, "%s/config.json", path);
        return n > 0 && (size_t)n < sizeof config && stat(config, &status) == 0;
    }
    const size_t stem = stem_of(file, strlen(file));
    return S_ISREG(status.st_mode) && stem > 0 &&
           (!is_shard(file, stem) || is_first_shard(file + stem - SHARD_BYTES));
}

/* What has a name already is the user's own choice. */
static serverd_status add_file(struct model_list *list, const char *folder, const char *file,
                               serverd_error *err)
{
    char path[4096];
    const int n = snprintf(path, sizeof path, "%s/%s", folder, file);
    if (file[0] == '.' || n < 0 || (size_t)n >= sizeof path || !is_model(path, file))
        return SERVERD_OK;
    char *name = name_of_path(path);
    if (name && (find(list, name, strlen(name)) || strcmp(name, "default") == 0 ||
                 strchr(name, ',') || strlen(name) >= LIMIT_MODEL_NAME)) {
        free(name);
        return SERVERD_OK;
    }
    return add(list, name, strdup(path), err);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* in any locale */
}

static serverd_status add_folder(struct model_list *list, const char *folder, serverd_error *err)
{
    struct dirent **files;
    serverd_status status = SERVERD_OK;
    if (!folder)
        return SERVERD_OK;
    const int n = scandir(folder, &files, NULL, by_name);
    if (n < 0)
        return fail(err, SERVERD_INVALID, "models-path: %.200s: %m", folder);
    for (int i = 0; i < n; i++) {
        if (status == SERVERD_OK)
            status = add_file(list, folder, files[i]->d_name, err);
        free(files[i]);
    }
    free(files);
    if (status == SERVERD_OK && list->n == 0)
        status = fail(err, SERVERD_INVALID, "models-path: there is no model in %.200s", folder);
    return status;
}

/* ---- aliases and adapters ----------------------------------------------------------------------
 */

/* Puts the item behind those of a list that is in the heap, or NULL. */
static serverd_status append(const char **to, const char *item, size_t n, serverd_error *err)
{
    const size_t before = *to ? strlen(*to) + 1 : 0;
    char *longer = realloc((char *)*to, before + n + 1);
    if (!longer)
        return fail(err, SERVERD_NOMEM, "models: no memory");
    if (before > 0)
        longer[before - 1] = ',';
    memcpy(longer + before, item, n);
    longer[before + n] = '\0';
    *to = longer;
    return SERVERD_OK;
}

/* ALIAS or ALIAS=MODEL. */
static serverd_status add_alias(struct model_list *list, const char *item, size_t n,
                                serverd_error *err)
{
    const size_t skipped = strspn(item, " ");
    item += skipped < n ? skipped : n;
    n -= skipped < n ? skipped : n;
    const char *model = memchr(item, '=', n);
    struct model_config *config = &list->items[0];
    if (n == 0)
        return SERVERD_OK;
    if (model) {
        const size_t n_model = n - (size_t)(model + 1 - item);
        config = find(list, model + 1, n_model);
        if (!config)
            return fail(err, SERVERD_INVALID, "model-alias: there is no model %.*s", (int)n_model,
                        model + 1);
        n = (size_t)(model - item);
    }
    if (n >= LIMIT_MODEL_NAME)
        return fail(err, SERVERD_INVALID, "model-alias: %zu bytes, at most %u allowed", n,
                    LIMIT_MODEL_NAME - 1);
    return append(&config->aliases, item, n, err);
}

/* [MODEL:]NAME=FILE[:SCALE]; a colon that stands behind no model's name is the adapter's. */
static serverd_status add_adapter(struct model_list *list, const char *item, size_t n,
                                  serverd_error *err)
{
    const char *end = memchr(item, '=', n);
    struct model_config *config = NULL;
    size_t n_model = 0;
    for (const char *at = item; end && at < end && !config; at++) {
        if (*at != ':')
            continue;
        n_model = (size_t)(at - item);
        config = find(list, item, n_model);
    }
    if (!config)
        return append(&list->items[0].adapters, item, n, err);
    return append(&config->adapters, item + n_model + 1, n - n_model - 1, err);
}

/* ---- life --------------------------------------------------------------------------------------
 */

static void drop(struct model_list *list, uint32_t first)
{
    for (uint32_t i = first; i < list->n; i++) {
        free((char *)list->items[i].name);
        free((char *)list->items[i].path);
        free((char *)list->items[i].aliases);
        free((char *)list->items[i].adapters);
    }
    list->n = first;
}

/* To those from `first` on. A model that is alone for ever has the process's. */
static serverd_status give_metrics(struct model_list *list, uint32_t first,
                                   const struct options *options, struct metrics *metrics,
                                   serverd_error *err)
{
    const bool is_alone = list->n == 1 && !options->models_path;
    for (uint32_t i = first; i < list->n; i++) {
        list->items[i].metrics =
            is_alone ? metrics : metrics_create_of_model(metrics, list->items[i].name);
        if (!list->items[i].metrics)
            return fail(err, SERVERD_NOMEM, "models: no memory");
    }
    return SERVERD_OK;
}

serverd_status model_list_create(const struct options *options, struct metrics *metrics,
                                 struct model_list *out, serverd_error *err)
{
    *out = (struct model_list){.items = calloc(LIMIT_MODELS, sizeof *out->items)};
    serverd_status status = out->items ? SERVERD_OK : fail(err, SERVERD_NOMEM, "models: no memory");
    if (status == SERVERD_OK)
        status = add_default(out, options, err);
    if (status == SERVERD_OK)
        status = for_each(options->models, out, add_named, err);
    if (status == SERVERD_OK)
        status = add_folder(out, options->models_path, err);
    if (status == SERVERD_OK && out->n == 0)
        status = fail(err, SERVERD_INVALID, "--model-path: names the model to serve; see --help");
    if (status == SERVERD_OK)
        status = for_each(options->model_alias, out, add_alias, err);
    if (status == SERVERD_OK)
        status = for_each(options->lora, out, add_adapter, err);
    if (status == SERVERD_OK && options->trace)
        out->items[0].is_pinned = true; /* its trace refers to it until it is written */
    if (status == SERVERD_OK)
        status = give_metrics(out, 0, options, metrics, err);
    if (status != SERVERD_OK)
        model_list_destroy(out);
    return status;
}

serverd_status model_list_rescan(struct model_list *list, const struct options *options,
                                 struct metrics *metrics, serverd_error *err)
{
    const uint32_t n = list->n;
    serverd_status status = add_folder(list, options->models_path, err);
    if (status == SERVERD_OK)
        status = give_metrics(list, n, options, metrics, err);
    if (status != SERVERD_OK)
        drop(list, n);
    return status;
}

void model_list_destroy(struct model_list *list)
{
    drop(list, 0);
    free(list->items);
    *list = (struct model_list){0};
}
