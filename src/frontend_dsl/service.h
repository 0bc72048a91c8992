/* Runs of generation programs, many at once: who waits, whose turn it is, what each has said, and
 * how long it may take.
 *
 *     server/programs                service                         run.h
 *       dsl_service_start ---->  a job: one run, or a batch of them
 *       dsl_job_follow ------->  queue -> workers ----------------> dsl_run_advance, in slices
 *       <--- follower's tell     events, numbered, kept  <--------- emit
 *       dsl_follower_take
 *                                the object at its end or rest <--- dsl_run_object
 *
 * A job rests when all its runs that have begun wait for outputs of tools, and no other may begin;
 * it ends once. Ended ones stay readable for a while. Jobs are reference-counted; every function is
 * for any thread but those of the engine, and may be called with locks held that `tell` and
 * `release` do not take. */
#ifndef FRONTEND_DSL_SERVICE_H
#define FRONTEND_DSL_SERVICE_H

#include "base/buffer.h"
#include "base/log.h"
#include "base/metrics.h"
#include "frontend_dsl/run.h"

struct dsl_job;
struct dsl_service;

struct dsl_service_options {
    uint32_t n_threads;
    uint64_t slice_ns;
    uint32_t max_runs;  /* that have begun and not ended */
    uint32_t max_queue; /* jobs none of whose runs has begun */
    uint32_t batch_parallel;
    uint64_t finished_ttl_ns;
    size_t memory_total; /* bytes of all Lua states */
    const struct clock *clock;
    struct log *log;         /* may be NULL */
    struct metrics *metrics; /* may be NULL */
    /* For call(): a reference, or NULL. On workers. */
    struct dsl_program *(*find_program)(void *context, const char *name);
    void *program_context;
};

serverd_status dsl_service_create(const struct dsl_service_options *options,
                                  struct dsl_service **out, serverd_error *err);

/* All jobs are cancelled, those that come are refused, and the workers end as soon as the runs
 * have: engines have to go on or to have ended all requests. */
void dsl_service_stop(struct dsl_service *service);
/* Jobs that others still refer to must not be used any more but be let go before. */
void dsl_service_destroy(struct dsl_service *service);

/* Behind dsl_run_post, once for all events of a step: workers look at the runs that have mail. It
 * is not done by wake, which is called with a run's mailbox locked: whoever wakes up would wait for
 * that lock first. Any thread, the engine's too. */
void dsl_service_kick(struct dsl_service *service);

/* A step has been computed, and if runs wait for it the next kick comes within some 100 us: a
 * worker wakes up meanwhile, since that takes as long as advancing a run. Any thread. */
void dsl_service_expect(struct dsl_service *service);

/* A few times a second: ended jobs go, gauges are set. */
void dsl_service_tick(struct dsl_service *service);

/* Jobs that have not ended; a drain waits for them. */
uint32_t dsl_service_n_open(struct dsl_service *service);

/* ---- jobs --------------------------------------------------------------------------------------
 */

struct dsl_job_setup {
    const char *program_name; /* as it is shown; copied */
    /* Of each run; program, model, sampling, limits and whose it is are filled in. args, seed,
     * rank, host, clock and memory are the service's. What it points to but the program outlives
     * the job, or belongs to `body`. */
    struct dsl_run_setup run;
    json_t *body;        /* a reference is taken: keeps what `run` points into; may be NULL */
    const json_t *items; /* likewise: [{args, seed, id}], at least one; a run: one, or NULL */
    bool is_batch;
    bool stops_on_error;   /* a batch: the first run that fails ends it */
    uint32_t max_parallel; /* 0: batch_parallel, and never more than that */
    uint64_t seed;
    bool keeps_events; /* they can be streamed; else only from when that is asked for */
    bool has_text, has_trace;
    bool is_background; /* nobody's leaving cancels it */
    /* Once, when nothing of the model is needed any more; n_tokens: prompt and completion of all
     * runs. */
    void (*release)(void *context, uint64_t n_tokens);
    void *release_context;
};

enum dsl_start {
    DSL_START_OK,
    DSL_START_FULL,    /* max_queue */
    DSL_START_STOPPED, /* the service ends */
    DSL_START_NO_MEMORY
};

/* Begins a job, now or when its turn comes; *out: a reference. On failure nothing is taken over,
 * and release is not called. */
enum dsl_start dsl_service_start(struct dsl_service *service, const struct dsl_job_setup *setup,
                                 struct dsl_job **out);

/* Calls `run` on a worker, before runs go on: for texts of programs, which are run to be read.
 * False: LIMIT_DSL_ERRANDS wait, or the service ends. */
bool dsl_service_run_errand(struct dsl_service *service, void (*run)(void *context), void *context);

/* A reference to the tenant's job of that id; NULL: there is none, or not any more. */
struct dsl_job *dsl_service_find(struct dsl_service *service, const char *id, uint64_t tenant);
void dsl_job_unref(struct dsl_job *job); /* NULL is fine */

const char *dsl_job_id(const struct dsl_job *job);
const char *dsl_job_program_name(const struct dsl_job *job);
bool dsl_job_is_batch(const struct dsl_job *job);

/* The object as it is now: JSON, appended. */
void dsl_job_write(struct dsl_job *job, struct buffer *out);

/* Why a single run failed or was cancelled: an object {code, message, param, line, branch,
 * traceback}, a reference, or NULL: it did not, or has not yet. *was_refused: it never began. */
json_t *dsl_job_failure(struct dsl_job *job, bool *was_refused);

/* Ends it soon, unless it has ended. */
void dsl_job_cancel(struct dsl_job *job);

/* The output of a tool, or why there is none (`error`). False: no call of that id waits. */
bool dsl_job_post_tool_result(struct dsl_job *job, const char *call_id, const json_t *output,
                              const char *error);

/* ---- followers ---------------------------------------------------------------------------------
 */

struct dsl_follower;

enum dsl_tell {
    DSL_TELL_NEWS, /* there is something to take */
    DSL_TELL_END   /* the job rests or has ended: the last call */
};

struct dsl_follower_setup {
    /* Under the job's lock: it must not block, nor call the service. */
    void (*tell)(void *context, enum dsl_tell what);
    void *context;
    bool wants_events;
    uint64_t from;   /* the first event's number */
    bool is_binding; /* its leaving cancels the job, unless that is in the background */
};

/* NULL: no memory. It has a reference to the job, and gets nothing yet. */
struct dsl_follower *dsl_follower_create(struct dsl_job *job,
                                         const struct dsl_follower_setup *setup);

enum dsl_following {
    DSL_FOLLOWING,      /* tell comes, also at once */
    DSL_FOLLOWING_OVER, /* the job is at rest or has ended, or the follower has left: no tell comes
                         */
    DSL_FOLLOWING_FULL  /* there are LIMIT_FOLLOWERS: likewise */
};
/* Until the job rests or ends. Once. */
enum dsl_following dsl_follower_begin(struct dsl_follower *follower);

/* The number of the next event. */
uint64_t dsl_job_next_event(struct dsl_job *job);
/* Its events are kept from now on, if they were not before. */
void dsl_job_keep_events(struct dsl_job *job);

/* Frames that it has not had. */
void dsl_follower_take(struct dsl_follower *follower, struct buffer *out);
struct dsl_job *dsl_follower_job(struct dsl_follower *follower);

/* Nobody reads any more: the last tell comes, unless it has come. Any number of times. */
void dsl_follower_leave(struct dsl_follower *follower);
/* After the last tell. */
void dsl_follower_destroy(struct dsl_follower *follower);

#endif
