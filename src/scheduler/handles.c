/* Prefix handles: prefixes that stay in pages after their request, so that generation programs and
 * sessions go on behind them. A handle is a hold of the prefix tree, with the tokens of the page
 * behind it that was not full (its *tail*), and with an end in time. Requests go on behind it by
 * beginning with the same tokens, as many of them as they like: that is a fork. They share the
 * pages of the tree and copy what they can use of the page behind them, so that a handle that a
 * request names is worth all of its tokens, at any length.
 *
 * A handle keeps eviction off, not those who run: when pages are short handles go, those of the
 * highest rank first, of these the oldest, and their tokens are computed again if need be. */
#include "scheduler/engine_internal.h"

#include "base/error.h"
#include "base/limits.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PAGE      SERVERD_PAGE_TOKENS
#define N_BUCKETS 4096u /* a power of two; ids are dense */

/* Handles hold this share of the pool at most, if nothing else is said. */
#define PINNED_FRACTION 0.8

struct prefix_handle {
    struct prefix_handle *next; /* in its bucket */
    uint64_t id, expires_ns, space;
    uint32_t rank, heap_at;
    struct radix_hold hold;
    uint32_t n_pages; /* of the hold */
    struct page_id tail;
    uint32_t n_tail; /* 0: there is no such page */
    int32_t tail_tokens[PAGE];
    uint32_t n_windows;
    struct page_id window[]; /* [n_windows] the last pages, whose window pages it has pinned */
};

struct handle_set {
    struct prefix_handle *bucket[N_BUCKETS];          /* by id */
    struct prefix_handle *heap[LIMIT_PREFIX_HANDLES]; /* the first gives way next */
    uint32_t n, n_tails;
    uint64_t last_id;
    uint64_t next_expiry_ns;            /* of one, or earlier; UINT64_MAX: none */
    uint32_t n_windows, n_windows_most; /* whose window pages are pinned, each counted once */
    uint32_t n_pages_most;
    uint64_t n_pins; /* of window pages */
    uint32_t *pins;  /* [pages of the pool] of its window page */
};

/* What another thread has released; it cannot touch the tree. */
struct handle_release {
    struct handle_release *next;
    uint64_t id;
};

/* ---- the set ----------------------------------------------------------------------------- */

static struct prefix_handle **link_of(struct handle_set *set, uint64_t id)
{
    struct prefix_handle **link = &set->bucket[id % N_BUCKETS];
    while (*link && (*link)->id != id)
        link = &(*link)->next;
    return link;
}

static bool goes_before(const struct prefix_handle *a, const struct prefix_handle *b)
{
    return a->rank != b->rank ? a->rank > b->rank : a->id < b->id;
}

static void heap_set(struct handle_set *set, uint32_t at, struct prefix_handle *handle)
{
    set->heap[at] = handle;
    handle->heap_at = at;
}

