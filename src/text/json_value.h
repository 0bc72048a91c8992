/* JSON texts inside model output: where a value ends, what a string says. Strict RFC 8259; depth is
 * bounded by LIMIT_JSON_DEPTH. */
#ifndef TEXT_JSON_VALUE_H
#define TEXT_JSON_VALUE_H

#include "base/buffer.h"

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the one value that text[0..n-1] begins with, white space in front included; 0: none. */
size_t json_value_length(const char *text, size_t n);

/* Whether the text is one value, white space around it allowed. */
bool json_value_is_valid(const char *text, size_t n);

/* Appends what the string literal text[0..n-1], quotes included, stands for. False: it is none, or
 * has half of a surrogate pair, or more than fits. */
bool json_string_decode(const char *text, size_t n, struct buffer *out);

#endif
