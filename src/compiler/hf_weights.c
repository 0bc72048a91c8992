#include "compiler/hf_weights.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "compiler/hf_names.h"
#include "compiler/model_file.h"
#include "compiler/safetensors.h"
#include "program/dtype.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, N_ROPE_TENSORS = 3 };

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

struct shard {
    const char *name; /* in the folder */
    struct safetensors table;
};

struct place {
    const struct safetensor *tensor;
    uint32_t shard;
};

/* What is being imported. */
struct weights {
    const char *folder;
    const struct hf_config *config;
    struct arena *made;
    struct source *source;
    uint32_t n_shards;
    struct shard *shards; /* by name; in the source's arena */
    const json_t *map;    /* tensor -> file of the index; NULL: one file */
    uint32_t n_places;    /* of quantised checkpoints: every tensor, by name */
    struct place *places; /* in the source's arena */
};

static serverd_status fail_memory(const struct weights *w, serverd_error *err)
{
    return fail(err, SERVERD_NOMEM, "%s: no memory for its tensors", w->folder);
}

/* ---- which files --------------------------------------------------------------------------- */

/* A file of the folder itself, nothing that a path could lead to. */
static bool is_plain_name(const char *name)
{
    size_t n = strlen(name);
    return n > 12 && n < 256 && strcmp(name + n - 12, ".safetensors") == 0 && name[0] != '.' &&
           !strchr(name, '/') && !strchr(name, '\\');
}

static int compare_shards(const void *a, const void *b)
{
    return strcmp(((const struct shard *)a)->name, ((const struct shard *)b)->name);
}

/* The different files of the map, by name. */
static serverd_status collect_shards(struct weights *w, const char *path, serverd_error *err)
{
    size_t n = json_object_size(w->map);
    struct shard *shards = arena_array(w->source->arena, n ? n : 1, sizeof *shards);
    if (!shards)
        return fail_memory(w, err);
    const char *tensor;
    json_t *value;
    size_t i = 0;
    json_object_foreach((json_t *)w->map, tensor, value)
    {
        const char *name = json_string_value(value);
        if (!name || strlen(name) != json_string_length(value) || !is_plain_name(name))
            return fail(err, SERVERD_CORRUPT,
                        "%s: weight_map.%.200s: \"%.100s\", the plain name of a .safetensors file "
                        "is needed",
                        path, tensor, name ? name : "");
        shards[i++].name = name;
    }
    if (n > 0)
        qsort(shards, n, sizeof *shards, compare_shards);
    for (i = 0; i < n; i++) {
        if (w->n_shards > 0 && strcmp(shards[w->n_shards - 1].name, shards[i].name) == 0)
            continue;
        shards[w->n_shards].name = shards[i].name;
        w->n_shards++;
    }
    if (w->n_shards > LIMIT_SAFETENSORS_SHARDS)
        return fail(err, SERVERD_CORRUPT, "%s: %u files, at most %u are allowed", path, w->n_shards,
                    LIMIT_SAFETENSORS_SHARDS);
    w->shards = shards;
    return SERVERD_OK;
}

static serverd_status read_index(struct weights *w, const char *path, json_t **root,
                                 serverd_error *err)
{
    const struct json_bounds bounds = {LIMIT_SAFETENSORS_HEADER, LIMIT_SAFETENSORS_VALUES};
    serverd_status status = json_file_read(path, bounds, JSON_OBJECT, root, err);
    if (status != SERVERD_OK)
        return status;
    const struct json_place place = {.file = path, .where = "", .object = *root};
    struct json_place map = {.file = path};
    if ((status = json_place_need(&place, "weight_map", err)) != SERVERD_OK ||
        (status = json_place_object(&place, "weight_map", &map, err)) != SERVERD_OK)
        return status;
    w->map = map.object;
    return collect_shards(w, path, err);
}

