#include "kvcache/page_pool.h"

#include "base/error.h"

#include <assert.h>
#include <stdlib.h>

/* Further states (pages in transfer) join here. */
enum page_state { PAGE_FREE, PAGE_PRIVATE, PAGE_SHARED };

struct page {
    uint32_t generation; /* counts the times the slot was given back */
    uint32_t next_free;  /* of a free page; n_pages ends the list */
    enum page_state state;
};

struct page_pool {
    uint32_t n_pages, n_free, n_shared;
    uint32_t first_free;
    struct page page[];
};

struct page_pool *page_pool_create(uint32_t n_pages)
{
    struct page_pool *pool = calloc(1, sizeof *pool + (size_t)n_pages * sizeof pool->page[0]);
    if (!pool)
        return NULL;
    pool->n_pages = pool->n_free = n_pages;
    for (uint32_t i = 0; i < n_pages; i++)
        pool->page[i].next_free = i + 1;
    return pool;
}

void page_pool_destroy(struct page_pool *pool)
{
    free(pool);
}

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
    return SERVERD_OK;
}
