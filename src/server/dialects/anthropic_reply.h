/* Events to Anthropic's Messages: a whole message, or its stream of blocks. */
#ifndef SERVER_DIALECTS_ANTHROPIC_REPLY_H
#define SERVER_DIALECTS_ANTHROPIC_REPLY_H

#include "server/request/chat_call.h"

struct anthropic_reply;

/* Takes the call's fields and tools over. NULL: no memory, nothing taken. */
struct anthropic_reply *anthropic_reply_create(struct exchange *x, struct chat_call *call);

extern const struct reply_encoder anthropic_reply_encoder;

#endif