static serverd_status find_files(struct weights *w, json_t **index, serverd_error *err)
{
    char path[PATH_BYTES], pickle[PATH_BYTES];
    serverd_status status = join_path(w->folder, single_name, sizeof path, path, err);
    if (status != SERVERD_OK)
        return status;
    if (model_file_exists(path)) {
        w->shards = arena_array(w->source->arena, 1, sizeof *w->shards);
        if (!w->shards)
            return fail_memory(w, err);
        w->shards[0].name = single_name;
        w->n_shards = 1;
        return SERVERD_OK;
    }
    if ((status = join_path(w->folder, index_name, sizeof path, path, err)) != SERVERD_OK)
        return status;
    if (model_file_exists(path))
        return read_index(w, path, index, err);
    if (join_path(w->folder, "pytorch_model.bin", sizeof pickle, pickle, err) == SERVERD_OK &&
        model_file_exists(pickle))
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: pickle files can hold code; convert the model to safetensors", pickle);
    return fail(err, SERVERD_INVALID, "%s: neither %s nor %s is there", w->folder, single_name,
                index_name);
}

/* ---- opening ------------------------------------------------------------------------------- */

/* The mapping is the source's from then on. */
static serverd_status open_shard(struct weights *w, uint32_t i, serverd_error *err)
{
    char joined[PATH_BYTES];
    struct file file;
    serverd_status status = join_path(w->folder, w->shards[i].name, sizeof joined, joined, err);
    if (status != SERVERD_OK)
        return status;
    const char *path = arena_copy(w->source->arena, joined, strlen(joined));
    if (!path)
        return fail_memory(w, err);
    if ((status = model_file_open(path, &file, err)) != SERVERD_OK)
        return status;
    status = safetensors_read(path, &file, w->source->arena, &w->shards[i].table, err);
    if (status == SERVERD_OK) {
        status = file_map(&file, &w->source->mappings[i], err);
        if (status == SERVERD_OK)
            w->source->n_mappings = i + 1;
        else
            error_context(err, "%s", path);
    }
    file_close(&file);
    return status;
}

/* Every tensor is in the one file that the index says. */
static serverd_status check_shard(const struct weights *w, const struct shard *shard,
                                  serverd_error *err)
{
    for (uint32_t i = 0; i < shard->table.n_tensors; i++) {
        const char *name = shard->table.tensors[i].name;
        const char *stated = json_string_value(json_object_get(w->map, name));
        if (!stated || strcmp(stated, shard->name) != 0)
            return fail(err, SERVERD_CORRUPT,
                        "%s: tensor %.200s is in this file, the index says %.100s",
                        shard->table.path, name, stated ? stated : "none");
    }
    return SERVERD_OK;
}

static serverd_status open_shards(struct weights *w, uint64_t *n_tensors, serverd_error *err)
{
    w->source->mappings =
        arena_array(w->source->arena, w->n_shards ? w->n_shards : 1, sizeof *w->source->mappings);
    if (!w->source->mappings)
        return fail_memory(w, err);
    *n_tensors = 0;
    for (uint32_t i = 0; i < w->n_shards; i++) {
        serverd_status status = open_shard(w, i, err);
        if (status == SERVERD_OK && w->map)
            status = check_shard(w, &w->shards[i], err);
        if (status != SERVERD_OK)
            return status;
        *n_tensors += w->shards[i].table.n_tensors;
    }
    if (w->map && *n_tensors != json_object_size(w->map))
        return fail(err, SERVERD_CORRUPT,
                    "%s/%s: %zu tensors are named, %" PRIu64 " are in the files", w->folder,
                    index_name, json_object_size(w->map), *n_tensors);
    return SERVERD_OK;
}

/* ---- tensors ------------------------------------------------------------------------------- */

