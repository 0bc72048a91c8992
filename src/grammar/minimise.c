#include "grammar/minimise_internal.h"

#include "base/hash.h"

#include <string.h>

/* The live part of the automaton, numbered 0..n-1, by incoming edges. */
struct inverse {
    uint32_t n, n_edges;
    uint32_t *old;           /* [n] -> state of the raw automaton */
    uint32_t *offset;        /* [n + 1] */
    uint32_t *tail, *symbol; /* [n_edges], ordered by head */
};

/* A partition of 0..n-1 into blocks, each a run of `items`. */
struct partition {
    uint32_t *items, *place, *block_of; /* [n] */
    uint32_t *first, *end, *n_marked;   /* [n blocks] */
    uint32_t n_blocks;
};

static bool alloc_u32(struct arena *arena, size_t n, uint32_t **out)
{
    return (*out = arena_array(arena, n > 0 ? n : 1, sizeof **out)) != NULL;
}

/* States that lie between the start and acceptance; live[] says which. */
static serverd_status find_live(struct grammar_budget *budget, struct arena *scratch,
                                const struct raw_automaton *raw, uint8_t *live, serverd_error *err)
{
    uint32_t n = raw->n_states, k = raw->n_classes, n_queue = 0, n_edges = 0;
    uint32_t *queue, *offset, *tail;
    uint8_t *reached = arena_alloc(scratch, n);
    if (!reached || !alloc_u32(scratch, n, &queue) || !alloc_u32(scratch, (size_t)n + 2, &offset))
        return grammar_budget_memory(err);
    if (raw->start != 0) {
        reached[raw->start] = 1;
        queue[n_queue++] = raw->start;
    }
    for (uint32_t i = 0; i < n_queue; i++) {
        const uint32_t *row = raw->next + (size_t)queue[i] * k;
        for (uint32_t c = 0; c < k; c++) {
            if (row[c] == 0)
                continue;
            n_edges++;
            offset[row[c] + 2]++;
            if (!reached[row[c]]) {
                reached[row[c]] = 1;
                queue[n_queue++] = row[c];
            }
        }
    }
    serverd_status status = grammar_budget_spend(budget, (uint64_t)n_queue * k, err);
    if (status)
        return status;
    if (!alloc_u32(scratch, n_edges, &tail))
        return grammar_budget_memory(err);
    for (uint32_t s = 0; s < n; s++)
        offset[s + 2] += offset[s + 1];
    for (uint32_t i = 0; i < n_queue; i++) {
        const uint32_t *row = raw->next + (size_t)queue[i] * k;
        for (uint32_t c = 0; c < k; c++)
            if (row[c] != 0)
                tail[offset[row[c] + 1]++] = queue[i];
    }
    uint32_t n_live = 0; /* the queue again, from the accepting states backwards */
    for (uint32_t s = 1; s < n; s++) {
        if (reached[s] && (raw->labels[s] & 1)) {
            live[s] = 1;
            queue[n_live++] = s;
        }
    }
    for (uint32_t i = 0; i < n_live; i++) {
        for (uint32_t e = offset[queue[i]]; e < offset[queue[i] + 1]; e++) {
            if (!live[tail[e]]) {
                live[tail[e]] = 1;
                queue[n_live++] = tail[e];
            }
        }
    }
    return grammar_budget_spend(budget, n_edges, err);
}

