/* KV pages in files, below the pool: prefixes survive their eviction and the process. One folder,
 * one file a page (disk_page.h), at most so many bytes of them; the least recently used go first.
 * Whatever is wrong with a file or with the disk is a miss and a number in the status, never an
 * error of a request. Several processes, also with other models, may use the same folder: each
 * sees the files of the others now and then, and files count against the bound whoever wrote them.
 *
 * The tier has one thread, which does all reading and writing. The functions below are for one
 * other thread, the engine's (disk_tier_status: any). They never wait for the disk: bytes go
 * through staging memory of a fixed size, and what finds no room is not done. Pages are looked up,
 * stored and loaded along a sequence's chain:
 *
 *   chain = disk_tier_chain(tier, space)               at the beginning of a sequence
 *   n = disk_tier_find(tier, &chain, tokens, n_pages, span)  how many of these pages are there
 *   load = disk_tier_load(tier, &chain, tokens, n, span)     ... wake ... disk_load_page,
 *                                                            disk_tier_drop
 *   bytes = disk_tier_stage(tier, &chain, tokens, has_window)
 *                                              NULL: nothing to do; else fill and store
 *
 * A page is stored with its window page, if it has one then, or without, and is not stored again
 * when it has one later: that costs a hit at times, and saves writing most pages twice. */
#ifndef KVCACHE_DISK_TIER_H
#define KVCACHE_DISK_TIER_H

#include "base/clock.h"
#include "base/metrics.h"
#include "kvcache/disk_page.h"

struct disk_tier;
struct disk_load;

struct disk_tier_options {
    const char *folder;                     /* made if it is not there, its parents are not */
    uint8_t identity[DISK_HASH_BYTES];      /* of what the bytes of a page mean */
    uint64_t page_bytes, window_page_bytes; /* the latter 0: there are no window pages */
    uint64_t max_bytes;                     /* of all files */
    uint64_t store_bytes, load_bytes;       /* staging memory, at least one page each */
    const struct clock *clock;              /* NULL: the machine's */
    struct metrics *metrics;                /* tier_*; may be NULL */
    /* Rare lines about the disk, with a level of base/log.h; on the tier's thread. May be NULL. */
    void (*log)(void *context, int level, const char *text);
    void *log_context;
    uint64_t rescan_ns; /* how often at most the folder is read again; 0: a minute */
};

/* Starts the thread, which first reads what is in the folder; until it has, less is found. The
 * folder must belong to this user, must not be a link, and nobody else may write there. */
serverd_status disk_tier_create(const struct disk_tier_options *options, struct disk_tier **out,
                                serverd_error *err);
/* Pages not written yet are lost: flush first. All loads are dropped by then. NULL is fine. */
void disk_tier_destroy(struct disk_tier *tier);

/* ---- looking up ---- */

struct disk_chain disk_tier_chain(const struct disk_tier *tier, uint64_t space);

/* How many of the pages that follow the chain, with these tokens, are in files: the first n, of
 * which the last window_span, or all, have their window pages. Those before the chain are taken to
 * have theirs. `tokens` has n_pages * SERVERD_PAGE_TOKENS ids. What is there counts as used now.
 * Costs about a microsecond for each page found. */
uint32_t disk_tier_find(struct disk_tier *tier, const struct disk_chain *chain,
                        const int32_t *tokens, uint32_t n_pages, uint32_t window_span);

/* Pages that a load could have now. */
uint32_t disk_tier_n_room(const struct disk_tier *tier);

/* How long it would take to have n_pages more in memory, behind the loads that wait, at the rate
 * measured so far; 0 if none was. */
uint64_t disk_tier_load_ns(const struct disk_tier *tier, uint32_t n_pages);

/* ---- storing ---- */

/* Memory for the bytes of the page that follows the chain, and of its window page behind them if
 * has_window, and the chain goes on behind that page in any case. NULL: the page is known, or it
 * cannot be stored now. The caller fills it whole and hands it over with disk_tier_store, or gives
 * it back with disk_tier_unstage. */
void *disk_tier_stage(struct disk_tier *tier, struct disk_chain *chain, const int32_t *tokens,
                      bool has_window);
void disk_tier_store(struct disk_tier *tier, void *bytes);
void disk_tier_unstage(struct disk_tier *tier, void *bytes);

/* Waits until all stores are done and the folder was read, or the time is over: false. */
bool disk_tier_flush(struct disk_tier *tier, uint64_t timeout_ns);

/* The files of these pages go, if they are there: their bytes may be wrong. */
void disk_tier_forget(struct disk_tier *tier, const struct disk_chain *chain, const int32_t *tokens,
                      uint32_t n_pages);

/* ---- loading ---- */

/* Begins to read pages that follow the chain, n_pages of them or as many as there is room for
 * (disk_load_n_pages), the last window_span of them with their window pages. NULL: no room for one.
 * In use until disk_tier_drop. */
struct disk_load *disk_tier_load(struct disk_tier *tier, const struct disk_chain *chain,
                                 const int32_t *tokens, uint32_t n_pages, uint32_t window_span);
uint32_t disk_load_n_pages(const struct disk_load *load);
/* How many of its first pages are in memory, checked. May grow until the load is done; less than
 * n_pages then if a page was not there or was no good. */
uint32_t disk_load_n_ready(const struct disk_load *load);
bool disk_load_is_done(const struct disk_load *load);
/* The bytes of page i < n_ready; valid until the load is dropped. Its window page stands behind
 * them, if it was wanted and there: *has_window. */
const void *disk_load_page(const struct disk_load *load, uint32_t i, bool *has_window);
/* Ends or cancels it. The memory is free when the thread has let go of it. */
void disk_tier_drop(struct disk_tier *tier, struct disk_load *load);

/* `wake` is called whenever a load is done, on the tier's thread; it must neither block nor call
 * the tier. The one before it is not called any more; NULL: none is. */
void disk_tier_set_wake(struct disk_tier *tier, void (*wake)(void *context), void *context);

/* ---- numbers ---- */

struct disk_tier_status {
    uint64_t n_files, bytes, max_bytes;     /* in the folder, as far as known */
    uint64_t n_stored, n_loaded, n_evicted; /* pages, since the start */
    uint64_t n_not_stored;                  /* pages that found no room, or a disk that fails */
    uint64_t n_failed_writes;
    uint64_t n_refused[DISK_N_RESULTS]; /* files that were found and not taken, by reason */
    uint64_t stored_bytes, loaded_bytes, evicted_bytes;
    uint64_t n_staged, n_loading; /* pages that wait now */
    double load_rate;             /* bytes a second, running mean; 0: none yet */
    bool is_scanned;              /* the folder was read once */
    bool is_writing;              /* false: the disk failed a while ago */
};
void disk_tier_status(const struct disk_tier *tier, struct disk_tier_status *out);

/* Tables add up; for tests. */
serverd_status disk_tier_check(const struct disk_tier *tier, serverd_error *err);

#endif
