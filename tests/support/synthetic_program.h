/* Files in memory, and programs compiled from them. */
#ifndef TESTS_SUPPORT_SYNTHETIC_PROGRAM_H
#define TESTS_SUPPORT_SYNTHETIC_PROGRAM_H

#include "compiler/shard.h"
#include "program/program.h"

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

/* A synthetic model (synthetic_model.h), compiled; unref'd by the caller. Fails the test that runs
 * if it cannot be made. */
struct program *synthetic_program(const char *arch, const char *dtype);

/* A rank's shard of it. */
struct program *synthetic_shard(const char *arch, const char *dtype, struct shard shard);

#endif
