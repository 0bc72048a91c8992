#include "compiler/gguf_model.h"

#include "base/error.h"
#include "base/limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Keys of a shard; a file that is not split is shard 0 of 1. */
struct split {
    uint32_t number, count;
    uint64_t n_tensors;
};

static serverd_status read_split(const struct gguf_file *file, struct split *out,
                                 serverd_error *err)
{
    struct split split = {.count = 1, .n_tensors = file->n_tensors};
    serverd_status status;
    if ((status = gguf_get_u32(file, "split.count", 0, LIMIT_GGUF_SHARDS, &split.count, err)) !=
            SERVERD_OK ||
        (status = gguf_get_u32(file, "split.no", 0, LIMIT_GGUF_SHARDS, &split.number, err)) !=
            SERVERD_OK)
        return status;
    if (split.count <= 1)
        split = (struct split){.count = 1, .n_tensors = file->n_tensors};
    else if ((status = gguf_get_u64(file, "split.tensors.count", 0, LIMIT_GGUF_TENSORS,
                                    &split.n_tensors, err)) != SERVERD_OK)
        return status;
    *out = split;
    return SERVERD_OK;
}

/* PREFIX-00002-of-00003.gguf -> the path of shard `number` (from 0), in the arena. */
static serverd_status shard_path(struct arena *arena, const char *path, uint32_t number,
                                 uint32_t count, const char **out, serverd_error *err)
{
    static const char form[] = "-00000-of-00000.gguf";
    size_t len = strlen(path), tail = sizeof form - 1;
    bool is_shard = len > tail;
    for (size_t i = 0; is_shard && i < tail; i++) {
        char c = path[len - tail + i];
        is_shard = form[i] == '0' ? c >= '0' && c <= '9' : c == form[i];
    }
    if (!is_shard)
        return fail(err, SERVERD_INVALID,
                    "%s: one of %u shards, but its name does not end in -NNNNN-of-NNNNN.gguf", path,
                    count);
    char *made = arena_copy(arena, path, len);
    if (!made)
        return fail(err, SERVERD_NOMEM, "%s: no memory for the names of its shards", path);
    (void)snprintf(made + len - tail, tail + 1, "-%05u-of-%05u.gguf", (number + 1) % 100000u,
                   count % 100000u);
    *out = made;
    return SERVERD_OK;
}

static serverd_status read_file(const char *path, struct arena *arena, struct gguf_file *out,
                                struct mapping *or_null, serverd_error *err)
{
    struct file file;
    serverd_status status = file_open(path, &file, err);
    if (status != SERVERD_OK)
        return status;
    status = gguf_read(path, &file, arena, out, err);
    if (status == SERVERD_OK && or_null && (status = file_map(&file, or_null, err)) != SERVERD_OK)
        error_context(err, "%s", path);
    file_close(&file);
    return status;
}

static serverd_status check_shard(const struct gguf_file *file, const struct split *whole,
                                  uint32_t number, serverd_error *err)
{
    struct split split;
    serverd_status status = read_split(file, &split, err);
    if (status != SERVERD_OK)
        return status;
    if (split.number != number || split.count != whole->count ||
        split.n_tensors != whole->n_tensors)
        return fail(err, SERVERD_CORRUPT,
                    "%s: shard %u of %u with %" PRIu64
                    " tensors in all, shard %u of %u with %" PRIu64 " is needed",
                    file->path, split.number, split.count, split.n_tensors, number, whole->count,
                    whole->n_tensors);
    return SERVERD_OK;
}

/* Adds the shard's tensors to the model's table, which has room for all that were announced. */
static serverd_status add_tensors(struct gguf_model *model, const struct gguf_file *file,
                                  uint32_t shard, uint64_t n_expected, serverd_error *err)
{
    if (file->n_tensors > n_expected - model->n_tensors)
        return fail(err, SERVERD_CORRUPT, "%s: more than the %" PRIu64 " tensors announced",
                    file->path, n_expected);
    for (uint32_t i = 0; i < file->n_tensors; i++) {
        struct gguf_tensor *tensor = &model->tensors[model->n_tensors++];
        *tensor = file->tensors[i];
        tensor->shard = shard;
    }
    return SERVERD_OK;
}