static serverd_status convert_type(const char *path, const struct safetensor *from,
                                   struct source_tensor *to, serverd_error *err)
{
    static const struct {
        const char *name;
        uint32_t dtype;
    } types[] = {{"F32", DTYPE_F32}, {"F16", DTYPE_F16}, {"BF16", DTYPE_BF16}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, from->dtype) == 0) {
            to->dtype = types[i].dtype;
            return SERVERD_OK;
        }
    return fail(err, SERVERD_UNSUPPORTED,
                "%s: tensor %.200s: type %s; weights in F32, F16 and BF16 are supported", path,
                from->name, from->dtype);
}

static serverd_status convert_shape(const char *path, const struct safetensor *from,
                                    struct source_tensor *to, serverd_error *err)
{
    if (from->rank == 0 || from->rank > SERVERD_MAX_DIMS)
        return fail(err, SERVERD_UNSUPPORTED, "%s: tensor %.200s: %u dims, 1..%u are supported",
                    path, from->name, from->rank, SERVERD_MAX_DIMS);
    to->rank = from->rank;
    for (uint32_t d = 0; d < from->rank; d++) {
        if (from->dims[d] == 0)
            return fail(err, SERVERD_CORRUPT, "%s: tensor %.200s: dim %u is 0", path, from->name,
                        d);
        to->dims[d] = from->dims[d];
    }
    return SERVERD_OK;
}

static bool is_norm(const char *name)
{
    size_t n = strlen(name), tail = sizeof "norm.weight" - 1;
    return n >= tail && strcmp(name + n - tail, "norm.weight") == 0;
}

/* Weights of norms that have their 1 added at run time: here it is added at once. */
static serverd_status add_one(const struct weights *w, struct source_tensor *tensor,
                              serverd_error *err)
{
    uint64_t n = tensor->dims[0];
    float *values = arena_array(w->made, n, sizeof *values);
    if (!values)
        return fail_memory(w, err);
    dtype_info(tensor->dtype)->to_f32(tensor->data, values, n);
    for (uint64_t i = 0; i < n; i++)
        values[i] += 1.0f;
    tensor->dtype = DTYPE_F32;
    tensor->data = values;
    tensor->bytes = n * sizeof *values;
    return SERVERD_OK;
}

/* Vectors of f32 are read in place. */
static serverd_status align(const struct weights *w, struct source_tensor *tensor,
                            serverd_error *err)
{
    void *copy = arena_alloc(w->made, tensor->bytes);
    if (!copy)
        return fail_memory(w, err);
    tensor->data = memcpy(copy, tensor->data, tensor->bytes);
    return SERVERD_OK;
}

/* The rows of the position table that inputs can reach. */
static serverd_status cut_positions(const struct weights *w, struct source_tensor *tensor,
                                    serverd_error *err)
{
    uint64_t first = w->config->first_position, n = w->config->n_context;
    if (tensor->rank != 2 || tensor->dims[0] < first + n)
        return fail(err, SERVERD_CORRUPT,
                    "%s: tensor %s: %" PRIu64 " rows in %u dims, %" PRIu64 " are needed", w->folder,
                    tensor->name, tensor->dims[0], tensor->rank, first + n);
    uint64_t row_bytes = tensor->bytes / tensor->dims[0];
    tensor->data = (const char *)tensor->data + first * row_bytes;
    tensor->dims[0] = n;
    tensor->bytes = n * row_bytes;
    return SERVERD_OK;
}

static serverd_status adapt(const struct weights *w, struct source_tensor *tensor,
                            serverd_error *err)
{
    if (w->config->class->has_unit_norms && tensor->rank == 1 && is_norm(tensor->name))
        return add_one(w, tensor, err);
    if (w->config->class->is_encoder && strcmp(tensor->name, "position_embd.weight") == 0)
        return cut_positions(w, tensor, err);
    bool is_aligned = (uintptr_t)tensor->data % _Alignof(float) == 0;
    if (tensor->rank == 1 && tensor->dtype == DTYPE_F32 && !is_aligned)
        return align(w, tensor, err);
    return SERVERD_OK;
}

static const void *data_of(const struct weights *w, uint32_t shard, const struct safetensor *tensor)
{
    return (const char *)w->source->mappings[shard].data + tensor->offset;
}

