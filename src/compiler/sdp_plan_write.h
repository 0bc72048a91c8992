/* The section PLAN of a program file. */
#ifndef COMPILER_SDP_PLAN_WRITE_H
#define COMPILER_SDP_PLAN_WRITE_H

#include "base/buffer.h"
#include "program/program.h"

/* Appends how `delegate` places the values of the whole graph for these limits. *n_partitions 0:
 * nothing was appended, since it does not run all of the graph, or does not tell. */
serverd_status sdp_put_plan(const struct program *program, const serverd_delegate *delegate,
                            const serverd_limits *limits, struct buffer *out,
                            uint32_t *n_partitions, serverd_error *err);

#endif
