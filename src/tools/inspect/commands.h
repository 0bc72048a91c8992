/* What serverd-inspect does. */
#ifndef TOOLS_INSPECT_COMMANDS_H
#define TOOLS_INSPECT_COMMANDS_H

#include "tools/command.h"

extern const struct command inspect_command; /* if no other is named */

extern const struct command inspect_trace;

#endif
