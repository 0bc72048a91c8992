/* Workers: they begin runs, let them go on in slices, and look at the time. */
#include "base/cpu_pause.h"
#include "base/numeric.h"
#include "frontend_dsl/dsl_program.h"
#include "frontend_dsl/service_internal.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SECOND_NS    UINT64_C(1000000000)
#define GAPS_AT_ONCE 32u
/* Who computes has cpu_ms of a processor; by the clock so much longer, and ends within a second. */
#define COMPUTE_SLACK_NS UINT64_C(700000000)
#define LONGEST_SPIN_NS  UINT64_C(500000) /* in which a step's tokens are drawn */

/* ---- items -------------------------------------------------------------------------------------
 */

/* The limits of a run of the job: the request's, or the program's if they are less. */
static struct dsl_limits limits_of(const struct dsl_job *job)
{
    struct dsl_limits limits = job->setup.run.limits;
    serverd_error ignored; /* they were checked when the program was read */
    (void)dsl_limits_lower(&limits, job->setup.run.program->limits, &ignored);
    return limits;
}

static struct dsl_item *new_item(struct dsl_job *job, size_t index)
{
    struct dsl_item *item = calloc(1, sizeof *item);
    if (!item)
        return NULL;
    item->job = job;
    item->index = (uint32_t)index;
    item->timer_ns = UINT64_MAX;
    const struct dsl_limits limits = limits_of(job); /* before other workers see it */
    item->deadline_ns = limits.deadline_s * SECOND_NS;
    item->compute_ns = limits.cpu_ms * (SECOND_NS / 1000) + COMPUTE_SLACK_NS;
    if (job->setup.is_batch)
        (void)snprintf(item->id, sizeof item->id, "%s.%zu", job->id, index);
    else
        (void)snprintf(item->id, sizeof item->id, "%s", job->id);
    return item;
}

/* A seed of the item's own, or its share of the job's. */
static uint64_t seed_of(const struct dsl_job *job, size_t index)
{
    const json_t *seed = json_object_get(json_array_get(job->setup.items, index), "seed");
    if (json_is_integer(seed))
        return (uint64_t)json_integer_value(seed);
    /* 53 bits, as every reader of JSON has them: what is shown can be sent again */
    return job->setup.is_batch ? dsl_seed(job->seed, "item", index) >> 11 : job->seed;
}

static struct dsl_program *find_program(void *context, const char *name)
{
    const struct dsl_service_options *o = &((struct dsl_item *)context)->job->service->options;
    return o->find_program ? o->find_program(o->program_context, name) : NULL;
}

/* NULL: *error. Without locks. */
static struct dsl_run *make_run(struct dsl_item *item, uint32_t rank, struct dsl_error *error)
{
    struct dsl_job *job = item->job;
    struct dsl_service *service = job->service;
    struct dsl_run_setup setup = job->setup.run;
    setup.args = json_object_get(json_array_get(job->setup.items, item->index), "args");
    setup.seed = seed_of(job, item->index);
    setup.rank = rank;
    setup.clock = service->options.clock;
    setup.memory_total = &service->memory;
    setup.memory_total_limit = service->options.memory_total;
    setup.wants_trace = job->setup.has_trace;
    setup.host = (struct dsl_run_host){.emit = dsl_item_emit,
                                       .listens = dsl_item_listens,
                                       .find_program = find_program,
                                       .wake = dsl_item_wake,
                                       .context = item};
    struct dsl_run *run = NULL;
    return dsl_run_create(&setup, &run, error) == SERVERD_OK ? run : NULL;
}

