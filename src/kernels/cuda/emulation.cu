#include "kernels/cuda/emulation.cuh"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <vector>

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation
{

static const unsigned WARP = 32, SLOT_BYTES = 64;
static const size_t STACK_BYTES = 256 * 1024, COPY_BYTES = 16;

enum state { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };

/* A stack is made by ucontext.h, and left and entered again by setjmp.h, which asks the kernel for
 * nothing. */
struct copy {
    void *to;
    const void *from;
    unsigned group;
};

struct fiber {
    ucontext_t first;
    jmp_buf place;
    bool has_begun;
    dim3 index;
    unsigned number;
    enum state state;
    std::vector<char> stack;
    std::vector<copy> copies; /* that have not been made yet */
    unsigned n_groups;
};

struct shared_block {
    const void *place;
    std::vector<char> bytes;
};

static thread_local std::vector<fiber> fibers;
static thread_local std::vector<shared_block> shared_memory;
static thread_local std::vector<char> slots;
static thread_local jmp_buf scheduler;
static thread_local unsigned current, n_threads;
static thread_local void (*thread_body)(void *);
static thread_local void *thread_context;
static thread_local uint64_t random_state = 1;
thread_local std::vector<recorded_launch> *recording;

void seed(uint64_t seed)
{
    random_state = seed * 2 + 1;
}

static uint32_t draw(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random_state >> 33) % n);
}

static void die(const char *why)
{
    fprintf(stderr, "emulation: block %u,%u,%u: %s\n", blockIdx.x, blockIdx.y, blockIdx.z, why);
    abort();
}

static void begin()
{
    thread_body(thread_context);
    fibers[current].state = DONE;
    _longjmp(scheduler, 1);
}

static void go_on(fiber *f)
{
    if (_setjmp(scheduler))
        return;
    if (f->has_begun)
        _longjmp(f->place, 1);
    f->has_begun = true;
    setcontext(&f->first);
}

static void wait_in(enum state state)
{
    fibers[current].state = state;
    if (!_setjmp(fibers[current].place))
        _longjmp(scheduler, 1);
}

void block_barrier()
{
    wait_in(AT_BLOCK_BARRIER);
}

void warp_barrier()
{
    wait_in(AT_WARP_BARRIER);
}

unsigned lane()
{
    return fibers[current].number % WARP;
}

char *exchange_slot(unsigned lane)
{
    return &slots[(fibers[current].number / WARP * WARP + lane) * SLOT_BYTES];
}

/* Nobody may rely on what is in it: noise, another one for each block. */
void *shared(const void *place, size_t n)
{
    for (size_t i = 0; i < shared_memory.size(); i++)
        if (shared_memory[i].place == place)
            return shared_memory[i].bytes.data();
    shared_memory.reserve(64);
    shared_memory.push_back({place, std::vector<char>(n)});
    for (size_t i = 0; i < n; i++)
        shared_memory.back().bytes[i] = (char)draw(256);
    return shared_memory.back().bytes.data();
}

void copy_later(void *to, const void *from)
{
    if (draw(2))
        memcpy(to, from, COPY_BYTES);
    else
        fibers[current].copies.push_back({to, from, fibers[current].n_groups});
}

void copies_commit()
{
    fibers[current].n_groups++;
}

void copies_wait(unsigned n)
{
    std::vector<copy> still;
    for (const copy &c : fibers[current].copies)
        if (c.group + n < fibers[current].n_groups)
            memcpy(c.to, c.from, COPY_BYTES);
        else
            still.push_back(c);
    fibers[current].copies.swap(still);
}

/* Threads first .. end - 1 have all come to a barrier: they go on. Who is done counts as there at a
 * block's barrier, as on the device; at a warp's it has left the others alone. */
static bool release(unsigned first, unsigned end, enum state barrier)
{
    bool is_wanted = false;
    for (unsigned i = first; i < end; i++) {
        const enum state state = fibers[i].state;
        if (state == DONE && barrier == AT_WARP_BARRIER && is_wanted)
            die("a lane has left, others wait for it");
        if (state != barrier && state != DONE)
            return false;
        is_wanted |= state == barrier;
    }
    for (unsigned i = first; i < end; i++)
        if (fibers[i].state == barrier)
            fibers[i].state = READY;
    return is_wanted;
}

static bool release_some()
{
    bool any = release(0, n_threads, AT_BLOCK_BARRIER);
    for (unsigned first = 0; first < n_threads; first += WARP)
        any |= release(first, first + WARP < n_threads ? first + WARP : n_threads, AT_WARP_BARRIER);
    return any;
}

static bool pick(unsigned *out)
{
    const unsigned start = draw(n_threads);
    for (unsigned i = 0; i < n_threads; i++) {
        *out = (start + i) % n_threads;
        if (fibers[*out].state == READY)
            return true;
    }
    return false;
}

static bool is_over()
{
    for (unsigned i = 0; i < n_threads; i++)
        if (fibers[i].state != DONE)
            return false;
    return true;
}

static void run_block()
{
    shared_memory.clear();
    for (unsigned i = 0; i < n_threads; i++) {
        fiber *f = &fibers[i];
        f->number = i;
        f->state = READY;
        f->index = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y));
        f->stack.resize(STACK_BYTES);
        f->has_begun = false;
        f->copies.clear();
        f->n_groups = 0;
        getcontext(&f->first);
        f->first.uc_stack.ss_sp = f->stack.data();
        f->first.uc_stack.ss_size = f->stack.size();
        f->first.uc_link = NULL;
        makecontext(&f->first, begin, 0);
    }
    while (!is_over()) {
        if (!pick(&current)) {
            if (!release_some())
                die("its threads wait for each other");
            continue;
        }
        threadIdx = fibers[current].index;
        go_on(&fibers[current]);
    }
}

/* The limits of all devices; of a block's memory, those of the largest. */
void check_launch(dim3 grid, dim3 block, size_t shared_bytes)
{
    const unsigned n = block.x * block.y * block.z;
    if (n == 0 || n > 1024 || n % WARP != 0)
        die("a block has 32 to 1,024 threads, whole warps");
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || !grid.x || !grid.y || !grid.z)
        die("a grid has 1 to 2^31 - 1, 65,535 and 65,535 blocks");
    if (shared_bytes > 227 * 1024)
        die("a block has at most 227 KiB");
}

void launch(dim3 grid, dim3 block, void (*body)(void *), void *context)
{
    n_threads = block.x * block.y * block.z;
    if (fibers.size() < n_threads)
        fibers = std::vector<fiber>(n_threads);
    slots.assign(n_threads * SLOT_BYTES, 0);
    thread_body = body;
    thread_context = context;
    blockDim = block;
    gridDim = grid;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                run_block();
            }
}

} // namespace emulation
