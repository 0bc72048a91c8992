/* The running process: one libuv loop for signals, timers and the engine's wake-ups; the server;
 * the model, which a job loads while the server already answers. */
#ifndef TOOLS_DAEMON_H
#define TOOLS_DAEMON_H

#include "base/options.h"

enum { EXIT_GOOD = 0, EXIT_BAD_MODEL = 1, EXIT_BAD_OPTION = 2 };

/* Runs until a signal ends it; returns the exit code. Errors go to standard error. */
int daemon_run(const struct options *options);

#endif
