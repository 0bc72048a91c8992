/* One rank's share of a program (tensor parallelism).
 *
 * Attention is cut between heads, a feed-forward block between its inner columns, the head between
 * rows of the vocabulary: the linear layers in front of the cut values lose rows ("column split" in
 * the literature, which writes W the other way), the one behind loses columns ("row split") and
 * makes a part of a sum, which ALL_REDUCE adds up. Logits come together in a GATHER. So a layer
 * meets the other ranks twice. What is not cut, norms and tables, every rank has.
 *
 *     x -> [q k v of own heads] -> attention -> o's own columns -> ALL_REDUCE -> + x
 *       -> [gate, up: own rows] -> glu -> down's own columns    -> ALL_REDUCE -> + x
 *
 * With more ranks than KV heads several ranks keep the same KV head for different query heads. */
#ifndef COMPILER_SHARD_H
#define COMPILER_SHARD_H

#include "program/program.h"

struct shard {
    uint32_t rank, n_ranks; /* n_ranks 0 or 1: the program stays whole */
};

/* Makes the program that rank's shard. Its tensors have their rows (not only packed ones). Blocks
 * of weights are never cut: a matrix whose blocks do not end where heads do is kept as f32.
 * SERVERD_UNSUPPORTED: so many ranks cannot share its heads. Single-threaded. */
serverd_status shard_program(struct program *program, struct shard shard, serverd_error *err);

#endif
