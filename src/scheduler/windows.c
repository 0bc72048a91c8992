/* Window pages of those who run (kvcache/page_pool.h). A sequence pins those that its next row
 * sees, from the window's span before its last full page on, which is where others and its next
 * turn go on, and those that the rows of the present step are written to; it gets these just before
 * the step. So a long prompt never has more of them than a window and a chunk. What is passed stays
 * where it is until somebody needs it. */
#include "scheduler/engine_internal.h"

#include "base/error.h"

/* The first page whose window page is needed behind n full pages. */
static uint32_t first_needed(const struct engine *engine, uint32_t n_full)
{
    return n_full > engine->window_span ? n_full - engine->window_span : 0;
}

/* Others will go on behind the prompt, behind what was found in the tree, or within the page that
 * the prompt ends in. */
static bool is_reuse_point(const struct engine *engine, const struct sequence *s, uint32_t page)
{
    uint32_t prompt_end = (s->job->request->n_prompt - 1) / SERVERD_PAGE_TOKENS;
    return (page <= prompt_end && page >= first_needed(engine, prompt_end)) ||
           (page < s->n_reused && page >= first_needed(engine, s->n_reused));
}

static void unpin(struct engine *engine, const struct sequence *s, uint32_t begin, uint32_t end)
{
    for (uint32_t i = begin; i < end; i++)
        page_pool_unpin_window(engine->pool, s->page[i], is_reuse_point(engine, s, i));
}

bool windows_hold(struct engine *engine, struct sequence *s)
{
    uint32_t begin = first_needed(engine, s->n_shared), end = begin;
    while (engine->has_windows && end < s->n_shared &&
           page_pool_pin_window(engine->pool, s->page[end]))
        end++;
    if (engine->has_windows && end < s->n_shared) {
        unpin(engine, s, begin, end);
        return false;
    }
    s->window_begin = engine->has_windows ? begin : 0;
    s->window_end = engine->has_windows ? end : 0;
    return true;
}

bool windows_go_back(struct engine *engine, struct sequence *s)
{
    uint32_t begin = s->window_begin, end = s->window_end;
    if (!windows_hold(engine, s))
        return false;
    unpin(engine, s, begin, end);
    return true;
}

static bool take(struct engine *engine, struct sequence *s, struct page_id page)
{
    serverd_error err;
    if (page_pool_pin_window(engine->pool, page)) /* it is left from a step that failed */
        return true;
    while (!page_pool_take_window(engine->pool, page))
        if (!handles_give_way(engine))
            return false;
    const serverd_kv_page zeroed = {SERVERD_NO_PAGE, page_pool_window(engine->pool, page)};
    if (runtime_kv_zero(engine->options.runtime, &zeroed, 1, &err) == SERVERD_OK)
        return true;
    page_pool_unpin_window(engine->pool, page, false);
    job_fail(engine, s->job, &err);
    return false;
}

uint32_t windows_take(struct engine *engine, struct sequence *s, uint32_t n_rows)
{
    if (!engine->has_windows)
        return n_rows;
    uint32_t end = pages_for(s->n_computed + n_rows);
    while (s->window_end < end && take(engine, s, s->page[s->window_end]))
        s->window_end++;
    return min_u32(n_rows, s->window_end * SERVERD_PAGE_TOKENS - s->n_computed);
}

bool windows_can_spare(const struct engine *engine, const struct sequence *s, uint32_t n_rows)
{
    const struct window_counts counts = page_pool_windows(engine->pool);
    uint32_t end = pages_for(s->n_computed + n_rows);
    return !engine->has_windows || end <= s->window_end ||
           counts.n_free + counts.n_middle >= end - s->window_end + engine->n_running;
}

