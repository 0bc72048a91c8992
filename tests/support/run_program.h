/* Runs a program over some tokens and gives its results: for tests that compare two programs. */
#ifndef TESTS_SUPPORT_RUN_PROGRAM_H
#define TESTS_SUPPORT_RUN_PROGRAM_H

#include "program/program.h"

/* Logits of all n tokens, [n][n_vocab], or one embedding [n_embd] of an encoder; free() it.
 * `device` as in runtime_options. Fails the test that runs if anything does. */
float *run_program(struct program *program, const char *device, const int32_t *tokens, uint32_t n);

/* Floats that run_program gives. */
size_t run_program_floats(const struct program *program, uint32_t n);

#endif
