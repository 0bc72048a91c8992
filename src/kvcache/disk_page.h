/* One KV page in one file: its name, its header, writing it whole and reading it with suspicion.
 * No state; any thread.
 *
 * A page is named by a chain hash, SHA-256(hash of the page before it, its token ids), which begins
 * with a hash of what the bytes mean (the model and how its pages lie) and of the namespace. So a
 * name stands for all tokens from the first one on, and no name is good for another model, another
 * namespace or another version of this format.
 *
 *   0    magic "SRVDKVPG", u32 format version, u32 header bytes
 *   16   identity [32], namespace [32], chain hash [32], chain hash of the page before [32]
 *   144  u32 tokens of a page, u32 flags, u64 position of the first token
 *   160  i32 token ids [tokens of a page]
 *        u64 payload bytes, u64 XXH3-64 of the page, u64 XXH3-64 of the window page or 0
 *        u64 XXH3-64 of all bytes before it
 *        payload: the page, and with flag 1 the window page behind it (serverd/delegate.h)
 *
 * Numbers are little-endian. With pages of 16 tokens the header has 256 bytes; a file of pages of
 * another size has another, and is refused by it. The reader knows all of the header but the
 * checksums and whether the window page is there before it looks, and takes nothing else. */
#ifndef KVCACHE_DISK_PAGE_H
#define KVCACHE_DISK_PAGE_H

#include "serverd/delegate.h"

#include <stdbool.h>

#define DISK_PAGE_HEADER_BYTES (192u + 4 * SERVERD_PAGE_TOKENS)
#define DISK_HASH_BYTES        32u
#define DISK_NAME_BYTES        36u /* "0123456789abcdef0123456789abcdef.kv" and its NUL */

/* Where a sequence's chain of pages stands: behind n_pages of them. */
struct disk_chain {
    uint8_t space[DISK_HASH_BYTES];  /* identity and namespace: the hash before the first page */
    uint8_t before[DISK_HASH_BYTES]; /* of the last page but one; undefined while n_pages is 0 */
    uint8_t hash[DISK_HASH_BYTES];   /* of the last page */
    uint32_t n_pages;
};

/* The beginning of a namespace. */
void disk_chain_begin(const uint8_t identity[DISK_HASH_BYTES], uint64_t space,
                      struct disk_chain *out);
/* Goes on behind n_pages more pages with these tokens. About a microsecond a page. */
void disk_chain_extend(struct disk_chain *chain, const int32_t *tokens, uint32_t n_pages);

/* The name of a page in tables: the first half of its hash. */
struct disk_key {
    uint64_t word[2];
};
struct disk_key disk_key_of(const uint8_t hash[DISK_HASH_BYTES]);
static inline bool disk_key_equals(struct disk_key a, struct disk_key b)
{
    return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}
/* The key in hexadecimal and ".kv"; and back, false for any other name. */
void disk_name_of(struct disk_key key, char out[DISK_NAME_BYTES]);
bool disk_key_of_name(const char *name, struct disk_key *out);

/* What a file must hold: the last page of `chain`. */
struct disk_page {
    uint8_t identity[DISK_HASH_BYTES];
    struct disk_chain chain;
    int32_t tokens[SERVERD_PAGE_TOKENS];
    uint64_t page_bytes, window_page_bytes; /* the latter 0: pages have no window pages */
    bool has_window;                        /* the window page is there, too */
};
static inline uint64_t disk_page_payload_bytes(const struct disk_page *page)
{
    return page->page_bytes + (page->has_window ? page->window_page_bytes : 0);
}

/* What became of reading or writing one. */
enum disk_result {
    DISK_OK,
    DISK_GONE,        /* there is no such file */
    DISK_NOT_REGULAR, /* a link, a folder, a device, or somebody else's */
    DISK_BAD_SIZE,
    DISK_BAD_HEADER, /* magic, version, layout, damage */
    DISK_FOREIGN,    /* another identity, namespace, chain or tokens than its name says */
    DISK_BAD_PAYLOAD,
    DISK_NO_SPACE, /* or over a quota or a limit */
    DISK_IO_ERROR,
    DISK_N_RESULTS
};
const char *disk_result_name(enum disk_result result); /* "bad_size", for labels and logs */

/* Writes header and payload to a file of that temporary name, which must not be there, and renames
 * it. rank_ns becomes its time of change. Anything but DISK_OK leaves no file of either name that
 * was not there before, but a power cut may. errno is the reason then. */
enum disk_result disk_page_write(int folder, const char *temporary, const struct disk_page *page,
                                 const void *payload, uint64_t rank_ns);

/* Reads the page and, if has_window wants it and it is there, the window page behind it, if the
 * file is what it should be; has_window says what was read. Otherwise both are undefined. */
enum disk_result disk_page_read(int folder, struct disk_page *page, void *payload);
/* The same from an open file. */
enum disk_result disk_page_read_fd(int fd, struct disk_page *page, void *payload);

#endif
