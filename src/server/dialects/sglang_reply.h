/* Events to SGLang's replies: an object for each choice, alone or in a list, or a stream of events
 * with the whole text so far. */
#ifndef SERVER_DIALECTS_SGLANG_REPLY_H
#define SERVER_DIALECTS_SGLANG_REPLY_H

#include "server/request/api_request.h"

struct sglang_reply;

struct sglang_setup {
    struct exchange *exchange;
    bool is_list, is_stream;
    bool names_tokens; /* log probabilities have the tokens' text */
    const char *id;    /* the request's own; NULL: one is made */
    struct request *const *requests;
    uint32_t n_requests;
    struct api_fields *fields; /* [n_requests], taken over: stops are needed until the end */
};

/* NULL: no memory, nothing taken. */
struct sglang_reply *sglang_reply_create(const struct sglang_setup *setup);

extern const struct reply_encoder sglang_reply_encoder;

#endif
