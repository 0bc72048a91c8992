/* From a program to one whose weights take less room.
 *
 * Without calibration each tensor is fitted alone. With it the model runs in exact float32 over
 * some text (forward.h), stops before each set of linear layers that read one input, quantises them
 * on what they read, which comes from the layers that are quantised already, and goes on. At the
 * end source and result are run side by side on text that was held out (evaluate.h).
 * docs/internals/quantise.md explains the methods. */
#ifndef QUANTISE_QUANTISE_H
#define QUANTISE_QUANTISE_H

#include "quantise/calibration.h"
#include "quantise/report.h"

struct quantise_options {
    const char *policy;      /* policy.h */
    const char *calibration; /* calibration.h; NULL: none */
    /* 0: the defaults, 32 sequences of 256 tokens, 2048 tokens held out */
    uint32_t n_sequences, sequence_tokens, n_held_out_tokens;
    /* Bits for each weight, or bytes of all matrices, that are to be met by choosing formats tensor
     * by tensor (mixed.h); 0: formats are the policy's. */
    double target_bits;
    uint64_t target_bytes;
    struct worker_pool *pool;
    void (*progress)(void *context, double share, const char *what); /* may be NULL */
    void *progress_context;
};

/* Changes a program that nobody shares yet: its tensors' types and data, and with awq some norm
 * weights. Tensors must have data. Peak memory: the new tensors, the largest layer in f32 and its
 * activations. On failure the program is of no use any more. SERVERD_INVALID: policy, calibration.
 * The report is the caller's to destroy, on success only. */
serverd_status quantise_program(struct program *program, const struct quantise_options *options,
                                struct quantise_report *report, serverd_error *err);

#endif
