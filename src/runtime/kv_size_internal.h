/* How many pages and window pages (delegate.h) the memory for keys and values is cut into. */
#ifndef RUNTIME_KV_SIZE_INTERNAL_H
#define RUNTIME_KV_SIZE_INTERNAL_H

#include "serverd/delegate.h"

struct kv_demand {
    serverd_kv_bytes bytes; /* of one page, one window page; not both 0 */
    uint32_t window;        /* tokens of the widest; 0: no window pages */
    /* Window pages for each page; 0: found from window and context. 1 or more: no window pages. */
    double window_share;
    uint32_t max_context, max_seqs; /* tokens, sequences */
    uint64_t kv_bytes;              /* 0: what max_seqs contexts need, at most a third of what is */
    uint64_t free_bytes;            /* free */
};

struct kv_size {
    uint32_t n_pages, n_window_pages; /* 0 window pages: pages hold all layers */
    uint64_t page_bytes;              /* of a page, then */
    uint64_t window_page_bytes;       /* 0: there are none */
};

/* So many pages, whatever there is room for. */
static inline struct kv_size kv_size_of(const serverd_kv_bytes *bytes, uint32_t n_pages,
                                        uint32_t n_window_pages)
{
    if (n_window_pages == 0)
        return (struct kv_size){.n_pages = n_pages, .page_bytes = bytes->page + bytes->window_page};
    return (struct kv_size){.n_pages = n_pages,
                            .n_window_pages = n_window_pages,
                            .page_bytes = bytes->page,
                            .window_page_bytes = bytes->window_page};
}

/* Pages in front of the beginning of a page whose window pages a row there needs. */
static inline uint32_t kv_window_span(uint32_t window)
{
    return window > 1 ? (window - 2) / SERVERD_PAGE_TOKENS + 1 : 0;
}

/* SERVERD_NOMEM: less than one context fits. */
serverd_status kv_size_find(const struct kv_demand *demand, struct kv_size *out,
                            serverd_error *err);

#endif
