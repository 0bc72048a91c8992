/* Which files a model is made of, and what is in them: what a compiled program is known by. */
#ifndef COMPILER_SOURCE_HASH_H
#define COMPILER_SOURCE_HASH_H

#include "runtime/worker_pool.h"
#include "serverd/status.h"

#include <stdint.h>

/* Every byte of the model's files and their names: a GGUF file, all shards of a split one, or the
 * files of a directory that its importer may read. */
serverd_status source_hash(const char *path, struct worker_pool *pool, uint8_t out[32],
                           serverd_error *err);

/* The same files, by what the file system says of them (place, size, times) and not by their
 * bytes: where it is the same, the bytes may be taken to be so. Microseconds. */
serverd_status source_stamp(const char *path, uint8_t out[32], serverd_error *err);

#endif
