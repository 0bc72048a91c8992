#include "support/program_file.h"

#include "compiler/sdp_write.h"
#include "compiler/self_test.h"
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

struct making {
    const struct program *source;
    struct worker_pool *pool;
};

static serverd_status make_tests(void *context, const char *path, struct buffer *out,
                                 serverd_error *err)
{
    const struct making *making = context;
    const struct self_test_options options = {
        .path = path, .device = "cpu", .rows = 512, .pool = making->pool};
    return self_test_make(making->source, &options, out, err);
}

static serverd_status write_with(const struct program *program, struct making *making,
                                 const serverd_delegate *const *others, uint32_t n_others,
                                 const char *path, uint32_t n_threads, serverd_error *err)
{
    serverd_status status = worker_pool_create(n_threads, &making->pool, err);
    if (status != SERVERD_OK)
        return status;
    const struct sdp_write_options options = {
        .path = path,
        .delegate = builtin_delegate("cpu"),
        .others = others,
        .n_others = n_others,
        .pool = making->pool,
        .limits = {.max_rows = 64, .max_logit_rows = 64, .max_seqs = 8, .max_context = 8192},
        .meta = "{}",
        .debug = "{}",
        .make_tests = make_tests,
        .tests_context = making};
    status = sdp_write(program, &options, err);
    worker_pool_destroy(making->pool);
    return status;
}

serverd_status program_file_write(const struct program *program, const struct program *source,
                                  const char *path, uint32_t n_threads, serverd_error *err)
{
    struct making making = {.source = source};
    return write_with(program, &making, NULL, 0, path, n_threads, err);
}

serverd_status program_file_write_for(const struct program *program, const serverd_delegate *other,
                                      const char *path, serverd_error *err)
{
    struct making making = {.source = program};
    return write_with(program, &making, &other, 1, path, 1, err);
}

struct program_file program_file_create(const char *arch, const char *dtype)
{
    struct program_file file = {.folder = "/tmp/serverd-program-XXXXXX"};
    struct program *program = synthetic_program(arch, dtype);
    serverd_error err;
    assert_non_null(mkdtemp(file.folder));
    (void)snprintf(file.path, sizeof file.path, "%s/model.sdp", file.folder);
    if (program_file_write(program, program, file.path, 1, &err) != SERVERD_OK)
        fail_msg("%s", err.text);
    program_unref(program);
    return file;
}

void program_file_remove(const struct program_file *file)
{
    (void)unlink(file->path);
    (void)rmdir(file->folder);
}
