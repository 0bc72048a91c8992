#include "grammar/matcher_internal.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

/* One more than can be taken back: a look ahead is a step while it lasts. */
#define N_STEPS (LIMIT_GRAMMAR_ROLLBACK + 1)

/* ---- life ------------------------------------------------------------------------------------ */

struct matcher *matcher_create(struct grammar *grammar)
{
    struct matcher *matcher = calloc(1, sizeof *matcher);
    if (!matcher)
        return NULL;
    matcher->grammar = grammar_ref(grammar);
    matcher->steps = calloc(N_STEPS, sizeof *matcher->steps);
    if (!run_init(&matcher->run, &grammar->machine) || !matcher->steps) {
        matcher_destroy(matcher);
        return NULL;
    }
    run_begin(&matcher->run, &matcher->tops);
    return matcher;
}

struct matcher *matcher_clone(const struct matcher *matcher)
{
    struct matcher *copy = matcher_create(matcher->grammar);
    if (!copy)
        return NULL;
    frame_pool_deinit(&copy->run.pool);
    bool is_copied = frame_pool_copy(&copy->run.pool, &matcher->run.pool) &&
                     frame_set_copy(&copy->tops, &matcher->tops);
    buffer_append(&copy->run.bytes, matcher->run.bytes.data, matcher->run.bytes.len);
    copy->run.is_failed = matcher->run.is_failed;
    if (!is_copied || copy->run.bytes.is_failed) {
        matcher_destroy(copy);
        return NULL;
    }
    return copy;
}

void matcher_destroy(struct matcher *matcher)
{
    if (!matcher)
        return;
    for (uint32_t i = 0; matcher->steps && i < N_STEPS; i++)
        frame_set_deinit(&matcher->steps[i].tops);
    free(matcher->steps);
    frame_set_deinit(&matcher->tops);
    frame_set_deinit(&matcher->other);
    run_deinit(&matcher->run);
    grammar_unref(matcher->grammar);
    free(matcher);
}

void matcher_reset(struct matcher *matcher)
{
    matcher->n_steps = 0;
    buffer_reset(&matcher->run.bytes);
    frame_pool_release(&matcher->run.pool, 1);
    matcher->run.pool.n_kept = 1;
    matcher->run.is_failed = false;
    run_begin(&matcher->run, &matcher->tops);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static struct matcher_step *step_at(struct matcher *matcher, uint32_t i)
{
    return &matcher->steps[(matcher->first_step + i) % N_STEPS];
}

static void mark(const struct frame_set *set, uint8_t *keep)
{
    for (uint32_t i = 0; i < set->n; i++) {
        const struct frame *frame = &set->item[i];
        keep[frame->parent] = 1;
        if (frame->kind == FRAME_ARRAY)
            keep[frame->array.seen] = 1;
        if (frame->kind == FRAME_OBJECT)
            keep[frame->object.seen] = 1;
    }
}

static void move(struct frame_set *set, const uint32_t *moved)
{
    for (uint32_t i = 0; i < set->n; i++) {
        struct frame *frame = &set->item[i];
        frame->parent = moved[frame->parent];
        if (frame->kind == FRAME_ARRAY)
            frame->array.seen = moved[frame->array.seen];
        if (frame->kind == FRAME_OBJECT)
            frame->object.seen = moved[frame->object.seen];
    }
}

/* Frames of what was left long ago are thrown away when the pool has doubled. */
static void collect(struct matcher *matcher)
{
    struct frame_pool *pool = &matcher->run.pool;
    if (pool->n < 1024 || pool->n / 2 < pool->n_kept)
        return;
    uint8_t *keep = calloc(pool->n, 1);
    uint32_t *moved = calloc(pool->n, sizeof *moved);
    if (keep && moved) {
        mark(&matcher->tops, keep);
        for (uint32_t i = 0; i < matcher->n_steps; i++)
            mark(&step_at(matcher, i)->tops, keep);
        frame_pool_compact(pool, keep, moved);
        move(&matcher->tops, moved);
        for (uint32_t i = 0; i < matcher->n_steps; i++)
            move(&step_at(matcher, i)->tops, moved);
    }
    free(keep);
    free(moved);
}

/* ---- reading --------------------------------------------------------------------------------- */

size_t matcher_walk(struct matcher *matcher, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t n_bytes = matcher->run.bytes.len;
        run_step(&matcher->run, &matcher->tops, (uint8_t)text[i], &matcher->other);
        if (matcher->other.n == 0) {
            matcher->run.bytes.len = n_bytes;
            return i;
        }
        struct frame_set swap = matcher->tops;
        matcher->tops = matcher->other;
        matcher->other = swap;
    }
    return n;
}

