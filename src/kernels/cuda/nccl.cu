/* Groups over NCCL, which is looked for when the first one is wanted, so that machines without it
 * load the same shared object.
 *
 * Communicators are non-blocking ones: a call that has to wait for other ranks returns, and whoever
 * waits for it asks the watch. ncclCommAbort ends kernels that wait for a rank. NCCL keeps a
 * communicator's memory until all ranks of the process have left it and no graph has its launches.
 */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/group.h"

#include <stdio.h>
#include <stdlib.h>

#ifdef SERVERD_HAS_NCCL

#include <dlfcn.h>
#include <nccl.h>
#include <sched.h>
#include <string.h>

static_assert(GPU_GROUP_ID_BYTES == sizeof(ncclUniqueId), "an id is NCCL's");

/* ---- the library ----------------------------------------------------------------------------- */

struct library {
    bool is_there;
    char reason[128];
    decltype(&ncclGetVersion) get_version;
    decltype(&ncclGetErrorString) get_error_string;
    decltype(&ncclGetUniqueId) get_unique_id;
    decltype(&ncclCommInitRankConfig) init_rank;
    decltype(&ncclCommGetAsyncError) get_async_error;
    decltype(&ncclCommAbort) abort;
    decltype(&ncclAllGather) all_gather;
    decltype(&ncclSend) send;
    decltype(&ncclRecv) receive;
    decltype(&ncclGroupStart) group_start;
    decltype(&ncclGroupEnd) group_end;
};

static bool find_functions(struct library *library, void *object)
{
    const struct {
        const char *name;
        void *function;
    } wanted[] = {{"ncclGetVersion", &library->get_version},
                  {"ncclGetErrorString", &library->get_error_string},
                  {"ncclGetUniqueId", &library->get_unique_id},
                  {"ncclCommInitRankConfig", &library->init_rank},
                  {"ncclCommGetAsyncError", &library->get_async_error},
                  {"ncclCommAbort", &library->abort},
                  {"ncclAllGather", &library->all_gather},
                  {"ncclSend", &library->send},
                  {"ncclRecv", &library->receive},
                  {"ncclGroupStart", &library->group_start},
                  {"ncclGroupEnd", &library->group_end}};
    for (const auto &row : wanted) {
        void *const symbol = dlsym(object, row.name);
        if (!symbol) {
            snprintf(library->reason, sizeof library->reason, "libnccl.so.2 has no %s", row.name);
            return false;
        }
        memcpy(row.function, &symbol, sizeof symbol);
    }
    return true;
}

static struct library load_library()
{
    struct library library = {};
    void *const object = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    int version = 0;
    if (!object) {
        snprintf(library.reason, sizeof library.reason, "libnccl.so.2 is not found");
    } else if (find_functions(&library, object)) {
        /* structures of an older library would be shorter */
        library.is_there =
            library.get_version(&version) == ncclSuccess && version >= NCCL_VERSION_CODE;
        if (!library.is_there)
            snprintf(library.reason, sizeof library.reason,
                     "libnccl.so.2 is version %d, at least %d is needed", version,
                     NCCL_VERSION_CODE);
    }
    return library;
}

/* Loaded once, and never changed. */
static const struct library *nccl()
{
    static const struct library library = load_library();
    return &library;
}

/* ---- waiting --------------------------------------------------------------------------------- */

struct gpu_group {
    ncclComm_t comm;
    uint32_t rank, n_ranks;
    struct gpu_group_watch watch;
    bool is_over;        /* the watch has said it */
    ncclResult_t result; /* the first that was an error */
    const char *where;   /* what failed */
};

static bool has_failed(const struct gpu_group *group)
{
    return group->is_over || group->result != ncclSuccess;
}

static void note(struct gpu_group *group, ncclResult_t result, const char *where)
{
    if (result == ncclSuccess || result == ncclInProgress || has_failed(group))
        return;
    group->result = result;
    group->where = where;
}

