/* serverd-run: runs a generation program of a file, or one that the server knows by name, on a
 * server; its external tools are commands here. */
#ifndef TOOLS_RUN_PROGRAM_RUN_COMMAND_H
#define TOOLS_RUN_PROGRAM_RUN_COMMAND_H

#include "tools/command.h"

extern const struct command run_command;

/* 0; 1: the program failed; 2: usage or arguments; 3: no server, or none that has room; 130:
 * interrupted. */
int run_exit_code(serverd_status status);

#endif