/* Remembers where the matcher is; the oldest step gives way. */
static struct matcher_step *begin_step(struct matcher *matcher)
{
    if (matcher->n_steps == N_STEPS) {
        matcher->first_step = (matcher->first_step + 1) % N_STEPS;
        matcher->n_steps--;
    }
    struct matcher_step *step = step_at(matcher, matcher->n_steps++);
    step->n_bytes = (uint32_t)matcher->run.bytes.len;
    if (!frame_set_copy(&step->tops, &matcher->tops))
        matcher->run.is_failed = true;
    return step;
}

static void take_back(struct matcher *matcher)
{
    struct matcher_step *step = step_at(matcher, --matcher->n_steps);
    struct frame_set swap = matcher->tops;
    matcher->tops = step->tops;
    step->tops = swap;
    matcher->run.bytes.len = step->n_bytes;
}

size_t matcher_read(struct matcher *matcher, const char *text, size_t n)
{
    collect(matcher);
    (void)begin_step(matcher);
    return matcher->run.is_failed ? 0 : matcher_walk(matcher, text, n);
}

bool matcher_accept(struct matcher *matcher, const char *text, size_t n)
{
    if (matcher_read(matcher, text, n) == n && !matcher->run.is_failed)
        return true;
    take_back(matcher);
    return false;
}

bool matcher_allows(struct matcher *matcher, const char *text, size_t n)
{
    uint32_t n_frames = matcher->run.pool.n;
    (void)begin_step(matcher);
    bool is_allowed = !matcher->run.is_failed && matcher_walk(matcher, text, n) == n;
    take_back(matcher);
    frame_pool_release(&matcher->run.pool, n_frames);
    return is_allowed;
}

bool matcher_rollback(struct matcher *matcher, uint32_t n)
{
    if (n > matcher->n_steps)
        return false;
    while (n-- > 0)
        take_back(matcher);
    return true;
}

/* ---- questions ------------------------------------------------------------------------------- */

bool matcher_has_failed(const struct matcher *matcher)
{
    return matcher->run.is_failed;
}

bool matcher_may_end(struct matcher *matcher)
{
    uint32_t n_frames = matcher->run.pool.n;
    bool may_end = !matcher->run.is_failed && run_may_end(&matcher->run, &matcher->tops);
    frame_pool_release(&matcher->run.pool, n_frames);
    return may_end;
}

bool matcher_is_complete(struct matcher *matcher)
{
    if (!matcher_may_end(matcher))
        return false;
    uint32_t n_frames = matcher->run.pool.n;
    size_t n_bytes = matcher->run.bytes.len;
    bool is_complete = true;
    for (unsigned byte = 0; byte < 256 && is_complete; byte++) {
        run_step(&matcher->run, &matcher->tops, (uint8_t)byte, &matcher->other);
        is_complete = matcher->other.n == 0;
        matcher->run.bytes.len = n_bytes;
        frame_pool_release(&matcher->run.pool, n_frames);
    }
    return is_complete;
}

bool matcher_forced(struct matcher *matcher, size_t max_bytes, struct buffer *out)
{
    uint32_t n_frames = matcher->run.pool.n;
    (void)begin_step(matcher);
    for (size_t i = 0; i < max_bytes && !matcher->run.is_failed; i++) {
        int byte = run_forced_byte(&matcher->run, &matcher->tops, &matcher->other);
        char text = (char)byte;
        if (byte < 0 || matcher_walk(matcher, &text, 1) == 0)
            break;
        buffer_append_char(out, text);
    }
    const bool ends = matcher_is_complete(matcher);
    take_back(matcher);
    frame_pool_release(&matcher->run.pool, n_frames);
    return ends;
}
