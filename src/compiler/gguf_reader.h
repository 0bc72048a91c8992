/* One GGUF file: its header as tables of keys and tensors, for gguf_model.c.
 *
 * The file is hostile. Nothing that it states is believed before it is checked: every count and
 * length is held against the bytes that are left and against base/limits.h before memory is
 * taken, types, shapes, alignment and places of tensors are checked here, names of keys are unique.
 * Header bytes are read with pread into copies, so a file that shrinks meanwhile is an error.
 * Versions 2 and 3, little-endian. Single-threaded while reading; the tables are plain data.
 *
 * Layout: magic, version, n_tensors, n_keys | keys | tensor records | padding | tensor data. */
#ifndef COMPILER_GGUF_READER_H
#define COMPILER_GGUF_READER_H

#include "compiler/source.h"

struct gguf_tensor {
    const char *name;
    uint32_t dtype, rank;
    uint64_t dims[SERVERD_MAX_DIMS]; /* outermost first: the reverse of the file's order */
    uint64_t offset, bytes;          /* offset from the start of the file */
};

struct gguf_file {
    struct source_keys keys;
    uint32_t version, n_tensors;
    struct gguf_tensor *tensors; /* by offset */
};

/* Reads the header of `file`; everything lies in `arena`. */
serverd_status gguf_read(const char *path, const struct file *file, struct arena *arena,
                         struct gguf_file *out, serverd_error *err);

#endif
