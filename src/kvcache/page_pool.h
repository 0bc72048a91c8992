/* Who owns which KV page. The pool counts and names pages; their bytes live in the delegate.
 * Engine thread only.
 *
 * A page is in exactly one place: free, private to one sequence, or shared: of the radix tree. A
 * page_id carries the generation of its slot, so a stale id is caught.
 * Invariant: n_free + n_private + n_shared == n_pages.
 *
 * If layers with a window lie apart (delegate.h), a page has a *window page* or none: without it,
 * its tokens' keys and values of these layers are gone, and rows whose window shows them cannot
 * run. Who runs *pins* the window pages that it needs. Those that nobody pins lie in one of two
 * lists, *middle* and *kept*, and are taken from there for other pages when none is free, middle
 * before kept, the least recently pinned first. Kept are those before a point where others are
 * likely to go on; middle, where a window merely moved on.
 * Invariant: n_free + n_pinned + n_middle + n_kept == n_pages of page_pool_windows. */
#ifndef KVCACHE_PAGE_POOL_H
#define KVCACHE_PAGE_POOL_H

#include "serverd/status.h"

#include <stdbool.h>

struct page_id {
    uint32_t index, generation;
};

struct page_pool;

/* n_window_pages 0: pages hold all layers, and have no window pages. NULL: no memory. */
struct page_pool *page_pool_create(uint32_t n_pages, uint32_t n_window_pages);
void page_pool_destroy(struct page_pool *pool);

/* Take n pages, all or none: SERVERD_NOMEM if fewer are free. They have no window pages. */
serverd_status page_pool_take(struct page_pool *pool, uint32_t n, struct page_id *out,
                              serverd_error *err);
/* Private or shared ones, whose window pages nobody pins: these become free, too. */
void page_pool_give(struct page_pool *pool, const struct page_id *pages, uint32_t n);
/* Private pages become the tree's. */
void page_pool_share(struct page_pool *pool, const struct page_id *pages, uint32_t n);

bool page_pool_is_live(const struct page_pool *pool, struct page_id page);
uint32_t page_pool_n_pages(const struct page_pool *pool);
uint32_t page_pool_n_free(const struct page_pool *pool);
uint32_t page_pool_n_private(const struct page_pool *pool);
uint32_t page_pool_n_shared(const struct page_pool *pool);

/* ---- window pages; all of these want a live page ---- */

/* Its index in the store, SERVERD_NO_PAGE if it has none. */
uint32_t page_pool_window(const struct page_pool *pool, struct page_id page);

/* Gives a page that has none a window page, pinned once, of undefined contents. False: all are
 * pinned. */
bool page_pool_take_window(struct page_pool *pool, struct page_id page);
/* One pin more; false: it has no window page. */
bool page_pool_pin_window(struct page_pool *pool, struct page_id page);
/* One pin less. Kept or not is decided by who pins: once kept, it stays so. */
void page_pool_unpin_window(struct page_pool *pool, struct page_id page, bool is_kept);
/* What `from` has, with its pins, goes over to `to`, which holds the same tokens: the window page
 * itself if `to` has none, else just the pins, and that of `from` is free. */
void page_pool_move_window(struct page_pool *pool, struct page_id from, struct page_id to);

struct window_counts {
    uint32_t n_pages; /* = n_free + n_pinned + n_middle + n_kept */
    uint32_t n_free, n_pinned, n_middle, n_kept;
    uint64_t n_pins;                           /* of all pinned ones */
    uint64_t n_middle_dropped, n_kept_dropped; /* since the pool's creation */
};
struct window_counts page_pool_windows(const struct page_pool *pool);

/* Walks everything; for tests and idle checks. */
serverd_status page_pool_check(const struct page_pool *pool, serverd_error *err);

#endif
