#include "runtime/ranks.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/op.h"
#include "runtime/collective.h"
#include "runtime/runtime_internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct peer {
    struct ranks *ranks;
    struct runtime *runtime;
    struct worker_pool *pool;
    float *out; /* nobody reads it; NULL: only rank 0 gets the result at all */
    pthread_t thread;
    bool has_thread;
    serverd_status status; /* of its last step */
    serverd_error err;
};

struct ranks {
    struct collective_group *group;
    struct runtime *own; /* rank 0 */
    uint32_t n_peers;
    struct peer peers[LIMIT_RANKS];
    struct runtime *runtimes[LIMIT_RANKS]; /* the peers' */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t has_step, has_ended;
    const serverd_batch *batch; /* of the present step */
    uint64_t n_steps;           /* that were begun */
    uint32_t n_busy;            /* peers that are in the present one */
    bool is_closing;
};

/* ---- a peer's thread ------------------------------------------------------------------------- */

static void run_step(struct peer *peer, const serverd_batch *batch)
{
    peer->status = runtime_execute(peer->runtime, batch, peer->out, &peer->err);
    if (peer->status != SERVERD_OK)
        collective_group_break(peer->ranks->group);
}

static void *run_peer(void *arg)
{
    struct peer *peer = arg;
    struct ranks *ranks = peer->ranks;
    uint64_t n_done = 0;
    (void)pthread_mutex_lock(&ranks->lock);
    for (;;) {
        while (ranks->n_steps == n_done && !ranks->is_closing)
            (void)pthread_cond_wait(&ranks->has_step, &ranks->lock);
        if (ranks->is_closing)
            break;
        n_done = ranks->n_steps;
        const serverd_batch *batch = ranks->batch;
        (void)pthread_mutex_unlock(&ranks->lock);
        run_step(peer, batch);
        (void)pthread_mutex_lock(&ranks->lock);
        if (--ranks->n_busy == 0)
            (void)pthread_cond_signal(&ranks->has_ended);
    }
    (void)pthread_mutex_unlock(&ranks->lock);
    return NULL;
}

/* ---- a step ---------------------------------------------------------------------------------- */

static void begin_step(struct ranks *ranks, const serverd_batch *batch)
{
    collective_group_mend(ranks->group);
    (void)pthread_mutex_lock(&ranks->lock);
    ranks->batch = batch;
    ranks->n_busy = ranks->n_peers;
    ranks->n_steps++;
    (void)pthread_cond_broadcast(&ranks->has_step);
    (void)pthread_mutex_unlock(&ranks->lock);
}

static void end_step(struct ranks *ranks)
{
    (void)pthread_mutex_lock(&ranks->lock);
    while (ranks->n_busy > 0)
        (void)pthread_cond_wait(&ranks->has_ended, &ranks->lock);
    (void)pthread_mutex_unlock(&ranks->lock);
}

/* A rank that was left alone reports a lost device, which it has not. */
static bool is_better_reason(serverd_status known, serverd_status other)
{
    return other != SERVERD_OK &&
           (known == SERVERD_OK || (known == SERVERD_DEVICE_LOST && other != SERVERD_DEVICE_LOST));
}

