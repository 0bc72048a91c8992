#include "compiler/gguf_reader.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/dtype.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_BYTES      (64 * KIB)
#define DEFAULT_ALIGNMENT 32u
#define MIN_ALIGNMENT     8u
#define MIN_KEY_BYTES     14u /* length, one letter, type, one byte of value */
#define MIN_TENSOR_BYTES  33u /* length, one letter, rank, one size, type, offset */

/* Bytes of one item in the file; of a string at least. */
static const uint32_t type_bytes[] = {
    [SOURCE_U8] = 1,  [SOURCE_I8] = 1,     [SOURCE_U16] = 2,    [SOURCE_I16] = 2, [SOURCE_U32] = 4,
    [SOURCE_I32] = 4, [SOURCE_F32] = 4,    [SOURCE_BOOL] = 1,   [SOURCE_U64] = 8, [SOURCE_I64] = 8,
    [SOURCE_F64] = 8, [SOURCE_STRING] = 8, [SOURCE_ARRAY] = 12,
};

enum { N_TYPES = sizeof type_bytes / sizeof type_bytes[0] };

/* ---- reading the header in order ----------------------------------------------------------- */

/* Where in the header we are, and what is being read there, for errors. */
struct cursor {
    const struct gguf_file *out;
    const struct file *file;
    struct arena *arena;
    uint64_t offset; /* of the next byte */
    const char *what, *name;
    unsigned char *window; /* bytes window_begin .. window_begin + window_len - 1 of the file */
    uint64_t window_begin;
    size_t window_len;
};

/* "FILE: key NAME" stands in front of every error about the part being read. */
static serverd_status fail_at(const struct cursor *c, serverd_error *err)
{
    if (c->name)
        return error_context(err, "%s: %s %.200s", c->out->keys.path, c->what, c->name);
    return error_context(err, "%s: %s", c->out->keys.path, c->what);
}

static uint64_t bytes_left(const struct cursor *c)
{
    return c->file->bytes - c->offset;
}

static serverd_status fill_window(struct cursor *c, serverd_error *err)
{
    size_t n = min_size(WINDOW_BYTES, bytes_left(c));
    serverd_status status = file_read_at(c->file, c->offset, c->window, n, err);
    if (status != SERVERD_OK)
        return fail_at(c, err);
    c->window_begin = c->offset;
    c->window_len = n;
    return SERVERD_OK;
}

static serverd_status take(struct cursor *c, void *out, size_t n, serverd_error *err)
{
    if (n > bytes_left(c)) {
        fail(err, SERVERD_CORRUPT,
             "%zu bytes are needed at offset %" PRIu64 ", %" PRIu64 " are left in the file", n,
             c->offset, bytes_left(c));
        return fail_at(c, err);
    }
    unsigned char *p = out;
    while (n > 0) {
        uint64_t skip = c->offset - c->window_begin;
        if (skip >= c->window_len) {
            serverd_status status = fill_window(c, err);
            if (status != SERVERD_OK)
                return status;
            skip = 0;
        }
        size_t part = min_size(n, c->window_len - (size_t)skip);
        memcpy(p, c->window + skip, part);
        p += part;
        n -= part;
        c->offset += part;
    }
    return SERVERD_OK;
}

/* The host is little-endian, like the file. */
static serverd_status take_u32(struct cursor *c, uint32_t *out, serverd_error *err)
{
    return take(c, out, sizeof *out, err);
}

static serverd_status take_u64(struct cursor *c, uint64_t *out, serverd_error *err)
{
    return take(c, out, sizeof *out, err);
}

static serverd_status take_memory(struct cursor *c, size_t n, size_t size, void **out,
                                  serverd_error *err)
{
    *out = arena_array(c->arena, n ? n : 1, size);
    if (*out)
        return SERVERD_OK;
    fail(err, SERVERD_NOMEM, "no memory for %zu items of %zu bytes: the header may take %zu bytes",
         n, size, LIMIT_GGUF_HEADER_BYTES);
    return fail_at(c, err);
}

static serverd_status take_string(struct cursor *c, uint64_t limit, struct source_string *out,
                                  serverd_error *err)
{
    uint64_t len;
    serverd_status status = take_u64(c, &len, err);
    if (status != SERVERD_OK)
        return status;
    if (len > limit || len > bytes_left(c)) {
        fail(err, SERVERD_CORRUPT,
             "a string of %" PRIu64 " bytes at offset %" PRIu64 ", at most %" PRIu64
             " are allowed and %" PRIu64 " are left in the file",
             len, c->offset, limit, bytes_left(c));
        return fail_at(c, err);
    }
    *out = (struct source_string){.bytes = "", .len = (uint32_t)len};
    if (len == 0)
        return SERVERD_OK;
    void *bytes;
    if ((status = take_memory(c, (size_t)len + 1, 1, &bytes, err)) != SERVERD_OK)
        return status;
    out->bytes = bytes; /* zeroed, so it ends with a NUL */
    return take(c, bytes, (size_t)len, err);
}