/* ---- quantised checkpoints: a matrix is several tensors ---------------------------------------
 */

static int compare_places(const void *a, const void *b)
{
    const struct place *p = a, *q = b;
    return strcmp(p->tensor->name, q->tensor->name);
}

static int compare_name(const void *name, const void *place)
{
    return strcmp(name, ((const struct place *)place)->tensor->name);
}

/* Also makes room for what the conversion makes: a code may become a byte, and each 32 of them have
 * a scale and a zero point. */
static serverd_status sort_places(struct weights *w, uint64_t n_tensors, serverd_error *err)
{
    uint64_t bytes = 0;
    if (w->config->quantised.method == HF_PLAIN || n_tensors == 0)
        return SERVERD_OK;
    w->places = arena_array(w->source->arena, n_tensors, sizeof *w->places);
    if (!w->places)
        return fail_memory(w, err);
    for (uint32_t i = 0; i < w->n_shards; i++)
        for (uint32_t k = 0; k < w->shards[i].table.n_tensors; k++) {
            const struct safetensor *tensor = &w->shards[i].table.tensors[k];
            w->places[w->n_places++] = (struct place){tensor, i};
            bytes += tensor->bytes;
        }
    qsort(w->places, w->n_places, sizeof *w->places, compare_places);
    arena_extend(w->made, bytes + bytes / 2);
    return SERVERD_OK;
}

/* MODULE.SUFFIX; its tensor is NULL if there is none. */
static struct hf_array find_array(const struct weights *w, const char *name, size_t module,
                                  const char *suffix)
{
    char full[512];
    int n =
        snprintf(full, sizeof full, "%.*s.%s", (int)min_size(module, sizeof full), name, suffix);
    const struct place *place = NULL;
    if (n > 0 && (size_t)n < sizeof full)
        place = bsearch(full, w->places, w->n_places, sizeof *w->places, compare_name);
    if (!place)
        return (struct hf_array){0};
    return (struct hf_array){place->tensor, data_of(w, place->shard, place->tensor)};
}

static serverd_status convert_module(const struct weights *w, uint32_t shard,
                                     const struct safetensor *codes, size_t module,
                                     struct source_tensor *out, serverd_error *err)
{
    const bool is_fp8 = w->config->quantised.method == HF_FP8;
    struct hf_module m = {
        .path = w->shards[shard].table.path,
        .codes = {codes, data_of(w, shard, codes)},
        .scales = find_array(w, codes->name, module, is_fp8 ? "weight_scale" : "scales"),
        .zeros = find_array(w, codes->name, module, "qzeros"),
        .order = find_array(w, codes->name, module, "g_idx")};
    if (is_fp8 && !m.scales.tensor)
        m.scales = find_array(w, codes->name, module, "weight_scale_inv");
    return hf_quantised_convert(&w->config->quantised, &m, w->made, out, err);
}

/* Scales and the like are read with their codes; without codes they are part of nothing. */
static bool has_codes(const struct weights *w, const char *name, size_t module)
{
    const bool is_fp8 = w->config->quantised.method == HF_FP8;
    return find_array(w, name, module, is_fp8 ? "weight" : "qweight").tensor;
}

/* The name that the matrix would have if it were plain. */
static enum hf_name name_of(const struct weights *w, const struct safetensor *from,
                            enum hf_role role, size_t module, char out[HF_NAME_BYTES])
{
    char plain[512];
    const char *name = from->name;
    if (role == HF_ROLE_CODES) {
        int n =
            snprintf(plain, sizeof plain, "%.*s.weight", (int)min_size(module, sizeof plain), name);
        if (n < 0 || (size_t)n >= sizeof plain)
            return HF_NAME_UNKNOWN;
        name = plain;
    }
    return hf_canonical_name(w->config->class, w->config->is_tied, name, out);
}

/* ---- one tensor after the other ---------------------------------------------------------------
 */

