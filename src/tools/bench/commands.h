/* The sub-commands of serverd-bench. */
#ifndef TOOLS_BENCH_COMMANDS_H
#define TOOLS_BENCH_COMMANDS_H

#include "tools/bench/options.h"

extern const struct bench_command bench_model;

/* Where the default model lies if --model-path is not given; false: it is not there. */
bool bench_default_model(char *out, size_t n);

#endif
