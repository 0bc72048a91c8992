/* Prefixes on the disk (kvcache/disk_tier.h). Pages go there when they are evicted, while nothing
 * else is to do, and when the engine stops. They come back when a request waits whose prompt begins
 * with them and reading beats computing: the request stands back, the pages become part of the
 * tree as they arrive, and the request starts behind them like behind any others. */
#include "scheduler/engine_internal.h"

#include <assert.h>
#include <stdlib.h>

#define PAGE SERVERD_PAGE_TOKENS

#define MAX_LOADS      4u
#define TAKEN_PER_STEP 64u /* pages that are copied into the pool, so that streams go on */
#define MAX_LEAVING    64u
#define SAVED_AT_ONCE  32u /* pages that are copied out while idle; a request may come */

/* When the engine stops: staging memory is filled that often, and takes so long in all at most. */
#define END_ROUNDS 100u
#define END_NS     UINT64_C(10000000000)

struct tier_load {
    struct sequence *sequence; /* waits for it */
    struct disk_load *load;
    struct radix_hold hold; /* of what was taken so far, and the pages in front */
    uint32_t first_page, n_taken;
};

/* Staging memory that pages of the pool are on their way to. */
struct tier_leaving {
    uint32_t n;
    void *bytes[MAX_LEAVING];
};

static struct disk_tier *disk_of(const struct engine *engine)
{
    return engine->tree ? engine->options.disk : NULL;
}

/* ---- to the disk ----------------------------------------------------------------------------- */

/* The page that follows the chain, which goes on behind it. False: it is known, or finds no room.
 */
static bool save_page(struct engine *engine, struct disk_chain *chain, const struct radix_run *run,
                      uint32_t i)
{
    struct disk_tier *disk = engine->options.disk;
    const serverd_kv_page page = engine_kv_page(engine, run->pages[i]);
    if (!engine->leaving)
        return false;
    void *bytes = disk_tier_stage(disk, chain, run->tokens + (size_t)(run->n_before + i) * PAGE,
                                  page.window_page != SERVERD_NO_PAGE);
    serverd_error ignored; /* a page less on the disk */
    if (!bytes)
        return false;
    if (runtime_kv_export(engine->options.runtime, page, bytes, &ignored)) {
        disk_tier_unstage(disk, bytes);
        return false;
    }
    engine->leaving->bytes[engine->leaving->n++] = bytes;
    if (engine->leaving->n == MAX_LEAVING || !runtime_kv_leaves_late(engine->options.runtime))
        tier_settle(engine);
    return true;
}

void tier_settle(struct engine *engine)
{
    struct tier_leaving *leaving = engine->leaving;
    serverd_error ignored; /* pages less on the disk */
    if (!leaving || leaving->n == 0)
        return;
    const serverd_status status = runtime_kv_settle(engine->options.runtime, &ignored);
    for (uint32_t i = 0; i < leaving->n; i++)
        if (status == SERVERD_OK)
            disk_tier_store(engine->options.disk, leaving->bytes[i]);
        else
            disk_tier_unstage(engine->options.disk, leaving->bytes[i]);
    leaving->n = 0;
}

static struct disk_chain chain_before(const struct engine *engine, const struct radix_run *run)
{
    struct disk_chain chain = disk_tier_chain(engine->options.disk, run->space);
    disk_chain_extend(&chain, run->tokens, run->n_before);
    return chain;
}

/* What finds no room is lost. */
static void save_evicted(void *context, const struct radix_run *run)
{
    struct engine *engine = context;
    if (engine->is_forgetting)
        return;
    struct disk_chain chain = chain_before(engine, run);
    for (uint32_t i = 0; i < run->n_pages; i++)
        (void)save_page(engine, &chain, run, i);
}

/* Something was loaded. On the tier's thread. */
static void wake(void *context)
{
    struct engine *engine = context;
    (void)pthread_mutex_lock(&engine->mutex);
    engine_wake(engine);
    (void)pthread_mutex_unlock(&engine->mutex);
}

void tier_begin(struct engine *engine)
{
    if (!disk_of(engine))
        return;
    disk_tier_set_wake(engine->options.disk, wake, engine);
    engine->loads = calloc(MAX_LOADS, sizeof *engine->loads);
    engine->leaving = calloc(1, sizeof *engine->leaving);
    radix_tree_on_evict(engine->tree, save_evicted, engine);
}

