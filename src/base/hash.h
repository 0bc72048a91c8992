/* Hashes and random bytes. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include "serverd/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One step of splitmix64: a good mix of 64 bits into 64 bits. */
static inline uint64_t hash_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* For tables in memory; not stable across versions, not for hostile collisions without a seed. */
uint64_t hash_bytes(const void *bytes, size_t n, uint64_t seed);

/* XXH3: finds damage and tells contents apart, but is no proof against forgery. Stable, so it may
 * be stored. */
uint64_t checksum64(const void *bytes, size_t n);
void checksum128(const void *bytes, size_t n, uint8_t out[16]);

/* Of the bytes of both, one behind the other. */
uint64_t checksum64_of_two(const void *first, size_t n_first, const void *second, size_t n_second);

/* checksum64 of bytes that come in pieces. NULL: no memory. */
struct checksum;
struct checksum *checksum_create(void);
void checksum_update(struct checksum *checksum, const void *bytes, size_t n);
uint64_t checksum_final(const struct checksum *checksum);
void checksum_destroy(struct checksum *checksum);

struct sha256 {
    uint32_t state[8];
    uint64_t n_bytes;
    uint8_t block[64];
    bool is_plain; /* without the processor's instructions for it, as sha256_init leaves it */
};

void sha256_init(struct sha256 *h);
void sha256_update(struct sha256 *h, const void *bytes, size_t n);
void sha256_final(struct sha256 *h, uint8_t digest[32]);
void sha256_bytes(const void *bytes, size_t n, uint8_t digest[32]);
/* The first 64 bits of the digest: a name that nobody can give to something else on purpose. */
uint64_t sha256_number(const void *bytes, size_t n);

/* A hash that several threads can make: SHA-256 of byte 1 and the hashes of its leaves, which are
 * SHA-256 of byte 0 and SHA256_LEAF bytes, or what is left; no bytes have no leaf. */
#define SHA256_LEAF ((size_t)1 << 20)
void sha256_leaf(const void *bytes, size_t n, uint8_t digest[32]);
void sha256_root(const uint8_t (*leaves)[32], size_t n_leaves, uint8_t digest[32]);
void sha256_tree(const void *bytes, size_t n, uint8_t digest[32]); /* all by the caller */

/* From the kernel; fails only if the kernel does. */
serverd_status random_bytes(void *out, size_t n, serverd_error *err);

/* True if equal; time depends on n alone. */
bool equal_constant_time(const void *a, const void *b, size_t n);

#endif
