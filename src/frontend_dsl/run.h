/* One run of a generation program: its Lua state, its tree of states (token sequences with KV), its
 * tasks, one budget and one seed.
 *
 *     host (service.c)                      run                            engine
 *       dsl_run_create ------------------->  |
 *       dsl_run_advance (a worker) ------->  | tasks until each is blocked
 *                                            | ------ engine_submit_all ---->
 *       <---- DSL_RUN_BLOCKED                |
 *                                            |  <---- dsl_run_post (events) -
 *       <---- host.wake                      |
 *       dsl_run_advance ...                  |
 *       <---- DSL_RUN_ENDED                  |
 *       dsl_run_object, dsl_run_destroy ---> |
 *
 * Threads: dsl_run_advance, the readers and dsl_run_destroy are for one worker at a time, whichever
 * it is. dsl_run_post is the engine's thread's; dsl_run_post_tool_result and dsl_run_stop are for
 * any thread. Those three lock the run's mailbox and call host.wake inside of that lock: the host
 * calls none of them while it holds a lock that its wake takes.
 *
 * Model operations go to the engine when all tasks of the run are blocked, in one message, so that
 * those of sibling branches come into the same step and no value depends on timing. */
#ifndef FRONTEND_DSL_RUN_H
#define FRONTEND_DSL_RUN_H

#include "base/clock.h"
#include "frontend_dsl/dsl_error.h"
#include "frontend_dsl/dsl_limits.h"
#include "frontend_dsl/dsl_program.h"
#include "grammar/grammar.h"
#include "sampling/sampling_params.h"
#include "scheduler/engine.h"
#include "serverd/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chat_template;
struct dsl_run;
struct output_formats;
struct score_memo;
struct token_trie;

/* A view of a loaded model; it outlives the run. */
struct dsl_model {
    struct engine *engine;
    const struct tokenizer *tokenizer;
    const struct chat_template *chat_template; /* NULL: roles raise no_chat_template */
    const char *chat_template_source;          /* NULL likewise */
    const struct output_formats *output;       /* NULL: no reasoning, no model-driven tools */
    const char *name;
    uint32_t context_size;
    const struct sampling_params *sampling; /* the model's own defaults; NULL: the API's */
    /* What runs of this model without an adapter share; NULL: each run has its own. */
    struct score_memo *memo;
    /* Compiled grammars, shared with the server's other requests. find: a reference, or NULL; keep
     * takes its own (the key: grammar_key); trie: the model's, NULL: *err. Called on the worker.
     * find and keep may be NULL; without trie grammars raise `invalid_grammar`. */
    struct grammar *(*find_grammar)(void *context, const uint8_t key[GRAMMAR_KEY_BYTES]);
    void (*keep_grammar)(void *context, const uint8_t key[GRAMMAR_KEY_BYTES],
                         struct grammar *grammar);
    const struct token_trie *(*trie)(void *context, serverd_error *err);
    void *grammar_context;
};

/* Log probabilities of choices behind BOS alone, which do not depend on the state. Locks itself;
 * bounded, the oldest go. */
struct score_memo *score_memo_create(void); /* NULL: no memory */
void score_memo_destroy(struct score_memo *memo);

/* What a run needs from outside. */
struct dsl_run_host {
    /* An event of the stream, in order, on the worker that advances the run; takes `data` over,
     * which has `branch`. run.created, branch.*, var.*, select.done, tool.call, custom, log; the
     * host adds the run's id, and sends the run's last event and run.requires_action with the
     * object itself. NULL: nobody listens. */
    void (*emit)(void *context, const char *event, json_t *data);
    /* Whether somebody does; what is not listened to is not made. NULL: always. On the worker. */
    bool (*listens)(void *context);
    /* For call(): a reference, or NULL. On the worker. NULL: there are no named programs. */
    struct dsl_program *(*find_program)(void *context, const char *name);
    /* There is something to do: advance the run. Any thread, inside of the mailbox's lock. */
    void (*wake)(void *context);
    void *context;
};

struct dsl_run_setup {
    struct dsl_program *program; /* the run takes a reference of its own */
    const json_t *args;          /* an object; NULL: {} */
    struct dsl_model model;
    uint64_t seed;
    const json_t *sampling;   /* options of gen, weaker than the program's; NULL: none */
    struct dsl_limits limits; /* the request's have been applied; the program's are by create */
    uint32_t rank;            /* hold_rank: higher gives way sooner; the run's age, oldest lowest */
    int32_t priority;
    uint64_t tenant;
    uint32_t weight;
    uint64_t cache_space;
    const char *adapter;         /* NULL: none; outlives the run */
    bool wants_deltas;           /* var.delta is listened to: tokens wake the run, not only ends */
    const char *const *streamed; /* [n_streamed] names of variables with deltas; n 0: all */
    uint32_t n_streamed;
    bool wants_trace;
    struct dsl_run_host host;
    const struct clock *clock;
    /* Lua memory of all runs together, and its bound. NULL: only the run's own bound. */
    _Atomic size_t *memory_total;
    size_t memory_total_limit;
};

