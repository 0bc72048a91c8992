/* What is seen of a job: its events, its object, those who follow it. */
#include "base/hash.h"
#include "base/numeric.h"
#include "frontend_dsl/dsl_json.h"
#include "frontend_dsl/dsl_program.h"
#include "frontend_dsl/service_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- life --------------------------------------------------------------------------------------
 */

static void make_id(struct dsl_job *job)
{
    uint8_t random[12] = {0};
    serverd_error ignored; /* an id without randomness is still an id */
    (void)random_bytes(random, sizeof random, &ignored);
    int n = snprintf(job->id, sizeof job->id, "%s", job->setup.is_batch ? "pbatch_" : "prun_");
    for (size_t i = 0; i < sizeof random; i++)
        n += snprintf(job->id + n, sizeof job->id - (size_t)n, "%02x", random[i]);
}

struct dsl_job *dsl_job_create(struct dsl_service *service, const struct dsl_job_setup *setup)
{
    struct dsl_job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    const struct clock *clock = service->options.clock;
    const uint32_t most = service->options.batch_parallel, wanted = setup->max_parallel;
    atomic_init(&job->references, 2); /* the caller's and the service's */
    job->service = service;
    job->setup = *setup;
    job->tenant = setup->run.tenant;
    job->seed = setup->seed;
    job->arrival_ns = clock_now_ns(clock);
    job->created = clock_wall_seconds(clock);
    job->n_items = setup->items ? json_array_size(setup->items) : 1;
    job->max_parallel = wanted == 0 || wanted > most ? most : wanted;
    job->keeps_events = setup->keeps_events;
    (void)pthread_mutex_init(&job->lock, NULL);
    event_log_init(&job->log);
    make_id(job);
    job->program_name = strdup(setup->program_name);
    job->results = calloc(job->n_items ? job->n_items : 1, sizeof(json_t *));
    json_incref(setup->body);
    json_incref((json_t *)setup->items);
    dsl_program_ref(setup->run.program);
    job->setup.release = NULL; /* until the job is sure to begin */
    if (job->program_name && job->results)
        return job;
    atomic_store(&job->references, 1);
    dsl_job_unref(job);
    return NULL;
}

void dsl_job_unref(struct dsl_job *job)
{
    if (!job || atomic_fetch_sub(&job->references, 1) != 1)
        return;
    for (size_t i = 0; job->results && i < job->n_items; i++)
        json_decref(job->results[i]);
    free(job->results);
    free(job->program_name);
    free(job->object);
    json_decref(job->failure);
    (void)atomic_fetch_sub(&job->service->n_event_bytes, job->log.frames.len);
    event_log_deinit(&job->log);
    json_decref(job->setup.body);
    json_decref((json_t *)job->setup.items);
    dsl_program_unref(job->setup.run.program);
    (void)pthread_mutex_destroy(&job->lock);
    free(job);
}

const char *dsl_job_id(const struct dsl_job *job)
{
    return job->id;
}

const char *dsl_job_program_name(const struct dsl_job *job)
{
    return job->program_name;
}

bool dsl_job_is_batch(const struct dsl_job *job)
{
    return job->setup.is_batch;
}

/* ---- objects -----------------------------------------------------------------------------------
 */

json_t *dsl_job_stub(const struct dsl_job *job, const char *status, json_t *failure)
{
    return json_pack("{s:s, s:I, s:n, s:{}, s:s, s:n, s:n, s:o?}", "status", status, "seed",
                     (json_int_t)job->seed, "value", "variables", "log", "", "required_action",
                     "usage", "error", failure);
}

/* What every object begins with. */
static json_t *head(const struct dsl_job *job, const char *kind)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s}", "id", job->id, "object", kind, "created",
                     (json_int_t)job->created, "model", job->setup.run.model.name, "program",
                     job->program_name);
}

json_t *dsl_item_result(const struct dsl_job *job, size_t index, const char *run_id, json_t *object)
{
    const json_t *item = json_array_get(job->setup.items, index);
    json_t *id = json_object_get(item, "id");
    if (!object)
        return NULL;
    if (!job->setup.is_batch)
        return object;
    bool is_whole = json_object_set_new(object, "index", json_integer((json_int_t)index)) == 0;
    is_whole &= json_object_set_new(object, "run", json_string(run_id)) == 0;
    is_whole &= (id ? json_object_set(object, "id", id)
                    : json_object_set_new(object, "id", json_string(run_id))) == 0;
    if (is_whole)
        return object;
    json_decref(object);
    return NULL;
}

