#include "base/error.h"
#include "server/server_internal.h"

#include <errno.h>

void job_thread_init(struct job_thread *jobs, struct server *server)
{
    jobs->server = server;
    (void)pthread_mutex_init(&jobs->mutex, NULL);
    (void)pthread_cond_init(&jobs->has_changed, NULL);
}

void job_thread_deinit(struct job_thread *jobs)
{
    (void)pthread_cond_destroy(&jobs->has_changed);
    (void)pthread_mutex_destroy(&jobs->mutex);
}

bool job_thread_put(struct job_thread *jobs, const struct server_job *job)
{
    (void)pthread_mutex_lock(&jobs->mutex);
    bool fits = jobs->n < LIMIT_SERVER_JOBS && !jobs->is_stopping;
    if (fits)
        jobs->jobs[(jobs->first + jobs->n++) % LIMIT_SERVER_JOBS] = *job;
    (void)pthread_cond_signal(&jobs->has_changed);
    (void)pthread_mutex_unlock(&jobs->mutex);
    return fits;
}

uint32_t job_thread_n_jobs(struct job_thread *jobs)
{
    (void)pthread_mutex_lock(&jobs->mutex);
    const uint32_t n = jobs->n;
    (void)pthread_mutex_unlock(&jobs->mutex);
    return n;
}

/* ---- the thread --------------------------------------------------------------------------------
 */

/* Waits for a job. False: the thread has to stop and nothing waits. */
static bool take(struct job_thread *jobs, struct server_job *out, bool *is_stopping)
{
    (void)pthread_mutex_lock(&jobs->mutex);
    while (jobs->n == 0 && !jobs->is_stopping)
        (void)pthread_cond_wait(&jobs->has_changed, &jobs->mutex);
    bool is_there = jobs->n > 0;
    *is_stopping = jobs->is_stopping;
    if (is_there)
        *out = jobs->jobs[jobs->first];
    (void)pthread_mutex_unlock(&jobs->mutex);
    return is_there;
}

static void forget_first(struct job_thread *jobs)
{
    (void)pthread_mutex_lock(&jobs->mutex);
    jobs->first = (jobs->first + 1) % LIMIT_SERVER_JOBS;
    jobs->n--;
    (void)pthread_mutex_unlock(&jobs->mutex);
}

void server_end_job(struct server *server, struct exchange *x, serverd_status status)
{
    const struct event event = {.kind = EVENT_END,
                                .status = status,
                                .user = x,
                                .token = -1,
                                .stop_token = -1,
                                .stop_index = -1};
    server_put_events(server, &event, 1);
}

static void do_job(struct server *server, const struct server_job *job, bool is_stopping)
{
    struct exchange *x = job->x;
    struct api_error e;
    if (job->work) {
        job->work(x, is_stopping);
        return;
    }
    bool is_done = !is_stopping && job->run(x->encoder_state, exchange_model(x), &e);
    if (!is_done) {
        if (atomic_load(&server->is_draining))
            api_error_set(&e, "draining", NULL, "The server is going down.");
        x->job_error = e;
    }
    server_end_job(server, x, is_done ? SERVERD_OK : SERVERD_INTERNAL);
}

static void *serve(void *context)
{
    struct job_thread *jobs = context;
    struct server_job job;
    bool is_stopping;
    while (take(jobs, &job, &is_stopping)) {
        do_job(jobs->server, &job, is_stopping);
        forget_first(jobs);
    }
    return NULL;
}

serverd_status job_thread_start(struct job_thread *jobs, serverd_error *err)
{
    int code = pthread_create(&jobs->thread, NULL, serve, jobs);
    if (code != 0) {
        errno = code;
        return fail(err, SERVERD_INTERNAL, "server: thread: %m");
    }
    jobs->has_thread = true;
    (void)pthread_setname_np(jobs->thread, "jobs");
    return SERVERD_OK;
}

void job_thread_stop(struct job_thread *jobs)
{
    if (!jobs->has_thread)
        return;
    (void)pthread_mutex_lock(&jobs->mutex);
    jobs->is_stopping = true;
    (void)pthread_cond_signal(&jobs->has_changed);
    (void)pthread_mutex_unlock(&jobs->mutex);
    (void)pthread_join(jobs->thread, NULL);
    jobs->has_thread = false;
}
