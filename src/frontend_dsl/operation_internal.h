/* Operations: what goes to the engine for a task, one or more requests at once, and what comes
 * back. A task that waits for one is resumed at its end; that of a fork has nobody waiting, only
 * the prefix that it makes.
 *
 *     op_create -> op_request (each) -> op_queue -> ... engine_submit_all with all others of the
 *     run, when every task is blocked and what it goes on behind is there ... -> events -> is_done
 */
#ifndef FRONTEND_DSL_OPERATION_INTERNAL_H
#define FRONTEND_DSL_OPERATION_INTERNAL_H

#include "scheduler/request.h"
#include "text/detokenizer.h"

#include <lua.h>

struct dsl_prefix;
struct dsl_run;
struct dsl_state;
struct dsl_task;

enum dsl_op_kind { OP_GEN, OP_SELECT, OP_SCORE, OP_FORK, N_OP_KINDS };

/* A row of the trace (section 9): an operation as the program sees it, which may take several of
 * those below. */
struct dsl_trace {
    enum dsl_op_kind kind;
    char *branch, *name; /* name NULL: none */
    int line;
    uint32_t prompt, reused, prefill, appended, carry, completion;
    uint64_t first_step;
    uint64_t begin_ns, end_ns;
};

struct op_token {
    int32_t id;
    bool is_hidden, is_forced;
    struct logprobs *logprobs; /* NULL: not asked for */
};

struct op_choice {
    struct op_token *token;
    uint32_t n, cap;
    bool is_finished, is_end_token;
    enum finish_reason finish;
    uint64_t release; /* bytes of text that may be shown */
    int32_t stop_token, stop_index;
    struct detokenizer detokenizer;
    struct buffer text;
};

struct op_request {
    struct dsl_op *op;
    struct request *request; /* until it is submitted */
    uint64_t id;
    uint32_t n_prompt;
    bool is_apart; /* its prompt does not begin as the state does */
    bool is_submitted, has_ended;
    struct event end;
    struct op_request *next_ended; /* in the mailbox */
    float *next;                   /* of next_tokens; NULL: none came */
    float *score;                  /* [n_scores] of the prompt's tokens from score_from on */
    uint32_t n_scores, scores_cap;
};

struct dsl_op {
    struct dsl_run *run;
    struct dsl_op *next, **link; /* the run's list, in order of creation */
    enum dsl_op_kind kind;
    struct dsl_task *task;     /* NULL: nobody waits, or who did has gone */
    struct dsl_state *state;   /* a reference */
    struct dsl_prefix *behind; /* a reference; NULL: nothing is computed */
    struct dsl_prefix *
        *becomes; /* [n_requests] what each one's end makes; references, NULL: nothing */
    struct op_request *requests;
    uint32_t n_requests, n_open;
    uint32_t n_base, n_ahead; /* of the state when it was made */
    bool is_queued, is_submitted, is_done;
    bool is_unwanted;          /* nobody looks at its results */
    struct op_choice *choices; /* of the first request */
    uint32_t n_choices;
    struct grammar *grammar;    /* a reference; NULL: none */
    uint64_t n_reserved;        /* tokens of the budget */
    char *name;                 /* of the variable that its text streams into; NULL: it does not */
    size_t n_streamed;          /* bytes of the first choice's text */
    uint32_t n_tokens_streamed; /* whose log probabilities were sent with them */
    serverd_status status;
    const char *code; /* that is raised; NULL: the one of the status */
    char message[SERVERD_ERROR_TEXT];
    struct dsl_trace row;
};

/* For the task that runs now. What it has created and not queued, since an error came between, or
 * has looked at, goes: before the budget is looked at, and when it creates the next one. Raises. */
void op_forget_last(lua_State *L);
struct dsl_op *op_create(lua_State *L, struct dsl_state *state, enum dsl_op_kind kind,
                         uint32_t n_requests);
/* Request i, with what all requests of the run have: prompt is the first n_state tokens of the
 * state and more[0..n_more-1]. Its tokens are held if it makes a prefix. */
struct request *op_request(lua_State *L, struct dsl_op *op, uint32_t i, uint32_t n_state,
                           const int32_t *more, uint32_t n_more, bool makes_prefix);
void op_add_choices(lua_State *L, struct dsl_op *op, uint32_t n);
void op_queue(struct dsl_op *op);
/* It fails soon, for who waits for it. */
void op_cancel(struct dsl_op *op);
/* Nobody wants it any more: it ends soon, and is destroyed then. */
void op_abandon(struct dsl_op *op);
void op_destroy(struct dsl_op *op); /* of which no event will come */

/* Worker. Submits what may be, all at once; what the engine's queue has no room for is tried again
 * later (run->retry_ns). */
void ops_submit(struct dsl_run *run);
/* There is something to submit now: what it waited for was refused meanwhile. */
bool ops_may_go(const struct dsl_run *run);
/* Events but END, whose contents they take; and END. */
void op_on_event(struct dsl_op *op, struct event *event);
void op_on_end(struct op_request *request);

/* For a continuation: what the task has waited for. Its state is free again: until then no other
 * task gets at it. Raises what made the operation fail, and `released`. */
struct dsl_op *op_end_wait(lua_State *L);

/* What request i took goes into the row and the run's usage, but for the first n_shared tokens of
 * its prompt. Of request 0: `appended` and `carry`, too. */
void op_count(struct dsl_op *op, uint32_t i, uint32_t n_shared);

/* The operation's row begins; goes on in another one; ends in the run's trace. */
void trace_begin(lua_State *L, struct dsl_op *op, const char *name);
void trace_move(struct dsl_op *from, struct dsl_op *to);
void trace_end(struct dsl_op *op);
void trace_deinit(struct dsl_trace *row);

#endif
