/* Which tokens may come next. A mask is [(n_tokens + 63) / 64] words, token i is bit i % 64 of word
 * i / 64.
 *
 * A mask is exact: a token is in it if and only if matcher_accept_token would take it (tokens of
 * more than TOKEN_PIECE_MAX bytes, which are in no mask, apart). So a sampler may draw first and
 * ask about one token, and make a mask only if that one is not legal.
 *
 * Cost: what the grammar leaves open decides. Few legal tokens are found by walking few nodes.
 * Where almost everything is legal, inside strings, the tokens that stay inside depend on the state
 * of the string alone and are kept (mask_cache); those that leave it are tried by what follows
 * their quote.
 */
#ifndef GRAMMAR_TOKEN_MASK_H
#define GRAMMAR_TOKEN_MASK_H

#include "grammar/matcher.h"
#include "grammar/token_trie.h"

/* Kept masks and scratch memory of one thread; bounded, the longest unused goes first. */
struct mask_cache;
struct mask_cache *mask_cache_create(const struct token_trie *trie, size_t limit_bytes);
void mask_cache_destroy(struct mask_cache *cache);

static inline size_t token_mask_words(const struct token_trie *trie)
{
    return ((size_t)trie->n_tokens + 63) / 64;
}

/* Overwrites `mask`. End tokens are in it if the text may end. All zero: the matcher has failed. */
void matcher_mask(struct matcher *matcher, struct mask_cache *cache, uint64_t *mask);

/* One step over a token; an end token is taken if the text may end, and changes nothing. */
bool matcher_accept_token(struct matcher *matcher, const struct token_trie *trie, uint32_t id);
bool matcher_allows_token(struct matcher *matcher, const struct token_trie *trie, uint32_t id);

#endif