bool windows_fork(struct engine *engine, struct sequence *s, uint32_t n_tokens)
{
    if (!engine->has_windows)
        return true;
    uint32_t begin = first_needed(engine, n_tokens / SERVERD_PAGE_TOKENS);
    uint32_t passed = min_u32(begin, s->window_end);
    if (s->window_begin < passed) {
        unpin(engine, s, s->window_begin, passed);
        s->window_begin = passed;
    }
    if (s->window_end < begin)
        s->window_begin = s->window_end = begin;
    uint32_t n_rows = n_tokens - s->n_computed;
    return windows_take(engine, s, n_rows) == n_rows;
}

void windows_pass(struct engine *engine, struct sequence *s)
{
    uint32_t begin = first_needed(engine, s->n_computed / SERVERD_PAGE_TOKENS);
    if (!engine->has_windows || begin <= s->window_begin)
        return;
    unpin(engine, s, s->window_begin, begin);
    s->window_begin = begin;
}

void windows_release(struct engine *engine, struct sequence *s)
{
    for (uint32_t i = s->window_begin; i < s->window_end; i++)
        page_pool_unpin_window(engine->pool, s->page[i], true);
    s->window_begin = s->window_end = 0;
}

/* What a sequence of so many tokens has in the long run: its window, the page that it fills, and
 * the next one when a step crosses into it. */
static uint32_t wanted(const struct engine *engine, const struct sequence *s, uint32_t n_tokens)
{
    uint32_t n = min_u32(pages_for(n_tokens), engine->window_span + 2);
    uint32_t n_pinned = s->window_end - s->window_begin;
    return n > n_pinned ? n - n_pinned : 0;
}

bool windows_fit(const struct engine *engine, const struct sequence *s)
{
    if (!engine->has_windows)
        return true;
    const struct window_counts counts = page_pool_windows(engine->pool);
    const uint32_t most = engine->limits.context_size;
    uint64_t n = wanted(engine, s, sequence_n_tokens(s) + sequence_n_room(s, most)) +
                 1; /* a page that is copied from */
    for (uint32_t i = 0; i < engine->n_running; i++) {
        const struct sequence *r = engine->running[i];
        n += wanted(engine, r, sequence_n_tokens(r) + sequence_n_room(r, most));
    }
    return n <= (uint64_t)counts.n_free + counts.n_middle + counts.n_kept;
}

serverd_kv_page engine_kv_page(const struct engine *engine, struct page_id page)
{
    return (serverd_kv_page){page.index, page_pool_window(engine->pool, page)};
}

serverd_status windows_check(const struct engine *engine, serverd_error *err)
{
    uint64_t n_pins = handles_totals(engine).n_window_pins;
    for (const struct job *job = engine->live; job; job = job->live_next)
        for (const struct sequence *s = job->sequences; s; s = s->sibling) {
            n_pins += s->window_end - s->window_begin;
            if (s->window_end > s->n_pages)
                return fail(err, SERVERD_INTERNAL, "%u pages, window pages of %u", s->n_pages,
                            s->window_end);
            if (engine->has_windows && s->state == SEQUENCE_RUNNING && !s->job->is_ending &&
                (s->window_begin > first_needed(engine, s->n_computed / SERVERD_PAGE_TOKENS) ||
                 s->window_end < pages_for(s->n_computed)))
                return fail(err, SERVERD_INTERNAL,
                            "%u tokens computed, window pages only from page %u to %u",
                            s->n_computed, s->window_begin, s->window_end);
            for (uint32_t i = s->window_begin; i < s->window_end; i++)
                if (page_pool_window(engine->pool, s->page[i]) == SERVERD_NO_PAGE)
                    return fail(err, SERVERD_INTERNAL, "page %u has lost its window page",
                                s->page[i].index);
        }
    const struct window_counts counts = page_pool_windows(engine->pool);
    if (n_pins != counts.n_pins)
        return fail(err, SERVERD_INTERNAL, "window pages: %llu pins, counted %llu",
                    (unsigned long long)n_pins, (unsigned long long)counts.n_pins);
    return SERVERD_OK;
}
