/* A model, compiled into a program file. */
#ifndef COMPILER_COMPILE_FILE_H
#define COMPILER_COMPILE_FILE_H

#include "compiler/compile.h"
#include "quantise/quantise.h"
#include "runtime/worker_pool.h"
#include "serverd/delegate.h"

/* Raised when the same source and options give other bytes than before. */
#define COMPILER_VERSION 1u

/* What memory is planned for, unless the options say something else. A process with limits up to
 * these uses the plan, with higher ones it makes its own (runtime/stored_plan.h). */
#define COMPILE_MAX_ROWS       2048u
#define COMPILE_MAX_LOGIT_ROWS 256u
#define COMPILE_MAX_SEQS       256u

struct compile_file_options {
    struct compile_options source;
    const char *out;                       /* the program file */
    const serverd_delegate *delegate;      /* whose forms of the weights go in */
    const serverd_delegate *const *others; /* [n_others] and theirs */
    uint32_t n_others;
    struct worker_pool *pool;
    const char *quantise;    /* quantise/policy.h; NULL: weights are kept */
    const char *calibration; /* quantise/calibration.h; NULL: none */
    double target_bits;      /* quantise/quantise.h; 0: no target */
    uint64_t target_bytes;
    const char *report;         /* an HTML page about the quantising is written there; NULL: none */
    const uint8_t *source_hash; /* [32] if it is known; NULL: it is made */
    serverd_limits limits;      /* 0: COMPILE_MAX_*; max_context 0: the model's */
    bool wants_tests;           /* the file gets a section TEST (self_test.h) */
    bool wants_verify;          /* the written file is read again and checked, and its tests run */
    void (*progress)(void *context, double share); /* may be NULL */
    void *progress_context;
};

/* Imports, packs, writes and checks. Errors: SERVERD_INVALID: a file cannot be read or written;
 * SERVERD_CORRUPT, SERVERD_UNSUPPORTED, SERVERD_VERSION: of the source; SERVERD_INTERNAL: what was
 * written is not what was meant;
 * SERVERD_NUMERIC: it does not answer as it should. */
serverd_status compile_file(const struct compile_file_options *options, serverd_error *err);

/* What the output depends on beside the source's bytes. */
void compile_options_hash(const struct compile_file_options *options, uint8_t out[32]);

#endif
