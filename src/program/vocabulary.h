/* The tokenizer's tables as a model file states them: what text/tokenizer is made from. Plain
 * data, owned by the program, immutable once built. It has one of two forms: an importer fills
 * `token` and `merge`; a tokenizer image that was opened (tokenizer_image.h) stands behind
 * `image`, and has no structs per token. Who reads tokens of either uses the functions below. */
#ifndef PROGRAM_VOCABULARY_H
#define PROGRAM_VOCABULARY_H

#include <stdbool.h>
#include <stdint.h>

/* The numbers stand in files. */
enum vocabulary_kind {
    VOCABULARY_NONE = 0,
    VOCABULARY_BPE = 1,       /* byte-level byte-pair encoding, merges by rank ("gpt2") */
    VOCABULARY_BPE_UTF8 = 2,  /* the same on raw UTF-8, no byte mapping ("gemma4") */
    VOCABULARY_SPM = 3,       /* SentencePiece pairs by score ("llama") */
    VOCABULARY_WORDPIECE = 4, /* greedy longest match ("bert") */
    VOCABULARY_UNIGRAM = 5    /* the best sum of scores */
};

enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6
};

struct token_text {
    const char *bytes; /* as in the file: byte-mapped for BPE, U+2581 for SPM and WordPiece */
    uint32_t len;      /* may be 0; may hold any byte */
    float score;
    uint8_t type; /* enum token_type */
};

struct piece {
    const char *bytes;
    uint32_t len;
};

struct merge_text {
    const char *bytes; /* "left right", rank = index */
    uint32_t len;
};

/* The special ids, in the order of their places in files. */
#define VOCABULARY_IDS(ID)                                                                         \
    ID(bos)                                                                                        \
    ID(eos)                                                                                        \
    ID(eot)                                                                                        \
    ID(eom)                                                                                        \
    ID(unknown)                                                                                    \
    ID(separator)                                                                                  \
    ID(padding)                                                                                    \
    ID(cls)                                                                                        \
    ID(mask)                                                                                       \
    ID(fim_prefix)                                                                                 \
    ID(fim_suffix)                                                                                 \
    ID(fim_middle) ID(fim_pad) ID(fim_repo) ID(fim_separator)

/* What happens to a text before a model looks pieces of it up, as tokenizer.json states it: each
 * step takes the fragments of the one before. The numbers stand in files. */
enum vocabulary_step_kind {
    STEP_NFC = 1,
    STEP_NFD = 2,
    STEP_NFKC = 3,
    STEP_NFKD = 4,
    STEP_LOWERCASE = 5,
    STEP_STRIP_ACCENTS = 6,
    STEP_STRIP = 7,          /* white space at the ends; flags: STRIPS */
    STEP_REPLACE = 8,        /* text by other; flags: IS_EXPRESSION */
    STEP_PREPEND = 9,        /* text */
    STEP_CHARSMAP = 10,      /* text: SentencePiece's map */
    STEP_BERT = 11,          /* flags: CLEANS .. LOWERCASES */
    STEP_SPLIT = 12,         /* at the matches of the expression; flags: a behaviour, INVERTS */
    STEP_METASPACE = 13,     /* blanks become text, one is put in front; flags: a scheme */
    STEP_PREFIX_SPACE = 14,  /* a blank in front unless there is white space */
    STEP_AROUND_SPECIAL = 15 /* text: i32 ids of special tokens; flags: what is particular to them,
                              * STRIPS (they take the white space beside them), STEP_IS_WORD ..
                              * STEP_IS_APART */
};

