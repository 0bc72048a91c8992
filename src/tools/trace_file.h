/* The file of --trace: the engine's first steps (scheduler/inspect.h) with every operation. The
 * trace comes as an event of the engine, among those for the server; it is written by the thread
 * that owns the file. */
#ifndef TOOLS_TRACE_FILE_H
#define TOOLS_TRACE_FILE_H

#include "base/log.h"
#include "scheduler/engine.h"

struct trace_file;

/* `path` outlives the file, as does what `next` needs. */
serverd_status trace_file_create(const char *path, struct event_sink next, struct trace_file **out,
                                 serverd_error *err);
void trace_file_destroy(struct trace_file *file); /* NULL is fine */

/* For the engine: takes the trace, and hands all other events on. */
struct event_sink trace_file_sink(struct trace_file *file);

/* Begins to record. The model's name outlives the file. */
serverd_status trace_file_start(struct trace_file *file, struct engine *engine, const char *model,
                                uint32_t n_steps, serverd_error *err);

/* Writes the file if the trace has come; false: it has not, yet. The engine's model is still open.
 * Errors are logged. */
bool trace_file_write(struct trace_file *file, struct log *log);

#endif