static serverd_status invert(struct arena *scratch, const struct raw_automaton *raw,
                             const uint8_t *live, struct inverse *out, serverd_error *err)
{
    uint32_t k = raw->n_classes, *number;
    *out = (struct inverse){0};
    if (!alloc_u32(scratch, raw->n_states, &number) ||
        !alloc_u32(scratch, raw->n_states, &out->old))
        return grammar_budget_memory(err);
    for (uint32_t s = 0; s < raw->n_states; s++) {
        if (live[s]) {
            number[s] = out->n;
            out->old[out->n++] = s;
        }
    }
    if (!alloc_u32(scratch, (size_t)out->n + 2, &out->offset))
        return grammar_budget_memory(err);
    for (uint32_t s = 0; s < out->n; s++) {
        const uint32_t *row = raw->next + (size_t)out->old[s] * k;
        for (uint32_t c = 0; c < k; c++) {
            if (live[row[c]]) {
                out->offset[number[row[c]] + 2]++;
                out->n_edges++;
            }
        }
    }
    if (!alloc_u32(scratch, out->n_edges, &out->tail) ||
        !alloc_u32(scratch, out->n_edges, &out->symbol))
        return grammar_budget_memory(err);
    for (uint32_t s = 1; s <= out->n; s++)
        out->offset[s + 1] += out->offset[s];
    for (uint32_t s = 0; s < out->n; s++) {
        const uint32_t *row = raw->next + (size_t)out->old[s] * k;
        for (uint32_t c = 0; c < k; c++) {
            if (live[row[c]]) {
                uint32_t at = out->offset[number[row[c]] + 1]++;
                out->tail[at] = s;
                out->symbol[at] = c;
            }
        }
    }
    return SERVERD_OK;
}

static void mark(struct partition *p, uint32_t item)
{
    uint32_t block = p->block_of[item], at = p->place[item];
    uint32_t border = p->first[block] + p->n_marked[block];
    if (at < border)
        return;
    uint32_t other = p->items[border];
    p->items[border] = item;
    p->items[at] = other;
    p->place[item] = border;
    p->place[other] = at;
    p->n_marked[block]++;
}

/* Separates the marked items of a block; the smaller part becomes a new block, whose number is
 * returned. UINT32_MAX if the block stays whole. */
static uint32_t split(struct partition *p, uint32_t block)
{
    uint32_t n_marked = p->n_marked[block], size = p->end[block] - p->first[block];
    p->n_marked[block] = 0;
    if (n_marked == size)
        return UINT32_MAX;
    uint32_t fresh = p->n_blocks++, border = p->first[block] + n_marked;
    if (n_marked <= size - n_marked) {
        p->first[fresh] = p->first[block];
        p->end[fresh] = p->first[block] = border;
    } else {
        p->end[fresh] = p->end[block];
        p->first[fresh] = p->end[block] = border;
    }
    for (uint32_t i = p->first[fresh]; i < p->end[fresh]; i++)
        p->block_of[p->items[i]] = fresh;
    return fresh;
}

/* Blocks by label. */
static serverd_status begin_partition(struct arena *scratch, const struct raw_automaton *raw,
                                      const struct inverse *inverse, struct partition *out,
                                      serverd_error *err)
{
    uint32_t n = inverse->n;
    *out = (struct partition){0};
    if (!alloc_u32(scratch, n, &out->items) || !alloc_u32(scratch, n, &out->place) ||
        !alloc_u32(scratch, n, &out->block_of) || !alloc_u32(scratch, n, &out->first) ||
        !alloc_u32(scratch, n, &out->end) || !alloc_u32(scratch, n, &out->n_marked))
        return grammar_budget_memory(err);
    uint32_t at = 0;
    for (uint32_t label = 0; label < 256; label++) {
        uint32_t first = at;
        for (uint32_t s = 0; s < n; s++) {
            if (raw->labels[inverse->old[s]] == label) {
                out->block_of[s] = out->n_blocks;
                out->place[s] = at;
                out->items[at++] = s;
            }
        }
        if (at > first) {
            out->first[out->n_blocks] = first;
            out->end[out->n_blocks++] = at;
        }
        if (at == n)
            break;
    }
    return SERVERD_OK;
}

/* Edges into one block, ordered by symbol. */
struct bundle {
    uint32_t *tail;         /* [n_edges] */
    uint32_t *n_of, *start; /* [n_classes] */
    uint32_t *used, n_used; /* symbols that occur */
};

