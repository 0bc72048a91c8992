/* The engine's state and the parts of a step. engine.c owns the thread and what other threads read,
 * submit.c what they hand in; step.c runs a step: intake, endings, pages, admission, batch,
 * execution; jobs.c keeps the lists and ends jobs; queue.c says who is next; admission.c gives
 * pages and places; windows.c sees to window pages; batch.c chooses and lays out the rows, cost.c
 * knows what they take; draws.c has the device draw tokens; draft.c adds guessed tokens to them,
 * some of which draft_model.c makes; commit.c turns logits into tokens and events; tier.c moves
 * pages to the disk and back; inspect.c shows people what goes on.
 *
 * Where a sequence is: waiting (sorted queue, no pages), running (array, owns its pages), done.
 * A job ends in one place, engine_sweep, whatever the reason: everyone else calls job_finish or
 * job_fail, which only put it on the list of ending jobs. So no walk over jobs or sequences
 * meets a freed one. */
#ifndef SCHEDULER_ENGINE_INTERNAL_H
#define SCHEDULER_ENGINE_INTERNAL_H

#include "base/numeric.h"
#include "scheduler/adapters_internal.h"
#include "scheduler/constraint_internal.h"
#include "scheduler/cost.h"
#include "scheduler/draft_model_internal.h"
#include "scheduler/engine.h"
#include "scheduler/sequence_internal.h"

#include <pthread.h>
#include <stdatomic.h>

/* Rows of one sequence in the present step. The last n_drafts are not its own tokens but guesses of
 * the next ones. */
struct slice {
    struct sequence *sequence;
    uint32_t n_rows, n_drafts;
    const int32_t *draft; /* [n_drafts] */
    enum draft_source source;
};

/* What the device is told of draws in the present step, and what it says. */
struct draws {
    bool are_possible;  /* else nothing is told */
    serverd_draw *draw; /* [max_logit_rows] */
    int32_t *drawn;     /* [max_logit_rows] */
    struct change_list changes;
    uint64_t *mask; /* [SERVERD_MAX_MASKS][(width + 63) / 64] */
    uint32_t n_masks;
};

/* Snapshot for readers on other threads; each value alone is exact, relaxed order suffices. */
struct shared_status {
    _Atomic uint32_t n_running, n_pages, n_free_pages, n_handles, n_held_pages;
    _Atomic uint32_t n_queued; /* written under the mutex */
    _Atomic uint64_t n_queued_tokens;
    _Atomic uint64_t heartbeat_ns, n_steps;
    _Atomic double tokens_per_second, mean_output, admit_interval;
    atomic_bool is_draining, is_lost;
};

struct engine {
    struct engine_options options;
    struct sequence_limits limits;
    uint32_t max_running; /* options and the delegate's limits together */
    uint32_t max_rows, max_logit_rows, width;
    bool is_encoder;

    /* Engine thread. */
    struct page_pool *pool;
    bool has_windows;             /* pages have window pages */
    uint32_t window_span;         /* pages before a page whose window pages it needs */
    struct radix_tree *tree;      /* NULL: no prefix cache */
    bool is_forgetting;           /* what is evicted now is no good for the disk */
    struct tier_load *loads;      /* of waiting sequences, from the disk */
    struct tier_leaving *leaving; /* pages that go there; NULL: none can */
    uint32_t n_loads;
    struct handle_set *handles; /* NULL: no prefix cache */
    struct sampling_scratch *scratch;
    struct constraint_memory constraints;
    struct job *live;              /* all jobs taken in */
    struct job *ending;            /* those to end in this step */
    struct sequence_list resuming; /* that ran and wait, sorted by sequence_comes_before */
    uint32_t n_waiting;            /* all, those of the tenants, too */
    uint64_t n_selections;         /* how often queue_best was asked */
    struct sequence *refreshed;    /* the next to be looked up in the tree again; NULL: the first */
    struct tenant *tenants;        /* those with jobs, and who waits of them */
    double tenant_floor;           /* where the tenant stood that was served last */
    uint64_t last_admission_ns;    /* 0: nobody waited for the next */
    double admit_interval;         /* seconds between admissions while some wait; 0: unknown */
    struct sequence **leaders; /* [max_running] whose prompts are being computed, in admission */
    uint32_t n_leaders;
    struct sequence **running; /* [max_running] */
    uint32_t n_running;        /* entries, some perhaps done or waiting again */
    uint64_t next_deadline_ns; /* the first of all live jobs, UINT64_MAX: none */
    double reserve_ratio;      /* see admission */
    uint64_t now_ns;           /* the clock when the step began, or was computed */
    struct event *events;      /* [events_cap] of this step */
    uint32_t n_events, events_cap;
    struct step_record step; /* times and what admission did; the rest is known if it is traced */
    struct cache_use use;
    struct radix_stats seen_stats; /* those that metrics know */
    struct window_counts seen_windows;
    struct inspection *trace; /* the one of steps that is under way; NULL: none */