enum vocabulary_step_flags {
    STEP_STRIPS_LEFT = 1,
    STEP_STRIPS_RIGHT = 2,
    STEP_IS_WORD = 4,       /* only where no letter or digit stands beside it */
    STEP_IS_NORMALISED = 8, /* looked for in normalised text, normalised itself */
    STEP_IS_APART = 16,     /* the model itself does not know it */
    STEP_IS_EXPRESSION = 1,
    STEP_CLEANS = 1,
    STEP_SPLITS_IDEOGRAPHS = 2,
    STEP_STRIPS_ACCENTS = 4,
    STEP_LOWERCASES = 8,
    STEP_REMOVED = 0, /* behaviours: what becomes of matches */
    STEP_ISOLATED = 1,
    STEP_MERGED_WITH_PREVIOUS = 2,
    STEP_MERGED_WITH_NEXT = 3,
    STEP_CONTIGUOUS = 4,
    STEP_BEHAVIOUR = 7,
    STEP_INVERTS = 8, /* what lies between matches is the match */
    STEP_NEVER = 0,   /* schemes: when a mark is put in front */
    STEP_FIRST = 1,   /* at the begin of the text */
    STEP_ALWAYS = 2,
    STEP_ALL_FLAGS = 31
};

struct vocabulary_step {
    uint32_t kind, flags;
    const char *text, *other; /* may hold any byte */
    uint32_t len, other_len;
};

/* What a model reads of one text, or of a pair: tokens and texts, in order. In a frame of one text
 * FRAME_FIRST stands once, in one of a pair FRAME_SECOND once behind it. Segments are 0 or 1 and
 * never descend; in a frame of one text they are 0. Files have it as it stands here. */
enum { FRAME_FIRST = -1, FRAME_SECOND = -2 };
struct frame_item {
    int32_t token; /* its id, or FRAME_ */
    uint32_t segment;
};

enum { VOCABULARY_MAX_END_TOKENS = 8, VOCABULARY_MAX_STEPS = 64, VOCABULARY_MAX_FRAME = 32 };

struct vocabulary {
    enum vocabulary_kind kind;
    char pre[64]; /* tokenizer.ggml.pre, "" if absent */
    uint32_t n_tokens, n_merges;
    const struct token_text *token; /* [n_tokens]; NULL if there is an image */
    const struct merge_text *merge; /* [n_merges]; NULL if there is an image */
    const struct tokenizer_image *image;
    /* Special ids, -1 if the model has none. */
    int32_t bos, eos, eot, eom, unknown, separator, padding, cls, mask;
    int32_t fim_prefix, fim_suffix, fim_middle, fim_pad, fim_repo, fim_separator;
    /* End-of-generation tokens beside eos, eot and eom; an image has all of them in a part. */
    const int32_t *end_token; /* [n_end_tokens], at most VOCABULARY_MAX_END_TOKENS */
    uint32_t n_end_tokens;
    /* Instead of `pre` and of the kind's own way to write blanks. */
    bool is_stepwise;
    const struct vocabulary_step *step; /* [n_steps]; an image has them in a part */
    uint32_t n_steps;
    /* Instead of what adds_bos, adds_eos and the kind say; none: by those. */
    const struct frame_item *single, *pair; /* [n_single], [n_pair]; in an image parts of it */
    uint32_t n_single, n_pair;
    /* What tokens stand for in running text; NULL: by kind and type. */
    const struct piece *piece; /* [n_tokens]; NULL if there is an image, which has them in a part */
    bool falls_back_to_bytes;  /* stepwise: text without a token becomes byte tokens, "<0xNN>" */
    bool fuses_unknown;        /* stepwise: unknown characters beside each other are one token */
    bool adds_bos, adds_eos, adds_separator, adds_space_prefix;
    bool removes_extra_whitespace, lowercases, strips_accents;
    bool ignores_merges_set, ignores_merges; /* not in the file: by the pre-tokenizer's table */
};

/* A token's text as in the file, not NUL-terminated, and its type; id < n_tokens. In an image, end
 * tokens are control tokens whatever the model file says. */
const char *vocabulary_text(const struct vocabulary *vocabulary, uint32_t id, uint32_t *len);
enum token_type vocabulary_type(const struct vocabulary *vocabulary, uint32_t id);

#endif