static serverd_status read_plain(const struct weights *w, uint32_t shard,
                                 const struct safetensor *from, struct source_tensor *out,
                                 serverd_error *err)
{
    const char *path = w->shards[shard].table.path;
    serverd_status status;
    out->data = data_of(w, shard, from);
    out->bytes = from->bytes;
    if ((status = convert_type(path, from, out, err)) != SERVERD_OK ||
        (status = convert_shape(path, from, out, err)) != SERVERD_OK)
        return status;
    return adapt(w, out, err);
}

static serverd_status add_tensor(const struct weights *w, uint32_t shard,
                                 const struct safetensor *from, serverd_error *err)
{
    char name[HF_NAME_BYTES];
    size_t module = 0;
    enum hf_role role = hf_quantised_role(w->config->quantised.method, from, &module);
    if (role == HF_ROLE_UNUSED || (role == HF_ROLE_BESIDE && has_codes(w, from->name, module)))
        return SERVERD_OK;
    enum hf_name known = name_of(w, from, role, module, name);
    if (known == HF_NAME_UNUSED)
        return SERVERD_OK;
    if (known == HF_NAME_UNKNOWN)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: tensor %.200s is not part of %s as it is known here",
                    w->shards[shard].table.path, from->name, w->config->class->name);
    struct source_tensor tensor = {.name = arena_copy(w->source->arena, name, strlen(name))};
    if (!tensor.name)
        return fail_memory(w, err);
    serverd_status status = role == HF_ROLE_CODES
                                ? convert_module(w, shard, from, module, &tensor, err)
                                : read_plain(w, shard, from, &tensor, err);
    if (status != SERVERD_OK)
        return status;
    w->source->tensors[w->source->n_tensors++] = tensor;
    return SERVERD_OK;
}

/* As a GGUF file would have them. The tables are copied where the graph is built. */
static void add_rope(const struct weights *w)
{
    const struct hf_rope *rope = &w->config->rope;
    const struct {
        const char *name;
        const float *values;
    } rows[N_ROPE_TENSORS] = {{"rope_freqs.weight", rope->divisors},
                              {"rope_factors_short.weight", rope->short_divisors},
                              {"rope_factors_long.weight", rope->long_divisors}};
    for (size_t i = 0; i < N_ROPE_TENSORS; i++)
        if (rows[i].values)
            w->source->tensors[w->source->n_tensors++] =
                (struct source_tensor){.name = rows[i].name,
                                       .dtype = DTYPE_F32,
                                       .rank = 1,
                                       .dims = {rope->n},
                                       .data = rows[i].values,
                                       .bytes = rope->n * sizeof(float)};
}

static serverd_status add_tensors(const struct weights *w, uint64_t n_tensors, serverd_error *err)
{
    w->source->tensors =
        arena_array(w->source->arena, n_tensors + N_ROPE_TENSORS, sizeof *w->source->tensors);
    if (!w->source->tensors)
        return fail_memory(w, err);
    for (uint32_t i = 0; i < w->n_shards; i++)
        for (uint32_t k = 0; k < w->shards[i].table.n_tensors; k++) {
            serverd_status status = add_tensor(w, i, &w->shards[i].table.tensors[k], err);
            if (status != SERVERD_OK)
                return status;
        }
    add_rope(w);
    return source_sort_tensors(w->source, err);
}

serverd_status hf_weights_import(const char *folder, const struct hf_config *config,
                                 struct arena *made, struct source *source, serverd_error *err)
{
    struct weights w = {.folder = folder, .config = config, .made = made, .source = source};
    json_t *index = NULL;
    uint64_t n_tensors = 0;
    serverd_status status = find_files(&w, &index, err);
    if (status == SERVERD_OK)
        status = open_shards(&w, &n_tensors, err);
    if (status == SERVERD_OK)
        status = sort_places(&w, n_tensors, err);
    if (status == SERVERD_OK)
        status = add_tensors(&w, n_tensors, err);
    json_decref(index);
    return status;
}