/* The sum of what the runs used. */
static json_t *sum_usage(const struct dsl_job *job, json_t *const *results)
{
    json_t *sum = json_object();
    for (size_t i = 0; sum && i < job->n_items; i++) {
        const char *name;
        json_t *value;
        json_object_foreach(json_object_get(results[i], "usage"), name, value)
        {
            const json_int_t before = json_integer_value(json_object_get(sum, name));
            (void)json_object_set_new(sum, name, json_integer(before + json_integer_value(value)));
        }
    }
    return sum;
}

/* The calls that all runs wait for, each with the run's id; NULL: there are none. */
static json_t *gather_calls(const struct dsl_job *job, json_t *const *results)
{
    json_t *calls = json_array();
    for (size_t i = 0; calls && i < job->n_items; i++) {
        const json_t *action = json_object_get(results[i], "required_action");
        size_t at;
        json_t *call;
        json_array_foreach(json_object_get(action, "tool_calls"), at, call)
        {
            json_t *own = json_copy(call);
            (void)json_object_set(own, "run", json_object_get(results[i], "run"));
            (void)json_array_append_new(calls, own);
        }
    }
    if (json_array_size(calls) > 0)
        return json_pack("{s:s, s:o}", "type", "tool_calls", "tool_calls", calls);
    json_decref(calls);
    return NULL;
}

/* Those that never began are as those that were cancelled. */
static json_t *list_results(const struct dsl_job *job, json_t *const *results, bool has_ended)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < job->n_items; i++) {
        json_t *own = results[i] ? json_incref(results[i]) : NULL;
        if (!own)
            own = dsl_item_result(job, i, job->id,
                                  dsl_job_stub(job, has_ended ? "cancelled" : "queued", NULL));
        (void)json_array_append_new(list, own);
    }
    return list;
}

json_t *dsl_job_object(const struct dsl_job *job, const char *status, json_t *const *results)
{
    json_t *object = head(job, job->setup.is_batch ? "program.batch" : "program.run");
    if (!job->setup.is_batch) {
        if (object && results[0])
            (void)json_object_update_missing(object, results[0]);
        return object;
    }
    const bool rests = strcmp(status, "requires_action") == 0;
    json_t *action = rests ? gather_calls(job, results) : NULL;
    json_t *rest = json_pack("{s:s, s:I, s:o?, s:o, s:o}", "status", status, "seed",
                             (json_int_t)job->seed, "required_action", action, "results",
                             list_results(job, results, !rests), "usage", sum_usage(job, results));
    if (object && rest)
        (void)json_object_update_missing(object, rest);
    json_decref(rest);
    return object;
}

/* Of a job that goes on. Under service->lock. */
static json_t *running_object(const struct dsl_job *job)
{
    const char *status = job->has_begun ? "running" : "queued";
    json_t *object = head(job, job->setup.is_batch ? "program.batch" : "program.run");
    json_t *rest =
        job->setup.is_batch
            ? json_pack("{s:s, s:I, s:n, s:n, s:n, s:{s:I, s:I, s:I}}", "status", status, "seed",
                        (json_int_t)job->seed, "required_action", "results", "usage",
                        "request_counts", "total", (json_int_t)job->n_items, "ended",
                        (json_int_t)job->n_ended, "failed", (json_int_t)job->n_failed)
            : dsl_job_stub(job, status, NULL);
    if (object && rest)
        (void)json_object_update_missing(object, rest);
    json_decref(rest);
    return object;
}

void dsl_job_write(struct dsl_job *job, struct buffer *out)
{
    struct dsl_service *service = job->service;
    (void)pthread_mutex_lock(&service->lock);
    (void)pthread_mutex_lock(&job->lock);
    json_t *object = NULL;
    if (job->is_at_rest && job->object)
        buffer_append_str(out, job->object);
    else
        object = running_object(job);
    (void)pthread_mutex_unlock(&job->lock);
    (void)pthread_mutex_unlock(&service->lock);
    char *text = object ? dsl_json_text(object, NULL) : NULL;
    if (text)
        buffer_append_str(out, text);
    free(text);
    json_decref(object);
}

