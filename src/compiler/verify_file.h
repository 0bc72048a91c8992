/* Everything about a program file that opening it leaves out, because it takes the time to read it
 * all: hashes and gaps (sdp_file_verify), weights that are no numbers, what the model answers
 * (self_test.h). One caller at a time. */
#ifndef COMPILER_VERIFY_FILE_H
#define COMPILER_VERIFY_FILE_H

#include "compiler/self_test.h"

struct verify_options {
    struct self_test_options test; /* path and pool are for all checks */
    bool wants_test;
    void (*progress)(void *context, double share); /* may be NULL */
    void *progress_context;
};

/* SERVERD_CORRUPT names section, field or tensor; SERVERD_NUMERIC: it answers something else. */
serverd_status verify_file(const struct verify_options *options, struct self_test_result *out,
                           serverd_error *err);

/* Every matrix has finite numbers alone (vectors are checked whenever a program is opened).
 * SERVERD_CORRUPT names tensor and row. */
serverd_status verify_weights(const struct program *program, struct worker_pool *pool,
                              serverd_error *err);

#endif
