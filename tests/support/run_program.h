/* Runs a program over some tokens and gives its results: for tests that compare two programs. */
#ifndef TESTS_SUPPORT_RUN_PROGRAM_H
#define TESTS_SUPPORT_RUN_PROGRAM_H

#include "runtime/runtime.h"

/* Logits of all n tokens, [n][n_vocab], or one embedding [n_embd] of an encoder; free() it.
 * `device` as in runtime_options. Fails the test that runs if anything does. */
float *run_program(struct program *program, const char *device, const int32_t *tokens, uint32_t n);

/* One step over all of them, as one sequence with pages 0, 1, ...; logits as above. At most 512. */
serverd_status run_one_sequence(struct runtime *runtime, const struct program *program,
                                const int32_t *tokens, uint32_t n, float *out, serverd_error *err);

/* Ids that mean nothing, always the same ones. */
void run_random_tokens(const struct program *program, int32_t *out, uint32_t n);

/* Floats that run_program gives. */
size_t run_program_floats(const struct program *program, uint32_t n);

#endif
