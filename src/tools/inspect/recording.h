/* A trace's file (server/trace_json.h), read for its operations. It is read line by line, as
 * serverd writes it: an event a line. */
#ifndef TOOLS_INSPECT_RECORDING_H
#define TOOLS_INSPECT_RECORDING_H

#include "base/limits.h"
#include "runtime/trace.h"

struct recorded_op {
    uint32_t step, worker, first_node, n_nodes, device;
    float us;
};

struct recording {
    char model[128];
    uint32_t n_workers, n_nodes; /* nodes: of the graph that ran */
    uint64_t n_lost;
    struct trace_step *steps; /* [n_steps] ascending; times from the beginning of the trace */
    uint32_t n_steps;
    struct recorded_op *ops; /* [n_ops] their steps are there */
    uint32_t n_ops;
    char devices[LIMIT_DEVICES][72];
    uint32_t n_devices;
};

/* SERVERD_CORRUPT names the line; SERVERD_UNSUPPORTED: a trace without operations. On failure, too,
 * *out is to be freed. */
serverd_status recording_read(const char *path, struct recording *out, serverd_error *err);
void recording_free(struct recording *recording); /* zeros are fine */

#endif