static serverd_status finish_tensors(struct gguf_model *model, uint64_t n_expected,
                                     serverd_error *err)
{
    const char *path = model->first.path;
    if (model->n_tensors != n_expected)
        return fail(err, SERVERD_CORRUPT,
                    "%s: %u tensors in all shards, %" PRIu64 " were announced", path,
                    model->n_tensors, n_expected);
    qsort(model->tensors, model->n_tensors, sizeof *model->tensors, gguf_compare_tensors);
    for (uint32_t i = 1; i < model->n_tensors; i++)
        if (strcmp(model->tensors[i - 1].name, model->tensors[i].name) == 0)
            return fail(err, SERVERD_CORRUPT, "%s: tensor %.200s is in two shards", path,
                        model->tensors[i].name);
    return SERVERD_OK;
}

static serverd_status open_shards(struct gguf_model *model, const char *path,
                                  const struct split *whole, serverd_error *err)
{
    model->mappings = arena_array(model->arena, whole->count, sizeof *model->mappings);
    model->tensors = arena_array(model->arena, whole->n_tensors + 1, sizeof *model->tensors);
    if (!model->mappings || !model->tensors)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its %u shards", path, whole->count);
    for (uint32_t i = 0; i < whole->count; i++) {
        const char *name = path;
        struct gguf_file file;
        serverd_status status = SERVERD_OK;
        if ((status = shard_path(model->arena, path, i, whole->count, &name, err)) != SERVERD_OK ||
            (status = read_file(name, model->arena, &file, &model->mappings[i], err)) != SERVERD_OK)
            return status;
        model->n_shards = i + 1;
        if ((status = check_shard(&file, whole, i, err)) != SERVERD_OK ||
            (status = add_tensors(model, &file, i, whole->n_tensors, err)) != SERVERD_OK)
            return status;
        if (i == 0)
            model->first = file;
    }
    return finish_tensors(model, whole->n_tensors, err);
}

/* The usual case: the file that is open already is all. Takes over the mapping. */
static serverd_status use_single(struct gguf_model *model, const struct mapping *mapping,
                                 serverd_error *err)
{
    model->mappings = arena_array(model->arena, 1, sizeof *model->mappings);
    if (!model->mappings)
        return fail(err, SERVERD_NOMEM, "%s: no memory", model->first.path);
    model->mappings[0] = *mapping;
    model->n_shards = 1;
    model->tensors = model->first.tensors;
    model->n_tensors = model->first.n_tensors;
    return SERVERD_OK;
}

/* The header of the file at `path`, and of which whole it is a part. */
static serverd_status open_any(struct gguf_model *model, const char *path, struct split *split,
                               struct mapping *or_null, serverd_error *err)
{
    model->arena = arena_create(LIMIT_GGUF_HEADER_BYTES);
    if (!model->arena)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its header", path);
    serverd_status status = read_file(path, model->arena, &model->first, or_null, err);
    if (status != SERVERD_OK)
        return status;
    return read_split(&model->first, split, err);
}

serverd_status gguf_model_open(const char *path, struct gguf_model *out, serverd_error *err)
{
    struct gguf_model model = {0};
    struct split split;
    struct mapping mapping = {0};
    serverd_status status = open_any(&model, path, &split, &mapping, err);
    if (status == SERVERD_OK && split.count == 1) {
        status = use_single(&model, &mapping, err);
        if (status == SERVERD_OK)
            mapping = (struct mapping){0};
    } else if (status == SERVERD_OK) {
        arena_reset(model.arena); /* it is read again as one of the shards */
        status = open_shards(&model, path, &split, err);
    }
    mapping_close(&mapping);
    if (status != SERVERD_OK)
        gguf_model_close(&model);
    else
        *out = model;
    return status;
}

serverd_status gguf_model_open_keys(const char *path, struct gguf_model *out, serverd_error *err)
{
    struct gguf_model model = {0};
    struct split split;
    serverd_status status = open_any(&model, path, &split, NULL, err);
    if (status == SERVERD_OK && split.number > 0) { /* the keys are in the first shard */
        const char *name;
        if ((status = shard_path(model.arena, path, 0, split.count, &name, err)) == SERVERD_OK)
            status = read_file(name, model.arena, &model.first, NULL, err);
    }
    if (status != SERVERD_OK)
        gguf_model_close(&model);
    else
        *out = model;
    return status;
}

void gguf_model_close(struct gguf_model *model)
{
    for (uint32_t i = 0; i < model->n_shards; i++)
        mapping_close(&model->mappings[i]);
    arena_destroy(model->arena);
    *model = (struct gguf_model){0};
}

struct gguf_tensor *gguf_model_find(const struct gguf_model *model, const char *name)
{
    struct gguf_tensor wanted = {.name = name};
    return bsearch(&wanted, model->tensors, model->n_tensors, sizeof *model->tensors,
                   gguf_compare_tensors);
}
