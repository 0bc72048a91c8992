/* The tokens that a comparison runs over. */
#ifndef TOOLS_COMPILE_DIFF_IDS_H
#define TOOLS_COMPILE_DIFF_IDS_H

#include "tools/inspect/subject.h"

struct token_sequence {
    int32_t *id;
    uint32_t n;
};

struct token_sequences {
    struct token_sequence *items;
    uint32_t n;
};

/* From a JSON file: a list of ids, or a list of such lists. Every id is below n_vocab, no list is
 * empty or above LIMIT_DIFF_TOKENS. On failure, too, *out is to be freed. */
serverd_status token_sequences_read(const char *path, uint32_t n_vocab, struct token_sequences *out,
                                    serverd_error *err);

/* A paragraph of English in the program's own tokens; numbers that mean nothing if it has no
 * tokenizer. At most max_tokens. */
serverd_status token_sequences_make(const struct subject *subject, uint32_t max_tokens,
                                    struct token_sequences *out, serverd_error *err);
void token_sequences_free(struct token_sequences *sequences); /* a zeroed one is fine */

#endif
