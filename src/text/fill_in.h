/* Fill-in-the-middle: the tokens that models for it put around the text before a gap and the text
 * behind it, so that what they write next is what belongs into the gap:
 *
 *     PREFIX before SUFFIX behind MIDDLE the gap
 *
 * Model files name them by keys, or only by their texts, which each family of models has its own
 * of. */
#ifndef TEXT_FILL_IN_H
#define TEXT_FILL_IN_H

#include "text/tokenizer.h"

struct fill_in_tokens {
    int32_t prefix, suffix, middle; /* a model has all three of them, or all are -1 */
    int32_t pad, repository, file;  /* -1: it has none; file stands before each file's name */
};

/* Those of the first family of which all three tokens are there. find: the id of the token of
 * exactly that text, -1 if there is none. */
struct fill_in_tokens fill_in_find(int32_t (*find)(const void *context, const char *text),
                                   const void *context);

/* Those of the model file's keys, else of its family. */
struct fill_in_tokens fill_in_tokens_of(const struct tokenizer *tokenizer);

#endif
