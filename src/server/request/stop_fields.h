/* Where a request wants its output to end: strings and regular expressions. Token ids are read with
 * the other lists of ids. */
#ifndef SERVER_REQUEST_STOP_FIELDS_H
#define SERVER_REQUEST_STOP_FIELDS_H

#include "server/request/api_request.h"

/* stop, stop_regex: one or a list; null and empty ones are dropped. Into the request and its arena.
 * False: *e. */
bool stop_fields_read(const struct api_fields *fields, struct request *request,
                      struct api_error *e);

/* The string or expression of that number, as engines number them. NULL: none. */
const json_t *stop_fields_find(const struct api_fields *fields, int32_t index);

#endif
