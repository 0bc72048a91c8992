/* What service.c (life, any thread), service_queue.c (lists), service_worker.c (runs that go on),
 * service_end.c (ends and rests) and job.c (what is seen of a job) share.
 *
 * Locks: service->lock is taken before a job's; a run's mailbox is locked before service->lock
 * (its wake), so none of dsl_run_post_tool_result and dsl_run_stop is called under it. */
#ifndef FRONTEND_DSL_SERVICE_INTERNAL_H
#define FRONTEND_DSL_SERVICE_INTERNAL_H

#include "base/limits.h"
#include "frontend_dsl/event_log.h"
#include "frontend_dsl/service.h"

#include <pthread.h>
#include <stdatomic.h>

enum { JOB_ID_BYTES = 40, JOB_BUCKETS = 1024 };

/* Deadlines are looked at so often while something runs; the clock may be a test's. */
#define DSL_LONGEST_WAIT_NS UINT64_C(20000000)

enum item_state {
    ITEM_READY,
    ITEM_ADVANCING, /* a worker has it */
    ITEM_BLOCKED,
    ITEM_NEEDS_TOOLS
};

/* One run of a job, from its creation to its end. Under service->lock, but for `run`, which is the
 * worker's that advances it, and what never changes. */
struct dsl_item {
    struct dsl_job *job; /* no reference: an item keeps its job open */
    uint32_t index;
    char id[JOB_ID_BYTES + 12];
    struct dsl_run *run; /* NULL: not made yet */
    enum item_state state;
    bool is_woken;          /* while it was advanced */
    bool is_long;           /* its last slice was too short for it */
    uint64_t long_since_ns; /* while it is */
    uint64_t compute_ns;    /* it may be for so long */
    const char *stop;       /* stop it with this code before it goes on; NULL: do not */
    uint32_t n_users;       /* calls that are under way on its run */
    uint64_t timer_ns;      /* of the run */
    uint64_t spent_ns;      /* until `since_ns`, without waits for tools */
    uint64_t since_ns;      /* it counts since then */
    uint64_t deadline_ns;   /* of spent_ns */
    uint32_t n_branches;    /* live ones */
    uint64_t begun_ns;
    struct dsl_item *next_ready;
    struct dsl_item *next, *previous; /* all that have begun */
};

enum job_state {
    JOB_OPEN,
    JOB_ENDING, /* its last run has ended, the object is being made */
    JOB_ENDED
};

struct dsl_follower {
    struct dsl_job *job; /* a reference */
    struct dsl_follower_setup setup;
    /* under job->lock */
    size_t at, end; /* in the frames; end: once it is not listed any more */
    bool is_listed, is_told, has_left;
};

struct dsl_job {
    _Atomic uint32_t references;
    struct dsl_service *service;
    char id[JOB_ID_BYTES];
    char *program_name;
    uint64_t tenant, seed, arrival_ns;
    int64_t created;
    struct dsl_job_setup setup; /* program and body are references */
    size_t n_items;
    uint32_t max_parallel;

    /* under service->lock */
    enum job_state state;
    bool is_listed; /* to be found */
    bool is_queued; /* in the queue: there are items to begin */
    bool has_begun;
    bool is_cancelled; /* by a client, or the end of the service */
    bool is_stopped;   /* no item begins any more */
    uint64_t serial;   /* changes with every run that goes on behind a wait for tools */
    size_t next_item, n_ended, n_failed;
    uint64_t n_tokens;            /* of runs that have ended */
    size_t n_result_bytes;        /* of a batch */
    uint32_t n_active, n_waiting; /* begun items; those of them that need tools */
    bool was_refused;             /* its only run could not be made */
    json_t **results;             /* [n_items], of ends and of rests; NULL: none yet */
    uint64_t expires_ns;
    size_t n_bytes; /* that an ended one keeps */
    struct dsl_job *next_queued;
    struct dsl_job *next_in_bucket;
    struct dsl_job *next_ended;

    pthread_mutex_t lock; /* of all below */
    struct event_log log;
    bool keeps_events;
    bool is_at_rest; /* or it has ended */
    char *object;    /* of the last rest, or the end; NULL: none yet */
    json_t *failure;
    bool has_refusal; /* was_refused, to be seen */
    struct dsl_follower *followers[LIMIT_FOLLOWERS];
    uint32_t n_followers;
};

struct dsl_errand {
    void (*run)(void *context);
    void *context;
};

/* What is ready, in the order in which it became so. */
struct dsl_item_list {
    struct dsl_item *first, *last;
};

/* A thread. Slow ones take what computes for long: they have what is left of the processors, since
 * Lua that computes is never what somebody waits for most. */
struct dsl_worker {
    struct dsl_service *service;
    pthread_t thread;
    bool is_slow;
};