struct saver {
    struct engine *engine;
    uint32_t n_left; /* copies */
};

/* Pages of the run that are on the disk now or on their way, from the first on. */
static uint32_t save_some_of(void *context, const struct radix_run *run)
{
    struct saver *saver = context;
    struct engine *engine = saver->engine;
    struct disk_chain chain = chain_before(engine, run);
    for (uint32_t i = 0; i < run->n_pages; i++) {
        const int32_t *tokens = run->tokens + (size_t)(run->n_before + i) * PAGE;
        if (disk_tier_find(engine->options.disk, &chain, tokens, 1, 0) == 1)
            disk_chain_extend(&chain, tokens, 1);
        else if (saver->n_left == 0 || !save_page(engine, &chain, run, i))
            return i;
        else
            saver->n_left--;
    }
    return run->n_pages;
}

/* True: there is more. */
static bool save(struct engine *engine, uint32_t most)
{
    struct saver saver = {engine, most};
    struct disk_tier_status status;
    if (!disk_of(engine))
        return false;
    disk_tier_status(engine->options.disk, &status);
    const bool is_more = status.is_writing && !radix_tree_save(engine->tree, save_some_of, &saver);
    tier_settle(engine);
    return is_more;
}

bool tier_save_some(struct engine *engine)
{
    return save(engine, SAVED_AT_ONCE);
}

void tier_end(struct engine *engine)
{
    for (uint32_t i = 0; i < END_ROUNDS && save(engine, UINT32_MAX); i++)
        (void)disk_tier_flush(engine->options.disk, END_NS / END_ROUNDS);
    if (disk_of(engine)) /* what is late is lost */
        (void)disk_tier_flush(engine->options.disk, END_NS / 4);
}

void tier_destroy(struct engine *engine)
{
    if (disk_of(engine))
        disk_tier_set_wake(engine->options.disk, NULL, NULL);
    free(engine->loads);
    free(engine->leaving);
}

void tier_forget(struct engine *engine, struct sequence *s)
{
    struct disk_tier *disk = disk_of(engine);
    if (!disk)
        return;
    tier_settle(engine); /* so that it finds all of them */
    const struct request *r = s->job->request;
    const struct disk_chain chain = disk_tier_chain(disk, r->cache_space);
    for (uint32_t i = 0; i < sequence_n_tokens(s); i++)
        engine->prefix[i] = sequence_token(s, i);
    disk_tier_forget(disk, &chain, engine->prefix, sequence_n_tokens(s) / PAGE);
}

/* ---- from the disk --------------------------------------------------------------------------- */

/* Ends it: what was taken stays in the tree. */
static void end_load(struct engine *engine, struct tier_load *load)
{
    disk_tier_drop(engine->options.disk, load->load);
    radix_tree_release(engine->tree, &load->hold);
    *load = engine->loads[--engine->n_loads];
}

static bool pays(const struct engine *engine, uint32_t n_pages, uint32_t n_before)
{
    double load = (double)disk_tier_load_ns(engine->options.disk, n_pages) * 1e-9;
    double compute = cost_of_prefill(&engine->cost, n_pages * PAGE, n_before);
    return load < compute || compute <= 0; /* unknown times are found out */
}

void tier_arrive(struct engine *engine, struct sequence *s)
{
    struct disk_tier *disk = disk_of(engine);
    uint32_t n_before = s->n_matched / PAGE, n_most = queue_reusable_pages(s);
    if (!disk || !engine->loads || engine->n_loads == MAX_LOADS || n_before >= n_most ||
        tier_is_loading(engine, s))
        return;
    s->has_asked_disk = true;
    const struct request *r = s->job->request;
    const int32_t *tokens = r->prompt + (size_t)n_before * PAGE;
    struct disk_chain chain = disk_tier_chain(disk, r->cache_space);
    disk_chain_extend(&chain, r->prompt, n_before);
    uint32_t n_room = min_u32(n_most - n_before, disk_tier_n_room(disk));
    uint32_t n_pages = disk_tier_find(disk, &chain, tokens, n_room, engine->window_span);
    if (n_pages == 0 || !pays(engine, n_pages, s->n_matched))
        return;
    struct tier_load load = {.sequence = s, .first_page = n_before};
    struct page_id *ids = malloc(((size_t)n_before + 1) * sizeof *ids);
    serverd_error ignored; /* it computes the tokens */
    if (ids && !radix_tree_hold(engine->tree, r->cache_space, r->prompt, n_before, ids, &load.hold,
                                &ignored)) {
        load.load = disk_tier_load(disk, &chain, tokens, n_pages, engine->window_span);
        if (load.load)
            engine->loads[engine->n_loads++] = load;
        else
            radix_tree_release(engine->tree, &load.hold);
    }
    free(ids);
}

