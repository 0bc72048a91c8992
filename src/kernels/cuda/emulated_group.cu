/* Groups of ranks in one process: each is a thread, and the ranks read each other's memory. As with
 * NCCL nobody learns from the group itself that another rank has left: only a watch tells. */
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/emulated_group.h"
#include "kernels/cuda/group.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>

/* ---- for tests ------------------------------------------------------------------------------- */

static std::atomic<bool> are_possible{true};
static std::atomic<uint64_t> n_operations{0};
static std::atomic<uint32_t> failing_rank{0}, calls_until_failure{0};

extern "C" void emulated_groups_allow(bool value)
{
    are_possible = value;
}

extern "C" void emulated_groups_fail(uint32_t rank, uint32_t call)
{
    failing_rank = rank;
    calls_until_failure = call;
}

extern "C" uint64_t emulated_groups_operations(void)
{
    return n_operations;
}

/* ---- a place where ranks meet ---------------------------------------------------------------- */

static const uint32_t MAX_RANKS = 16;

struct part {
    const float *numbers;
    size_t n;
};

struct place {
    std::mutex lock;
    std::condition_variable changed;
    uint32_t n_ranks, n_arrived = 0, round = 0;
    part parts[MAX_RANKS];
};

/* Records have it, too. */
struct member {
    std::shared_ptr<place> at;
    uint32_t rank, n_ranks;
    gpu_group_watch watch;
    bool is_over, is_broken, has_left;
};

struct gpu_group {
    std::shared_ptr<member> self;
};

static std::mutex places_lock; /* of both */
static std::map<uint64_t, std::weak_ptr<place>> places;
static uint64_t n_ids;

static void die(const char *why)
{
    fprintf(stderr, "emulated group: %s\n", why);
    abort();
}

/* False: somebody will not come. */
static bool arrive(member *group)
{
    std::unique_lock<std::mutex> lock(group->at->lock);
    const uint32_t round = group->at->round;
    if (++group->at->n_arrived == group->n_ranks) {
        group->at->n_arrived = 0;
        group->at->round++;
        group->at->changed.notify_all();
    }
    while (group->at->round == round && !group->is_over) {
        group->at->changed.wait_for(lock, std::chrono::microseconds(200));
        group->is_over = group->watch.is_over(group->watch.context);
    }
    return group->at->round != round;
}

static bool is_failing(const member *group)
{
    n_operations++;
    if (group->rank != failing_rank || calls_until_failure == 0)
        return false;
    return --calls_until_failure == 0;
}

/* `take` has all ranks' parts before it. */
template <typename Take> static void meet(member *group, const float *part, size_t n, Take take)
{
    if (group->has_left)
        die("a record of a group that was left");
    if (group->is_over || group->is_broken)
        return;
    group->is_broken = is_failing(group);
    if (group->is_broken)
        return;
    group->at->parts[group->rank] = {part, n};
    if (!arrive(group))
        return;
    take(group->at->parts);
    (void)arrive(group); /* before it others read this rank's part */
}

/* ---- life ------------------------------------------------------------------------------------ */

extern "C" bool gpu_groups_are_possible(char *reason, size_t reason_bytes)
{
    if (!are_possible)
        snprintf(reason, reason_bytes, "a test says no");
    return are_possible;
}

extern "C" serverd_status gpu_group_make_id(unsigned char id[GPU_GROUP_ID_BYTES],
                                            serverd_error *err)
{
    (void)err;
    const std::lock_guard<std::mutex> lock(places_lock);
    const uint64_t number = ++n_ids;
    memset(id, 0xa5, GPU_GROUP_ID_BYTES);
    memcpy(id, &number, sizeof number);
    return SERVERD_OK;
}

