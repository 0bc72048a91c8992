#include "support/synthetic_program.h"

#include "base/limits.h"
#include "compiler/compile.h"
#include "support/synthetic_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

struct memory_file memory_file_create(void)
{
    struct memory_file file = {.fd = memfd_create("model", MFD_CLOEXEC)};
    if (file.fd < 0)
        abort();
    (void)snprintf(file.path, sizeof file.path, "/proc/self/fd/%d", file.fd);
    return file;
}

void memory_file_write(const struct memory_file *file, const void *bytes, size_t n)
{
    if (ftruncate(file->fd, 0) != 0 || pwrite(file->fd, bytes, n, 0) != (ssize_t)n)
        abort();
}

void memory_file_close(struct memory_file *file)
{
    (void)close(file->fd);
    file->fd = -1;
}

serverd_status compile_bytes(const void *bytes, size_t n, struct program **out, serverd_error *err)
{
    struct memory_file file = memory_file_create();
    memory_file_write(&file, bytes, n);
    serverd_status status = compile_model(&(struct compile_options){.path = file.path}, out, err);
    memory_file_close(&file);
    return status;
}

struct program *synthetic_shard(const char *arch, const char *dtype, struct shard shard)
{
    struct program *program = synthetic_program(arch, dtype);
    serverd_error err;
    if (shard_program(program, shard, &err) || program_check(program, &err))
        fail_msg("%s %s: %s", arch, dtype, err.text);
    return program;
}

struct program *synthetic_program(const char *arch, const char *dtype)
{
    struct buffer bytes;
    struct program *program = NULL;
    serverd_error err;
    buffer_init(&bytes, 32 * MIB);
    if (synthetic_model(arch, dtype, &bytes, &err) ||
        compile_bytes(bytes.data, bytes.len, &program, &err))
        fail_msg("%s %s: %s", arch, dtype, err.text);
    buffer_deinit(&bytes);
    return program;
}