/* A key or tensor name: it becomes a C string, so it holds no NUL. */
static serverd_status take_name(struct cursor *c, const char **out, serverd_error *err)
{
    struct source_string name;
    serverd_status status = take_string(c, LIMIT_GGUF_NAME_BYTES, &name, err);
    if (status != SERVERD_OK)
        return status;
    if (name.len == 0 || memchr(name.bytes, '\0', name.len)) {
        fail(err, SERVERD_CORRUPT, "its name is empty or has a NUL in it");
        return fail_at(c, err);
    }
    *out = name.bytes;
    return SERVERD_OK;
}

/* ---- keys ---------------------------------------------------------------------------------- */

static serverd_status take_array_head(struct cursor *c, struct source_key *key, serverd_error *err)
{
    serverd_status status;
    if ((status = take_u32(c, &key->type, err)) != SERVERD_OK ||
        (status = take_u64(c, &key->n_items, err)) != SERVERD_OK)
        return status;
    key->is_array = true;
    if (key->type >= N_TYPES || key->type == SOURCE_ARRAY) {
        fail(err, SERVERD_CORRUPT, "array items have type %u, 0..8 and 10..12 are allowed",
             key->type);
        return fail_at(c, err);
    }
    if (key->n_items > LIMIT_GGUF_ARRAY_ITEMS ||
        key->n_items > bytes_left(c) / type_bytes[key->type]) {
        fail(err, SERVERD_CORRUPT,
             "an array of %" PRIu64 " %s items, at most %u are allowed and %" PRIu64
             " bytes are left in the file",
             key->n_items, source_type_name(key->type), LIMIT_GGUF_ARRAY_ITEMS, bytes_left(c));
        return fail_at(c, err);
    }
    return SERVERD_OK;
}

static serverd_status check_bools(const struct cursor *c, const unsigned char *items, size_t n,
                                  serverd_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (items[i] > 1) {
            fail(err, SERVERD_CORRUPT, "a bool is %u, 0 and 1 are allowed", items[i]);
            return fail_at(c, err);
        }
    return SERVERD_OK;
}

static serverd_status take_items(struct cursor *c, struct source_key *key, serverd_error *err)
{
    size_t n = (size_t)key->n_items;
    void *items;
    serverd_status status;
    if (key->type == SOURCE_STRING) {
        if ((status = take_memory(c, n, sizeof(struct source_string), &items, err)) != SERVERD_OK)
            return status;
        struct source_string *strings = items;
        for (size_t i = 0; i < n; i++)
            if ((status = take_string(c, LIMIT_GGUF_STRING_BYTES, &strings[i], err)) != SERVERD_OK)
                return status;
    } else {
        size_t item_bytes = type_bytes[key->type];
        if ((status = take_memory(c, n, item_bytes, &items, err)) != SERVERD_OK ||
            (status = take(c, items, n * item_bytes, err)) != SERVERD_OK)
            return status;
        if (key->type == SOURCE_BOOL && (status = check_bools(c, items, n, err)) != SERVERD_OK)
            return status;
    }
    key->items = items;
    return SERVERD_OK;
}

static serverd_status take_key(struct cursor *c, struct source_key *key, serverd_error *err)
{
    c->what = "a key";
    c->name = NULL;
    serverd_status status;
    if ((status = take_name(c, &key->name, err)) != SERVERD_OK)
        return status;
    c->what = "key";
    c->name = key->name;
    if ((status = take_u32(c, &key->type, err)) != SERVERD_OK)
        return status;
    if (key->type >= N_TYPES) {
        fail(err, SERVERD_CORRUPT, "type %u is unknown, 0..%d are allowed", key->type, N_TYPES - 1);
        return fail_at(c, err);
    }
    key->n_items = 1;
    if (key->type == SOURCE_ARRAY && (status = take_array_head(c, key, err)) != SERVERD_OK)
        return status;
    return take_items(c, key, err);
}

static serverd_status take_keys(struct cursor *c, struct gguf_file *out, serverd_error *err)
{
    void *keys;
    struct source_keys *table = &out->keys;
    serverd_status status = take_memory(c, table->n_keys, sizeof *table->keys, &keys, err);
    if (status != SERVERD_OK)
        return status;
    table->keys = keys;
    for (uint32_t i = 0; i < table->n_keys; i++)
        if ((status = take_key(c, &table->keys[i], err)) != SERVERD_OK)
            return status;
    return source_sort_keys(table, err);
}

