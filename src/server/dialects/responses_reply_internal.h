/* Between the files of Responses: what a reply has come to, and its objects as JSON. */
#ifndef SERVER_DIALECTS_RESPONSES_REPLY_INTERNAL_H
#define SERVER_DIALECTS_RESPONSES_REPLY_INTERNAL_H

#include "server/dialects/responses_reply.h"
#include "server/dialects/token_logprobs.h"

#define LIMIT_RESPONSE_TEXT (256 * MIB)

enum item { ITEM_NONE, ITEM_MESSAGE, ITEM_REASONING, ITEM_CALL, ITEM_CUSTOM };

struct responses_reply {
    struct server *server; /* of the store */
    uint64_t tenant;
    struct api_fields fields;
    struct tool_use tools;
    struct output_parts parts;
    json_t *request; /* as the client wrote it: its members are shown again */
    struct responses_body body;
    char id[64], item_id[64];
    int64_t created;
    const char *model_name;
    uint32_t n_prompt, n_cached, n_output;
    uint32_t sequence; /* of the next event */
    bool has_begun;
    struct event finish;

    enum item item;     /* that is open */
    bool is_cut;        /* it ends before its end */
    struct buffer text; /* of the open item: text or arguments */
    struct token_style style;
    struct logprob_text logprobs; /* of content that no event has shown */
    struct buffer item_logprobs;  /* of the open item, those shown */
    char *name, *call_id;         /* of an open call */
    struct buffer output;         /* items that are done, comma separated */
    uint32_t n_items;             /* done */
    struct buffer content;        /* of all messages */
    json_t *answer;               /* the items as one chat message */
};

/* The response with the items that are done. failure: the text of its error; NULL: it has none. */
void responses_write_object(const struct responses_reply *r, const char *status,
                            const char *failure, struct buffer *out);

/* The open item; is_done: with its text. */
void responses_write_item(const struct responses_reply *r, bool is_done, struct buffer *out);

/* The one part of an open message, of reasoning, or of its summary. */
void responses_write_part(const struct responses_reply *r, bool is_done, struct buffer *out);

#endif
