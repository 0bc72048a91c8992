/* The running process: one libuv loop for signals and timers; the server, which answers while a
 * thread of its own loads models. */
#ifndef TOOLS_DAEMON_H
#define TOOLS_DAEMON_H

#include "base/options.h"

enum { EXIT_GOOD = 0, EXIT_BAD_MODEL = 1, EXIT_BAD_OPTION = 2 };

/* Runs until a signal ends it; returns the exit code. Errors go to standard error. */
int daemon_run(const struct options *options);

#endif