/* The object, or, of a batch whose results are too many bytes, one that says so; takes it over. */
static json_t *bounded(struct dsl_service *service, struct dsl_job *job, json_t *object)
{
    if (!job->setup.is_batch)
        return object;
    const size_t n = json_dumpb(object, NULL, 0, JSON_COMPACT);
    (void)pthread_mutex_lock(&service->lock);
    const bool fits = n <= LIMIT_DSL_RESULTS_BYTES - job->n_result_bytes;
    job->n_result_bytes += fits ? n : 0;
    (void)pthread_mutex_unlock(&service->lock);
    if (fits)
        return object;
    json_decref(object);
    return dsl_job_stub(job, "failed",
                        json_pack("{s:s, s:s}", "code", "memory_limit", "message",
                                  "The results of this batch are too large."));
}

/* What a run failed with that was never made. */
static json_t *failure_of(const struct dsl_error *error)
{
    return json_pack("{s:s, s:s, s:s?, s:i, s:O?}", "code", error->code, "message", error->message,
                     "param", *error->param ? error->param : NULL, "line", (int)error->line,
                     "traceback", error->traceback);
}

static void count_run(struct dsl_service *service, const struct dsl_item *item, const char *status)
{
    struct metrics *metrics = service->options.metrics;
    const struct dsl_usage usage = dsl_run_usage(item->run);
    const struct dsl_counters counters = dsl_run_counters(item->run);
    const struct dsl_error *error = dsl_run_error(item->run);
    const char *run_labels[] = {item->job->program_name, status};
    static const char *const limits[] = {"instruction_limit", "cpu_limit",    "memory_limit",
                                         "deadline_exceeded", "branch_limit", "gen_limit",
                                         "budget_exceeded",   "call_depth"};
    metrics_add_labelled(metrics, METRIC_PROGRAM_RUNS, run_labels, 1);
    metrics_add(metrics, METRIC_PROGRAM_PREFILL_TOKENS, (double)usage.prefill_tokens);
    metrics_add(metrics, METRIC_PROGRAM_REUSED_TOKENS, (double)usage.reused_tokens);
    metrics_add(metrics, METRIC_PROGRAM_REPREFILLED_TOKENS, (double)usage.reprefilled_tokens);
    metrics_add(metrics, METRIC_PROGRAM_RETOKENIZED_TOKENS, (double)usage.retokenized_tokens);
    metrics_add(metrics, METRIC_PROGRAM_FORCED_TOKENS, (double)usage.forced_tokens);
    metrics_add(metrics, METRIC_PROGRAM_INSTRUCTIONS, (double)counters.instructions);
    for (size_t i = 0; i < DSL_N_OPS; i++)
        if (counters.n_ops[i] > 0)
            metrics_add_labelled(metrics, METRIC_PROGRAM_OPS, &dsl_op_names[i],
                                 (double)counters.n_ops[i]);
    for (size_t i = 0; error && i < sizeof limits / sizeof *limits; i++)
        if (strcmp(limits[i], error->code) == 0)
            metrics_add_labelled(metrics, METRIC_PROGRAM_KILLED, &limits[i], 1);
}
static void end_item(struct dsl_service *service, struct dsl_item *item, json_t *object)
{
    struct dsl_job *job = item->job;
    json_t *result = dsl_item_result(job, item->index, item->id, bounded(service, job, object));
    const char *status = json_string_value(json_object_get(result, "status"));
    const bool has_failed = !status || strcmp(status, "completed") != 0;
    const bool is_said =
        !job->setup.is_batch || (result && dsl_job_say_done(job, item->index, result));
    (void)pthread_mutex_lock(&service->lock);
    while (item->n_users > 0) /* they are short */
        (void)pthread_cond_wait(&service->is_free, &service->lock);
    struct dsl_run *run = item->run;
    item->run = NULL;
    (void)pthread_mutex_unlock(&service->lock);
    const struct dsl_usage usage = run ? dsl_run_usage(run) : (struct dsl_usage){0};
    dsl_run_destroy(run); /* the last item's end lets go of the model */
    (void)pthread_mutex_lock(&service->lock);
    if (item->previous)
        item->previous->next = item->next;
    else
        service->items = item->next;
    if (item->next)
        item->next->previous = item->previous;
    service->n_items--;
    json_decref(job->results[item->index]);
    job->results[item->index] = result;
    job->n_active--;
    job->n_ended++;
    job->n_tokens += usage.prompt_tokens + usage.completion_tokens;
    job->n_failed += has_failed;
    const bool stops = (has_failed && job->setup.stops_on_error) || !is_said;
    if (stops && !job->is_stopped)
        dsl_job_stop_items(service, job);
    const bool ends = dsl_job_begin_end(job);
    if (!ends)
        dsl_job_look_for_rest(service, job);
    (void)pthread_cond_broadcast(&service->has_work); /* there is room for another */
    (void)pthread_mutex_unlock(&service->lock);
    free(item);
    if (ends)
        dsl_job_end(service, job);
}