static uint32_t gather(const struct inverse *inverse, const struct partition *p, uint32_t block,
                       struct bundle *bundle)
{
    bundle->n_used = 0;
    for (uint32_t i = p->first[block]; i < p->end[block]; i++) {
        uint32_t head = p->items[i];
        for (uint32_t e = inverse->offset[head]; e < inverse->offset[head + 1]; e++)
            if (bundle->n_of[inverse->symbol[e]]++ == 0)
                bundle->used[bundle->n_used++] = inverse->symbol[e];
    }
    uint32_t at = 0;
    for (uint32_t u = 0; u < bundle->n_used; u++) {
        bundle->start[bundle->used[u]] = at;
        at += bundle->n_of[bundle->used[u]];
        bundle->n_of[bundle->used[u]] = 0;
    }
    for (uint32_t i = p->first[block]; i < p->end[block]; i++) {
        uint32_t head = p->items[i];
        for (uint32_t e = inverse->offset[head]; e < inverse->offset[head + 1]; e++) {
            uint32_t symbol = inverse->symbol[e];
            bundle->tail[bundle->start[symbol] + bundle->n_of[symbol]++] = inverse->tail[e];
        }
    }
    return at;
}

static serverd_status refine(struct grammar_budget *budget, struct arena *scratch,
                             const struct raw_automaton *raw, const struct inverse *inverse,
                             struct partition *p, serverd_error *err)
{
    struct bundle bundle = {0};
    uint32_t *work, *touched, n_work = 0;
    if (!alloc_u32(scratch, inverse->n_edges, &bundle.tail) ||
        !alloc_u32(scratch, raw->n_classes, &bundle.n_of) ||
        !alloc_u32(scratch, raw->n_classes, &bundle.start) ||
        !alloc_u32(scratch, raw->n_classes, &bundle.used) ||
        !alloc_u32(scratch, inverse->n, &work) || !alloc_u32(scratch, inverse->n, &touched))
        return grammar_budget_memory(err);
    for (uint32_t b = 0; b < p->n_blocks; b++)
        work[n_work++] = b;
    while (n_work > 0) {
        uint32_t block = work[--n_work];
        uint32_t n_edges = gather(inverse, p, block, &bundle);
        serverd_status status = grammar_budget_spend(budget, n_edges + 1, err);
        if (status)
            return status;
        for (uint32_t u = 0; u < bundle.n_used; u++) {
            uint32_t symbol = bundle.used[u], n_touched = 0;
            for (uint32_t e = 0; e < bundle.n_of[symbol]; e++) {
                uint32_t tail = bundle.tail[bundle.start[symbol] + e];
                if (p->n_marked[p->block_of[tail]] == 0)
                    touched[n_touched++] = p->block_of[tail];
                mark(p, tail);
            }
            bundle.n_of[symbol] = 0;
            for (uint32_t t = 0; t < n_touched; t++) {
                /* The new block is the smaller part: if the old one still waits, now both do; if
                 * it was done, the smaller part is enough. */
                uint32_t fresh = split(p, touched[t]);
                if (fresh != UINT32_MAX)
                    work[n_work++] = fresh;
            }
        }
    }
    return SERVERD_OK;
}

