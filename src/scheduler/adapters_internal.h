/* Adapters inside an engine. */
#ifndef SCHEDULER_ADAPTERS_INTERNAL_H
#define SCHEDULER_ADAPTERS_INTERNAL_H

#include "scheduler/adapters.h"
#include "scheduler/request.h"

struct job;

enum adapter_state {
    ADAPTER_NONE,    /* the slot is free */
    ADAPTER_COMING,  /* belongs to the thread that loads it */
    ADAPTER_READY,   /* requests may choose it */
    ADAPTER_LEAVING, /* waits for its requests */
};

/* Guarded by the engine's mutex; what a batch needs is in the job. */
struct adapter_slot {
    enum adapter_state state;
    char name[LIMIT_ADAPTER_NAME];
    float scale;
    uint64_t space; /* of its identity and scale */
    uint32_t n_jobs;
    void *user; /* LEAVING: who asked for it */
    uint64_t change_id;
};

/* SERVERD_INVALID: there is no adapter of the request's name. Needs the mutex. */
serverd_status adapters_check(const struct engine *engine, const struct request *request,
                              serverd_error *err);
/* The slot of that name, which is there, for a job, which is counted; a request without a name has
 * none. Needs the mutex. */
void adapters_claim(struct engine *engine, struct job *job);
void adapters_release(struct engine *engine, const struct job *job); /* its end */

/* Engine thread, between two steps: what nobody uses any more goes. */
void adapters_apply(struct engine *engine);
void adapters_end(struct engine *engine, const serverd_error *failure); /* those that leave */

#endif
