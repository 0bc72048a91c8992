/* Two sequences on an opened runtime, in steps of one's choice: for tests that compare the bits of
 * a sequence alone, in chunks and beside another one. Functions fail the test that runs if a step
 * does. */
#ifndef TESTS_SUPPORT_SEQUENCES_H
#define TESTS_SUPPORT_SEQUENCES_H

#include "runtime/runtime.h"

enum {
    N_SEQUENCES = 2,
    SEQUENCE_CONTEXT = 64, /* tokens that each has pages for */
    SEQUENCE_ROWS = 37 * N_SEQUENCES
};

/* Limits that suffice. */
serverd_limits sequences_limits(void);

/* One step with the tokens begin[s] .. end[s] - 1 of each sequence that has any; the logits of all
 * rows, one after the other. Tokens mean nothing, and are always the same. */
void sequences_step(struct runtime *runtime, const struct program *program, const uint32_t *begin,
                    const uint32_t *end, float *out);

/* Tokens 0 .. n_tokens - 1 of one sequence in steps of `chunk`. */
void sequences_alone(struct runtime *runtime, const struct program *program, uint32_t sequence,
                     uint32_t n_tokens, uint32_t chunk, float *out);

/* Room for the logits of SEQUENCE_ROWS; free() it. */
float *sequences_rows(const struct runtime *runtime);

/* Fails unless both sequences have the same bits in chunks and beside each other as alone, in one
 * step, where they are alone[s] [n_tokens][width]. */
void sequences_check_bits(struct runtime *runtime, const struct program *program, float *alone[],
                          uint32_t n_tokens);

/* Mean divergence of the logits b from a, of n_rows. */
double sequences_divergence(const float *a, const float *b, uint32_t n_rows, size_t width);

#endif
