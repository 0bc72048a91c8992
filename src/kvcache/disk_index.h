/* Which pages lie in files, as far as this process knows, and which of them goes next. A table by
 * key and a heap by rank, of a fixed size. Not locked: the tier's mutex guards it.
 *
 * An entry is *staged* (its bytes wait in memory to be written) or *stored* (in a file, in the
 * heap, its bytes counted). Rank is the time of the last use, a little earlier for pages further
 * from the beginning: a page without those before it is worth nothing, so the end of a chain goes
 * before its beginning. */
#ifndef KVCACHE_DISK_INDEX_H
#define KVCACHE_DISK_INDEX_H

#include "kvcache/disk_page.h"

struct disk_index;

struct disk_entry {
    struct disk_key key;
    struct disk_key before; /* the page before it, if has_before */
    uint64_t rank_ns;       /* Unix time; change it with disk_index_set_rank */
    uint64_t bytes;         /* of a stored one, on the disk */
    uint32_t heap_at;
    uint32_t scan; /* the last reading of the folder that saw it */
    bool is_used, is_stored, has_before;
    bool has_window; /* its window page is there, too */
    bool is_doomed;  /* its file must go */
    bool is_touched; /* its file has an older rank */
};

/* At most n_max entries. NULL: no memory. */
struct disk_index *disk_index_create(uint32_t n_max);
void disk_index_destroy(struct disk_index *index); /* NULL is fine */

struct disk_entry *disk_index_find(struct disk_index *index, struct disk_key key); /* or NULL */
/* A new staged entry; NULL: there is no room. The key must not be there. */
struct disk_entry *disk_index_add(struct disk_index *index, struct disk_key key);
/* A staged entry becomes a stored one. */
void disk_index_store(struct disk_index *index, struct disk_entry *entry, uint64_t bytes,
                      uint64_t rank_ns);
void disk_index_set_rank(struct disk_index *index, struct disk_entry *entry, uint64_t rank_ns);
void disk_index_remove(struct disk_index *index, struct disk_entry *entry);

/* The stored entry with the lowest rank, or NULL. */
struct disk_entry *disk_index_oldest(struct disk_index *index);

/* Entry number i < disk_index_n_slots, used or not: for walks in parts. */
struct disk_entry *disk_index_slot(struct disk_index *index, uint32_t i);
uint32_t disk_index_n_slots(const struct disk_index *index);

bool disk_index_is_full(const struct disk_index *index);
uint32_t disk_index_n_stored(const struct disk_index *index);
uint64_t disk_index_bytes(const struct disk_index *index);

/* Walks everything; for tests. */
serverd_status disk_index_check(const struct disk_index *index, serverd_error *err);

#endif
