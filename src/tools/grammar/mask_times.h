/* How long masks take along texts that a grammar produces. */
#ifndef TOOLS_GRAMMAR_MASK_TIMES_H
#define TOOLS_GRAMMAR_MASK_TIMES_H

#include "base/buffer.h"
#include "grammar/token_mask.h"

struct mask_times;

/* `model`: a program file, GGUF file or folder; only its vocabulary is read. */
serverd_status mask_times_create(const char *model, struct mask_times **out, serverd_error *err);
void mask_times_destroy(struct mask_times *times);

/* Tokenises text[0..n-1] and goes over it, a mask at every token; *n_tokens how many of them were
 * legal. SERVERD_INTERNAL: a mask and the matcher disagree about a token. `checks_all`: about every
 * token of the vocabulary, which takes long. */
serverd_status mask_times_add(struct mask_times *times, struct grammar *grammar, const char *text,
                              size_t n, bool checks_all, uint32_t *n_tokens, serverd_error *err);

/* "12345 masks: p50 1.2 us, p99 ..." */
void mask_times_report(struct mask_times *times, struct buffer *out);

#endif
