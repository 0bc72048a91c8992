#include "support/program_file.h"

#include "compiler/sdp_write.h"
#include "kernels/builtin.h"
#include "support/synthetic_program.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

struct program_file program_file_create(const char *arch, const char *dtype)
{
    struct program_file file = {.folder = "/tmp/serverd-program-XXXXXX"};
    struct program *program = synthetic_program(arch, dtype);
    struct worker_pool *pool;
    serverd_error err;
    assert_non_null(mkdtemp(file.folder));
    (void)snprintf(file.path, sizeof file.path, "%s/model.sdp", file.folder);
    assert_int_equal(worker_pool_create(1, &pool, &err), SERVERD_OK);
    const struct sdp_write_options options = {
        .path = file.path, .delegate = builtin_delegate("cpu"), .pool = pool, .meta = "{}"};
    if (sdp_write(program, &options, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    worker_pool_destroy(pool);
    program_unref(program);
    return file;
}

void program_file_remove(const struct program_file *file)
{
    (void)unlink(file->path);
    (void)rmdir(file->folder);
}
