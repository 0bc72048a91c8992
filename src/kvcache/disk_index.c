#include "kvcache/disk_index.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdlib.h>

#define NOT_IN_HEAP UINT32_MAX
#define NO_ENTRY    UINT32_MAX
#define EMPTY       0u /* so that a fresh table is pages that nobody has touched */

struct disk_index {
    struct disk_entry *entries; /* [n_max] */
    uint32_t n_max, n_slots;    /* those below n_slots were used once */
    uint32_t first_free;        /* their heap_at is the next */
    uint32_t n_used;

    uint32_t *table; /* [mask + 1] numbers of entries plus 1; open addressing, linear */
    uint32_t mask;

    uint32_t *heap; /* [n_max] of stored entries, the lowest rank first */
    uint32_t n_heap;
    uint64_t bytes;
};

struct disk_index *disk_index_create(uint32_t n_max)
{
    struct disk_index *index = calloc(1, sizeof *index);
    if (!index)
        return NULL;
    uint32_t n_table = 16;
    while (n_table < 2 * (uint64_t)n_max)
        n_table *= 2;
    *index = (struct disk_index){.n_max = n_max,
                                 .first_free = NO_ENTRY,
                                 .mask = n_table - 1,
                                 .entries = calloc(n_max, sizeof *index->entries),
                                 .table = calloc(n_table, sizeof *index->table),
                                 .heap = malloc(n_max * sizeof *index->heap)};
    if (!index->entries || !index->table || !index->heap) {
        disk_index_destroy(index);
        return NULL;
    }
    return index;
}

void disk_index_destroy(struct disk_index *index)
{
    if (!index)
        return;
    free(index->entries);
    free(index->table);
    free(index->heap);
    free(index);
}

/* ---- table ----------------------------------------------------------------------------------- */

/* Where the key is, or the empty place where it would be. Keys are hashes already. */
static uint32_t place_of(const struct disk_index *index, struct disk_key key)
{
    uint32_t at = (uint32_t)key.word[1] & index->mask;
    while (index->table[at] != EMPTY &&
           !disk_key_equals(index->entries[index->table[at] - 1].key, key))
        at = (at + 1) & index->mask;
    return at;
}

struct disk_entry *disk_index_find(struct disk_index *index, struct disk_key key)
{
    uint32_t found = index->table[place_of(index, key)];
    return found == EMPTY ? NULL : &index->entries[found - 1];
}

struct disk_entry *disk_index_add(struct disk_index *index, struct disk_key key)
{
    uint32_t i = index->first_free;
    if (i != NO_ENTRY)
        index->first_free = index->entries[i].heap_at;
    else if (index->n_slots < index->n_max)
        i = index->n_slots++;
    else
        return NULL;
    struct disk_entry *entry = &index->entries[i];
    *entry = (struct disk_entry){.key = key, .heap_at = NOT_IN_HEAP, .is_used = true};
    index->table[place_of(index, key)] = i + 1;
    index->n_used++;
    return entry;
}

/* Entries behind the hole move up, so that none is cut off from where its key points. */
static void table_remove(struct disk_index *index, struct disk_key key)
{
    uint32_t hole = place_of(index, key);
    index->table[hole] = EMPTY;
    for (uint32_t at = (hole + 1) & index->mask; index->table[at] != EMPTY;
         at = (at + 1) & index->mask) {
        uint32_t other = index->table[at];
        index->table[at] = EMPTY;
        index->table[place_of(index, index->entries[other - 1].key)] = other;
    }
}

/* ---- heap ------------------------------------------------------------------------------------ */

static uint64_t rank_at(const struct disk_index *index, uint32_t at)
{
    return index->entries[index->heap[at]].rank_ns;
}

static void heap_set(struct disk_index *index, uint32_t at, uint32_t entry)
{
    index->heap[at] = entry;
    index->entries[entry].heap_at = at;
}

