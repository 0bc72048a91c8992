/* Compiled programs of models that were served before: a folder of program files, each named by
 * what it was made from, so that a model is compiled once, by one process, however many serve it.
 *
 *   KEY.sdp      KEY: SHA-256 of the source's hash and of how it is compiled, in hexadecimal
 *   STAMP.source the source's hash, by what the file system says of its files: spares reading them
 *   KEY.lock     who compiles it
 *
 * Calls may come from any threads and processes at once. */
#ifndef COMPILER_PROGRAM_CACHE_H
#define COMPILER_PROGRAM_CACHE_H

#include "compiler/compile_file.h"

struct program_cache {
    const char *folder; /* made if it is not there */
    uint64_t max_bytes; /* of its program files; the least recently used go first */
    void (*log)(void *context, int level, const char *text); /* may be NULL */
    void *log_context;
};

/* The program of options->source, mapped from the cache; compiled first if it is not there.
 * options->out is not looked at. A cache that cannot be used costs a warning, not the model: then
 * the program is made in memory. Errors are those of compile_model. */
serverd_status program_cache_open(const struct program_cache *cache,
                                  const struct compile_file_options *options, struct program **out,
                                  serverd_error *err);

#endif
