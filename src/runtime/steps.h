/* A step over the partitions of a model, one after the other. Values that pass from one to another
 * lie in buffers of the host, which are reused where their lives do not meet; the output of the
 * graph goes straight to the caller. */
#ifndef RUNTIME_STEPS_H
#define RUNTIME_STEPS_H

#include "runtime/instances.h"

struct step_part {
    struct instance *instance;
    serverd_handle *handle; /* loaded by whoever made the steps; NULL: not yet */
    const serverd_partition *view;
    float **values;  /* [view->n_inputs + view->n_outputs] where they lie */
    uint32_t result; /* which of them is the graph's output; UINT32_MAX: none */
};

struct steps {
    struct step_part *parts; /* [n_parts], one for each partition */
    uint32_t n_parts;
    float **values; /* of all parts */
    char *block;    /* the buffers */
    size_t n_bytes; /* of the block */
};

/* Buffers for the most rows that the limits allow. On failure, too, *steps is to be destroyed. */
serverd_status steps_create(struct steps *steps, const struct placement *placement,
                            struct instances *instances, const serverd_limits *limits,
                            serverd_error *err);
/* What the buffers take; false: more than there can be. */
bool steps_buffer_bytes(const struct placement *placement, const serverd_limits *limits,
                        size_t *out);
void steps_destroy(struct steps *steps); /* unloads the handles */

serverd_status steps_run(const struct steps *steps, const serverd_batch *batch, float *out,
                         serverd_error *err);
/* One of its parts; those before it have run. */
serverd_status steps_run_part(const struct steps *steps, uint32_t index, const serverd_batch *batch,
                              float *out, serverd_error *err);

/* Whether the last part makes the logits, by a delegate that draws tokens. */
bool steps_draw(const struct steps *steps);
serverd_status steps_read_logits(const struct steps *steps, uint32_t logit_row, float *out,
                                 serverd_error *err);

#endif