/* Numbers the blocks breadth-first. */
static serverd_status number_blocks(struct arena *scratch, const struct raw_automaton *raw,
                                    const struct inverse *inverse, const uint8_t *live,
                                    const struct partition *p, uint32_t *new_state, uint32_t *n_out,
                                    serverd_error *err)
{
    uint32_t *number, *queue, *block_of_old, n_queue = 0;
    if (!alloc_u32(scratch, p->n_blocks, &number) || !alloc_u32(scratch, p->n_blocks, &queue) ||
        !alloc_u32(scratch, raw->n_states, &block_of_old))
        return grammar_budget_memory(err);
    for (uint32_t s = 0; s < inverse->n; s++)
        block_of_old[inverse->old[s]] = p->block_of[s];
    if (live[raw->start]) {
        queue[n_queue++] = raw->start;
        number[block_of_old[raw->start]] = n_queue;
    }
    for (uint32_t i = 0; i < n_queue; i++) {
        const uint32_t *row = raw->next + (size_t)queue[i] * raw->n_classes;
        for (uint32_t c = 0; c < raw->n_classes; c++) {
            if (live[row[c]] && number[block_of_old[row[c]]] == 0) {
                queue[n_queue++] = row[c];
                number[block_of_old[row[c]]] = n_queue;
            }
        }
    }
    for (uint32_t s = 0; s < raw->n_states; s++)
        new_state[s] = live[s] ? number[block_of_old[s]] : 0;
    *n_out = n_queue + 1;
    return SERVERD_OK;
}

serverd_status minimise(struct grammar_budget *budget, struct arena *scratch,
                        const struct raw_automaton *raw, uint32_t **new_state, uint32_t *n_out,
                        serverd_error *err)
{
    struct inverse inverse;
    struct partition partition;
    uint8_t *live = arena_alloc(scratch, raw->n_states);
    uint32_t *result;
    if (!live || !alloc_u32(scratch, raw->n_states, &result))
        return grammar_budget_memory(err);
    if (raw->is_minimal) {
        for (uint32_t s = 0; s < raw->n_states; s++)
            result[s] = s;
        *new_state = result;
        *n_out = raw->n_states;
        return SERVERD_OK;
    }
    serverd_status status = find_live(budget, scratch, raw, live, err);
    if (!status)
        status = invert(scratch, raw, live, &inverse, err);
    if (!status)
        status = begin_partition(scratch, raw, &inverse, &partition, err);
    if (!status)
        status = refine(budget, scratch, raw, &inverse, &partition, err);
    if (!status)
        status = number_blocks(scratch, raw, &inverse, live, &partition, result, n_out, err);
    if (!status)
        *new_state = result;
    return status;
}

static bool equal_columns(const struct raw_automaton *raw, const uint32_t *new_state, uint32_t a,
                          uint32_t b)
{
    for (uint32_t s = 0; s < raw->n_states; s++) {
        const uint32_t *row = raw->next + (size_t)s * raw->n_classes;
        if (new_state[s] != 0 && new_state[row[a]] != new_state[row[b]])
            return false;
    }
    return true;
}

serverd_status merge_classes(struct grammar_budget *budget, struct arena *scratch,
                             const struct raw_automaton *raw, const uint32_t *new_state,
                             uint32_t **new_class, uint32_t *n_out, serverd_error *err)
{
    uint32_t k = raw->n_classes, n = 0, *result, *first;
    uint64_t *hash = arena_array(scratch, k, sizeof *hash);
    if (!hash || !alloc_u32(scratch, k, &result) || !alloc_u32(scratch, k, &first))
        return grammar_budget_memory(err);
    for (uint32_t s = 0; s < raw->n_states; s++) {
        const uint32_t *row = raw->next + (size_t)s * k;
        if (new_state[s] == 0)
            continue;
        for (uint32_t c = 0; c < k; c++)
            hash[c] = hash[c] * 0x9e3779b97f4a7c15u + hash_mix(new_state[row[c]] + 1);
    }
    serverd_status status = grammar_budget_spend(budget, (uint64_t)raw->n_states * k / 4, err);
    if (status)
        return status;
    for (uint32_t c = 0; c < k; c++) {
        uint32_t found = 0;
        while (found < n &&
               (hash[first[found]] != hash[c] || !equal_columns(raw, new_state, first[found], c)))
            found++;
        if (found == n)
            first[n++] = c;
        result[c] = found;
    }
    *new_class = result;
    *n_out = n;
    return SERVERD_OK;
}