static serverd_status execute(void *context, const serverd_batch *batch, float *out,
                              serverd_error *err)
{
    struct ranks *ranks = context;
    begin_step(ranks, batch);
    serverd_status status = runtime_execute_alone(ranks->own, batch, out, err);
    if (status != SERVERD_OK)
        collective_group_break(ranks->group);
    end_step(ranks);
    for (uint32_t i = 0; i < ranks->n_peers; i++) {
        if (!is_better_reason(status, ranks->peers[i].status))
            continue;
        status = ranks->peers[i].status;
        *err = ranks->peers[i].err;
        (void)error_context(err, "rank %u", i + 1);
    }
    return status;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void close_peers(void *context)
{
    struct ranks *ranks = context;
    (void)pthread_mutex_lock(&ranks->lock);
    ranks->is_closing = true;
    (void)pthread_cond_broadcast(&ranks->has_step);
    (void)pthread_mutex_unlock(&ranks->lock);
    for (uint32_t i = 0; i < ranks->n_peers; i++) {
        struct peer *peer = &ranks->peers[i];
        if (peer->has_thread)
            (void)pthread_join(peer->thread, NULL);
        runtime_close(peer->runtime);
        if (peer->pool)
            worker_pool_destroy(peer->pool);
        free(peer->out);
    }
    collective_group_destroy(ranks->group);
    (void)pthread_cond_destroy(&ranks->has_ended);
    (void)pthread_cond_destroy(&ranks->has_step);
    (void)pthread_mutex_destroy(&ranks->lock);
    free(ranks);
}

/* For the result, if ranks other than 0 have it, too: encoders. */
static serverd_status take_out(struct peer *peer, const struct program *program,
                               const serverd_limits *limits, serverd_error *err)
{
    const serverd_graph *graph = &program->graph;
    if (graph->nodes[graph->values[graph->output].producer].op == SERVERD_OP_GATHER)
        return SERVERD_OK;
    const size_t n_rows = max_size(limits->max_logit_rows, limits->max_seqs);
    peer->out = calloc(n_rows * runtime_output_width(peer->runtime), sizeof *peer->out);
    return peer->out ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory for a rank's result");
}

static serverd_status open_peer(struct peer *peer, struct program *program, uint32_t n_threads,
                                const struct runtime_options *options, serverd_error *err)
{
    struct runtime_options own = *options;
    serverd_status status = worker_pool_create(n_threads, &peer->pool, err);
    own.pool = peer->pool;
    if (status == SERVERD_OK)
        status = runtime_open(program, &own, &peer->runtime, err);
    if (status == SERVERD_OK)
        status = take_out(peer, program, &options->limits, err);
    if (status == SERVERD_OK && pthread_create(&peer->thread, NULL, run_peer, peer) != 0)
        return fail(err, SERVERD_NOMEM, "no thread");
    peer->has_thread = status == SERVERD_OK;
    return status;
}

/* Of the ranks rank 0 has most heads, so its share of the memory is no less than any other's. */
static struct runtime_options share_of(const struct runtime_options *options, uint32_t n_ranks)
{
    struct runtime_options share = *options;
    share.kv_bytes = options->kv_bytes / n_ranks;
    return share;
}

static serverd_status open_peers(struct ranks *ranks, const struct runtime_ranks *sharing,
                                 const struct runtime_options *options, serverd_error *err)
{
    struct runtime_options own = *options;
    serverd_status status = SERVERD_OK;
    own.n_pages = runtime_n_pages(ranks->own);
    own.n_window_pages = runtime_n_window_pages(ranks->own);
    own.progress = NULL; /* rank 0's is told */
    for (uint32_t r = 1; r < sharing->n && status == SERVERD_OK; r++) {
        struct peer *peer = &ranks->peers[ranks->n_peers++];
        peer->ranks = ranks;
        own.collective = collective_group_rank(ranks->group, r);
        status = open_peer(peer, sharing->programs[r], sharing->n_threads, &own, err);
        ranks->runtimes[r - 1] = peer->runtime;
        if (status != SERVERD_OK)
            return error_context(err, "rank %u", r);
    }
    return status;
}

/* The next node from *node on at which ranks meet; *node goes behind it. NULL: there is none. */
static const char *next_meeting(const struct runtime *runtime, const serverd_graph *graph,
                                uint32_t *node)
{
    while (*node < graph->n_nodes && !op_is_collective(graph->nodes[*node].op))
        ++*node;
    return *node < graph->n_nodes ? runtime_delegate_of(runtime, (*node)++) : NULL;
}

/* Ranks that meet through different delegates would not find each other. */
static serverd_status check_meetings(const struct ranks *ranks, const struct runtime_ranks *sharing,
                                     serverd_error *err)
{
    for (uint32_t r = 1; r < sharing->n; r++) {
        uint32_t own_node = 0, node = 0;
        const char *own, *other;
        do {
            own = next_meeting(ranks->own, &sharing->programs[0]->graph, &own_node);
            other = next_meeting(ranks->runtimes[r - 1], &sharing->programs[r]->graph, &node);
            if (!own != !other || (own && strcmp(own, other) != 0))
                return fail(err, SERVERD_UNSUPPORTED,
                            "rank %u meets the others through %s, rank 0 through %s: place "
                            "all_reduce=collective,gather=collective lets all meet in host memory",
                            r, other ? other : "nothing", own ? own : "nothing");
        } while (own);
    }
    return SERVERD_OK;
}

static void attach(struct ranks *ranks)
{
    struct runtime_peers peers = {.items = ranks->runtimes,
                                  .n = ranks->n_peers,
                                  .context = ranks,
                                  .execute = execute,
                                  .close = close_peers};
    for (uint32_t i = 0; i < ranks->n_peers; i++) {
        peers.page_bytes += runtime_page_bytes(ranks->runtimes[i]);
        peers.window_page_bytes += runtime_window_page_bytes(ranks->runtimes[i]);
    }
    runtime_set_peers(ranks->own, &peers);
}

serverd_status runtime_open_ranks(const struct runtime_ranks *sharing,
                                  const struct runtime_options *options, struct runtime **out,
                                  serverd_error *err)
{
    struct ranks *ranks = calloc(1, sizeof *ranks);
    if (!ranks)
        return fail(err, SERVERD_NOMEM, "no memory for %u ranks", sharing->n);
    (void)pthread_mutex_init(&ranks->lock, NULL);
    (void)pthread_cond_init(&ranks->has_step, NULL);
    (void)pthread_cond_init(&ranks->has_ended, NULL);
    struct runtime_options own = share_of(options, sharing->n);
    serverd_status status = collective_group_create(sharing->n, &ranks->group, err);
    if (status == SERVERD_OK) {
        own.collective = collective_group_rank(ranks->group, 0);
        status = runtime_open(sharing->programs[0], &own, &ranks->own, err);
    }
    if (status == SERVERD_OK)
        status = open_peers(ranks, sharing, &own, err);
    if (status == SERVERD_OK)
        status = check_meetings(ranks, sharing, err);
    if (status == SERVERD_OK) {
        attach(ranks);
        *out = ranks->own;
    } else {
        struct runtime *opened = ranks->own;
        close_peers(ranks);
        runtime_close(opened);
    }
    return status;
}

serverd_status runtime_predict_ranks(const struct runtime_ranks *sharing,
                                     const struct runtime_options *options,
                                     struct runtime_memory *out, serverd_error *err)
{
    struct collective_group *group;
    struct runtime_options own = share_of(options, sharing->n);
    *out = (struct runtime_memory){0};
    serverd_status status = collective_group_create(sharing->n, &group, err);
    if (status != SERVERD_OK)
        return status;
    for (uint32_t r = 0; r < sharing->n && status == SERVERD_OK; r++) {
        struct runtime_memory memory;
        own.collective = collective_group_rank(group, r);
        status = runtime_predict(sharing->programs[r], &own, &memory, err);
        if (status == SERVERD_OK)
            runtime_memory_add(out, &memory);
    }
    collective_group_destroy(group);
    return status;
}
