/* The section TEST of a program file: what the model is known to answer (sdp_format.h). Views into
 * the mapped file, as long as it is open. */
#ifndef PROGRAM_SDP_TEST_H
#define PROGRAM_SDP_TEST_H

#include "base/limits.h"
#include "program/program.h"
#include "program/sdp_file.h"

struct sdp_case {
    uint32_t n_tokens, n_greedy, n_positions, n_values;
    const uint64_t *checksum; /* [sdp_case_rows] */
    const int32_t *token, *greedy;
    const uint32_t *position;
    const int32_t *top; /* [n_positions][n_top] */
    const float *log_p; /* [n_positions][n_top] */
    const float *value; /* [n_values], of an encoder */
};

/* Rows of output: logits at each position, or one for all of an encoder's text. */
static inline uint32_t sdp_case_rows(const struct sdp_case *c)
{
    return c->n_positions > 0 ? c->n_positions : 1;
}

struct sdp_tests {
    uint32_t n_cases; /* 0: the file has none */
    uint32_t n_top, contract;
    serverd_dtype kv_dtype;
    double kl_limit, cosine_limit;
    struct sdp_case cases[LIMIT_TEST_CASES];
};

/* Checked: sizes, ids, positions, and that numbers are finite. `program` is what is in the file. A
 * file without the section has no cases. Errors name case, field and reason. */
serverd_status sdp_tests_read(const struct sdp_file *file, const struct program *program,
                              struct sdp_tests *out, serverd_error *err);

#endif
