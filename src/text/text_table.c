#include "base/hash.h"
#include "base/numeric.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

bool text_table_init(struct text_table *table, size_t max_entries)
{
    size_t n = 16;
    while (n < max_entries * 2)
        n *= 2;
    table->n_slots = n;
    table->slots = calloc(n, sizeof *table->slots);
    for (size_t i = 0; table->slots && i < n; i++)
        table->slots[i].id = NO_TOKEN;
    return table->slots != NULL;
}

void text_table_deinit(struct text_table *table)
{
    free(table->slots);
    table->slots = NULL;
}

static struct text_entry *find_slot(const struct text_table *table, const char *bytes, size_t len)
{
    size_t i = hash_bytes(bytes, len, 0) & (table->n_slots - 1);
    while (table->slots[i].id != NO_TOKEN &&
           (table->slots[i].len != len || memcmp(table->slots[i].bytes, bytes, len) != 0))
        i = (i + 1) & (table->n_slots - 1);
    return &table->slots[i];
}

void text_table_put(struct text_table *table, const char *bytes, uint32_t len, int32_t id)
{
    *find_slot(table, bytes, len) = (struct text_entry){bytes, len, id};
}

int32_t text_table_find(const struct text_table *table, const char *bytes, size_t len)
{
    return find_slot(table, bytes, len)->id;
}
