/* A program that is run one node at a time, so that every value between nodes can be seen, whatever
 * delegate runs it: each node is a partition of its own. For one sequence in one step. One thread.
 */
#ifndef TOOLS_COMPILE_DIFF_PROBE_H
#define TOOLS_COMPILE_DIFF_PROBE_H

#include "runtime/instances.h"
#include "runtime/packing.h"
#include "tools/inspect/subject.h"

struct probe {
    const struct subject *subject;
    struct instances instances;
    struct packed_weights
        packed[LIMIT_DEVICES]; /* of each instance; of one delegate, the first's */
    serverd_limits limits;
    /* the step; arrays of limits.max_rows */
    serverd_batch batch;
    int32_t *token, *position;
    uint32_t *zero, *page, *logit_row;
};

/* Rows of all values of a program, f32; those that are not there are NULL. */
struct probe_values {
    const serverd_graph *graph;
    float **rows; /* [graph->n_values] */
};

/* The subject is placed and outlives the probe. Keys and values are stored as f32, so that it is
 * weights and arithmetic that are compared. On failure, too, *probe is to be closed. */
serverd_status probe_open(struct probe *probe, const struct subject *subject, uint32_t max_tokens,
                          uint32_t max_logit_rows, serverd_error *err);
void probe_close(struct probe *probe); /* a zeroed one is fine */

/* A new sequence; logits are wanted of the rows logit_row[0..n-1], ascending. */
void probe_begin(struct probe *probe, const int32_t *token, uint32_t n, const uint32_t *logit_row,
                 uint32_t n_logit_rows);

/* Runs a node: reads its inputs from `in`, and writes its output into `out`, where memory is taken
 * for it unless it is there. Nodes come in their order: attention keeps its keys. */
serverd_status probe_run(struct probe *probe, uint32_t node, const struct probe_values *in,
                         struct probe_values *out, serverd_error *err);

/* Numbers of an activation in this step. */
size_t probe_floats(const struct probe *probe, uint32_t value);

serverd_status probe_values_init(struct probe_values *values, const serverd_graph *graph,
                                 serverd_error *err);
void probe_values_drop(struct probe_values *values, uint32_t value);
void probe_values_deinit(struct probe_values *values); /* a zeroed one is fine */

#endif
