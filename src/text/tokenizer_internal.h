/* The tokenizer's tables, which lie in its image, and the algorithms behind tokenizer_encode. */
#ifndef TEXT_TOKENIZER_INTERNAL_H
#define TEXT_TOKENIZER_INTERNAL_H

#include "base/hash.h"
#include "program/tokenizer_image.h"
#include "text/pipeline_internal.h"
#include "text/pretokenizer.h"
#include "text/slot_table_internal.h"
#include "text/tokenizer.h"

#define NO_TOKEN TOKENIZER_NO_ID

/* ---- text_table.c: texts to symbols ---------------------------------------------------------- */

struct text_table {
    struct slot_table slots;
    const uint32_t *offsets;
    const char *bytes;
    uint32_t longest; /* bytes of a text */
};

/* NO_TOKEN: it is not there. */
int32_t text_table_find(const struct text_table *table, const char *bytes, size_t len);

/* ---- specials.c: tokens that are cut out of the text before anything else -------------------- */

struct specials {
    const uint32_t *ids; /* [n] longest first */
    const struct tokenizer_trie_node *nodes;
    uint32_t n;
    uint32_t root_child[256]; /* nodes; 0: none */
};

/* Fills in root_child. */
void specials_init(struct specials *specials);

/* A stretch of the text: plain, or one special token. */
struct stretch {
    size_t begin, end;
    int32_t token; /* NO_TOKEN: plain text */
};

struct stretch_list {
    struct stretch *items;
    size_t n, cap;
};

/* False: no memory. Nothing is added for begin = end. */
bool stretch_list_add(struct stretch_list *list, size_t begin, size_t end, int32_t token);

/* Longest tokens first, each at every place that is still free, from left to right. Without
 * `parses_control` only user-defined tokens are cut. items: free(). */
serverd_status specials_split(const struct tokenizer *tokenizer, const char *text, size_t n,
                              bool parses_control, struct stretch_list *out, serverd_error *err);
/* The longest control token that begins at text[0], its length; 0: none. */
uint32_t specials_control_at(const struct tokenizer *tokenizer, const char *text, size_t n);

/* ---- added.c: the same tokens where tokenizer.json says more of them --------------------------
 */

struct added_token {
    const char *bytes;
    uint32_t len;
    int32_t id;
    uint8_t flags; /* STEP_STRIPS_LEFT .. STEP_IS_APART */
    bool is_control;
};

struct added_list {
    struct added_token *items; /* [n] by text */
    uint32_t n;
    uint32_t first[257]; /* items whose text begins with byte b: first[b] .. first[b + 1] - 1 */
};

/* All of them as they are, and those that are looked for in normalised text, as they are then. */
struct added {
    struct added_list plain, normalised;
    struct buffer texts; /* of the second list */
    uint8_t *types;      /* [n_tokens] as the image's, but tokens apart are control tokens */
};

serverd_status added_create(const struct tokenizer *tokenizer, struct added *out,
                            serverd_error *err);
void added_destroy(struct added *added); /* a zeroed one is fine */

/* The longest token at every place from left to right, with the white space that it takes. In a
 * text with guards control tokens are never looked for in normalised text, where the guards are
 * gone: they count where they stand as they are. */
struct added_search {
    bool parses_control, has_guards;
};
bool added_cut(const struct added *added, bool is_normalised, const struct added_search *search,
               const char *text, size_t n, struct stretch_list *out);

/* ---- merges -------------------------------------------------------------------------------------
 */

/* What two neighbours become. Lower priority merges first; ties go to the left. */
struct merge {
    float priority;
    int32_t symbol;
};

/* Pairs of symbols to ranks. */
struct merge_table {
    struct slot_table slots;
    const struct tokenizer_merge *merges; /* by rank */
};

static inline uint64_t merge_hash(uint32_t left, uint32_t right)
{
    return hash_mix((uint64_t)left << 32 | right);
}

