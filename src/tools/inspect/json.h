/* JSON into a buffer, one call for each thing; commas come by themselves. */
#ifndef TOOLS_INSPECT_JSON_H
#define TOOLS_INSPECT_JSON_H

#include "base/buffer.h"

void json_begin(struct buffer *out, char bracket); /* { or [, as an element */
void json_begin_in(struct buffer *out, const char *key, char bracket);
void json_end(struct buffer *out, char bracket);                        /* } or ] */
void json_text(struct buffer *out, const char *key, const char *value); /* NULL: null */
void json_bytes(struct buffer *out, const char *key, const char *value, size_t n);
void json_count(struct buffer *out, const char *key, uint64_t value);
void json_number(struct buffer *out, const char *key, double value); /* not finite: null */
void json_flag(struct buffer *out, const char *key, bool value);
void json_raw(struct buffer *out, const char *key, const char *json); /* whole JSON */
void json_hex(struct buffer *out, const char *key, const uint8_t *bytes, size_t n);
void json_item_count(struct buffer *out, uint64_t value); /* elements of a list */
void json_item_text(struct buffer *out, const char *value);

#endif
