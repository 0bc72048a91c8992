/* The sub-commands of serverd-compile. */
#ifndef TOOLS_COMPILE_COMMANDS_H
#define TOOLS_COMPILE_COMMANDS_H

#include "tools/command.h"

extern const struct command compile_command, compile_diff, compile_verify;

#endif
