/* Copies into a block's memory that a thread starts and goes on (cp.async): 16 bytes each, both
 * sides aligned to them. What a thread has started since the last commit is a group; copies_wait
 * comes back when at most N of its groups are still under way. A thread waits for its own copies
 * only: others' are there behind a barrier that comes after everybody's wait. Emulated, a copy may
 * happen as late as the wait, or at once. */
#ifndef KERNELS_CUDA_ASYNC_COPY_CUH
#define KERNELS_CUDA_ASYNC_COPY_CUH

#include "kernels/cuda/platform.cuh"

#ifdef __CUDACC__

/* Not through the first-level cache: what a block reads so it reads once. */
__device__ static __forceinline__ void copy_async(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;"
                 :
                 : "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from)
                 : "memory");
}

__device__ static __forceinline__ void copies_commit()
{
    asm volatile("cp.async.commit_group;" : : : "memory");
}

template <int N> __device__ static __forceinline__ void copies_wait()
{
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
}

#else

static inline void copy_async(void *to, const void *from)
{
    emulation::copy_later(to, from);
}

static inline void copies_commit()
{
    emulation::copies_commit();
}

template <int N> void copies_wait()
{
    emulation::copies_wait(N);
}

#endif
#endif
