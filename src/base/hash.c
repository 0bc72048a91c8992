#include "base/hash.h"

#include "base/error.h"
#include "base/numeric.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define XXH_INLINE_ALL /* no library to link */
#include <xxhash.h>

#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#endif

/* ---- hash_bytes ---- */

static uint64_t load64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Both halves of the 128-bit product: every input bit reaches the middle bits of the output. */
static uint64_t multiply_fold(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 u128;
    u128 product = (u128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t hash_bytes(const void *bytes, size_t n, uint64_t seed)
{
    static const uint64_t odd_a = 0x9fb21c651e98df25u, odd_b = 0xd6e8feb86659fd93u;
    const uint8_t *p = bytes;
    uint64_t h = hash_mix(seed ^ (uint64_t)n * odd_a);
    while (n >= 16) {
        h = multiply_fold(load64(p) ^ h ^ odd_a, load64(p + 8) ^ odd_b) + h;
        p += 16;
        n -= 16;
    }
    uint8_t tail[16] = {0};
    if (n > 0)
        memcpy(tail, p, n);
    h = multiply_fold(load64(tail) ^ h ^ odd_a, load64(tail + 8) ^ odd_b) + h;
    return hash_mix(h);
}

/* ---- checksums ---- */

uint64_t checksum64(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

/* ---- SHA-256 (FIPS 180-4) ---- */

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate_right(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

static uint32_t load_big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void compress_plain(uint32_t state[8], const uint8_t block[64])
{
    uint32_t w[64];
    for (int t = 0; t < 16; t++)
        w[t] = load_big_endian(block + 4 * t);
    for (int t = 16; t < 64; t++) {
        uint32_t a = w[t - 15], b = w[t - 2];
        uint32_t s0 = rotate_right(a, 7) ^ rotate_right(a, 18) ^ a >> 3;
        uint32_t s1 = rotate_right(b, 17) ^ rotate_right(b, 19) ^ b >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    /* eight variables rather than an array: they stay in registers */
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 64; t++) {
        uint32_t t1 = h + (rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25)) +
                      ((e & f) ^ (~e & g)) + round_constants[t] + w[t];
        uint32_t t2 = (rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22)) +
                      ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + t2;
    }
    const uint32_t s[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

#ifdef __x86_64__
/* Sixteen times four rounds; the message words of the last sixteen rounds stand in w. */
__attribute__((target("sha,sse4.1"))) static void
compress_with_instructions(uint32_t state[8], const uint8_t *bytes, size_t n_blocks)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
    __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; n_blocks > 0; n_blocks--, bytes += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(bytes + 16 * i)), swap);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            if (i >= 4)
                w[i % 4] = _mm_sha256msg2_epu32(
                    _mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]),
                                  _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4)),
                    w[(i + 3) % 4]);
            __m128i m = _mm_add_epi32(w[i % 4],
                                      _mm_loadu_si128((const __m128i *)(round_constants + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, m);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(m, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* Asking the processor leaves a virtual machine: worth it for a leaf, not for some bytes. */
static bool has_instructions(void)
{
    unsigned eax, ebx, ecx, edx;
    bool has_sse41 = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx & bit_SSE4_1;
    return has_sse41 && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && ebx & bit_SHA;
}
#endif

static void compress(struct sha256 *h, const uint8_t *bytes, size_t n_blocks)
{
#ifdef __x86_64__
    if (!h->is_plain) {
        compress_with_instructions(h->state, bytes, n_blocks);
        return;
    }
#endif
    for (; n_blocks > 0; n_blocks--, bytes += 64)
        compress_plain(h->state, bytes);
}

void sha256_init(struct sha256 *h)
{
    *h = (struct sha256){
        .is_plain = true,
        .state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c,
                  0x1f83d9ab, 0x5be0cd19},
    };
}

void sha256_update(struct sha256 *h, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    size_t filled = h->n_bytes % sizeof h->block;
    h->n_bytes += n;
    while (n > 0) {
        if (filled == 0 && n >= sizeof h->block) {
            compress(h, p, n / sizeof h->block);
            p += n / sizeof h->block * sizeof h->block;
            n %= sizeof h->block;
            continue;
        }
        size_t part = min_size(n, sizeof h->block - filled);
        memcpy(h->block + filled, p, part);
        p += part;
        n -= part;
        filled += part;
        if (filled == sizeof h->block) {
            compress(h, h->block, 1);
            filled = 0;
        }
    }
}

void sha256_final(struct sha256 *h, uint8_t digest[32])
{
    static const uint8_t padding[64] = {0x80};
    uint64_t n_bits = h->n_bytes * 8;
    size_t filled = h->n_bytes % sizeof h->block;
    sha256_update(h, padding, (filled < 56 ? 56 : 120) - filled);
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(n_bits >> (56 - 8 * i));
    sha256_update(h, length, sizeof length);
    for (int i = 0; i < 32; i++)
        digest[i] = (uint8_t)(h->state[i / 4] >> (24 - 8 * (i % 4)));
}

void sha256_bytes(const void *bytes, size_t n, uint8_t digest[32])
{
    struct sha256 h;
    sha256_init(&h);
    sha256_update(&h, bytes, n);
    sha256_final(&h, digest);
}

void sha256_leaf(const void *bytes, size_t n, uint8_t digest[32])
{
    struct sha256 h;
    sha256_init(&h);
#ifdef __x86_64__
    h.is_plain = !has_instructions();
#endif
    sha256_update(&h, &(uint8_t){0}, 1);
    sha256_update(&h, bytes, n);
    sha256_final(&h, digest);
}

void sha256_root(const uint8_t (*leaves)[32], size_t n_leaves, uint8_t digest[32])
{
    struct sha256 h;
    sha256_init(&h);
    sha256_update(&h, &(uint8_t){1}, 1);
    sha256_update(&h, leaves, n_leaves * sizeof *leaves);
    sha256_final(&h, digest);
}

void sha256_tree(const void *bytes, size_t n, uint8_t digest[32])
{
    struct sha256 h;
    sha256_init(&h);
    sha256_update(&h, &(uint8_t){1}, 1);
    for (size_t at = 0; at < n; at += SHA256_LEAF) {
        uint8_t leaf[32];
        sha256_leaf((const uint8_t *)bytes + at, min_size(n - at, SHA256_LEAF), leaf);
        sha256_update(&h, leaf, sizeof leaf);
    }
    sha256_final(&h, digest);
}

uint64_t sha256_number(const void *bytes, size_t n)
{
    uint8_t digest[32];
    uint64_t number;
    sha256_bytes(bytes, n, digest);
    memcpy(&number, digest, sizeof number);
    return number;
}

/* ---- random bytes, comparison ---- */

serverd_status random_bytes(void *out, size_t n, serverd_error *err)
{
    uint8_t *p = out;
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return fail(err, SERVERD_INTERNAL, "getrandom: %m");
        p += got;
        n -= (size_t)got;
    }
    return SERVERD_OK;
}

bool equal_constant_time(const void *a, const void *b, size_t n)
{
    const volatile uint8_t *x = a, *y = b; /* volatile: the loop may not end early */
    uint8_t difference = 0;
    for (size_t i = 0; i < n; i++)
        difference |= (uint8_t)(x[i] ^ y[i]);
    return difference == 0;
}
