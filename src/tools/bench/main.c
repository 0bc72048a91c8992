/* serverd-bench: chooses the sub-command. */
#include "tools/bench/commands.h"

#include <signal.h>

static const struct command *const commands[] = {
    &bench_model,    &bench_kernels,   &bench_serve,     &bench_compare,
    &bench_simulate, &bench_scheduler, &bench_trace_cost};

static const struct tool tool = {.name = "serverd-bench",
                                 .summary =
                                     "Measures serverd: its models, its kernels, its server.",
                                 .commands = commands,
                                 .n_commands = sizeof commands / sizeof *commands,
                                 .usage_code = 2};

int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN); /* a server that leaves is an error of its request */
    return tool_main(&tool, argc, argv);
}