/* ---- tensors ------------------------------------------------------------------------------- */

static serverd_status take_tensor(struct cursor *c, struct gguf_tensor *tensor, serverd_error *err)
{
    c->what = "a tensor";
    c->name = NULL;
    serverd_status status;
    if ((status = take_name(c, &tensor->name, err)) != SERVERD_OK)
        return status;
    c->what = "tensor";
    c->name = tensor->name;
    if ((status = take_u32(c, &tensor->rank, err)) != SERVERD_OK)
        return status;
    if (tensor->rank == 0 || tensor->rank > SERVERD_MAX_DIMS) {
        fail(err, SERVERD_CORRUPT, "%u dims, 1..%u are allowed", tensor->rank, SERVERD_MAX_DIMS);
        return fail_at(c, err);
    }
    for (uint32_t d = tensor->rank; d-- > 0;)
        if ((status = take_u64(c, &tensor->dims[d], err)) != SERVERD_OK)
            return status;
    if ((status = take_u32(c, &tensor->dtype, err)) != SERVERD_OK)
        return status;
    return take_u64(c, &tensor->offset, err);
}

static serverd_status size_of_tensor(const struct cursor *c, struct gguf_tensor *tensor,
                                     serverd_error *err)
{
    const struct dtype_info *info = tensor->dtype < DTYPE_LIMIT ? dtype_info(tensor->dtype) : NULL;
    if (!info)
        return fail(err, SERVERD_UNSUPPORTED, "unknown element type %u", tensor->dtype);
    uint64_t n_columns = tensor->dims[tensor->rank - 1];
    if (!dtype_row_bytes(tensor->dtype, n_columns, &tensor->bytes))
        return fail(err, SERVERD_CORRUPT,
                    "rows of %" PRIu64 " elements are not made of %s blocks of %u", n_columns,
                    info->name, info->block_elements);
    for (uint32_t d = 0; d < tensor->rank; d++) {
        if (tensor->dims[d] == 0 || tensor->dims[d] > INT64_MAX)
            return fail(err, SERVERD_CORRUPT, "dim %u is %" PRIu64 ", 1..2^63-1 is allowed", d,
                        tensor->dims[d]);
        if (d + 1 < tensor->rank &&
            __builtin_mul_overflow(tensor->bytes, tensor->dims[d], &tensor->bytes))
            return fail(err, SERVERD_CORRUPT, "its size overflows 64 bits");
    }
    if (tensor->bytes > c->file->bytes)
        return fail(err, SERVERD_CORRUPT, "%" PRIu64 " bytes, the file has %" PRIu64, tensor->bytes,
                    c->file->bytes);
    return SERVERD_OK;
}

