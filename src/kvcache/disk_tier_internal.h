/* The disk tier from within. disk_tier.c is the engine's side, which only touches memory under the
 * mutex; disk_worker.c is the tier's thread, which reads and writes files. */
#ifndef KVCACHE_DISK_TIER_INTERNAL_H
#define KVCACHE_DISK_TIER_INTERNAL_H

#include "kvcache/disk_index.h"
#include "kvcache/disk_tier.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define SECOND_NS UINT64_C(1000000000)

/* Files take whole blocks of the disk. */
#define BLOCK_BYTES UINT64_C(4096)

/* How much earlier a page's rank is for each page before it, up to a bound. */
#define RANK_STEP_NS     UINT64_C(1000000)
#define RANK_MAX_STEP_NS (60 * SECOND_NS)

/* The folder is read again so often at most. */
#define RESCAN_NS (60 * SECOND_NS)

#define NO_SLOT UINT32_MAX

struct slot {
    struct disk_page page;
    uint64_t rank_ns;
    uint32_t next; /* free ones, or stores in order */
};

struct staging {
    struct slot *slots;
    char *memory; /* [n_slots][slot_bytes]; becomes real as it is used */
    uint64_t slot_bytes;
    uint32_t n_slots, n_free, first_free;
};

static inline void staging_give(struct staging *staging, uint32_t i)
{
    staging->slots[i].next = staging->first_free;
    staging->first_free = i;
    staging->n_free++;
}

static inline char *slot_payload(const struct staging *staging, uint32_t i)
{
    return staging->memory + i * staging->slot_bytes;
}

struct disk_load {
    const struct staging *staging;
    struct disk_load *next;
    struct disk_chain chain;
    bool is_begun;            /* the thread has it */
    _Atomic uint32_t n_ready; /* release: the page's bytes come first */
    _Atomic bool is_done;     /* release: n_ready is final */
    _Atomic bool is_dropped;  /* relaxed: a hint to stop early; the mutex decides who frees */
    uint32_t n_pages;
    uint32_t slots[]; /* [n_pages] */
};

enum scan_phase { SCAN_RESTS, SCAN_READS, SCAN_SWEEPS };

/* Reading the folder, in parts. The thread's alone. */
struct scan {
    enum scan_phase phase;
    DIR *dir;
    uint32_t number; /* of this reading; 0: there was none */
    uint32_t swept;  /* slots of the index */
    uint64_t begin_ns, next_ns;
    struct timespec folder_time; /* the folder's time of change when it was last read */
};

struct disk_tier {
    struct disk_tier_options options;
    int folder;
    uint64_t most_bytes; /* of a page with its window page */
    uint64_t epoch_ns;   /* Unix time when the clock showed 0 */
    uint64_t random;     /* of this process: for temporary names */
    pthread_t thread;

    /* The thread's alone. */
    struct scan scan;
    uint64_t n_temporaries;
    uint64_t shown_bytes;              /* in the metrics */
    uint64_t pause_ns;                 /* how long the next pause is */
    uint64_t log_after_ns, n_unlogged; /* bad files */

    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t work;   /* for the thread: there is something to do */
    pthread_cond_t idle;   /* for flush: a store or the first reading is done */
    struct disk_index *index;
    struct staging store, load;
    uint32_t first_store, last_store; /* slots to be written, in order */
    uint32_t n_to_store;              /* these, and the one that is being written */
    struct disk_load *first_load, *last_load;
    uint32_t n_loading;       /* pages of loads that are not done */
    uint64_t writes_after_ns; /* no writing before this time */
    void (*wake)(void *context);
    void *wake_context;
    bool is_ending;
    struct disk_tier_status numbers; /* what is counted; the rest is filled in when asked for */
};

static inline uint64_t now_ns(const struct disk_tier *tier)
{
    return clock_now_ns(tier->options.clock);
}

static inline void lock(const struct disk_tier *tier)
{
    (void)pthread_mutex_lock((pthread_mutex_t *)&tier->mutex); /* a constant tier, too */
}

static inline void unlock(const struct disk_tier *tier)
{
    (void)pthread_mutex_unlock((pthread_mutex_t *)&tier->mutex);
}

/* The mutex is held. */
static inline void count(struct disk_tier *tier, uint64_t *number, enum metric_id id, uint64_t n)
{
    *number += n;
    metrics_add(tier->options.metrics, id, (double)n);
}

/* Rank of a page that is used now, with so many pages before it. */
static inline uint64_t rank_of(const struct disk_tier *tier, uint64_t n_before)
{
    uint64_t step = n_before * RANK_STEP_NS;
    uint64_t now = tier->epoch_ns + now_ns(tier);
    step = step < RANK_MAX_STEP_NS ? step : RANK_MAX_STEP_NS;
    return now > step ? now - step : 1;
}

/* What a file takes on the disk. */
static inline uint64_t disk_file_bytes(uint64_t payload_bytes)
{
    return (DISK_PAGE_HEADER_BYTES + payload_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
}

struct disk_page disk_tier_page(const struct disk_tier *tier, const struct disk_chain *chain,
                                const int32_t *tokens, bool has_window);

/* The mutex is held, here and in the next two. A page that does not become a file. */
void disk_tier_give_up(struct disk_tier *tier, uint32_t slot);
void disk_tier_unlink_load(struct disk_tier *tier, const struct disk_load *load);
void disk_tier_free_load(struct disk_tier *tier, struct disk_load *load);

/* The thread's function, until is_ending. */
void *disk_worker_run(void *tier);

#endif
