#include "kvcache/radix_tree.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "serverd/delegate.h"

#include <stdlib.h>
#include <string.h>

#define PAGE       SERVERD_PAGE_TOKENS
#define PAGE_BYTES (PAGE * sizeof(int32_t))

/* Children that are looked at for one that shares a part of a page. */
#define MAX_PARTIAL_LOOKS 64

/* Text that was generated counts as unused for this much longer (in uses of the tree) than a
 * prompt: it comes back only if a conversation goes on. */
#define OUTPUT_AGE 64

/* And a prefix for each step of its request's priority as used this much later or earlier. */
#define PRIORITY_AGE  16
#define MOST_PRIORITY 16

#define NOT_IN_HEAP UINT32_MAX

struct radix_node {
    struct radix_node *parent;                      /* NULL: a root */
    struct radix_node *first_child, *next, *before; /* siblings */
    uint64_t space, last_use;
    int32_t *tokens; /* [n_pages][PAGE]; a root has none */
    struct page_id *pages;
    uint32_t n_pages, n_saved; /* the first n_saved were taken by radix_tree_save */
    uint32_t room;             /* pages that tokens and pages have memory for */
    uint32_t n_locks;          /* holds that end here, and children with locks */
    uint32_t n_keeps;          /* the same of kept holds */
    uint32_t heap_at;
    enum radix_kind kind;
    int32_t priority; /* of who published it, within MOST_PRIORITY */
};

struct radix_tree {
    struct page_pool *pool;
    uint32_t window_span;
    uint64_t seed;
    uint32_t n_pages, n_locked, n_kept, n_nodes; /* nodes: roots are counted, too */
    radix_evict_fn evicting;
    void *evict_context;
    int32_t *path; /* tokens on the way to a node; for a while */
    uint32_t path_cap;
    struct radix_stats stats;
    struct radix_node *roots; /* siblings of each other */

    /* Children by parent and first page, roots by their namespace; open addressing, linear. */
    struct radix_node **table;
    uint32_t n_slots; /* a power of two, over twice n_nodes */

    /* Leaves without locks, the next to be evicted first. Room for n_slots / 2. */
    struct radix_node **heap;
    uint32_t n_heap;
};

/* ---- table ----------------------------------------------------------------------------------- */

static uint64_t hash_of(const struct radix_tree *tree, uint64_t space,
                        const struct radix_node *parent, const int32_t *first_page)
{
    if (!parent)
        return hash_mix(space ^ tree->seed);
    return hash_bytes(first_page, PAGE_BYTES, tree->seed ^ (uint64_t)(uintptr_t)parent);
}

static bool is_that(const struct radix_node *node, uint64_t space, const struct radix_node *parent,
                    const int32_t *first_page)
{
    if (node->parent != parent)
        return false;
    return parent ? memcmp(node->tokens, first_page, PAGE_BYTES) == 0 : node->space == space;
}

/* The slot of that child (of that root, without a parent), or the empty one where it would be. */
static uint32_t slot_of(const struct radix_tree *tree, uint64_t space,
                        const struct radix_node *parent, const int32_t *first_page)
{
    uint32_t mask = tree->n_slots - 1;
    uint32_t at = (uint32_t)hash_of(tree, space, parent, first_page) & mask;
    while (tree->table[at] && !is_that(tree->table[at], space, parent, first_page))
        at = (at + 1) & mask;
    return at;
}

static struct radix_node *find_child(const struct radix_tree *tree, const struct radix_node *parent,
                                     const int32_t *first_page)
{
    return tree->table[slot_of(tree, 0, parent, first_page)];
}

static void table_put(struct radix_tree *tree, struct radix_node *node)
{
    tree->table[slot_of(tree, node->space, node->parent, node->tokens)] = node;
}

/* Entries behind the hole move up, so that none is cut off from where its hash points. */
static void table_remove(struct radix_tree *tree, const struct radix_node *node)
{
    uint32_t mask = tree->n_slots - 1;
    uint32_t hole = slot_of(tree, node->space, node->parent, node->tokens);
    tree->table[hole] = NULL;
    for (uint32_t at = (hole + 1) & mask; tree->table[at]; at = (at + 1) & mask) {
        struct radix_node *other = tree->table[at];
        tree->table[at] = NULL;
        table_put(tree, other);
    }
}

