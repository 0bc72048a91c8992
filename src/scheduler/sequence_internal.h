/* What the engine thread keeps for a request: a job, and of each choice that was begun a
 * sequence, one stream of tokens. Engine thread only, but for what struct job names otherwise.
 *
 * The tokens of a sequence are the prompt and then its output. The first n_computed of them
 * have their keys and values in its pages; the next row to run is token n_computed. So decoding
 * (one token left), prefill and computing again after a preemption are the same thing.
 *
 * A page that is full goes into the prefix tree at once, while the sequence runs: others with the
 * same beginning go on behind it, and so does the sequence itself after a preemption. */
#ifndef SCHEDULER_SEQUENCE_INTERNAL_H
#define SCHEDULER_SEQUENCE_INTERNAL_H

#include "kvcache/radix_tree.h"
#include "sampling/sample.h"
#include "scheduler/draft_internal.h"
#include "scheduler/request.h"
#include "text/tokenizer.h"

#include <stdatomic.h>

struct sequence;
struct tenant;

struct job {
    struct request *request;
    struct sequence *sequences; /* begun choices, linked by `sibling` */
    uint32_t n_open;            /* choices without their FINISH */
    uint32_t n_output;          /* tokens of all choices */
    uint32_t n_cached;          /* prompt tokens that the prefix tree had and it never computed */
    uint32_t n_drafts, n_drafts_right; /* guessed tokens that were checked, and those accepted */
    struct tenant *tenant;             /* whose it is; NULL before it was taken in */
    uint32_t adapter_slot;             /* SERVERD_NO_ADAPTER: none */
    float adapter_scale;
    uint64_t prefix_handle; /* see request.hold_ns */
    uint32_t n_held;        /* tokens under it */
    uint64_t first_step;    /* see struct event */
    bool is_queued;         /* not yet admitted: counts for the queue's bounds */
    bool is_ending;         /* in the engine's list of ending jobs */
    serverd_error failure;  /* code SERVERD_OK: none */
    struct request_times times;
    struct job *live_prev, *live_next; /* all jobs that the engine thread has taken in */
    struct job *ending_next;
    /* Guarded by the engine's mutex. */
    struct job *inbox_next, *hash_next;
    /* Set by any thread, read by the engine's; the mutex and `has_cancels` order it. */
    atomic_bool is_cancelled;
};

enum sequence_state {
    SEQUENCE_WAITING, /* in the waiting queue, without pages */
    SEQUENCE_RUNNING, /* in the running list */
    SEQUENCE_DONE     /* in no list, without pages; freed with its job */
};

struct sequence_list {
    struct sequence *first, *last;
};

struct sequence {
    struct job *job;
    struct sequence *sibling;
    struct sequence *prev, *next; /* of a list of those that wait */
    uint32_t choice;
    enum sequence_state state;
    int32_t *output; /* [as many as can ever come] */
    uint32_t n_output;
    uint32_t n_computed;
    uint32_t n_known; /* the most that n_computed ever was: rows below it run once more */
    /* [as many as can ever be needed] The first n_shared are the tree's, which this sequence
     * holds; the others are its own. */
    struct page_id *page;
    uint32_t n_pages, n_shared;
    struct radix_hold hold;
    /* Pages whose window pages it has pinned: window_begin .. window_end - 1; and how many pages it
     * found in the tree when it started. */
    uint32_t window_begin, window_end, n_reused;
    uint32_t n_scored; /* prompt log probabilities given out */
    struct sampler *sampler;
    struct constraint *constraint; /* NULL: neither grammar nor reasoning */
    struct stop_matcher *matcher;  /* NULL: no stop strings */
    struct stop_scanner *scanner;  /* NULL: no stop patterns */
    uint64_t n_bytes;              /* of the text */
    uint32_t n_failures;           /* steps that failed since it last got on */
    struct drafter *drafter;       /* guesses its next tokens; NULL: it has not done so yet */
    /* What the draft model has of it; NULL: nothing. */
    struct draft_context *draft_context;
    uint64_t last_token_ns;
    bool has_line; /* its output has the end of a line; known if its request has decode_ns */
    uint32_t n_preempted;

    /* While it waits for the first time (queue.c). */
    uint64_t first_page; /* hash of its first page and its namespace */
    uint32_t n_matched;  /* tokens of its prompt that are in pages, as of its last look */
    bool has_asked_disk; /* what the disk has of it was looked up */
    uint64_t leader;     /* the request that computes its first n_led tokens now; 0: none */
    uint32_t n_led;
    double fair_place; /* how many should be admitted before it */
};

/* What the sequences of an engine have in common. */
struct sequence_limits {
    const struct tokenizer *tokenizer;
    uint32_t n_vocab, context_size;
    bool has_pages;
    struct constraint_memory *constraints;
};

/* NULL: no memory. The job does not own it yet. */
struct sequence *sequence_create(struct job *job, uint32_t choice);

/* Takes the memory it needs to run; once, before it first runs. */
serverd_status sequence_prepare(struct sequence *sequence, const struct sequence_limits *limits,
                                serverd_error *err);
void sequence_destroy(struct sequence *sequence); /* owns no pages any more */

static inline uint32_t sequence_n_tokens(const struct sequence *s)
{
    return s->job->request->n_prompt + s->n_output;
}

static inline uint32_t sequence_n_left(const struct sequence *s)
{
    return sequence_n_tokens(s) - s->n_computed;
}

static inline int32_t sequence_token(const struct sequence *s, uint32_t i)
{
    const struct request *r = s->job->request;
    return i < r->n_prompt ? r->prompt[i] : s->output[i - r->n_prompt];
}

/* The first prompt token whose log probability is still wanted; n_prompt: none. */
static inline uint32_t sequence_next_score(const struct sequence *s)
{
    const struct request *r = s->job->request;
    return r->wants_prompt_logprobs ? r->score_from + s->n_scored : r->n_prompt;
}

/* Tokens it may still add. */
uint32_t sequence_n_room(const struct sequence *s, uint32_t context_size);

/* Order of waiting, reverse order of preemption: higher priority, then older request. */
bool sequence_comes_before(const struct sequence *a, const struct sequence *b);

/* Does a token of the output end it, and how does the text grow? */
struct text_step {
    bool is_stop_token, is_end_token; /* then the token is hidden */
    bool is_stop_string;
    int32_t stop_index;
    uint64_t release;
};
struct text_step sequence_push_text(struct sequence *s, const struct tokenizer *tokenizer,
                                    int32_t token, uint32_t index);

#endif