/* Looks whether waiting makes sense. */
static bool may_go_on(struct gpu_group *group, const char *where)
{
    ncclResult_t state = ncclSuccess;
    group->is_over = group->is_over || group->watch.is_over(group->watch.context);
    note(group, nccl()->get_async_error(group->comm, &state), where);
    note(group, state, where);
    return !has_failed(group);
}

/* Until the communicator has done what it returned from. */
static void settle(struct gpu_group *group, ncclResult_t result, const char *where)
{
    note(group, result, where);
    while (result == ncclInProgress && may_go_on(group, where)) {
        sched_yield();
        if (nccl()->get_async_error(group->comm, &result) != ncclSuccess)
            result = ncclInternalError;
        note(group, result, where);
    }
}

static serverd_status tell(const struct gpu_group *group, serverd_error *err)
{
    if (group->is_over)
        return set_error(err, SERVERD_DEVICE_LOST, "meeting ranks",
                         "another rank of the model has failed");
    return set_error(err, SERVERD_DEVICE_LOST, group->where,
                     nccl()->get_error_string(group->result));
}

/* ---- life ------------------------------------------------------------------------------------ */

extern "C" bool gpu_groups_are_possible(char *reason, size_t reason_bytes)
{
    if (!nccl()->is_there)
        snprintf(reason, reason_bytes, "%s", nccl()->reason);
    return nccl()->is_there;
}

extern "C" serverd_status gpu_group_make_id(unsigned char id[GPU_GROUP_ID_BYTES],
                                            serverd_error *err)
{
    ncclUniqueId unique;
    const ncclResult_t result = nccl()->get_unique_id(&unique);
    if (result != ncclSuccess)
        return set_error(err, SERVERD_DEVICE_LOST, "naming a group of ranks",
                         nccl()->get_error_string(result));
    memcpy(id, &unique, sizeof unique);
    return SERVERD_OK;
}

extern "C" serverd_status gpu_group_join(struct gpu *gpu,
                                         const unsigned char id[GPU_GROUP_ID_BYTES], uint32_t rank,
                                         uint32_t n_ranks, const struct gpu_group_watch *watch,
                                         struct gpu_group **out, serverd_error *err)
{
    struct gpu_group *group = (struct gpu_group *)calloc(1, sizeof *group);
    if (!group)
        return set_error(err, SERVERD_NOMEM, "joining a group of ranks", "no memory");
    ncclUniqueId unique;
    memcpy(&unique, id, sizeof unique);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    group->rank = rank;
    group->n_ranks = n_ranks;
    group->watch = *watch;
    const char *where = "joining a group of ranks";
    const ncclResult_t result =
        nccl()->init_rank(&group->comm, (int)n_ranks, unique, (int)rank, &config);
    if (group->comm)
        settle(group, result, where);
    else
        note(group, result == ncclSuccess || result == ncclInProgress ? ncclInternalError : result,
             where);
    if (has_failed(group)) {
        const serverd_status status = tell(group, err);
        gpu_group_leave(gpu, group);
        return status;
    }
    *out = group;
    return SERVERD_OK;
}

extern "C" void gpu_group_leave(struct gpu *gpu, struct gpu_group *group)
{
    if (!group)
        return;
    (void)cudaSetDevice(gpu->ordinal);
    if (group->comm)
        (void)nccl()->abort(group->comm);
    (void)cudaGetLastError();
    free(group);
}

/* ---- operations ------------------------------------------------------------------------------ */

extern "C" void gpu_group_all_gather(struct gpu *gpu, struct gpu_group *group, const float *part,
                                     size_t n, float *out)
{
    if (has_failed(group))
        return;
    settle(group, nccl()->all_gather(part, out, n, ncclFloat, group->comm, gpu->stream),
           "gathering parts of all ranks");
}

