/* The tokenizer's tables and the algorithms behind tokenizer_encode. */
#ifndef TEXT_TOKENIZER_INTERNAL_H
#define TEXT_TOKENIZER_INTERNAL_H

#include "base/arena.h"
#include "text/pretokenizer.h"
#include "text/tokenizer.h"

#define NO_TOKEN (-1)

/* ---- text_table.c: texts to ids, open addressing ------------------------------------------------
 */

struct text_table {
    struct text_slot *slots;
    struct text_entry *entries;
    size_t n_slots;     /* power of two, twice the entries that there is room for */
    uint32_t n_entries; /* texts are not removed */
};

/* Grows beyond the expected number. False: no memory, here and in put. */
bool text_table_init(struct text_table *table, size_t n_expected);
void text_table_deinit(struct text_table *table);
/* The bytes stay the caller's. A later entry of the same text replaces the earlier one. */
bool text_table_put(struct text_table *table, const char *bytes, uint32_t len, int32_t id);
/* Asks for the memory that a look for the text begins with; in a large table that is most of its
 * time. */
void text_table_prefetch(const struct text_table *table, const char *bytes, size_t len);
/* NO_TOKEN: it is not there. */
int32_t text_table_find(const struct text_table *table, const char *bytes, size_t len);

/* ---- specials.c: tokens that are cut out of the text before anything else
 * ------------------------ */

struct specials;

/* A stretch of the text: plain, or one special token. */
struct stretch {
    size_t begin, end;
    int32_t token; /* NO_TOKEN: plain text */
};

struct stretch_list {
    struct stretch *items;
    size_t n, cap;
};

/* NULL: no memory. The vocabulary outlives it; type[id] is the tokenizer's, see token_type. */
struct specials *specials_create(const struct vocabulary *vocabulary, const uint8_t *type);
void specials_destroy(struct specials *specials);
/* Longest tokens first, each at every place that is still free, from left to right. Without
 * `parses_control` only user-defined tokens are cut. items: free(). */
serverd_status specials_split(const struct specials *specials, const char *text, size_t n,
                              bool parses_control, struct stretch_list *out, serverd_error *err);
/* The longest control token that begins at text[0], its length; 0: none. */
uint32_t specials_control_at(const struct specials *specials, const char *text, size_t n);

/* ---- merges -------------------------------------------------------------------------------------
 */

/* What two neighbours become. Lower priority merges first; ties go to the left. */
struct merge {
    float priority;
    int32_t symbol;
};

struct merge_slot {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: empty */
    uint32_t rank;
    int32_t symbol;
};

/* A node of the list of symbols that are being merged. */
struct symbol {
    int32_t previous, next; /* -1: none */
    uint32_t begin, len;    /* bytes of the text; len 0: merged into its left neighbour */
    int32_t id; /* token, or a symbol that only merges know (>= n_tokens), or NO_TOKEN */
};

/* Memory of one tokenizer_encode. */
struct encode_scratch {
    struct symbol *symbols;
    size_t symbol_cap;
    struct heap_item {
        float priority;
        int32_t left;
        uint32_t len;   /* of both together, to notice stale items */
        int32_t symbol; /* what they become */
    } * heap;
    size_t heap_len, heap_cap;
    struct fragment_list fragments, spare;
    struct buffer text;
};

struct tokenizer {
    const struct vocabulary *vocabulary;
    struct arena *arena;
    struct text_table texts; /* vocabulary texts, and behind n_tokens the symbols of merges */
    struct specials *specials;
    struct pretokenizer *pre; /* of byte-pair encodings */
    bool ignores_merges;
    struct merge_slot *merges;
    size_t n_merge_slots;
    int32_t byte_symbol[256]; /* the token or symbol of a byte, NO_TOKEN if there is none */
    uint8_t *token_type;      /* [n_tokens] enum token_type; end tokens are control tokens */
    struct piece {
        const char *bytes;
        uint32_t len;
    } * pieces; /* [n_tokens] */
    int32_t *end_tokens;
    uint32_t n_end_tokens;
};

/* Plain text never becomes a control token: the token, or NO_TOKEN if it is one. */
static inline int32_t plain_token(const struct tokenizer *tokenizer, int32_t id)
{
    bool is_control =
        id >= 0 && id < (int32_t)tokenizer->vocabulary->n_tokens &&
        (tokenizer->token_type[id] == TOKEN_CONTROL || tokenizer->token_type[id] == TOKEN_UNKNOWN);
    return is_control ? NO_TOKEN : id;
}

bool tokenizer_reserve_symbols(struct encode_scratch *scratch, size_t n);
/* Merges the first n symbols until no pair is left. `find` says what a pair becomes. */
bool tokenizer_merge_symbols(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                             const char *text, size_t n,
                             bool (*find)(const struct tokenizer *tokenizer, const char *text,
                                          const struct symbol *left, const struct symbol *right,
                                          struct merge *out));

/* Each appends the ids of plain text. SERVERD_NOMEM, or SERVERD_INVALID at the list's limit. */
serverd_status bpe_prepare(struct tokenizer *tokenizer, serverd_error *err);
serverd_status bpe_encode(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                          const char *text, size_t n, struct token_list *out, serverd_error *err);
serverd_status spm_prepare(struct tokenizer *tokenizer, serverd_error *err);
serverd_status spm_encode(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                          const char *text, size_t n, struct token_list *out, serverd_error *err);
serverd_status wordpiece_encode(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                                const char *text, size_t n, struct token_list *out,
                                serverd_error *err);

/* Fails with SERVERD_INVALID if the list is at its limit, else SERVERD_NOMEM. */
serverd_status tokenizer_list_error(const struct token_list *out, serverd_error *err);

/* pieces.c; in this order */
serverd_status tokenizer_make_types(struct tokenizer *tokenizer, serverd_error *err);
serverd_status tokenizer_make_pieces(struct tokenizer *tokenizer, serverd_error *err);
serverd_status tokenizer_make_end_tokens(struct tokenizer *tokenizer, serverd_error *err);
/* The code point that byte-level BPE writes for a byte, and back (-1: none). */
uint32_t bpe_code_of_byte(uint8_t byte);
int bpe_byte_of_code(uint32_t code);

#endif