/* Room for one node more in table and heap. */
static bool grow(struct radix_tree *tree)
{
    if (2 * (tree->n_nodes + 1) < tree->n_slots)
        return true;
    uint32_t n_slots = 2 * tree->n_slots, old_slots = tree->n_slots;
    struct radix_node **table = calloc(n_slots, sizeof *table), **old = tree->table;
    struct radix_node **heap = table ? realloc(tree->heap, n_slots / 2 * sizeof *heap) : NULL;
    if (!heap) {
        free(table);
        return false;
    }
    tree->heap = heap;
    tree->table = table;
    tree->n_slots = n_slots;
    for (uint32_t i = 0; i < old_slots; i++)
        if (old[i])
            table_put(tree, old[i]);
    free(old);
    return true;
}

static int32_t within(int32_t value, int32_t least, int32_t most)
{
    return value < least ? least : value > most ? most : value;
}

/* ---- heap ------------------------------------------------------------------------------------ */

static int64_t rank_of(const struct radix_node *node)
{
    int64_t age = node->kind == RADIX_OUTPUT ? OUTPUT_AGE : 0;
    return (int64_t)node->last_use - age + (int64_t)node->priority * PRIORITY_AGE;
}

static void heap_set(struct radix_tree *tree, uint32_t at, struct radix_node *node)
{
    tree->heap[at] = node;
    node->heap_at = at;
}

/* `node` goes to its place, from the hole at `at`. */
static void heap_settle(struct radix_tree *tree, uint32_t at, struct radix_node *node)
{
    int64_t rank = rank_of(node);
    for (; at > 0 && rank_of(tree->heap[(at - 1) / 2]) > rank; at = (at - 1) / 2)
        heap_set(tree, at, tree->heap[(at - 1) / 2]);
    for (uint32_t child; (child = 2 * at + 1) < tree->n_heap; at = child) {
        if (child + 1 < tree->n_heap && rank_of(tree->heap[child + 1]) < rank_of(tree->heap[child]))
            child++;
        if (rank_of(tree->heap[child]) >= rank)
            break;
        heap_set(tree, at, tree->heap[child]);
    }
    heap_set(tree, at, node);
}

static void heap_remove(struct radix_tree *tree, struct radix_node *node)
{
    uint32_t at = node->heap_at;
    if (at == NOT_IN_HEAP)
        return;
    node->heap_at = NOT_IN_HEAP;
    struct radix_node *last = tree->heap[--tree->n_heap];
    if (last != node)
        heap_settle(tree, at, last);
}

