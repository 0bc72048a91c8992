/* A tokenizer image: a vocabulary and every table that a tokenizer derives from it in one block
 * without pointers, used in place from wherever it lies (the TOKN section of a program file, or
 * memory). text/ builds it (tokenizer_image_build in text/tokenizer.h) and reads it; here are its
 * records, frozen by the assertions below, and the check that makes reading safe.
 *
 *   header | part 0 | part 1 | ...     each part at the next multiple of 64, gaps zero
 *
 * Little-endian, reserved bytes 0 and checked, the bytes a function of the vocabulary alone. A
 * symbol is a token (< n_tokens), or behind them a text that only merges know.
 *
 * Hash tables: open addressing, linear, u32 slots, at least twice as many as items, a power of two.
 * With `mask` = slots - 1, an item of hash h lies at (h & mask) or at most `longest probe` places
 * behind it; its slot holds the item in the bits of `mask` and in the others those of h >> 32,
 * which tell most other items apart without a look at them; all ones: empty, ends a search. The
 * hash of a text is its XXH3-64 (checksum64), of a pair hash_mix(left << 32 | right). */
#ifndef PROGRAM_TOKENIZER_IMAGE_H
#define PROGRAM_TOKENIZER_IMAGE_H

#include "program/vocabulary.h"
#include "serverd/status.h"

#include <stddef.h>
#include <stdint.h>

#define TOKENIZER_IMAGE_VERSION 1u
#define TOKENIZER_IMAGE_ALIGN   64u
#define TOKENIZER_NO_ID         (-1)
#define TOKENIZER_EMPTY_SLOT    UINT32_MAX

enum tokenizer_image_flags {
    TOKENIZER_ADDS_BOS = 1,
    TOKENIZER_ADDS_EOS = 2,
    TOKENIZER_ADDS_SEPARATOR = 4,
    TOKENIZER_ADDS_SPACE_PREFIX = 8,
    TOKENIZER_REMOVES_EXTRA_WHITESPACE = 16,
    TOKENIZER_LOWERCASES = 32,
    TOKENIZER_STRIPS_ACCENTS = 64,
    TOKENIZER_IGNORES_MERGES = 128, /* a fragment that is a token is emitted whole */
    TOKENIZER_IS_STEPWISE = 256,    /* steps instead of `pre` */
    TOKENIZER_FALLS_BACK_TO_BYTES = 512,
    TOKENIZER_FUSES_UNKNOWN = 1024,
    TOKENIZER_ALL_FLAGS = 2047
};

enum tokenizer_image_part {
    TOKENIZER_TEXT_OFFSETS,  /* u32 [n_symbols + 1] into the bytes: texts as in the model file */
    TOKENIZER_TEXT_BYTES,    /* u8 */
    TOKENIZER_TEXT_SLOTS,    /* u32 [tokenizer_image_slots(n_symbols)]: text -> symbol; of several
                              * tokens of one text the last; texts without bytes are not in it */
    TOKENIZER_TYPES,         /* u8 [n_tokens] enum token_type; end tokens are control tokens */
    TOKENIZER_SCORES,        /* f32 [n_tokens] of SPM and UNIGRAM, else [0] */
    TOKENIZER_MERGES,        /* struct tokenizer_merge [n_merges], by rank */
    TOKENIZER_MERGE_SLOTS,   /* u32 [tokenizer_image_slots(n_merges)]: pair -> rank */
    TOKENIZER_SPECIALS,      /* u32: tokens cut out of texts, longest first, then by id */
    TOKENIZER_TRIE,          /* struct tokenizer_trie_node: their texts; node 0 is the root */
    TOKENIZER_PIECE_OFFSETS, /* u32 [n_tokens + 1] into the bytes: what tokens stand for */
    TOKENIZER_PIECE_BYTES,   /* u8 */
    TOKENIZER_END_TOKENS,    /* u32, ascending: end of generation */
    TOKENIZER_ORDER,         /* u32 [n_tokens]: ids sorted by their pieces, then by id */
    TOKENIZER_PREFIXES,      /* u16 [n_tokens]: bytes that a piece shares with the one before it in
                              * that order, at most 65,535; first 0 */
    TOKENIZER_STEPS,         /* struct tokenizer_step, each with its bytes behind it, of a stepwise
                              * vocabulary (vocabulary.h); at most VOCABULARY_MAX_STEPS */
    TOKENIZER_SINGLE_FRAME,  /* struct frame_item: what stands around a text, or nothing */
    TOKENIZER_PAIR_FRAME,    /* struct frame_item: around a pair of texts, or nothing */
    /* A place without a meaning so far: what is in it is refused. */
    TOKENIZER_RESERVED_17,
    TOKENIZER_N_PARTS,
    TOKENIZER_MAX_PARTS = 32
};