/* ---- workers -----------------------------------------------------------------------------------
 */

static void observe_gaps(struct dsl_service *service, struct dsl_run *run)
{
    uint64_t gaps[GAPS_AT_ONCE];
    const uint32_t n = dsl_run_take_gaps(run, gaps, GAPS_AT_ONCE);
    for (uint32_t i = 0; i < n; i++)
        metrics_observe(service->options.metrics, METRIC_PROGRAM_GAP_SECONDS,
                        (double)gaps[i] * 1e-9);
}

/* Makes an item's run. False: it could not be, and the item has ended. */
static bool has_run(struct dsl_service *service, struct dsl_item *item)
{
    struct dsl_error error;
    if (item->run)
        return true;
    (void)pthread_mutex_lock(&service->lock);
    const uint32_t rank = ++service->rank;
    (void)pthread_mutex_unlock(&service->lock);
    dsl_error_init(&error);
    struct dsl_run *run = make_run(item, rank, &error);
    if (run) {
        (void)pthread_mutex_lock(&service->lock);
        item->run = run;
        (void)pthread_mutex_unlock(&service->lock);
        return true;
    }
    const char *labels[] = {item->job->program_name, "failed"};
    metrics_add_labelled(service->options.metrics, METRIC_PROGRAM_RUNS, labels, 1);
    item->job->was_refused = !item->job->setup.is_batch; /* there is no other item */
    json_t *object = dsl_job_stub(item->job, "failed", failure_of(&error));
    dsl_error_deinit(&error);
    end_item(service, item, object);
    return false;
}

/* It waits for something. */
static void settle(struct dsl_service *service, struct dsl_item *item, enum dsl_progress progress)
{
    struct dsl_job *job = item->job;
    struct dsl_run *run = item->run;
    const bool needs_tools = progress == DSL_RUN_NEEDS_TOOLS;
    const uint64_t timer_ns = progress == DSL_RUN_AGAIN ? UINT64_MAX : dsl_run_timer_ns(run);
    const uint32_t n_branches = dsl_run_counters(run).n_branches_active;
    json_t *object = NULL;
    if (needs_tools)
        object = dsl_item_result(job, item->index, item->id,
                                 dsl_run_object(run, job->setup.has_text, job->setup.has_trace));
    (void)pthread_mutex_lock(&service->lock);
    item->timer_ns = timer_ns;
    if (timer_ns < service->look_at_ns)
        service->look_at_ns = timer_ns;
    item->n_branches = n_branches;
    if (progress == DSL_RUN_AGAIN && !item->is_long)
        item->long_since_ns = dsl_service_now(service);
    item->is_long = progress == DSL_RUN_AGAIN && !item->stop; /* its end waits for nobody */
    if (progress == DSL_RUN_AGAIN || item->is_woken || item->stop) {
        dsl_item_push(service, item);
        if (item->stop)
            (void)pthread_cond_signal(&service->has_work);
    } else if (needs_tools && object) {
        const uint64_t now = dsl_service_now(service);
        item->state = ITEM_NEEDS_TOOLS;
        item->spent_ns += now - item->since_ns;
        json_decref(job->results[item->index]);
        job->results[item->index] = object;
        object = NULL;
        job->n_waiting++;
        service->n_waiting_tool++;
        dsl_job_look_for_rest(service, job);
    } else {
        item->state = ITEM_BLOCKED;
        service->n_blocked++;
    }
    (void)pthread_mutex_unlock(&service->lock);
    json_decref(object);
}

