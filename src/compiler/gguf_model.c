#include "compiler/gguf_model.h"

#include "base/error.h"
#include "base/limits.h"
#include "compiler/gguf_reader.h"

#include <inttypes.h>
#include <stdio.h>
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
    if ((status = source_get_u32(&file->keys, "split.count", 0, LIMIT_GGUF_SHARDS, &split.count,
                                 err)) != SERVERD_OK ||
        (status = source_get_u32(&file->keys, "split.no", 0, LIMIT_GGUF_SHARDS, &split.number,
                                 err)) != SERVERD_OK)
        return status;
    if (split.count <= 1)
        split = (struct split){.count = 1, .n_tensors = file->n_tensors};
    else if ((status = source_get_u64(&file->keys, "split.tensors.count", 0, LIMIT_GGUF_TENSORS,
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
                    file->keys.path, split.number, split.count, split.n_tensors, number,
                    whole->count, whole->n_tensors);
    return SERVERD_OK;
}

/* Adds the tensors of the mapped shard to the table, which has room for all that were announced. */
static serverd_status add_shard(struct source *source, const struct gguf_file *file,
                                const struct mapping *mapping, uint64_t n_expected,
                                serverd_error *err)
{
    if (file->n_tensors > n_expected - source->n_tensors)
        return fail(err, SERVERD_CORRUPT, "%s: more than the %" PRIu64 " tensors announced",
                    file->keys.path, n_expected);
    for (uint32_t i = 0; i < file->n_tensors; i++) {
        const struct gguf_tensor *tensor = &file->tensors[i];
        struct source_tensor *made = &source->tensors[source->n_tensors++];
        *made = (struct source_tensor){.name = tensor->name,
                                       .dtype = tensor->dtype,
                                       .rank = tensor->rank,
                                       .data = (const char *)mapping->data + tensor->offset,
                                       .bytes = tensor->bytes};
        memcpy(made->dims, tensor->dims, sizeof made->dims);
    }
    return SERVERD_OK;
}

static serverd_status take_tables(struct source *source, const struct split *whole,
                                  serverd_error *err)
{
    source->mappings = arena_array(source->arena, whole->count, sizeof *source->mappings);
    source->tensors = arena_array(source->arena, whole->n_tensors + 1, sizeof *source->tensors);
    if (!source->mappings || !source->tensors)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its %u shards", source->keys.path,
                    whole->count);
    return SERVERD_OK;
}

/* Shard `number`, which is the file at `path`. The mapping is the source's then. */
static serverd_status open_shard(struct source *source, const char *path, uint32_t number,
                                 const struct split *whole, serverd_error *err)
{
    struct gguf_file file;
    struct mapping *mapping = &source->mappings[number];
    serverd_status status = read_file(path, source->arena, &file, mapping, err);
    if (status != SERVERD_OK)
        return status;
    source->n_mappings = number + 1;
    if (number == 0)
        source->keys = file.keys;
    if ((status = check_shard(&file, whole, number, err)) != SERVERD_OK)
        return status;
    return add_shard(source, &file, mapping, whole->n_tensors, err);
}

static serverd_status open_shards(struct source *source, const char *path,
                                  const struct split *whole, serverd_error *err)
{
    serverd_status status = take_tables(source, whole, err);
    for (uint32_t i = 0; i < whole->count && status == SERVERD_OK; i++) {
        const char *name = path;
        status = shard_path(source->arena, path, i, whole->count, &name, err);
        if (status == SERVERD_OK)
            status = open_shard(source, name, i, whole, err);
    }
    if (status == SERVERD_OK && source->n_tensors != whole->n_tensors)
        status =
            fail(err, SERVERD_CORRUPT, "%s: %u tensors in all shards, %" PRIu64 " were announced",
                 path, source->n_tensors, whole->n_tensors);
    return status;
}

/* The usual case: the file that is open already is all. Takes over the mapping. */
static serverd_status use_single(struct source *source, const struct gguf_file *file,
                                 const struct split *whole, struct mapping *mapping,
                                 serverd_error *err)
{
    serverd_status status = take_tables(source, whole, err);
    if (status != SERVERD_OK)
        return status;
    source->mappings[0] = *mapping;
    source->n_mappings = 1;
    *mapping = (struct mapping){0};
    return add_shard(source, file, &source->mappings[0], whole->n_tensors, err);
}

/* The header of the file at `path`, and of which whole it is a part. */
static serverd_status open_any(struct source *source, const char *path, struct gguf_file *file,
                               struct split *split, struct mapping *or_null, serverd_error *err)
{
    source->arena = arena_create(LIMIT_GGUF_HEADER_BYTES);
    if (!source->arena)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its header", path);
    serverd_status status = read_file(path, source->arena, file, or_null, err);
    if (status != SERVERD_OK)
        return status;
    source->keys = file->keys;
    return read_split(file, split, err);
}

serverd_status gguf_model_open(const char *path, struct source *out, serverd_error *err)
{
    struct source source = {0};
    struct gguf_file file;
    struct split split;
    struct mapping mapping = {0};
    serverd_status status = open_any(&source, path, &file, &split, &mapping, err);
    if (status == SERVERD_OK && split.count == 1) {
        status = use_single(&source, &file, &split, &mapping, err);
    } else if (status == SERVERD_OK) {
        arena_reset(source.arena); /* it is read again as one of the shards */
        source.keys = (struct source_keys){.path = path};
        status = open_shards(&source, path, &split, err);
    }
    mapping_close(&mapping);
    if (status == SERVERD_OK)
        status = source_sort_tensors(&source, err);
    if (status != SERVERD_OK)
        source_close(&source);
    else
        *out = source;
    return status;
}

serverd_status gguf_model_open_keys(const char *path, struct source *out, serverd_error *err)
{
    struct source source = {0};
    struct gguf_file file;
    struct split split;
    serverd_status status = open_any(&source, path, &file, &split, NULL, err);
    if (status == SERVERD_OK && split.number > 0) { /* the keys are in the first shard */
        const char *name;
        if ((status = shard_path(source.arena, path, 0, split.count, &name, err)) == SERVERD_OK)
            status = read_file(name, source.arena, &file, NULL, err);
        source.keys = file.keys;
    }
    if (status != SERVERD_OK)
        source_close(&source);
    else
        *out = source;
    return status;
}
