/* What goes into an engine and what comes out of it. Both hold ids, numbers and their own
 * memory, never a pointer into the other side's state. */
#ifndef SCHEDULER_REQUEST_H
#define SCHEDULER_REQUEST_H

#include "sampling/logprobs.h"
#include "sampling/sampling_params.h"
#include "serverd/status.h"
#include "text/stop_matcher.h"

#include <stdbool.h>
#include <stdint.h>

struct dfa;
struct grammar;
struct inspection;
struct reasoning_marks;
struct token_trie;

/* Whose a request is, for those who deliver its events; the engine never looks at it. */
enum request_owner { OWNER_EXCHANGE, OWNER_PROGRAM };

/* One prompt and how to continue it. Made on an HTTP thread; owned by the engine from a
 * successful engine_submit on, by the caller until then. */
struct request {
    uint64_t id; /* set by engine_submit */
    void *user;  /* comes back in every event; the engine never looks at it */
    uint32_t user_index;
    enum request_owner owner; /* comes back in every event, too */

    const int32_t *prompt;
    uint32_t n_prompt; /* >= 1 */
    uint32_t n_choices;
    uint32_t max_new_tokens; /* 0: only compute the prompt */
    struct sampling_params sampling;
    const struct stop_string *stops;
    uint32_t n_stops;
    const struct dfa *const *stop_patterns; /* grammar/stop_pattern.h */
    uint32_t n_stop_patterns;
    const int32_t *stop_tokens;
    uint32_t n_stop_tokens;
    bool includes_stop;  /* what the stop string or pattern matched stays in the text */
    bool skips_special;  /* control tokens give no text */
    bool wants_logprobs; /* of the output, with the n_top_logprobs best */
    uint32_t n_top_logprobs;
    bool logprobs_are_processed; /* of what is left to draw from, not of the raw logits */
    bool wants_prompt_logprobs;  /* of prompt tokens score_from..n_prompt-1, n_top_logprobs best */
    uint32_t score_from;         /* at least 1; what lies before may come from the prefix cache */
    /* One EVENT_NEXT_LOGPROBS: of these tokens behind the last one of the prompt. */
    const int32_t *next_tokens;
    uint32_t n_next_tokens; /* <= LIMIT_NEXT_TOKENS; 0: no such event */
    bool wants_embedding;   /* encoder models: their embedding, or their scores */
    /* Encoders: prompt tokens of the first text of a pair; those behind are of the second. 0: there
     * is one text. */
    uint32_t n_first_segment;
    /* How the model marks reasoning: it is no part of what stops and grammar are about. NULL: it
     * writes none. The model's, which outlives the request. */
    const struct reasoning_marks *reasoning;
    bool is_reasoning_open;    /* the prompt ends inside of a block */
    bool may_reason;           /* else, with a grammar: the output may begin with a block */
    uint32_t reasoning_budget; /* tokens; then the block is closed. UINT32_MAX: any number */
    /* What the output has to be, reasoning apart; NULL: anything. A reference that is the
     * request's; the trie is the model's and outlives it. */
    struct grammar *grammar;
    const struct token_trie *trie;
    /* Where the grammar lets the output end, whatever cannot go on counts as an end token: it is
     * drawn from all tokens, and one that is not legal ends the choice without being part of it. */
    bool ends_on_illegal;
    const char *adapter; /* the name of one (adapters.h); NULL: the base alone */
    int32_t priority;    /* higher: sooner */
    uint64_t tenant;     /* who asks: tenants share the engine by their weights */
    uint32_t weight;     /* of the tenant; 0 is 1 */
    /* Only requests of the same one share prefixes; engine_submit adds the adapter to it. */
    uint64_t cache_space;
    uint64_t arrival_ns;  /* the clock at arrival */
    uint64_t deadline_ns; /* 0: none */
    /* For how long it may go on behind its first token: a choice that has written the end of a line
     * is full then. 0: any time. */
    uint64_t decode_ns;
    bool wants_progress; /* EVENT_PROGRESS */
    /* For how long prompt and output of its first choice stay in the prefix cache afterwards, held
     * by a handle that EVENT_END names; 0: not at all, UINT64_MAX: until it is released. */
    uint64_t hold_ns;
    uint32_t hold_rank; /* of that handle: those of the highest rank give way first */
    /* A handle whose tokens the prompt begins with, some of them or all: what is equal is not
     * computed again, to the token, but for the prompt's last one. 0: none. A hint: an unknown one,
     * or one that has given way, is ignored. */
    uint64_t behind;

