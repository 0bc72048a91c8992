#include "compiler/source.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- tensors ------------------------------------------------------------------------------- */

void source_close(struct source *source)
{
    for (uint32_t i = 0; i < source->n_mappings; i++)
        mapping_close(&source->mappings[i]);
    arena_destroy(source->arena);
    *source = (struct source){0};
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct source_tensor *)a)->name, ((const struct source_tensor *)b)->name);
}

serverd_status source_sort_tensors(struct source *source, serverd_error *err)
{
    if (source->n_tensors == 0)
        return SERVERD_OK;
    qsort(source->tensors, source->n_tensors, sizeof *source->tensors, compare_tensors);
    for (uint32_t i = 1; i < source->n_tensors; i++)
        if (strcmp(source->tensors[i - 1].name, source->tensors[i].name) == 0)
            return fail(err, SERVERD_CORRUPT, "%s: tensor %.200s is there twice", source->keys.path,
                        source->tensors[i].name);
    return SERVERD_OK;
}

struct source_tensor *source_find(const struct source *source, const char *name)
{
    struct source_tensor wanted = {.name = name};
    if (source->n_tensors == 0)
        return NULL;
    return bsearch(&wanted, source->tensors, source->n_tensors, sizeof *source->tensors,
                   compare_tensors);
}

/* ---- keys ---------------------------------------------------------------------------------- */

static int compare_keys(const void *a, const void *b)
{
    return strcmp(((const struct source_key *)a)->name, ((const struct source_key *)b)->name);
}

serverd_status source_sort_keys(struct source_keys *keys, serverd_error *err)
{
    if (keys->n_keys == 0)
        return SERVERD_OK;
    qsort(keys->keys, keys->n_keys, sizeof *keys->keys, compare_keys);
    for (uint32_t i = 1; i < keys->n_keys; i++)
        if (strcmp(keys->keys[i - 1].name, keys->keys[i].name) == 0)
            return fail(err, SERVERD_CORRUPT, "%s: key %.200s is there twice", keys->path,
                        keys->keys[i].name);
    return SERVERD_OK;
}

const char *source_type_name(uint32_t type)
{
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return type < sizeof names / sizeof names[0] ? names[type] : "unknown";
}

const struct source_key *source_find_key(const struct source_keys *keys, const char *name)
{
    struct source_key wanted = {.name = name};
    if (keys->n_keys == 0)
        return NULL;
    return bsearch(&wanted, keys->keys, keys->n_keys, sizeof *keys->keys, compare_keys);
}

serverd_status source_need(const struct source_keys *keys, const char *name, serverd_error *err)
{
    if (!source_find_key(keys, name))
        return fail(err, SERVERD_CORRUPT, "%s: key %s is missing", keys->path, name);
    return SERVERD_OK;
}

static serverd_status fail_type(const struct source_keys *keys, const struct source_key *key,
                                const char *needed, serverd_error *err)
{
    return fail(err, SERVERD_CORRUPT, "%s: key %s: found %s%s, needed is %s", keys->path, key->name,
                key->is_array ? "an array of " : "", source_type_name(key->type), needed);
}

/* Sign-extends an integer; false for the other types and u64 beyond i64. */
bool source_item_i64(const struct source_key *key, uint64_t i, int64_t *out)
{
    const unsigned char *p = key->items;
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    switch (key->type) {
    case SOURCE_U8:
    case SOURCE_I8:
        u8 = p[i];
        *out = key->type == SOURCE_I8 ? (int8_t)u8 : u8;
        return true;
    case SOURCE_U16:
    case SOURCE_I16:
        memcpy(&u16, p + i * sizeof u16, sizeof u16);
        *out = key->type == SOURCE_I16 ? (int16_t)u16 : u16;
        return true;
    case SOURCE_U32:
    case SOURCE_I32:
        memcpy(&u32, p + i * sizeof u32, sizeof u32);
        *out = key->type == SOURCE_I32 ? (int32_t)u32 : (int64_t)u32;
        return true;
    case SOURCE_U64:
    case SOURCE_I64:
        memcpy(&u64, p + i * sizeof u64, sizeof u64);
        *out = (int64_t)u64;
        return key->type == SOURCE_I64 || u64 <= INT64_MAX;
    default:
        return false;
    }
}

/* NaN if it is no number. */
double source_item_f64(const struct source_key *key, uint64_t i)
{
    const unsigned char *p = key->items;
    if (key->type == SOURCE_F32) {
        float x;
        memcpy(&x, p + i * sizeof x, sizeof x);
        return (double)x;
    }
    if (key->type == SOURCE_F64) {
        double x;
        memcpy(&x, p + i * sizeof x, sizeof x);
        return x;
    }
    int64_t x;
    return source_item_i64(key, i, &x) ? (double)x : __builtin_nan("");
}