static void advance(struct dsl_service *service, struct dsl_item *item)
{
    if (!has_run(service, item))
        return;
    (void)pthread_mutex_lock(&service->lock);
    const char *stop = item->stop;
    item->stop = NULL;
    (void)pthread_mutex_unlock(&service->lock);
    if (stop)
        dsl_run_stop(item->run, stop);
    const enum dsl_progress progress = dsl_run_advance(item->run, service->options.slice_ns);
    observe_gaps(service, item->run);
    if (progress != DSL_RUN_ENDED) {
        settle(service, item, progress);
        return;
    }
    const struct dsl_job *job = item->job;
    json_t *object = dsl_run_object(item->run, job->setup.has_text, job->setup.has_trace);
    const char *status = json_string_value(json_object_get(object, "status"));
    count_run(service, item, status ? status : "failed");
    if (!object)
        object = dsl_job_stub(job, "failed",
                              json_pack("{s:s, s:s}", "code", "memory_limit", "message",
                                        "The server is out of memory."));
    end_item(service, item, object);
}

/* What has waited long enough goes on. Returns when to look again. Under the lock. */
static uint64_t look_at_time(struct dsl_service *service)
{
    const uint64_t now = dsl_service_now(service);
    if (now < service->look_at_ns)
        return service->look_at_ns;
    uint64_t next = service->items ? now + DSL_LONGEST_WAIT_NS : UINT64_MAX;
    for (struct dsl_item *item = service->items; item; item = item->next) {
        const bool counts = item->state != ITEM_NEEDS_TOOLS;
        if (counts && now - item->since_ns + item->spent_ns > item->deadline_ns) {
            item->stop = "deadline_exceeded";
            item->deadline_ns = UINT64_MAX;
            dsl_item_make_ready(item);
        } else if (item->is_long && now - item->long_since_ns > item->compute_ns) {
            item->stop = "cpu_limit"; /* with what is left of the processors it may have had less */
            item->compute_ns = UINT64_MAX;
            dsl_item_make_ready(item);
        } else if (now >= item->timer_ns) {
            item->timer_ns = UINT64_MAX;
            dsl_item_make_ready(item);
        } else if (item->timer_ns < next) {
            next = item->timer_ns;
        }
    }
    service->look_at_ns = next;
    return next;
}

/* The first in the queue that may begin one more run. Under the lock; NULL: none may. */
static struct dsl_item *begin_next(struct dsl_service *service)
{
    if (service->n_items >= service->options.max_runs)
        return NULL;
    struct dsl_job *job = service->queue;
    while (job && job->n_active >= job->max_parallel)
        job = job->next_queued;
    if (!job)
        return NULL;
    struct dsl_item *item = new_item(job, job->next_item);
    if (!item)
        return NULL;
    dsl_item_begin(service, item);
    item->state = ITEM_ADVANCING;
    if (job->is_queued && job->next_queued) { /* others of its priority take turns with it */
        dsl_job_dequeue(service, job);
        dsl_job_enqueue(service, job);
    }
    return item;
}

static void wait_until(struct dsl_service *service, uint64_t next_ns)
{
    struct timespec until;
    const uint64_t now = dsl_service_now(service);
    if (next_ns == UINT64_MAX) {
        (void)pthread_cond_wait(&service->has_work, &service->lock);
        return;
    }
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = next_ns > now ? next_ns - now : 0;
    ns = (uint64_t)until.tv_nsec + (ns < DSL_LONGEST_WAIT_NS ? ns : DSL_LONGEST_WAIT_NS);
    until.tv_sec += (time_t)(ns / SECOND_NS);
    until.tv_nsec = (long)(ns % SECOND_NS);
    (void)pthread_cond_timedwait(&service->has_work, &service->lock, &until);
}

