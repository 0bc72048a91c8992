/* The configuration file: a flat YAML mapping of option names to scalars, read at start by main.
 *
 *     # comments are fine
 *     ctx-size: 4096
 *     kv-memory: 2GiB
 *
 * Refused, each with file and line: unknown and repeated keys, values out of range, nested
 * values, anchors, aliases, tags, a second document, files larger than LIMIT_CONFIG_BYTES. */
#ifndef TOOLS_CONFIG_FILE_H
#define TOOLS_CONFIG_FILE_H

#include "base/options.h"

/* Sets what the file says with OPTION_FILE, so that sources of higher rank stay. On failure some
 * options may have been set. */
serverd_status config_file_read(const char *path, struct options *options, serverd_error *err);

#endif
