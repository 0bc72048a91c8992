/* Which prefixes of token ids have their keys and values in pages: a radix tree over whole pages,
 * one for each namespace. Engine thread only.
 *
 * A node is a run of pages with their token ids; its children differ in their first page. Pages of
 * the tree never change and belong to it: who needs them *holds* a prefix, which locks every node
 * on the way down; what nobody holds can be evicted, the least recently used first and from the
 * end of its run. Finding and publishing cost the length of what is found or published.
 *
 * If pages have window pages (page_pool.h), a prefix is *reusable* only up to a page before which
 * the last few, the window's span, still have theirs. The pool knows, nothing of it is in nodes: a
 * page may lose its window page at any time unless it is pinned, and gets one back when somebody
 * publishes the same tokens. */
#ifndef KVCACHE_RADIX_TREE_H
#define KVCACHE_RADIX_TREE_H

#include "kvcache/page_pool.h"

struct radix_tree;
struct radix_node;

/* What is evicted first, all else equal. */
enum radix_kind { RADIX_PROMPT, RADIX_OUTPUT };

struct radix_match {
    uint32_t n_pages;   /* reusable */
    uint32_t n_partial; /* tokens that the page behind them shares with `partial`, less than a page;
                         * 0: none */
    struct page_id partial;
};

/* A held prefix. Zero: none. */
struct radix_hold {
    struct radix_node *node;
    int32_t priority; /* of who publishes behind it: what more urgent requests said stays longer */
    bool is_kept;     /* radix_tree_keep */
};

/* The pool outlives the tree. window_span: pages before the end of a prefix that need their window
 * pages; 0: none. NULL: no memory. */
struct radix_tree *radix_tree_create(struct page_pool *pool, uint32_t window_span);
/* Nothing may be held. The pages go back to the pool. */
void radix_tree_destroy(struct radix_tree *tree);

/* The longest reusable prefix of `tokens` that the tree has in this namespace. Changes nothing. */
struct radix_match radix_tree_find(const struct radix_tree *tree, uint64_t space,
                                   const int32_t *tokens, uint32_t n_tokens);

/* What others went on with: up to n_most tokens behind a held prefix and the n_tail tokens after
 * it, on the way that was used last where it forks. Writes them to `out` and returns how many; 0:
 * nobody went on behind these tokens. Changes nothing. */
uint32_t radix_tree_continuation(const struct radix_tree *tree, const struct radix_hold *hold,
                                 const int32_t *tail, uint32_t n_tail, int32_t *out,
                                 uint32_t n_most);

/* Holds the first n_pages pages of `tokens`, no more than were found; writes their ids.
 * SERVERD_NOMEM: nothing is held. */
serverd_status radix_tree_hold(struct radix_tree *tree, uint64_t space, const int32_t *tokens,
                               uint32_t n_pages, struct page_id *pages, struct radix_hold *out,
                               serverd_error *err);

/* Makes the caller's private pages part of the tree, behind the prefix that it holds: `tokens` are
 * those of these pages. The hold then covers them, too. A page that somebody else has published
 * meanwhile is given back to the pool, and the tree's own takes its place in `pages` (equal tokens
 * have equal bits), and takes over the pins of its window page. SERVERD_NOMEM: nothing has changed.
 */
serverd_status radix_tree_publish(struct radix_tree *tree, struct radix_hold *hold,
                                  const int32_t *tokens, struct page_id *pages, uint32_t n_pages,
                                  enum radix_kind kind, serverd_error *err);

/* A zero hold is fine; it is zero afterwards. */
void radix_tree_release(struct radix_tree *tree, struct radix_hold *hold);

/* The hold stays while nobody runs: until it is released its pages count in radix_tree_n_kept, each
 * once however many such holds cover it. Nobody publishes behind a kept hold. */
void radix_tree_keep(struct radix_tree *tree, struct radix_hold *hold);

/* How many of the n tokens are those of the held prefix, from its beginning. If they end within a
 * page, *page is that one. Costs the length of the prefix. */
uint32_t radix_tree_common(const struct radix_hold *hold, const int32_t *tokens, uint32_t n,
                           struct page_id *page);

/* Some consecutive pages of one node. */
struct radix_run {
    uint64_t space;
    const int32_t *tokens; /* from the beginning of the namespace to the end of the run */
    uint32_t n_before;     /* pages in front of it */
    const struct page_id *pages;
    uint32_t n_pages;
    enum radix_kind kind;
};

/* Called with what is about to be evicted, which it may still read; it must not use the tree.
 * NULL: nobody. */
typedef void (*radix_evict_fn)(void *context, const struct radix_run *run);
void radix_tree_on_evict(struct radix_tree *tree, radix_evict_fn evicting, void *context);

/* Every page once: calls `save` with runs of pages that it has not taken yet, until it takes fewer
 * than there are (it returns how many) or all have been taken. True: all have. */
bool radix_tree_save(struct radix_tree *tree,
                     uint32_t (*save)(void *context, const struct radix_run *run), void *context);

/* Gives up to n_pages pages that nobody holds back to the pool; returns how many. */
uint32_t radix_tree_evict(struct radix_tree *tree, uint32_t n_pages);

uint32_t radix_tree_n_pages(const struct radix_tree *tree);
uint32_t radix_tree_n_locked(const struct radix_tree *tree); /* pages of held prefixes */
uint32_t radix_tree_n_kept(const struct radix_tree *tree);   /* pages of kept ones */
uint32_t radix_tree_n_nodes(const struct radix_tree *tree);

struct radix_stats {
    uint64_t n_uses;       /* prefixes held or published: the clock by which nodes age */
    uint64_t n_evicted[2]; /* pages, by enum radix_kind */
    uint64_t n_duplicates; /* pages that were published when the tree had them already */
};
struct radix_stats radix_tree_stats(const struct radix_tree *tree); /* since its creation */

/* Every node, those of a namespace together, parents before their children; `visit` returns false
 * to end the walk, which costs the nodes that it saw. */
struct radix_node_view {
    uint64_t space;
    const struct radix_node *node, *parent; /* parent NULL: the beginning of a namespace */
    const int32_t *tokens;                  /* [n_pages * SERVERD_PAGE_TOKENS] */
    const struct page_id *pages;
    uint32_t n_pages, n_locks;
    enum radix_kind kind;
    uint64_t age; /* uses of the tree since the node's last one */
};
void radix_tree_visit(const struct radix_tree *tree,
                      bool (*visit)(void *context, const struct radix_node_view *node),
                      void *context);

/* Walks everything; for tests and idle checks. */
serverd_status radix_tree_check(const struct radix_tree *tree, serverd_error *err);

#endif
