/* Compiled grammars by what they say, bounded: the longest unused goes; and the model's token trie,
 * which is made with the first one. Any thread. */
#ifndef SERVER_REQUEST_GRAMMAR_CACHE_H
#define SERVER_REQUEST_GRAMMAR_CACHE_H

#include "grammar/grammar.h"
#include "text/tokenizer.h"

#include <pthread.h>

struct token_trie;
struct kept_grammar;

struct grammar_cache {
    pthread_mutex_t lock;
    struct kept_grammar *kept; /* [LIMIT_KEPT_GRAMMARS] */
    uint64_t n_uses;
    struct token_trie *trie;
};
void grammar_cache_init(struct grammar_cache *cache);
void grammar_cache_deinit(struct grammar_cache *cache); /* after the engine */

/* A reference to the grammar of this key; NULL: it is not there. */
struct grammar *grammar_cache_find(struct grammar_cache *cache,
                                   const uint8_t key[GRAMMAR_KEY_BYTES]);

/* Takes a reference of its own; without memory nothing is kept. */
void grammar_cache_keep(struct grammar_cache *cache, const uint8_t key[GRAMMAR_KEY_BYTES],
                        struct grammar *grammar);

/* The model's trie, as long as the cache; NULL: *err. */
const struct token_trie *grammar_cache_trie(struct grammar_cache *cache,
                                            const struct tokenizer *tokenizer, serverd_error *err);

#endif
