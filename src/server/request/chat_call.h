/* A chat request in any dialect, on its way to the engine: the fields, the tools, the rendered
 * prompt as a request, and how to read the answer. */
#ifndef SERVER_REQUEST_CHAT_CALL_H
#define SERVER_REQUEST_CHAT_CALL_H

#include "server/dialects/output_parts.h"
#include "server/request/api_request.h"
#include "server/request/output_form.h"
#include "server/request/tool_use.h"

struct chat_call {
    struct api_fields fields;
    struct tool_use tools;
    struct output_form form;
    struct request *request;
    const struct stream_format *format; /* NULL: all of the output is content */
    bool trusts_calls;                  /* a grammar makes sure that calls are whole */
    bool are_exact;                     /* and that their values are, as in tool_types */
    bool is_reasoning_open;             /* the prompt ends inside a block of reasoning */
};

/* Reads the fields' tools, renders and tokenises. Takes the fields over in every case. n_logprobs:
 * -1 for none. False: *e, and nothing to release. */
bool chat_call_make(struct exchange *x, struct api_fields *fields, int32_t n_logprobs,
                    struct chat_call *out, struct api_error *e);

/* The same for a dialect whose replies hold one answer: n above 1 is refused. */
bool chat_call_make_single(struct exchange *x, struct api_fields *fields, int32_t n_logprobs,
                           struct chat_call *out, struct api_error *e);
void chat_call_release(struct chat_call *call); /* what has not been taken from it */

/* The request of the call goes to the engine, one choice or more; the encoder's state and the
 * request are taken over. */
void chat_call_generate(struct exchange *x, struct chat_call *call,
                        const struct reply_encoder *encoder, void *state);

/* How the output of a choice is read. decided, user: as in output_setup. */
struct output_setup chat_call_output(const struct exchange *x, const struct chat_call *call);

#endif
