/* What the files of the OpenAI replies share: openai_reply.c has the life of a reply, its events
 * and what chats and completions write alike; openai_chat_reply.c and openai_completions_reply.c
 * have the shapes of their choices. */
#ifndef SERVER_DIALECTS_OPENAI_REPLY_INTERNAL_H
#define SERVER_DIALECTS_OPENAI_REPLY_INTERNAL_H

#include "server/dialects/openai_reply.h"
#include "server/dialects/output_parts.h"
#include "server/dialects/token_logprobs.h"

#define LIMIT_REPLY_TEXT (256 * MIB)

struct choice {
    struct output_parts parts; /* not yet sent; of a whole reply: all */
    struct logprob_text logprobs;
    bool is_dirty; /* stands in the list of choices that have something to send */
    struct buffer token_ids;
    uint64_t n_code_points; /* of the text of all tokens so far, for text_offset */
    double logprob;         /* of all tokens together, if the best are to be found; else 0 */
    uint32_t n_tokens;
    bool has_begun, is_finished, has_ended; /* has_ended: the finish has been sent */
    struct event finish;                    /* what EVENT_FINISH said */
};

struct prompt {
    int32_t *ids;
    uint32_t n, n_cached;
    struct buffer text;
    struct logprob_text logprobs;
    struct buffer scores; /* elements of "prompt_logprobs" */
    uint64_t n_code_points;
};

struct openai_reply {
    const struct served_model *model;
    struct api_fields fields;
    struct tool_use tools;
    struct output_setup output; /* of every choice */
    struct token_style style;
    const struct choice_shape *shape;
    bool is_echo, is_stream, include_usage, continuous_usage;
    int32_t n_logprobs;
    uint32_t n_prompts, n_choices, n_shown; /* choices per prompt, of which n_shown are shown */
    char id[64];
    int64_t created;
    struct prompt *prompts;
    struct choice *choices; /* [n_prompts * n_choices] */
    uint32_t *dirty;        /* [n_prompts * n_choices] choices that have something to send */
    uint32_t n_dirty;
    struct buffer head; /* of each chunk or the whole reply, up to the choices */
    uint64_t n_prompt_tokens, n_cached, n_output, n_reasoning;
    bool has_shown_prompt; /* a chat's stream: its ids have been sent */
    /* Of all requests, for "timings": as seen from here until their ends say it. */
    const struct clock *clock;
    uint64_t n_drawn; /* tokens so far */
    uint64_t n_drafts, n_drafts_right;
    struct request_times times;
};

/* What chats and completions do differently. */
struct choice_shape {
    const char *id_prefix, *object, *chunk_object;
    bool has_one_prompt; /* its ids stand beside the choices, not in them */
    /* As in struct output_setup, with the choice as its user; NULL: nobody asks. */
    void (*decided)(void *user, enum stream_part part, uint64_t begin, uint64_t n);
    /* The log probabilities of a token of the output; the event has some. */
    void (*add_logprobs)(const struct openai_reply *reply, struct choice *choice,
                         const struct event *event);
    /* The frames with all that a choice has to send. */
    void (*write_chunks)(struct openai_reply *reply, uint32_t index, struct buffer *out);
    /* Of a whole reply: the members of a choice behind its index, and those behind the choices
     * (NULL: none). */
    void (*write_choice)(const struct openai_reply *reply, uint32_t index, struct buffer *out);
    void (*write_tail)(const struct openai_reply *reply, struct buffer *out);
};

extern const struct choice_shape openai_chat_choice, openai_completion_choice;

/* A frame up to the index of its choice, and from behind the choice on. */
void openai_begin_chunk(const struct openai_reply *reply, uint32_t index, struct buffer *out);
void openai_end_chunk(struct openai_reply *reply, struct buffer *out);

/* Members of a choice, each with the comma before it. is_last: the choice has ended. */
void openai_write_finish(const struct openai_reply *reply, const struct choice *choice,
                         bool is_last, struct buffer *out);
void openai_write_token_ids(const struct openai_reply *reply, const struct choice *choice,
                            struct buffer *out);
void openai_write_prompt_logprobs(const struct openai_reply *reply, const struct prompt *prompt,
                                  struct buffer *out);

void openai_write_prompt_ids(const struct openai_reply *reply, const struct prompt *prompt,
                             struct buffer *out);

/* The prompt that stands in front of the choice's text; NULL: it does not. */
const struct prompt *openai_echoed_prompt(const struct openai_reply *reply, uint32_t index);

#endif