static std::shared_ptr<place> find_place(const unsigned char *id, uint32_t n_ranks)
{
    uint64_t number;
    memcpy(&number, id, sizeof number);
    const std::lock_guard<std::mutex> lock(places_lock);
    std::shared_ptr<place> found = places[number].lock();
    if (!found) {
        found = std::make_shared<place>();
        found->n_ranks = n_ranks;
        places[number] = found;
    }
    return found;
}

extern "C" serverd_status gpu_group_join(struct gpu *gpu,
                                         const unsigned char id[GPU_GROUP_ID_BYTES], uint32_t rank,
                                         uint32_t n_ranks, const struct gpu_group_watch *watch,
                                         struct gpu_group **out, serverd_error *err)
{
    for (uint32_t i = sizeof(uint64_t); i < GPU_GROUP_ID_BYTES; i++)
        if (id[i] != 0xa5)
            return set_error(err, SERVERD_INTERNAL, "joining a group of ranks", "it is no id");
    if (n_ranks > MAX_RANKS)
        return set_error(err, SERVERD_INTERNAL, "joining a group of ranks", "too many");
    std::shared_ptr<member> self(
        new member{find_place(id, n_ranks), rank, n_ranks, *watch, false, false, false});
    if (!arrive(self.get()))
        return set_error(err, SERVERD_DEVICE_LOST, "joining a group of ranks",
                         "another rank of the model has failed");
    *out = new gpu_group{self};
    return SERVERD_OK;
}

extern "C" void gpu_group_leave(struct gpu *gpu, struct gpu_group *group)
{
    (void)gpu;
    if (group)
        group->self->has_left = true;
    delete group;
}

/* ---- operations ------------------------------------------------------------------------------ */

extern "C" void gpu_group_all_gather(struct gpu *gpu, struct gpu_group *group, const float *part,
                                     size_t n, float *out)
{
    (void)gpu;
    const std::shared_ptr<member> self = group->self;
    emulation::run_or_record_call([=] {
        meet(self.get(), part, n, [=](const struct part *parts) {
            for (uint32_t r = 0; r < self->n_ranks; r++) {
                if (parts[r].n != n)
                    die("parts of different sizes");
                if (r != self->rank || part != out + r * n)
                    memcpy(out + r * n, parts[r].numbers, n * sizeof *out);
            }
        });
    });
}

extern "C" void gpu_group_exchange(struct gpu *gpu, struct gpu_group *group, const float *parts,
                                   size_t n, float *out)
{
    (void)gpu;
    const std::shared_ptr<member> self = group->self;
    emulation::run_or_record_call([=] {
        meet(self.get(), parts, n, [=](const struct part *others) {
            for (uint32_t r = 0; r < self->n_ranks; r++) {
                if (others[r].n != n)
                    die("parts of different sizes");
                memcpy(out + r * n, others[r].numbers + self->rank * n, n * sizeof *out);
            }
        });
    });
}

extern "C" void gpu_group_gather(struct gpu *gpu, struct gpu_group *group, const float *part,
                                 const size_t *n, float *out)
{
    (void)gpu;
    const std::shared_ptr<member> self = group->self;
    const std::vector<size_t> sizes(n, n + self->n_ranks);
    emulation::run_or_record_call([=] {
        meet(self.get(), part, sizes[self->rank], [=](const struct part *parts) {
            float *to = out;
            for (uint32_t r = 0; self->rank == 0 && r < self->n_ranks; r++) {
                if (parts[r].n != sizes[r])
                    die("parts of other sizes");
                memcpy(to, parts[r].numbers, sizes[r] * sizeof *to);
                to += sizes[r];
            }
        });
    });
}

extern "C" serverd_status gpu_group_wait(struct gpu *gpu, struct gpu_group *group,
                                         serverd_error *err)
{
    (void)gpu;
    const member *self = group->self.get();
    if (!self->is_over && !self->is_broken)
        return SERVERD_OK;
    return set_error(err, SERVERD_DEVICE_LOST, "meeting ranks",
                     self->is_over ? "another rank of the model has failed" : "a link is broken");
}
