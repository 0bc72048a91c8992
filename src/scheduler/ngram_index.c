#include "scheduler/ngram_index_internal.h"

#include "base/hash.h"
#include "base/numeric.h"
#include "scheduler/sequence_internal.h"

#include <stdlib.h>

#define MAX_LOOKS                                                                                  \
    8 /* occurrences that are compared: strangers' texts may repeat three tokens often */

struct ngram_index {
    uint32_t mask;    /* window - 1 */
    uint32_t n_known; /* ends of three tokens before this position are in the table */
    /* Positions of the last of three tokens; 0: none, as the first is at 2. */
    uint32_t *newest; /* [window] by hash */
    uint32_t *before; /* [window] by position: the one before with the same hash */
};

struct ngram_index *ngram_index_create(uint32_t n_tokens)
{
    uint32_t window = 64;
    while (window < n_tokens && window < NGRAM_WINDOW)
        window *= 2;
    struct ngram_index *index = calloc(1, sizeof *index);
    if (!index)
        return NULL;
    index->mask = window - 1;
    index->newest = calloc(window, sizeof *index->newest);
    index->before = calloc(window, sizeof *index->before);
    if (index->newest && index->before)
        return index;
    ngram_index_destroy(index);
    return NULL;
}

void ngram_index_destroy(struct ngram_index *index)
{
    if (!index)
        return;
    free(index->newest);
    free(index->before);
    free(index);
}

/* The hash's slot of the three tokens that end at position `end`. */
static uint32_t *slot_of(const struct ngram_index *index, const struct sequence *s, uint32_t end)
{
    uint64_t a = (uint32_t)sequence_token(s, end - 2), b = (uint32_t)sequence_token(s, end - 1);
    uint64_t c = (uint32_t)sequence_token(s, end);
    return &index->newest[hash_mix(a << 42 ^ b << 21 ^ c) & index->mask];
}

static bool is_known(const struct ngram_index *index, uint32_t end)
{
    return end > 0 && index->n_known - end <= index->mask;
}

/* All that end before `end`. */
static void learn(struct ngram_index *index, const struct sequence *s, uint32_t end)
{
    uint32_t first = end > index->mask + 2 ? end - index->mask : 2;
    if (index->n_known < first)
        index->n_known = first;
    for (; index->n_known < end; index->n_known++) {
        uint32_t *slot = slot_of(index, s, index->n_known);
        index->before[index->n_known & index->mask] = *slot;
        *slot = index->n_known;
    }
}

/* Tokens that agree, backwards from positions `then` < `now`. */
static uint32_t agreement(const struct sequence *s, uint32_t then, uint32_t now)
{
    uint32_t n = 0;
    while (n < NGRAM_MOST && n <= then && sequence_token(s, then - n) == sequence_token(s, now - n))
        n++;
    return n;
}

struct ngram_match ngram_index_find(struct ngram_index *index, const struct sequence *s)
{
    struct ngram_match match = {0};
    uint32_t n_tokens = sequence_n_tokens(s), last = n_tokens - 1;
    if (n_tokens <= NGRAM_LEAST)
        return match;
    learn(index, s, last);
    uint32_t at = *slot_of(index, s, last);
    for (uint32_t i = 0; i < MAX_LOOKS && is_known(index, at); i++) {
        uint32_t length = agreement(s, at, last);
        if (length >= NGRAM_LEAST && length > match.length)
            match = (struct ngram_match){length, at + 1};
        at = index->before[at & index->mask];
    }
    return match;
}
