/* The end of jobs, and their rests: objects are made without locks, and said under them. */
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/service_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the end of jobs ---------------------------------------------------------------------------
 */

/* References to all results: others may replace them. Under the lock; NULL: no memory. */
static json_t **copy_results(const struct dsl_job *job)
{
    json_t **copy = calloc(job->n_items ? job->n_items : 1, sizeof *copy);
    for (size_t i = 0; copy && i < job->n_items; i++)
        copy[i] = json_incref(job->results[i]);
    return copy;
}

static void free_results(const struct dsl_job *job, json_t **results)
{
    for (size_t i = 0; results && i < job->n_items; i++)
        json_decref(results[i]);
    free(results);
}

static char *object_text(const struct dsl_job *job, const char *status, json_t **results)
{
    json_t *object = results ? dsl_job_object(job, status, results) : NULL;
    char *text = object ? dsl_json_text(object, NULL) : NULL;
    json_decref(object);
    return text ? text : strdup("{\"error\":{\"code\":\"memory_limit\"},\"status\":\"failed\"}");
}

/* Nothing of it goes on. Under the lock; true: the caller ends it. */
bool dsl_job_begin_end(struct dsl_job *job)
{
    const bool all = job->is_stopped || job->next_item == job->n_items;
    if (job->state != JOB_OPEN || !all || job->n_active > 0)
        return false;
    job->state = JOB_ENDING;
    return true;
}

/* What a job becomes when its last run has ended. Without locks. */
void dsl_job_end(struct dsl_service *service, struct dsl_job *job)
{
    static const char *const events[] = {"completed", "failed", "cancelled"};
    const bool is_batch = job->setup.is_batch;
    if (!is_batch && !job->results[0]) /* its turn never came */
        job->results[0] = dsl_job_stub(job, "cancelled",
                                       json_pack("{s:s, s:s}", "code", "cancelled", "message",
                                                 "The run was cancelled before it began."));
    const char *status = json_string_value(json_object_get(job->results[0], "status"));
    if (is_batch)
        status = job->is_cancelled ? "cancelled" : "completed";
    (void)atomic_fetch_add(&job->references, 1); /* it may be dropped once it has ended */
    char *text = object_text(job, status ? status : "cancelled", job->results);
    json_t *failure = is_batch ? NULL : json_object_get(job->results[0], "error");
    char event[32] = "run.failed";
    for (size_t i = 0; i < 3; i++)
        if (status && strcmp(status, events[i]) == 0)
            (void)snprintf(event, sizeof event, "run.%s", events[i]);
    const double seconds = (double)(dsl_service_now(service) - job->arrival_ns) * 1e-9;
    metrics_observe(service->options.metrics, METRIC_PROGRAM_RUN_SECONDS, seconds);
    (void)pthread_mutex_lock(&service->lock);
    dsl_job_publish(job, is_batch ? "batch.completed" : event, text,
                    json_is_object(failure) ? json_incref(failure) : NULL);
    free_results(job, job->results); /* the text has them */
    job->results = NULL;
    job->state = JOB_ENDED;
    dsl_job_keep_ended(service, job);
    (void)pthread_cond_broadcast(&service->has_work); /* a stop waits for this */
    (void)pthread_mutex_unlock(&service->lock);
    if (job->setup.release)
        job->setup.release(job->setup.release_context, job->n_tokens);
    dsl_job_unref(job);
}

/* Whether all that has begun waits for tools, and nothing else may begin. Under the lock. */
static bool rests(const struct dsl_job *job)
{
    const bool may_begin =
        !job->is_stopped && job->next_item < job->n_items && job->n_active < job->max_parallel;
    return job->state == JOB_OPEN && job->n_active > 0 && job->n_waiting == job->n_active &&
           !may_begin;
}

/* The job may have come to rest: its object is made without the lock, and counts if nothing has
 * gone on meanwhile. Called with the lock, which is free in between. */
void dsl_job_look_for_rest(struct dsl_service *service, struct dsl_job *job)
{
    if (!rests(job))
        return;
    const uint64_t serial = job->serial;
    json_t **results = copy_results(job);
    (void)atomic_fetch_add(&job->references, 1);
    (void)pthread_mutex_unlock(&service->lock);
    char *text = object_text(job, "requires_action", results);
    free_results(job, results);
    (void)pthread_mutex_lock(&service->lock);
    if (text && rests(job) && job->serial == serial)
        dsl_job_publish(job, "run.requires_action", text, NULL);
    else
        free(text);
    (void)pthread_mutex_unlock(&service->lock);
    dsl_job_unref(job);
    (void)pthread_mutex_lock(&service->lock);
}
