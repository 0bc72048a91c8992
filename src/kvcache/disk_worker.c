#include "base/hash.h"
#include "base/log.h"
#include "base/numeric.h"
#include "kvcache/disk_tier_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A disk that fails to write is left alone so long: the first time, and at most. */
#define FIRST_PAUSE_NS (30 * SECOND_NS)
#define MAX_PAUSE_NS   (600 * SECOND_NS)

/* Temporary files of this age belong to a process that died. */
#define LEFTOVER_SECONDS 600

/* Reading the folder takes at most this share of the time. */
#define RESCAN_SHARE 200

/* Lines about bad files come so often at most. */
#define LOG_PAUSE_NS (60 * SECOND_NS)

/* What the thread does of one kind before it looks at the others. */
#define SCAN_RUN  64
#define SWEEP_RUN 1024
#define TOUCH_RUN 64
#define EVICT_RUN 32

#define TEMPORARY_BYTES 54 /* 32 digits, '.', 16 digits, ".tmp" and its NUL */

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

/* The mutex is held. */
static void count_refused(struct disk_tier *tier, enum disk_result result)
{
    const char *reason = disk_result_name(result);
    tier->numbers.n_refused[result]++;
    metrics_add_labelled(tier->options.metrics, METRIC_TIER_REFUSED, &reason, 1);
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

/* The file has none: another process wrote it anew. */
static void forget_window(struct disk_tier *tier, const struct disk_chain *chain)
{
    lock(tier);
    struct disk_entry *entry = disk_index_find(tier->index, disk_key_of(chain->hash));
    if (entry)
        entry->has_window = false;
    unlock(tier);
}

/* Reads page after page until one is no good; returns how many are. */
static uint32_t read_pages(struct disk_tier *tier, struct disk_load *load, uint64_t *n_bytes)
{
    uint32_t n = 0;
    *n_bytes = 0;
    for (; n < load->n_pages; n++) {
        if (atomic_load_explicit(&load->is_dropped, memory_order_relaxed))
            break;
        struct disk_page *page = &tier->load.slots[load->slots[n]].page;
        disk_chain_extend(&load->chain, page->tokens, 1);
        page->chain = load->chain;
        const bool wants_window = page->has_window;
        enum disk_result result =
            disk_page_read(tier->folder, page, slot_payload(&tier->load, load->slots[n]));
        if (result != DISK_OK) {
            refuse(tier, &load->chain, result);
            break;
        }
        if (wants_window && !page->has_window)
            forget_window(tier, &load->chain);
        *n_bytes += disk_page_payload_bytes(page);
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
    disk_tier_unlink_load(tier, load);
    load->is_begun = true;
    unlock(tier);
    uint64_t begin = now_ns(tier), bytes;
    uint32_t n = read_pages(tier, load, &bytes);
    uint64_t ns = now_ns(tier) - begin;
    lock(tier);
    tier->n_loading -= load->n_pages;
    count(tier, &tier->numbers.n_loaded, METRIC_TIER_LOADED, n);
    tier->numbers.loaded_bytes += bytes;
    if (n > 0)
        note_rate(tier, bytes, ns);
    bool is_dropped = atomic_load_explicit(&load->is_dropped, memory_order_relaxed);
    atomic_store_explicit(&load->is_done, true, memory_order_release);
    if (is_dropped)
        disk_tier_free_load(tier, load);
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
        reason = result == DISK_OK ? 0 : errno;
        lock(tier);
        if (result == DISK_OK) {
            uint64_t rank = entry->is_doomed ? 0 : max_size(slot->rank_ns, entry->rank_ns);
            uint64_t bytes = disk_page_payload_bytes(&slot->page);
            disk_index_store(tier->index, entry, disk_file_bytes(bytes), rank);
            entry->scan = tier->scan.number;
            staging_give(&tier->store, i);
            count(tier, &tier->numbers.n_stored, METRIC_TIER_STORED, 1);
            tier->numbers.stored_bytes += bytes;
            tier->pause_ns = 0;
        } else {
            pause_writing(tier);
        }
    }
    if (reason != 0) {
        unlock(tier);
        errno = reason;
        report(tier, LOG_WARN, "disk tier: cannot write to %s: %m; not trying for %" PRIu64 " s",
               tier->options.folder, tier->pause_ns / SECOND_NS);
        lock(tier);
    }
    if (result != DISK_OK) {
        count(tier, &tier->numbers.n_not_stored, METRIC_TIER_NOT_STORED, 1);
        disk_tier_give_up(tier, i);
    }
    tier->n_to_store--;
    (void)pthread_cond_broadcast(&tier->idle);
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
    /* not in the future, as far as that is known: each process counts from a whole second on */
    uint64_t rank = min_size(unix_ns(st->st_mtim), rank_of(tier, 0) + SECOND_NS);
    rank = max_size(rank, 1);
    lock(tier);
    struct disk_entry *entry = disk_index_find(tier->index, key);
    if (!entry && (entry = disk_index_add(tier->index, key)))
        disk_index_store(tier->index, entry, bytes, rank);
    if (entry && entry->is_stored) /* as the header will say, if it is one of ours */
        entry->has_window = tier->options.window_page_bytes > 0 &&
                            (uint64_t)st->st_size == DISK_PAGE_HEADER_BYTES + tier->most_bytes;
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
    return tier->first_store != NO_SLOT && can_write ? disk_file_bytes(tier->most_bytes) : 0;
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
void *disk_worker_run(void *context)
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
    while (must_evict(tier, 0)) /* above all what is forgotten: the next process would find it */
        evict_some(tier, 0);
    tier->scan.swept = 0;
    while (tier->numbers.is_scanned && !sweep_some(tier)) /* the times */
        continue;
    unlock(tier);
    return NULL;
}
