#include "tools/bench/simulation.h"

#include "base/arena.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/numeric.h"
#include "tools/bench/report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Requests that wait although nothing runs: the daemon's thread looks again after this long, and
 * after so many looks the scheduler is taken to stand still. */
#define BLOCKED_NS    UINT64_C(10000000)
#define MAX_BLOCKED   100000u
#define PROGRESS_MASK 0xfffu /* steps between two looks at how far it is */

enum request_state { REQUEST_TO_COME, REQUEST_OPEN, REQUEST_ENDED };

struct open_request {
    enum request_state state;
    uint64_t id, last_token_ns;
    struct simulated_group *class, *key;
};

/* A cancel that is to come. */
struct cancel {
    uint64_t at_ns;
    uint32_t request;
};

struct simulation {
    const struct trace *trace;
    struct virtual_engine *engine;
    struct simulation_result *result;
    struct open_request *requests; /* [trace->n] */
    uint64_t begin_ns;             /* what the trace calls 0 */
    uint64_t last_end_ns;
    uint32_t n_submitted, n_ended;
    struct cancel *cancels; /* [n_cancels], by time */
    uint32_t n_cancels, next_cancel;
    uint64_t own_ns, step_ns; /* real time in `deliver`, and in engine_step */
    uint32_t n_blocked;
    bool has_lost_order; /* an event that no open request can have */
};

/* ---- groups ---------------------------------------------------------------------------------- */

static struct simulated_group *find_group(struct simulated_group **groups, uint32_t *names,
                                          uint32_t *n, uint32_t name)
{
    for (uint32_t i = 0; i < *n; i++)
        if (names[i] == name)
            return groups[i];
    if (*n > SIMULATED_GROUPS)
        return groups[SIMULATED_GROUPS];
    groups[*n] = calloc(1, sizeof **groups);
    if (!groups[*n])
        return NULL;
    names[*n] = *n == SIMULATED_GROUPS ? UINT32_MAX : name;
    return groups[(*n)++];
}

static serverd_status make_groups(struct simulation *s, serverd_error *err)
{
    struct simulation_result *result = s->result;
    result->all = calloc(1, sizeof *result->all);
    bool is_good = result->all != NULL;
    for (uint32_t i = 0; i < s->trace->n && is_good; i++) {
        const struct trace_request *r = &s->trace->requests[i];
        struct open_request *open = &s->requests[i];
        open->class = find_group(result->class, result->class_name, &result->n_classes, r->class);
        open->key = find_group(result->key, result->key_name, &result->n_keys, r->key);
        is_good = open->class && open->key;
    }
    return is_good ? SERVERD_OK : fail(err, SERVERD_NOMEM, "no memory for the results");
}

/* Every group that a request is of; the member's offset and what to add. */
static void add_duration(struct simulation *s, const struct open_request *open, size_t offset,
                         uint64_t ns)
{
    struct simulated_group *groups[] = {s->result->all, open->class, open->key};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        durations_add((struct durations *)(void *)((char *)groups[i] + offset), ns);
}

static void count(struct simulation *s, const struct open_request *open, size_t offset)
{
    struct simulated_group *groups[] = {s->result->all, open->class, open->key};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        groups[i]->n++;
        ++*(uint32_t *)(void *)((char *)groups[i] + offset);
    }
}

static void keep_error(struct simulation *s, const char *text)
{
    if (s->result->first_error[0] == '\0')
        (void)snprintf(s->result->first_error, sizeof s->result->first_error, "%.159s", text);
}

/* ---- events ---------------------------------------------------------------------------------- */

static void on_token(struct simulation *s, struct open_request *open, const struct event *event)
{
    uint64_t now_ns = s->engine->machine.now_ns;
    if (event->index > 0)
        add_duration(s, open, offsetof(struct simulated_group, itl), now_ns - open->last_token_ns);
    open->last_token_ns = now_ns;
}

static void on_end(struct simulation *s, struct open_request *open, const struct event *event)
{
    const struct request_times *t = &event->times;
    struct simulated_group *groups[] = {s->result->all, open->class, open->key};
    open->state = REQUEST_ENDED;
    s->n_ended++;
    s->last_end_ns = t->end_ns;
    for (size_t i = 0; i < sizeof groups / sizeof *groups && t->admitted_ns; i++) {
        groups[i]->n_prompt += event->n_prompt;
        groups[i]->n_cached += event->n_cached;
        groups[i]->n_output += event->n_output;
    }
    if (t->admitted_ns)
        add_duration(s, open, offsetof(struct simulated_group, queue),
                     t->admitted_ns - t->arrival_ns);
    if (t->first_token_ns)
        add_duration(s, open, offsetof(struct simulated_group, ttft),
                     t->first_token_ns - t->arrival_ns);
    if (event->status == SERVERD_OK) {
        count(s, open,
              event->is_cancelled ? offsetof(struct simulated_group, n_cancelled)
                                  : offsetof(struct simulated_group, n_done));
        return;
    }
    count(s, open,
          t->admitted_ns ? offsetof(struct simulated_group, n_failed)
                         : offsetof(struct simulated_group, n_refused));
    keep_error(s, event->message ? event->message : status_name(event->status));
}

