/* What a program file is known to answer, and whether it still does.
 *
 * Cases are some English text, cut to 8, 40 and 300 tokens. For each the file keeps, at some
 * positions, the likeliest next tokens in exact f32 on the source's own weights; and of the packed
 * weights on the CPU back-end, whose bits are the same everywhere, a checksum of the logits and
 * what comes next (program/sdp_test.h). So weights that were packed wrongly, damaged or changed
 * since show, and so does a back-end that computes something else.
 *
 * One caller at a time: all work is spread over the pool. */
#ifndef COMPILER_SELF_TEST_H
#define COMPILER_SELF_TEST_H

#include "base/buffer.h"
#include "program/program.h"
#include "runtime/worker_pool.h"

#include <stdbool.h>

struct self_test_options {
    const char *path;   /* the program file */
    const char *device; /* "cpu", or "cpu:isa=generic" (runtime/placement.h) */
    uint32_t rows;      /* tokens of a step at most; an encoder's text is never cut */
    struct worker_pool *pool;
};

/* What was found at worst. */
struct self_test_result {
    uint32_t n_cases; /* 0: the file has no tests */
    bool is_encoder;
    double kl;     /* of decoders, nats: mean of a case */
    double cosine; /* of encoders */
};

/* Appends the section TEST of a program file that has none yet. The bytes depend on the model
 * alone. SERVERD_NUMERIC: the file's answers are too far from exact ones; the text says where. */
serverd_status self_test_make(const struct program *source, const struct self_test_options *options,
                              struct buffer *out, serverd_error *err);

/* SERVERD_NUMERIC: an answer differs; the text names case, position and what it is. Other errors
 * are of the file, or of memory. */
serverd_status self_test_run(const struct self_test_options *options, struct self_test_result *out,
                             serverd_error *err);

#endif
