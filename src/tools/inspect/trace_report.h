/* What a recording says: for each kind of operation, layer, device and node its time, work and
 * speed. */
#ifndef TOOLS_INSPECT_TRACE_REPORT_H
#define TOOLS_INSPECT_TRACE_REPORT_H

#include "base/buffer.h"
#include "program/program.h"
#include "tools/bench/calibrate.h"
#include "tools/inspect/recording.h"

struct trace_report_options {
    const struct recording *recording;
    const serverd_graph *graph;
    struct machine_limits limits; /* 0: unknown */
    uint32_t n_nodes;             /* the slowest ones, with their weights */
};

/* As Markdown tables, or one JSON object. A recording of another graph is refused. */
serverd_status trace_report(const struct trace_report_options *options, bool is_json,
                            struct buffer *out, serverd_error *err);

#endif
