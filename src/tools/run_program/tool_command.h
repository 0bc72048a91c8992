/* A tool of a program, run as a command of the shell: the call's arguments are JSON on its standard
 * input, its standard output is the tool's output. */
#ifndef TOOLS_RUN_PROGRAM_TOOL_COMMAND_H
#define TOOLS_RUN_PROGRAM_TOOL_COMMAND_H

#include "base/limits.h"
#include "serverd/status.h"

#include <jansson.h>

#define TOOL_OUTPUT_LIMIT (16 * MIB)

/* The command of tool `name` among "NAME=COMMAND"s, NULL if it has none. */
const char *tool_command_find(const char *const *pairs, size_t n, const char *name);

/* Runs it to its end, or until `stop_fd` (-1: none) is readable; then it gets SIGTERM and the
 * status is SERVERD_TIMEOUT. Output that is JSON is that value, other output a string without the
 * newline at its end. SERVERD_INVALID: the command failed, the text says how; that is the tool's
 * error. Its standard error is ours. The caller's process ignores SIGPIPE. */
serverd_status tool_command_run(const char *command, const json_t *arguments, int stop_fd,
                                json_t **out, serverd_error *err);

#endif