/* The pair's rank; NO_ITEM: it does not merge. */
static inline uint32_t merge_table_find(const struct merge_table *table, uint32_t left,
                                        uint32_t right)
{
    const uint64_t hash = merge_hash(left, right);
    uint32_t probe = 0, rank;
    while ((rank = slot_table_next(&table->slots, hash, &probe)) != NO_ITEM)
        if (table->merges[rank].left == left && table->merges[rank].right == right)
            break;
    return rank;
}

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
    struct piece_text pieces, spare_pieces; /* of a pipeline */
    struct added_search search;             /* likewise */
};

/* Pointers go into the image. */
struct tokenizer {
    struct vocabulary vocabulary; /* a view of the image */
    struct buffer memory;         /* has the image, if nobody else does */
    struct text_table texts;
    struct merge_table merges;
    struct specials specials;
    struct pretokenizer *pre;   /* of byte-pair encodings; NULL if there is a pipeline */
    struct pipeline *pipeline;  /* of a stepwise vocabulary */
    struct added added;         /* likewise */
    const int32_t *byte_symbol; /* [256] the token or symbol of a byte, NO_TOKEN if there is none */
    const uint8_t *types;       /* [n_tokens] enum token_type; end tokens are control tokens */
    const uint8_t *model_types; /* [n_tokens] the same for what the model may give */
    const float *scores;        /* [n_tokens] of SPM and UNIGRAM */
    double unknown_score;       /* of UNIGRAM: of a character without a token */
    const uint32_t *piece_offsets;
    const char *piece_bytes;
    const uint32_t *end_tokens;
    uint32_t n_end_tokens;
};

/* Plain text never becomes a control token: the token, or NO_TOKEN if it is one. */
static inline int32_t plain_token(const struct tokenizer *tokenizer, int32_t id)
{
    bool is_control = id >= 0 && id < (int32_t)tokenizer->vocabulary.n_tokens &&
                      (tokenizer->model_types[id] == TOKEN_CONTROL ||
                       tokenizer->model_types[id] == TOKEN_UNKNOWN);
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
serverd_status bpe_encode(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                          const char *text, size_t n, struct token_list *out, serverd_error *err);
serverd_status spm_encode(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                          const char *text, size_t n, struct token_list *out, serverd_error *err);
serverd_status wordpiece_encode(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                                const char *text, size_t n, struct token_list *out,
                                serverd_error *err);

/* The fragments of a pipeline. False: the list is full, or no memory. */
bool bpe_encode_fragment(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                         const char *text, size_t n, struct token_list *out);
bool unigram_encode_fragment(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                             const char *text, size_t n, struct token_list *out);
bool wordpiece_encode_fragment(const struct tokenizer *tokenizer, struct encode_scratch *scratch,
                               const char *text, size_t n, struct token_list *out);
double unigram_unknown_score(const float *scores, uint32_t n);

/* What stands for text without a token, in a stepwise vocabulary: its bytes, if all have tokens and
 * the vocabulary falls back to them; else the unknown token, if there is one, and only one if the
 * last token is that of unknown text beside it already (`is_alone`: it is not). */
bool tokenizer_emit_unknown(const struct tokenizer *tokenizer, const char *text, size_t n,
                            bool is_alone, struct token_list *out);

/* Appends the ids of the text alone; flags: PARSE_SPECIAL, CONTINUES. */
serverd_status tokenizer_encode_text(const struct tokenizer *tokenizer, const char *text, size_t n,
                                     unsigned flags, struct token_list *out, serverd_error *err);

/* Fails with SERVERD_INVALID if the list is at its limit, else SERVERD_NOMEM. */
serverd_status tokenizer_list_error(const struct token_list *out, serverd_error *err);

/* The code point that byte-level BPE writes for a byte, and back (-1: none). */
uint32_t bpe_code_of_byte(uint8_t byte);
int bpe_byte_of_code(uint32_t code);
/* As UTF-8, its length. */
size_t bpe_write_code(uint32_t code, char out[4]);

#endif