static void deliver(void *context, const struct event *events, uint32_t n)
{
    struct simulation *s = context;
    uint64_t begin_ns = clock_now_ns(&system_clock);
    for (uint32_t i = 0; i < n; i++) {
        struct open_request *open = events[i].user;
        s->has_lost_order |= open->state != REQUEST_OPEN || open->id != events[i].request_id;
        if (events[i].kind == EVENT_TOKEN)
            on_token(s, open, &events[i]);
        else if (events[i].kind == EVENT_END)
            on_end(s, open, &events[i]);
        free(events[i].message);
    }
    s->own_ns += clock_now_ns(&system_clock) - begin_ns;
}

/* ---- arrivals -------------------------------------------------------------------------------- */

static struct request *make_request(const struct simulation *s, uint32_t index)
{
    const struct trace_request *r = &s->trace->requests[index];
    struct request *request = request_create();
    int32_t *prompt = request ? arena_array(request->arena, r->n_prompt, sizeof *prompt) : NULL;
    if (!prompt) {
        request_destroy(request);
        return NULL;
    }
    trace_prompt(s->trace, r, prompt);
    request->user = &s->requests[index];
    request->prompt = prompt;
    request->n_prompt = r->n_prompt;
    request->max_new_tokens = r->n_output;
    request->sampling.temperature = 0;
    request->priority = r->priority;
    request->tenant = hash_mix(r->key);
    request->cache_space = request->tenant; /* as in the daemon: keys share nothing */
    request->arrival_ns = s->begin_ns + r->arrival_ns;
    request->deadline_ns = r->deadline_ns ? request->arrival_ns + r->deadline_ns : 0;
    return request;
}

static serverd_status submit(struct simulation *s, uint32_t index, serverd_error *err)
{
    struct open_request *open = &s->requests[index];
    struct request *request = make_request(s, index);
    if (!request)
        return fail(err, SERVERD_NOMEM, "no memory for request %u", index);
    open->state = REQUEST_OPEN;
    serverd_error refusal;
    if (engine_submit(s->engine->engine, request, &open->id, &refusal) == SERVERD_OK)
        return SERVERD_OK;
    request_destroy(request);
    open->state = REQUEST_ENDED;
    s->n_ended++;
    count(s, open, offsetof(struct simulated_group, n_refused));
    keep_error(s, refusal.text);
    return SERVERD_OK;
}

static int compare_cancels(const void *a, const void *b)
{
    const struct cancel *x = a, *y = b;
    return x->at_ns < y->at_ns ? -1 : x->at_ns > y->at_ns;
}

static serverd_status plan_cancels(struct simulation *s, serverd_error *err)
{
    s->cancels = calloc(max_size(s->trace->n, 1), sizeof *s->cancels);
    if (!s->cancels)
        return fail(err, SERVERD_NOMEM, "no memory for cancels");
    for (uint32_t i = 0; i < s->trace->n; i++) {
        const struct trace_request *r = &s->trace->requests[i];
        if (r->cancel_after_ns)
            s->cancels[s->n_cancels++] =
                (struct cancel){s->begin_ns + r->arrival_ns + r->cancel_after_ns, i};
    }
    qsort(s->cancels, s->n_cancels, sizeof *s->cancels, compare_cancels);
    return SERVERD_OK;
}

static uint64_t arrival_ns(const struct simulation *s, uint32_t index)
{
    return index < s->trace->n ? s->begin_ns + s->trace->requests[index].arrival_ns : UINT64_MAX;
}

static uint64_t cancel_ns(const struct simulation *s)
{
    return s->next_cancel < s->n_cancels ? s->cancels[s->next_cancel].at_ns : UINT64_MAX;
}

/* All that has happened up to now. */
static serverd_status take_arrivals(struct simulation *s, serverd_error *err)
{
    uint64_t now_ns = s->engine->machine.now_ns;
    for (; arrival_ns(s, s->n_submitted) <= now_ns; s->n_submitted++)
        if (submit(s, s->n_submitted, err))
            return err->code;
    for (; cancel_ns(s) <= now_ns; s->next_cancel++) {
        const struct open_request *open = &s->requests[s->cancels[s->next_cancel].request];
        if (open->state == REQUEST_OPEN)
            engine_cancel(s->engine->engine, open->id);
    }
    return SERVERD_OK;
}

/* ---- the run --------------------------------------------------------------------------------- */

