/* Events to the replies of the two OpenAI completion endpoints: whole bodies and SSE frames,
 * with usage and log probabilities. One reply_encoder for both; they differ in the shape of a
 * choice. */
#ifndef SERVER_DIALECTS_OPENAI_REPLY_H
#define SERVER_DIALECTS_OPENAI_REPLY_H

#include "server/request/api_request.h"
#include "server/request/chat_call.h"

struct openai_reply;

struct openai_reply_setup {
    struct exchange *exchange;
    struct chat_call *call; /* a chat's: its fields and tools are taken over; NULL: completions */
    struct api_fields *fields; /* of completions: taken over; strings are needed until the end */
    bool is_echo;              /* completions: the prompt stands before the text */
    int32_t n_logprobs;        /* -1: none */
    uint32_t n_shown;          /* the best so many of each prompt's choices; all of a stream */
    uint32_t n_prompts;
    uint64_t n_prompt_tokens; /* of all prompts, for usage */
};

/* NULL: no memory; then the fields and tools are released, too. */
struct openai_reply *openai_reply_create(const struct openai_reply_setup *setup);
void openai_reply_destroy(struct openai_reply *reply);

/* The ids of prompt i, for echo and return_token_ids. Copied. False: no memory. */
bool openai_reply_set_prompt(struct openai_reply *reply, uint32_t i, const int32_t *ids,
                             uint32_t n);

extern const struct reply_encoder openai_reply_encoder;

/* stream_options; false: *e. */
bool openai_read_stream_options(const struct api_fields *fields, bool *include_usage,
                                bool *continuous_usage, struct api_error *e);

#endif