/* Until the kick that is expected, or for a while. Called with the lock, which is free meanwhile.
 */
static void spin(struct dsl_service *service)
{
    const uint32_t seen = service->expected_kick;
    const uint64_t end_ns = clock_now_ns(&system_clock) + LONGEST_SPIN_NS;
    service->is_kick_expected = false;
    service->n_spinning++;
    (void)pthread_mutex_unlock(&service->lock);
    while (atomic_load_explicit(&service->n_kicks, memory_order_relaxed) == seen &&
           clock_now_ns(&system_clock) < end_ns)
        cpu_pause();
    (void)pthread_mutex_lock(&service->lock);
    service->n_spinning--;
}

/* At most every other thread: runs go on beside texts that take long to read. */
static bool may_run_errand(const struct dsl_service *service)
{
    return service->n_errands > 0 &&
           2 * service->n_errands_running < max_u32(service->options.n_threads, 2) - 1;
}

/* Called with the lock, which is free meanwhile. */
static void run_errand(struct dsl_service *service)
{
    const struct dsl_errand errand = service->errands[service->first_errand];
    service->first_errand = (service->first_errand + 1) % LIMIT_DSL_ERRANDS;
    service->n_errands--;
    service->n_errands_running++;
    (void)pthread_mutex_unlock(&service->lock);
    errand.run(errand.context);
    (void)pthread_mutex_lock(&service->lock);
    service->n_errands_running--;
    (void)pthread_cond_signal(&service->has_work);
}

/* Under the lock: nothing will come any more. */
static bool is_over(const struct dsl_service *service)
{
    return service->is_stopping && service->n_open + service->n_errands == 0;
}

/* Called with the lock, which is free meanwhile. */
static void advance_unlocked(struct dsl_service *service, struct dsl_item *item)
{
    (void)pthread_mutex_unlock(&service->lock);
    advance(service, item);
    (void)pthread_mutex_lock(&service->lock);
}

/* Under the lock. */
static void work_slowly(struct dsl_service *service)
{
#ifdef SCHED_IDLE
    /* Of low niceness it would be late to leave its processor to a worker of the engine that wakes,
     * which counts as lost then and rests (runtime/worker_pool.c). */
    const struct sched_param none = {0};
    (void)pthread_setschedparam(pthread_self(), SCHED_IDLE, &none);
#endif
    while (!is_over(service)) {
        struct dsl_item *item = dsl_item_pop(&service->long_ready);
        if (item)
            advance_unlocked(service, item);
        else
            (void)pthread_cond_wait(&service->has_slow_work, &service->lock);
    }
}

/* Under the lock. */
static void work(struct dsl_service *service)
{
    while (!is_over(service)) {
        const uint64_t next_ns = look_at_time(service);
        if (may_run_errand(service)) {
            run_errand(service);
            continue;
        }
        struct dsl_item *item = begin_next(service);
        if (!item)
            item = dsl_item_pop(&service->ready);
        if (!item) {
            if (service->is_kick_expected)
                spin(service);
            else
                wait_until(service, next_ns);
            continue;
        }
        if (service->ready.first) /* for another one */
            (void)pthread_cond_signal(&service->has_work);
        advance_unlocked(service, item);
    }
}

void *dsl_service_work(void *context)
{
    const struct dsl_worker *worker = context;
    struct dsl_service *service = worker->service;
    (void)pthread_mutex_lock(&service->lock);
    if (worker->is_slow)
        work_slowly(service);
    else
        work(service);
    (void)pthread_cond_broadcast(&service->has_work);
    (void)pthread_cond_broadcast(&service->has_slow_work);
    (void)pthread_mutex_unlock(&service->lock);
    return NULL;
}