    struct arena *arena; /* holds the request and all it points to */
};

/* A zeroed request in its own arena, sampling at its defaults, n_choices 1, skips_special.
 * NULL: no memory. */
struct request *request_create(void);
void request_destroy(struct request *request);

enum finish_reason {
    FINISH_STOP,   /* an end token, a stop token or a stop string */
    FINISH_LENGTH, /* max_new_tokens or the context is full */
};

enum event_kind {
    EVENT_PROGRESS,        /* the first `index` prompt tokens are computed, or were cached */
    EVENT_PROMPT_LOGPROBS, /* of prompt token `index` */
    EVENT_NEXT_LOGPROBS,   /* of request.next_tokens, before the first token */
    EVENT_TOKEN,           /* token number `index` of a choice */
    EVENT_FINISH,          /* a choice is complete */
    EVENT_EMBEDDING,       /* embedding, or scores, before EVENT_END */
    EVENT_END              /* exactly one per submitted request or inspection, and the last */
};

struct request_times {
    uint64_t arrival_ns, admitted_ns, first_token_ns, end_ns; /* 0: never */
};

struct event {
    enum event_kind kind;
    uint32_t choice;
    uint64_t request_id;
    void *user;
    uint32_t user_index;
    enum request_owner owner;
    uint32_t index;
    int32_t token;
    /* TOKEN: hidden, its text is not part of the output (an end or stop token). */
    bool is_hidden;
    bool is_forced; /* TOKEN: no other text could come, so it was not drawn */
    /* TOKEN, FINISH: bytes of the choice's text, from its start, that may be shown. */
    uint64_t release;
    struct logprobs *logprobs; /* if asked for; the receiver's, free() */
    float *embedding;          /* EMBEDDING: the receiver's, free() */
    /* NEXT_LOGPROBS: ln softmax of the raw logits, [n_next_tokens] in the order of the request; the
     * receiver's, free() */
    float *next_logprobs;
    /* FINISH */
    enum finish_reason finish;
    int32_t stop_token; /* the end or stop token, -1 if none */
    int32_t stop_index; /* the stop string's number, behind them a pattern's; -1: none */
    bool is_end_token;  /* stop_token is the model's own end of generation */
    /* Of every kind: prompt tokens so far that were not computed; exact, not in whole pages. */
    uint32_t n_cached;
    /* END */
    /* SERVERD_OK (cancelled ones too), or why the request failed: BUSY (waited too long, or the
     * server shuts down), TIMEOUT (deadline), NUMERIC, NOMEM, DEVICE_LOST, the delegate's code. */
    serverd_status status;
    char *message; /* the error's text or NULL; the receiver's, free() */
    bool is_cancelled;
    uint32_t n_prompt, n_output;       /* n_output: all choices, hidden tokens too */
    uint32_t n_drafts, n_drafts_right; /* guessed tokens that were checked; those that were right */
    /* Of the step in which its first row ran, 1 is the engine's first; 0: none ran. Requests with
     * the same number began in the same batch. */
    uint64_t first_step;
    /* The receiver releases it, of cancelled and failed ones, too. 0: none was wanted, or there was
     * no room. */
    uint64_t prefix_handle;
    uint32_t n_held; /* tokens under it: all of prompt and output that have run */
    struct request_times times;
    struct inspection *inspection; /* the receiver's, inspection_destroy; see inspect.h */
};

#endif