/* Nothing can run now: on to the next moment at which that may change. */
static serverd_status skip_time(struct simulation *s, serverd_error *err)
{
    uint64_t *now_ns = &s->engine->machine.now_ns, next_ns = arrival_ns(s, s->n_submitted);
    next_ns = cancel_ns(s) < next_ns ? cancel_ns(s) : next_ns;
    if (s->n_ended < s->n_submitted) {
        if (++s->n_blocked == MAX_BLOCKED)
            return fail(err, SERVERD_INTERNAL,
                        "the scheduler stands still at %.3f s with %u requests open",
                        (double)(*now_ns - s->begin_ns) * 1e-9, s->n_submitted - s->n_ended);
        next_ns = *now_ns + BLOCKED_NS < next_ns ? *now_ns + BLOCKED_NS : next_ns;
    }
    if (next_ns != UINT64_MAX)
        *now_ns = next_ns;
    return SERVERD_OK;
}

static serverd_status run(struct simulation *s, serverd_error *err)
{
    const struct trace *trace = s->trace;
    while (s->n_ended < trace->n) {
        if (take_arrivals(s, err))
            return err->code;
        uint64_t begin_ns = clock_now_ns(&system_clock);
        bool has_done = engine_step(s->engine->engine);
        s->step_ns += clock_now_ns(&system_clock) - begin_ns;
        if (s->has_lost_order)
            return fail(err, SERVERD_INTERNAL, "an event came for a request that is not open");
        if (has_done)
            s->n_blocked = 0;
        else if (skip_time(s, err))
            return err->code;
        if ((s->engine->machine.n_steps & PROGRESS_MASK) == 0)
            progress_bar((double)s->n_ended / trace->n, "%u of %u requests", s->n_ended, trace->n);
    }
    progress_clear();
    return virtual_engine_check_idle(s->engine, err);
}

static void sum_up(struct simulation *s, uint64_t real_begin_ns)
{
    struct simulation_result *result = s->result;
    const struct virtual_machine *machine = &s->engine->machine;
    uint64_t first_ns = arrival_ns(s, 0);
    if (s->last_end_ns > first_ns)
        result->makespan_s = (double)(s->last_end_ns - first_ns) * 1e-9;
    result->n_steps = machine->n_steps;
    result->n_rows = machine->n_rows;
    result->busy_s = (double)machine->busy_ns * 1e-9;
    result->n_preemptions = (uint64_t)metrics_get(s->engine->metrics, METRIC_PREEMPTIONS);
    result->wall_s = (double)(clock_now_ns(&system_clock) - real_begin_ns) * 1e-9;
    if (machine->n_steps > 0)
        result->scheduler_us =
            (double)(s->step_ns - s->own_ns - machine->real_ns) * 1e-3 / (double)machine->n_steps;
}

static serverd_status prepare(struct simulation *s, const struct virtual_engine_options *options,
                              serverd_error *err)
{
    struct virtual_engine_options engine_options = *options;
    engine_options.sink = (struct event_sink){deliver, s};
    s->requests = calloc(max_size(s->trace->n, 1), sizeof *s->requests);
    if (!s->requests)
        return fail(err, SERVERD_NOMEM, "no memory for %u requests", s->trace->n);
    if (make_groups(s, err) || trace_optimum(s->trace, &s->result->n_optimum, err) ||
        virtual_engine_create(&engine_options, &s->engine, err))
        return err->code;
    s->begin_ns = s->engine->machine.now_ns;
    return plan_cancels(s, err);
}

serverd_status simulate(const struct trace *trace, const struct virtual_engine_options *options,
                        struct simulation_result *out, serverd_error *err)
{
    struct simulation_result result = {0};
    struct simulation s = {.trace = trace, .result = &result};
    uint64_t real_begin_ns = clock_now_ns(&system_clock);
    serverd_status status = prepare(&s, options, err);
    if (status == SERVERD_OK)
        status = run(&s, err);
    if (status == SERVERD_OK)
        sum_up(&s, real_begin_ns);
    virtual_engine_destroy(s.engine); /* ends what is open, and says so to `deliver` */
    free(s.requests);
    free(s.cancels);
    if (status == SERVERD_OK)
        *out = result;
    else
        simulation_result_deinit(&result);
    return status;
}

void simulation_result_deinit(struct simulation_result *result)
{
    free(result->all);
    for (uint32_t i = 0; i < result->n_classes; i++)
        free(result->class[i]);
    for (uint32_t i = 0; i < result->n_keys; i++)
        free(result->key[i]);
    *result = (struct simulation_result){0};
}

static const struct simulated_group *find_name(const struct trace *trace, const char *name,
                                               struct simulated_group *const *groups,
                                               const uint32_t *names, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (names[i] != UINT32_MAX && strcmp(trace_name_text(trace, names[i]), name) == 0)
            return groups[i];
    return NULL;
}

const struct simulated_group *simulation_find_class(const struct trace *trace,
                                                    const struct simulation_result *result,
                                                    const char *name)
{
    return find_name(trace, name, result->class, result->class_name, result->n_classes);
}

const struct simulated_group *simulation_find_key(const struct trace *trace,
                                                  const struct simulation_result *result,
                                                  const char *name)
{
    return find_name(trace, name, result->key, result->key_name, result->n_keys);
}
