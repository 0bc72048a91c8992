#include "kernels/cuda/meetings.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "program/op.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Larger meetings come in slices. */
#define GATHERED_BYTES ((size_t)64 << 20)

/* With more than two ranks less goes over the links if each rank adds up a share; but all wait for
 * each other twice. */
#define LEAST_SHARED_FLOATS ((size_t)256 << 10)

/* Slices begin where accesses are widest. */
#define SLICE_FLOATS 64u

/* What ranks tell each other is a sum of floats, where all but one rank have zeros: whole numbers
 * below 2^24 come out as they were. Four of them are the columns of one rank: begin and number, in
 * halves of 16 bits. In front of them: the id, and what must be the same on all ranks. */
enum {
    TOLD_SAME = GPU_GROUP_ID_BYTES,
    N_SAME = 3,
    TOLD_COLUMNS = TOLD_SAME + N_SAME,
    QUARTERS = 4
};

/* ---- who ------------------------------------------------------------------------------------- */

bool meetings_are_possible(const serverd_host *host, const serverd_shard *shard, char *reason,
                           size_t reason_bytes)
{
    const serverd_collective *ranks = host->collective;
    char ignored[128];
    const uint32_t n_devices = gpu_count(ignored, sizeof ignored);
    if (!ranks || shard->rank != ranks->rank || shard->n_ranks != ranks->n_ranks)
        (void)snprintf(reason, reason_bytes, "the shard is rank %u of %u", shard->rank,
                       shard->n_ranks);
    else if (ranks->struct_bytes < sizeof *ranks || !ranks->n_breaks)
        (void)snprintf(reason, reason_bytes, "the host does not say when a rank fails");
    else if (ranks->n_ranks > LIMIT_RANKS || n_devices < ranks->n_ranks) /* each has its own */
        (void)snprintf(reason, reason_bytes, "%u ranks on %u devices", ranks->n_ranks, n_devices);
    else
        return gpu_groups_are_possible(reason, reason_bytes);
    return false;
}

/* ---- life ------------------------------------------------------------------------------------ */

static const serverd_node *node_at(const serverd_graph *graph, const serverd_partition *partition,
                                   uint32_t i)
{
    return &graph->nodes[partition->first_node + i];
}

static void count_nodes(struct meetings *meetings, const serverd_graph *graph,
                        const serverd_partition *partition)
{
    for (uint32_t n = 0; n < partition->first_node; n++)
        meetings->first += op_is_collective(graph->nodes[n].op);
    for (uint32_t i = 0; i < partition->n_nodes; i++) {
        const uint32_t op = node_at(graph, partition, i)->op;
        meetings->n_nodes += op_is_collective(op);
        meetings->n_gathers += op == SERVERD_OP_GATHER;
    }
}

/* Floats for all rows of the largest meeting, or as many as fit, at least for a row of each. */
static size_t gathered_floats(const serverd_graph *graph, const serverd_partition *partition,
                              const serverd_limits *limits, uint32_t n_ranks)
{
    const size_t most_rows =
        max_size(max_size(limits->max_rows, limits->max_seqs), limits->max_logit_rows);
    size_t least = SLICE_FLOATS * n_ranks, most = least;
    for (uint32_t i = 0; i < partition->n_nodes; i++) {
        const serverd_node *node = node_at(graph, partition, i);
        if (!op_is_collective(node->op))
            continue;
        const bool is_gather = node->op == SERVERD_OP_GATHER;
        const size_t width = value_width(node_output(graph, node)),
                     row = is_gather ? width : width * n_ranks;
        size_t all;
        least = is_gather ? max_size(least, row) : least;
        most = max_size(most, size_mul(row, most_rows, &all) ? all : GATHERED_BYTES);
    }
    return max_size(least, min_size(most, GATHERED_BYTES / sizeof(float)));
}

serverd_status meetings_open(struct meetings *meetings, struct gpu *gpu, const serverd_host *host,
                             const serverd_graph *graph, const serverd_partition *partition,
                             const serverd_limits *limits, serverd_error *err)
{
    *meetings = (struct meetings){0};
    count_nodes(meetings, graph, partition);
    if (meetings->n_nodes == 0)
        return SERVERD_OK;
    const uint32_t n_ranks = host->collective->n_ranks;
    const size_t n_columns = (size_t)meetings->n_gathers * n_ranks;
    meetings->gathered_floats = gathered_floats(graph, partition, limits, n_ranks);
    if (!gpu)
        return SERVERD_OK;
    meetings->n_told = TOLD_COLUMNS + n_columns * QUARTERS;
    meetings->told = calloc(meetings->n_told, sizeof *meetings->told);
    meetings->columns = calloc(max_size(n_columns, 1), sizeof *meetings->columns);
    meetings->gathers = calloc(max_size(meetings->n_gathers, 1), sizeof *meetings->gathers);
    meetings->gathered = gpu_allocate(gpu, meetings->gathered_floats * sizeof(float));
    if (!meetings->told || !meetings->columns || !meetings->gathers || !meetings->gathered)
        return fail(err, SERVERD_NOMEM, "cuda: no memory for meeting other ranks");
    meetings->least_shared = n_ranks > 2 ? LEAST_SHARED_FLOATS : SIZE_MAX;
    meetings->ranks = host->collective;
    for (uint32_t i = 0, n = 0; i < partition->n_nodes; i++) {
        const serverd_node *node = node_at(graph, partition, i);
        if (node->op != SERVERD_OP_GATHER)
            continue;
        meetings->columns[n * n_ranks + meetings->ranks->rank] = (struct columns){
            node->attributes.shard.begin, (uint32_t)value_width(node_input(graph, node, 0))};
        meetings->gathers[n++] = node;
    }
    return SERVERD_OK;
}

