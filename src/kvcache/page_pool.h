/* Who owns which KV page. The pool counts and names pages; their bytes live in the delegate.
 * Engine thread only.
 *
 * A page is in exactly one place: free, private to one sequence, or shared: of the radix tree. A
 * page_id carries the generation of its slot, so a stale id is caught.
 * Invariant: n_free + n_private + n_shared == n_pages. */
#ifndef KVCACHE_PAGE_POOL_H
#define KVCACHE_PAGE_POOL_H

#include "serverd/status.h"

#include <stdbool.h>

struct page_id {
    uint32_t index, generation;
};

struct page_pool;

struct page_pool *page_pool_create(uint32_t n_pages); /* NULL: no memory */
void page_pool_destroy(struct page_pool *pool);

/* Take n pages, all or none: SERVERD_NOMEM if fewer are free. */
serverd_status page_pool_take(struct page_pool *pool, uint32_t n, struct page_id *out,
                              serverd_error *err);
/* Private or shared ones. */
void page_pool_give(struct page_pool *pool, const struct page_id *pages, uint32_t n);
/* Private pages become the tree's. */
void page_pool_share(struct page_pool *pool, const struct page_id *pages, uint32_t n);

bool page_pool_is_live(const struct page_pool *pool, struct page_id page);
uint32_t page_pool_n_pages(const struct page_pool *pool);
uint32_t page_pool_n_free(const struct page_pool *pool);
uint32_t page_pool_n_private(const struct page_pool *pool);
uint32_t page_pool_n_shared(const struct page_pool *pool);

/* Walks everything; for tests and idle checks. */
serverd_status page_pool_check(const struct page_pool *pool, serverd_error *err);

#endif
