/* serverd-inspect: what is in a program file, or in anything that compiles into one. */
#include "tools/inspect/commands.h"

static const struct command *const commands[] = {&inspect_trace};

static const struct tool tool = {
    .name = "serverd-inspect",
    .summary = "Looks into program files (.sdp) and into what they are made from.",
    .commands = commands,
    .n_commands = sizeof commands / sizeof *commands,
    .otherwise = &inspect_command,
    .usage_code = 1};

int main(int argc, char **argv)
{
    return tool_main(&tool, argc, argv);
}
