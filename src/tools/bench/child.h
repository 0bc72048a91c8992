/* A server that the tool starts and stops: a command line that is split as a shell would, without
 * a shell, so that the process is the server itself. */
#ifndef TOOLS_BENCH_CHILD_H
#define TOOLS_BENCH_CHILD_H

#include "serverd/status.h"

#include <stdbool.h>
#include <sys/types.h>

#define CHILD_MAX_WORDS 256u

struct child {
    pid_t pid; /* 0: none */
    int exit_status;
};

/* Words of `command`: blanks split, '...' and "..." and \ quote. Words in front that read
 * NAME=VALUE are variables of its environment. The output is appended to `log_path`, or dropped if
 * NULL. The child gets SIGTERM when this process dies. */
serverd_status child_start(struct child *child, const char *command, const char *log_path,
                           serverd_error *err);

bool child_is_running(struct child *child);

/* SIGTERM; after `seconds` SIGKILL; only ever this child. Waits for its end. */
void child_stop(struct child *child, double seconds);

/* The words of a command, NULL-terminated, in one piece of memory: free() it. */
serverd_status child_split(const char *command, char ***words, serverd_error *err);

#endif
