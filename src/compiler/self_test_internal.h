/* The parts of self_test.h. */
#ifndef COMPILER_SELF_TEST_INTERNAL_H
#define COMPILER_SELF_TEST_INTERNAL_H

#include "compiler/self_test.h"
#include "program/sdp_test.h"
#include "quantise/forward.h"

/* The CPU back-end and its sdp_target.contract: the bits are the same on every processor. */
#define SELF_TEST_DELEGATE "cpu"
#define SELF_TEST_CONTRACT 2u

/* What a program answered. */
struct answers {
    uint32_t width; /* of a row: logits, or an encoder's output */
    uint32_t n_cases;
    bool is_packed;                    /* all of it is SELF_TEST_DELEGATE's work */
    float *rows[LIMIT_TEST_CASES];     /* [n_positions][width], of an encoder [1][width] */
    int32_t *greedy[LIMIT_TEST_CASES]; /* [n_greedy] */
};
void answers_free(struct answers *answers);

/* self_test_cases.c: token, n_greedy and position of each case; to be freed with cases_free. */
struct case_memory {
    int32_t *token;
    uint32_t *position;
};
serverd_status cases_create(const struct program *program, struct sdp_tests *out,
                            struct case_memory *memory, serverd_error *err);
void cases_free(struct case_memory *memory);

/* self_test_answer.c: what the program answers to the cases on the device of `options`. */
serverd_status answer_cases(struct program *program, const struct sdp_tests *tests,
                            const struct self_test_options *options, struct answers *out,
                            serverd_error *err);
/* The same in exact f32 (quantise/forward.h), without what comes next. */
serverd_status answer_exactly(const struct program *program, const struct sdp_tests *tests,
                              struct worker_pool *pool, struct answers *out, serverd_error *err);

#endif