/* Checks the arguments and makes the sandbox; nothing runs yet, and no lock of the host is taken.
 * On failure *error says why: invalid_arguments with `param` "args.k", memory_limit,
 * runtime_error. */
serverd_status dsl_run_create(const struct dsl_run_setup *setup, struct dsl_run **out,
                              struct dsl_error *error);

enum dsl_progress {
    DSL_RUN_AGAIN,       /* the slice is over: call again, others first */
    DSL_RUN_BLOCKED,     /* until host.wake, or the clock is at dsl_run_timer_ns */
    DSL_RUN_NEEDS_TOOLS, /* the same, and all tasks wait for outputs of external tools */
    DSL_RUN_ENDED        /* nothing runs, no event will come, all pages are let go */
};

/* Takes the mail, resumes tasks until all are blocked, then submits their operations at once. */
enum dsl_progress dsl_run_advance(struct dsl_run *run, uint64_t slice_ns);

/* When advance wants to be called though no mail has come: a tool's time is over, pins of a waiting
 * run go, a full queue is tried again. UINT64_MAX: never. Worker, between advances. */
uint64_t dsl_run_timer_ns(const struct dsl_run *run);

/* An event of a request of some run (event->owner is OWNER_PROGRAM), on the engine's thread: into
 * the mailbox of its run, with all that it owns. */
void dsl_run_post(const struct event *event);

/* The output of an external tool, or why there is none (`error`, output NULL). output is copied.
 * False: no call of that id waits. */
bool dsl_run_post_tool_result(struct dsl_run *run, const char *call_id, const json_t *output,
                              const char *error);

/* Ends the run with a fatal error: "cancelled", "deadline_exceeded", "memory_limit" (static texts).
 * The first one counts; after the end nothing happens. The run ends when its operations have:
 * advance it. */
void dsl_run_stop(struct dsl_run *run, const char *code);

enum dsl_run_status {
    DSL_STATUS_QUEUED, /* never advanced */
    DSL_STATUS_RUNNING,
    DSL_STATUS_REQUIRES_ACTION,
    DSL_STATUS_COMPLETED,
    DSL_STATUS_FAILED,
    DSL_STATUS_CANCELLED
};

struct dsl_usage {
    uint64_t prompt_tokens; /* distinct literal */
    uint64_t completion_tokens, prefill_tokens, reused_tokens, cached_tokens, forced_tokens,
        reprefilled_tokens, retokenized_tokens;
    uint32_t branches, gens;
};

enum { DSL_N_OPS = 4 };

/* For metrics. */
struct dsl_counters {
    uint64_t instructions, cpu_ns;
    size_t memory_bytes;
    uint64_t n_ops[DSL_N_OPS];  /* by name below */
    uint32_t n_branches_active; /* states that are not released */
};
extern const char *const dsl_op_names[DSL_N_OPS]; /* gen, select, score, fork */

enum dsl_run_status dsl_run_status(const struct dsl_run *run);
struct dsl_usage dsl_run_usage(const struct dsl_run *run);
struct dsl_counters dsl_run_counters(const struct dsl_run *run);

/* Times between an operation's end and the next submit of its task, which were not taken yet: up to
 * n of them; returns how many. For gap_seconds. */
uint32_t dsl_run_take_gaps(struct dsl_run *run, uint64_t *gap_ns, uint32_t n);

/* The run object without id, created, model, program: status, seed, value, variables, log,
 * required_action, usage, error (code, message, param, line, branch, traceback), with_text: text,
 * and the trace if it was wanted. The caller's. NULL: no memory. Worker, between advances. */
json_t *dsl_run_object(const struct dsl_run *run, bool with_text, bool with_trace);

/* Why it failed; NULL: it did not. The run's. */
const struct dsl_error *dsl_run_error(const struct dsl_run *run);

/* After DSL_RUN_ENDED, or if it was never advanced. NULL is fine. */
void dsl_run_destroy(struct dsl_run *run);

/* H(seed, ..): the chain of SplitMix64 over a label and a number, e.g. of a batch's items:
 * dsl_seed(S, "item", i). */
uint64_t dsl_seed(uint64_t seed, const char *label, uint64_t number);

#endif