static serverd_status item_u64(const struct source_keys *keys, const struct source_key *key,
                               uint64_t i, uint64_t min, uint64_t max, uint64_t *out,
                               serverd_error *err)
{
    int64_t x = 0;
    if (key->type == SOURCE_U64)
        memcpy(&x, (const unsigned char *)key->items + i * sizeof x, sizeof x);
    else if (!source_item_i64(key, i, &x))
        return fail_type(keys, key, "an integer", err);
    if (x < 0 && key->type != SOURCE_U64)
        return fail(err, SERVERD_CORRUPT,
                    "%s: key %s: %" PRId64 ", %" PRIu64 "..%" PRIu64 " is allowed", keys->path,
                    key->name, x, min, max);
    if ((uint64_t)x < min || (uint64_t)x > max)
        return fail(err, SERVERD_CORRUPT,
                    "%s: key %s: %" PRIu64 ", %" PRIu64 "..%" PRIu64 " is allowed", keys->path,
                    key->name, (uint64_t)x, min, max);
    *out = (uint64_t)x;
    return SERVERD_OK;
}

serverd_status source_get_u64(const struct source_keys *keys, const char *name, uint64_t min,
                              uint64_t max, uint64_t *out, serverd_error *err)
{
    const struct source_key *key = source_find_key(keys, name);
    if (!key)
        return SERVERD_OK;
    if (key->is_array)
        return fail_type(keys, key, "an integer", err);
    return item_u64(keys, key, 0, min, max, out, err);
}

serverd_status source_get_u32(const struct source_keys *keys, const char *name, uint32_t min,
                              uint32_t max, uint32_t *out, serverd_error *err)
{
    uint64_t x = *out;
    serverd_status status = source_get_u64(keys, name, min, max, &x, err);
    if (status == SERVERD_OK)
        *out = (uint32_t)x;
    return status;
}

serverd_status source_get_u32_each(const struct source_keys *keys, const char *name, uint32_t n,
                                   uint32_t min, uint32_t max, uint32_t *out, serverd_error *err)
{
    const struct source_key *key = source_find_key(keys, name);
    if (!key)
        return SERVERD_OK;
    if (key->is_array && key->n_items < n)
        return fail(err, SERVERD_CORRUPT, "%s: key %s: %" PRIu64 " items, %u are needed",
                    keys->path, name, key->n_items, n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t x = 0;
        serverd_status status = item_u64(keys, key, key->is_array ? i : 0, min, max, &x, err);
        if (status != SERVERD_OK)
            return status;
        out[i] = (uint32_t)x;
    }
    return SERVERD_OK;
}

serverd_status source_get_f64(const struct source_keys *keys, const char *name, double min,
                              double max, double *out, serverd_error *err)
{
    const struct source_key *key = source_find_key(keys, name);
    if (!key)
        return SERVERD_OK;
    if (key->is_array || key->type == SOURCE_STRING || key->type == SOURCE_BOOL)
        return fail_type(keys, key, "a number", err);
    double x = source_item_f64(key, 0);
    if (!(x >= min && x <= max)) /* also NaN */
        return fail(err, SERVERD_CORRUPT, "%s: key %s: %g, %g..%g is allowed", keys->path, name, x,
                    min, max);
    *out = x;
    return SERVERD_OK;
}

serverd_status source_get_bool(const struct source_keys *keys, const char *name, bool *out,
                               serverd_error *err)
{
    const struct source_key *key = source_find_key(keys, name);
    if (!key)
        return SERVERD_OK;
    if (key->is_array || key->type != SOURCE_BOOL)
        return fail_type(keys, key, "a bool", err);
    *out = *(const unsigned char *)key->items != 0;
    return SERVERD_OK;
}

serverd_status source_get_string(const struct source_keys *keys, const char *name,
                                 struct source_string *out, serverd_error *err)
{
    const struct source_key *key = source_find_key(keys, name);
    if (!key)
        return SERVERD_OK;
    if (key->is_array || key->type != SOURCE_STRING)
        return fail_type(keys, key, "a string", err);
    *out = *(const struct source_string *)key->items;
    return SERVERD_OK;
}

serverd_status source_get_array(const struct source_keys *keys, const char *name,
                                enum source_type type, const struct source_key **out,
                                serverd_error *err)
{
    const struct source_key *key = source_find_key(keys, name);
    if (key && (!key->is_array || key->type != type)) {
        fail(err, SERVERD_CORRUPT, "%s: key %s: found %s%s, needed is an array of %s", keys->path,
             name, key->is_array ? "an array of " : "", source_type_name(key->type),
             source_type_name(type));
        return err->code;
    }
    *out = key;
    return SERVERD_OK;
}
