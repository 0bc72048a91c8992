#include "runtime/worker_pool.h"

#include "base/clock.h"
#include "base/cpu_pause.h"
#include "base/error.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/numeric.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* A wait of this many pauses (tens of microseconds) bridges the gap between two operations of a
 * step; after it the thread sleeps. */
#define SPIN_PAUSES 4000

/* The ticket of a job that is being written: no chunk number reaches it. */
#define NO_CHUNK UINT32_MAX

#define NS_PER_S 1000000000ull

/* A worker that is found to hold the last chunk for this much longer than the caller has worked has
 * lost its processor to somebody else, for some milliseconds as schedulers go. It then sits out
 * some steps: the others are faster without it than waiting for it. A single loss says little, so
 * the first rest is short; each that follows soon after the last one is twice as long. */
#define LATE_NS     (200 * 1000ull)
#define REST_NS     (4 * 1000 * 1000ull)
#define SOON_NS     (50 * 1000 * 1000ull)
#define REST_MAX_NS (256 * 1000 * 1000ull)

struct worker {
    struct worker_pool *pool;
    uint32_t index;
    pthread_t thread;
    _Atomic bool holds_chunk;
    _Atomic uint64_t rests_until; /* on the monotonic clock; 0: does not rest */
    /* The caller's: */
    bool is_late;               /* it waits for this one */
    uint64_t rest_ns, rest_end; /* of the last rest */
};

struct worker_pool {
    uint32_t n_workers, n_started; /* n_started: threads, the caller not among them */
    struct worker *workers;

    /* The job. Its fields change only while `ticket` says NO_CHUNK; a worker's claim of a chunk
     * fails if the job changed between its reading the fields and its claim. */
    _Atomic uint64_t ticket; /* job number << 32 | next chunk */
    _Atomic(void (*)(void *, uint32_t, uint32_t)) fn;
    _Atomic(void *) arg;
    _Atomic uint32_t n_chunks;
    uint32_t job; /* the caller's */

    _Alignas(64) _Atomic uint32_t n_left; /* chunks not yet done; the caller sleeps on it */
    _Atomic uint32_t caller_sleeps;

    _Alignas(64) _Atomic uint32_t wake; /* counts the jobs; idle workers sleep on it */
    _Atomic uint32_t n_sleeping;
    _Atomic uint32_t stops; /* or not: 1, 0 */
};

/* Until the word is woken, or at once if it is not `expected`, or for `or_null` at most. */
static void futex_wait(_Atomic uint32_t *word, uint32_t expected, const struct timespec *or_null)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, or_null, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* A worker that sits out some steps sleeps, so that nobody spends time on waking it. */
static void take_rest(struct worker *worker)
{
    uint64_t until = atomic_exchange_explicit(&worker->rests_until, 0, memory_order_relaxed);
    for (uint64_t now; until != 0 && (now = clock_now_ns(&system_clock)) < until;) {
        uint64_t left = until - now;
        struct timespec time = {.tv_sec = (time_t)(left / NS_PER_S),
                                .tv_nsec = (long)(left % NS_PER_S)};
        if (atomic_load(&worker->pool->stops))
            return;
        futex_wait(&worker->pool->stops, 0, &time);
    }
}

/* Takes chunks of the present job until there are none. */
static void work(struct worker_pool *pool, uint32_t worker)
{
    struct worker *self = &pool->workers[worker];
    atomic_store_explicit(&self->holds_chunk, true, memory_order_relaxed);
    for (;;) {
        uint64_t ticket = atomic_load(&pool->ticket);
        uint32_t chunk = (uint32_t)ticket;
        if (chunk >= atomic_load(&pool->n_chunks)) {
            atomic_store_explicit(&self->holds_chunk, false, memory_order_relaxed);
            return;
        }
        void (*fn)(void *, uint32_t, uint32_t) = atomic_load(&pool->fn);
        void *arg = atomic_load(&pool->arg);
        if (!atomic_compare_exchange_strong(&pool->ticket, &ticket, ticket + 1))
            continue;
        fn(arg, chunk, worker);
        if (atomic_fetch_sub(&pool->n_left, 1) == 1 && atomic_load(&pool->caller_sleeps))
            futex_wake_all(&pool->n_left);
    }
}

/* Waits until `wake` is no longer `seen`; returns its new value. */
static uint32_t await_job(struct worker_pool *pool, uint32_t seen)
{
    uint32_t now;
    for (int i = 0; i < SPIN_PAUSES; i++) {
        now = atomic_load_explicit(&pool->wake, memory_order_acquire);
        if (now != seen)
            return now;
        cpu_pause();
    }
    atomic_fetch_add(&pool->n_sleeping, 1);
    while ((now = atomic_load(&pool->wake)) == seen)
        futex_wait(&pool->wake, seen, NULL);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    return now;
}

static void *worker_main(void *context)
{
    struct worker *self = context;
    struct worker_pool *pool = self->pool;
    uint32_t seen = 0;
    while (!atomic_load(&pool->stops)) {
        take_rest(self);
        work(pool, self->index);
        seen = await_job(pool, seen);
    }
    return NULL;
}

static void wake_workers(struct worker_pool *pool)
{
    atomic_fetch_add(&pool->wake, 1);
    if (atomic_load(&pool->n_sleeping))
        futex_wake_all(&pool->wake);
}

