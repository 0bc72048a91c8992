/* Base64 (RFC 4648, section 4): the standard alphabet, with padding. */
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include "base/buffer.h"

void base64_append(struct buffer *out, const void *bytes, size_t n);

/* Appends what text[0..n-1] stands for. False: it is no base64, and `out` is as it was; padding and
 * unused bits have to be right, so that each text of bytes has one spelling. */
bool base64_decode(const char *text, size_t n, struct buffer *out);

#endif
