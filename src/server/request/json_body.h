/* Request bodies: bounded, strict JSON objects. */
#ifndef SERVER_REQUEST_JSON_BODY_H
#define SERVER_REQUEST_JSON_BODY_H

#include "base/buffer.h"
#include "server/api_error.h"

#include <jansson.h>
#include <stdbool.h>

/* The body as an object, json_decref it. Depth, number of values and length of numbers are
 * checked before the parser sees them. False: *e says why. */
bool json_body_parse(const char *bytes, size_t n, json_t **out, struct api_error *e);

/* A member; NULL if it is absent or null, which are the same everywhere. */
json_t *json_body_get(const json_t *object, const char *name);

/* An integer, 5.0 included. */
bool json_body_integer(const json_t *value, int64_t *out);

/* A space behind commas and colons, as models and templates write JSON, or none. */
enum json_spelling { JSON_SPELLING_SPACED, JSON_SPELLING_COMPACT };

/* A value as text. Numbers are the shortest decimals that read back to the same double, which is as
 * they were written; jansson writes 0.1 as 0.10000000000000001. Depth is that of a parsed body. */
void json_body_write(const json_t *value, enum json_spelling spelling, struct buffer *out);

#endif
