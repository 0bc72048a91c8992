#include "base/hash.h"
#include "base/numeric.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#define NO_ENTRY UINT32_MAX

/* The hash beside the entry's number spares most looks at a text that is another one. */
struct text_slot {
    uint32_t hash, entry;
};

struct text_entry {
    const char *bytes;
    uint32_t len;
    int32_t id;
};

/* Slots for `capacity` entries, half of them empty; those that are there keep their places among
 * the entries. */
static bool resize(struct text_table *table, size_t capacity)
{
    size_t n_slots = 16;
    while (n_slots < capacity * 2)
        n_slots *= 2;
    struct text_entry *entries = realloc(table->entries, n_slots / 2 * sizeof *entries);
    if (!entries)
        return false;
    table->entries = entries;
    struct text_slot *slots = malloc(n_slots * sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < n_slots; i++)
        slots[i].entry = NO_ENTRY;
    for (size_t i = 0; i < table->n_slots; i++) {
        struct text_slot slot = table->slots[i];
        size_t at = slot.hash & (n_slots - 1);
        if (slot.entry == NO_ENTRY)
            continue;
        while (slots[at].entry != NO_ENTRY)
            at = (at + 1) & (n_slots - 1);
        slots[at] = slot;
    }
    free(table->slots);
    table->slots = slots;
    table->n_slots = n_slots;
    return true;
}

bool text_table_init(struct text_table *table, size_t n_expected)
{
    *table = (struct text_table){0};
    return resize(table, n_expected);
}

void text_table_deinit(struct text_table *table)
{
    free(table->slots);
    free(table->entries);
    *table = (struct text_table){0};
}

/* Where the text is, or where it would go. */
static struct text_slot *find_slot(const struct text_table *table, const char *bytes, size_t len,
                                   uint32_t hash)
{
    size_t i = hash & (table->n_slots - 1);
    for (;; i = (i + 1) & (table->n_slots - 1)) {
        struct text_slot *slot = &table->slots[i];
        if (slot->entry == NO_ENTRY)
            return slot;
        const struct text_entry *entry = &table->entries[slot->entry];
        if (slot->hash == hash && entry->len == len && memcmp(entry->bytes, bytes, len) == 0)
            return slot;
    }
}

bool text_table_put(struct text_table *table, const char *bytes, uint32_t len, int32_t id)
{
    if (table->n_entries == table->n_slots / 2 && !resize(table, table->n_slots))
        return false;
    uint32_t hash = (uint32_t)hash_bytes(bytes, len, 0);
    struct text_slot *slot = find_slot(table, bytes, len, hash);
    if (slot->entry == NO_ENTRY)
        *slot = (struct text_slot){hash, table->n_entries++};
    table->entries[slot->entry] = (struct text_entry){bytes, len, id};
    return true;
}

void text_table_prefetch(const struct text_table *table, const char *bytes, size_t len)
{
    __builtin_prefetch(&table->slots[hash_bytes(bytes, len, 0) & (table->n_slots - 1)]);
}

int32_t text_table_find(const struct text_table *table, const char *bytes, size_t len)
{
    const struct text_slot *slot =
        find_slot(table, bytes, len, (uint32_t)hash_bytes(bytes, len, 0));
    return slot->entry == NO_ENTRY ? NO_TOKEN : table->entries[slot->entry].id;
}
