/* Events to OpenAI's Responses: the object, or its stream of events. */
#ifndef SERVER_DIALECTS_RESPONSES_REPLY_H
#define SERVER_DIALECTS_RESPONSES_REPLY_H

#include "server/dialects/responses_body.h"
#include "server/request/chat_call.h"

struct responses_reply;

/* Takes over the call's fields and tools, the request's own body and what was made of it. NULL: no
 * memory, nothing taken. */
struct responses_reply *responses_reply_create(struct exchange *x, struct chat_call *call,
                                               json_t *request, struct responses_body *body);

/* What it is called; the response as it is before anything was done, as JSON. */
const char *responses_reply_id(const struct responses_reply *reply);
void responses_write_queued(const struct responses_reply *reply, struct buffer *out);

extern const struct reply_encoder responses_reply_encoder;

#endif
