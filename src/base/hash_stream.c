/* Checksums of 128 bits, and of bytes that come in pieces. Compiled for size: inlined, these are
 * larger than everything else that opening a program file needs. */
#include "base/hash.h"

#define XXH_INLINE_ALL      /* no library to link, and the state's size, for one on the stack */
#define XXH_NO_INLINE_HINTS 1
#include <string.h>
#include <xxhash.h>

void checksum128(const void *bytes, size_t n, uint8_t out[16])
{
    XXH128_canonical_t canonical; /* the same on every machine */
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, n));
    memcpy(out, canonical.digest, sizeof canonical.digest);
}

uint64_t checksum64_of_two(const void *first, size_t n_first, const void *second, size_t n_second)
{
    XXH3_state_t state;
    (void)XXH3_64bits_reset(&state); /* all three fail for NULL alone */
    (void)XXH3_64bits_update(&state, first, n_first);
    (void)XXH3_64bits_update(&state, second, n_second);
    return XXH3_64bits_digest(&state);
}

/* The library's state is aligned to 64 and larger than a public header should say. */
struct checksum *checksum_create(void)
{
    XXH3_state_t *state = XXH3_createState();
    if (state && XXH3_64bits_reset(state) != XXH_OK) {
        (void)XXH3_freeState(state); /* cannot fail */
        state = NULL;
    }
    return (struct checksum *)state;
}

void checksum_update(struct checksum *checksum, const void *bytes, size_t n)
{
    (void)XXH3_64bits_update((XXH3_state_t *)checksum, bytes, n); /* fails for NULL alone */
}

uint64_t checksum_final(const struct checksum *checksum)
{
    return XXH3_64bits_digest((const XXH3_state_t *)checksum);
}

void checksum_destroy(struct checksum *checksum)
{
    (void)XXH3_freeState((XXH3_state_t *)checksum); /* cannot fail */
}