extern "C" void gpu_group_exchange(struct gpu *gpu, struct gpu_group *group, const float *parts,
                                   size_t n, float *out)
{
    const char *where = "exchanging parts with all ranks";
    if (has_failed(group))
        return;
    note(group, nccl()->group_start(), where);
    for (uint32_t r = 0; r < group->n_ranks; r++) {
        note(group, nccl()->send(parts + r * n, n, ncclFloat, (int)r, group->comm, gpu->stream),
             where);
        note(group, nccl()->receive(out + r * n, n, ncclFloat, (int)r, group->comm, gpu->stream),
             where);
    }
    settle(group, nccl()->group_end(), where);
}

extern "C" void gpu_group_gather(struct gpu *gpu, struct gpu_group *group, const float *part,
                                 const size_t *n, float *out)
{
    const char *where = "gathering at rank 0";
    if (has_failed(group))
        return;
    if (group->rank == 0)
        gpu_copy(gpu, out, part, n[0] * sizeof *out);
    note(group, nccl()->group_start(), where);
    if (group->rank != 0)
        note(group, nccl()->send(part, n[group->rank], ncclFloat, 0, group->comm, gpu->stream),
             where);
    for (uint32_t r = 1; group->rank == 0 && r < group->n_ranks; r++) {
        out += n[r - 1];
        note(group, nccl()->receive(out, n[r], ncclFloat, (int)r, group->comm, gpu->stream), where);
    }
    settle(group, nccl()->group_end(), where);
}

extern "C" serverd_status gpu_group_wait(struct gpu *gpu, struct gpu_group *group,
                                         serverd_error *err)
{
    while (may_go_on(group, "meeting ranks")) {
        /* other errors than this are gpu_wait's to tell */
        if (cudaStreamQuery(gpu->stream) != cudaErrorNotReady)
            return SERVERD_OK;
        sched_yield();
    }
    return tell(group, err);
}

#else

/* Built without NCCL's header. */

extern "C" bool gpu_groups_are_possible(char *reason, size_t reason_bytes)
{
    snprintf(reason, reason_bytes, "this build is without NCCL");
    return false;
}

extern "C" serverd_status gpu_group_make_id(unsigned char id[GPU_GROUP_ID_BYTES],
                                            serverd_error *err)
{
    (void)id;
    return set_error(err, SERVERD_INTERNAL, "naming a group of ranks", "no NCCL");
}

extern "C" serverd_status gpu_group_join(struct gpu *gpu,
                                         const unsigned char id[GPU_GROUP_ID_BYTES], uint32_t rank,
                                         uint32_t n_ranks, const struct gpu_group_watch *watch,
                                         struct gpu_group **out, serverd_error *err)
{
    (void)gpu, (void)id, (void)rank, (void)n_ranks, (void)watch, (void)out;
    return set_error(err, SERVERD_INTERNAL, "joining a group of ranks", "no NCCL");
}

extern "C" void gpu_group_all_gather(struct gpu *gpu, struct gpu_group *group, const float *part,
                                     size_t n, float *out)
{
    (void)gpu, (void)group, (void)part, (void)n, (void)out;
}

extern "C" void gpu_group_exchange(struct gpu *gpu, struct gpu_group *group, const float *parts,
                                   size_t n, float *out)
{
    (void)gpu, (void)group, (void)parts, (void)n, (void)out;
}

extern "C" void gpu_group_gather(struct gpu *gpu, struct gpu_group *group, const float *part,
                                 const size_t *n, float *out)
{
    (void)gpu, (void)group, (void)part, (void)n, (void)out;
}

extern "C" serverd_status gpu_group_wait(struct gpu *gpu, struct gpu_group *group,
                                         serverd_error *err)
{
    (void)gpu, (void)group;
    return set_error(err, SERVERD_INTERNAL, "meeting ranks", "no NCCL");
}

extern "C" void gpu_group_leave(struct gpu *gpu, struct gpu_group *group)
{
    (void)gpu, (void)group;
}

#endif
