#include "server/data/data_thread.h"

#include "base/error.h"
#include "base/numeric.h"
#include "server/data/batch_run.h"
#include "server/data/upload.h"
#include "server/server_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define SWEEP_SECONDS 60u

/* Lines of batches stand back behind whatever clients ask for. */
#define BATCH_PRIORITY (-1000)

struct data_job {
    struct exchange *x; /* with a reference */
    bool (*run)(void *state, struct data_thread *data, struct api_error *e);
};

struct data_thread {
    struct server *server;
    struct file_store *files;
    struct batches *batches;
    uint32_t wait_ms; /* until the batches want their turn; the thread's */
    pthread_t thread;
    bool has_thread;
    uint64_t swept_ns; /* the thread's */

    pthread_mutex_t mutex; /* of all below */
    pthread_cond_t has_changed;
    bool is_stopping, is_woken;
    struct data_job jobs[LIMIT_DATA_JOBS]; /* a ring; the first one is being done */
    uint32_t first, n;
};

struct file_store *data_thread_files(struct data_thread *data)
{
    return data->files;
}

struct batches *data_thread_batches(struct data_thread *data)
{
    return data->batches;
}

const struct clock *data_thread_clock(const struct data_thread *data)
{
    return data->server->context.clock;
}

void data_thread_error(struct data_thread *data, const serverd_error *err, struct api_error *e)
{
    log_error(data->server->context.log, "files", "%s", err->text);
    store_error(e, err);
}

bool data_thread_put(struct data_thread *data, struct exchange *x,
                     bool (*run)(void *state, struct data_thread *data, struct api_error *e))
{
    (void)pthread_mutex_lock(&data->mutex);
    const bool fits = data->n < LIMIT_DATA_JOBS && !data->is_stopping;
    if (fits)
        data->jobs[(data->first + data->n++) % LIMIT_DATA_JOBS] =
            (struct data_job){.x = x, .run = run};
    (void)pthread_cond_signal(&data->has_changed);
    (void)pthread_mutex_unlock(&data->mutex);
    return fits;
}

/* ---- the thread --------------------------------------------------------------------------------
 */

/* Under the mutex. */
static void wait_for(struct data_thread *data, uint32_t ms)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    (void)pthread_cond_timedwait(&data->has_changed, &data->mutex, &until); /* or not that long */
}

static void do_job(struct data_thread *data, const struct data_job *job, bool is_stopping)
{
    struct exchange *x = job->x;
    struct api_error e;
    if (is_stopping)
        api_error_set(&e, "draining", NULL, "The server is going down.");
    const bool is_done = !is_stopping && job->run(x->encoder_state, data, &e);
    if (!is_done)
        x->job_error = e;
    server_end_job(data->server, x, is_done ? SERVERD_OK : SERVERD_INTERNAL);
}

/* Does the jobs that wait. False: the thread has to end. */
static bool do_jobs(struct data_thread *data)
{
    (void)pthread_mutex_lock(&data->mutex);
    if (data->n == 0 && !data->is_stopping && !data->is_woken && data->wait_ms > 0)
        wait_for(data, data->wait_ms);
    data->is_woken = false;
    while (data->n > 0) {
        const struct data_job job = data->jobs[data->first];
        const bool is_stopping = data->is_stopping;
        (void)pthread_mutex_unlock(&data->mutex);
        do_job(data, &job, is_stopping);
        (void)pthread_mutex_lock(&data->mutex);
        data->first = (data->first + 1) % LIMIT_DATA_JOBS;
        data->n--;
    }
    const bool goes_on = !data->is_stopping;
    (void)pthread_mutex_unlock(&data->mutex);
    return goes_on;
}

static void sweep(struct data_thread *data)
{
    const struct server_context *context = &data->server->context;
    const uint64_t now = clock_now_ns(context->clock);
    serverd_error err;
    if (now - data->swept_ns < SWEEP_SECONDS * UINT64_C(1000000000))
        return;
    data->swept_ns = now;
    const int64_t wall = clock_wall_seconds(context->clock);
    if (file_store_sweep(data->files, wall, &err) ||
        store_forget_batches(data->files->index, wall - LIMIT_BATCH_AGE, &err))
        log_warn(context->log, "files", "old files stay for now: %s", err.text);
}

