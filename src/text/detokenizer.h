/* Streaming text of one choice. Bytes go in as tokens come; text comes out in whole UTF-8
 * characters, and never beyond the point up to which the scheduler has released it (what might
 * still become a stop string is held back there). Single-threaded, a few hundred bytes. */
#ifndef TEXT_DETOKENIZER_H
#define TEXT_DETOKENIZER_H

#include "base/buffer.h"
#include "text/tokenizer.h"

struct detokenizer {
    const struct tokenizer *tokenizer;
    bool skips_special;
    struct buffer pending; /* bytes not yet given out */
    uint64_t n_given;      /* bytes given out since the start */
};

void detokenizer_init(struct detokenizer *d, const struct tokenizer *tokenizer, bool skips_special);
void detokenizer_deinit(struct detokenizer *d);

/* The token's bytes are appended to what is pending. */
void detokenizer_push(struct detokenizer *d, int32_t token);

/* Give out the pending whole characters that lie before byte `release` (counted from the start
 * of the choice's text, invalid bytes included). An incomplete character at the end waits. */
void detokenizer_take(struct detokenizer *d, uint64_t release, struct buffer *out);

/* The end: everything before `release`; what is no UTF-8 comes out as U+FFFD. */
void detokenizer_finish(struct detokenizer *d, uint64_t release, struct buffer *out);

#endif