/* Turns the offset from relative to the data into relative to the file. */
static serverd_status place_tensor(const struct cursor *c, struct gguf_tensor *tensor,
                                   uint64_t data_begin, uint64_t alignment, serverd_error *err)
{
    if (tensor->offset % alignment != 0)
        return fail(err, SERVERD_CORRUPT, "offset %" PRIu64 " is no multiple of %" PRIu64,
                    tensor->offset, alignment);
    uint64_t data_bytes = c->file->bytes - data_begin;
    if (tensor->offset > data_bytes || tensor->bytes > data_bytes - tensor->offset)
        return fail(err, SERVERD_CORRUPT,
                    "%" PRIu64 " bytes at offset %" PRIu64 " of the data, which has %" PRIu64
                    " bytes",
                    tensor->bytes, tensor->offset, data_bytes);
    tensor->offset += data_begin;
    return SERVERD_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct gguf_tensor *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static serverd_status place_tensors(const struct cursor *c, struct gguf_file *out,
                                    serverd_error *err)
{
    uint32_t alignment = DEFAULT_ALIGNMENT;
    serverd_status status = source_get_u32(&out->keys, "general.alignment", MIN_ALIGNMENT,
                                           LIMIT_GGUF_ALIGNMENT, &alignment, err);
    if (status != SERVERD_OK)
        return status;
    if ((alignment & (alignment - 1)) != 0)
        return fail(err, SERVERD_CORRUPT, "%s: key general.alignment: %u, a power of two is needed",
                    out->keys.path, alignment);
    uint64_t data_begin = (c->offset + alignment - 1) / alignment * alignment;
    if (out->n_tensors > 0 && data_begin > c->file->bytes)
        return fail(err, SERVERD_CORRUPT,
                    "%s: the tensor data begin at %" PRIu64 ", the file has %" PRIu64 " bytes",
                    out->keys.path, data_begin, c->file->bytes);
    for (uint32_t i = 0; i < out->n_tensors; i++) {
        struct gguf_tensor *tensor = &out->tensors[i];
        if ((status = size_of_tensor(c, tensor, err)) != SERVERD_OK ||
            (status = place_tensor(c, tensor, data_begin, alignment, err)) != SERVERD_OK)
            return error_context(err, "%s: tensor %.200s", out->keys.path, tensor->name);
    }
    qsort(out->tensors, out->n_tensors, sizeof *out->tensors, compare_offsets);
    for (uint32_t i = 1; i < out->n_tensors; i++) {
        const struct gguf_tensor *a = &out->tensors[i - 1], *b = &out->tensors[i];
        if (a->offset + a->bytes > b->offset)
            return fail(err, SERVERD_CORRUPT, "%s: tensors %.100s and %.100s overlap",
                        out->keys.path, a->name, b->name);
    }
    return SERVERD_OK;
}

static serverd_status take_tensors(struct cursor *c, struct gguf_file *out, serverd_error *err)
{
    void *tensors;
    serverd_status status = take_memory(c, out->n_tensors, sizeof *out->tensors, &tensors, err);
    if (status != SERVERD_OK)
        return status;
    out->tensors = tensors;
    for (uint32_t i = 0; i < out->n_tensors; i++)
        if ((status = take_tensor(c, &out->tensors[i], err)) != SERVERD_OK)
            return status;
    return place_tensors(c, out, err);
}

/* ---- the whole header ---------------------------------------------------------------------- */

static serverd_status check_version(const struct gguf_file *file, serverd_error *err)
{
    if (file->version != 0 && (file->version & 0xffffu) == 0)
        return fail(err, SERVERD_UNSUPPORTED, "%s: a big-endian file, little-endian is needed",
                    file->keys.path);
    if (file->version < 2 || file->version > 3)
        return fail(err, SERVERD_VERSION, "%s: GGUF version %u, 2 and 3 are supported",
                    file->keys.path, file->version);
    return SERVERD_OK;
}

static serverd_status take_count(struct cursor *c, const char *what, uint32_t limit,
                                 uint32_t min_bytes, uint32_t *out, serverd_error *err)
{
    uint64_t n;
    serverd_status status = take_u64(c, &n, err);
    if (status != SERVERD_OK)
        return status;
    if (n > limit || n > bytes_left(c) / min_bytes)
        return fail(err, SERVERD_CORRUPT,
                    "%s: %" PRIu64 " %s, at most %u are allowed and %" PRIu64
                    " bytes are left in the file",
                    c->out->keys.path, n, what, limit, bytes_left(c));
    *out = (uint32_t)n;
    return SERVERD_OK;
}

serverd_status gguf_read(const char *path, const struct file *file, struct arena *arena,
                         struct gguf_file *out, serverd_error *err)
{
    struct gguf_file made = {.keys.path = path};
    struct cursor c = {.out = &made, .file = file, .arena = arena, .what = "header"};
    c.window = malloc(WINDOW_BYTES);
    if (!c.window)
        return fail(err, SERVERD_NOMEM, "%s: no memory for its header", path);
    char magic[4];
    serverd_status status = take(&c, magic, sizeof magic, err);
    if (status == SERVERD_OK && memcmp(magic, "GGUF", sizeof magic) != 0)
        status = fail(err, SERVERD_CORRUPT, "%s: not a GGUF file, it begins with %02x%02x%02x%02x",
                      path, (unsigned char)magic[0], (unsigned char)magic[1],
                      (unsigned char)magic[2], (unsigned char)magic[3]);
    if (status != SERVERD_OK || (status = take_u32(&c, &made.version, err)) != SERVERD_OK ||
        (status = check_version(&made, err)) != SERVERD_OK ||
        (status = take_count(&c, "tensors", LIMIT_GGUF_TENSORS, MIN_TENSOR_BYTES, &made.n_tensors,
                             err)) != SERVERD_OK ||
        (status = take_count(&c, "keys", LIMIT_GGUF_KEYS, MIN_KEY_BYTES, &made.keys.n_keys, err)) !=
            SERVERD_OK ||
        (status = take_keys(&c, &made, err)) != SERVERD_OK ||
        (status = take_tensors(&c, &made, err)) != SERVERD_OK)
        goto out;
    *out = made;
out:
    free(c.window);
    return status;
}
