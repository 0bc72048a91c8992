/* What a request of llama-server's dialect is generated with, as its replies and /props say it. */
#ifndef SERVER_DIALECTS_LLAMA_SETTINGS_H
#define SERVER_DIALECTS_LLAMA_SETTINGS_H

#include "server/request/api_request.h"

/* A JSON object, of a request that was made from the fields. The seed is the one that is used;
 * -1 if is_default: a new one for each request. */
void llama_settings_write(const struct exchange *x, const struct api_fields *fields,
                          const struct request *request, bool is_default, struct buffer *out);

#endif
