/* Messages of a chat request to prompt text: checked, guarded, rendered by the model's template. */
#ifndef SERVER_REQUEST_CHAT_PROMPT_H
#define SERVER_REQUEST_CHAT_PROMPT_H

#include "server/request/api_request.h"

/* The rendered prompt, guards included (tokenizer_encode drops them); tools: a tool_use's list,
 * NULL for none. False: *e. */
bool chat_prompt_render(struct exchange *x, const struct api_fields *fields, const json_t *tools,
                        struct buffer *out, struct api_error *e);

#endif
