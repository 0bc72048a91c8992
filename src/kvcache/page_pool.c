#include "kvcache/page_pool.h"

#include "base/error.h"
#include "serverd/delegate.h"

#include <assert.h>
#include <stdlib.h>

/* Further states (pages in transfer) join here. */
enum page_state { PAGE_FREE, PAGE_PRIVATE, PAGE_SHARED };

struct page {
    uint32_t generation; /* counts the times the slot was given back */
    uint32_t next_free;  /* of a free page; n_pages ends the list */
    uint32_t window;     /* SERVERD_NO_PAGE: none */
    enum page_state state;
};

/* Of a window page without pins. A free one has no owner; a pinned one is in no list. */
enum window_list { WINDOW_FREE, WINDOW_MIDDLE, WINDOW_KEPT, N_WINDOW_LISTS };

struct window {
    uint32_t owner; /* page; SERVERD_NO_PAGE: free */
    uint32_t n_pins;
    uint32_t before, next; /* in its list; SERVERD_NO_PAGE ends it */
    bool is_kept;
};

struct window_chain {
    uint32_t first, last; /* the first goes next */
    uint32_t n;
};

struct page_pool {
    uint32_t n_pages, n_free, n_shared;
    uint32_t first_free;
    struct window *window; /* [n_windows] */
    uint32_t n_windows;
    struct window_chain list[N_WINDOW_LISTS];
    uint64_t n_pins, n_middle_dropped, n_kept_dropped;
    struct page page[];
};

/* ---- window pages: lists --------------------------------------------------------------------- */

static enum window_list list_of(const struct window *window)
{
    if (window->owner == SERVERD_NO_PAGE)
        return WINDOW_FREE;
    return window->is_kept ? WINDOW_KEPT : WINDOW_MIDDLE;
}

static void list_append(struct page_pool *pool, uint32_t index)
{
    struct window *window = &pool->window[index];
    struct window_chain *list = &pool->list[list_of(window)];
    window->before = list->last;
    window->next = SERVERD_NO_PAGE;
    *(list->n > 0 ? &pool->window[list->last].next : &list->first) = index;
    list->last = index;
    list->n++;
}

static void list_remove(struct page_pool *pool, uint32_t index)
{
    const struct window *window = &pool->window[index];
    struct window_chain *list = &pool->list[list_of(window)];
    *(window->before != SERVERD_NO_PAGE ? &pool->window[window->before].next : &list->first) =
        window->next;
    *(window->next != SERVERD_NO_PAGE ? &pool->window[window->next].before : &list->last) =
        window->before;
    list->n--;
}

/* Of a page without pins; it is free then. */
static void drop_window(struct page_pool *pool, struct page *page)
{
    struct window *window = &pool->window[page->window];
    assert(window->n_pins == 0);
    list_remove(pool, page->window);
    window->owner = SERVERD_NO_PAGE;
    window->is_kept = false;
    list_append(pool, page->window);
    page->window = SERVERD_NO_PAGE;
}

/* ---- life ------------------------------------------------------------------------------------ */

struct page_pool *page_pool_create(uint32_t n_pages, uint32_t n_window_pages)
{
    struct page_pool *pool = calloc(1, sizeof *pool + (size_t)n_pages * sizeof pool->page[0]);
    if (!pool)
        return NULL;
    pool->n_pages = pool->n_free = n_pages;
    for (uint32_t i = 0; i < n_pages; i++) {
        pool->page[i].next_free = i + 1;
        pool->page[i].window = SERVERD_NO_PAGE;
    }
    for (int i = 0; i < N_WINDOW_LISTS; i++)
        pool->list[i] = (struct window_chain){SERVERD_NO_PAGE, SERVERD_NO_PAGE, 0};
    pool->n_windows = n_window_pages;
    pool->window = n_window_pages > 0 ? calloc(n_window_pages, sizeof *pool->window) : NULL;
    if (n_window_pages > 0 && !pool->window) {
        page_pool_destroy(pool);
        return NULL;
    }
    for (uint32_t i = 0; i < n_window_pages; i++) {
        pool->window[i].owner = SERVERD_NO_PAGE;
        list_append(pool, i);
    }
    return pool;
}

void page_pool_destroy(struct page_pool *pool)
{
    if (!pool)
        return;
    free(pool->window);
    free(pool);
}

/* ---- pages ----------------------------------------------------------------------------------- */

