/* The sub-commands of serverd-bench. */
#ifndef TOOLS_BENCH_COMMANDS_H
#define TOOLS_BENCH_COMMANDS_H

#include "tools/command.h"

extern const struct command bench_model, bench_serve, bench_compare, bench_kernels, bench_simulate,
    bench_scheduler, bench_trace_cost;

#endif
