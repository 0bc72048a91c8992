/* serverd-run: generation programs from a command line. */
#include "tools/run_program/run_command.h"

#include <signal.h>

static const struct tool tool = {.name = "serverd-run",
                                 .summary = "Runs generation programs on a server.",
                                 .otherwise = &run_command,
                                 .usage_code = 2,
                                 .exit_code = run_exit_code};

int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN); /* a tool that does not read is fine */
    return tool_main(&tool, argc, argv);
}