serverd_status page_pool_take(struct page_pool *pool, uint32_t n, struct page_id *out,
                              serverd_error *err)
{
    if (n > pool->n_free)
        return fail(err, SERVERD_NOMEM, "KV pages: %u wanted, %u of %u free", n, pool->n_free,
                    pool->n_pages);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t index = pool->first_free;
        struct page *page = &pool->page[index];
        assert(index < pool->n_pages && page->state == PAGE_FREE);
        pool->first_free = page->next_free;
        page->state = PAGE_PRIVATE;
        out[i] = (struct page_id){index, page->generation};
    }
    pool->n_free -= n;
    return SERVERD_OK;
}

void page_pool_give(struct page_pool *pool, const struct page_id *pages, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        assert(page_pool_is_live(pool, pages[i]));
        struct page *page = &pool->page[pages[i].index];
        if (page->window != SERVERD_NO_PAGE)
            drop_window(pool, page);
        pool->n_shared -= page->state == PAGE_SHARED;
        page->state = PAGE_FREE;
        page->generation++;
        page->next_free = pool->first_free;
        pool->first_free = pages[i].index;
    }
    pool->n_free += n;
}

void page_pool_share(struct page_pool *pool, const struct page_id *pages, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        assert(page_pool_is_live(pool, pages[i]));
        struct page *page = &pool->page[pages[i].index];
        assert(page->state == PAGE_PRIVATE);
        page->state = PAGE_SHARED;
    }
    pool->n_shared += n;
}

bool page_pool_is_live(const struct page_pool *pool, struct page_id page)
{
    return page.index < pool->n_pages && pool->page[page.index].state != PAGE_FREE &&
           pool->page[page.index].generation == page.generation;
}

uint32_t page_pool_n_pages(const struct page_pool *pool)
{
    return pool->n_pages;
}

uint32_t page_pool_n_free(const struct page_pool *pool)
{
    return pool->n_free;
}

uint32_t page_pool_n_private(const struct page_pool *pool)
{
    return pool->n_pages - pool->n_free - pool->n_shared;
}

uint32_t page_pool_n_shared(const struct page_pool *pool)
{
    return pool->n_shared;
}

/* ---- window pages ---------------------------------------------------------------------------- */

uint32_t page_pool_window(const struct page_pool *pool, struct page_id page)
{
    assert(page_pool_is_live(pool, page));
    return pool->page[page.index].window;
}

/* One that is free now; SERVERD_NO_PAGE: all are pinned. */
static uint32_t free_window(struct page_pool *pool)
{
    static const enum window_list order[] = {WINDOW_MIDDLE, WINDOW_KEPT};
    for (int i = 0; i < 2 && pool->list[WINDOW_FREE].n == 0; i++) {
        uint32_t oldest = pool->list[order[i]].first;
        if (oldest == SERVERD_NO_PAGE)
            continue;
        drop_window(pool, &pool->page[pool->window[oldest].owner]);
        pool->n_middle_dropped += order[i] == WINDOW_MIDDLE;
        pool->n_kept_dropped += order[i] == WINDOW_KEPT;
    }
    return pool->list[WINDOW_FREE].first;
}

bool page_pool_take_window(struct page_pool *pool, struct page_id page)
{
    assert(page_pool_is_live(pool, page));
    assert(pool->page[page.index].window == SERVERD_NO_PAGE);
    uint32_t index = free_window(pool);
    if (index == SERVERD_NO_PAGE)
        return false;
    list_remove(pool, index);
    pool->window[index].owner = page.index;
    pool->window[index].n_pins = 1;
    pool->n_pins++;
    pool->page[page.index].window = index;
    return true;
}

bool page_pool_pin_window(struct page_pool *pool, struct page_id page)
{
    uint32_t index = page_pool_window(pool, page);
    if (index == SERVERD_NO_PAGE)
        return false;
    if (pool->window[index].n_pins++ == 0)
        list_remove(pool, index);
    pool->n_pins++;
    return true;
}

void page_pool_unpin_window(struct page_pool *pool, struct page_id page, bool is_kept)
{
    uint32_t index = page_pool_window(pool, page);
    assert(index != SERVERD_NO_PAGE && pool->window[index].n_pins > 0);
    pool->window[index].is_kept |= is_kept;
    pool->n_pins--;
    if (--pool->window[index].n_pins == 0)
        list_append(pool, index);
}

void page_pool_move_window(struct page_pool *pool, struct page_id from, struct page_id to)
{
    uint32_t source = page_pool_window(pool, from), target = page_pool_window(pool, to);
    if (source == SERVERD_NO_PAGE || from.index == to.index)
        return;
    if (target == SERVERD_NO_PAGE) {
        pool->window[source].owner = to.index;
        pool->page[to.index].window = source;
        pool->page[from.index].window = SERVERD_NO_PAGE;
        return;
    }
    struct window *s = &pool->window[source], *t = &pool->window[target];
    if (s->n_pins > 0) {
        if (t->n_pins == 0)
            list_remove(pool, target);
        t->n_pins += s->n_pins;
        s->n_pins = 0;
        list_append(pool, source);
    }
    drop_window(pool, &pool->page[from.index]);
}

