/* The smallest whole llama model, a few KiB, and files made of bytes in memory. A test leaves a
 * key or tensor out and puts its own in its place. */
#ifndef TESTS_COMPILER_TINY_MODEL_H
#define TESTS_COMPILER_TINY_MODEL_H

#include "gguf_writer.h"

#include "program/program.h"

/* One layer, 8 wide, 4 tokens; the key or tensor called `or_null` is left out. */
void tiny_model_write(struct gguf_writer *w, const char *or_null);

/* F32 zeros; rows 0: a vector. */
void tiny_put_tensor(struct gguf_writer *w, const char *name, uint64_t rows, uint64_t columns);

/* A file in memory; its path is valid until it is closed. */
struct memory_file {
    int fd;
    char path[64];
};
struct memory_file memory_file_create(void);
void memory_file_write(const struct memory_file *file, const void *bytes, size_t n);
void memory_file_close(struct memory_file *file);

/* compile_model of these bytes; *out is unref'd by the caller. */
serverd_status compile_bytes(const void *bytes, size_t n, struct program **out, serverd_error *err);

/* What the writer holds, compiled; ends the writer. The program is not kept. */
serverd_status compile_writer(struct gguf_writer *w, serverd_error *err);

#endif
