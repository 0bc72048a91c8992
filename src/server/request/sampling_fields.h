/* Fields of sampling that are lists, words or only go together: DRY, banned words, XTC, the order
 * of the steps. api_request.c reads the others. */
#ifndef SERVER_REQUEST_SAMPLING_FIELDS_H
#define SERVER_REQUEST_SAMPLING_FIELDS_H

#include "server/request/api_request.h"

/* Into request->sampling, which holds its defaults, and the request's arena. False: *e. */
bool sampling_fields_read(struct exchange *x, const struct api_fields *fields,
                          struct request *request, struct api_error *e);

const char *sampling_step_name(enum sampling_step step);

#endif
