#include "kvcache/disk_tier.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/limits.h"
#include "base/numeric.h"
#include "kvcache/disk_tier_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE SERVERD_PAGE_TOKENS

/* ---- staging memory -------------------------------------------------------------------------- */

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

/* ---- looking up ------------------------------------------------------------------------------ */

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

struct disk_chain disk_tier_chain(const struct disk_tier *tier, uint64_t space)
{
    struct disk_chain chain;
    disk_chain_begin(tier->options.identity, space, &chain);
    return chain;
}

uint32_t disk_tier_find(struct disk_tier *tier, const struct disk_chain *chain,
                        const int32_t *tokens, uint32_t n_pages, uint32_t window_span)
{
    struct disk_chain at = *chain;
    uint32_t n_good = 0, n_run = chain->n_pages; /* with window pages, up to here */
    bool is_found = true;
    for (uint32_t n = 0; n < n_pages && is_found; n++) {
        disk_chain_extend(&at, tokens + (size_t)n * PAGE, 1);
        lock(tier);
        struct disk_entry *entry = disk_index_find(tier->index, disk_key_of(at.hash));
        is_found = is_there(entry);
        if (is_found) {
            touch(tier, entry, &at);
            n_run = entry->has_window ? n_run + 1 : 0;
            if (n_run >= min_size(at.n_pages, window_span))
                n_good = n + 1;
        }
        unlock(tier);
    }
    return n_good;
}

uint32_t disk_tier_n_room(const struct disk_tier *tier)
{
    lock(tier);
    uint32_t n = tier->load.n_free;
    unlock(tier);
    return n;
}

uint64_t disk_tier_load_ns(const struct disk_tier *tier, uint32_t n_pages)
{
    lock(tier);
    double rate = tier->numbers.load_rate;
    uint64_t n = (uint64_t)tier->n_loading + n_pages;
    unlock(tier);
    return rate > 0 ? (uint64_t)((double)n * (double)tier->most_bytes / rate * 1e9) : 0;
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

struct disk_page disk_tier_page(const struct disk_tier *tier, const struct disk_chain *chain,
                                const int32_t *tokens, bool has_window)
{
    struct disk_page page = {.chain = *chain,
                             .page_bytes = tier->options.page_bytes,
                             .window_page_bytes = tier->options.window_page_bytes,
                             .has_window = has_window};
    memcpy(page.identity, tier->options.identity, sizeof page.identity);
    memcpy(page.tokens, tokens, sizeof page.tokens);
    return page;
}

/* ---- storing: the engine's side -------------------------------------------------------------- */

/* The mutex is held. A slot with an entry for the page at the chain's end; NO_SLOT: it is known, or
 * there is no room. */
static uint32_t stage(struct disk_tier *tier, const struct disk_chain *chain, bool has_window)
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
    entry->has_window = has_window;
    entry->has_before = chain->n_pages > 1;
    entry->before = disk_key_of(chain->before);
    return staging_take(&tier->store);
}

void *disk_tier_stage(struct disk_tier *tier, struct disk_chain *chain, const int32_t *tokens,
                      bool has_window)
{
    disk_chain_extend(chain, tokens, 1);
    lock(tier);
    uint32_t i = stage(tier, chain, has_window);
    unlock(tier);
    if (i == NO_SLOT)
        return NULL;
    struct slot *slot = &tier->store.slots[i]; /* the caller's until it is handed over */
    slot->rank_ns = rank_of(tier, chain->n_pages - 1);
    slot->page = disk_tier_page(tier, chain, tokens, has_window);
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

void disk_tier_give_up(struct disk_tier *tier, uint32_t i)
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
    disk_tier_give_up(tier, slot_of(tier, bytes));
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
                                 const int32_t *tokens, uint32_t n_pages, uint32_t window_span)
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
            tier->load.slots[load->slots[p]].page =
                disk_tier_page(tier, chain, tokens + (size_t)p * PAGE, n - p <= window_span);
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

const void *disk_load_page(const struct disk_load *load, uint32_t i, bool *has_window)
{
    *has_window = load->staging->slots[load->slots[i]].page.has_window;
    return slot_payload(load->staging, load->slots[i]);
}

void disk_tier_free_load(struct disk_tier *tier, struct disk_load *load)
{
    for (uint32_t p = load->n_pages; p-- > 0;)
        staging_give(&tier->load, load->slots[p]);
    free(load);
}

void disk_tier_unlink_load(struct disk_tier *tier, const struct disk_load *load)
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
        disk_tier_unlink_load(tier, load);
        tier->n_loading -= load->n_pages;
    }
    if (!load->is_begun || disk_load_is_done(load))
        disk_tier_free_load(tier, load); /* else the thread does it */
    unlock(tier);
}

void disk_tier_set_wake(struct disk_tier *tier, void (*wake)(void *context), void *context)
{
    lock(tier);
    tier->wake = wake;
    tier->wake_context = context;
    unlock(tier);
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
    int reason = pthread_create(&tier->thread, NULL, disk_worker_run, tier);
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
    if (!tier->index || !staging_init(&tier->store, options->store_bytes, tier->most_bytes) ||
        !staging_init(&tier->load, options->load_bytes, tier->most_bytes))
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
    size_t most_bytes;
    if (!size_add(options->page_bytes, options->window_page_bytes, &most_bytes) ||
        most_bytes == 0 || most_bytes > LIMIT_DISK_PAGE_BYTES)
        return fail(err, SERVERD_UNSUPPORTED,
                    "disk tier: pages of %" PRIu64 " bytes and %" PRIu64
                    " for their windows, at most %zu allowed",
                    options->page_bytes, options->window_page_bytes, (size_t)LIMIT_DISK_PAGE_BYTES);
    uint64_t file_bytes = disk_file_bytes(most_bytes);
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
    tier->most_bytes = most_bytes;
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
