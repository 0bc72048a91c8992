#include "frontend_dsl/service.h"

#include "base/error.h"
#include "frontend_dsl/service_internal.h"

#include <errno.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdlib.h>
#include <string.h>

#define LEAST_TRIM_NS UINT64_C(1000000000) /* between two of them */

/* ---- life --------------------------------------------------------------------------------------
 */

static serverd_status start_threads(struct dsl_service *service, serverd_error *err)
{
    for (uint32_t i = 0; i < 2 * service->options.n_threads; i++) {
        struct dsl_worker *worker = &service->workers[i];
        *worker = (struct dsl_worker){.service = service, .is_slow = i % 2 == 1};
        const int code = pthread_create(&worker->thread, NULL, dsl_service_work, worker);
        if (code != 0) {
            errno = code;
            return fail(err, SERVERD_INTERNAL, "programs: thread: %m");
        }
        (void)pthread_setname_np(worker->thread, worker->is_slow ? "programs-slow" : "programs");
        service->n_workers++;
    }
    return SERVERD_OK;
}

serverd_status dsl_service_create(const struct dsl_service_options *options,
                                  struct dsl_service **out, serverd_error *err)
{
    struct dsl_service *service = calloc(1, sizeof *service);
    pthread_condattr_t monotonic;
    if (!service)
        return fail(err, SERVERD_NOMEM, "programs: no memory");
    service->options = *options;
    service->look_at_ns = UINT64_MAX;
    (void)pthread_mutex_init(&service->lock, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&service->has_work, &monotonic);
    (void)pthread_cond_init(&service->has_slow_work, NULL);
    (void)pthread_cond_init(&service->is_free, NULL);
    (void)pthread_condattr_destroy(&monotonic);
    service->workers = calloc(options->n_threads, 2 * sizeof *service->workers);
    serverd_status status = service->workers ? start_threads(service, err)
                                             : fail(err, SERVERD_NOMEM, "programs: no memory");
    if (status != SERVERD_OK) {
        dsl_service_destroy(service);
        return status;
    }
    *out = service;
    return SERVERD_OK;
}

/* A reference to a job that has not ended; NULL: all have. Under the lock. */
static struct dsl_job *find_open(struct dsl_service *service)
{
    for (size_t i = 0; i < JOB_BUCKETS; i++)
        for (struct dsl_job *job = service->buckets[i]; job; job = job->next_in_bucket)
            if (job->state == JOB_OPEN && !job->is_cancelled) {
                (void)atomic_fetch_add(&job->references, 1);
                return job;
            }
    return NULL;
}

void dsl_service_stop(struct dsl_service *service)
{
    struct dsl_job *job;
    (void)pthread_mutex_lock(&service->lock);
    service->is_stopping = true;
    while ((job = find_open(service)) != NULL) {
        (void)pthread_mutex_unlock(&service->lock);
        dsl_job_cancel(job);
        dsl_job_unref(job);
        (void)pthread_mutex_lock(&service->lock);
    }
    (void)pthread_cond_broadcast(&service->has_work);
    (void)pthread_cond_broadcast(&service->has_slow_work);
    (void)pthread_mutex_unlock(&service->lock);
    for (uint32_t i = 0; i < service->n_workers; i++)
        (void)pthread_join(service->workers[i].thread, NULL);
    service->n_workers = 0;
}

void dsl_service_destroy(struct dsl_service *service)
{
    if (!service)
        return;
    dsl_service_stop(service);
    while (service->first_ended)
        dsl_job_unref(dsl_service_drop_ended(service));
    (void)pthread_cond_destroy(&service->has_work);
    (void)pthread_cond_destroy(&service->has_slow_work);
    (void)pthread_cond_destroy(&service->is_free);
    (void)pthread_mutex_destroy(&service->lock);
    free(service->workers);
    free(service);
}

static bool has_to_go(const struct dsl_service *service, uint64_t now)
{
    const struct dsl_job *oldest = service->first_ended;
    return oldest && (now >= oldest->expires_ns || service->n_ended_bytes > LIMIT_DSL_ENDED_BYTES);
}

void dsl_service_tick(struct dsl_service *service)
{
    struct metrics *metrics = service->options.metrics;
    const uint64_t now = dsl_service_now(service);
    double n_branches = 0;
    (void)pthread_mutex_lock(&service->lock);
    while (has_to_go(service, now)) {
        dsl_job_unref(dsl_service_drop_ended(service));
        service->has_garbage = true;
    }
    const bool trims =
        service->has_garbage && service->n_items == 0 && now - service->trimmed_ns > LEAST_TRIM_NS;
    if (trims) {
        service->has_garbage = false;
        service->trimmed_ns = now;
    }
    for (const struct dsl_item *item = service->items; item; item = item->next)
        n_branches += item->n_branches;
    metrics_set(metrics, METRIC_PROGRAM_RUNS_ACTIVE, service->n_items);
    metrics_set(metrics, METRIC_PROGRAM_RUNS_QUEUED, service->n_queued);
    metrics_set(metrics, METRIC_PROGRAM_RUNS_WAITING_TOOL, service->n_waiting_tool);
    metrics_set(metrics, METRIC_PROGRAM_BRANCHES_ACTIVE, n_branches);
    metrics_set(metrics, METRIC_PROGRAM_LUA_MEMORY, (double)atomic_load(&service->memory));
    (void)pthread_mutex_unlock(&service->lock);
#ifdef __GLIBC__
    if (trims) /* Lua's many small pieces leave holes in the arenas of the workers */
        (void)malloc_trim(0);
#else
    (void)trims;
#endif
}

