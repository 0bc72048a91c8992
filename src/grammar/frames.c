#include "grammar/frames.h"

#include "base/hash.h"
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

/* ---- pool ------------------------------------------------------------------------------------ */

static uint32_t head_of(const struct frame_pool *pool, const struct frame *frame)
{
    return (uint32_t)hash_bytes(frame, sizeof *frame, 0) & (pool->n_heads - 1);
}

static bool grow(struct frame_pool *pool)
{
    uint32_t cap = pool->cap ? pool->cap * 2 : 64;
    if (cap > LIMIT_GRAMMAR_FRAMES)
        return false;
    struct frame *frame = realloc(pool->frame, cap * sizeof *frame);
    if (frame)
        pool->frame = frame;
    uint32_t *next = realloc(pool->next, cap * sizeof *next);
    if (next)
        pool->next = next;
    uint32_t *heads = realloc(pool->heads, cap * sizeof *heads);
    if (heads)
        pool->heads = heads;
    if (!frame || !next || !heads)
        return false;
    pool->cap = pool->n_heads = cap;
    memset(heads, 0, cap * sizeof *heads);
    for (uint32_t i = 1; i < pool->n; i++) {
        uint32_t head = head_of(pool, &pool->frame[i]);
        next[i] = heads[head];
        heads[head] = i;
    }
    return true;
}

bool frame_pool_init(struct frame_pool *pool)
{
    *pool = (struct frame_pool){.n = 1, .n_kept = 1};
    return grow(pool);
}

void frame_pool_deinit(struct frame_pool *pool)
{
    free(pool->frame);
    free(pool->next);
    free(pool->heads);
    *pool = (struct frame_pool){0};
}

bool frame_pool_copy(struct frame_pool *pool, const struct frame_pool *from)
{
    *pool = *from;
    pool->frame = malloc(from->cap * sizeof *pool->frame);
    pool->next = malloc(from->cap * sizeof *pool->next);
    pool->heads = malloc(from->cap * sizeof *pool->heads);
    if (!pool->frame || !pool->next || !pool->heads) {
        frame_pool_deinit(pool);
        return false;
    }
    memcpy(pool->frame, from->frame, from->n * sizeof *pool->frame);
    memcpy(pool->next, from->next, from->n * sizeof *pool->next);
    memcpy(pool->heads, from->heads, from->n_heads * sizeof *pool->heads);
    return true;
}

uint32_t frame_pool_put(struct frame_pool *pool, const struct frame *frame)
{
    uint32_t head = head_of(pool, frame);
    for (uint32_t i = pool->heads[head]; i; i = pool->next[i])
        if (memcmp(&pool->frame[i], frame, sizeof *frame) == 0)
            return i;
    struct frame copy = *frame; /* it may lie in the pool that grows */
    if (pool->n == pool->cap) {
        if (!grow(pool))
            return NO_FRAME;
        head = head_of(pool, &copy);
    }
    pool->frame[pool->n] = copy;
    pool->next[pool->n] = pool->heads[head];
    pool->heads[head] = pool->n;
    return pool->n++;
}

void frame_pool_release(struct frame_pool *pool, uint32_t n)
{
    while (pool->n > n) { /* the newest of its chain is its head, after growth too */
        pool->n--;
        pool->heads[head_of(pool, &pool->frame[pool->n])] = pool->next[pool->n];
    }
}

static void mark_below(const struct frame_pool *pool, uint8_t *keep)
{
    for (uint32_t i = pool->n; i-- > 1;) { /* what lies below has a smaller id */
        const struct frame *frame = &pool->frame[i];
        if (!keep[i])
            continue;
        keep[frame->parent] = 1;
        if (frame->kind == FRAME_ARRAY)
            keep[frame->array.seen] = 1;
        if (frame->kind == FRAME_OBJECT)
            keep[frame->object.seen] = 1;
    }
}

void frame_pool_compact(struct frame_pool *pool, uint8_t *keep, uint32_t *moved)
{
    uint32_t n = 1;
    mark_below(pool, keep);
    moved[0] = 0;
    for (uint32_t i = 1; i < pool->n; i++) {
        if (!keep[i])
            continue;
        struct frame frame = pool->frame[i];
        frame.parent = moved[frame.parent];
        if (frame.kind == FRAME_ARRAY)
            frame.array.seen = moved[frame.array.seen];
        if (frame.kind == FRAME_OBJECT)
            frame.object.seen = moved[frame.object.seen];
        moved[i] = n;
        pool->frame[n++] = frame;
    }
    pool->n = pool->n_kept = n;
    memset(pool->heads, 0, pool->n_heads * sizeof *pool->heads);
    for (uint32_t i = 1; i < n; i++) {
        uint32_t head = head_of(pool, &pool->frame[i]);
        pool->next[i] = pool->heads[head];
        pool->heads[head] = i;
    }
}

/* ---- tops ------------------------------------------------------------------------------------ */

void frame_set_deinit(struct frame_set *set)
{
    free(set->item);
    *set = (struct frame_set){0};
}

static bool reserve(struct frame_set *set, uint32_t n)
{
    if (n <= set->cap)
        return true;
    uint32_t cap = set->cap ? set->cap * 2 : 8;
    while (cap < n)
        cap *= 2;
    struct frame *item = cap <= LIMIT_GRAMMAR_TOPS ? realloc(set->item, cap * sizeof *item) : NULL;
    if (!item) {
        set->is_failed = true;
        return false;
    }
    set->item = item;
    set->cap = cap;
    return true;
}

void frame_set_add(struct frame_set *set, const struct frame *frame)
{
    for (uint32_t i = 0; i < set->n; i++)
        if (memcmp(&set->item[i], frame, sizeof *frame) == 0)
            return;
    struct frame copy = *frame; /* it may lie in the set that grows */
    if (reserve(set, set->n + 1))
        set->item[set->n++] = copy;
}

bool frame_set_copy(struct frame_set *set, const struct frame_set *from)
{
    set->n = 0;
    set->is_failed = from->is_failed;
    if (!reserve(set, from->n))
        return false;
    if (from->n)
        memcpy(set->item, from->item, from->n * sizeof *set->item);
    set->n = from->n;
    return true;
}
