#include "server/request/grammar_cache.h"

#include "base/limits.h"
#include "grammar/token_trie.h"

#include <stdlib.h>
#include <string.h>

struct kept_grammar {
    uint8_t key[GRAMMAR_KEY_BYTES];
    struct grammar *grammar; /* NULL: free */
    uint64_t last_use;
};

void grammar_cache_init(struct grammar_cache *cache)
{
    *cache = (struct grammar_cache){0};
    (void)pthread_mutex_init(&cache->lock, NULL);
}

void grammar_cache_deinit(struct grammar_cache *cache)
{
    for (uint32_t i = 0; cache->kept && i < LIMIT_KEPT_GRAMMARS; i++)
        grammar_unref(cache->kept[i].grammar);
    free(cache->kept);
    if (cache->trie)
        token_trie_destroy(cache->trie);
    (void)pthread_mutex_destroy(&cache->lock);
}

struct grammar *grammar_cache_find(struct grammar_cache *cache,
                                   const uint8_t key[GRAMMAR_KEY_BYTES])
{
    struct grammar *grammar = NULL;
    (void)pthread_mutex_lock(&cache->lock);
    for (uint32_t i = 0; cache->kept && i < LIMIT_KEPT_GRAMMARS && !grammar; i++) {
        struct kept_grammar *kept = &cache->kept[i];
        if (!kept->grammar || memcmp(kept->key, key, GRAMMAR_KEY_BYTES) != 0)
            continue;
        kept->last_use = ++cache->n_uses;
        grammar = grammar_ref(kept->grammar);
    }
    (void)pthread_mutex_unlock(&cache->lock);
    return grammar;
}

void grammar_cache_keep(struct grammar_cache *cache, const uint8_t key[GRAMMAR_KEY_BYTES],
                        struct grammar *grammar)
{
    struct grammar *old = NULL;
    (void)pthread_mutex_lock(&cache->lock);
    if (!cache->kept)
        cache->kept = calloc(LIMIT_KEPT_GRAMMARS, sizeof *cache->kept);
    struct kept_grammar *oldest = cache->kept;
    for (uint32_t i = 0; oldest && i < LIMIT_KEPT_GRAMMARS; i++)
        if (cache->kept[i].last_use < oldest->last_use)
            oldest = &cache->kept[i];
    if (oldest) {
        old = oldest->grammar;
        memcpy(oldest->key, key, GRAMMAR_KEY_BYTES);
        oldest->grammar = grammar_ref(grammar);
        oldest->last_use = ++cache->n_uses;
    }
    (void)pthread_mutex_unlock(&cache->lock);
    grammar_unref(old);
}

const struct token_trie *grammar_cache_trie(struct grammar_cache *cache,
                                            const struct tokenizer *tokenizer, serverd_error *err)
{
    (void)pthread_mutex_lock(&cache->lock);
    if (!cache->trie && token_trie_of_tokenizer(tokenizer, &cache->trie, err) != SERVERD_OK)
        cache->trie = NULL;
    const struct token_trie *trie = cache->trie;
    (void)pthread_mutex_unlock(&cache->lock);
    return trie;
}
