/* A recorded trace (scheduler/inspect.h) in the trace-event form that Perfetto and chrome://tracing
 * read, an event a line; docs/internals/debugging.md says what is in it. */
#ifndef SERVER_TRACE_JSON_H
#define SERVER_TRACE_JSON_H

#include "base/buffer.h"
#include "scheduler/inspect.h"

/* The inspection is one of steps, and the model is still loaded. Any thread. */
void trace_json_write(const struct inspection *inspection, const char *model, struct buffer *out);

#endif