uint32_t dsl_service_n_open(struct dsl_service *service)
{
    (void)pthread_mutex_lock(&service->lock);
    const uint32_t n = service->n_open;
    (void)pthread_mutex_unlock(&service->lock);
    return n;
}

/* ---- any thread --------------------------------------------------------------------------------
 */

/* Under the lock. */
static enum dsl_start admit(const struct dsl_service *service)
{
    const bool waits = service->n_items >= service->options.max_runs;
    if (service->is_stopping)
        return DSL_START_STOPPED;
    return waits && service->n_queued >= service->options.max_queue ? DSL_START_FULL : DSL_START_OK;
}

enum dsl_start dsl_service_start(struct dsl_service *service, const struct dsl_job_setup *setup,
                                 struct dsl_job **out)
{
    struct dsl_job *job = dsl_job_create(service, setup);
    if (!job)
        return DSL_START_NO_MEMORY;
    (void)pthread_mutex_lock(&service->lock);
    const enum dsl_start how = admit(service);
    if (how == DSL_START_OK) {
        job->setup.release = setup->release;
        if (setup->is_batch) /* its runs say theirs */
            dsl_job_say_created(job);
        dsl_job_list(service, job);
        service->n_queued++;
        dsl_job_enqueue(service, job);
        (void)pthread_cond_signal(&service->has_work);
    }
    (void)pthread_mutex_unlock(&service->lock);
    if (how == DSL_START_OK) {
        *out = job;
        return how;
    }
    atomic_store(&job->references, 1);
    dsl_job_unref(job);
    return how;
}

bool dsl_service_run_errand(struct dsl_service *service, void (*run)(void *context), void *context)
{
    (void)pthread_mutex_lock(&service->lock);
    const bool fits = service->n_errands < LIMIT_DSL_ERRANDS && !service->is_stopping;
    if (fits)
        service->errands[(service->first_errand + service->n_errands++) % LIMIT_DSL_ERRANDS] =
            (struct dsl_errand){run, context};
    (void)pthread_cond_signal(&service->has_work);
    (void)pthread_mutex_unlock(&service->lock);
    return fits;
}

struct dsl_job *dsl_service_find(struct dsl_service *service, const char *id, uint64_t tenant)
{
    (void)pthread_mutex_lock(&service->lock);
    struct dsl_job *job = *dsl_service_bucket(service, id);
    while (job && (job->tenant != tenant || strcmp(job->id, id) != 0))
        job = job->next_in_bucket;
    if (job && job->state == JOB_ENDED && dsl_service_now(service) >= job->expires_ns)
        job = NULL;
    if (job)
        (void)atomic_fetch_add(&job->references, 1);
    (void)pthread_mutex_unlock(&service->lock);
    return job;
}

void dsl_job_cancel(struct dsl_job *job)
{
    struct dsl_service *service = job->service;
    (void)pthread_mutex_lock(&service->lock);
    bool ends = false;
    if (job->state == JOB_OPEN && !job->is_cancelled) {
        job->is_cancelled = true;
        if (!job->has_begun) {
            service->n_queued--;
            job->has_begun = true;
        }
        dsl_job_stop_items(service, job);
        ends = dsl_job_begin_end(job);
    }
    (void)pthread_mutex_unlock(&service->lock);
    dsl_service_kick(service);
    if (ends)
        dsl_job_end(service, job);
}

/* The next run of a job that waits or may wait for tools, from `at` on. Under the lock. */
static struct dsl_item *next_item(struct dsl_item *at, const struct dsl_job *job)
{
    while (at && (at->job != job || !at->run))
        at = at->next;
    return at;
}

bool dsl_job_post_tool_result(struct dsl_job *job, const char *call_id, const json_t *output,
                              const char *error)
{
    struct dsl_service *service = job->service;
    bool is_taken = false;
    (void)pthread_mutex_lock(&service->lock);
    struct dsl_item *item = next_item(service->items, job);
    while (item && !is_taken) {
        item->n_users++; /* it stays in the list */
        (void)pthread_mutex_unlock(&service->lock);
        is_taken = dsl_run_post_tool_result(item->run, call_id, output, error);
        (void)pthread_mutex_lock(&service->lock);
        if (--item->n_users == 0)
            (void)pthread_cond_broadcast(&service->is_free);
        item = next_item(item->next, job);
    }
    (void)pthread_mutex_unlock(&service->lock);
    dsl_service_kick(service);
    return is_taken;
}
