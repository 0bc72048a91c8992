/* Ranks that meet on their devices: a group has one rank on each of several devices, and its
 * operations are launches in the devices' streams, recorded like others (kernels.h). Over NCCL
 * (nccl.cu), or emulated over memory of the process (emulated_group.cu).
 *
 * All ranks make the same calls in the same order, each on its own thread. A rank that does not
 * come would keep the others waiting, so every wait asks the rank's watch; whoever has left has to
 * leave the group, and a new group is made. */
#ifndef KERNELS_CUDA_GROUP_H
#define KERNELS_CUDA_GROUP_H

#include "kernels/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GPU_GROUP_ID_BYTES 128u

struct gpu_group; /* one rank's part */

/* True: another rank will not come. Asked on the thread that waits. */
struct gpu_group_watch {
    bool (*is_over)(void *context);
    void *context;
};

/* The same answer for all ranks of the process. False: `reason` says why. Any thread. */
bool gpu_groups_are_possible(char *reason, size_t reason_bytes);

/* One rank makes it and gives it to the others. */
serverd_status gpu_group_make_id(unsigned char id[GPU_GROUP_ID_BYTES], serverd_error *err);

/* Returns when all ranks have come, or SERVERD_DEVICE_LOST. No two ranks have the same device.
 * Behind gpu_enter. */
serverd_status gpu_group_join(struct gpu *gpu, const unsigned char id[GPU_GROUP_ID_BYTES],
                              uint32_t rank, uint32_t n_ranks, const struct gpu_group_watch *watch,
                              struct gpu_group **out, serverd_error *err);

/* Launches; what fails is said by gpu_group_wait.
 * out [n_ranks][n] of every rank: all ranks' parts, in ascending order. `part` may be where it
 * comes to lie in `out`. */
void gpu_group_all_gather(struct gpu *gpu, struct gpu_group *group, const float *part, size_t n,
                          float *out);
/* parts [n_ranks][n], one for each rank; out [n_ranks][n]: what each rank has for this one. */
void gpu_group_exchange(struct gpu *gpu, struct gpu_group *group, const float *parts, size_t n,
                        float *out);
/* Rank 0's `out`: all ranks' parts, of n[rank] numbers, one behind the other. */
void gpu_group_gather(struct gpu *gpu, struct gpu_group *group, const float *part, const size_t *n,
                      float *out);

/* Until the stream has done everything; gpu_wait then says what came of it. SERVERD_DEVICE_LOST:
 * the group has failed or another rank will not come, and launches may wait in the stream until
 * gpu_group_leave. */
serverd_status gpu_group_wait(struct gpu *gpu, struct gpu_group *group, serverd_error *err);

/* Ends what waits for others in the stream, and waits for no one. Records with launches of the
 * group have been freed. NULL is fine. */
void gpu_group_leave(struct gpu *gpu, struct gpu_group *group);

#ifdef __cplusplus
}
#endif
#endif
