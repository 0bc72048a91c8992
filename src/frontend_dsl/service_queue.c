/* The lists of jobs and runs, and what changes with them. All under service->lock. */
#include "base/hash.h"
#include "base/numeric.h"
#include "frontend_dsl/service_internal.h"

#include <string.h>

/* ---- the lists, under the lock -----------------------------------------------------------------
 */

void dsl_item_push(struct dsl_service *service, struct dsl_item *item)
{
    struct dsl_item_list *list = item->is_long ? &service->long_ready : &service->ready;
    item->state = ITEM_READY;
    item->next_ready = NULL;
    if (list->last)
        list->last->next_ready = item;
    else
        list->first = item;
    list->last = item;
    if (item->is_long)
        (void)pthread_cond_signal(&service->has_slow_work);
}

struct dsl_item *dsl_item_pop(struct dsl_item_list *list)
{
    struct dsl_item *item = list->first;
    if (!item)
        return NULL;
    list->first = item->next_ready;
    if (!list->first)
        list->last = NULL;
    item->state = ITEM_ADVANCING;
    item->is_woken = false;
    return item;
}

/* Behind those of its priority and of higher ones. */
void dsl_job_enqueue(struct dsl_service *service, struct dsl_job *job)
{
    struct dsl_job **at = &service->queue;
    while (*at && (*at)->setup.run.priority >= job->setup.run.priority)
        at = &(*at)->next_queued;
    job->next_queued = *at;
    *at = job;
    job->is_queued = true;
}

void dsl_job_dequeue(struct dsl_service *service, struct dsl_job *job)
{
    struct dsl_job **at = &service->queue;
    while (*at && *at != job)
        at = &(*at)->next_queued;
    if (*at)
        *at = job->next_queued;
    job->is_queued = false;
}

struct dsl_job **dsl_service_bucket(struct dsl_service *service, const char *id)
{
    return &service->buckets[hash_bytes(id, strlen(id), 0) % JOB_BUCKETS];
}

void dsl_job_list(struct dsl_service *service, struct dsl_job *job)
{
    struct dsl_job **bucket = dsl_service_bucket(service, job->id);
    job->next_in_bucket = *bucket;
    *bucket = job;
    service->n_open++;
}

/* The oldest that has ended goes. */
struct dsl_job *dsl_service_drop_ended(struct dsl_service *service)
{
    struct dsl_job *job = service->first_ended;
    struct dsl_job **at = dsl_service_bucket(service, job->id);
    while (*at != job)
        at = &(*at)->next_in_bucket;
    *at = job->next_in_bucket;
    service->first_ended = job->next_ended;
    if (!service->first_ended)
        service->last_ended = NULL;
    service->n_ended_bytes -= job->n_bytes;
    return job;
}

void dsl_job_keep_ended(struct dsl_service *service, struct dsl_job *job)
{
    job->expires_ns = dsl_service_now(service) + service->options.finished_ttl_ns;
    job->next_ended = NULL;
    if (service->last_ended)
        service->last_ended->next_ended = job;
    else
        service->first_ended = job;
    service->last_ended = job;
    service->n_ended_bytes += job->n_bytes;
    service->has_garbage = true;
    service->n_open--;
}
/* ---- items -------------------------------------------------------------------------------------
 */

static void unlist(struct dsl_item_list *list, struct dsl_item *item)
{
    struct dsl_item *before = NULL;
    for (struct dsl_item *at = list->first; at != item; at = at->next_ready)
        before = at;
    *(before ? &before->next_ready : &list->first) = item->next_ready;
    if (list->last == item)
        list->last = before;
}

/* Under the lock. */
void dsl_item_make_ready(struct dsl_item *item)
{
    struct dsl_job *job = item->job;
    struct dsl_service *service = job->service;
    if (item->state == ITEM_ADVANCING) {
        item->is_woken = true;
        return;
    }
    if (item->state == ITEM_READY && item->is_long && item->stop) { /* its end waits for nobody */
        unlist(&service->long_ready, item);
        item->is_long = false;
        dsl_item_push(service, item);
        service->n_unsignalled++;
        return;
    }
    if (item->state != ITEM_BLOCKED && item->state != ITEM_NEEDS_TOOLS)
        return;
    if (item->state == ITEM_NEEDS_TOOLS) {
        item->since_ns = dsl_service_now(service);
        job->n_waiting--;
        job->serial++;
        service->n_waiting_tool--;
        dsl_job_resume(job);
    } else {
        service->n_blocked--;
    }
    dsl_item_push(service, item);
    service->n_unsignalled++;
}

void dsl_item_wake(void *context)
{
    struct dsl_item *item = context;
    struct dsl_service *service = item->job->service;
    (void)pthread_mutex_lock(&service->lock);
    dsl_item_make_ready(item);
    (void)pthread_mutex_unlock(&service->lock);
}

void dsl_service_kick(struct dsl_service *service)
{
    (void)pthread_mutex_lock(&service->lock);
    const uint32_t n =
        service->n_unsignalled - min_u32(service->n_unsignalled, service->n_spinning);
    service->n_unsignalled = 0;
    service->is_kick_expected = false;
    (void)atomic_fetch_add(&service->n_kicks, 1);
    (void)pthread_mutex_unlock(&service->lock);
    if (n == 1)
        (void)pthread_cond_signal(&service->has_work);
    else if (n > 1)
        (void)pthread_cond_broadcast(&service->has_work);
}

void dsl_service_expect(struct dsl_service *service)
{
    (void)pthread_mutex_lock(&service->lock);
    const bool wakes = service->n_blocked > 0 && service->n_spinning == 0;
    service->is_kick_expected = wakes;
    service->expected_kick = atomic_load(&service->n_kicks);
    (void)pthread_mutex_unlock(&service->lock);
    if (wakes)
        (void)pthread_cond_signal(&service->has_work);
}

/* Begins to count: it is advanced from now on. Under the lock. */
void dsl_item_begin(struct dsl_service *service, struct dsl_item *item)
{
    struct dsl_job *job = item->job;
    item->begun_ns = item->since_ns = dsl_service_now(service);
    item->next = service->items;
    item->previous = NULL;
    if (item->next)
        item->next->previous = item;
    service->items = item;
    service->n_items++;
    if (service->look_at_ns > item->begun_ns + DSL_LONGEST_WAIT_NS)
        service->look_at_ns = item->begun_ns + DSL_LONGEST_WAIT_NS;
    if (!job->has_begun)
        service->n_queued--;
    job->has_begun = true;
    job->n_active++;
    job->next_item++;
    if (job->next_item == job->n_items)
        dsl_job_dequeue(service, job);
}

/* Others of a batch need not go on. Under the lock. */
void dsl_job_stop_items(struct dsl_service *service, struct dsl_job *job)
{
    job->is_stopped = true;
    if (job->is_queued)
        dsl_job_dequeue(service, job);
    for (struct dsl_item *item = service->items; item; item = item->next) {
        if (item->job != job)
            continue;
        item->stop = "cancelled";
        dsl_item_make_ready(item);
    }
}

/* Its run has ended, or could not be made: `object`, taken over, is what came of it. */