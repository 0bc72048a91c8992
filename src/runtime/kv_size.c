#include "runtime/kv_size_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/numeric.h"

/* Of every context so many windows: those that run and the points where others may go on. */
#define WINDOWS_PER_CONTEXT 8

/* But no less than this share of the pages: prompts may be short, and need all their windows. */
#define LEAST_WINDOW_SHARE 0.25

/* A sequence needs its window, the page that it fills, the next one if a step crosses into it, and
 * one that is copied from. */
#define SPARE_WINDOW_PAGES 4u

static uint64_t pages_of(uint64_t n_tokens)
{
    return (n_tokens + SERVERD_PAGE_TOKENS - 1) / SERVERD_PAGE_TOKENS;
}

static double find_share(const struct kv_demand *demand)
{
    if (demand->window == 0 || demand->bytes.window_page == 0)
        return 1;
    if (demand->window_share > 0)
        return demand->window_share;
    double share = (double)WINDOWS_PER_CONTEXT * (kv_window_span(demand->window) + 1) /
                   (double)pages_of(demand->max_context);
    return share < LEAST_WINDOW_SHARE ? LEAST_WINDOW_SHARE : share;
}

/* Window pages for so many pages. */
static uint64_t window_pages(const struct kv_demand *demand, double share, uint64_t n_pages)
{
    return max_size((uint64_t)((double)n_pages * share),
                    kv_window_span(demand->window) + SPARE_WINDOW_PAGES);
}

static uint64_t bytes_of(const struct kv_demand *demand, double share, uint64_t n_pages)
{
    return n_pages * demand->bytes.page +
           window_pages(demand, share, n_pages) * demand->bytes.window_page;
}

/* The most pages that fit. */
static uint64_t fit_pages(const struct kv_demand *demand, double share, uint64_t bytes)
{
    uint64_t least = bytes_of(demand, share, 0);
    if (bytes < least)
        return 0;
    double each = (double)demand->bytes.page + share * (double)demand->bytes.window_page;
    uint64_t n = (uint64_t)((double)bytes / each);
    /* window pages may be at their least, which is more than their share */
    if (bytes_of(demand, share, n) > bytes && demand->bytes.page > 0)
        n = min_size(n, (bytes - least) / demand->bytes.page);
    while (n > 0 && bytes_of(demand, share, n) > bytes) /* rounded up */
        n--;
    return n;
}

static serverd_status no_context(const struct kv_demand *demand, uint64_t n_pages, uint64_t needed,
                                 serverd_error *err)
{
    return fail(err, SERVERD_NOMEM,
                "kv-memory: %llu MiB hold %llu tokens, one context of %u tokens needs %llu MiB: "
                "raise kv-memory or lower ctx-size",
                (unsigned long long)(demand->kv_bytes / MIB),
                (unsigned long long)(n_pages * SERVERD_PAGE_TOKENS), demand->max_context,
                (unsigned long long)(needed / MIB + 1));
}

serverd_status kv_size_find(const struct kv_demand *demand, struct kv_size *out, serverd_error *err)
{
    double share = find_share(demand);
    struct kv_demand cut = *demand;
    bool is_apart = share < 1;
    if (!is_apart)
        cut.bytes = (serverd_kv_bytes){demand->bytes.page + demand->bytes.window_page, 0};
    uint64_t context_pages = pages_of(demand->max_context);
    uint64_t n_pages;
    if (demand->kv_bytes > 0) {
        n_pages = fit_pages(&cut, share, demand->kv_bytes);
    } else {
        uint64_t third = fit_pages(&cut, share, demand->free_bytes / 3);
        n_pages = min_size(context_pages * demand->max_seqs, max_size(third, context_pages));
    }
    if (n_pages < context_pages)
        return no_context(demand, n_pages, bytes_of(&cut, share, context_pages), err);
    n_pages = min_size(n_pages, LIMIT_KV_PAGES);
    *out = (struct kv_size){.n_pages = (uint32_t)n_pages, .page_bytes = cut.bytes.page};
    if (is_apart) {
        out->n_window_pages = (uint32_t)min_size(window_pages(&cut, share, n_pages), n_pages);
        out->window_page_bytes = cut.bytes.window_page;
    }
    return SERVERD_OK;
}