static void give_rest(struct worker *worker, uint64_t now)
{
    bool again = now < worker->rest_end + SOON_NS;
    worker->rest_ns = again ? min_size(2 * worker->rest_ns, REST_MAX_NS) : REST_NS;
    worker->rest_end = now + worker->rest_ns;
    atomic_store_explicit(&worker->rests_until, worker->rest_end, memory_order_relaxed);
}

/* The caller has worked on the job since `begin`. */
static void await_done(struct worker_pool *pool, uint64_t begin)
{
    for (int i = 0; i < SPIN_PAUSES; i++) {
        if (atomic_load_explicit(&pool->n_left, memory_order_acquire) == 0)
            return;
        cpu_pause();
    }
    uint64_t done = clock_now_ns(&system_clock);
    for (uint32_t i = 1; i <= pool->n_started; i++)
        pool->workers[i].is_late =
            atomic_load_explicit(&pool->workers[i].holds_chunk, memory_order_relaxed);
    atomic_store(&pool->caller_sleeps, 1);
    for (uint32_t n; (n = atomic_load(&pool->n_left)) != 0;)
        futex_wait(&pool->n_left, n, NULL);
    atomic_store(&pool->caller_sleeps, 0);
    uint64_t now = clock_now_ns(&system_clock);
    if (now - done <= done - begin + LATE_NS)
        return;
    for (uint32_t i = 1; i <= pool->n_started; i++)
        if (pool->workers[i].is_late)
            give_rest(&pool->workers[i], now);
}

void worker_pool_run(struct worker_pool *pool, uint32_t n_chunks,
                     void (*fn)(void *arg, uint32_t chunk, uint32_t worker), void *arg)
{
    if (n_chunks <= 1 || pool->n_started == 0) {
        for (uint32_t i = 0; i < n_chunks; i++)
            fn(arg, i, 0);
        return;
    }
    uint64_t job = (uint64_t)++pool->job << 32;
    atomic_store(&pool->ticket, job | NO_CHUNK);
    atomic_store(&pool->fn, fn);
    atomic_store(&pool->arg, arg);
    atomic_store(&pool->n_chunks, n_chunks);
    atomic_store(&pool->n_left, n_chunks);
    atomic_store(&pool->ticket, job);
    wake_workers(pool);
    uint64_t begin = clock_now_ns(&system_clock);
    work(pool, 0);
    await_done(pool, begin);
}

/* ---- how many ---------------------------------------------------------------------------- */

static uint32_t affinity_cpus(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return (uint32_t)CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN); /* more processors than cpu_set_t holds */
    return n > 0 ? (uint32_t)n : 1;
}

/* The processors that "QUOTA PERIOD" of a cgroup's cpu.max allows, rounded up; UINT32_MAX: no
 * limit. */
static uint32_t quota_cpus(void)
{
    char *text;
    size_t len;
    serverd_error ignored; /* no such file: no quota */
    if (file_read("/sys/fs/cgroup/cpu.max", 4 * KIB, &text, &len, &ignored) != SERVERD_OK)
        return UINT32_MAX;
    uint32_t n = UINT32_MAX;
    char *period_text = strchr(text, ' ');
    if (period_text) {
        *period_text++ = '\0';
        period_text[strcspn(period_text, "\n")] = '\0';
        uint64_t quota, period;
        if (parse_u64(text, 1, 1ull << 40, &quota) &&
            parse_u64(period_text, 1, 1ull << 40, &period))
            n = (uint32_t)min_size((quota + period - 1) / period, UINT32_MAX);
    }
    free(text);
    return n;
}

/* ---- life -------------------------------------------------------------------------------- */

serverd_status worker_pool_create(uint32_t n_workers, struct worker_pool **out, serverd_error *err)
{
    if (n_workers == 0)
        n_workers = (uint32_t)min_size(affinity_cpus(), quota_cpus());
    if (n_workers > LIMIT_WORKERS)
        n_workers = LIMIT_WORKERS;
    struct worker_pool *pool = aligned_alloc(64, (sizeof *pool + 63) & ~(size_t)63);
    struct worker *workers = calloc(n_workers, sizeof *workers);
    if (!pool || !workers) {
        free(pool);
        free(workers);
        return fail(err, SERVERD_NOMEM, "worker pool: no memory for %u threads", n_workers);
    }
    memset(pool, 0, sizeof *pool);
    pool->n_workers = n_workers;
    pool->workers = workers;
    atomic_init(&pool->ticket, NO_CHUNK);
    for (uint32_t i = 1; i < n_workers; i++) {
        workers[i] = (struct worker){.pool = pool, .index = i};
        int e = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]);
        if (e != 0) {
            worker_pool_destroy(pool);
            return fail(err, SERVERD_NOMEM, "worker pool: cannot start thread %u of %u: %s", i + 1,
                        n_workers, strerror(e));
        }
        pool->n_started++;
        char name[16];
        (void)snprintf(name, sizeof name, "worker-%u", i);
        (void)pthread_setname_np(workers[i].thread, name); /* for top and debuggers */
    }
    *out = pool;
    return SERVERD_OK;
}

void worker_pool_destroy(struct worker_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stops, 1);
    futex_wake_all(&pool->stops);
    wake_workers(pool);
    for (uint32_t i = 1; i <= pool->n_started; i++)
        (void)pthread_join(pool->workers[i].thread, NULL);
    free(pool->workers);
    free(pool);
}

uint32_t worker_pool_n_workers(const struct worker_pool *pool)
{
    return pool->n_workers;
}
