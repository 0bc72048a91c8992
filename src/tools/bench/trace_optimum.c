/* The best hit rate that a trace allows: a tree of runs of blocks, in which nothing is lost. */
#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "serverd/delegate.h"
#include "tools/bench/trace.h"

#include <stdlib.h>

/* One run behind all that `place` stands for. A run's followers hang on its length, too: after
 * another number of blocks comes another place. */
struct node {
    uint64_t place;   /* 0: an empty slot */
    uint32_t n_pages; /* of the longest such run seen */
};

struct tree {
    struct node *slot; /* open addressing */
    uint32_t n, n_slots;
};

static struct node *find(const struct tree *tree, uint64_t place)
{
    uint32_t at = (uint32_t)hash_mix(place) & (tree->n_slots - 1);
    while (tree->slot[at].place && tree->slot[at].place != place)
        at = (at + 1) & (tree->n_slots - 1);
    return &tree->slot[at];
}

static bool grow(struct tree *tree)
{
    if (2 * ((uint64_t)tree->n + 1) < tree->n_slots)
        return true;
    struct tree larger = {.n_slots = tree->n_slots ? 2 * tree->n_slots : 1024, .n = tree->n};
    larger.slot = larger.n_slots ? calloc(larger.n_slots, sizeof *larger.slot) : NULL;
    if (!larger.slot)
        return false;
    for (uint32_t i = 0; i < tree->n_slots; i++)
        if (tree->slot[i].place)
            *find(&larger, tree->slot[i].place) = tree->slot[i];
    free(tree->slot);
    *tree = larger;
    return true;
}

/* Adds one request; returns how many of its prompt's pages were there already, of those that may
 * come from a cache. False: no memory. */
static bool add_request(struct tree *tree, const struct trace *trace, const struct trace_request *r,
                        uint64_t *n_cached)
{
    uint64_t place = hash_mix(r->key), n_shared = 0;
    bool is_shared = true;
    uint32_t most = (r->n_prompt - 1) / SERVERD_PAGE_TOKENS; /* the last token has to run */
    for (uint32_t i = 0; i < r->n_runs; i++) {
        const struct trace_run *run = &trace->runs[r->first_run + i];
        uint64_t n_tokens = run->n_tokens;
        if (i + 1 == r->n_runs && r->n_output > 0)
            n_tokens += r->n_output - 1; /* of the last answered token there are no keys */
        uint32_t n_pages = (uint32_t)(n_tokens / SERVERD_PAGE_TOKENS);
        if (!grow(tree))
            return false;
        place = hash_mix(place ^ hash_mix(run->id)) | 1;
        struct node *node = find(tree, place);
        tree->n += node->place == 0;
        node->place = place;
        if (is_shared)
            n_shared += min_size(n_pages, node->n_pages);
        is_shared = is_shared && node->n_pages >= n_pages;
        node->n_pages = (uint32_t)max_size(n_pages, node->n_pages);
        place = hash_mix(place + run->n_tokens);
    }
    *n_cached += min_size(n_shared, most) * SERVERD_PAGE_TOKENS;
    return true;
}

serverd_status trace_optimum(const struct trace *trace, uint64_t *n_cached, serverd_error *err)
{
    struct tree tree = {0};
    bool is_good = true;
    uint64_t n = 0;
    for (uint32_t i = 0; i < trace->n && is_good; i++)
        is_good = add_request(&tree, trace, &trace->requests[i], &n);
    free(tree.slot);
    if (!is_good)
        return fail(err, SERVERD_NOMEM, "no memory for the prefixes of %u requests", trace->n);
    *n_cached = n;
    return SERVERD_OK;
}