void meetings_close(struct meetings *meetings, struct gpu *gpu)
{
    gpu_group_leave(gpu, meetings->group);
    gpu_free(gpu, meetings->gathered);
    free(meetings->told);
    free(meetings->columns);
    free(meetings->gathers);
    *meetings = (struct meetings){0};
}

/* ---- a group --------------------------------------------------------------------------------- */

static bool has_broken(void *context)
{
    const struct meetings *meetings = context;
    return meetings->ranks->n_breaks(meetings->ranks->context) != meetings->n_breaks;
}

static void leave(struct meetings *meetings, struct gpu *gpu, struct graphs *graphs)
{
    graphs_free(graphs, gpu); /* NCCL waits for records that have its launches */
    gpu_group_leave(gpu, meetings->group);
    meetings->group = NULL;
}

/* What this rank has to say. */
static void fill_told(struct meetings *meetings, const unsigned char *id)
{
    const uint32_t rank = meetings->ranks->rank, n_ranks = meetings->ranks->n_ranks;
    float *told = meetings->told;
    memset(told, 0, meetings->n_told * sizeof *told);
    for (uint32_t i = 0; i < GPU_GROUP_ID_BYTES; i++)
        told[i] = rank == 0 ? id[i] : 0;
    told[TOLD_SAME] = 1;
    told[TOLD_SAME + 1] = (float)meetings->n_nodes;
    told[TOLD_SAME + 2] = (float)meetings->first;
    for (uint32_t i = 0; i < meetings->n_gathers; i++) {
        const struct columns *own = &meetings->columns[i * n_ranks + rank];
        float *at = told + TOLD_COLUMNS + ((size_t)i * n_ranks + rank) * QUARTERS;
        at[0] = (float)(own->begin >> 16);
        at[1] = (float)(own->begin & 0xffffu);
        at[2] = (float)(own->n >> 16);
        at[3] = (float)(own->n & 0xffffu);
    }
}

static bool take_id(const struct meetings *meetings, unsigned char *id)
{
    for (uint32_t i = 0; i < GPU_GROUP_ID_BYTES; i++) {
        const float byte = meetings->told[i];
        if (!(byte >= 0 && byte <= UINT8_MAX))
            return false;
        id[i] = (unsigned char)byte;
    }
    return true;
}

static uint32_t join_halves(const float *halves)
{
    return (uint32_t)halves[0] << 16 | (uint32_t)halves[1];
}

/* All ranks' columns of a gather, which together are its rows. */
static bool take_columns(const struct meetings *meetings, uint32_t gather)
{
    const uint32_t n_ranks = meetings->ranks->n_ranks;
    const uint64_t width = meetings->gathers[gather]->attributes.shard.width;
    uint64_t sum = 0;
    for (uint32_t r = 0; r < n_ranks; r++) {
        const size_t index = (size_t)gather * n_ranks + r;
        const float *at = meetings->told + TOLD_COLUMNS + index * QUARTERS;
        for (uint32_t i = 0; i < QUARTERS; i++)
            if (!(at[i] >= 0 && at[i] <= UINT16_MAX))
                return false;
        const struct columns columns = {join_halves(at), join_halves(at + 2)};
        if ((uint64_t)columns.begin + columns.n > width)
            return false;
        meetings->columns[index] = columns;
        sum += columns.n;
    }
    return sum == width;
}

static serverd_status take_told(const struct meetings *meetings, unsigned char *id,
                                serverd_error *err)
{
    const float n_ranks = (float)meetings->ranks->n_ranks, *told = meetings->told;
    const float same[N_SAME] = {n_ranks, n_ranks * (float)meetings->n_nodes,
                                n_ranks * (float)meetings->first};
    bool is_agreed = memcmp(told + TOLD_SAME, same, sizeof same) == 0 && take_id(meetings, id);
    for (uint32_t i = 0; i < meetings->n_gathers && is_agreed; i++)
        is_agreed = take_columns(meetings, i);
    return is_agreed ? SERVERD_OK
                     : fail(err, SERVERD_INTERNAL,
                            "cuda: not all ranks meet on their devices for the same nodes");
}

