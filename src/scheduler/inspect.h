/* A look into a running engine, for people who debug one: what its KV cache holds, and where the
 * time of its steps goes. And one thing to do there: to forget what is cached. Who asks brings the
 * memory; the engine thread fills it in between two steps, so that nobody else ever touches what it
 * owns, and allocates nothing. The answer comes like a request's: as an EVENT_END, which carries
 * the inspection. */
#ifndef SCHEDULER_INSPECT_H
#define SCHEDULER_INSPECT_H

#include "kvcache/radix_tree.h"
#include "runtime/trace.h"
#include "scheduler/request.h"

#include <stdatomic.h>

struct engine;

enum inspection_kind {
    INSPECT_CACHE,    /* the KV cache as it is now */
    INSPECT_REQUESTS, /* those that run now: of STEPS the records alone */
    INSPECT_STEPS,    /* the next steps */
    INSPECT_FLUSH,    /* forgets the prefixes that no sequence uses, those that handles hold, too */
};

struct inspection_options {
    enum inspection_kind kind;
    void *user; /* comes back in the event */
    /* CACHE. Every node has its first tokens_per_node token ids, while there is room. */
    uint32_t max_nodes, max_tokens, tokens_per_node;
    /* STEPS: ends after so many or so long, whatever comes first, and when the engine drains.
     * UINT64_MAX: no time ends it. */
    uint32_t max_steps;
    /* FLUSH: it waits so long for an engine without requests, and fails with SERVERD_BUSY if there
     * was no such moment; 0: it is done at once, whoever runs. */
    uint64_t duration_ns;
    uint32_t max_events; /* operations that are recorded, too (runtime/trace.h), 0: none */
};

/* ---- the KV cache --------------------------------------------------------------------------- */

/* A node of the prefix tree. Those of a namespace stand together, parents before children. */
struct cache_node {
    const struct radix_node *node; /* a name, not to be followed */
    uint64_t space;
    uint64_t age;    /* uses of the tree since the node's last one */
    uint32_t parent; /* index of its parent + 1; 0: the beginning of a namespace */
    uint32_t n_pages, n_locks;
    uint32_t first_token, n_tokens; /* its first ids in inspection.tokens */
    enum radix_kind kind;
};

/* Of the engine's life so far. Prompt tokens were cached or computed, and none both. */
struct cache_use {
    uint64_t n_admitted, n_hits; /* requests; hits had some of their prompt in the tree */
    uint64_t n_cached, n_computed;
    uint64_t n_recomputed; /* tokens, output too, after a preemption or a failed step */
    uint64_t n_preempted;
    /* Steps of sequences in which guessed tokens were checked, and those that were right. */
    uint64_t n_draft_checks, n_draft_accepted;
};

struct cache_totals {
    uint32_t n_pages; /* = n_free + n_private + n_locked + n_evictable */
    uint32_t n_free, n_private, n_locked, n_evictable;
    uint32_t n_nodes;
    bool has_tree;
    struct window_counts windows;
    struct cache_use use;
    struct radix_stats tree;
};

/* ---- steps ---------------------------------------------------------------------------------- */

struct step_record {
    /* The clock when the inbox had been taken, the batch was made, the device was done, the tokens
     * were drawn, their events were handed over. */
    uint64_t begin_ns, scheduled_ns, computed_ns, sampled_ns, emitted_ns;
    uint32_t n_rows, n_decode_rows, n_prefill_rows;
    uint32_t n_admitted, n_cached; /* sequences; tokens that they found in the tree */
    uint32_t n_preempted;
    uint32_t n_running, n_waiting; /* sequences, requests, at the end of the step */
    uint32_t n_free, n_evictable;  /* pages, at the end of the step */
};

/* A request that ended meanwhile, or has not ended yet (times.end_ns 0). */
struct request_record {
    uint64_t id;
    struct request_times times;
    uint32_t n_prompt, n_cached, n_output;
};

/* ---- the inspection ------------------------------------------------------------------------- */

struct inspection {
    struct inspection_options options;
    uint64_t id;
    /* CACHE; of FLUSH the totals behind it */
    struct cache_totals totals;
    struct cache_node *nodes; /* [n_nodes] */
    uint32_t n_nodes;
    bool is_cut;     /* the tree has more nodes */
    int32_t *tokens; /* [n_tokens] */
    uint32_t n_tokens;
    /* STEPS */
    uint64_t begin_ns, end_ns;
    struct step_record *steps; /* [n_steps], in order */
    uint32_t n_steps;
    struct request_record *requests; /* [n_requests] */
    uint32_t n_requests, n_requests_lost;
    struct trace *ops; /* NULL: not wanted */
    /* The engine's until the event. */
    struct inspection *next;
    atomic_bool is_cancelled;
};

/* Any thread. On success one EVENT_END follows; its `inspection` is the receiver's, NULL if the
 * status says that it failed or if it was cancelled (engine_cancel, with its id). SERVERD_BUSY: too
 * many are under way, or another one of steps; SERVERD_UNSUPPORTED: the engine stops;
 * SERVERD_NOMEM. */
serverd_status engine_inspect(struct engine *engine, const struct inspection_options *options,
                              uint64_t *id, serverd_error *err);

void inspection_destroy(struct inspection *inspection); /* NULL is fine */

#endif
