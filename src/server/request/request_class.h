/* What a request says about its place among others: service tier, priority, whom it is for. */
#ifndef SERVER_REQUEST_REQUEST_CLASS_H
#define SERVER_REQUEST_REQUEST_CLASS_H

#include "server/request/api_request.h"

/* Into the request, which has its key's tenant. Without API keys, users share the engine as keys
 * do; with them the key alone counts, which could otherwise take more by naming many users. False:
 * *e. */
bool request_class_read(const struct api_fields *fields, struct request *request,
                        struct api_error *e);

/* The tier that is used, of fields that name one; NULL: they do not. */
const char *request_class_tier(const struct api_fields *fields);

#endif
