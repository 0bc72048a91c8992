#include "kvcache/disk_tier.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/numeric.h"
#include "kvcache/disk_index.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE      SERVERD_PAGE_TOKENS
#define SECOND_NS UINT64_C(1000000000)

/* Files take whole blocks of the disk. */
#define BLOCK_BYTES UINT64_C(4096)

/* How much earlier a page's rank is for each page before it, up to a bound. */
#define RANK_STEP_NS     UINT64_C(1000000)
#define RANK_MAX_STEP_NS (60 * SECOND_NS)

/* A disk that fails to write is left alone so long: the first time, and at most. */
#define FIRST_PAUSE_NS (30 * SECOND_NS)
#define MAX_PAUSE_NS   (600 * SECOND_NS)

/* Temporary files of this age belong to a process that died. */
#define LEFTOVER_SECONDS 600

/* The folder is read again so often at most, and takes at most this share of the time. */
#define RESCAN_NS    (60 * SECOND_NS)
#define RESCAN_SHARE 200

/* Lines about bad files come so often at most. */
#define LOG_PAUSE_NS (60 * SECOND_NS)

/* What the thread does of one kind before it looks at the others. */
#define SCAN_RUN  64
#define SWEEP_RUN 1024
#define TOUCH_RUN 64
#define EVICT_RUN 32

#define TEMPORARY_BYTES 54 /* 32 digits, '.', 16 digits, ".tmp" and its NUL */

#define NO_SLOT UINT32_MAX

/* ---- staging memory -------------------------------------------------------------------------- */

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

static bool staging_init(struct staging *staging, uint64_t bytes, uint64_t page_bytes)
{
    size_t slot_bytes;
    if (!size_align(page_bytes, 64, &slot_bytes))
        return false;
    uint32_t n = (uint32_t)min_size(max_size(bytes / slot_bytes, 1), LIMIT_DISK_STAGED);
    *staging = (struct staging){.slots = calloc(n, sizeof *staging->slots),
                                .memory = calloc(n, slot_bytes),
                                .slot_bytes = slot_bytes,
                                .n_slots = n,
                                .n_free = n};
    if (!staging->slots || !staging->memory)
        return false;
    for (uint32_t i = 0; i < n; i++)
        staging->slots[i].next = i + 1 < n ? i + 1 : NO_SLOT;
    return true;
}

static void staging_deinit(struct staging *staging)
{
    free(staging->slots);
    free(staging->memory);
}

/* The last one that was given back, whose memory is real already; NO_SLOT: there is none. */
static uint32_t staging_take(struct staging *staging)
{
    uint32_t i = staging->first_free;
    if (i != NO_SLOT) {
        staging->first_free = staging->slots[i].next;
        staging->n_free--;
    }
    return i;
}

static void staging_give(struct staging *staging, uint32_t i)
{
    staging->slots[i].next = staging->first_free;
    staging->first_free = i;
    staging->n_free++;
}

static char *slot_payload(const struct staging *staging, uint32_t i)
{
    return staging->memory + i * staging->slot_bytes;
}

/* ---- the tier -------------------------------------------------------------------------------- */

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
    uint64_t file_bytes; /* of one page on the disk */
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

static uint64_t now_ns(const struct disk_tier *tier)
{
    return clock_now_ns(tier->options.clock);
}

static void lock(const struct disk_tier *tier)
{
    (void)pthread_mutex_lock((pthread_mutex_t *)&tier->mutex); /* a constant tier, too */
}

static void unlock(const struct disk_tier *tier)
{
    (void)pthread_mutex_unlock((pthread_mutex_t *)&tier->mutex);
}