json_t *dsl_job_failure(struct dsl_job *job, bool *was_refused)
{
    (void)pthread_mutex_lock(&job->lock);
    json_t *failure = json_incref(job->failure);
    *was_refused = job->has_refusal;
    (void)pthread_mutex_unlock(&job->lock);
    return failure;
}

/* ---- events ------------------------------------------------------------------------------------
 */

/* Under the lock: there is something to take. */
static void tell_all(struct dsl_job *job)
{
    for (uint32_t i = 0; i < job->n_followers; i++) {
        struct dsl_follower *f = job->followers[i];
        if (!f->setup.wants_events || f->is_told)
            continue;
        f->is_told = true;
        f->setup.tell(f->setup.context, DSL_TELL_NEWS);
    }
}

/* Under the lock: the last call to all of them. */
static void end_all(struct dsl_job *job)
{
    for (uint32_t i = 0; i < job->n_followers; i++) {
        struct dsl_follower *f = job->followers[i];
        f->is_listed = false;
        f->end = job->log.frames.len;
        f->setup.tell(f->setup.context, DSL_TELL_END);
    }
    job->n_followers = 0;
}

/* Under the lock. */
static bool add_event(struct dsl_job *job, const char *event, const char *data, size_t n,
                      bool is_last)
{
    _Atomic size_t *all = &job->service->n_event_bytes;
    const size_t before = job->log.frames.len;
    if (!is_last && atomic_load(all) > LIMIT_DSL_ALL_EVENT_BYTES)
        return false;
    const bool is_good = event_log_add(&job->log, event, data, n, is_last);
    (void)atomic_fetch_add(all, job->log.frames.len - before);
    return is_good;
}

static bool keeps_events(struct dsl_job *job)
{
    (void)pthread_mutex_lock(&job->lock);
    const bool is_kept = job->keeps_events;
    (void)pthread_mutex_unlock(&job->lock);
    return is_kept;
}

bool dsl_item_listens(void *context)
{
    return keeps_events(((struct dsl_item *)context)->job);
}

/* An event with `run` in front of its data; false: there was no room. */
static bool say(struct dsl_job *job, const char *run_id, const char *event, const json_t *data)
{
    struct buffer text;
    if (!keeps_events(job))
        return true;
    char *own = dsl_json_text(data, NULL);
    buffer_init(&text, LIMIT_DSL_EVENT_BYTES);
    if (own)
        buffer_printf(&text, "{\"run\":\"%s\"%s%s", run_id, own[1] == '}' ? "" : ",", own + 1);
    bool is_good = own && !text.is_failed;
    free(own);
    if (is_good) {
        (void)pthread_mutex_lock(&job->lock);
        is_good = add_event(job, event, text.data, text.len, false);
        if (is_good)
            tell_all(job);
        (void)pthread_mutex_unlock(&job->lock);
    }
    buffer_deinit(&text);
    return is_good;
}

void dsl_item_emit(void *context, const char *event, json_t *data)
{
    struct dsl_item *item = context;
    struct dsl_service *service = item->job->service;
    const bool is_good = say(item->job, item->id, event, data);
    json_decref(data);
    if (is_good)
        return;
    (void)pthread_mutex_lock(&service->lock); /* a stream with a hole is none */
    item->stop = "memory_limit";
    item->is_woken = true;
    (void)pthread_mutex_unlock(&service->lock);
}

void dsl_job_say_created(struct dsl_job *job)
{
    json_t *data = json_pack("{s:n, s:I, s:I}", "branch", "seed", (json_int_t)job->seed, "items",
                             (json_int_t)job->n_items);
    if (data)
        (void)say(job, job->id, "run.created", data);
    json_decref(data);
}

bool dsl_job_say_done(struct dsl_job *job, size_t index, const json_t *result)
{
    json_t *data = json_pack("{s:I, s:O}", "index", (json_int_t)index, "result", result);
    const bool is_good = data && say(job, job->id, "item.done", data);
    json_decref(data);
    return is_good;
}

