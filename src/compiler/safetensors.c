#include "compiler/safetensors.h"

#include "base/error.h"
#include "base/limits.h"
#include "compiler/json_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- types --------------------------------------------------------------------------------- */

struct type_row {
    const char *name;
    uint32_t bytes;
};

static const struct type_row types[] = {{"F64", 8},  {"F32", 4},     {"F16", 2},
                                        {"BF16", 2}, {"F8_E4M3", 1}, {"I64", 8},
                                        {"I32", 4},  {"I8", 1},      {"U8", 1}};

static const struct type_row *find_type(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

/* ---- the header's text --------------------------------------------------------------------- */

/* What PyTorch writes with pickle: a zip archive, or a bare pickle of protocol 2 and above. */
static bool is_pickle(const unsigned char *magic)
{
    return memcmp(magic, "PK\3\4", 4) == 0 || (magic[0] == 0x80 && magic[1] >= 2 && magic[1] <= 5);
}

static serverd_status check_length(const char *path, const struct file *file,
                                   const unsigned char *head, uint64_t *out, serverd_error *err)
{
    uint64_t n;
    memcpy(&n, head, sizeof n);
    if (n > file->bytes - sizeof n && is_pickle(head))
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: a pickle file, which can hold code; safetensors files are supported",
                    path);
    if (n < 2 || n > LIMIT_SAFETENSORS_HEADER || n > file->bytes - sizeof n)
        return fail(err, SERVERD_CORRUPT,
                    "%s: a header of %" PRIu64 " bytes, at least 2, at most %u are allowed and "
                    "%" PRIu64 " are in the file",
                    path, n, LIMIT_SAFETENSORS_HEADER, file->bytes - sizeof n);
    *out = n;
    return SERVERD_OK;
}

static serverd_status read_header(const char *path, const struct file *file, json_t **out,
                                  uint64_t *data_begin, serverd_error *err)
{
    unsigned char head[8];
    uint64_t n = 0;
    if (file->bytes < sizeof head)
        return fail(err, SERVERD_CORRUPT, "%s: not a safetensors file, it has %" PRIu64 " bytes",
                    path, file->bytes);
    serverd_status status = file_read_at(file, 0, head, sizeof head, err);
    if (status != SERVERD_OK)
        return error_context(err, "%s", path);
    if ((status = check_length(path, file, head, &n, err)) != SERVERD_OK)
        return status;
    char *text = malloc(n);
    if (!text)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its header", path);
    status = file_read_at(file, sizeof head, text, n, err);
    if (status != SERVERD_OK)
        error_context(err, "%s", path);
    else if (text[0] != '{')
        status = fail(err, SERVERD_CORRUPT, "%s: the header begins with 0x%02x, '{' is needed",
                      path, (unsigned char)text[0]);
    else
        status = json_file_parse(path, text, n, LIMIT_SAFETENSORS_VALUES, JSON_OBJECT, out, err);
    free(text);
    *data_begin = sizeof head + n;
    return status;
}

/* ---- tensors ------------------------------------------------------------------------------- */

/* A number that is a size: an integer, not negative. */
static bool get_size(const json_t *value, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static serverd_status read_shape(const struct json_place *place, struct safetensor *tensor,
                                 serverd_error *err)
{
    const json_t *shape = json_place_get(place, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > SAFETENSORS_MAX_DIMS)
        return json_place_fail(place, "shape", "an array of at most 8 sizes", err);
    tensor->rank = (uint32_t)json_array_size(shape);
    for (uint32_t d = 0; d < tensor->rank; d++) {
        if (!get_size(json_array_get(shape, d), &tensor->dims[d]))
            return json_place_fail(place, "shape", "an array of sizes", err);
        if (__builtin_mul_overflow(tensor->bytes, tensor->dims[d], &tensor->bytes))
            return json_place_fail(place, "shape", "a size within 64 bits", err);
    }
    return SERVERD_OK;
}

static serverd_status read_place(const struct json_place *place, uint64_t data_bytes,
                                 struct safetensor *tensor, serverd_error *err)
{
    uint64_t begin = 0, end = 0;
    const json_t *offsets = json_place_get(place, "data_offsets");
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !get_size(json_array_get(offsets, 0), &begin) ||
        !get_size(json_array_get(offsets, 1), &end))
        return json_place_fail(place, "data_offsets", "[begin, end]", err);
    if (begin > end || end > data_bytes || end - begin != tensor->bytes)
        return fail(err, SERVERD_CORRUPT,
                    "%s: %.200s: bytes %" PRIu64 " to %" PRIu64 " of %" PRIu64 ", %" PRIu64
                    " are needed for its shape",
                    place->file, place->where, begin, end, data_bytes, tensor->bytes);
    tensor->offset = begin;
    return SERVERD_OK;
}