__attribute__((format(printf, 3, 4))) static void
report(const struct disk_tier *tier, enum log_level level, const char *format, ...)
{
    if (!tier->options.log)
        return;
    char text[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* a longer text is cut */
    va_end(args);
    tier->options.log(tier->options.log_context, level, text);
}

/* The mutex is held, here and in the next. */
static void count(struct disk_tier *tier, uint64_t *number, enum metric_id id, uint64_t n)
{
    *number += n;
    metrics_add(tier->options.metrics, id, (double)n);
}

static void count_refused(struct disk_tier *tier, enum disk_result result)
{
    const char *reason = disk_result_name(result);
    tier->numbers.n_refused[result]++;
    metrics_add_labelled(tier->options.metrics, METRIC_TIER_REFUSED, &reason, 1);
}

/* Rank of a page that is used now, with so many pages before it. */
static uint64_t rank_of(const struct disk_tier *tier, uint64_t n_before)
{
    uint64_t step = n_before * RANK_STEP_NS;
    uint64_t now = tier->epoch_ns + now_ns(tier);
    step = step < RANK_MAX_STEP_NS ? step : RANK_MAX_STEP_NS;
    return now > step ? now - step : 1;
}

static bool is_there(const struct disk_entry *entry)
{
    return entry && entry->is_stored && !entry->is_doomed;
}

/* The mutex is held. The page at the chain's end was used now, and so were those before it, as far
 * as they are known and were not used at the same time already. */
static void touch(struct disk_tier *tier, struct disk_entry *entry, const struct disk_chain *chain)
{
    uint64_t n_before = chain->n_pages - 1, rank = rank_of(tier, n_before);
    entry->has_before = n_before > 0;
    entry->before = disk_key_of(chain->before);
    while (entry && !entry->is_doomed && entry->rank_ns < rank) {
        disk_index_set_rank(tier->index, entry, rank);
        entry->is_touched = true;
        rank = n_before * RANK_STEP_NS <= RANK_MAX_STEP_NS ? rank + RANK_STEP_NS : rank;
        entry = entry->has_before ? disk_index_find(tier->index, entry->before) : NULL;
        n_before = n_before > 0 ? n_before - 1 : 0;
    }
}

/* ---- looking up ------------------------------------------------------------------------------ */

struct disk_chain disk_tier_chain(const struct disk_tier *tier, uint64_t space)
{
    struct disk_chain chain;
    disk_chain_begin(tier->options.identity, space, &chain);
    return chain;
}

uint32_t disk_tier_find(struct disk_tier *tier, const struct disk_chain *chain,
                        const int32_t *tokens, uint32_t n_pages)
{
    struct disk_chain at = *chain;
    uint32_t n = 0;
    for (bool is_found = true; n < n_pages && is_found; n += is_found) {
        disk_chain_extend(&at, tokens + (size_t)n * PAGE, 1);
        lock(tier);
        struct disk_entry *entry = disk_index_find(tier->index, disk_key_of(at.hash));
        is_found = is_there(entry);
        if (is_found)
            touch(tier, entry, &at);
        unlock(tier);
    }
    return n;
}

uint64_t disk_tier_load_ns(const struct disk_tier *tier, uint32_t n_pages)
{
    lock(tier);
    double rate = tier->numbers.load_rate;
    uint64_t n = (uint64_t)tier->n_loading + n_pages;
    unlock(tier);
    return rate > 0 ? (uint64_t)((double)n * (double)tier->options.page_bytes / rate * 1e9) : 0;
}

void disk_tier_forget(struct disk_tier *tier, const struct disk_chain *chain, const int32_t *tokens,
                      uint32_t n_pages)
{
    struct disk_chain at = *chain;
    for (uint32_t p = 0; p < n_pages; p++) {
        disk_chain_extend(&at, tokens + (size_t)p * PAGE, 1);
        lock(tier);
        struct disk_entry *entry = disk_index_find(tier->index, disk_key_of(at.hash));
        if (entry) {
            entry->is_doomed = true;
            disk_index_set_rank(tier->index, entry, 0);
            (void)pthread_cond_signal(&tier->work);
        }
        unlock(tier);
    }
}

/* ---- storing: the engine's side -------------------------------------------------------------- */

/* The mutex is held. A slot with an entry for the page at the chain's end; NO_SLOT: it is known, or
 * there is no room. */
static uint32_t stage(struct disk_tier *tier, const struct disk_chain *chain)
{
    struct disk_key key = disk_key_of(chain->hash);
    struct disk_entry *entry = disk_index_find(tier->index, key);
    if (entry) {
        touch(tier, entry, chain);
        return NO_SLOT;
    }
    bool has_room = now_ns(tier) >= tier->writes_after_ns && tier->store.n_free > 0;
    entry = has_room ? disk_index_add(tier->index, key) : NULL;
    if (!entry) {
        count(tier, &tier->numbers.n_not_stored, METRIC_TIER_NOT_STORED, 1);
        return NO_SLOT;
    }
    entry->has_before = chain->n_pages > 1;
    entry->before = disk_key_of(chain->before);
    return staging_take(&tier->store);
}

void *disk_tier_stage(struct disk_tier *tier, struct disk_chain *chain, const int32_t *tokens)
{
    disk_chain_extend(chain, tokens, 1);
    lock(tier);
    uint32_t i = stage(tier, chain);
    unlock(tier);
    if (i == NO_SLOT)
        return NULL;
    struct slot *slot = &tier->store.slots[i]; /* the caller's until it is handed over */
    slot->rank_ns = rank_of(tier, chain->n_pages - 1);
    slot->page = (struct disk_page){.chain = *chain, .payload_bytes = tier->options.page_bytes};
    memcpy(slot->page.identity, tier->options.identity, sizeof slot->page.identity);
    memcpy(slot->page.tokens, tokens, sizeof slot->page.tokens);
    return slot_payload(&tier->store, i);
}

static uint32_t slot_of(const struct disk_tier *tier, const void *bytes)
{
    return (uint32_t)((size_t)((const char *)bytes - tier->store.memory) / tier->store.slot_bytes);
}

void disk_tier_store(struct disk_tier *tier, void *bytes)
{
    uint32_t i = slot_of(tier, bytes);
    lock(tier);
    tier->store.slots[i].next = NO_SLOT;
    if (tier->first_store == NO_SLOT)
        tier->first_store = i;
    else
        tier->store.slots[tier->last_store].next = i;
    tier->last_store = i;
    tier->n_to_store++;
    (void)pthread_cond_signal(&tier->work);
    unlock(tier);
}

/* The mutex is held. A page that does not become a file. */
static void give_up(struct disk_tier *tier, uint32_t i)
{
    struct disk_key key = disk_key_of(tier->store.slots[i].page.chain.hash);
    struct disk_entry *entry = disk_index_find(tier->index, key);
    if (entry && !entry->is_stored)
        disk_index_remove(tier->index, entry);
    staging_give(&tier->store, i);
}

void disk_tier_unstage(struct disk_tier *tier, void *bytes)
{
    lock(tier);
    give_up(tier, slot_of(tier, bytes));
    unlock(tier);
}

bool disk_tier_flush(struct disk_tier *tier, uint64_t timeout_ns)
{
    uint64_t end = clock_now_ns(&system_clock) + timeout_ns; /* as the condition counts */
    const struct timespec deadline = {.tv_sec = (time_t)(end / SECOND_NS),
                                      .tv_nsec = (long)(end % SECOND_NS)};
    int reason = 0;
    lock(tier);
    while ((tier->n_to_store > 0 || !tier->numbers.is_scanned) && reason == 0)
        reason = pthread_cond_timedwait(&tier->idle, &tier->mutex, &deadline);
    bool is_done = tier->n_to_store == 0 && tier->numbers.is_scanned;
    unlock(tier);
    return is_done;
}

/* ---- loading: the engine's side -------------------------------------------------------------- */

struct disk_load *disk_tier_load(struct disk_tier *tier, const struct disk_chain *chain,
                                 const int32_t *tokens, uint32_t n_pages)
{
    lock(tier);
    uint32_t n = (uint32_t)min_size(n_pages, tier->load.n_free);
    struct disk_load *load = n > 0 ? calloc(1, sizeof *load + n * sizeof load->slots[0]) : NULL;
    if (load) {
        load->staging = &tier->load;
        load->chain = *chain;
        load->n_pages = n;
        for (uint32_t p = 0; p < n; p++) {
            load->slots[p] = staging_take(&tier->load);
            memcpy(tier->load.slots[load->slots[p]].page.tokens, tokens + (size_t)p * PAGE,
                   PAGE * sizeof *tokens);
        }
        if (tier->last_load)
            tier->last_load->next = load;
        else
            tier->first_load = load;
        tier->last_load = load;
        tier->n_loading += n;
        (void)pthread_cond_signal(&tier->work);
    }
    unlock(tier);
    return load;
}

uint32_t disk_load_n_pages(const struct disk_load *load)
{
    return load->n_pages;
}

uint32_t disk_load_n_ready(const struct disk_load *load)
{
    return atomic_load_explicit(&load->n_ready, memory_order_acquire);
}

bool disk_load_is_done(const struct disk_load *load)
{
    return atomic_load_explicit(&load->is_done, memory_order_acquire);
}

const void *disk_load_page(const struct disk_load *load, uint32_t i)
{
    return slot_payload(load->staging, load->slots[i]);
}

/* The mutex is held. */
static void free_load(struct disk_tier *tier, struct disk_load *load)
{
    for (uint32_t p = load->n_pages; p-- > 0;)
        staging_give(&tier->load, load->slots[p]);
    free(load);
}

static void unlink_load(struct disk_tier *tier, const struct disk_load *load)
{
    struct disk_load **at = &tier->first_load, *before = NULL;
    for (; *at != load; at = &(*at)->next)
        before = *at;
    *at = load->next;
    if (tier->last_load == load)
        tier->last_load = before;
}

void disk_tier_drop(struct disk_tier *tier, struct disk_load *load)
{
    lock(tier);
    atomic_store_explicit(&load->is_dropped, true, memory_order_relaxed);
    if (!load->is_begun) {
        unlink_load(tier, load);
        tier->n_loading -= load->n_pages;
    }
    if (!load->is_begun || disk_load_is_done(load))
        free_load(tier, load); /* else the thread does it */
    unlock(tier);
}

void disk_tier_set_wake(struct disk_tier *tier, void (*wake)(void *context), void *context)
{
    lock(tier);
    tier->wake = wake;
    tier->wake_context = context;
    unlock(tier);
}

/* ---- the thread: loads ----------------------------------------------------------------------- */

/* A file is no good, or not there. What is damaged goes; what only could not be read stays. */
static void refuse(struct disk_tier *tier, const struct disk_chain *chain, enum disk_result result)
{
    char name[DISK_NAME_BYTES];
    struct disk_key key = disk_key_of(chain->hash);
    disk_name_of(key, name);
    bool is_damaged = result == DISK_BAD_SIZE || result == DISK_BAD_HEADER ||
                      result == DISK_FOREIGN || result == DISK_BAD_PAYLOAD;
    if (is_damaged)
        (void)unlinkat(tier->folder, name, 0); /* it may be gone already */
    lock(tier);
    count_refused(tier, result);
    struct disk_entry *entry = disk_index_find(tier->index, key);
    if (entry && entry->is_stored)
        disk_index_remove(tier->index, entry);
    unlock(tier);
    if (result == DISK_GONE) /* another process evicted it */
        return;
    tier->n_unlogged++;
    if (now_ns(tier) < tier->log_after_ns)
        return;
    tier->log_after_ns = now_ns(tier) + LOG_PAUSE_NS;
    report(tier, LOG_WARN, "disk tier: %s/%s is not used: %s%s (%" PRIu64 " such files)",
           tier->options.folder, name, disk_result_name(result), is_damaged ? ", deleted" : "",
           tier->n_unlogged);
    tier->n_unlogged = 0;
}

/* Reads page after page until one is no good; returns how many are. */
static uint32_t read_pages(struct disk_tier *tier, struct disk_load *load)
{
    uint32_t n = 0;
    for (; n < load->n_pages; n++) {
        if (atomic_load_explicit(&load->is_dropped, memory_order_relaxed))
            break;
        struct disk_page *page = &tier->load.slots[load->slots[n]].page;
        disk_chain_extend(&load->chain, page->tokens, 1);
        memcpy(page->identity, tier->options.identity, sizeof page->identity);
        page->chain = load->chain;
        page->payload_bytes = tier->options.page_bytes;
        enum disk_result result =
            disk_page_read(tier->folder, page, slot_payload(&tier->load, load->slots[n]));
        if (result != DISK_OK) {
            refuse(tier, &load->chain, result);
            break;
        }
        atomic_store_explicit(&load->n_ready, n + 1, memory_order_release);
    }
    return n;
}

static void note_rate(struct disk_tier *tier, uint64_t bytes, uint64_t ns)
{
    double rate = (double)bytes / ((double)max_size(ns, 1) * 1e-9);
    double mean = tier->numbers.load_rate;
    tier->numbers.load_rate = mean > 0 ? mean + (rate - mean) / 8 : rate;
}

/* The mutex is held and let go meanwhile. */
static void run_load(struct disk_tier *tier)
{
    struct disk_load *load = tier->first_load;
    unlink_load(tier, load);
    load->is_begun = true;
    unlock(tier);
    uint64_t begin = now_ns(tier);
    uint32_t n = read_pages(tier, load);
    uint64_t bytes = n * tier->options.page_bytes, ns = now_ns(tier) - begin;
    lock(tier);
    tier->n_loading -= load->n_pages;
    count(tier, &tier->numbers.n_loaded, METRIC_TIER_LOADED, n);
    tier->numbers.loaded_bytes += bytes;
    if (n > 0)
        note_rate(tier, bytes, ns);
    bool is_dropped = atomic_load_explicit(&load->is_dropped, memory_order_relaxed);
    atomic_store_explicit(&load->is_done, true, memory_order_release);
    if (is_dropped)
        free_load(tier, load);
    else if (tier->wake)
        tier->wake(tier->wake_context);
}

/* ---- the thread: eviction -------------------------------------------------------------------- */

/* The mutex is held. */
static bool must_evict(const struct disk_tier *tier, uint64_t more_bytes)
{
    const struct disk_entry *oldest = disk_index_oldest(tier->index);
    return oldest && (oldest->is_doomed || disk_index_is_full(tier->index) ||
                      disk_index_bytes(tier->index) + more_bytes > tier->options.max_bytes);
}

/* The mutex is held and let go meanwhile. */
static void evict_some(struct disk_tier *tier, uint64_t more_bytes)
{
    for (int i = 0; i < EVICT_RUN && must_evict(tier, more_bytes); i++) {
        struct disk_entry *oldest = disk_index_oldest(tier->index);
        char name[DISK_NAME_BYTES];
        disk_name_of(oldest->key, name);
        count(tier, &tier->numbers.n_evicted, METRIC_TIER_EVICTED, 1);
        tier->numbers.evicted_bytes += oldest->bytes;
        disk_index_remove(tier->index, oldest);
        unlock(tier);
        (void)unlinkat(tier->folder, name,
                       0); /* gone already is as good; a rescan finds the rest */
        lock(tier);
    }
}

/* ---- the thread: stores ---------------------------------------------------------------------- */

static enum disk_result write_page(struct disk_tier *tier, const struct slot *slot,
                                   const void *payload)
{
    char temporary[TEMPORARY_BYTES], name[DISK_NAME_BYTES];
    disk_name_of(disk_key_of(slot->page.chain.hash), name);
    (void)snprintf(temporary, sizeof temporary, "%.32s.%016llx.tmp", name,
                   (unsigned long long)hash_mix(tier->random + tier->n_temporaries++)); /* fits */
    return disk_page_write(tier->folder, temporary, &slot->page, payload, slot->rank_ns);
}

/* The mutex is held. */
static void pause_writing(struct disk_tier *tier)
{
    tier->pause_ns = tier->pause_ns ? min_size(2 * tier->pause_ns, MAX_PAUSE_NS) : FIRST_PAUSE_NS;
    tier->writes_after_ns = now_ns(tier) + tier->pause_ns;
    tier->numbers.n_failed_writes++;
}

/* The mutex is held and let go meanwhile. */
static void run_store(struct disk_tier *tier)
{
    uint32_t i = tier->first_store;
    struct slot *slot = &tier->store.slots[i];
    struct disk_key key = disk_key_of(slot->page.chain.hash);
    tier->first_store = slot->next;
    struct disk_entry *entry = disk_index_find(tier->index, key); /* staged: it stays until now */
    bool is_off = now_ns(tier) < tier->writes_after_ns;
    enum disk_result result = DISK_NO_SPACE;
    int reason = 0;
    assert(entry && !entry->is_stored);
    if (!is_off && !entry->is_doomed) {
        unlock(tier);
        result = write_page(tier, slot, slot_payload(&tier->store, i));
        reason = errno;
        lock(tier);
        if (result == DISK_OK) {
            uint64_t rank = entry->is_doomed ? 0 : max_size(slot->rank_ns, entry->rank_ns);
            disk_index_store(tier->index, entry, tier->file_bytes, rank);
            entry->scan = tier->scan.number;
            staging_give(&tier->store, i);
            count(tier, &tier->numbers.n_stored, METRIC_TIER_STORED, 1);
            tier->numbers.stored_bytes += tier->options.page_bytes;
            tier->pause_ns = 0;
        } else {
            pause_writing(tier);
        }
    }
    if (result != DISK_OK) {
        count(tier, &tier->numbers.n_not_stored, METRIC_TIER_NOT_STORED, 1);
        give_up(tier, i);
    }
    tier->n_to_store--;
    (void)pthread_cond_broadcast(&tier->idle);
    if (result == DISK_OK || reason == 0)
        return;
    unlock(tier);
    errno = reason;
    report(tier, LOG_WARN, "disk tier: cannot write to %s: %m; not trying for %" PRIu64 " s",
           tier->options.folder, tier->pause_ns / SECOND_NS);
    lock(tier);
}

/* ---- the thread: reading the folder ---------------------------------------------------------- */

static bool is_temporary(const char *name)
{
    return strlen(name) == TEMPORARY_BYTES - 1 && strspn(name, "0123456789abcdef") == 32 &&
           name[32] == '.' && strspn(name + 33, "0123456789abcdef") == 16 &&
           strcmp(name + 49, ".tmp") == 0;
}

static void begin_scan(struct disk_tier *tier)
{
    struct scan *scan = &tier->scan;
    struct stat st;
    scan->begin_ns = now_ns(tier);
    scan->swept = 0;
    bool is_changed = fstat(tier->folder, &st) == 0 &&
                      (st.st_mtim.tv_sec != scan->folder_time.tv_sec ||
                       st.st_mtim.tv_nsec != scan->folder_time.tv_nsec || scan->number == 0);
    int fd = is_changed ? openat(tier->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    scan->dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!scan->dir) { /* nothing new, or no memory; times are written nevertheless */
        if (fd >= 0)
            (void)close(fd);
        scan->phase = SCAN_SWEEPS;
        return;
    }
    scan->folder_time = st.st_mtim;
    scan->number++;
    scan->phase = SCAN_READS;
}

static uint64_t unix_ns(struct timespec time)
{
    return time.tv_sec < 0 ? 0 : (uint64_t)time.tv_sec * SECOND_NS + (uint64_t)time.tv_nsec;
}

/* A file of ours, or of another process or model. */
static void see_file(struct disk_tier *tier, struct disk_key key, const struct stat *st)
{
    uint64_t bytes = ((uint64_t)st->st_size + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    uint64_t rank = min_size(unix_ns(st->st_mtim), rank_of(tier, 0)); /* not in the future */
    rank = max_size(rank, 1);
    lock(tier);
    struct disk_entry *entry = disk_index_find(tier->index, key);
    if (!entry && (entry = disk_index_add(tier->index, key)))
        disk_index_store(tier->index, entry, bytes, rank);
    if (entry && entry->is_stored && !entry->is_doomed && entry->rank_ns < rank)
        disk_index_set_rank(tier->index, entry, rank);
    if (entry)
        entry->scan = tier->scan.number;
    if (must_evict(tier, 0))
        evict_some(tier, 0);
    unlock(tier);
}

static void see_name(struct disk_tier *tier, const char *name)
{
    struct disk_key key;
    struct stat st;
    bool is_page = disk_key_of_name(name, &key);
    if ((!is_page && !is_temporary(name)) ||
        fstatat(tier->folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode) ||
        st.st_uid != geteuid() || st.st_size < 0)
        return; /* not ours */
    if (is_page && (uint64_t)st.st_size >= DISK_PAGE_HEADER_BYTES) {
        see_file(tier, key, &st);
        return;
    }
    if (!is_page && clock_wall_seconds(&system_clock) - st.st_ctim.tv_sec < LEFTOVER_SECONDS)
        return;                            /* somebody writes it */
    (void)unlinkat(tier->folder, name, 0); /* cut off, or left over */
    lock(tier);
    count_refused(tier, DISK_BAD_SIZE);
    unlock(tier);
}

static void read_some(struct disk_tier *tier)
{
    struct scan *scan = &tier->scan;
    for (int i = 0; i < SCAN_RUN; i++) {
        const struct dirent *item = readdir(scan->dir); /* the stream is this thread's */
        if (!item) {
            (void)closedir(scan->dir); /* nothing was written */
            scan->dir = NULL;
            scan->phase = SCAN_SWEEPS;
            return;
        }
        see_name(tier, item->d_name);
    }
}

/* Tells the file when it was last used, for the next process. */
static void write_time(struct disk_tier *tier, struct disk_key key, uint64_t rank_ns)
{
    char name[DISK_NAME_BYTES];
    disk_name_of(key, name);
    const struct timespec time = {.tv_sec = (time_t)(rank_ns / SECOND_NS),
                                  .tv_nsec = (long)(rank_ns % SECOND_NS)};
    const struct timespec times[2] = {time, time};
    (void)utimensat(tier->folder, name, times, AT_SYMLINK_NOFOLLOW); /* a loss of order only */
}

/* The mutex is held and let go meanwhile. Entries whose files were not seen go, times are written;
 * true at the end of the index. */
static bool sweep_some(struct disk_tier *tier)
{
    struct scan *scan = &tier->scan;
    struct {
        struct disk_key key;
        uint64_t rank_ns;
    } touched[TOUCH_RUN];
    uint32_t n_touched = 0, n = disk_index_n_slots(tier->index);
    uint32_t end = (uint32_t)min_size(scan->swept + (size_t)SWEEP_RUN, n);
    for (; scan->swept < end && n_touched < TOUCH_RUN; scan->swept++) {
        struct disk_entry *entry = disk_index_slot(tier->index, scan->swept);
        if (!entry->is_used || !entry->is_stored)
            continue;
        if (entry->scan != scan->number) {
            disk_index_remove(tier->index, entry);
            continue;
        }
        if (entry->is_touched) {
            touched[n_touched].key = entry->key;
            touched[n_touched++].rank_ns = entry->rank_ns;
        }
        entry->is_touched = false;
    }
    bool is_done = scan->swept >= n;
    unlock(tier);
    for (uint32_t i = 0; i < n_touched; i++)
        write_time(tier, touched[i].key, touched[i].rank_ns);
    lock(tier);
    return is_done;
}

/* The mutex is held and let go meanwhile. */
static void run_scan(struct disk_tier *tier)
{
    struct scan *scan = &tier->scan;
    if (scan->phase == SCAN_SWEEPS) {
        if (!sweep_some(tier))
            return;
        scan->phase = SCAN_RESTS;
        uint64_t now = now_ns(tier), pause = tier->options.rescan_ns;
        scan->next_ns = now + max_size(pause, (now - scan->begin_ns) * RESCAN_SHARE);
        tier->numbers.is_scanned = true;
        (void)pthread_cond_broadcast(&tier->idle);
        return;
    }
    unlock(tier);
    if (scan->phase == SCAN_RESTS)
        begin_scan(tier);
    else
        read_some(tier);
    lock(tier);
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* The mutex is held. Bytes that the next store needs on the disk. */
static uint64_t bytes_wanted(const struct disk_tier *tier)
{
    bool can_write = now_ns(tier) >= tier->writes_after_ns;
    return tier->first_store != NO_SLOT && can_write ? tier->file_bytes : 0;
}

static bool has_work(const struct disk_tier *tier)
{
    return tier->is_ending || tier->first_load || tier->first_store != NO_SLOT ||
           must_evict(tier, 0) || tier->scan.phase != SCAN_RESTS ||
           now_ns(tier) >= tier->scan.next_ns;
}

static void show_bytes(struct disk_tier *tier)
{
    const char *name = "disk";
    uint64_t bytes = disk_index_bytes(tier->index);
    if (bytes == tier->shown_bytes)
        return;
    tier->shown_bytes = bytes;
    metrics_set_labelled(tier->options.metrics, METRIC_TIER_BYTES, &name, (double)bytes);
}

/* The mutex is held since has_work said no. Sleeps until there is some. */
static void rest(struct disk_tier *tier)
{
    uint64_t now = now_ns(tier), next = tier->scan.next_ns;
    uint64_t wait = next > now ? min_size(next - now, RESCAN_NS) : 0;
    uint64_t end = clock_now_ns(&system_clock) + wait;
    const struct timespec deadline = {.tv_sec = (time_t)(end / SECOND_NS),
                                      .tv_nsec = (long)(end % SECOND_NS)};
    (void)pthread_cond_timedwait(&tier->work, &tier->mutex, &deadline);
}

/* A little of everything in turn, so that nothing waits long for the rest. */
static void *run(void *context)
{
    struct disk_tier *tier = context;
    lock(tier);
    while (!tier->is_ending) {
        if (tier->first_load)
            run_load(tier);
        evict_some(tier, bytes_wanted(tier));
        if (tier->first_store != NO_SLOT && !must_evict(tier, bytes_wanted(tier)))
            run_store(tier);
        if (tier->scan.phase != SCAN_RESTS || now_ns(tier) >= tier->scan.next_ns)
            run_scan(tier);
        show_bytes(tier);
        if (!has_work(tier))
            rest(tier);
    }
    tier->scan.swept = 0;
    while (tier->numbers.is_scanned && !sweep_some(tier)) /* the times */
        continue;
    unlock(tier);
    return NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

static serverd_status open_folder(const char *path, int *out, serverd_error *err)
{
    struct stat st;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return fail(err, SERVERD_INVALID, "disk tier: cannot make the folder %s: %m", path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return fail(err, SERVERD_INVALID, "disk tier: %s: %s", path,
                    errno == ENOTDIR || errno == ELOOP ? "is no folder, or a link to one"
                                                       : strerrordesc_np(errno));
    if (fstat(fd, &st) != 0 || st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH))) {
        (void)close(fd); /* nothing was written */
        return fail(err, SERVERD_INVALID,
                    "disk tier: %s: it must belong to this user and nobody else may write there",
                    path);
    }
    *out = fd;
    return SERVERD_OK;
}

/* Signals are for the other threads; over a limit of the file size, a blocked SIGXFSZ becomes
 * EFBIG. */
static int start_thread(struct disk_tier *tier)
{
    sigset_t all, before;
    (void)sigfillset(&all); /* cannot fail */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int reason = pthread_create(&tier->thread, NULL, run, tier);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return reason;
}

static void free_parts(struct disk_tier *tier)
{
    if (tier->scan.dir)
        (void)closedir(tier->scan.dir); /* nothing was written */
    if (tier->folder >= 0)
        (void)close(tier->folder); /* nothing was written */
    (void)pthread_cond_destroy(&tier->work);
    (void)pthread_cond_destroy(&tier->idle);
    (void)pthread_mutex_destroy(&tier->mutex);
    disk_index_destroy(tier->index);
    staging_deinit(&tier->store);
    staging_deinit(&tier->load);
    free((char *)(uintptr_t)tier->options.folder);
    free(tier);
}

static void init_waiting(struct disk_tier *tier)
{
    pthread_condattr_t attributes; /* none of these can fail */
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&tier->work, &attributes);
    (void)pthread_cond_init(&tier->idle, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    (void)pthread_mutex_init(&tier->mutex, NULL);
}

static serverd_status make_parts(struct disk_tier *tier, serverd_error *err)
{
    const struct disk_tier_options *options = &tier->options;
    serverd_status status = open_folder(options->folder, &tier->folder, err);
    if (status == SERVERD_OK)
        status = random_bytes(&tier->random, sizeof tier->random, err);
    if (status != SERVERD_OK)
        return status;
    tier->index = disk_index_create(
        (uint32_t)min_size(options->max_bytes / BLOCK_BYTES + 1024, LIMIT_DISK_FILES));
    if (!tier->index || !staging_init(&tier->store, options->store_bytes, options->page_bytes) ||
        !staging_init(&tier->load, options->load_bytes, options->page_bytes))
        return fail(err, SERVERD_NOMEM, "disk tier: no memory");
    int reason = start_thread(tier);
    if (reason == 0)
        return SERVERD_OK;
    errno = reason;
    return fail(err, SERVERD_NOMEM, "disk tier: cannot start its thread: %m");
}

serverd_status disk_tier_create(const struct disk_tier_options *options, struct disk_tier **out,
                                serverd_error *err)
{
    if (options->page_bytes == 0 || options->page_bytes > LIMIT_DISK_PAGE_BYTES)
        return fail(err, SERVERD_UNSUPPORTED,
                    "disk tier: pages of %" PRIu64 " bytes, at most %zu allowed",
                    options->page_bytes, (size_t)LIMIT_DISK_PAGE_BYTES);
    uint64_t file_bytes = (DISK_PAGE_HEADER_BYTES + options->page_bytes + BLOCK_BYTES - 1) /
                          BLOCK_BYTES * BLOCK_BYTES;
    if (options->max_bytes < file_bytes)
        return fail(err, SERVERD_INVALID,
                    "disk tier: %" PRIu64 " bytes hold no page, which takes %" PRIu64,
                    options->max_bytes, file_bytes);
    struct disk_tier *tier = calloc(1, sizeof *tier);
    char *folder = tier ? strdup(options->folder) : NULL;
    if (!folder) {
        free(tier);
        return fail(err, SERVERD_NOMEM, "disk tier: no memory");
    }
    tier->options = *options;
    tier->options.folder = folder;
    tier->options.clock = options->clock ? options->clock : &system_clock;
    tier->options.rescan_ns = options->rescan_ns ? options->rescan_ns : RESCAN_NS;
    tier->folder = -1;
    tier->file_bytes = file_bytes;
    tier->epoch_ns = (uint64_t)clock_wall_seconds(tier->options.clock) * SECOND_NS - now_ns(tier);
    tier->first_store = NO_SLOT;
    init_waiting(tier);
    serverd_status status = make_parts(tier, err);
    if (status != SERVERD_OK) {
        free_parts(tier);
        return status;
    }
    *out = tier;
    return SERVERD_OK;
}

void disk_tier_destroy(struct disk_tier *tier)
{
    if (!tier)
        return;
    lock(tier);
    tier->is_ending = true;
    (void)pthread_cond_signal(&tier->work);
    unlock(tier);
    (void)pthread_join(tier->thread, NULL);
    free_parts(tier);
}

/* ---- numbers --------------------------------------------------------------------------------- */

void disk_tier_status(const struct disk_tier *tier, struct disk_tier_status *out)
{
    lock(tier);
    *out = tier->numbers;
    out->n_files = disk_index_n_stored(tier->index);
    out->bytes = disk_index_bytes(tier->index);
    out->n_staged = tier->n_to_store;
    out->n_loading = tier->n_loading;
    out->is_writing = now_ns(tier) >= tier->writes_after_ns;
    unlock(tier);
    out->max_bytes = tier->options.max_bytes;
}

serverd_status disk_tier_check(const struct disk_tier *tier, serverd_error *err)
{
    lock(tier);
    serverd_status status = disk_index_check(tier->index, err);
    unlock(tier);
    return status;
}
