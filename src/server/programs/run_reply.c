/* A job as a reply: a stream of its events, or its object when it rests or has ended. */
#include "server/programs/programs_internal.h"

#include <stdlib.h>

struct reply {
    struct exchange *x;
    struct run_reply_options options;
    struct dsl_follower *follower; /* NULL: there is none yet */
    pthread_mutex_t lock;          /* of the next */
    bool has_left;
    struct run_errand errand; /* until it has been run */
};

static void post(struct reply *r, enum event_kind kind, serverd_status status)
{
    const struct event event = {.kind = kind,
                                .status = status,
                                .user = r->x,
                                .token = -1,
                                .stop_token = -1,
                                .stop_index = -1};
    struct http_worker *worker = r->x->worker; /* the exchange may go with its end */
    if (!worker_post(worker, &event))
        atomic_store(&r->x->has_lost, true);
    worker_wake(worker);
}

/* ---- the encoder: HTTP thread ------------------------------------------------------------------
 */

static void on_event(void *state, struct event *event, struct buffer *out)
{
    struct reply *r = state;
    (void)event; /* it says that there is something, or the end */
    if (r->options.is_stream && r->follower)
        dsl_follower_take(r->follower, out);
}

/* A run that failed is an error, unless its stream has said so. */
static bool set_failure(struct reply *r, struct dsl_job *job)
{
    struct program_error e;
    bool was_refused = false;
    json_t *failure = r->options.is_object ? NULL : dsl_job_failure(job, &was_refused);
    if (!failure)
        return false;
    const bool is_error = !r->options.is_stream || was_refused;
    if (is_error) {
        program_error_of_run(&e, failure, was_refused, dsl_job_program_name(job), dsl_job_id(job));
        exchange_set_result(r->x, e.status, 0, &e.body);
    }
    json_decref(failure);
    return is_error;
}

static void on_end(void *state, struct buffer *out)
{
    struct reply *r = state;
    struct dsl_job *job = dsl_follower_job(r->follower);
    if (set_failure(r, job) && !r->x->has_begun)
        return;
    if (r->options.is_stream)
        buffer_append_str(out, "data: [DONE]\n\n");
    else
        dsl_job_write(job, out);
}

static void on_error(void *state, const struct api_error *e, struct buffer *out)
{
    (void)state;
    buffer_append_str(out, "event: error\ndata: ");
    api_error_write(e, out);
    buffer_append_str(out, "\n\ndata: [DONE]\n\n");
}

static void destroy(void *state)
{
    struct reply *r = state;
    dsl_follower_destroy(r->follower);
    (void)pthread_mutex_destroy(&r->lock);
    free(r);
}

static const struct reply_encoder encoder = {
    .on_event = on_event, .on_end = on_end, .on_error = on_error, .destroy = destroy};

/* ---- the job's side ----------------------------------------------------------------------------
 */

static void tell(void *context, enum dsl_tell what)
{
    post(context, what == DSL_TELL_END ? EVENT_END : EVENT_TOKEN, SERVERD_OK);
}

/* Nobody reads any more. */
static void leave(void *state)
{
    struct reply *r = state;
    (void)pthread_mutex_lock(&r->lock);
    r->has_left = true;
    struct dsl_follower *follower = r->follower;
    (void)pthread_mutex_unlock(&r->lock);
    if (follower)
        dsl_follower_leave(follower);
}

static void end_with(struct reply *r, struct program_error *e)
{
    exchange_set_result(r->x, e->status, e->retry_after_ms, &e->body);
    post(r, EVENT_END, SERVERD_INTERNAL);
}

/* The reply is this job's, whose reference is taken over. */
static void follow(struct reply *r, struct dsl_job *job)
{
    const struct dsl_follower_setup setup = {.tell = tell,
                                             .context = r,
                                             .wants_events = r->options.is_stream,
                                             .from = r->options.from,
                                             .is_binding = r->options.is_binding};
    struct dsl_follower *follower = dsl_follower_create(job, &setup);
    struct program_error e;
    struct api_error error;
    if (!follower) {
        api_error_set(&error, "model_unavailable", NULL, "The server is out of memory.");
        program_error_of_server(&e, &error);
        end_with(r, &e);
        dsl_job_unref(job);
        return;
    }
    (void)pthread_mutex_lock(&r->lock);
    r->follower = follower;
    const bool has_left = r->has_left;
    (void)pthread_mutex_unlock(&r->lock);
    if (has_left)
        dsl_follower_leave(follower);
    const enum dsl_following how = dsl_follower_begin(follower); /* r may be gone behind it */
    if (how == DSL_FOLLOWING_OVER)
        tell(r, DSL_TELL_END);
    if (how == DSL_FOLLOWING_FULL && r->options.is_object && !r->options.is_stream) {
        tell(r, DSL_TELL_END); /* as it is now */
    } else if (how == DSL_FOLLOWING_FULL) {
        api_error_set(&error, "rate_limit_exceeded", NULL, "%u replies wait for this run.",
                      LIMIT_FOLLOWERS);
        program_error_of_server(&e, &error);
        end_with(r, &e);
    }
    dsl_job_unref(job);
}

/* NULL: the reply says so. */
static struct reply *begin(struct exchange *x, const struct run_reply_options *options)
{
    struct reply *r = calloc(1, sizeof *r);
    if (!r) {
        struct api_error e;
        api_error_set(&e, "model_unavailable", NULL, "The server is out of memory.");
        exchange_fail(x, &e);
        return NULL;
    }
    r->x = x;
    r->options = *options;
    (void)pthread_mutex_init(&r->lock, NULL);
    exchange_attend(x, &encoder, r, leave, options->is_stream);
    return x->phase == PHASE_GENERATING ? r : NULL;
}

void run_reply(struct exchange *x, struct dsl_job *job, const struct run_reply_options *options)
{
    struct reply *r = begin(x, options);
    if (r)
        follow(r, job);
    else
        dsl_job_unref(job);
}

static void run_errand(void *context)
{
    struct reply *r = context;
    const struct run_errand errand = r->errand;
    struct program_error e;
    struct dsl_job *job = errand.begin(errand.state, r->x, &e);
    errand.drop(errand.state);
    if (job)
        follow(r, job);
    else
        end_with(r, &e);
}

void run_reply_after(struct exchange *x, const struct run_errand *errand,
                     const struct run_reply_options *options)
{
    struct reply *r = begin(x, options);
    struct program_error e;
    struct api_error error;
    if (!r) {
        errand->drop(errand->state);
        return;
    }
    r->errand = *errand;
    if (dsl_service_run_errand(programs_of(x)->service, run_errand, r))
        return;
    errand->drop(errand->state);
    api_error_set(&error, "model_unavailable", NULL,
                  "Too many texts of programs wait to be read. Please try again.");
    program_error_of_server(&e, &error);
    end_with(r, &e);
}

void run_reply_now(struct exchange *x, struct dsl_job *job, int status)
{
    struct buffer body;
    buffer_init(&body, SIZE_MAX / 2);
    dsl_job_write(job, &body);
    exchange_reply(x, status, "application/json", &body);
}
