/* A program as a program file (program/sdp_format.h). */
#ifndef COMPILER_SDP_WRITE_H
#define COMPILER_SDP_WRITE_H

#include "base/buffer.h"
#include "program/program.h"
#include "runtime/worker_pool.h"

struct sdp_write_options {
    const char *path;
    /* Whose forms of the weights go in; it need not have a device here. */
    const serverd_delegate *delegate;
    const serverd_delegate *const *others; /* [n_others] whose forms go in, too */
    uint32_t n_others;
    struct worker_pool *pool;
    const uint8_t *source_hash, *options_hash; /* [32], NULL: zeros */
    serverd_limits limits; /* that the section PLAN is made for; max_rows 0: it is left out */
    const char *meta, *report, *debug; /* JSON; NULL: the section is left out */
    /* Appends the section TEST; called once the file is whole but for it, at `path`. NULL: the
     * section is left out. */
    serverd_status (*make_tests)(void *context, const char *path, struct buffer *out,
                                 serverd_error *err);
    void *tests_context;
    void (*progress)(void *context, double share); /* may be NULL */
    void *progress_context;
};

/* Writes the file under a temporary name, then renames it. The bytes depend on program, hashes and
 * texts alone, not on time, path or threads. Tensors' source pages are let go of on the way
 * (program_forget_tensor). */
serverd_status sdp_write(const struct program *program, const struct sdp_write_options *options,
                         serverd_error *err);

#endif
