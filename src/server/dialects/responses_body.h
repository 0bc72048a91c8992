/* The body of OpenAI's Responses as one of a chat completion. */
#ifndef SERVER_DIALECTS_RESPONSES_BODY_H
#define SERVER_DIALECTS_RESPONSES_BODY_H

#include "server/exchange.h"
#include "server/request/json_body.h"

struct responses_body {
    json_t *chat;         /* the body of a chat */
    json_t *items;        /* what went in with this request, as a list of items */
    json_t *messages;     /* the conversation without instructions */
    json_t *customs;      /* names of custom tools: {"name": true} */
    int32_t n_logprobs;   /* of the texts, -1: none */
    bool is_background;   /* it is made while nobody waits */
    bool wants_summary;   /* reasoning is shown as its summary */
    bool wants_encrypted; /* and comes along in a form to be sent back */
};

/* before: messages of the response that this one continues, or NULL. False: *e, nothing to release.
 */
bool responses_body_convert(struct exchange *x, const json_t *body, const json_t *before,
                            struct responses_body *out, struct api_error *e);
/* Appends what an item of reasoning has as its encrypted_content. */
void responses_seal(const char *thought, size_t n, struct buffer *out);

void responses_body_release(struct responses_body *body);

#endif
