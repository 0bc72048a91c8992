/* Where a sequence has had the tokens before that it ends with now. Its prompt and output are
 * hashed by three tokens, newest first, as in dictionary compression; finding looks at a few
 * occurrences and takes the one that agrees furthest back. Both cost the same however long the text
 * is, and memory is bounded: the last NGRAM_WINDOW tokens are known. Engine thread only. */
#ifndef SCHEDULER_NGRAM_INDEX_INTERNAL_H
#define SCHEDULER_NGRAM_INDEX_INTERNAL_H

#include <stdint.h>

#define NGRAM_LEAST  3u     /* tokens that have to agree */
#define NGRAM_MOST   32u    /* that are compared */
#define NGRAM_WINDOW 32768u /* tokens */

struct ngram_index;
struct sequence;

/* For a sequence of n_tokens at most. NULL: no memory. */
struct ngram_index *ngram_index_create(uint32_t n_tokens);
void ngram_index_destroy(struct ngram_index *index); /* NULL is fine */

struct ngram_match {
    uint32_t length; /* tokens that agree, NGRAM_LEAST..NGRAM_MOST; 0: none found */
    uint32_t next;   /* position of the token that came behind them then */
};

/* The longest of the latest occurrences of the tokens that the sequence ends with. Always for the
 * same sequence, whose tokens only grow. */
struct ngram_match ngram_index_find(struct ngram_index *index, const struct sequence *sequence);

#endif
