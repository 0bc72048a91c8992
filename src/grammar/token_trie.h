/* The pieces of a vocabulary in one tree, for masks: what can be said about tokens without a
 * grammar. Made once per model, a few milliseconds; immutable, shared by any number of threads.
 *
 * The tree lies flat, parents before their children, children in ascending order of bytes, so that
 * a walk is a loop: on, or behind what hangs below.
 *
 *     node:   ""  a  ab  abc  b      end[a] = index of b
 *
 * A second tree has what may follow a quote inside a token, each such rest with the tokens that end
 * so: a string's end is looked at once per rest, not once per token. */
#ifndef GRAMMAR_TOKEN_TRIE_H
#define GRAMMAR_TOKEN_TRIE_H

#include "grammar/text_reach.h"
#include "serverd/status.h"
#include "text/tokenizer.h"

#include <stddef.h>
#include <stdint.h>

#define TOKEN_PIECE_MAX 255u /* bytes; longer tokens are in no mask */

/* A control token is spelled as its name between two bytes that no UTF-8 text has: so a grammar can
 * ask for that token and nothing else can pass for it, and no text of a grammar has it. */
#define TOKEN_MARK_BEGIN '\xfe'
#define TOKEN_MARK_END   '\xfd'

struct trie_node {
    uint32_t end;        /* the first node behind this one and all below it */
    uint32_t first_item; /* items of this node: first_item .. the next node's first_item - 1 */
    uint8_t byte, depth; /* the root: 0, 0 */
    uint8_t ordinary;    /* all tokens here and below consist of at most so many ordinary
                          * characters (text_reach.h); UINT8_MAX: they do not */
};

struct trie {
    const struct trie_node *nodes; /* [n_nodes + 1]; the last one ends the items */
    uint32_t n_nodes;
};

/* A token with a quote in it: `before` bytes in front of the quote. */
struct quoted_token {
    uint32_t id;
    uint32_t before;
};

struct token_trie {
    uint32_t n_tokens, longest; /* bytes of the longest piece in the tree */
    struct trie pieces;
    const uint32_t *ids; /* items of pieces: tokens */
    uint64_t *
        short_tokens; /* [REACH_MAX + 1][words of a mask]: of at most so many ordinary characters */
    struct trie rests;
    const struct quoted_token *quoted; /* items of rests */
    const char *bytes;                 /* of all pieces */
    const uint32_t *offsets;           /* [n_tokens + 1] */
    const uint32_t *end_tokens;
    uint32_t n_end_tokens;
};

struct text_of_token {
    const char *bytes;
    uint32_t n; /* 0: a token that stands for no text: never legal unless it ends */
};

/* From pieces: texts[i] is what token i stands for. Copies everything. SERVERD_NOMEM, or
 * SERVERD_INVALID if there are more than LIMIT_VOCAB. */
serverd_status token_trie_create(const struct text_of_token *texts, uint32_t n_tokens,
                                 const int32_t *end_tokens, uint32_t n_end_tokens,
                                 struct token_trie **out, serverd_error *err);

/* The same for a model's tokenizer: control tokens as marks, but for end tokens. */
serverd_status token_trie_of_tokenizer(const struct tokenizer *tokenizer, struct token_trie **out,
                                       serverd_error *err);
void token_trie_destroy(struct token_trie *trie);

static inline struct text_of_token token_trie_text(const struct token_trie *trie, uint32_t id)
{
    return (struct text_of_token){trie->bytes + trie->offsets[id],
                                  trie->offsets[id + 1] - trie->offsets[id]};
}

#endif
