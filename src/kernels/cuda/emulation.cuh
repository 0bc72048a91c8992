/* The CUDA execution model on the host, so that kernels are tested where there is no GPU: a thread
 * is a fiber, a block's threads run one at a time, and whoever waits (a barrier, a warp's exchange)
 * lets another go on, chosen at random. What depends on an order that CUDA does not promise comes
 * out different from run to run, so that tests see it. Blocks run one after the other.
 *
 * Only what the kernels use is here. A kernel whose threads wait for different things for ever, or
 * leave a warp's exchange out, ends the process with a message: it is a bug of the kernel.
 *
 * One host thread at a time. */
#ifndef KERNELS_CUDA_EMULATION_CUH
#define KERNELS_CUDA_EMULATION_CUH

#include <functional>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __restrict__ __restrict
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z)
    {
    }
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};
typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_event *cudaEvent_t;

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation
{

/* Runs all blocks of a grid; each thread calls body(context). */
void launch(dim3 grid, dim3 block, void (*body)(void *), void *context);

/* All threads of the block, or of the warp, have come here. */
void block_barrier();
void warp_barrier();

/* Of the thread's block: the same n bytes for all threads that ask at the same place of the code.
 */
void *shared(const void *place, size_t n);

/* 64 bytes of the warp for each lane, by which lanes exchange values. */
char *exchange_slot(unsigned lane);
unsigned lane();

/* 16 bytes that the thread copies into memory of the block: at once, or when it waits for them, as
 * drawn. wait: for all groups but the last n; what is in no group yet is not waited for. */
void copy_later(void *to, const void *from);
void copies_commit();
void copies_wait(unsigned n);

/* What differs from run to run is chosen with it. */
void seed(uint64_t seed);

/* A launch with its arguments as they were, kept to be run again and again; or, where the grid is
 * empty, another call of the stream. */
struct recorded_launch {
    dim3 grid, block;
    std::function<void()> body;
};
extern thread_local std::vector<recorded_launch> *recording; /* NULL: launches run at once */

/* Ends the test if a device would refuse such a launch. */
void check_launch(dim3 grid, dim3 block, size_t shared_bytes);

template <typename Body> void run(dim3 grid, dim3 block, Body body)
{
    launch(
        grid, block, [](void *context) { (*static_cast<Body *>(context))(); }, &body);
}

template <typename Kernel, typename... Arguments>
void run_or_record(dim3 grid, dim3 block, size_t shared_bytes, Kernel kernel,
                   Arguments... arguments)
{
    check_launch(grid, block, shared_bytes);
    const auto body = [=] { kernel(arguments...); };
    if (recording)
        recording->push_back(recorded_launch{grid, block, body});
    else
        run(grid, block, body);
}

template <typename Body> void run_or_record_call(Body body)
{
    if (recording)
        recording->push_back(recorded_launch{dim3(0), dim3(0), body});
    else
        body();
}

inline void repeat(const recorded_launch &launch)
{
    if (launch.grid.x == 0)
        launch.body();
    else
        run(launch.grid, launch.block, launch.body);
}

template <typename T> T shuffle(T value, unsigned from)
{
    T out;
    memcpy(exchange_slot(lane()), &value, sizeof value);
    warp_barrier();
    memcpy(&out, exchange_slot(from), sizeof out);
    warp_barrier();
    return out;
}

} // namespace emulation

#define LAUNCH_SHARED(kernel, grid, block, bytes, stream, ...)                                     \
    ((void)(stream), emulation::run_or_record(                                                     \
                         grid, block, bytes, [](auto... a) { kernel(a...); }, __VA_ARGS__))
#define SHARED(type, name, n)                                                                      \
    static const char name##_place = 0;                                                            \
    type *name = static_cast<type *>(emulation::shared(&name##_place, (n) * sizeof(type)))

#define SHARED_DYNAMIC(type, name, n) SHARED(type, name, n)

static inline void __syncthreads()
{
    emulation::block_barrier();
}
static inline void __syncwarp()
{
    emulation::warp_barrier();
}
template <typename T> T __shfl_sync(unsigned, T value, int from)
{
    return emulation::shuffle(value, (unsigned)from & 31u);
}
template <typename T> T __shfl_xor_sync(unsigned, T value, int mask)
{
    return emulation::shuffle(value, emulation::lane() ^ (unsigned)mask);
}
static inline float __uint_as_float(unsigned bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline unsigned __float_as_uint(float value)
{
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline uint32_t min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
static inline uint32_t max(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}
/* One thread runs at a time, and keeps running until it waits. */
template <typename T> T atomicAdd(T *at, T value)
{
    const T before = *at;
    *at = before + value;
    return before;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}

#endif
