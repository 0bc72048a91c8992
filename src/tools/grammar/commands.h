/* The sub-commands of serverd-grammar, and what they share. */
#ifndef TOOLS_GRAMMAR_COMMANDS_H
#define TOOLS_GRAMMAR_COMMANDS_H

#include "grammar/grammar.h"
#include "tools/command.h"
#include "tools/grammar/mask_times.h"

extern const struct command grammar_check;

/* Status of a command whose instances were not all accepted; every other failure is of the schema
 * or of the command line. */
#define GRAMMAR_REJECTED SERVERD_CORRUPT

/* Checks many schemas in one process. Each line of the file is "schema JSON" or "instance JSON"
 * (an instance of the last schema) or "sample SEED" (a text that it produces, which has to be asked
 * for); each answer is a line too: "ok MICROSECONDS", "refused CODE: TEXT", "accepted", "rejected
 * OFFSET", "text TEXT", "failed TEXT", "none" (the schema was refused). With `times`, an instance
 * is gone over token by token, and the answer is "tokens N of N" or "failed TEXT". */
serverd_status grammar_batch(const char *path, const struct grammar_options *options,
                             struct mask_times *times, serverd_error *err);

#endif