struct window_counts page_pool_windows(const struct page_pool *pool)
{
    const struct window_chain *list = pool->list;
    return (struct window_counts){
        .n_pages = pool->n_windows,
        .n_free = list[WINDOW_FREE].n,
        .n_pinned =
            pool->n_windows - list[WINDOW_FREE].n - list[WINDOW_MIDDLE].n - list[WINDOW_KEPT].n,
        .n_middle = list[WINDOW_MIDDLE].n,
        .n_kept = list[WINDOW_KEPT].n,
        .n_pins = pool->n_pins,
        .n_middle_dropped = pool->n_middle_dropped,
        .n_kept_dropped = pool->n_kept_dropped,
    };
}

/* ---- checks ---------------------------------------------------------------------------------- */

static serverd_status check_list(const struct page_pool *pool, enum window_list kind,
                                 serverd_error *err)
{
    const struct window_chain *list = &pool->list[kind];
    uint32_t n = 0, before = SERVERD_NO_PAGE;
    for (uint32_t i = list->first; i != SERVERD_NO_PAGE && n <= list->n;
         before = i, i = pool->window[i].next, n++)
        if (i >= pool->n_windows || list_of(&pool->window[i]) != kind ||
            pool->window[i].n_pins > 0 || pool->window[i].before != before)
            return fail(err, SERVERD_INTERNAL, "window page %u: in the wrong list, or pinned", i);
    if (n != list->n || before != list->last)
        return fail(err, SERVERD_INTERNAL, "window pages: %u in list %d, counted %u", n, (int)kind,
                    list->n);
    return SERVERD_OK;
}

static serverd_status check_windows(const struct page_pool *pool, serverd_error *err)
{
    uint32_t n_pinned = 0, n_owned = 0, n_owners = 0;
    uint64_t n_pins = 0;
    for (uint32_t i = 0; i < pool->n_windows; i++) {
        const struct window *window = &pool->window[i];
        n_pinned += window->n_pins > 0;
        n_pins += window->n_pins;
        n_owned += window->owner != SERVERD_NO_PAGE;
        if (window->owner == SERVERD_NO_PAGE
                ? window->n_pins > 0 || window->is_kept
                : window->owner >= pool->n_pages || pool->page[window->owner].window != i)
            return fail(err, SERVERD_INTERNAL, "window page %u: its owner is page %u, %u pins", i,
                        window->owner, window->n_pins);
    }
    for (uint32_t i = 0; i < pool->n_pages; i++) {
        n_owners += pool->page[i].window != SERVERD_NO_PAGE;
        if (pool->page[i].window != SERVERD_NO_PAGE && pool->page[i].state == PAGE_FREE)
            return fail(err, SERVERD_INTERNAL, "KV page %u: free, with a window page", i);
    }
    for (int kind = 0; kind < N_WINDOW_LISTS; kind++)
        if (check_list(pool, (enum window_list)kind, err))
            return err->code;
    const struct window_counts counts = page_pool_windows(pool);
    if (n_owned != n_owners || n_pinned != counts.n_pinned || n_pins != counts.n_pins)
        return fail(err, SERVERD_INTERNAL,
                    "window pages: %u owned by %u pages, %u pinned, counted %u", n_owned, n_owners,
                    n_pinned, counts.n_pinned);
    return SERVERD_OK;
}

serverd_status page_pool_check(const struct page_pool *pool, serverd_error *err)
{
    uint32_t n_free = 0, n_shared = 0, n_listed = 0;
    for (uint32_t i = 0; i < pool->n_pages; i++) {
        n_free += pool->page[i].state == PAGE_FREE;
        n_shared += pool->page[i].state == PAGE_SHARED;
    }
    for (uint32_t i = pool->first_free; i < pool->n_pages && n_listed <= pool->n_free;
         i = pool->page[i].next_free) {
        if (pool->page[i].state != PAGE_FREE)
            return fail(err, SERVERD_INTERNAL, "KV page %u: in the free list, but in use", i);
        n_listed++;
    }
    if (n_free != pool->n_free || n_listed != pool->n_free)
        return fail(err, SERVERD_INTERNAL, "KV pages: %u free, %u in the free list, counted %u",
                    n_free, n_listed, pool->n_free);
    if (n_shared != pool->n_shared)
        return fail(err, SERVERD_INTERNAL, "KV pages: %u shared, counted %u", n_shared,
                    pool->n_shared);
    return check_windows(pool, err);
}
