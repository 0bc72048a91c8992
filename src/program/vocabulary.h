/* The tokenizer's tables as a model file states them: what text/tokenizer is made from. Plain
 * data, owned by the program, immutable once built. Ids index `token`. */
#ifndef PROGRAM_VOCABULARY_H
#define PROGRAM_VOCABULARY_H

#include <stdbool.h>
#include <stdint.h>

enum vocabulary_kind {
    VOCABULARY_NONE,
    VOCABULARY_BPE,      /* byte-level byte-pair encoding, merges by rank ("gpt2") */
    VOCABULARY_BPE_UTF8, /* the same on raw UTF-8, no byte mapping ("gemma4") */
    VOCABULARY_SPM,      /* SentencePiece pairs by score ("llama") */
    VOCABULARY_WORDPIECE /* greedy longest match ("bert") */
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

struct merge_text {
    const char *bytes; /* "left right", rank = index */
    uint32_t len;
};

struct vocabulary {
    enum vocabulary_kind kind;
    char pre[64]; /* tokenizer.ggml.pre, "" if absent */
    uint32_t n_tokens, n_merges;
    const struct token_text *token;
    const struct merge_text *merge;
    /* Special ids, -1 if the model has none. */
    int32_t bos, eos, eot, eom, unknown, separator, padding, cls, mask;
    int32_t fim_prefix, fim_suffix, fim_middle, fim_pad, fim_repo, fim_separator;
    bool adds_bos, adds_eos, adds_separator, adds_space_prefix;
    bool removes_extra_whitespace, lowercases, strips_accents;
    bool ignores_merges_set, ignores_merges; /* not in the file: by the pre-tokenizer's table */
};

#endif
