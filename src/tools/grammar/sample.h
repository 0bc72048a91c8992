/* Random texts that a grammar produces. */
#ifndef TOOLS_GRAMMAR_SAMPLE_H
#define TOOLS_GRAMMAR_SAMPLE_H

#include "base/buffer.h"
#include "grammar/matcher.h"

#define SAMPLE_BYTES 16384u /* longer ones are given up */

/* Resets the matcher and appends a text, byte by byte at random among those that are legal, ends
 * preferred the more the longer it gets. The same seed gives the same text. SERVERD_INTERNAL: a
 * dead end, which production must not have; SERVERD_BUSY: no end within SAMPLE_BYTES. */
serverd_status sample_text(struct matcher *matcher, uint64_t seed, struct buffer *out,
                           serverd_error *err);

#endif
