/* The threads that compute. parallel_for spreads chunks over the pool; the calling thread is
 * worker 0. Chunks are handed out by an atomic counter, so a descheduled thread delays only its
 * own chunk. Waiting threads spin briefly, then sleep on a futex: an idle pool costs nothing. */
#ifndef RUNTIME_WORKER_POOL_H
#define RUNTIME_WORKER_POOL_H

#include "serverd/status.h"

struct worker_pool;

/* n_workers >= 1, the caller of parallel_for included; 0: one per processor that the process
 * may use (affinity mask and cgroup quota). */
serverd_status worker_pool_create(uint32_t n_workers, struct worker_pool **out, serverd_error *err);
void worker_pool_destroy(struct worker_pool *pool);

uint32_t worker_pool_n_workers(const struct worker_pool *pool);

/* fn(arg, chunk, worker) once for every chunk < n_chunks; returns when all are done. One caller
 * at a time, not from inside fn. */
void worker_pool_run(struct worker_pool *pool, uint32_t n_chunks,
                     void (*fn)(void *arg, uint32_t chunk, uint32_t worker), void *arg);

#endif
