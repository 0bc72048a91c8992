/* How far one text has come in a grammar. A sequence of a request has a matcher of its own; one
 * thread at a time, no locks. Memory grows with the nesting of what is open, not with the length of
 * the text, apart from the text itself.
 *
 * A *step* is what one call of matcher_accept or matcher_read took; the last
 * LIMIT_GRAMMAR_ROLLBACK steps can be taken back: a step per token, and drafts that the model
 * refuses are undone. */
#ifndef GRAMMAR_MATCHER_H
#define GRAMMAR_MATCHER_H

#include "base/buffer.h"
#include "grammar/grammar.h"

struct matcher;

/* Holds a reference to the grammar. NULL: no memory. */
struct matcher *matcher_create(struct grammar *grammar);
/* The same state, apart: for n > 1 after a shared beginning. Steps before are not taken along. */
struct matcher *matcher_clone(const struct matcher *matcher);
void matcher_destroy(struct matcher *matcher);
void matcher_reset(struct matcher *matcher); /* before the first byte */

/* Goes on over text[0..n-1] if that is legal as a whole, else stays. */
bool matcher_accept(struct matcher *matcher, const char *text, size_t n);

/* Goes on as far as it is legal; returns how many bytes that are. */
size_t matcher_read(struct matcher *matcher, const char *text, size_t n);

/* Whether text[0..n-1] would be accepted. Much cheaper than a mask. */
bool matcher_allows(struct matcher *matcher, const char *text, size_t n);

/* The text may be over here: an end token is legal. */
bool matcher_may_end(struct matcher *matcher);
/* And nothing else is. */
bool matcher_is_complete(struct matcher *matcher);

/* Appends the bytes that must come next, up to where there is a choice or an end, at most
 * `max_bytes`; the matcher stays. True: nothing may come behind them. Not sampling them changes no
 * text, but may change its tokens: the caller tokenises them and keeps off the last token, which
 * could grow if something may follow. */
bool matcher_forced(struct matcher *matcher, size_t max_bytes, struct buffer *out);

/* Takes the last n steps back; false, and nothing happens, if there are fewer. */
bool matcher_rollback(struct matcher *matcher, uint32_t n);

/* Over a bound of limits.h (stacks at once, bytes), or no memory: nothing is legal any more, and
 * the sequence ends with an error instead of a wrong text. */
bool matcher_has_failed(const struct matcher *matcher);

#endif
