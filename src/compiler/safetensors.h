/* One safetensors file: its header as a table of tensors, for hf_weights.c.
 *
 *     u64 n | JSON header of n bytes {name: {dtype, shape, data_offsets}, "__metadata__"} | data
 *
 * The file is hostile: the header's length is held against the file and LIMIT_SAFETENSORS_HEADER
 * before memory is taken; names are unique, types known, sizes are the product of the shape, and
 * the tensors fill the data without gap or overlap up to the file's end. Data may lie at any
 * address. Single-threaded while reading; the table is plain data. */
#ifndef COMPILER_SAFETENSORS_H
#define COMPILER_SAFETENSORS_H

#include "base/arena.h"
#include "base/file.h"

#include <stdint.h>

enum { SAFETENSORS_MAX_DIMS = 8 };

struct safetensor {
    const char *name;
    const char *dtype; /* as in the file: "F32", "BF16"; one of the known ones */
    uint32_t rank;     /* 0: one element */
    uint64_t dims[SAFETENSORS_MAX_DIMS];
    uint64_t offset, bytes; /* offset from the start of the file */
};

struct safetensors {
    const char *path; /* the caller's */
    uint32_t n_tensors;
    struct safetensor *tensors; /* by offset */
};

/* Reads the header of `file`; everything lies in `arena`. */
serverd_status safetensors_read(const char *path, const struct file *file, struct arena *arena,
                                struct safetensors *out, serverd_error *err);

#endif
