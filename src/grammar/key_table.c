#include "base/hash.h"
#include "grammar/automaton_internal.h"

#include <string.h>

#define FIRST_KEYS 64u

void *arena_grow(struct arena *arena, const void *old, size_t n_old, size_t n_new)
{
    void *grown = arena_alloc(arena, n_new);
    if (grown && n_old > 0)
        memcpy(grown, old, n_old);
    return grown;
}

static uint64_t hash_key(const uint32_t *key, size_t n)
{
    uint64_t hash = n;
    for (size_t i = 0; i < n; i++)
        hash = hash_mix(hash ^ key[i]);
    return hash;
}

bool key_table_init(struct key_table *table, struct arena *arena)
{
    *table = (struct key_table){.arena = arena,
                                .cap_keys = FIRST_KEYS,
                                .cap_words = 2 * FIRST_KEYS,
                                .n_slots = 2 * FIRST_KEYS};
    table->words = arena_array(arena, table->cap_words, sizeof *table->words);
    table->offset = arena_array(arena, table->cap_keys + 1u, sizeof *table->offset);
    table->slots = arena_array(arena, table->n_slots, sizeof *table->slots);
    return table->words && table->offset && table->slots;
}

static void put(struct key_table *table, uint32_t number, uint64_t hash)
{
    while (table->slots[hash & (table->n_slots - 1)] != 0)
        hash++;
    table->slots[hash & (table->n_slots - 1)] = number + 1;
}

static bool grow_slots(struct key_table *table)
{
    if (table->n_keys > UINT32_MAX / 8)
        return false;
    table->offset =
        arena_grow(table->arena, table->offset, (table->cap_keys + 1u) * sizeof *table->offset,
                   (2u * table->cap_keys + 1u) * sizeof *table->offset);
    table->slots = arena_array(table->arena, 2 * (size_t)table->n_slots, sizeof *table->slots);
    if (!table->offset || !table->slots)
        return false;
    table->cap_keys *= 2;
    table->n_slots *= 2;
    for (uint32_t i = 0; i < table->n_keys; i++) {
        size_t at = table->offset[i];
        put(table, i, hash_key(table->words + at, table->offset[i + 1] - at));
    }
    return true;
}

static bool grow_words(struct key_table *table, size_t n_needed)
{
    size_t cap = table->cap_words;
    while (cap < n_needed)
        cap *= 2;
    uint32_t *words = arena_grow(table->arena, table->words,
                                 table->offset[table->n_keys] * sizeof *words, cap * sizeof *words);
    if (!words)
        return false;
    table->words = words;
    table->cap_words = cap;
    return true;
}

uint32_t key_table_add(struct key_table *table, const uint32_t *key, uint32_t n_words, bool *is_new)
{
    uint64_t hash = hash_key(key, n_words);
    uint32_t found;
    for (uint64_t at = hash; (found = table->slots[at & (table->n_slots - 1)]) != 0; at++) {
        size_t first = table->offset[found - 1];
        if (table->offset[found] - first == n_words &&
            (n_words == 0 || memcmp(table->words + first, key, n_words * sizeof *key) == 0)) {
            *is_new = false;
            return found - 1;
        }
    }
    size_t end = table->offset[table->n_keys];
    if ((table->n_keys == table->cap_keys && !grow_slots(table)) ||
        (end + n_words > table->cap_words && !grow_words(table, end + n_words)))
        return UINT32_MAX;
    if (n_words > 0)
        memcpy(table->words + end, key, n_words * sizeof *key);
    put(table, table->n_keys++, hash);
    table->offset[table->n_keys] = end + n_words;
    *is_new = true;
    return table->n_keys - 1;
}