struct tokenizer_merge {
    uint32_t left, right, result; /* symbols */
};

/* Behind it: text, other, zeros up to the next multiple of 4. */
struct tokenizer_step {
    uint32_t kind, flags;
    uint32_t text_bytes, other_bytes;
};

/* A node's children lie beside each other, ascending by byte, in the order of their parents. */
struct tokenizer_trie_node {
    uint32_t first_child;
    uint16_t n_children;
    uint8_t byte; /* root: 0 */
    uint8_t reserved;
    uint32_t special; /* index + 1 of the special that ends here, 0: none */
};

struct tokenizer_image_range {
    uint64_t offset, bytes; /* from the header's first byte; a part without bytes has both 0 */
};

struct tokenizer_image {
    uint8_t magic[8]; /* "sdptokn" and NUL */
    uint64_t bytes;   /* header and parts, exactly */
    uint32_t version, kind, flags, n_tokens;
    uint32_t n_symbols, n_merges, text_longest_probe, merge_longest_probe;
    uint8_t reserved0[16];
    char pre[64];             /* name of the pre-tokenizer, NUL-terminated, rest 0 */
    int32_t ids[16];          /* as VOCABULARY_IDS; -1: none; [15] is 0 */
    int32_t byte_symbol[256]; /* the symbol of a byte, -1: none */
    uint8_t reserved1[64];
    struct tokenizer_image_range part[TOKENIZER_MAX_PARTS];
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "images are used in place");
_Static_assert(sizeof(struct tokenizer_merge) == 12, "frozen");
_Static_assert(sizeof(struct tokenizer_step) == 16, "frozen");
_Static_assert(sizeof(struct tokenizer_trie_node) == 12, "frozen");
_Static_assert(sizeof(struct frame_item) == 8, "frozen");
_Static_assert(offsetof(struct tokenizer_trie_node, special) == 8, "frozen");
_Static_assert(sizeof(struct tokenizer_image) == 1792, "frozen, a multiple of 64");
_Static_assert(offsetof(struct tokenizer_image, version) == 16, "frozen");
_Static_assert(offsetof(struct tokenizer_image, pre) == 64, "frozen");
_Static_assert(offsetof(struct tokenizer_image, ids) == 128, "frozen");
_Static_assert(offsetof(struct tokenizer_image, byte_symbol) == 192, "frozen");
_Static_assert(offsetof(struct tokenizer_image, part) == 1280, "frozen");
_Static_assert(TOKENIZER_STEPS == 14 && TOKENIZER_N_PARTS == 18, "parts are appended, never moved");

/* Slots of the hash table of so many items. */
static inline uint32_t tokenizer_image_slots(uint32_t n_items)
{
    uint32_t n = 16;
    while (n < UINT32_MAX / 4 && n / 2 < n_items)
        n *= 2;
    return n;
}

/* The steps of a checked image, as views; returns how many. */
uint32_t tokenizer_image_steps(const struct tokenizer_image *image,
                               struct vocabulary_step out[VOCABULARY_MAX_STEPS]);

/* The bytes of a part of a checked image. */
static inline const void *tokenizer_image_part(const struct tokenizer_image *image,
                                               enum tokenizer_image_part part)
{
    return (const char *)image + image->part[part].offset;
}

/* Check image[0..n-1], aligned to 8, and make *out a view of it: whatever the bytes are, reading
 * them through a view that was given out ends, and stays inside. O(n), no memory. The image
 * outlives the view. Errors, as "PART[index]: reason": SERVERD_VERSION, SERVERD_UNSUPPORTED for
 * what this version does not know, else SERVERD_CORRUPT. It is no proof that the tables belong
 * together, which is the file's checksum's matter. */
serverd_status tokenizer_image_open(const void *image, size_t n, struct vocabulary *out,
                                    serverd_error *err);

#endif