void dsl_job_publish(struct dsl_job *job, const char *event, char *text, json_t *failure)
{
    struct buffer data;
    buffer_init(&data, SIZE_MAX / 2);
    (void)pthread_mutex_lock(&job->lock);
    /* a run that waits still, and had only to let go of its pages, has nothing to say */
    const bool is_news = !job->object || !text || strcmp(job->object, text) != 0;
    if (job->keeps_events && is_news && text) {
        buffer_printf(&data, "{\"run\":\"%s\",%s", job->id, text + 1);
        if (!data.is_failed)
            (void)add_event(job, event, data.data, data.len, true);
    }
    free(job->object);
    job->object = text;
    job->failure = failure;
    job->has_refusal = job->was_refused;
    job->is_at_rest = true;
    job->n_bytes = job->log.frames.cap + (text ? strlen(text) : 0) + sizeof *job;
    end_all(job);
    (void)pthread_mutex_unlock(&job->lock);
    buffer_deinit(&data);
}

void dsl_job_resume(struct dsl_job *job)
{
    (void)pthread_mutex_lock(&job->lock);
    job->is_at_rest = false;
    (void)pthread_mutex_unlock(&job->lock);
}

/* ---- followers ---------------------------------------------------------------------------------
 */

struct dsl_follower *dsl_follower_create(struct dsl_job *job,
                                         const struct dsl_follower_setup *setup)
{
    struct dsl_follower *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    (void)atomic_fetch_add(&job->references, 1);
    f->job = job;
    f->setup = *setup;
    return f;
}

enum dsl_following dsl_follower_begin(struct dsl_follower *f)
{
    struct dsl_job *job = f->job;
    enum dsl_following how = DSL_FOLLOWING;
    (void)pthread_mutex_lock(&job->lock);
    f->at = event_log_start(&job->log, f->setup.from);
    f->end = job->log.frames.len;
    if (job->is_at_rest || f->has_left) {
        how = DSL_FOLLOWING_OVER;
    } else if (job->n_followers == LIMIT_FOLLOWERS) {
        how = DSL_FOLLOWING_FULL;
    } else {
        job->keeps_events |= f->setup.wants_events;
        f->is_listed = true;
        job->followers[job->n_followers++] = f;
        f->is_told = f->setup.wants_events && f->end > f->at;
        if (f->is_told)
            f->setup.tell(f->setup.context, DSL_TELL_NEWS);
    }
    (void)pthread_mutex_unlock(&job->lock);
    return how;
}

uint64_t dsl_job_next_event(struct dsl_job *job)
{
    (void)pthread_mutex_lock(&job->lock);
    const uint64_t n = job->log.n;
    (void)pthread_mutex_unlock(&job->lock);
    return n;
}

void dsl_job_keep_events(struct dsl_job *job)
{
    (void)pthread_mutex_lock(&job->lock);
    job->keeps_events = true;
    (void)pthread_mutex_unlock(&job->lock);
}

void dsl_follower_take(struct dsl_follower *f, struct buffer *out)
{
    struct dsl_job *job = f->job;
    (void)pthread_mutex_lock(&job->lock);
    const size_t end = f->is_listed ? job->log.frames.len : f->end;
    /* the first event may not have been there when it began to follow */
    const size_t begin = max_size(f->at, event_log_start(&job->log, f->setup.from));
    f->is_told = false;
    if (end > begin)
        buffer_append(out, job->log.frames.data + begin, end - begin);
    f->at = end;
    (void)pthread_mutex_unlock(&job->lock);
}

struct dsl_job *dsl_follower_job(struct dsl_follower *f)
{
    return f->job;
}

void dsl_follower_leave(struct dsl_follower *f)
{
    struct dsl_job *job = f->job;
    (void)pthread_mutex_lock(&job->lock);
    const bool is_first = !f->has_left && !job->is_at_rest, was_listed = f->is_listed;
    f->has_left = true;
    for (uint32_t i = 0; was_listed && i < job->n_followers; i++) {
        if (job->followers[i] != f)
            continue;
        job->followers[i] = job->followers[--job->n_followers];
        f->is_listed = false;
        f->end = f->at;
        f->setup.tell(f->setup.context, DSL_TELL_END);
    }
    (void)pthread_mutex_unlock(&job->lock);
    if (is_first && f->setup.is_binding && !job->setup.is_background)
        dsl_job_cancel(job);
}

void dsl_follower_destroy(struct dsl_follower *f)
{
    if (!f)
        return;
    dsl_job_unref(f->job);
    free(f);
}
