/* Steps that come again with the same shape are one call: all launches of a step of few rows depend
 * on the shape alone, what differs lies in arrays on the device. So the second step of a shape is
 * recorded, and later ones run the record. One thread. */
#ifndef KERNELS_CUDA_GRAPHS_H
#define KERNELS_CUDA_GRAPHS_H

#include "kernels/cuda/kernels.h"

/* Everything that launches depend on; compared as bytes, so there are none between its members. */
struct step_shape {
    const void *kv; /* the store */
    uint32_t n_rows, n_seqs, n_logit_rows;
    uint32_t n_keys; /* rounded up: attention's launches depend on whole segments */
    uint32_t has_draws, reserved;
};

/* Shapes that are known at once; the one that was not met for longest goes. */
#define MAX_SHAPES 96u

struct graphs {
    struct known_shape {
        struct step_shape shape;
        struct gpu_graph *graph; /* NULL: met once */
        uint64_t met;            /* when last, in steps; 0: none */
    } known[MAX_SHAPES];
    uint64_t n_steps;
};

/* Runs `launch`, which launches a step of that shape, or its record. */
void graphs_run(struct graphs *graphs, struct gpu *gpu, const struct step_shape *shape,
                void (*launch)(void *context), void *context);
void graphs_free(struct graphs *graphs, struct gpu *gpu);

#endif