/* `handle` goes to its place, from the hole at `at`. */
static void heap_settle(struct handle_set *set, uint32_t at, struct prefix_handle *handle)
{
    for (; at > 0 && goes_before(handle, set->heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap_set(set, at, set->heap[(at - 1) / 2]);
    for (uint32_t child; (child = 2 * at + 1) < set->n; at = child) {
        if (child + 1 < set->n && goes_before(set->heap[child + 1], set->heap[child]))
            child++;
        if (!goes_before(set->heap[child], handle))
            break;
        heap_set(set, at, set->heap[child]);
    }
    heap_set(set, at, handle);
}

static void heap_remove(struct handle_set *set, const struct prefix_handle *handle)
{
    struct prefix_handle *last = set->heap[--set->n];
    if (last != handle)
        heap_settle(set, handle->heap_at, last);
}

bool handles_create(struct engine *engine)
{
    const double share = engine->options.max_pinned_fraction;
    const double fraction = share > 0 ? (share < 1 ? share : 1) : PINNED_FRACTION;
    struct handle_set *set = engine->handles = calloc(1, sizeof *set);
    if (!set)
        return false;
    const uint32_t n_pages = page_pool_n_pages(engine->pool);
    set->next_expiry_ns = UINT64_MAX;
    set->n_pages_most = (uint32_t)(fraction * n_pages);
    set->n_windows_most = (uint32_t)(fraction * page_pool_windows(engine->pool).n_pages);
    set->pins = calloc(n_pages + 1, sizeof *set->pins);
    return set->pins != NULL;
}

/* ---- dropping ---------------------------------------------------------------------------- */

static void drop(struct engine *engine, struct prefix_handle **link)
{
    struct handle_set *set = engine->handles;
    struct prefix_handle *handle = *link;
    *link = handle->next;
    heap_remove(set, handle);
    for (uint32_t i = 0; i < handle->n_windows; i++) {
        page_pool_unpin_window(engine->pool, handle->window[i], true);
        set->n_windows -= --set->pins[handle->window[i].index] == 0;
    }
    set->n_pins -= handle->n_windows;
    if (handle->n_tail > 0) {
        page_pool_give(engine->pool, &handle->tail, 1);
        set->n_tails--;
    }
    radix_tree_release(engine->tree, &handle->hold);
    free(handle);
}

bool handles_give_way(struct engine *engine)
{
    struct handle_set *set = engine->handles;
    if (!set || set->n == 0)
        return false;
    drop(engine, link_of(set, set->heap[0]->id));
    return true;
}

void handles_drop_all(struct engine *engine)
{
    while (handles_give_way(engine))
        ;
}

/* ---- keeping ----------------------------------------------------------------------------- */

static void pin_window(struct engine *engine, struct prefix_handle *handle, struct page_id page)
{
    if (!page_pool_pin_window(engine->pool, page))
        return;
    handle->window[handle->n_windows++] = page;
    engine->handles->n_windows += engine->handles->pins[page.index]++ == 0;
    engine->handles->n_pins++;
}

/* The page behind those of the tree; it is not the sequence's any more. With layers that lie apart
 * it is worth something only with its window page. */
static void take_tail(struct engine *engine, struct prefix_handle *handle, struct sequence *s)
{
    const uint32_t first = s->n_shared * PAGE;
    const uint32_t n = min_u32(s->n_computed - first, PAGE - 1);
    if (n == 0)
        return;
    struct page_id *page = &s->page[s->n_shared];
    if (engine->has_windows) {
        pin_window(engine, handle, *page);
        if (page_pool_window(engine->pool, *page) == SERVERD_NO_PAGE)
            return;
    }
    handle->tail = *page;
    handle->n_tail = n;
    for (uint32_t i = 0; i < n; i++)
        handle->tail_tokens[i] = sequence_token(s, first + i);
    *page = s->page[--s->n_pages];
    engine->handles->n_tails++;
}

/* All that the sequence has computed. NULL: no memory. */
static struct prefix_handle *make(struct engine *engine, struct sequence *s)
{
    const struct request *r = s->job->request;
    const uint64_t now = engine->now_ns;
    /* one page more than a row behind the last page needs: the next turn may give some tokens up */
    const uint32_t n_windows =
        engine->has_windows ? min_u32(engine->window_span + 1, s->n_shared) : 0;
    struct prefix_handle *handle =
        calloc(1, sizeof *handle + (n_windows + 1) * sizeof(struct page_id));
    if (!handle)
        return NULL;
    handle->id = ++engine->handles->last_id;
    handle->expires_ns = r->hold_ns < UINT64_MAX - now ? now + r->hold_ns : UINT64_MAX;
    handle->space = r->cache_space;
    handle->rank = r->hold_rank;
    handle->n_pages = s->n_shared;
    for (uint32_t i = s->n_shared - n_windows; i < s->n_shared; i++)
        pin_window(engine, handle, s->page[i]);
    windows_release(engine, s); /* nobody takes them in between */
    take_tail(engine, handle, s);
    handle->hold = s->hold;
    s->hold = (struct radix_hold){.node = NULL};
    radix_tree_keep(engine->tree, &handle->hold);
    return handle;
}

static uint32_t n_held_pages(const struct engine *engine)
{
    return radix_tree_n_kept(engine->tree) + engine->handles->n_tails;
}

void handles_keep(struct engine *engine, struct sequence *s)
{
    struct handle_set *set = engine->handles;
    if (!set || !s->hold.node || s->n_computed == 0)
        return;
    if (set->n == LIMIT_PREFIX_HANDLES)
        (void)handles_give_way(engine);
    struct prefix_handle *handle = make(engine, s);
    if (!handle)
        return;
    struct prefix_handle **link = link_of(set, handle->id);
    *link = handle;
    heap_settle(set, set->n++, handle);
    if (handle->expires_ns < set->next_expiry_ns)
        set->next_expiry_ns = handle->expires_ns;
    s->job->prefix_handle = handle->id;
    s->job->n_held = handle->n_pages * PAGE + handle->n_tail;
    while (n_held_pages(engine) > set->n_pages_most || set->n_windows > set->n_windows_most)
        (void)handles_give_way(engine);
    if (!*link_of(set, s->job->prefix_handle)) /* it had to go itself */
        s->job->prefix_handle = s->job->n_held = 0;
}

/* ---- using ------------------------------------------------------------------------------- */

void handles_match(const struct engine *engine, const struct request *r, const int32_t *tokens,
                   uint32_t n, struct radix_match *match)
{
    const struct prefix_handle *handle =
        engine->handles && r->behind ? *link_of(engine->handles, r->behind) : NULL;
    if (!handle || handle->space != r->cache_space)
        return;
    struct page_id page = handle->tail;
    const uint32_t n_whole = handle->n_pages * PAGE;
    uint32_t n_equal = radix_tree_common(&handle->hold, tokens, n, &page);
    if (n_equal == n_whole)
        while (n_equal < n && n_equal - n_whole < handle->n_tail &&
               tokens[n_equal] == handle->tail_tokens[n_equal - n_whole])
            n_equal++;
    if (n_equal / PAGE != match->n_pages || n_equal % PAGE <= match->n_partial ||
        (engine->has_windows && page_pool_window(engine->pool, page) == SERVERD_NO_PAGE))
        return;
    match->n_partial = n_equal % PAGE;
    match->partial = page;
}

/* ---- the end ----------------------------------------------------------------------------- */

static void take_releases(struct engine *engine)
{
    if (!atomic_exchange(&engine->has_releases, false))
        return;
    (void)pthread_mutex_lock(&engine->mutex);
    struct handle_release *released = engine->released;
    engine->released = NULL;
    (void)pthread_mutex_unlock(&engine->mutex);
    while (released) {
        struct handle_release *release = released;
        released = release->next;
        struct prefix_handle **link =
            engine->handles ? link_of(engine->handles, release->id) : NULL;
        if (link && *link)
            drop(engine, link);
        free(release);
    }
}

void handles_expire(struct engine *engine)
{
    struct handle_set *set = engine->handles;
    take_releases(engine);
    if (!set || engine->now_ns < set->next_expiry_ns)
        return;
    set->next_expiry_ns = UINT64_MAX;
    for (uint32_t i = 0; i < N_BUCKETS; i++)
        for (struct prefix_handle **link = &set->bucket[i]; *link;) {
            if ((*link)->expires_ns <= engine->now_ns) {
                drop(engine, link);
                continue;
            }
            if ((*link)->expires_ns < set->next_expiry_ns)
                set->next_expiry_ns = (*link)->expires_ns;
            link = &(*link)->next;
        }
}

void engine_release_prefix(struct engine *engine, uint64_t handle)
{
    struct handle_release *release = handle ? calloc(1, sizeof *release) : NULL;
    if (!release)
        return; /* it expires, or gives way */
    (void)pthread_mutex_lock(&engine->mutex);
    *release = (struct handle_release){.next = engine->released, .id = handle};
    engine->released = release;
    atomic_store(&engine->has_releases, true);
    engine_wake(engine);
    (void)pthread_mutex_unlock(&engine->mutex);
}

void handles_destroy(struct engine *engine)
{
    handles_drop_all(engine);
    while (engine->released) {
        struct handle_release *release = engine->released;
        engine->released = release->next;
        free(release);
    }
    if (engine->handles)
        free(engine->handles->pins);
    free(engine->handles);
}

/* ---- numbers and checks ------------------------------------------------------------------ */

struct handle_totals handles_totals(const struct engine *engine)
{
    const struct handle_set *set = engine->handles;
    if (!set)
        return (struct handle_totals){0};
    return (struct handle_totals){.n = set->n,
                                  .n_pages = n_held_pages(engine),
                                  .n_tails = set->n_tails,
                                  .n_window_pins = set->n_pins};
}

static serverd_status check_handle(const struct engine *engine, uint32_t at, serverd_error *err)
{
    struct handle_set *set = engine->handles;
    const struct prefix_handle *handle = set->heap[at];
    if (handle->heap_at != at || *link_of(set, handle->id) != handle ||
        (at > 0 && goes_before(handle, set->heap[(at - 1) / 2])))
        return fail(err, SERVERD_INTERNAL, "prefix handle %llu is in the wrong place",
                    (unsigned long long)handle->id);
    if (handle->n_tail >= PAGE ||
        (handle->n_tail > 0 && !page_pool_is_live(engine->pool, handle->tail)))
        return fail(err, SERVERD_INTERNAL, "prefix handle %llu: %u tokens in stale page %u",
                    (unsigned long long)handle->id, handle->n_tail, handle->tail.index);
    return SERVERD_OK;
}

serverd_status handles_check(const struct engine *engine, serverd_error *err)
{
    const struct handle_set *set = engine->handles;
    uint32_t n_tails = 0, n_windows = 0;
    uint64_t n_pins = 0;
    for (uint32_t i = 0; set && i < set->n; i++) {
        if (check_handle(engine, i, err))
            return err->code;
        n_tails += set->heap[i]->n_tail > 0;
        n_pins += set->heap[i]->n_windows;
    }
    for (uint32_t i = 0; set && i < page_pool_n_pages(engine->pool); i++)
        n_windows += set->pins[i] > 0;
    if (set && (n_tails != set->n_tails || n_pins != set->n_pins || n_windows != set->n_windows ||
                n_held_pages(engine) > set->n_pages_most))
        return fail(err, SERVERD_INTERNAL,
                    "prefix handles: %u tails, %llu pins, %u window pages, %u pages held; counted "
                    "%u, %llu, %u, %u allowed",
                    set->n_tails, (unsigned long long)set->n_pins, set->n_windows,
                    n_held_pages(engine), n_tails, (unsigned long long)n_pins, n_windows,
                    set->n_pages_most);
    return SERVERD_OK;
}
