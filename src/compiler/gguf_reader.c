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

struct type_info {
    const char *name;
    uint32_t bytes; /* of one item in the file; of a string at least */
};

static const struct type_info types[] = {
    [GGUF_U8] = {"u8", 1},        [GGUF_I8] = {"i8", 1},     [GGUF_U16] = {"u16", 2},
    [GGUF_I16] = {"i16", 2},      [GGUF_U32] = {"u32", 4},   [GGUF_I32] = {"i32", 4},
    [GGUF_F32] = {"f32", 4},      [GGUF_BOOL] = {"bool", 1}, [GGUF_STRING] = {"string", 8},
    [GGUF_ARRAY] = {"array", 12}, [GGUF_U64] = {"u64", 8},   [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

enum { N_TYPES = sizeof types / sizeof types[0] };

const char *gguf_type_name(uint32_t type)
{
    return type < N_TYPES ? types[type].name : "unknown";
}

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
        return error_context(err, "%s: %s %.200s", c->out->path, c->what, c->name);
    return error_context(err, "%s: %s", c->out->path, c->what);
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

static serverd_status take_string(struct cursor *c, uint64_t limit, struct gguf_string *out,
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
    *out = (struct gguf_string){.bytes = "", .len = (uint32_t)len};
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
    struct gguf_string name;
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

static serverd_status take_array_head(struct cursor *c, struct gguf_key *key, serverd_error *err)
{
    serverd_status status;
    if ((status = take_u32(c, &key->type, err)) != SERVERD_OK ||
        (status = take_u64(c, &key->n_items, err)) != SERVERD_OK)
        return status;
    key->is_array = true;
    if (key->type >= N_TYPES || key->type == GGUF_ARRAY) {
        fail(err, SERVERD_CORRUPT, "array items have type %u, 0..8 and 10..12 are allowed",
             key->type);
        return fail_at(c, err);
    }
    if (key->n_items > LIMIT_GGUF_ARRAY_ITEMS ||
        key->n_items > bytes_left(c) / types[key->type].bytes) {
        fail(err, SERVERD_CORRUPT,
             "an array of %" PRIu64 " %s items, at most %u are allowed and %" PRIu64
             " bytes are left in the file",
             key->n_items, types[key->type].name, LIMIT_GGUF_ARRAY_ITEMS, bytes_left(c));
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

static serverd_status take_items(struct cursor *c, struct gguf_key *key, serverd_error *err)
{
    size_t n = (size_t)key->n_items;
    void *items;
    serverd_status status;
    if (key->type == GGUF_STRING) {
        if ((status = take_memory(c, n, sizeof(struct gguf_string), &items, err)) != SERVERD_OK)
            return status;
        struct gguf_string *strings = items;
        for (size_t i = 0; i < n; i++)
            if ((status = take_string(c, LIMIT_GGUF_STRING_BYTES, &strings[i], err)) != SERVERD_OK)
                return status;
    } else {
        size_t item_bytes = types[key->type].bytes;
        if ((status = take_memory(c, n, item_bytes, &items, err)) != SERVERD_OK ||
            (status = take(c, items, n * item_bytes, err)) != SERVERD_OK)
            return status;
        if (key->type == GGUF_BOOL && (status = check_bools(c, items, n, err)) != SERVERD_OK)
            return status;
    }
    key->items = items;
    return SERVERD_OK;
}

static serverd_status take_key(struct cursor *c, struct gguf_key *key, serverd_error *err)
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
    if (key->type == GGUF_ARRAY && (status = take_array_head(c, key, err)) != SERVERD_OK)
        return status;
    return take_items(c, key, err);
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const struct gguf_key *)a)->name, ((const struct gguf_key *)b)->name);
}

static serverd_status take_keys(struct cursor *c, struct gguf_file *out, serverd_error *err)
{
    void *keys;
    serverd_status status = take_memory(c, out->n_keys, sizeof *out->keys, &keys, err);
    if (status != SERVERD_OK)
        return status;
    out->keys = keys;
    for (uint32_t i = 0; i < out->n_keys; i++)
        if ((status = take_key(c, &out->keys[i], err)) != SERVERD_OK)
            return status;
    qsort(out->keys, out->n_keys, sizeof *out->keys, compare_keys);
    for (uint32_t i = 1; i < out->n_keys; i++)
        if (strcmp(out->keys[i - 1].name, out->keys[i].name) == 0)
            return fail(err, SERVERD_CORRUPT, "%s: key %.200s is there twice", out->path,
                        out->keys[i].name);
    return SERVERD_OK;
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

int gguf_compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct gguf_tensor *)a)->name, ((const struct gguf_tensor *)b)->name);
}