/* The same call on all ranks. */
static serverd_status tell_each_other(struct meetings *meetings, unsigned char *id,
                                      serverd_error *err)
{
    const serverd_collective *ranks = meetings->ranks;
    serverd_status status = ranks->rank == 0 ? gpu_group_make_id(id, err) : SERVERD_OK;
    if (status != SERVERD_OK)
        return status;
    fill_told(meetings, id);
    status = ranks->all_reduce(ranks->context, meetings->told, meetings->n_told, err);
    return status == SERVERD_OK ? take_told(meetings, id, err) : status;
}

serverd_status meetings_begin(struct meetings *meetings, struct gpu *gpu, struct graphs *graphs,
                              serverd_error *err)
{
    if (!meetings->ranks || (meetings->group && !has_broken(meetings)))
        return SERVERD_OK;
    const struct gpu_group_watch watch = {has_broken, meetings};
    unsigned char id[GPU_GROUP_ID_BYTES];
    leave(meetings, gpu, graphs);
    meetings->n_breaks = meetings->ranks->n_breaks(meetings->ranks->context);
    const serverd_status status = tell_each_other(meetings, id, err);
    if (status != SERVERD_OK)
        return status;
    return gpu_group_join(gpu, id, meetings->ranks->rank, meetings->ranks->n_ranks, &watch,
                          &meetings->group, err);
}

serverd_status meetings_wait(struct meetings *meetings, struct gpu *gpu, struct graphs *graphs,
                             serverd_error *err)
{
    if (!meetings->group)
        return gpu_wait(gpu, err);
    const serverd_status status = gpu_group_wait(gpu, meetings->group, err);
    if (status == SERVERD_OK)
        return gpu_wait(gpu, err);
    serverd_error ignored;
    leave(meetings, gpu, graphs);
    (void)gpu_wait(gpu, &ignored); /* what is left of the step still uses its memory */
    return status;
}

/* ---- operations ------------------------------------------------------------------------------ */

/* All ranks get all parts. */
static void reduce_whole(const struct meetings *meetings, struct gpu *gpu, const float *x, size_t n,
                         float *out)
{
    gpu_group_all_gather(gpu, meetings->group, x, n, meetings->gathered);
    gpu_sum_parts(gpu, meetings->gathered, meetings->ranks->n_ranks, n, out);
}

/* Each rank gets all parts of its share, [n], and gives the sum to all. */
static void reduce_shares(const struct meetings *meetings, struct gpu *gpu, const float *x,
                          size_t n, float *out)
{
    float *own = out + meetings->ranks->rank * n;
    gpu_group_exchange(gpu, meetings->group, x, n, meetings->gathered);
    gpu_sum_parts(gpu, meetings->gathered, meetings->ranks->n_ranks, n, own);
    gpu_group_all_gather(gpu, meetings->group, own, n, out);
}

void meetings_all_reduce(const struct meetings *meetings, struct gpu *gpu, const float *x, size_t n,
                         float *out)
{
    const size_t n_ranks = meetings->ranks->n_ranks,
                 most = meetings->gathered_floats / n_ranks / SLICE_FLOATS * SLICE_FLOATS;
    for (size_t at = 0, count; at < n; at += count) {
        const size_t share = min_size(most, (n - at) / n_ranks / SLICE_FLOATS * SLICE_FLOATS);
        const bool is_shared = share * n_ranks >= meetings->least_shared && share > 0;
        count = is_shared ? share * n_ranks : min_size(most, n - at);
        if (is_shared)
            reduce_shares(meetings, gpu, x + at, share, out + at);
        else
            reduce_whole(meetings, gpu, x + at, count, out + at);
    }
}

static const struct columns *columns_of(const struct meetings *meetings, const serverd_node *node)
{
    uint32_t i = 0;
    while (meetings->gathers[i] != node)
        i++;
    return &meetings->columns[(size_t)i * meetings->ranks->n_ranks];
}

/* Some rows, which all ranks' parts of have room. */
static void gather_rows(const struct meetings *meetings, struct gpu *gpu,
                        const struct columns *columns, uint32_t width, const float *x,
                        uint32_t n_rows, float *out)
{
    const uint32_t n_ranks = meetings->ranks->n_ranks;
    size_t n[LIMIT_RANKS];
    for (uint32_t r = 0; r < n_ranks; r++)
        n[r] = (size_t)n_rows * columns[r].n;
    gpu_group_gather(gpu, meetings->group, x, n, meetings->gathered);
    const float *part = meetings->gathered;
    for (uint32_t r = 0; meetings->ranks->rank == 0 && r < n_ranks; part += n[r], r++)
        if (n[r] > 0)
            gpu_place_columns(gpu, part, n_rows, columns[r].n, columns[r].begin, width, out);
}

void meetings_gather(const struct meetings *meetings, struct gpu *gpu, const serverd_node *node,
                     const float *x, size_t n_rows, float *out)
{
    const struct columns *columns = columns_of(meetings, node);
    const uint32_t width = node->attributes.shard.width;
    const size_t most = meetings->gathered_floats / width;
    for (size_t at = 0; at < n_rows; at += most)
        gather_rows(meetings, gpu, columns, width, x + at * columns[meetings->ranks->rank].n,
                    (uint32_t)min_size(most, n_rows - at), out + at * width);
}