/* Puts a node into the heap if it can be evicted. */
static void offer(struct radix_tree *tree, struct radix_node *node)
{
    if (node->parent && node->n_locks == 0 && !node->first_child && node->heap_at == NOT_IN_HEAP)
        heap_settle(tree, tree->n_heap++, node);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* A copy of tokens and pages; nothing else is set. NULL: no memory. */
static struct radix_node *node_create(const int32_t *tokens, const struct page_id *pages,
                                      uint32_t n_pages)
{
    struct radix_node *node = calloc(1, sizeof *node);
    if (!node)
        return NULL;
    node->heap_at = NOT_IN_HEAP;
    node->n_pages = node->room = n_pages;
    if (n_pages == 0)
        return node;
    node->tokens = malloc(n_pages * PAGE_BYTES);
    node->pages = malloc(n_pages * sizeof *pages);
    if (!node->tokens || !node->pages) {
        free(node->tokens);
        free(node->pages);
        free(node);
        return NULL;
    }
    memcpy(node->tokens, tokens, n_pages * PAGE_BYTES);
    memcpy(node->pages, pages, n_pages * sizeof *pages);
    return node;
}

static void node_free(struct radix_node *node)
{
    free(node->tokens);
    free(node->pages);
    free(node);
}

static void attach(struct radix_tree *tree, struct radix_node *node, struct radix_node *parent)
{
    struct radix_node **first = parent ? &parent->first_child : &tree->roots;
    node->parent = parent;
    node->before = NULL;
    node->next = *first;
    if (node->next)
        node->next->before = node;
    *first = node;
    if (parent)
        heap_remove(tree, parent); /* no longer a leaf */
    table_put(tree, node);
}

static void detach(struct radix_tree *tree, struct radix_node *node)
{
    table_remove(tree, node);
    if (node->next)
        node->next->before = node->before;
    if (node->before)
        node->before->next = node->next;
    else
        *(node->parent ? &node->parent->first_child : &tree->roots) = node->next;
}

/* A root that holds nothing and that nobody holds goes. */
static void drop_empty_root(struct radix_tree *tree, struct radix_node *root)
{
    if (root->parent || root->first_child || root->n_locks > 0)
        return;
    detach(tree, root);
    node_free(root);
    tree->n_nodes--;
}

static struct radix_node *find_root(const struct radix_tree *tree, uint64_t space)
{
    return tree->table[slot_of(tree, space, NULL, NULL)];
}

static struct radix_node *take_root(struct radix_tree *tree, uint64_t space)
{
    struct radix_node *root = find_root(tree, space);
    if (root || !grow(tree) || !(root = node_create(NULL, NULL, 0)))
        return root;
    root->space = space;
    attach(tree, root, NULL);
    tree->n_nodes++;
    return root;
}

/* Cuts a node behind its first n_pages; `node` becomes the lower half, so that holds, which end at
 * the end of a node, stay as they are. Returns the upper half; NULL: no memory. */
static struct radix_node *split(struct radix_tree *tree, struct radix_node *node, uint32_t n_pages)
{
    struct radix_node *upper = grow(tree) ? node_create(node->tokens, node->pages, n_pages) : NULL;
    if (!upper)
        return NULL;
    struct radix_node *parent = node->parent;
    detach(tree, node);
    upper->space = node->space;
    upper->last_use = node->last_use;
    upper->kind = node->kind;
    upper->priority = node->priority;
    upper->n_locks = node->n_locks > 0;
    upper->n_keeps = node->n_keeps > 0;
    upper->n_saved = (uint32_t)min_size(node->n_saved, n_pages);
    node->n_saved -= upper->n_saved;
    node->n_pages -= n_pages;
    memmove(node->tokens, node->tokens + n_pages * PAGE, node->n_pages * PAGE_BYTES);
    memmove(node->pages, node->pages + n_pages, node->n_pages * sizeof *node->pages);
    attach(tree, upper, parent);
    attach(tree, node, upper);
    tree->n_nodes++;
    return upper;
}

static void lock(struct radix_tree *tree, struct radix_node *node)
{
    for (; node && node->n_locks++ == 0; node = node->parent) {
        heap_remove(tree, node);
        tree->n_locked += node->n_pages;
    }
}

static void unlock(struct radix_tree *tree, struct radix_node *node)
{
    for (struct radix_node *parent; node && --node->n_locks == 0; node = parent) {
        parent = node->parent;
        tree->n_locked -= node->n_pages;
        offer(tree, node);
        drop_empty_root(tree, node);
    }
}

static void unkeep(struct radix_tree *tree, struct radix_node *node)
{
    for (; node && --node->n_keeps == 0; node = node->parent)
        tree->n_kept -= node->n_pages;
}

/* The way down to `node` was used now. Locked nodes only: they are not in the heap. */
static void touch(struct radix_tree *tree, struct radix_node *node)
{
    tree->stats.n_uses++;
    for (; node; node = node->parent)
        node->last_use = tree->stats.n_uses;
}

/* ---- finding --------------------------------------------------------------------------------- */

static uint32_t equal_pages(const struct radix_node *node, const int32_t *tokens, uint32_t n_pages)
{
    uint32_t n = 0, most = (uint32_t)min_size(node->n_pages, n_pages);
    while (n < most && memcmp(node->tokens + n * PAGE, tokens + n * PAGE, PAGE_BYTES) == 0)
        n++;
    return n;
}

/* The deepest node that `tokens` reach, and how many of its pages; NULL: the namespace is empty. */
static struct radix_node *descend(const struct radix_tree *tree, uint64_t space,
                                  const int32_t *tokens, uint32_t n_pages, uint32_t *n_found,
                                  uint32_t *n_of_node)
{
    struct radix_node *node = find_root(tree, space), *child;
    *n_found = *n_of_node = 0;
    while (node && *n_of_node == node->n_pages && *n_found < n_pages &&
           (child = find_child(tree, node, tokens + *n_found * PAGE))) {
        *n_of_node = equal_pages(child, tokens + *n_found * PAGE, n_pages - *n_found);
        *n_found += *n_of_node;
        node = child;
    }
    return node;
}

static bool has_window(const struct radix_tree *tree, struct page_id page)
{
    return tree->window_span == 0 || page_pool_window(tree->pool, page) != SERVERD_NO_PAGE;
}

/* How many of the first n pages on the way down to `node`, n_of_node of them in it, are reusable.
 * Looks back from the end, so most often at no more than the span. */
static uint32_t count_reusable(const struct radix_tree *tree, const struct radix_node *node,
                               uint32_t n, uint32_t n_of_node)
{
    uint32_t end = n, n_run = 0; /* pages end - n_run .. end - 1 have window pages */
    for (; end > n_run && n_run < tree->window_span; n_of_node--) {
        while (n_of_node == 0) {
            node = node->parent;
            n_of_node = node->n_pages;
        }
        if (has_window(tree, node->pages[n_of_node - 1])) {
            n_run++;
        } else {
            end -= n_run + 1;
            n_run = 0;
        }
    }
    return end;
}

static void look_at_partial(const struct radix_tree *tree, const int32_t *page, struct page_id id,
                            const int32_t *tokens, uint32_t n_tokens, struct radix_match *match)
{
    uint32_t n = 0;
    while (n < n_tokens && n < PAGE && page[n] == tokens[n])
        n++;
    if (n > match->n_partial && has_window(tree, id)) {
        match->n_partial = n;
        match->partial = id;
    }
}

struct radix_match radix_tree_find(const struct radix_tree *tree, uint64_t space,
                                   const int32_t *tokens, uint32_t n_tokens)
{
    struct radix_match match = {0};
    uint32_t n_found, n_of_node;
    const struct radix_node *node =
        descend(tree, space, tokens, n_tokens / PAGE, &n_found, &n_of_node);
    if (!node)
        return match;
    match.n_pages = count_reusable(tree, node, n_found, n_of_node);
    if (match.n_pages < n_found)
        return match; /* the page behind them has no window page */
    const int32_t *rest = tokens + match.n_pages * PAGE;
    uint32_t n_rest = n_tokens - match.n_pages * PAGE, n_looks = 0;
    if (n_of_node < node->n_pages)
        look_at_partial(tree, node->tokens + n_of_node * PAGE, node->pages[n_of_node], rest, n_rest,
                        &match);
    else
        for (const struct radix_node *child = node->first_child;
             child && n_looks < MAX_PARTIAL_LOOKS; child = child->next, n_looks++)
            look_at_partial(tree, child->tokens, child->pages[0], rest, n_rest, &match);
    return match;
}

static bool begins_with(const struct radix_node *node, const int32_t *tokens, uint32_t n_tokens)
{
    return memcmp(node->tokens, tokens, n_tokens * sizeof *tokens) == 0;
}

/* The child that goes on with `tail`: the one used last, if that is less than a page. */
static const struct radix_node *follow(const struct radix_tree *tree, const struct radix_node *node,
                                       const int32_t *tail, uint32_t n_tail)
{
    if (n_tail >= PAGE)
        return find_child(tree, node, tail);
    const struct radix_node *found = NULL, *child = node->first_child;
    for (uint32_t i = 0; child && i < MAX_PARTIAL_LOOKS; child = child->next, i++)
        if ((!found || child->last_use > found->last_use) && begins_with(child, tail, n_tail))
            found = child;
    return found;
}

uint32_t radix_tree_continuation(const struct radix_tree *tree, const struct radix_hold *hold,
                                 const int32_t *tail, uint32_t n_tail, int32_t *out,
                                 uint32_t n_most)
{
    const struct radix_node *node = hold->node;
    uint32_t n = 0;
    while (n < n_most && node && (node = follow(tree, node, tail, n_tail))) {
        uint32_t n_tokens = node->n_pages * PAGE;
        uint32_t n_same = (uint32_t)min_size(n_tail, n_tokens);
        if (!begins_with(node, tail, n_same))
            return 0;
        tail += n_same;
        n_tail -= n_same;
        uint32_t n_taken = (uint32_t)min_size(n_tokens - n_same, n_most - n);
        memcpy(out + n, node->tokens + n_same, n_taken * sizeof *out);
        n += n_taken;
    }
    return n;
}

/* ---- holding and publishing ------------------------------------------------------------------ */

serverd_status radix_tree_hold(struct radix_tree *tree, uint64_t space, const int32_t *tokens,
                               uint32_t n_pages, struct page_id *pages, struct radix_hold *out,
                               serverd_error *err)
{
    uint32_t n_found, n_of_node;
    struct radix_node *node = take_root(tree, space);
    if (!node)
        return fail(err, SERVERD_NOMEM, "KV cache: no memory for a namespace");
    node = descend(tree, space, tokens, n_pages, &n_found, &n_of_node);
    if (n_found != n_pages) {
        drop_empty_root(tree, node);
        return fail(err, SERVERD_INVALID, "KV cache: %u pages to hold, %u are there", n_pages,
                    n_found);
    }
    if (n_of_node < node->n_pages && !(node = split(tree, node, n_of_node)))
        return fail(err, SERVERD_NOMEM, "KV cache: no memory for a node");
    lock(tree, node);
    touch(tree, node);
    *out = (struct radix_hold){.node = node};
    for (uint32_t at = n_pages; node; node = node->parent) {
        at -= node->n_pages;
        if (node->n_pages > 0)
            memcpy(pages + at, node->pages, node->n_pages * sizeof *pages);
    }
    return SERVERD_OK;
}

/* For n pages, and as many again: a sequence that decodes seldom asks for memory. */
static bool make_room(struct radix_node *node, uint32_t n)
{
    if (n <= node->room)
        return true;
    uint32_t room = 2 * n;
    int32_t *tokens = realloc(node->tokens, room * PAGE_BYTES);
    if (tokens)
        node->tokens = tokens;
    struct page_id *pages = tokens ? realloc(node->pages, room * sizeof *pages) : NULL;
    if (!pages)
        return false;
    node->pages = pages;
    node->room = room;
    return true;
}

/* A leaf that only this hold locks grows in place, so that a running sequence is one node. */
static bool extend(struct radix_tree *tree, struct radix_node *node, const int32_t *tokens,
                   const struct page_id *pages, uint32_t n_pages)
{
    uint32_t n = node->n_pages + n_pages;
    if (!make_room(node, n))
        return false;
    memcpy(node->tokens + node->n_pages * PAGE, tokens, n_pages * PAGE_BYTES);
    memcpy(node->pages + node->n_pages, pages, n_pages * sizeof *pages);
    node->n_pages = n;
    tree->n_locked += n_pages; /* nobody else's hold, so no kept one, ends here */
    return true;
}

/* A new child of a locked node, locked by the hold that moves down to it. */
static struct radix_node *add_child(struct radix_tree *tree, struct radix_node *parent,
                                    const int32_t *tokens, const struct page_id *pages,
                                    uint32_t n_pages, enum radix_kind kind)
{
    struct radix_node *node = grow(tree) ? node_create(tokens, pages, n_pages) : NULL;
    if (!node)
        return NULL;
    node->space = parent->space;
    node->kind = kind;
    attach(tree, node, parent);
    tree->n_nodes++;
    lock(tree, node);
    unlock(tree, parent); /* what the hold had; the child has one now */
    return node;
}

/* The tree's own pages between the nodes take the place of equal ones. */
static void replace_equal(struct radix_tree *tree, const struct radix_node *above,
                          const struct radix_node *node, struct page_id *pages, uint32_t n_equal)
{
    uint32_t at = n_equal;
    for (const struct radix_node *n = node; n != above; n = n->parent)
        for (uint32_t i = n->n_pages; i-- > 0;) {
            struct page_id *page = &pages[--at];
            page_pool_move_window(tree->pool, *page, n->pages[i]);
            page_pool_give(tree->pool, page, 1);
            *page = n->pages[i];
        }
}

serverd_status radix_tree_publish(struct radix_tree *tree, struct radix_hold *hold,
                                  const int32_t *tokens, struct page_id *pages, uint32_t n_pages,
                                  enum radix_kind kind, serverd_error *err)
{
    struct radix_node *node = hold->node, *child;
    uint32_t n_equal = 0;
    /* what others have published meanwhile */
    while (n_equal < n_pages && (child = find_child(tree, node, tokens + n_equal * PAGE))) {
        uint32_t n = equal_pages(child, tokens + n_equal * PAGE, n_pages - n_equal);
        n_equal += n;
        if (n < child->n_pages && !(child = split(tree, child, n)))
            return fail(err, SERVERD_NOMEM, "KV cache: no memory for a node");
        node = child;
    }
    lock(tree, node);
    struct radix_node *end = node;
    const int32_t priority = within(hold->priority, -MOST_PRIORITY, MOST_PRIORITY);
    uint32_t n_new = n_pages - n_equal;
    /* two locks are ours: the hold's and the one just taken, at the same node if nothing was equal
     */
    bool is_ours = node == hold->node && node->n_locks == 2;
    if (n_new > 0) {
        bool extends = is_ours && node->parent && !node->first_child && node->kind == kind;
        bool is_done = extends ? extend(tree, node, tokens + n_equal * PAGE, pages + n_equal, n_new)
                               : (end = add_child(tree, node, tokens + n_equal * PAGE,
                                                  pages + n_equal, n_new, kind)) != NULL;
        if (!is_done) {
            unlock(tree, node);
            return fail(err, SERVERD_NOMEM, "KV cache: no memory for %u pages", n_new);
        }
        page_pool_share(tree->pool, pages + n_equal, n_new);
        tree->n_pages += n_new;
    }
    tree->stats.n_duplicates += n_equal;
    replace_equal(tree, hold->node, node, pages, n_equal);
    unlock(tree, hold->node);
    /* it is held, so in no heap */
    if (priority > end->priority || end != node)
        end->priority = priority;
    hold->node = end;
    touch(tree, end);
    return SERVERD_OK;
}

void radix_tree_release(struct radix_tree *tree, struct radix_hold *hold)
{
    if (hold->node && hold->is_kept)
        unkeep(tree, hold->node);
    if (hold->node)
        unlock(tree, hold->node);
    *hold = (struct radix_hold){.node = NULL};
}

void radix_tree_keep(struct radix_tree *tree, struct radix_hold *hold)
{
    hold->is_kept = true;
    for (struct radix_node *node = hold->node; node && node->n_keeps++ == 0; node = node->parent)
        tree->n_kept += node->n_pages;
}

uint32_t radix_tree_common(const struct radix_hold *hold, const int32_t *tokens, uint32_t n,
                           struct page_id *page)
{
    uint32_t end = 0;
    for (const struct radix_node *node = hold->node; node; node = node->parent)
        end += node->n_pages * PAGE;
    n = (uint32_t)min_size(n, end);
    for (const struct radix_node *node = hold->node; node; node = node->parent) {
        const uint32_t begin = end - node->n_pages * PAGE;
        const uint32_t most = (uint32_t)min_size(n, end);
        uint32_t i = begin;
        while (i < most && tokens[i] == node->tokens[i - begin])
            i++;
        if (i < most)
            n = i;
        if (n > begin && n < end && n % PAGE > 0)
            *page = node->pages[(n - begin) / PAGE];
        end = begin;
    }
    return n;
}

/* ---- runs ------------------------------------------------------------------------------------ */

/* All tokens to the end of the node; NULL: no memory. */
static const int32_t *path_to(struct radix_tree *tree, const struct radix_node *node,
                              uint32_t *n_before)
{
    uint32_t n_pages = 0;
    for (const struct radix_node *n = node; n; n = n->parent)
        n_pages += n->n_pages;
    if (n_pages > tree->path_cap) {
        int32_t *path = realloc(tree->path, 2 * n_pages * PAGE_BYTES);
        if (!path)
            return NULL;
        tree->path = path;
        tree->path_cap = 2 * n_pages;
    }
    *n_before = n_pages - node->n_pages;
    for (const struct radix_node *n = node; n->parent; n = n->parent) {
        n_pages -= n->n_pages;
        memcpy(tree->path + n_pages * PAGE, n->tokens, n->n_pages * PAGE_BYTES);
    }
    return tree->path;
}

/* The node's pages from `first` on. */
static bool make_run(struct radix_tree *tree, const struct radix_node *node, uint32_t first,
                     struct radix_run *out)
{
    *out = (struct radix_run){.space = node->space,
                              .pages = node->pages + first,
                              .n_pages = node->n_pages - first,
                              .kind = node->kind};
    out->tokens = path_to(tree, node, &out->n_before);
    out->n_before += first;
    return out->tokens != NULL;
}

bool radix_tree_save(struct radix_tree *tree,
                     uint32_t (*save)(void *context, const struct radix_run *run), void *context)
{
    for (uint32_t i = 0; i < tree->n_slots; i++) {
        struct radix_node *node = tree->table[i];
        struct radix_run run;
        if (!node || node->n_saved == node->n_pages)
            continue;
        if (!make_run(tree, node, node->n_saved, &run))
            return false;
        node->n_saved += (uint32_t)min_size(save(context, &run), run.n_pages);
        if (node->n_saved < node->n_pages)
            return false;
    }
    return true;
}

void radix_tree_on_evict(struct radix_tree *tree, radix_evict_fn evicting, void *context)
{
    tree->evicting = evicting;
    tree->evict_context = context;
}

/* ---- evicting -------------------------------------------------------------------------------- */

static void remove_leaf(struct radix_tree *tree, struct radix_node *node)
{
    struct radix_node *parent = node->parent;
    heap_remove(tree, node);
    detach(tree, node);
    node_free(node);
    tree->n_nodes--;
    offer(tree, parent);
    drop_empty_root(tree, parent);
}

uint32_t radix_tree_evict(struct radix_tree *tree, uint32_t n_pages)
{
    uint32_t n_evicted = 0;
    while (n_evicted < n_pages && tree->n_heap > 0) {
        struct radix_node *node = tree->heap[0];
        uint32_t n = (uint32_t)min_size(node->n_pages, n_pages - n_evicted);
        struct radix_run run;
        if (tree->evicting && make_run(tree, node, node->n_pages - n, &run))
            tree->evicting(tree->evict_context, &run);
        node->n_pages -= n;
        node->n_saved = (uint32_t)min_size(node->n_saved, node->n_pages);
        page_pool_give(tree->pool, node->pages + node->n_pages, n);
        tree->n_pages -= n;
        tree->stats.n_evicted[node->kind] += n;
        n_evicted += n;
        if (node->n_pages == 0)
            remove_leaf(tree, node);
    }
    return n_evicted;
}

/* ---- life, views ----------------------------------------------------------------------------- */

struct radix_tree *radix_tree_create(struct page_pool *pool, uint32_t window_span)
{
    struct radix_tree *tree = calloc(1, sizeof *tree);
    serverd_error ignored;
    if (!tree)
        return NULL;
    tree->pool = pool;
    tree->window_span = window_span;
    tree->n_slots = 64;
    tree->table = calloc(tree->n_slots, sizeof *tree->table);
    tree->heap = calloc(tree->n_slots / 2, sizeof *tree->heap);
    if (!tree->table || !tree->heap) {
        radix_tree_destroy(tree);
        return NULL;
    }
    /* token ids come from strangers: they shall not know what collides */
    if (random_bytes(&tree->seed, sizeof tree->seed, &ignored) != SERVERD_OK)
        tree->seed = hash_mix((uint64_t)(uintptr_t)tree);
    return tree;
}

void radix_tree_destroy(struct radix_tree *tree)
{
    if (!tree)
        return;
    for (uint32_t i = 0; tree->table && i < tree->n_slots; i++)
        if (tree->table[i]) {
            page_pool_give(tree->pool, tree->table[i]->pages, tree->table[i]->n_pages);
            node_free(tree->table[i]);
        }
    free(tree->table);
    free(tree->heap);
    free(tree->path);
    free(tree);
}

uint32_t radix_tree_n_pages(const struct radix_tree *tree)
{
    return tree->n_pages;
}

uint32_t radix_tree_n_locked(const struct radix_tree *tree)
{
    return tree->n_locked;
}

uint32_t radix_tree_n_kept(const struct radix_tree *tree)
{
    return tree->n_kept;
}

uint32_t radix_tree_n_nodes(const struct radix_tree *tree)
{
    return tree->n_nodes;
}

struct radix_stats radix_tree_stats(const struct radix_tree *tree)
{
    return tree->stats;
}

/* The node behind `node` on a walk of all nodes, parents first. */
static const struct radix_node *node_behind(const struct radix_node *node)
{
    if (node->first_child)
        return node->first_child;
    while (node && !node->next)
        node = node->parent;
    return node ? node->next : NULL;
}

void radix_tree_visit(const struct radix_tree *tree,
                      bool (*visit)(void *context, const struct radix_node_view *node),
                      void *context)
{
    for (const struct radix_node *node = tree->roots; node; node = node_behind(node)) {
        if (!node->parent)
            continue;
        const struct radix_node_view view = {.space = node->space,
                                             .node = node,
                                             .parent = node->parent->parent ? node->parent : NULL,
                                             .tokens = node->tokens,
                                             .pages = node->pages,
                                             .n_pages = node->n_pages,
                                             .n_locks = node->n_locks,
                                             .kind = node->kind,
                                             .age = tree->stats.n_uses - node->last_use};
        if (!visit(context, &view))
            return;
    }
}

static serverd_status check_node(const struct radix_tree *tree, const struct radix_node *node,
                                 serverd_error *err)
{
    uint32_t n_locked_children = 0, n_kept_children = 0;
    for (const struct radix_node *child = node->first_child; child; child = child->next) {
        n_locked_children += child->n_locks > 0;
        n_kept_children += child->n_keeps > 0;
        if (child->parent != node || child->space != node->space)
            return fail(err, SERVERD_INTERNAL, "KV cache: a child of another parent");
    }
    if (n_kept_children > node->n_keeps || node->n_keeps > node->n_locks)
        return fail(err, SERVERD_INTERNAL, "KV cache: %u keeps, %u of children, %u locks",
                    node->n_keeps, n_kept_children, node->n_locks);
    if (n_locked_children > node->n_locks)
        return fail(err, SERVERD_INTERNAL, "KV cache: %u locks on %u locked children",
                    node->n_locks, n_locked_children);
    bool is_evictable = node->parent && !node->first_child && node->n_locks == 0;
    if (is_evictable != (node->heap_at != NOT_IN_HEAP) ||
        (is_evictable && tree->heap[node->heap_at] != node))
        return fail(err, SERVERD_INTERNAL, "KV cache: a node is in the wrong list");
    if (node->parent ? node->n_pages == 0 || node->last_use > node->parent->last_use
                     : node->n_pages != 0)
        return fail(err, SERVERD_INTERNAL, "KV cache: a node of %u pages", node->n_pages);
    for (uint32_t i = 0; i < node->n_pages; i++)
        if (!page_pool_is_live(tree->pool, node->pages[i]))
            return fail(err, SERVERD_INTERNAL, "KV cache: page %u is not its own",
                        node->pages[i].index);
    return SERVERD_OK;
}

serverd_status radix_tree_check(const struct radix_tree *tree, serverd_error *err)
{
    uint32_t n_nodes = 0, n_pages = 0, n_locked = 0, n_kept = 0, n_heap = 0;
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < tree->n_slots && status == SERVERD_OK; i++) {
        const struct radix_node *node = tree->table[i];
        if (!node)
            continue;
        n_nodes++;
        n_pages += node->n_pages;
        n_locked += node->n_locks > 0 ? node->n_pages : 0;
        n_kept += node->n_keeps > 0 ? node->n_pages : 0;
        n_heap += node->heap_at != NOT_IN_HEAP;
        if (slot_of(tree, node->space, node->parent, node->tokens) != i)
            return fail(err, SERVERD_INTERNAL, "KV cache: a node cannot be found");
        status = check_node(tree, node, err);
    }
    if (status != SERVERD_OK)
        return status;
    for (uint32_t i = 1; i < tree->n_heap; i++)
        if (rank_of(tree->heap[(i - 1) / 2]) > rank_of(tree->heap[i]))
            return fail(err, SERVERD_INTERNAL, "KV cache: the order of eviction is broken");
    if (n_nodes != tree->n_nodes || n_pages != tree->n_pages || n_locked != tree->n_locked ||
        n_kept != tree->n_kept || n_heap != tree->n_heap ||
        n_pages != page_pool_n_shared(tree->pool))
        return fail(err, SERVERD_INTERNAL,
                    "KV cache: %u nodes, %u pages, %u locked, %u kept; counted %u, %u, %u, %u",
                    tree->n_nodes, tree->n_pages, tree->n_locked, tree->n_kept, n_nodes, n_pages,
                    n_locked, n_kept);
    return SERVERD_OK;
}