static serverd_status place_tensors(const struct cursor *c, struct gguf_file *out,
                                    serverd_error *err)
{
    uint32_t alignment = DEFAULT_ALIGNMENT;
    serverd_status status = gguf_get_u32(out, "general.alignment", MIN_ALIGNMENT,
                                         LIMIT_GGUF_ALIGNMENT, &alignment, err);
    if (status != SERVERD_OK)
        return status;
    if ((alignment & (alignment - 1)) != 0)
        return fail(err, SERVERD_CORRUPT, "%s: key general.alignment: %u, a power of two is needed",
                    out->path, alignment);
    uint64_t data_begin = (c->offset + alignment - 1) / alignment * alignment;
    if (out->n_tensors > 0 && data_begin > c->file->bytes)
        return fail(err, SERVERD_CORRUPT,
                    "%s: the tensor data begin at %" PRIu64 ", the file has %" PRIu64 " bytes",
                    out->path, data_begin, c->file->bytes);
    for (uint32_t i = 0; i < out->n_tensors; i++) {
        struct gguf_tensor *tensor = &out->tensors[i];
        if ((status = size_of_tensor(c, tensor, err)) != SERVERD_OK ||
            (status = place_tensor(c, tensor, data_begin, alignment, err)) != SERVERD_OK)
            return error_context(err, "%s: tensor %.200s", out->path, tensor->name);
    }
    qsort(out->tensors, out->n_tensors, sizeof *out->tensors, compare_offsets);
    for (uint32_t i = 1; i < out->n_tensors; i++) {
        const struct gguf_tensor *a = &out->tensors[i - 1], *b = &out->tensors[i];
        if (a->offset + a->bytes > b->offset)
            return fail(err, SERVERD_CORRUPT, "%s: tensors %.100s and %.100s overlap", out->path,
                        a->name, b->name);
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
    if ((status = place_tensors(c, out, err)) != SERVERD_OK)
        return status;
    qsort(out->tensors, out->n_tensors, sizeof *out->tensors, gguf_compare_tensors);
    for (uint32_t i = 1; i < out->n_tensors; i++)
        if (strcmp(out->tensors[i - 1].name, out->tensors[i].name) == 0)
            return fail(err, SERVERD_CORRUPT, "%s: tensor %.200s is there twice", out->path,
                        out->tensors[i].name);
    return SERVERD_OK;
}

/* ---- the whole header ---------------------------------------------------------------------- */

static serverd_status check_version(const struct gguf_file *file, serverd_error *err)
{
    if (file->version != 0 && (file->version & 0xffffu) == 0)
        return fail(err, SERVERD_UNSUPPORTED, "%s: a big-endian file, little-endian is needed",
                    file->path);
    if (file->version < 2 || file->version > 3)
        return fail(err, SERVERD_VERSION, "%s: GGUF version %u, 2 and 3 are supported", file->path,
                    file->version);
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
                    c->out->path, n, what, limit, bytes_left(c));
    *out = (uint32_t)n;
    return SERVERD_OK;
}