struct dsl_service {
    struct dsl_service_options options;
    struct dsl_worker *workers;   /* [2 * options.n_threads] half of them slow */
    uint32_t n_workers;           /* that run */
    _Atomic size_t memory;        /* of all Lua states */
    _Atomic size_t n_event_bytes; /* of all logs */

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t has_work;
    pthread_cond_t has_slow_work;
    pthread_cond_t is_free; /* nobody uses some run any more */
    bool is_stopping;
    uint64_t look_at_ns; /* when times of items are to be looked at; UINT64_MAX: there are none */
    uint32_t rank;
    struct dsl_item_list ready, long_ready; /* long_ready: those that are long */
    uint32_t n_unsignalled; /* that wake made ready: dsl_service_kick tells the workers */
    uint32_t n_blocked;     /* items that wait for the model */
    uint32_t n_spinning;    /* workers that wait for a kick with open eyes */
    bool is_kick_expected;  /* one of them should; until n_kicks is another than this */
    uint32_t expected_kick;
    _Atomic uint32_t n_kicks;
    struct dsl_item *items; /* that have begun */
    uint32_t n_items, n_waiting_tool;
    struct dsl_job *queue; /* by priority, then by age */
    uint32_t n_queued;     /* jobs that have not begun */
    uint32_t n_open;       /* jobs that have not ended */
    struct dsl_job *buckets[JOB_BUCKETS];
    struct dsl_job *first_ended, *last_ended;
    size_t n_ended_bytes;
    bool has_garbage; /* runs have ended since memory was given back to the system, at trimmed_ns */
    uint64_t trimmed_ns;
    struct dsl_errand errands[LIMIT_DSL_ERRANDS]; /* a ring */
    uint32_t first_errand, n_errands, n_errands_running;
};

/* ---- job.c ---- */

/* NULL: no memory. Nothing of the setup is taken over yet. */
struct dsl_job *dsl_job_create(struct dsl_service *service, const struct dsl_job_setup *setup);

/* The host of an item's run. */
void dsl_item_emit(void *context, const char *event, json_t *data);
bool dsl_item_listens(void *context);

/* The object of a run that has made none, because it never was. Takes `failure` over. */
json_t *dsl_job_stub(const struct dsl_job *job, const char *status, json_t *failure);

/* A result as it is shown: with its id, or index and so on; takes the object over. */
json_t *dsl_item_result(const struct dsl_job *job, size_t index, const char *run_id,
                        json_t *object);

/* The job's own object: of a run its result, of a batch all of them. Without locks. results:
 * [n_items], may have NULLs. NULL: no memory. */
json_t *dsl_job_object(const struct dsl_job *job, const char *status, json_t *const *results);

/* Says that the job rests or has ended: its object, an event and the end of followers. Under
 * service->lock; `text` and `failure` (may be NULL) are taken over. */
void dsl_job_publish(struct dsl_job *job, const char *event, char *text, json_t *failure);
/* It goes on behind a rest. Under service->lock. */
void dsl_job_resume(struct dsl_job *job);

/* A batch has begun: run.created, as of a run. Before it is listed. */
void dsl_job_say_created(struct dsl_job *job);
/* An item of a batch has ended: item.done. False: there is no room. */
bool dsl_job_say_done(struct dsl_job *job, size_t index, const json_t *result);

static inline uint64_t dsl_service_now(const struct dsl_service *service)
{
    return clock_now_ns(service->options.clock);
}

/* ---- service_queue.c: under service->lock ---- */

void dsl_item_push(struct dsl_service *service, struct dsl_item *item);
struct dsl_item *dsl_item_pop(struct dsl_item_list *list); /* NULL: none is ready */
/* It goes on soon, whatever it waits for. */
void dsl_item_make_ready(struct dsl_item *item);
/* One that was made: it counts from now on. */
void dsl_item_begin(struct dsl_service *service, struct dsl_item *item);
void dsl_job_enqueue(struct dsl_service *service, struct dsl_job *job);
void dsl_job_dequeue(struct dsl_service *service, struct dsl_job *job);
/* No item of it begins any more, and those that have are stopped. */
void dsl_job_stop_items(struct dsl_service *service, struct dsl_job *job);
void dsl_job_list(struct dsl_service *service, struct dsl_job *job); /* it can be found */
struct dsl_job **dsl_service_bucket(struct dsl_service *service, const char *id);
void dsl_job_keep_ended(struct dsl_service *service, struct dsl_job *job);
/* The oldest that has ended, of which there is one, is not found any more: a reference. */
struct dsl_job *dsl_service_drop_ended(struct dsl_service *service);

void dsl_item_wake(void *context); /* a run's host's: takes the lock */

/* ---- service_end.c ---- */

/* Nothing of it goes on, and nobody else ends it: the caller does. Under service->lock. */
bool dsl_job_begin_end(struct dsl_job *job);
void dsl_job_end(struct dsl_service *service, struct dsl_job *job); /* without locks */
/* It may rest now. Called with service->lock, which is free in between. */
void dsl_job_look_for_rest(struct dsl_service *service, struct dsl_job *job);

/* ---- service_worker.c ---- */

void *dsl_service_work(void *worker); /* until the service stops */

#endif
