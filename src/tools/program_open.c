#include "tools/program_open.h"

#include "base/error.h"
#include "compiler/program_cache.h"
#include "kernels/builtin.h"
#include "program/sdp_file.h"
#include "program/sdp_program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* False: nowhere. */
static bool cache_folder(const char *wanted, char *out, size_t size)
{
    const char *own = wanted ? wanted : getenv("SERVERD_PROGRAM_CACHE"),
               *systemd = getenv("CACHE_DIRECTORY"), *xdg = getenv("XDG_CACHE_HOME"),
               *home = getenv("HOME");
    int n = -1;
    if (own && *own)
        n = strcmp(own, "off") == 0 ? -1 : snprintf(out, size, "%s", own);
    else if (systemd && *systemd)
        n = snprintf(out, size, "%.*s/programs", (int)strcspn(systemd, ":"), systemd);
    else if (xdg && *xdg == '/')
        n = snprintf(out, size, "%s/serverd/programs", xdg);
    else if (home && *home == '/')
        n = snprintf(out, size, "%s/.cache/serverd/programs", home);
    return n > 0 && (size_t)n < size;
}

serverd_status program_open(const struct program_open_options *options, struct program **out,
                            serverd_error *err)
{
    char folder[4096];
    const struct compile_file_options compile = {
        .source = {.path = options->path, .shard = options->shard},
        .delegate = builtin_delegate("cpu"),
        .pool = options->pool,
        .progress = options->progress,
        .progress_context = options->progress_context};
    const struct program_cache cache = {.folder = folder,
                                        .max_bytes = options->cache_bytes,
                                        .log = options->log,
                                        .log_context = options->log_context};
    const bool is_program_file = sdp_is_program_file(options->path);
    if (is_program_file && options->shard.n_ranks > 1)
        return fail(err, SERVERD_UNSUPPORTED,
                    "%s is compiled for one rank: give the model that it was made from",
                    options->path);
    if (is_program_file)
        return sdp_open(options->path, out, err);
    if (!cache_folder(options->cache, folder, sizeof folder))
        return compile_model(&compile.source, out, err);
    return program_cache_open(&cache, &compile, out, err);
}