    /* The batch, taken once. */
    struct slice *slice; /* [max_running] */
    uint32_t n_slices;
    struct step_work work; /* of the present step */
    struct step_cost cost;
    uint32_t n_decoded;       /* decode rows of the last step that had no others; 0: none */
    uint32_t n_mixed;         /* steps since then */
    uint32_t n_rejected_rows; /* in the present step: of guesses that were wrong */
    struct row_cost row_cost;
    int32_t draft[DRAFT_MAX_ROWS];   /* of all slices */
    struct draft_model *draft_model; /* NULL: none */
    struct draft_work draft_work[DRAFT_MAX_SEQUENCES];
    uint32_t n_draft_works;
    double draft_seconds;          /* that the draft model took in the present step */
    int32_t *token, *position;     /* [max_rows] */
    uint32_t *row_seq, *logit_row; /* [max_rows], [max_logit_rows] */
    struct draws draws;
    uint8_t *segment;       /* [max_rows] */
    uint32_t *page_table;   /* [max_running][max_pages] */
    uint32_t *window_table; /* the same of window pages; NULL: there are none */
    uint32_t *adapter_slot; /* [max_running], by slice */
    float *adapter_scale;
    serverd_kv_page *page_index; /* [max_pages] */
    int32_t *prefix;             /* [context_size] tokens of one sequence, for a while */
    uint32_t max_pages;
    float *out;              /* [max_logit_rows][width], encoders [max_running][width] */
    bool delivers_meanwhile; /* the last step's device computed alone: events wait for the next */

    /* Guarded by `mutex`; `wake` is signalled when something came. */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool is_woken, is_stopping;
    struct job *inbox, **inbox_end;
    struct job **bucket; /* [n_buckets], jobs by id */
    uint32_t n_buckets;
    uint64_t last_id;
    struct handle_release *released;
    struct adapter_slot *adapters; /* [n_adapters], as the runtime's slots */
    uint32_t n_adapters;
    atomic_bool has_adapter_changes;                   /* set under the mutex */
    struct inspection *inspections;                    /* all that are open */
    atomic_bool has_cancels, has_releases, asks_drain; /* set under the mutex */
    atomic_bool has_inspections;                       /* changed under the mutex */

    pthread_t thread;
    bool has_thread;
    struct shared_status shared;
};

static inline double seconds_between(uint64_t begin_ns, uint64_t end_ns)
{
    return end_ns > begin_ns ? (double)(end_ns - begin_ns) * 1e-9 : 0.0;
}

static inline uint32_t pages_for(uint32_t n_tokens)
{
    return n_tokens / SERVERD_PAGE_TOKENS + (n_tokens % SERVERD_PAGE_TOKENS != 0);
}

/* engine.c */
void engine_wake(struct engine *engine); /* the thread looks again; needs the mutex */

/* submit.c: bookkeeping that other threads read. */
void engine_take_inbox(struct engine *engine, struct job **out);
void engine_forget(struct engine *engine, struct job *job); /* no cancel finds it any more */
void engine_unqueue(struct engine *engine, struct job *job);

/* queue.c */
bool tenant_join(struct engine *engine, struct job *job); /* false: no memory */
void tenant_leave(struct engine *engine, struct job *job);
void tenant_charge(struct job *job, uint32_t n_rows);
void waiting_insert(struct engine *engine, struct sequence *sequence);
void waiting_remove(struct engine *engine, struct sequence *sequence);
void queue_arrive(struct engine *engine, struct sequence *sequence); /* for the first time */
/* Whole pages of its prompt that may come from elsewhere; how many the tree has. */
uint32_t queue_reusable_pages(const struct sequence *sequence);
void queue_look_up(struct engine *engine, struct sequence *sequence);
void queue_refresh(struct engine *engine);      /* once a step */
void queue_find_leaders(struct engine *engine); /* before choosing */
void queue_add_leader(struct engine *engine, struct sequence *sequence);
struct sequence *queue_best(struct engine *engine); /* NULL: nobody is to start now */
/* One of the highest priority that waits. */
const struct sequence *queue_highest(const struct engine *engine);
uint32_t queue_n_listed(const struct engine *engine); /* counts; for checks */
/* It has left the queue for the first time, behind n_computed cached tokens. */
void queue_admitted(struct engine *engine, struct sequence *sequence);

