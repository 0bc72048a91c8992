/* The arguments of a run from a command line and files. Pure but for reading files. */
#ifndef TOOLS_RUN_PROGRAM_ARGUMENTS_H
#define TOOLS_RUN_PROGRAM_ARGUMENTS_H

#include "base/limits.h"
#include "serverd/status.h"
#include "tools/command.h"

#include <jansson.h>

#define RUN_ARGUMENTS_LIMIT (64 * MIB) /* bytes of a file */

/* Adds "NAME=TEXT" or "NAME=@FILE" to the object `args`, read as the program declares NAME:
 * `schema` is its args_schema. A string is taken as it is (of a file: without the newline at its
 * end), everything else is JSON. SERVERD_INVALID: no such argument, with the nearest; not of that
 * form; given before. */
serverd_status argument_add(json_t *args, const char *pair, const json_t *schema,
                            serverd_error *err);

/* The object in a file; "-" is standard input. */
serverd_status arguments_read(const char *path, json_t **out, serverd_error *err);

/* The items of a batch: each line of the file is an object {"args": {...}} with "seed" and "id" if
 * wanted, or the arguments themselves. Empty lines are skipped. SERVERD_INVALID names the line. */
serverd_status arguments_read_batch(const char *path, json_t **items, serverd_error *err);

#endif
