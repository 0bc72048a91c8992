/* One GGUF file: its header as tables of keys and tensors, for import_gguf.c and gguf_model.c.
 *
 * The file is hostile. Nothing that it states is believed before it is checked: every count and
 * length is held against the bytes that are left and against base/limits.h before memory is
 * taken, types, shapes, alignment and places of tensors are checked here, names are unique.
 * Header bytes are read with pread into copies, so a file that shrinks meanwhile is an error.
 * Versions 2 and 3, little-endian. Single-threaded while reading; the tables are plain data.
 *
 * Layout: magic, version, n_tensors, n_keys | keys | tensor records | padding | tensor data. */
#ifndef COMPILER_GGUF_READER_H
#define COMPILER_GGUF_READER_H

#include "base/arena.h"
#include "base/file.h"
#include "serverd/delegate.h"

#include <stdbool.h>
#include <stdint.h>

enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

/* Any bytes, NUL-terminated (the NUL does not count). */
struct gguf_string {
    const char *bytes;
    uint32_t len;
};

struct gguf_key {
    const char *name; /* not empty, without NUL */
    uint32_t type;    /* enum gguf_type; of the items if it is an array */
    bool is_array;
    uint64_t n_items;  /* 1 of a scalar */
    const void *items; /* packed little-endian numbers; of strings: struct gguf_string[n_items] */
};

struct gguf_tensor {
    const char *name;
    uint32_t dtype, rank;
    uint64_t dims[SERVERD_MAX_DIMS]; /* outermost first: the reverse of the file's order */
    uint64_t offset, bytes;          /* offset from the start of the file */
    uint32_t shard;                  /* filled in by gguf_model.c */
    bool is_used;                    /* by the graph, see arch.c */
};

struct gguf_file {
    const char *path; /* the caller's; names the file in every error */
    uint32_t version;
    uint32_t n_keys, n_tensors;
    struct gguf_key *keys;       /* by name */
    struct gguf_tensor *tensors; /* by name */
};

/* Reads the header of `file`; everything lies in `arena`. */
serverd_status gguf_read(const char *path, const struct file *file, struct arena *arena,
                         struct gguf_file *out, serverd_error *err);

/* NULL if there is none. */
const struct gguf_key *gguf_find(const struct gguf_file *file, const char *name);
int gguf_compare_tensors(const void *a, const void *b); /* by name, for qsort */

const char *gguf_type_name(uint32_t type);

/* Typed access. A key that is not there leaves *out as it is, so the caller presets the default;
 * one of another type or out of range is SERVERD_CORRUPT with file, key, found and allowed. Any
 * integer type serves as an integer, any number as a float (finite). */
serverd_status gguf_get_u64(const struct gguf_file *file, const char *name, uint64_t min,
                            uint64_t max, uint64_t *out, serverd_error *err);
serverd_status gguf_get_u32(const struct gguf_file *file, const char *name, uint32_t min,
                            uint32_t max, uint32_t *out, serverd_error *err);
serverd_status gguf_get_f64(const struct gguf_file *file, const char *name, double min, double max,
                            double *out, serverd_error *err);
serverd_status gguf_get_bool(const struct gguf_file *file, const char *name, bool *out,
                             serverd_error *err);
serverd_status gguf_get_string(const struct gguf_file *file, const char *name,
                               struct gguf_string *out, serverd_error *err);

/* A scalar for all, or an array of at least n items: out[0..n-1]. */
serverd_status gguf_get_u32_each(const struct gguf_file *file, const char *name, uint32_t n,
                                 uint32_t min, uint32_t max, uint32_t *out, serverd_error *err);

/* An array of that item type, NULL in *out if it is not there. */
serverd_status gguf_get_array(const struct gguf_file *file, const char *name, enum gguf_type type,
                              const struct gguf_key **out, serverd_error *err);

serverd_status gguf_need(const struct gguf_file *file, const char *name, serverd_error *err);

/* Item i of an array or scalar of numbers; false if its type is no integer, or negative. */
bool gguf_item_i64(const struct gguf_key *key, uint64_t i, int64_t *out);
double gguf_item_f64(const struct gguf_key *key, uint64_t i);

#endif
