#include "text/slot_table_internal.h"

#include "base/limits.h"

#include <stdlib.h>
#include <string.h>

bool slot_builder_init(struct slot_builder *builder, uint32_t n_items)
{
    const uint32_t n_slots = tokenizer_image_slots(n_items);
    *builder = (struct slot_builder){.slots = malloc(n_slots * sizeof *builder->slots)};
    if (!builder->slots)
        return false;
    memset(builder->slots, 0xff, n_slots * sizeof *builder->slots); /* TOKENIZER_EMPTY_SLOT */
    builder->table = (struct slot_table){.slots = builder->slots, .mask = n_slots - 1};
    return true;
}

void slot_builder_deinit(struct slot_builder *builder)
{
    free(builder->slots);
    *builder = (struct slot_builder){0};
}

static void set(struct slot_builder *builder, uint64_t hash, uint32_t probe, uint32_t item)
{
    const uint32_t mask = builder->table.mask;
    builder->slots[((uint32_t)hash + probe) & mask] = ((uint32_t)(hash >> 32) & ~mask) | item;
}

bool slot_builder_put(struct slot_builder *builder, uint64_t hash, uint32_t item)
{
    const uint32_t mask = builder->table.mask;
    uint32_t probe = 0;
    while (builder->slots[((uint32_t)hash + probe) & mask] != TOKENIZER_EMPTY_SLOT)
        if (probe++ == LIMIT_HASH_PROBES)
            return false;
    set(builder, hash, probe, item);
    if (probe > builder->table.longest_probe)
        builder->table.longest_probe = probe;
    return true;
}

void slot_builder_replace(struct slot_builder *builder, uint64_t hash, uint32_t probe,
                          uint32_t item)
{
    set(builder, hash, probe - 1, item);
}
