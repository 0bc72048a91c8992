/* What rules the output of one sequence: which token may come next, and which must. A grammar rules
 * what is no reasoning, a budget how long that may be. Engine thread. */
#ifndef SCHEDULER_CONSTRAINT_INTERNAL_H
#define SCHEDULER_CONSTRAINT_INTERNAL_H

#include "sampling/sample.h"
#include "scheduler/request.h"
#include "text/tokenizer.h"

/* What the sequences of an engine share: made with the first one that needs it. */
struct constraint_memory {
    uint32_t n_vocab; /* of the rows of logits, which may be longer than the trie knows tokens */
    const struct token_trie *trie;
    struct mask_cache *masks;
    uint64_t *mask; /* of the present draw */
};
void constraint_memory_deinit(struct constraint_memory *memory);

struct constraint;

/* Of a new sequence of the request, which has a grammar or a model that reasons. NULL: no memory.
 */
struct constraint *constraint_create(struct constraint_memory *memory,
                                     const struct request *request);
void constraint_destroy(struct constraint *constraint); /* NULL is fine */

/* The filter of the next draw; false: anything may come (c NULL, no grammar, or a block of
 * reasoning is open). It points to the constraint and the memory. */
bool constraint_filter(struct constraint *c, struct token_filter *out);

/* The token was appended. False: the grammar went over a bound. */
bool constraint_accept(struct constraint *c, const struct tokenizer *tokenizer, int32_t token);

/* The grammar lets the output end here. */
bool constraint_may_end(struct constraint *c);

/* Nothing can follow any more. */
bool constraint_is_complete(struct constraint *c);

/* The last token was reasoning, or one of its marks. */
bool constraint_is_reasoning(const struct constraint *c);

/* The token that has to come next, because the grammar leaves no choice about the text: the first
 * one of that text as the tokenizer cuts it, whatever the load of the engine; or because the budget
 * of reasoning is used up. -1: there is a choice. */
int32_t constraint_forced(struct constraint *c, const struct tokenizer *tokenizer);

/* That one and those behind it, up to n_most; returns how many. */
uint32_t constraint_look_ahead(struct constraint *c, const struct tokenizer *tokenizer,
                               int32_t *out, uint32_t n_most);

#endif
