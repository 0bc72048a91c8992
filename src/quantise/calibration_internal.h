/* Where calibration.c gets its sequences. */
#ifndef QUANTISE_CALIBRATION_INTERNAL_H
#define QUANTISE_CALIBRATION_INTERNAL_H

#include "quantise/calibration.h"

/* Collects sequences until both kinds are full. */
struct calibration_builder {
    const struct calibration_options *options;
    struct calibration *out;
    uint32_t n_seen; /* sequences, whatever became of them */
};

bool calibration_is_full(const struct calibration_builder *builder);
/* Cut to the longest length; what is left of a long one is the next one. */
serverd_status calibration_add(struct calibration_builder *builder, const int32_t *ids, uint32_t n,
                               serverd_error *err);

/* self_text.c: sequences sampled from the model at temperature 1, seed 0. */
serverd_status add_self_text(struct program *program, struct worker_pool *pool,
                             struct calibration_builder *builder, serverd_error *err);

#endif
