/* serverd-compile: models into program files, and what is done to these. */
#include "tools/compile/commands.h"

#include <malloc.h>

enum { EXIT_USAGE = 1, EXIT_BAD_INPUT = 2, EXIT_UNSUPPORTED = 3, EXIT_SELF_TEST = 4, EXIT_IO = 5 };

static int exit_code(serverd_status status)
{
    switch (status) {
    case SERVERD_CORRUPT:
        return EXIT_BAD_INPUT;
    case SERVERD_UNSUPPORTED:
    case SERVERD_VERSION:
        return EXIT_UNSUPPORTED;
    case SERVERD_INTERNAL:
    case SERVERD_NUMERIC:
        return EXIT_SELF_TEST;
    default:
        return EXIT_IO;
    }
}

static const struct command *const commands[] = {&compile_diff, &compile_verify};

static const struct tool tool = {.name = "serverd-compile",
                                 .summary = "Compiles models into program files (.sdp).",
                                 .commands = commands,
                                 .n_commands = sizeof commands / sizeof *commands,
                                 .otherwise = &compile_command,
                                 .usage_code = EXIT_USAGE,
                                 .exit_code = exit_code};

int main(int argc, char **argv)
{
    /* large pieces go back to the system when they are freed, however many there were */
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 20);
    return tool_main(&tool, argc, argv);
}
