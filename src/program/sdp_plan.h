/* The section PLAN of a program file (sdp_format.h). */
#ifndef PROGRAM_SDP_PLAN_H
#define PROGRAM_SDP_PLAN_H

#include "program/program.h"
#include "program/sdp_file.h"

/* Fills program->plans, in its arena and in place. The plan is replayed on the program's graph,
 * which has been checked: no two live buffers overlap, none leaves its arena, each has room for its
 * value, and every value is written before it is read and lives until then. No section: no plans.
 * Errors name record, field and reason. */
serverd_status sdp_plan_load(const struct sdp_file *file, struct program *program,
                             serverd_error *err);

/* The replay. A value without a buffer lies in the host's memory, or one node hands it to another.
 */
serverd_status plan_check(const struct program_plan *plan, const serverd_graph *graph,
                          serverd_error *err);

/* Rows of a value's kind at most; bytes of a buffer, rounded to 64. */
uint64_t plan_rows(const serverd_limits *limits, const serverd_value *value);
uint64_t plan_buffer_bytes(const serverd_limits *limits, const serverd_graph *graph,
                           const serverd_buffer *buffer);
/* All buffers, if each had a place of its own. */
uint64_t plan_naive_bytes(const struct program_plan *plan, const serverd_graph *graph);

#endif