/* jobs.c */
void live_insert(struct engine *engine, struct job *job);
void engine_compact(struct engine *engine); /* drops from `running` what no longer runs */
void engine_give_pages(struct engine *engine, struct sequence *sequence); /* back */
void engine_release(struct engine *engine, struct sequence *sequence);    /* pages back, done */
void engine_wait(struct engine *engine, struct sequence *sequence);       /* to the queue */
void job_finish(struct engine *engine, struct job *job);
void job_fail(struct engine *engine, struct job *job, const serverd_error *err);
void engine_sweep(struct engine *engine);
void engine_end_all(struct engine *engine, serverd_status code, const char *text);

/* step.c */
void engine_adopt(struct engine *engine, struct job *inbox);

/* admission.c */
bool engine_take_pages(struct engine *engine, struct sequence *sequence, uint32_t n_pages,
                       serverd_error *err);               /* up to n_pages in all */
uint32_t engine_n_available(const struct engine *engine); /* free, or free once evicted */
void engine_secure_pages(struct engine *engine);          /* for the rows of this step; preempts */
void engine_admit(struct engine *engine);
void engine_lower_reserve(struct engine *engine); /* a step has passed */

/* windows.c: window pages; nothing is done if there are none. */
/* Pins those that a row behind its n_shared pages needs; what was pinned before stays so. False:
 * one is gone, nothing has changed. */
bool windows_hold(struct engine *engine, struct sequence *sequence);
/* The same in place of what was pinned before. */
bool windows_go_back(struct engine *engine, struct sequence *sequence);
/* For the next n rows, whose pages it has: returns how many of them can run. */
uint32_t windows_take(struct engine *engine, struct sequence *sequence, uint32_t n_rows);
/* Whether that would take nothing that somebody else might need. */
bool windows_can_spare(const struct engine *engine, const struct sequence *sequence,
                       uint32_t n_rows);
/* As if it had computed n_tokens, which will be copied; false: there are too few. */
bool windows_fork(struct engine *engine, struct sequence *sequence, uint32_t n_tokens);
void windows_pass(struct engine *engine, struct sequence *sequence); /* it has got on */
void windows_release(struct engine *engine, struct sequence *sequence);
/* Whether there are enough for it, beside those who run. */
bool windows_fit(const struct engine *engine, const struct sequence *sequence);
serverd_kv_page engine_kv_page(const struct engine *engine, struct page_id page); /* whole */
serverd_status windows_check(const struct engine *engine, serverd_error *err);

/* prefix.c: the prefix tree; nothing is done without one. */
/* Takes what the tree has of the sequence's tokens but the last, of whole pages. */
void engine_take_prefix(struct engine *engine, struct sequence *sequence);
/* And what it has of the page behind them, which must be the sequence's own by now. */
void engine_copy_partial(struct engine *engine, struct sequence *sequence);
/* The same prompt prefix as another choice of the job; whole pages. */
void engine_share_prompt(struct engine *engine, const struct sequence *from, struct sequence *to);
/* Full pages become the tree's. */
void engine_publish_prefix(struct engine *engine, struct sequence *sequence);
/* Every prefix that no sequence uses goes, and none of them to the disk. Asked for by an operator,
 * or NaN came out of a sequence: its keys and values may hold some, and nobody shall go on behind
 * them. */
void engine_forget_prefixes(struct engine *engine);
/* Makes at least n pages free, if that many are available. */
void engine_evict(struct engine *engine, uint32_t n);

