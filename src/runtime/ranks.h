/* A model that several ranks share (tensor parallelism): each has a shard of the program
 * (compiler/shard.h), a runtime and a thread with a worker pool of its own. Rank 0 is the runtime
 * that the caller sees, and runs on the caller's thread: whoever has it need not know of the
 * others. KV pages have the same numbers on all ranks; each keeps its heads' part.
 *
 * The ranks meet through memory of this process (collective.h), or, where their delegate can do it,
 * on their devices; all in the same way. */
#ifndef RUNTIME_RANKS_H
#define RUNTIME_RANKS_H

#include "runtime/runtime.h"

struct runtime_ranks {
    struct program *const *programs; /* [n] shards, in the order of the ranks */
    uint32_t n;                      /* 2 .. LIMIT_RANKS */
    uint32_t n_threads;              /* of each rank but 0, whose pool is options->pool */
};

/* As runtime_open. Memory for KV pages, options->kv_bytes, is that of all ranks together. */
serverd_status runtime_open_ranks(const struct runtime_ranks *ranks,
                                  const struct runtime_options *options, struct runtime **out,
                                  serverd_error *err);

/* As runtime_predict, of all ranks together. */
serverd_status runtime_predict_ranks(const struct runtime_ranks *ranks,
                                     const struct runtime_options *options,
                                     struct runtime_memory *out, serverd_error *err);

#endif
