#include "scheduler/engine_internal.h"

#include <assert.h>
#include <string.h>

/* Pages beyond those needed that are evicted with them, as a share of the pool. */
#define EVICT_AHEAD 100

/* Tokens whose keys and values may come from elsewhere: the last one has to run, and all whose
 * log probabilities are still to be given out. */
static uint32_t n_reusable(const struct sequence *s)
{
    uint32_t n_next = sequence_next_score(s);
    return n_next < s->job->request->n_prompt ? n_next - 1 : sequence_n_tokens(s) - 1;
}

/* Tokens first .. end - 1 of the sequence in one piece. */
static const int32_t *gather(struct engine *engine, const struct sequence *s, uint32_t first,
                             uint32_t end)
{
    const struct request *r = s->job->request;
    if (end <= r->n_prompt)
        return r->prompt + first;
    for (uint32_t i = first; i < end; i++)
        engine->prefix[i - first] = sequence_token(s, i);
    return engine->prefix;
}

static void hold(struct engine *engine, struct sequence *s, const int32_t *tokens, uint32_t n_pages)
{
    serverd_error ignored; /* no memory: the sequence computes all of it itself */
    if (radix_tree_hold(engine->tree, s->job->request->cache_space, tokens, n_pages, s->page,
                        &s->hold, &ignored))
        return;
    s->hold.priority = s->job->request->priority;
    s->n_pages = s->n_shared = n_pages;
    if (windows_hold(engine, s)) {
        s->n_computed = n_pages * SERVERD_PAGE_TOKENS;
        return;
    }
    radix_tree_release(engine->tree, &s->hold);
    s->n_pages = s->n_shared = 0;
}

void engine_take_prefix(struct engine *engine, struct sequence *s)
{
    if (!engine->tree)
        return;
    assert(s->n_pages == 0 && !s->hold.node);
    uint32_t n = n_reusable(s);
    const int32_t *tokens = gather(engine, s, 0, n);
    struct radix_match match =
        radix_tree_find(engine->tree, s->job->request->cache_space, tokens, n);
    hold(engine, s, tokens, match.n_pages);
    s->n_reused = s->n_shared;
}

/* The first n tokens of the page into the sequence's next one. False: they are computed. */
static bool copy_page(struct engine *engine, struct sequence *s, struct page_id from, uint32_t n)
{
    serverd_error ignored;
    if (engine->has_windows && !page_pool_pin_window(engine->pool, from))
        return false;
    bool is_copied =
        windows_take(engine, s, n) == n &&
        runtime_kv_copy(engine->options.runtime, engine_kv_page(engine, from),
                        engine_kv_page(engine, s->page[s->n_shared]), n, &ignored) == SERVERD_OK;
    if (engine->has_windows)
        page_pool_unpin_window(engine->pool, from, true);
    return is_copied;
}

void engine_copy_partial(struct engine *engine, struct sequence *s)
{
    uint32_t n = n_reusable(s), n_pages = s->n_shared;
    if (!engine->tree || !s->hold.node || n <= n_pages * SERVERD_PAGE_TOKENS)
        return;
    /* found anew: what was there before pages were evicted for this sequence may be gone */
    const struct request *r = s->job->request;
    const int32_t *tokens = gather(engine, s, 0, n);
    struct radix_match match = radix_tree_find(engine->tree, r->cache_space, tokens, n);
    handles_match(engine, r, tokens, n, &match);
    if (match.n_pages == n_pages && match.n_partial > 0 &&
        copy_page(engine, s, match.partial, match.n_partial))
        s->n_computed += match.n_partial;
}

void engine_share_prompt(struct engine *engine, const struct sequence *from, struct sequence *to)
{
    const struct request *r = to->job->request;
    if (engine->tree)
        hold(engine, to, r->prompt, min_u32(from->n_shared, r->n_prompt / SERVERD_PAGE_TOKENS));
}

void engine_publish_prefix(struct engine *engine, struct sequence *s)
{
    uint32_t n_full = s->n_computed / SERVERD_PAGE_TOKENS, n_shared = s->n_shared;
    if (!engine->tree || n_full <= n_shared || !s->hold.node)
        return;
    uint32_t end = n_full * SERVERD_PAGE_TOKENS;
    enum radix_kind kind = end <= s->job->request->n_prompt ? RADIX_PROMPT : RADIX_OUTPUT;
    serverd_error ignored; /* no memory: the pages stay private */
    if (radix_tree_publish(engine->tree, &s->hold,
                           gather(engine, s, n_shared * SERVERD_PAGE_TOKENS, end),
                           s->page + n_shared, n_full - n_shared, kind, &ignored) == SERVERD_OK)
        s->n_shared = n_full;
}

void engine_evict(struct engine *engine, uint32_t n)
{
    if (!engine->tree)
        return;
    while (n > engine_n_available(engine) && (tier_give_way(engine) || handles_give_way(engine)))
        ;
    uint32_t n_free = page_pool_n_free(engine->pool);
    if (n > n_free)
        (void)radix_tree_evict(engine->tree,
                               n - n_free + page_pool_n_pages(engine->pool) / EVICT_AHEAD);
}

void engine_forget_prefixes(struct engine *engine)
{
    if (!engine->tree)
        return;
    handles_drop_all(engine);
    engine->is_forgetting = true;
    (void)radix_tree_evict(engine->tree, UINT32_MAX);
    engine->is_forgetting = false;
}