serverd_status gguf_read(const char *path, const struct file *file, struct arena *arena,
                         struct gguf_file *out, serverd_error *err)
{
    struct gguf_file made = {.path = path};
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
        (status = take_count(&c, "keys", LIMIT_GGUF_KEYS, MIN_KEY_BYTES, &made.n_keys, err)) !=
            SERVERD_OK ||
        (status = take_keys(&c, &made, err)) != SERVERD_OK ||
        (status = take_tensors(&c, &made, err)) != SERVERD_OK)
        goto out;
    *out = made;
out:
    free(c.window);
    return status;
}

/* ---- typed access -------------------------------------------------------------------------- */

const struct gguf_key *gguf_find(const struct gguf_file *file, const char *name)
{
    struct gguf_key wanted = {.name = name};
    return bsearch(&wanted, file->keys, file->n_keys, sizeof *file->keys, compare_keys);
}

serverd_status gguf_need(const struct gguf_file *file, const char *name, serverd_error *err)
{
    if (!gguf_find(file, name))
        return fail(err, SERVERD_CORRUPT, "%s: key %s is missing", file->path, name);
    return SERVERD_OK;
}

static serverd_status fail_type(const struct gguf_file *file, const struct gguf_key *key,
                                const char *needed, serverd_error *err)
{
    return fail(err, SERVERD_CORRUPT, "%s: key %s: found %s%s, needed is %s", file->path, key->name,
                key->is_array ? "an array of " : "", gguf_type_name(key->type), needed);
}

/* Sign-extends an integer; false for the other types and u64 beyond i64. */
bool gguf_item_i64(const struct gguf_key *key, uint64_t i, int64_t *out)
{
    const unsigned char *p = key->items;
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    switch (key->type) {
    case GGUF_U8:
    case GGUF_I8:
        u8 = p[i];
        *out = key->type == GGUF_I8 ? (int8_t)u8 : u8;
        return true;
    case GGUF_U16:
    case GGUF_I16:
        memcpy(&u16, p + i * sizeof u16, sizeof u16);
        *out = key->type == GGUF_I16 ? (int16_t)u16 : u16;
        return true;
    case GGUF_U32:
    case GGUF_I32:
        memcpy(&u32, p + i * sizeof u32, sizeof u32);
        *out = key->type == GGUF_I32 ? (int32_t)u32 : (int64_t)u32;
        return true;
    case GGUF_U64:
    case GGUF_I64:
        memcpy(&u64, p + i * sizeof u64, sizeof u64);
        *out = (int64_t)u64;
        return key->type == GGUF_I64 || u64 <= INT64_MAX;
    default:
        return false;
    }
}

/* NaN if it is no number. */
double gguf_item_f64(const struct gguf_key *key, uint64_t i)
{
    const unsigned char *p = key->items;
    if (key->type == GGUF_F32) {
        float x;
        memcpy(&x, p + i * sizeof x, sizeof x);
        return (double)x;
    }
    if (key->type == GGUF_F64) {
        double x;
        memcpy(&x, p + i * sizeof x, sizeof x);
        return x;
    }
    int64_t x;
    return gguf_item_i64(key, i, &x) ? (double)x : __builtin_nan("");
}

static serverd_status item_u64(const struct gguf_file *file, const struct gguf_key *key, uint64_t i,
                               uint64_t min, uint64_t max, uint64_t *out, serverd_error *err)
{
    int64_t x = 0;
    if (key->type == GGUF_U64)
        memcpy(&x, (const unsigned char *)key->items + i * sizeof x, sizeof x);
    else if (!gguf_item_i64(key, i, &x))
        return fail_type(file, key, "an integer", err);
    if (x < 0 && key->type != GGUF_U64)
        return fail(err, SERVERD_CORRUPT,
                    "%s: key %s: %" PRId64 ", %" PRIu64 "..%" PRIu64 " is allowed", file->path,
                    key->name, x, min, max);
    if ((uint64_t)x < min || (uint64_t)x > max)
        return fail(err, SERVERD_CORRUPT,
                    "%s: key %s: %" PRIu64 ", %" PRIu64 "..%" PRIu64 " is allowed", file->path,
                    key->name, (uint64_t)x, min, max);
    *out = (uint64_t)x;
    return SERVERD_OK;
}

