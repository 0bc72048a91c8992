#include "runtime/collective.h"

#include "base/error.h"
#include "base/limits.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Ranks that compute the same amount arrive within microseconds; on a busy machine the others' work
 * needs the processor more than this. */
#define SPINS 2000

/* Shares of a sum begin on a cache line, so that no two ranks write to one. */
#define LINE_FLOATS 16u

struct rank_view {
    serverd_collective collective;
    struct collective_group *group;
};

/* What a rank has brought to the present call. */
struct part {
    float *data;
    size_t n; /* numbers of the call */
    bool is_gathered;
};

struct collective_group {
    uint32_t n_ranks;
    struct part parts[LIMIT_RANKS];
    atomic_uint n_arrived;
    atomic_uint round; /* raised when all have arrived */
    atomic_bool is_broken;
    atomic_ullong n_breaks;
    pthread_mutex_t lock; /* with `changed`, for who waits longer than it spins */
    pthread_cond_t changed;
    struct rank_view ranks[LIMIT_RANKS];
};

/* ---- meeting --------------------------------------------------------------------------------- */

static void spin_pause(void)
{
#if defined __x86_64__
    __builtin_ia32_pause();
#endif
}

static bool has_changed(struct collective_group *group, unsigned round)
{
    return atomic_load(&group->round) != round || atomic_load(&group->is_broken);
}

static void wait_for_others(struct collective_group *group, unsigned round)
{
    for (int i = 0; i < SPINS; i++) {
        if (has_changed(group, round))
            return;
        spin_pause();
    }
    (void)pthread_mutex_lock(&group->lock);
    while (!has_changed(group, round))
        (void)pthread_cond_wait(&group->changed, &group->lock);
    (void)pthread_mutex_unlock(&group->lock);
}

static void wake_others(struct collective_group *group)
{
    (void)pthread_mutex_lock(&group->lock);
    (void)pthread_cond_broadcast(&group->changed);
    (void)pthread_mutex_unlock(&group->lock);
}

/* Returns when all ranks have come. False: one will not. */
static bool meet(struct collective_group *group)
{
    const unsigned round = atomic_load(&group->round);
    if (atomic_fetch_add(&group->n_arrived, 1) + 1 == group->n_ranks) {
        atomic_store(&group->n_arrived, 0);
        atomic_store(&group->round, round + 1);
        wake_others(group);
    } else {
        wait_for_others(group, round);
    }
    return !atomic_load(&group->is_broken);
}

static serverd_status lost(serverd_error *err)
{
    return fail(err, SERVERD_DEVICE_LOST, "another rank of the model has failed");
}

/* Ranks that want different things have not the memory that the others would read. All of them see
 * it. */
static serverd_status check_parts(const struct collective_group *group, uint32_t rank,
                                  serverd_error *err)
{
    const struct part *own = &group->parts[rank];
    for (uint32_t r = 0; r < group->n_ranks; r++)
        if (group->parts[r].n != own->n || group->parts[r].is_gathered != own->is_gathered)
            return fail(err, SERVERD_INTERNAL,
                        "ranks meet for different things: %zu numbers at rank %u, %zu at rank %u",
                        own->n, rank, group->parts[r].n, r);
    return SERVERD_OK;
}

/* Returns when all have brought their parts. */
static serverd_status bring(struct collective_group *group, uint32_t rank, struct part part,
                            serverd_error *err)
{
    group->parts[rank] = part;
    return meet(group) ? check_parts(group, rank, err) : lost(err);
}

/* ---- the operations -------------------------------------------------------------------------- */

