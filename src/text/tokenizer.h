/* Text to token ids and back. A tokenizer reads its tables in place from a tokenizer image
 * (program/tokenizer_image.h), which is built from a vocabulary or lies in a mapped file. It is
 * immutable: any number of threads may use it. Time is O(n log n) in the text, stack use constant.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "base/buffer.h"
#include "program/vocabulary.h"
#include "serverd/status.h"

#include <stdbool.h>
#include <stdint.h>

struct tokenizer;

/* From an importer's vocabulary (program_check has passed it), which is needed no longer then: its
 * image is built in memory. Or from the view of an opened image, which is used in place and
 * outlives the tokenizer. An unknown pre-tokenizer or kind is SERVERD_UNSUPPORTED and named. */
serverd_status tokenizer_create(const struct vocabulary *vocabulary, struct tokenizer **out,
                                serverd_error *err);

/* The same from image[0..n-1]: tokenizer_image_open and tokenizer_create. */
serverd_status tokenizer_open(const void *image, size_t n, struct tokenizer **out,
                              serverd_error *err);

/* Appends the vocabulary's image. Equal vocabularies give equal bytes; that of a view is a copy.
 * SERVERD_UNSUPPORTED: no vocabulary, an unknown pre-tokenizer, texts made to collide, special
 * tokens over LIMIT_SPECIAL_BYTES. */
serverd_status tokenizer_image_build(const struct vocabulary *vocabulary, struct buffer *out,
                                     serverd_error *err);
void tokenizer_destroy(struct tokenizer *tokenizer);

/* A growing, bounded list of ids. */
struct token_list {
    int32_t *id;
    uint32_t n, cap, limit;
};
void token_list_init(struct token_list *list, uint32_t limit);
void token_list_deinit(struct token_list *list);
bool token_list_add(struct token_list *list, int32_t id); /* false: at its limit, or no memory */

enum tokenizer_flags {
    TOKENIZER_ADD_SPECIAL = 1,   /* BOS, EOS, separators as the model wants them */
    TOKENIZER_PARSE_SPECIAL = 2, /* control tokens in the text become that token */
    /* The text goes on behind other tokens: no space is put in front of it. (A stepwise vocabulary
     * that has one put in front of every text, not of the first, does so still.) */
    TOKENIZER_CONTINUES = 4
};

/* Marks a place inside plain text at which no special token may match. It is no UTF-8 byte, so
 * it never occurs in valid text; tokenizer_encode drops it. See tokenizer_guard. */
#define TOKENIZER_GUARD '\xff'

/* Appends the ids of text[0..n-1]. Any bytes are legal: malformed UTF-8 is tokenised byte by
 * byte. Over the list's limit: SERVERD_INVALID; no memory: SERVERD_NOMEM. If ADD_SPECIAL is set
 * and the text already begins with the BOS token's text, no second BOS is added. */
serverd_status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t n,
                                unsigned flags, struct token_list *out, serverd_error *err);

/* Appends the ids of a pair of texts, in which control tokens are text, as the model reads a pair;
 * *n_first: so many of them are of the first segment. Errors as above. */
serverd_status tokenizer_encode_pair(const struct tokenizer *tokenizer, const char *first,
                                     size_t n_first_bytes, const char *second,
                                     size_t n_second_bytes, struct token_list *out,
                                     uint32_t *n_first, serverd_error *err);

/* Copies text with a guard inside every occurrence of a control token's text, so that message
 * content can pass through a template without becoming control tokens. */
void tokenizer_guard(const struct tokenizer *tokenizer, const char *text, size_t n,
                     struct buffer *out);
/* Removes the guards in place; returns the new length. */
size_t tokenizer_unguard(char *text, size_t n);

/* The bytes a token stands for in running text: byte mapping undone, U+2581 as space, raw bytes
 * of byte tokens; control tokens as their name. Not NUL-terminated. *len is 0 for ids without
 * text. Valid as long as the tokenizer. */
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, uint32_t *len);

bool tokenizer_is_control(const struct tokenizer *tokenizer, int32_t id); /* control or unknown */
bool tokenizer_is_end(const struct tokenizer *tokenizer, int32_t id);     /* end of generation */

/* The model's end-of-generation ids, ascending. */
const int32_t *tokenizer_end_tokens(const struct tokenizer *tokenizer, uint32_t *n);

/* The token with exactly this (vocabulary) text, -1 if there is none. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t n);

/* A view of the image, valid as long as the tokenizer. */
const struct vocabulary *tokenizer_vocabulary(const struct tokenizer *tokenizer);

/* Whole text of ids. With `skips_special`, control tokens give no text. If the model adds a
 * space in front, the one leading space is dropped. Ids must be in range. */
void tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t n,
                      bool skips_special, struct buffer *out);

#endif
