/* Where a partition meets the other ranks on the device (ALL_REDUCE, GATHER): who claims it, the
 * group of the ranks, the operations in the stream.
 *
 * A group is made at the first step and, if a rank has failed since, at a later one: then all ranks
 * run at once, and tell each other the group's id through memory of the host (serverd_collective).
 * In the same call they find out whether all want the same. */
#ifndef KERNELS_CUDA_MEETINGS_H
#define KERNELS_CUDA_MEETINGS_H

#include "kernels/cuda/graphs.h"
#include "kernels/cuda/group.h"
#include "serverd/delegate.h"

/* Of a row of a GATHER, one rank's. */
struct columns {
    uint32_t begin, n;
};

/* Of a partition; one thread at a time. */
struct meetings {
    const serverd_collective *ranks; /* NULL: it meets nobody */
    struct gpu_group *group;         /* NULL: not yet, or not any more */
    uint64_t n_breaks;               /* of the ranks, when the group was made */
    uint32_t n_nodes, n_gathers;
    uint32_t first;               /* of the graph's meetings the partition's first one */
    const serverd_node **gathers; /* [n_gathers] */
    struct columns *columns;      /* [n_gathers][n_ranks], once there is a group */
    float *told;                  /* what ranks tell each other */
    size_t n_told;
    float *gathered; /* of the device: parts of all ranks, in slices if it is too small */
    size_t gathered_floats;
    size_t least_shared; /* floats from which on each rank adds up a share of a sum */
};

/* Whether the node can be a meeting on the device; only on facts that are the same for all ranks.
 * False: `reason` says why. */
bool meetings_are_possible(const serverd_host *host, const serverd_shard *shard, char *reason,
                           size_t reason_bytes);

/* gpu NULL: nothing is taken of the device, sizes are what is wanted. */
serverd_status meetings_open(struct meetings *meetings, struct gpu *gpu, const serverd_host *host,
                             const serverd_graph *graph, const serverd_partition *partition,
                             const serverd_limits *limits, serverd_error *err);
/* Records with meetings have been freed. */
void meetings_close(struct meetings *meetings, struct gpu *gpu);

/* Before a step's launches: there is a group, with all ranks in it. Records of an earlier group are
 * freed. SERVERD_DEVICE_LOST: a rank will not come. SERVERD_INTERNAL: ranks want different things.
 */
serverd_status meetings_begin(struct meetings *meetings, struct gpu *gpu, struct graphs *graphs,
                              serverd_error *err);

/* Launches. out [n]: the sum of all ranks' x [n], in ascending order of the ranks. */
void meetings_all_reduce(const struct meetings *meetings, struct gpu *gpu, const float *x, size_t n,
                         float *out);
/* x: this rank's columns of n_rows rows; out [n_rows][width] of rank 0 gets all ranks'. */
void meetings_gather(const struct meetings *meetings, struct gpu *gpu, const serverd_node *node,
                     const float *x, size_t n_rows, float *out);

/* gpu_wait, that a rank which does not come ends, too: then the group is left, and its records are
 * freed. */
serverd_status meetings_wait(struct meetings *meetings, struct gpu *gpu, struct graphs *graphs,
                             serverd_error *err);

#endif