/* The entry goes to its place, from the hole at `at`. */
static void heap_settle(struct disk_index *index, uint32_t at, uint32_t entry)
{
    uint64_t rank = index->entries[entry].rank_ns;
    for (; at > 0 && rank_at(index, (at - 1) / 2) > rank; at = (at - 1) / 2)
        heap_set(index, at, index->heap[(at - 1) / 2]);
    for (uint32_t child; (child = 2 * at + 1) < index->n_heap; at = child) {
        if (child + 1 < index->n_heap && rank_at(index, child + 1) < rank_at(index, child))
            child++;
        if (rank_at(index, child) >= rank)
            break;
        heap_set(index, at, index->heap[child]);
    }
    heap_set(index, at, entry);
}

static uint32_t number_of(const struct disk_index *index, const struct disk_entry *entry)
{
    return (uint32_t)(entry - index->entries);
}

void disk_index_store(struct disk_index *index, struct disk_entry *entry, uint64_t bytes,
                      uint64_t rank_ns)
{
    entry->is_stored = true;
    entry->bytes = bytes;
    entry->rank_ns = rank_ns;
    index->bytes += bytes;
    heap_settle(index, index->n_heap++, number_of(index, entry));
}

void disk_index_set_rank(struct disk_index *index, struct disk_entry *entry, uint64_t rank_ns)
{
    entry->rank_ns = rank_ns;
    if (entry->heap_at != NOT_IN_HEAP)
        heap_settle(index, entry->heap_at, number_of(index, entry));
}

struct disk_entry *disk_index_oldest(struct disk_index *index)
{
    return index->n_heap ? &index->entries[index->heap[0]] : NULL;
}

void disk_index_remove(struct disk_index *index, struct disk_entry *entry)
{
    uint32_t at = entry->heap_at;
    if (at != NOT_IN_HEAP) {
        uint32_t last = index->heap[--index->n_heap];
        if (at != index->n_heap)
            heap_settle(index, at, last);
        index->bytes -= entry->bytes;
    }
    table_remove(index, entry->key);
    *entry = (struct disk_entry){.heap_at = index->first_free};
    index->first_free = number_of(index, entry);
    index->n_used--;
}

/* ---- the rest -------------------------------------------------------------------------------- */

struct disk_entry *disk_index_slot(struct disk_index *index, uint32_t i)
{
    return &index->entries[i];
}

uint32_t disk_index_n_slots(const struct disk_index *index)
{
    return index->n_slots;
}

bool disk_index_is_full(const struct disk_index *index)
{
    return index->n_used == index->n_max;
}

uint32_t disk_index_n_stored(const struct disk_index *index)
{
    return index->n_heap;
}

uint64_t disk_index_bytes(const struct disk_index *index)
{
    return index->bytes;
}

serverd_status disk_index_check(const struct disk_index *index, serverd_error *err)
{
    uint32_t n_used = 0, n_stored = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < index->n_slots; i++) {
        const struct disk_entry *entry = &index->entries[i];
        if (!entry->is_used)
            continue;
        n_used++;
        if (index->table[place_of(index, entry->key)] != i + 1)
            return fail(err, SERVERD_INTERNAL, "disk index: entry %u cannot be found", i);
        if (entry->is_stored != (entry->heap_at != NOT_IN_HEAP))
            return fail(err, SERVERD_INTERNAL, "disk index: entry %u is not where it should be", i);
        if (!entry->is_stored)
            continue;
        n_stored++;
        bytes += entry->bytes;
        uint32_t at = entry->heap_at;
        if (at >= index->n_heap || index->heap[at] != i ||
            (at > 0 && rank_at(index, (at - 1) / 2) > entry->rank_ns))
            return fail(err, SERVERD_INTERNAL, "disk index: the order of eviction is broken");
    }
    if (n_used != index->n_used || n_stored != index->n_heap || bytes != index->bytes)
        return fail(err, SERVERD_INTERNAL,
                    "disk index: %u entries, %u stored, %" PRIu64
                    " bytes; counted %u, %u, %" PRIu64,
                    index->n_used, index->n_heap, index->bytes, n_used, n_stored, bytes);
    return SERVERD_OK;
}