/* first .. end - 1 of all parts become their sum. */
static void sum_share(const struct collective_group *group, size_t first, size_t end)
{
    for (size_t i = first; i < end; i += LINE_FLOATS) {
        const size_t n = end - i < LINE_FLOATS ? end - i : LINE_FLOATS;
        float sum[LINE_FLOATS];
        memcpy(sum, group->parts[0].data + i, n * sizeof *sum);
        for (uint32_t r = 1; r < group->n_ranks; r++)
            for (size_t k = 0; k < n; k++)
                sum[k] += group->parts[r].data[i + k];
        for (uint32_t r = 0; r < group->n_ranks; r++)
            memcpy(group->parts[r].data + i, sum, n * sizeof *sum);
    }
}

static size_t share_begin(size_t n, uint32_t rank, uint32_t n_ranks)
{
    const size_t n_lines = (n + LINE_FLOATS - 1) / LINE_FLOATS;
    const size_t begin = n_lines * rank / n_ranks * LINE_FLOATS;
    return begin < n ? begin : n;
}

static serverd_status all_reduce(void *context, float *data, size_t n, serverd_error *err)
{
    const struct rank_view *view = context;
    struct collective_group *group = view->group;
    const uint32_t rank = view->collective.rank;
    const serverd_status status = bring(group, rank, (struct part){data, n, false}, err);
    if (status != SERVERD_OK)
        return status;
    sum_share(group, share_begin(n, rank, group->n_ranks),
              share_begin(n, rank + 1, group->n_ranks));
    return meet(group) ? SERVERD_OK : lost(err);
}

static serverd_status gather(void *context, const float *part, size_t n_rows, size_t n_columns,
                             size_t begin, size_t width, float *out, serverd_error *err)
{
    const struct rank_view *view = context;
    struct collective_group *group = view->group;
    const struct part whole = {out, n_rows * width, true};
    const serverd_status status = bring(group, view->collective.rank, whole, err);
    if (status != SERVERD_OK)
        return status;
    for (size_t row = 0; row < n_rows; row++)
        memcpy(group->parts[0].data + row * width + begin, part + row * n_columns,
               n_columns * sizeof *part);
    return meet(group) ? SERVERD_OK : lost(err);
}

static uint64_t n_breaks(void *context)
{
    const struct rank_view *view = context;
    return atomic_load(&view->group->n_breaks);
}

/* ---- life ------------------------------------------------------------------------------------ */

serverd_status collective_group_create(uint32_t n_ranks, struct collective_group **out,
                                       serverd_error *err)
{
    struct collective_group *group =
        n_ranks > 0 && n_ranks <= LIMIT_RANKS ? calloc(1, sizeof *group) : NULL;
    if (!group)
        return fail(err, SERVERD_NOMEM, "no group of %u ranks, at most %u are possible", n_ranks,
                    LIMIT_RANKS);
    group->n_ranks = n_ranks;
    (void)pthread_mutex_init(&group->lock, NULL);
    (void)pthread_cond_init(&group->changed, NULL);
    for (uint32_t r = 0; r < n_ranks; r++) {
        struct rank_view *view = &group->ranks[r];
        view->group = group;
        view->collective = (serverd_collective){.struct_bytes = sizeof view->collective,
                                                .rank = r,
                                                .n_ranks = n_ranks,
                                                .context = view,
                                                .all_reduce = all_reduce,
                                                .gather = gather,
                                                .n_breaks = n_breaks};
    }
    *out = group;
    return SERVERD_OK;
}

void collective_group_destroy(struct collective_group *group)
{
    if (!group)
        return;
    (void)pthread_cond_destroy(&group->changed);
    (void)pthread_mutex_destroy(&group->lock);
    free(group);
}

const serverd_collective *collective_group_rank(const struct collective_group *group, uint32_t rank)
{
    return &group->ranks[rank].collective;
}

void collective_group_break(struct collective_group *group)
{
    atomic_fetch_add(&group->n_breaks, 1);
    atomic_store(&group->is_broken, true);
    wake_others(group);
}

void collective_group_mend(struct collective_group *group)
{
    atomic_store(&group->n_arrived, 0);
    atomic_store(&group->is_broken, false);
}
