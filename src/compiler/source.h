/* What a model's files state, whatever their format: hyper-parameters as keys and weights as
 * tensors, both by the canonical names, which are those of GGUF. Filled by gguf_model.c or
 * import_hf.c; read by arch.c, blocks.c and rope_table.c. Single-threaded, plain data.
 *
 * Nothing here has been believed without a check: types, sizes and places of tensors are right
 * and names are unique; what the values mean is for the reader to check. */
#ifndef COMPILER_SOURCE_H
#define COMPILER_SOURCE_H

#include "base/arena.h"
#include "base/file.h"
#include "serverd/delegate.h"

#include <stdbool.h>
#include <stdint.h>

enum source_type { /* the numbers are those of GGUF files */
                   SOURCE_U8 = 0,
                   SOURCE_I8,
                   SOURCE_U16,
                   SOURCE_I16,
                   SOURCE_U32,
                   SOURCE_I32,
                   SOURCE_F32,
                   SOURCE_BOOL,
                   SOURCE_STRING,
                   SOURCE_ARRAY,
                   SOURCE_U64,
                   SOURCE_I64,
                   SOURCE_F64
};

/* Any bytes, NUL-terminated (the NUL does not count). */
struct source_string {
    const char *bytes;
    uint32_t len;
};

struct source_key {
    const char *name; /* not empty, without NUL */
    uint32_t type;    /* enum source_type; of the items if it is an array */
    bool is_array;
    uint64_t n_items;  /* 1 of a scalar */
    const void *items; /* packed little-endian numbers; of strings: struct source_string[n_items] */
};

struct source_keys {
    const char *path; /* the caller's; names the file in every error */
    uint32_t n_keys;
    struct source_key *keys; /* by name */
};

struct source_tensor {
    const char *name;
    uint32_t dtype, rank;
    uint64_t dims[SERVERD_MAX_DIMS]; /* outermost first */
    const void *data;                /* in a mapping, or in the arena of the program */
    uint64_t bytes;
    bool is_used; /* by the graph, see arch.c */
};

struct source {
    struct arena *arena; /* of the tables; ends with the source */
    struct source_keys keys;
    uint32_t n_tensors;
    struct source_tensor *tensors; /* by name */
    uint32_t n_mappings;
    struct mapping *mappings; /* what the tensors point into, in the arena */
    /* The rows of Q and K stand as rope on halves needs them, also in architectures whose GGUF
     * files have them permuted for rope on neighbours. */
    bool rotates_halves;
};

/* The mappings end with the source unless they are taken over by setting n_mappings to 0. */
void source_close(struct source *source); /* a zeroed one is fine */

/* Puts the tensors in order; a name that is there twice is SERVERD_CORRUPT. */
serverd_status source_sort_tensors(struct source *source, serverd_error *err);
struct source_tensor *source_find(const struct source *source, const char *name); /* NULL: none */

/* ---- keys ---------------------------------------------------------------------------------- */

/* Puts the keys in order; a name that is there twice is SERVERD_CORRUPT. */
serverd_status source_sort_keys(struct source_keys *keys, serverd_error *err);
const struct source_key *source_find_key(const struct source_keys *keys, const char *name);
serverd_status source_need(const struct source_keys *keys, const char *name, serverd_error *err);
const char *source_type_name(uint32_t type);

/* Typed access. A key that is not there leaves *out as it is, so the caller presets the default;
 * one of another type or out of range is SERVERD_CORRUPT with file, key, found and allowed. Any
 * integer type serves as an integer, any number as a float (finite). */
serverd_status source_get_u64(const struct source_keys *keys, const char *name, uint64_t min,
                              uint64_t max, uint64_t *out, serverd_error *err);
serverd_status source_get_u32(const struct source_keys *keys, const char *name, uint32_t min,
                              uint32_t max, uint32_t *out, serverd_error *err);
serverd_status source_get_f64(const struct source_keys *keys, const char *name, double min,
                              double max, double *out, serverd_error *err);
serverd_status source_get_bool(const struct source_keys *keys, const char *name, bool *out,
                               serverd_error *err);
serverd_status source_get_string(const struct source_keys *keys, const char *name,
                                 struct source_string *out, serverd_error *err);

/* A scalar for all, or an array of at least n items: out[0..n-1]. */
serverd_status source_get_u32_each(const struct source_keys *keys, const char *name, uint32_t n,
                                   uint32_t min, uint32_t max, uint32_t *out, serverd_error *err);

/* An array of that item type, NULL in *out if it is not there. */
serverd_status source_get_array(const struct source_keys *keys, const char *name,
                                enum source_type type, const struct source_key **out,
                                serverd_error *err);

/* Item i of an array or scalar of numbers; false if its type is no integer, or negative. */
bool source_item_i64(const struct source_key *key, uint64_t i, int64_t *out);
double source_item_f64(const struct source_key *key, uint64_t i);

#endif
