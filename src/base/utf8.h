/* Strict UTF-8: shortest forms only, no surrogates, at most U+10FFFF. */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT 0xfffdu

/* The character at bytes[0..n-1], n > 0; returns how many bytes it takes. Ill-formed bytes give
 * U+FFFD for each longest run that could have begun a character (Unicode, chapter 3.9, U+FFFD
 * substitution of maximal subparts), so progress is certain. */
size_t utf8_decode(const char *bytes, size_t n, uint32_t *code_point);

/* Bytes at the start of bytes[0..n-1] that are well-formed; n if all are. */
size_t utf8_valid_run(const char *bytes, size_t n);

/* Writes a Unicode scalar value; returns how many bytes it takes. */
size_t utf8_encode(uint32_t code_point, char out[4]);

#endif