bool tier_is_loading(const struct engine *engine, const struct sequence *s)
{
    for (uint32_t i = 0; i < engine->n_loads; i++) {
        const struct sequence *other = engine->loads[i].sequence;
        if (other == s || (other->first_page == s->first_page &&
                           other->job->request->cache_space == s->job->request->cache_space))
            return true;
    }
    return false;
}

/* Page i of the load into this one; *is_pinned: with its window page. False: it cannot be read. */
static bool import(struct engine *engine, const struct tier_load *load, uint32_t i,
                   struct page_id page, bool *is_pinned)
{
    bool has_window;
    serverd_error ignored;
    const void *bytes = disk_load_page(load->load, i, &has_window);
    *is_pinned = has_window && page_pool_take_window(engine->pool, page);
    return runtime_kv_import(engine->options.runtime, engine_kv_page(engine, page), bytes,
                             &ignored) == SERVERD_OK;
}

/* The next n loaded pages become part of the tree; false: they cannot. */
static bool take(struct engine *engine, struct tier_load *load, uint32_t n)
{
    const struct request *r = load->sequence->job->request;
    const int32_t *tokens = r->prompt + (size_t)(load->first_page + load->n_taken) * PAGE;
    struct page_id ids[TAKEN_PER_STEP];
    bool is_pinned[TAKEN_PER_STEP] = {false};
    serverd_error ignored; /* the tokens are computed */
    assert(n <= TAKEN_PER_STEP);
    if (n > engine_n_available(engine))
        return false; /* those who run need the pool */
    engine_evict(engine, n);
    if (page_pool_take(engine->pool, n, ids, &ignored))
        return false;
    bool is_good = true;
    for (uint32_t i = 0; i < n && is_good; i++)
        is_good = import(engine, load, load->n_taken + i, ids[i], &is_pinned[i]);
    is_good = is_good && radix_tree_publish(engine->tree, &load->hold, tokens, ids, n, RADIX_PROMPT,
                                            &ignored) == SERVERD_OK;
    for (uint32_t i = 0; i < n; i++)
        if (is_pinned[i])
            page_pool_unpin_window(engine->pool, ids[i], true);
    if (!is_good) {
        page_pool_give(engine->pool, ids, n);
        return false;
    }
    load->n_taken += n;
    metrics_add(engine->options.metrics, METRIC_RESTORED_TOKENS, (double)n * PAGE);
    return true;
}

void tier_poll(struct engine *engine)
{
    for (uint32_t i = 0; i < engine->n_loads;) {
        struct tier_load *load = &engine->loads[i];
        bool is_done = disk_load_is_done(load->load); /* before the number: that one grows */
        uint32_t n_left = disk_load_n_ready(load->load) - load->n_taken;
        uint32_t n = min_u32(n_left, TAKEN_PER_STEP);
        bool is_taken = n == 0 || take(engine, load, n);
        if (is_taken && (!is_done || n < n_left)) {
            i++;
            continue;
        }
        struct sequence *s = load->sequence;
        end_load(engine, load);
        queue_look_up(engine, s);
    }
}

bool tier_give_way(struct engine *engine)
{
    if (engine->n_loads == 0)
        return false;
    end_load(engine, &engine->loads[engine->n_loads - 1]);
    return true;
}

void tier_leave(struct engine *engine, struct sequence *s)
{
    for (uint32_t i = 0; i < engine->n_loads; i++)
        if (engine->loads[i].sequence == s) {
            end_load(engine, &engine->loads[i]);
            return;
        }
}
