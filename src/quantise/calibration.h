/* The tokens that a model is calibrated and judged on. */
#ifndef QUANTISE_CALIBRATION_H
#define QUANTISE_CALIBRATION_H

#include "quantise/forward.h"

struct calibration_options {
    /* A file of one JSON object a line, {"text": ".."}, {"messages": [..]} or
     * {"prompt_token_ids": [..]}; or "self": text that the model itself makes. */
    const char *source;
    uint32_t n_sequences, sequence_tokens; /* to calibrate on, at most; of a sequence, at most */
    uint32_t n_held_out_tokens;            /* to judge on, about */
};

struct calibration {
    struct token_sequences used, held_out;
};

/* Every fifth sequence is held out. SERVERD_INVALID names file and line. */
serverd_status calibration_create(struct program *program,
                                  const struct calibration_options *options,
                                  struct worker_pool *pool, struct calibration *out,
                                  serverd_error *err);
void calibration_destroy(struct calibration *calibration);

#endif
