/* How a tokenizer image comes to be: the tables of one vocabulary, step by step, each in memory of
 * its own; tokenizer_image_build puts them behind each other. One thread. */
#ifndef TEXT_IMAGE_BUILDER_INTERNAL_H
#define TEXT_IMAGE_BUILDER_INTERNAL_H

#include "text/tokenizer_internal.h"

/* Texts and the table that finds them, while it is made. */
struct text_builder {
    struct text_table table; /* of what is there */
    struct slot_builder slots;
    uint32_t *offsets; /* [n + 1] */
    char *bytes;
    uint32_t n; /* symbols: the tokens, then what is interned */
    uint32_t offset_cap;
    size_t byte_cap;
};

serverd_status text_builder_init(struct text_builder *builder, const struct vocabulary *vocabulary,
                                 serverd_error *err);
void text_builder_deinit(struct text_builder *builder);
/* The text's hash; asks for the memory that a look for it begins with, which in a large table is
 * most of its time. */
uint64_t text_builder_prefetch(const struct text_builder *builder, const char *bytes, size_t len);
/* The symbol of a text of that hash, len > 0: a new one behind all others if none has it. */
serverd_status text_builder_intern(struct text_builder *builder, uint64_t hash, const char *bytes,
                                   uint32_t len, uint32_t *symbol, serverd_error *err);

enum { MAX_END_TOKENS = 32 };

struct image_builder {
    const struct vocabulary *vocabulary; /* an importer's */
    struct text_builder texts;
    struct slot_builder merge_slots;
    struct tokenizer_merge *merges; /* [n_merges], those that can apply */
    uint8_t *types;                 /* [n_tokens] */
    float *scores;                  /* [n_tokens], or NULL */
    uint32_t *specials;
    struct tokenizer_trie_node *trie;
    uint32_t *piece_offsets; /* [n_tokens + 1] */
    char *piece_bytes;
    uint32_t *order;    /* [n_tokens] */
    uint16_t *prefixes; /* [n_tokens] */
    uint32_t n_merges, n_specials, n_nodes, n_end_tokens;
    uint32_t end_tokens[MAX_END_TOKENS];
    struct buffer steps;
    int32_t byte_symbol[256];
    bool ignores_merges;
};

/* The token of a text, NO_TOKEN if there is none. */
int32_t image_builder_find(const struct image_builder *builder, const char *text);

/* Each makes its part from those before it. */
serverd_status image_make_types(struct image_builder *builder, serverd_error *err); /* pieces.c */
serverd_status image_make_end_tokens(struct image_builder *builder, serverd_error *err);
serverd_status image_make_merges(struct image_builder *builder, serverd_error *err); /* merges.c */
serverd_status image_make_bytes(struct image_builder *builder, serverd_error *err);
serverd_status image_make_specials(struct image_builder *builder,
                                   serverd_error *err); /* specials_trie.c */
serverd_status image_make_pieces(struct image_builder *builder, serverd_error *err); /* pieces.c */
serverd_status image_make_steps(struct image_builder *builder, serverd_error *err);
serverd_status image_make_order(struct image_builder *builder,
                                serverd_error *err); /* piece_order.c */

#endif
