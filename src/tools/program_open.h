/* The program of a model file, for tools that run it: a program file as it is; of other files the
 * compiled form out of the program cache, made if need be. */
#ifndef TOOLS_PROGRAM_OPEN_H
#define TOOLS_PROGRAM_OPEN_H

#include "compiler/shard.h"
#include "program/program.h"
#include "runtime/worker_pool.h"

struct program_open_options {
    const char *path;
    struct shard shard; /* zeroed: the whole model; not of a program file */
    /* Where compiled models are kept: a folder, or "off": in memory alone. NULL: as the environment
     * says, SERVERD_PROGRAM_CACHE, CACHE_DIRECTORY, XDG_CACHE_HOME or HOME. */
    const char *cache;
    uint64_t cache_bytes; /* of that folder at most, as --program-cache-size */
    struct worker_pool *pool;
    void (*progress)(void *context, double share); /* of compiling; may be NULL */
    void *progress_context;
    void (*log)(void *context, int level, const char *text); /* may be NULL */
    void *log_context;
};

/* *out is unref'd by the caller. Errors are those of sdp_open and compile_model. */
serverd_status program_open(const struct program_open_options *options, struct program **out,
                            serverd_error *err);

#endif