static void show(struct data_thread *data)
{
    struct metrics *metrics = data->server->context.metrics;
    metrics_set(metrics, METRIC_FILES, (double)atomic_load(&data->files->n_files));
    metrics_set(metrics, METRIC_FILE_BYTES, (double)atomic_load(&data->files->n_bytes));
}

static void *serve(void *context)
{
    struct data_thread *data = context;
    while (do_jobs(data)) {
        data->wait_ms = batches_advance(data->batches);
        sweep(data);
        show(data);
    }
    return NULL;
}

/* ---- the lines of batches ----------------------------------------------------------------------
 */

static bool takes_lines(void *context)
{
    const struct data_thread *data = context;
    return !model_set_is_starting(&data->server->models) &&
           !atomic_load(&data->server->is_draining);
}

static void end_line(void *context, const struct detached_result *result)
{
    batches_line_ended(context, &(struct batch_reply){.status = result->status,
                                                      .bytes = result->bytes,
                                                      .n = result->n,
                                                      .request_id = result->request_id,
                                                      .retry_after_ms = result->retry_after_ms});
}

static uint64_t submit_line(void *context, const struct batch_call *call)
{
    const struct data_thread *data = context;
    const struct detached_request request = {.method = "POST",
                                             .path = call->path,
                                             .body = call->body,
                                             .n_body = call->n_body,
                                             .tenant = call->tenant,
                                             .max_priority = BATCH_PRIORITY,
                                             .sink = {.on_end = end_line, .context = call->slot}};
    return detached_submit(data->server, &request);
}

static void cancel_line(void *context, uint64_t number)
{
    const struct data_thread *data = context;
    detached_cancel(data->server, number);
}

static void wake(void *context)
{
    struct data_thread *data = context;
    (void)pthread_mutex_lock(&data->mutex);
    data->is_woken = true;
    (void)pthread_cond_signal(&data->has_changed);
    (void)pthread_mutex_unlock(&data->mutex);
}

/* ---- life --------------------------------------------------------------------------------------
 */

static void init_queue(struct data_thread *data)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&data->mutex, NULL);
    (void)pthread_cond_init(&data->has_changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

static serverd_status open_batches(struct data_thread *data, serverd_error *err)
{
    const struct server_context *context = &data->server->context;
    const struct batches_setup setup = {
        .files = data->files,
        .clock = context->clock,
        .log = context->log,
        .metrics = context->metrics,
        .runner = {takes_lines, submit_line, cancel_line, wake, data},
        .max_running = min_u32((uint32_t)context->options->batch_running, LIMIT_BATCH_RUNNING),
        .max_line = context->options->max_body};
    return batches_create(&setup, &data->batches, err);
}

static serverd_status start(struct data_thread *data, serverd_error *err)
{
    const int code = pthread_create(&data->thread, NULL, serve, data);
    if (code != 0) {
        errno = code;
        return fail(err, SERVERD_INTERNAL, "server: thread: %m");
    }
    data->has_thread = true;
    (void)pthread_setname_np(data->thread, "data");
    return SERVERD_OK;
}

serverd_status data_thread_create(struct server *server, const char *folder,
                                  struct data_thread **out, serverd_error *err)
{
    struct data_thread *data = calloc(1, sizeof *data);
    if (!data)
        return fail(err, SERVERD_NOMEM, "data-path: no memory");
    data->server = server;
    init_queue(data);
    serverd_status status =
        file_store_open(folder, server->context.options->data_size, &data->files, err);
    if (status == SERVERD_OK)
        status = open_batches(data, err);
    if (status == SERVERD_OK)
        status = start(data, err);
    if (status == SERVERD_OK)
        *out = data;
    else
        data_thread_destroy(data);
    return status;
}

void data_thread_stop(struct data_thread *data)
{
    if (!data || !data->has_thread)
        return;
    (void)pthread_mutex_lock(&data->mutex);
    data->is_stopping = true;
    (void)pthread_cond_signal(&data->has_changed);
    (void)pthread_mutex_unlock(&data->mutex);
    (void)pthread_join(data->thread, NULL);
    data->has_thread = false;
}

void data_thread_destroy(struct data_thread *data)
{
    if (!data)
        return;
    data_thread_stop(data);
    batches_destroy(data->batches);
    file_store_close(data->files);
    (void)pthread_cond_destroy(&data->has_changed);
    (void)pthread_mutex_destroy(&data->mutex);
    free(data);
}