/* tier.c: prefixes on the disk; nothing is done without one. */
void tier_begin(struct engine *engine);
void tier_arrive(struct engine *engine, struct sequence *sequence); /* looks for its prompt there */
bool tier_is_loading(const struct engine *engine, const struct sequence *sequence);
void tier_poll(struct engine *engine);     /* takes what was loaded */
bool tier_give_way(struct engine *engine); /* a load ends; false: there is none */
void tier_leave(struct engine *engine, struct sequence *sequence);  /* it does not wait any more */
void tier_forget(struct engine *engine, struct sequence *sequence); /* its pages may be bad */
bool tier_save_some(struct engine *engine); /* while nothing else is to do; false: all is saved */
void tier_settle(struct engine *engine);    /* pages that were evicted are on their way now */
void tier_end(struct engine *engine);       /* saves everything, as far as that goes soon */
void tier_destroy(struct engine *engine);

/* handles.c */
bool handles_create(struct engine *engine); /* false: no memory */
/* What it has computed stays held for its request's hold_ns; its job learns the handle's id. */
void handles_keep(struct engine *engine, struct sequence *sequence);
/* What the prefix tree has of the n tokens of a request becomes what the handle has that it goes on
 * behind, if that is more. */
void handles_match(const struct engine *engine, const struct request *request,
                   const int32_t *tokens, uint32_t n, struct radix_match *match);
bool handles_give_way(struct engine *engine); /* one goes; false: there is none */
void handles_drop_all(struct engine *engine);
void handles_expire(struct engine *engine); /* and what was released */
void handles_destroy(struct engine *engine);
struct handle_totals {
    uint32_t n, n_pages; /* pages of the tree and of their own, each counted once */
    uint32_t n_tails;    /* of their own */
    uint64_t n_window_pins;
};
struct handle_totals handles_totals(const struct engine *engine);
serverd_status handles_check(const struct engine *engine, serverd_error *err);

/* batch.c */
void engine_plan(struct engine *engine); /* fills `slice` */
serverd_batch engine_build(struct engine *engine);

/* Which rows of a slice give logits: prompt rows whose next token is to be scored, and if a token
 * is to be drawn, or the next one to be scored, the last row, and all guesses. */
bool slice_wants_logits(const struct slice *slice, uint32_t position);

/* draws.c: tokens that the device draws */
bool draws_init(struct engine *engine); /* false: no memory; draws_deinit is due all the same */
void draws_deinit(struct engine *engine);
void draws_begin(struct engine *engine); /* a batch */
/* The next logit row, of what comes behind the sequence's token at `position`. */
void draws_add(struct engine *engine, const struct sequence *sequence, uint32_t position,
               uint32_t logit_row);
void draws_give(const struct engine *engine, serverd_batch *batch);
/* What the device says of a row of engine->out: a token, or SERVERD_DRAWN_... */
int32_t draws_token(const struct engine *engine, const float *logits);
/* Whether it knew what the sequence's grammar allows. */
bool draws_were_masked(const struct engine *engine, const float *logits);
/* The row's logits are there afterwards. */
serverd_status draws_need_logits(struct engine *engine, const float *logits, serverd_error *err);

/* draft.c: guesses of the next tokens, whose rows run behind those that are due. Nothing depends on
 * them but time: a guess counts only if it is the token that is drawn. */
/* For the slices of a step of decode rows. Returns how many. */
uint32_t engine_draft(struct engine *engine);
void engine_learn_draft(struct engine *engine, const struct slice *slice, uint32_t n_right);
/* A step without prefill took so long. */
void engine_learn_row_cost(struct engine *engine, uint32_t n_rows, double seconds);

/* commit.c */
void engine_event(struct engine *engine, const struct event *event);
void engine_flush(struct engine *engine);
void engine_use_waits(struct engine *engine); /* for deliveries, while a device computes */
void engine_end_event(struct engine *engine, struct job *job);
void engine_commit(struct engine *engine); /* of all slices; logits are in engine->out */

/* The choice is complete: its event, pages back. `release` is the end of its text. */
void engine_finish_choice(struct engine *engine, struct sequence *sequence,
                          enum finish_reason reason, const struct text_step *text, int32_t token);

/* inspect.c */
struct cache_totals engine_cache_totals(const struct engine *engine);
void engine_cancel_inspection(struct engine *engine, uint64_t id); /* needs the mutex */
void engine_trace_step(struct engine *engine);       /* there is a trace; it has run */
bool engine_trace_ends(const struct engine *engine); /* there is a trace that time will end */
void engine_trace_request(struct engine *engine, const struct job *job); /* there is a trace */
void engine_answer_inspections(struct engine *engine);                   /* between two steps */
void engine_end_inspections(struct engine *engine, const serverd_error *failure);

#endif
