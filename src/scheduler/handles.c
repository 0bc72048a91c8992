/* Prefix handles: prefixes that stay in pages after their request, so that generation programs and
 * sessions go on behind them. A handle is a hold of the prefix tree with an end in time; requests
 * use it by beginning with the same tokens, as many of them as they like: that is a fork. It keeps
 * eviction off, not those who run: when pages are short handles go, the oldest first, and their
 * tokens are computed again if need be. */
#include "scheduler/engine_internal.h"

#include "base/limits.h"

#include <stdlib.h>

/* Handles hold this share of the pool at most. */
#define HELD_SHARE 2

struct prefix_handle {
    struct prefix_handle *next; /* the oldest first */
    uint64_t id, expires_ns;
    struct radix_hold hold;
    uint32_t n_pages, n_windows;
    struct page_id window[]; /* [n_windows] the last pages, whose window pages it has pinned */
};

/* What another thread has released; it cannot touch the tree. */
struct handle_release {
    struct handle_release *next;
    uint64_t id;
};

static void drop(struct engine *engine, struct prefix_handle **link)
{
    struct prefix_handle *handle = *link;
    *link = handle->next;
    for (uint32_t i = 0; i < handle->n_windows; i++)
        page_pool_unpin_window(engine->pool, handle->window[i], true);
    radix_tree_release(engine->tree, &handle->hold);
    engine->n_handles--;
    engine->n_held_pages -= handle->n_pages;
    engine->n_held_windows -= handle->n_windows;
    free(handle);
}

/* The oldest go; false: these are too many even so. */
static bool make_room(struct engine *engine, uint32_t n_pages, uint32_t n_windows)
{
    const uint32_t quota = page_pool_n_pages(engine->pool) / HELD_SHARE;
    const uint32_t window_quota = page_pool_windows(engine->pool).n_pages / HELD_SHARE;
    if (n_pages > quota || n_windows > window_quota)
        return false;
    while (engine->handles &&
           (engine->n_handles >= LIMIT_PREFIX_HANDLES || engine->n_held_pages + n_pages > quota ||
            engine->n_held_windows + n_windows > window_quota))
        drop(engine, &engine->handles);
    return true;
}

uint64_t handles_keep(struct engine *engine, struct sequence *s)
{
    uint32_t n_windows = engine->has_windows ? min_u32(engine->window_span, s->n_shared) : 0;
    if (!engine->tree || !s->hold.node || s->n_shared == 0 ||
        !make_room(engine, s->n_shared, n_windows))
        return 0;
    struct prefix_handle **end = &engine->handles;
    struct prefix_handle *handle = calloc(1, sizeof *handle + n_windows * sizeof(struct page_id));
    if (!handle)
        return 0;
    *handle = (struct prefix_handle){.id = ++engine->last_handle,
                                     .expires_ns = engine->now_ns + s->job->request->hold_ns,
                                     .hold = s->hold,
                                     .n_pages = s->n_shared};
    for (uint32_t i = s->n_shared - n_windows; i < s->n_shared; i++)
        if (page_pool_pin_window(engine->pool, s->page[i]))
            handle->window[handle->n_windows++] = s->page[i];
    s->hold = (struct radix_hold){.node = NULL};
    while (*end)
        end = &(*end)->next;
    *end = handle;
    engine->n_handles++;
    engine->n_held_pages += handle->n_pages;
    engine->n_held_windows += handle->n_windows;
    if (handle->expires_ns < engine->next_expiry_ns)
        engine->next_expiry_ns = handle->expires_ns;
    return handle->id;
}

bool handles_give_way(struct engine *engine)
{
    if (!engine->handles)
        return false;
    drop(engine, &engine->handles);
    return true;
}

void handles_drop_all(struct engine *engine)
{
    while (handles_give_way(engine))
        ;
}

static void drop_id(struct engine *engine, uint64_t id)
{
    for (struct prefix_handle **link = &engine->handles; *link; link = &(*link)->next)
        if ((*link)->id == id) {
            drop(engine, link);
            return;
        }
}

void handles_expire(struct engine *engine)
{
    struct handle_release *released = NULL;
    if (atomic_exchange(&engine->has_releases, false)) {
        (void)pthread_mutex_lock(&engine->mutex);
        released = engine->released;
        engine->released = NULL;
        (void)pthread_mutex_unlock(&engine->mutex);
    }
    while (released) {
        struct handle_release *release = released;
        released = release->next;
        drop_id(engine, release->id);
        free(release);
    }
    if (engine->now_ns < engine->next_expiry_ns)
        return;
    engine->next_expiry_ns = UINT64_MAX;
    for (struct prefix_handle **link = &engine->handles; *link;) {
        if ((*link)->expires_ns <= engine->now_ns) {
            drop(engine, link);
            continue;
        }
        if ((*link)->expires_ns < engine->next_expiry_ns)
            engine->next_expiry_ns = (*link)->expires_ns;
        link = &(*link)->next;
    }
}

void engine_release_prefix(struct engine *engine, uint64_t handle)
{
    struct handle_release *release = calloc(1, sizeof *release);
    if (!release)
        return; /* it expires */
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
}
