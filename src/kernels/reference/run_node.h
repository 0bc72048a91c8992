/* The canonical operations in exact float32, one node at a time, over plain arrays: what every
 * other back-end is measured against, and what calibration runs.
 *
 * Elements are rounded to f32 once, where a node writes them; sums are f32 in 16 fixed lanes over
 * at most 1,024 elements and double beyond (matmul.h), everything else is double. So a row's result
 * depends on neither other rows nor threads nor the processor's instruction set. Weights of any
 * type with a conversion (program/dtype.h) are read where they stand, bit by bit. */
#ifndef KERNELS_REFERENCE_RUN_NODE_H
#define KERNELS_REFERENCE_RUN_NODE_H

#include "serverd/delegate.h"

struct reference_step {
    const serverd_graph *graph; /* checked (program/graph.h) */
    const serverd_host *host;   /* its parallel_for spreads the work */
    /* Rows of a sequence are adjacent with ascending positions, indexes in range; the page tables
     * are read only with a store. */
    const serverd_batch *batch;
    /* [graph->n_tensors] the CPU back-end's forms (kernels/cpu/packed.h) of the matrices that have
     * no data of their own; NULL: all have. */
    const void *const *packed;
    uint32_t max_context; /* chooses between the tables of a rope */
    /* [graph->n_values]: of an activation its rows, [rows of the step][columns] f32, at least for
     * the values that the nodes to be run read and write; constants are not looked at. Two values
     * may share memory where their lifetimes do not meet. */
    float *const *values;
    const struct reference_adapters *adapters; /* adapter.c; NULL: none, whatever the batch says */
    /* The store where causal attention keeps keys and values. NULL: it sees the rows of this step
     * alone, whose sequences must then begin at position 0. */
    serverd_kv *kv;
};

/* Computes the output of one node from its inputs. Allocates nothing, cannot fail. */
void reference_run_node(const struct reference_step *step, uint32_t node);

/* Rows of this step that a value has: SERVERD_DIM_*. */
size_t reference_rows(const serverd_batch *batch, int64_t kind);

#endif