serverd_status gguf_get_u64(const struct gguf_file *file, const char *name, uint64_t min,
                            uint64_t max, uint64_t *out, serverd_error *err)
{
    const struct gguf_key *key = gguf_find(file, name);
    if (!key)
        return SERVERD_OK;
    if (key->is_array)
        return fail_type(file, key, "an integer", err);
    return item_u64(file, key, 0, min, max, out, err);
}

serverd_status gguf_get_u32(const struct gguf_file *file, const char *name, uint32_t min,
                            uint32_t max, uint32_t *out, serverd_error *err)
{
    uint64_t x = *out;
    serverd_status status = gguf_get_u64(file, name, min, max, &x, err);
    if (status == SERVERD_OK)
        *out = (uint32_t)x;
    return status;
}

serverd_status gguf_get_u32_each(const struct gguf_file *file, const char *name, uint32_t n,
                                 uint32_t min, uint32_t max, uint32_t *out, serverd_error *err)
{
    const struct gguf_key *key = gguf_find(file, name);
    if (!key)
        return SERVERD_OK;
    if (key->is_array && key->n_items < n)
        return fail(err, SERVERD_CORRUPT, "%s: key %s: %" PRIu64 " items, %u are needed",
                    file->path, name, key->n_items, n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t x = 0;
        serverd_status status = item_u64(file, key, key->is_array ? i : 0, min, max, &x, err);
        if (status != SERVERD_OK)
            return status;
        out[i] = (uint32_t)x;
    }
    return SERVERD_OK;
}

serverd_status gguf_get_f64(const struct gguf_file *file, const char *name, double min, double max,
                            double *out, serverd_error *err)
{
    const struct gguf_key *key = gguf_find(file, name);
    if (!key)
        return SERVERD_OK;
    if (key->is_array || key->type == GGUF_STRING || key->type == GGUF_BOOL)
        return fail_type(file, key, "a number", err);
    double x = gguf_item_f64(key, 0);
    if (!(x >= min && x <= max)) /* also NaN */
        return fail(err, SERVERD_CORRUPT, "%s: key %s: %g, %g..%g is allowed", file->path, name, x,
                    min, max);
    *out = x;
    return SERVERD_OK;
}

serverd_status gguf_get_bool(const struct gguf_file *file, const char *name, bool *out,
                             serverd_error *err)
{
    const struct gguf_key *key = gguf_find(file, name);
    if (!key)
        return SERVERD_OK;
    if (key->is_array || key->type != GGUF_BOOL)
        return fail_type(file, key, "a bool", err);
    *out = *(const unsigned char *)key->items != 0;
    return SERVERD_OK;
}

serverd_status gguf_get_string(const struct gguf_file *file, const char *name,
                               struct gguf_string *out, serverd_error *err)
{
    const struct gguf_key *key = gguf_find(file, name);
    if (!key)
        return SERVERD_OK;
    if (key->is_array || key->type != GGUF_STRING)
        return fail_type(file, key, "a string", err);
    *out = *(const struct gguf_string *)key->items;
    return SERVERD_OK;
}

serverd_status gguf_get_array(const struct gguf_file *file, const char *name, enum gguf_type type,
                              const struct gguf_key **out, serverd_error *err)
{
    const struct gguf_key *key = gguf_find(file, name);
    if (key && (!key->is_array || key->type != type)) {
        fail(err, SERVERD_CORRUPT, "%s: key %s: found %s%s, needed is an array of %s", file->path,
             name, key->is_array ? "an array of " : "", gguf_type_name(key->type),
             gguf_type_name(type));
        return err->code;
    }
    *out = key;
    return SERVERD_OK;
}
