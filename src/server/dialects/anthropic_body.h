/* The body of Anthropic's Messages as one of a chat completion: what both mean in the same words.
 */
#ifndef SERVER_DIALECTS_ANTHROPIC_BODY_H
#define SERVER_DIALECTS_ANTHROPIC_BODY_H

#include "server/exchange.h"
#include "server/request/json_body.h"

/* A new body; what has no meaning here is reported (exchange_ignored_field). NULL:
 * *e. */
json_t *anthropic_body_convert(struct exchange *x, const json_t *body, struct api_error *e);

#endif
