/* References to other texts (RFC 3986): as much of it as naming schemas needs. */
#ifndef GRAMMAR_URI_H
#define GRAMMAR_URI_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stddef.h>

/* Appends `reference` without its fragment, resolved against `base` (RFC 3986, 5.2; a base without
 * a scheme is treated as a path). */
void uri_resolve(const char *base, const char *reference, struct buffer *out);

/* Appends text[0..n-1] with its %XX undone; false if one is malformed. */
bool uri_decode(const char *text, size_t n, struct buffer *out);

#endif
