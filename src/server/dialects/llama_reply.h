/* Events to llama-server's replies: an object for each choice, alone or in a list, or a stream of
 * events with new text, the last one of a choice with everything else. A choice's last event waits
 * for the end of its request, which knows the times. */
#ifndef SERVER_DIALECTS_LLAMA_REPLY_H
#define SERVER_DIALECTS_LLAMA_REPLY_H

#include "server/request/api_request.h"

struct llama_reply;

struct llama_reply_setup {
    struct exchange *exchange;
    struct request *const *requests;
    uint32_t n_requests;
    struct api_fields *fields; /* taken over */
};

/* NULL: no memory, nothing taken. */
struct llama_reply *llama_reply_create(const struct llama_reply_setup *setup);

extern const struct reply_encoder llama_reply_encoder;

#endif