static serverd_status read_tensor(const struct json_place *place, uint64_t data_bytes,
                                  struct arena *arena, struct safetensor *tensor,
                                  serverd_error *err)
{
    const char *dtype = "";
    serverd_status status = SERVERD_OK;
    if (!json_is_object(place->object))
        return fail(err, SERVERD_CORRUPT, "%s: %.200s: no object", place->file, place->where);
    if (json_object_size(place->object) != 3)
        return fail(err, SERVERD_CORRUPT,
                    "%s: %.200s: %zu members, dtype, shape and data_offsets are needed",
                    place->file, place->where, json_object_size(place->object));
    if ((status = json_place_string(place, "dtype", &dtype, err)) != SERVERD_OK)
        return status;
    const struct type_row *type = find_type(dtype);
    if (!type)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s: %.200s: unknown dtype \"%.32s\"; F64, F32, F16, BF16, F8_E4M3, I64, I32, "
                    "I8 and U8 are known",
                    place->file, place->where, dtype);
    tensor->dtype = type->name;
    tensor->bytes = type->bytes;
    tensor->name = arena_copy(arena, place->where, strlen(place->where));
    if (!tensor->name)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its tensors", place->file);
    if ((status = read_shape(place, tensor, err)) != SERVERD_OK)
        return status;
    return read_place(place, data_bytes, tensor, err);
}

static int compare_offsets(const void *a, const void *b)
{
    const struct safetensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty ones first */
}

/* No byte of the data belongs to none or to two. */
static serverd_status check_places(const struct safetensors *table, uint64_t data_bytes,
                                   serverd_error *err)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < table->n_tensors; i++) {
        const struct safetensor *tensor = &table->tensors[i];
        if (tensor->offset != end)
            return fail(err, SERVERD_CORRUPT,
                        "%s: %.200s begins at byte %" PRIu64 " of the data, the one before ends at "
                        "%" PRIu64,
                        table->path, tensor->name, tensor->offset, end);
        end += tensor->bytes;
    }
    if (end != data_bytes)
        return fail(err, SERVERD_CORRUPT,
                    "%s: the tensors end at byte %" PRIu64 " of the data, the file at %" PRIu64,
                    table->path, end, data_bytes);
    return SERVERD_OK;
}

static serverd_status read_tensors(const json_t *header, uint64_t data_bytes, struct arena *arena,
                                   struct safetensors *table, serverd_error *err)
{
    size_t n = json_object_size(header);
    table->tensors = arena_array(arena, n ? n : 1, sizeof *table->tensors);
    if (!table->tensors)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its %zu tensors", table->path, n);
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        const struct json_place place = {.file = table->path, .where = name, .object = value};
        serverd_status status =
            read_tensor(&place, data_bytes, arena, &table->tensors[table->n_tensors], err);
        if (status != SERVERD_OK)
            return status;
        table->n_tensors++;
    }
    if (table->n_tensors > 0)
        qsort(table->tensors, table->n_tensors, sizeof *table->tensors, compare_offsets);
    return check_places(table, data_bytes, err);
}

serverd_status safetensors_read(const char *path, const struct file *file, struct arena *arena,
                                struct safetensors *out, serverd_error *err)
{
    json_t *header = NULL;
    uint64_t data_begin = 0;
    struct safetensors table = {.path = path};
    serverd_status status = read_header(path, file, &header, &data_begin, err);
    if (status != SERVERD_OK)
        return status;
    status = read_tensors(header, file->bytes - data_begin, arena, &table, err);
    json_decref(header);
    if (status != SERVERD_OK)
        return status;
    for (uint32_t i = 0; i < table.n_tensors; i++)
        table.tensors[i].offset += data_begin;
    *out = table;
    return SERVERD_OK;
}
