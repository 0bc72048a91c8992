/* Request bodies: bounded, strict JSON objects. */
#ifndef SERVER_JSON_BODY_H
#define SERVER_JSON_BODY_H

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

/* Appends the value as JSON, numbers as they were written as far as a double can say: the shortest
 * decimal. The value's depth is bounded, as a parsed body's is. */
void json_body_write(const json_t *value, struct buffer *out);

#endif
