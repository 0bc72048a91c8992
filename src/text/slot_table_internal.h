/* The hash tables of a tokenizer image (program/tokenizer_image.h): from a hash to the items that
 * may be meant; who asks compares. */
#ifndef TEXT_SLOT_TABLE_INTERNAL_H
#define TEXT_SLOT_TABLE_INTERNAL_H

#include "program/tokenizer_image.h"

#include <stdbool.h>
#include <stdint.h>

#define NO_ITEM UINT32_MAX

struct slot_table {
    const uint32_t *slots;
    uint32_t mask, longest_probe;
};

/* The table while it is made. */
struct slot_builder {
    struct slot_table table;
    uint32_t *slots; /* table.slots; free() */
};

static inline void slot_table_prefetch(const struct slot_table *table, uint64_t hash)
{
    __builtin_prefetch(&table->slots[(uint32_t)hash & table->mask]);
}

/* The next item at or behind *probe, which begins at 0, whose slot has the hash's bits; *probe is
 * then the one after it. NO_ITEM: there is none. */
static inline uint32_t slot_table_next(const struct slot_table *table, uint64_t hash,
                                       uint32_t *probe)
{
    const uint32_t tag = (uint32_t)(hash >> 32) & ~table->mask;
    while (*probe <= table->longest_probe) {
        const uint32_t slot = table->slots[((uint32_t)hash + (*probe)++) & table->mask];
        if (slot == TOKENIZER_EMPTY_SLOT)
            break;
        if ((slot & ~table->mask) == tag)
            return slot & table->mask;
    }
    return NO_ITEM;
}

/* An empty table for items below n_items. False: no memory. */
bool slot_builder_init(struct slot_builder *builder, uint32_t n_items);
void slot_builder_deinit(struct slot_builder *builder);
/* False: so many hashes collide that the longest probe is over its limit. */
bool slot_builder_put(struct slot_builder *builder, uint64_t hash, uint32_t item);
/* The item that slot_table_next has just given becomes another one of the same hash. */
void slot_builder_replace(struct slot_builder *builder, uint64_t hash, uint32_t probe,
                          uint32_t item);

#endif
