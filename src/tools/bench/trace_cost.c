/* serverd-bench trace-cost: what a trace of operations (runtime/trace.h) costs, and how much of a
 * step it explains. Steps with and without it take turns in one process and do the same work, so
 * that whatever else the machine does meets both alike; a pair of neighbours is one sample. */
#include "base/error.h"
#include "base/limits.h"
#include "program/dtype.h"
#include "tools/bench/commands.h"
#include "tools/bench/model_driver.h"
#include "tools/bench/report.h"

#include <math.h>
#include <time.h>

#define WARM_UP_PAIRS 8u

struct values {
    const char *model_path, *device;
    uint32_t threads, prompt, depth, pairs, prompt_pairs;
};

struct cost {
    struct samples off, on, ratio; /* ms; on / off of a pair */
    double n_events;               /* of a step */
    double ops;                    /* share of the steps' time, of the calling thread */
};

/* ---- what the trace explains ---------------------------------------------------------------- */

/* The last step's. */
static void add_shares(const struct trace *trace, struct cost *cost)
{
    const struct trace_step *step = trace_step_at(trace, trace_n_steps(trace) - 1);
    double time = (double)(step->end_ns - step->begin_ns);
    for (uint32_t w = 0; w < trace_n_workers(trace); w++)
        for (uint32_t i = trace_n_events(trace, w); i-- > 0;) {
            const struct trace_event *event = trace_event_at(trace, w, i);
            if (event->step != step->step)
                break;
            cost->n_events++;
            if (w == 0 && time > 0)
                cost->ops += event->duration_ns / time;
        }
}

/* ---- pairs ----------------------------------------------------------------------------------- */

/* Of one thread its own time counts: what others on the machine do is not in it. */
static double now_ms(const struct driver *driver)
{
    struct timespec t;
    bool is_alone = worker_pool_n_workers(driver->pool) == 1;
    (void)clock_gettime(is_alone ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static serverd_status time_step(struct driver *driver, const struct driver_slice *slice,
                                struct trace *or_null, double *ms, serverd_error *err)
{
    runtime_set_trace(driver->runtime, or_null);
    double begin = now_ms(driver);
    serverd_status status = driver_step(driver, slice, 1, err);
    *ms = now_ms(driver) - begin;
    return status;
}

static serverd_status run_pairs(struct driver *driver, struct trace *trace,
                                struct driver_slice slice, uint32_t n_pairs, struct cost *cost,
                                serverd_error *err)
{
    for (uint32_t i = 0; i < n_pairs + WARM_UP_PAIRS; i++) {
        double ms[2]; /* without, with */
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t is_on = half ^ (i & 1);
            serverd_status status =
                time_step(driver, &slice, is_on ? trace : NULL, &ms[is_on], err);
            if (status != SERVERD_OK)
                return status;
        }
        if (i < WARM_UP_PAIRS)
            continue;
        add_shares(trace, cost);
        samples_add(&cost->off, ms[0]);
        samples_add(&cost->on, ms[1]);
        samples_add(&cost->ratio, ms[1] / ms[0]);
    }
    return SERVERD_OK;
}

static void report(struct table *table, const char *name, struct cost *cost)
{
    static const double shares[] = {0.1, 0.5};
    double n = (double)cost->ratio.n;
    table_cell(table, "%s", name);
    for (int i = 0; i < 2; i++) {
        table_cell(table, "%.3f", samples_percentile(&cost->off, shares[i]));
        table_cell(table, "%.3f", samples_percentile(&cost->on, shares[i]));
    }
    table_cell(table, "%.2f %%", 100 * (samples_percentile(&cost->ratio, 0.5) - 1));
    /* of the median: half the distance of the quantiles between which it lies in 68 % */
    double off = 0.5 / sqrt(n);
    table_cell(table, "%.2f %%",
               50 * (samples_percentile(&cost->ratio, 0.5 + off) -
                     samples_percentile(&cost->ratio, 0.5 - off)));
    table_cell(table, "%.0f", cost->n_events / n);
    table_cell(table, "%.1f %%", 100 * cost->ops / n);
    samples_deinit(&cost->off);
    samples_deinit(&cost->on);
    samples_deinit(&cost->ratio);
}

static serverd_status measure(const struct values *values, struct driver *driver,
                              struct trace *trace, struct table *table, serverd_error *err)
{
    char name[48];
    struct cost cost = {0};
    serverd_status status = SERVERD_OK;
    if (values->prompt > 0) {
        const struct driver_slice prompt = {0, 0, values->prompt, true};
        status = run_pairs(driver, trace, prompt, values->prompt_pairs, &cost, err);
        (void)snprintf(name, sizeof name, "prefill of %u", values->prompt);
        if (status == SERVERD_OK)
            report(table, name, &cost);
    }
    if (status == SERVERD_OK && !driver->program->config.is_encoder) {
        const struct driver_slice token = {0, values->depth, 1, true};
        if (values->depth > 0)
            status = driver_prefill(driver, 1, 0, values->depth, driver->max_rows, err);
        cost = (struct cost){0};
        if (status == SERVERD_OK)
            status = run_pairs(driver, trace, token, values->pairs, &cost, err);
        (void)snprintf(name, sizeof name, "decode at %u", values->depth);
        if (status == SERVERD_OK)
            report(table, name, &cost);
    }
    return status;
}

static serverd_status run(const void *arg, serverd_error *err)
{
    static const char *const headers[] = {"<step",      "off p10 ms", "on p10 ms",
                                          "off p50 ms", "on p50 ms",  "cost",
                                          "±",          "events",     "ops"};
    const struct values *values = arg;
    const struct driver_options options = {
        .path = values->model_path,
        .device = values->device,
        .threads = values->threads,
        .max_rows = values->prompt > 512 ? values->prompt : 512,
        .max_seqs = 1,
        .max_context = (values->prompt > values->depth ? values->prompt : values->depth) + 1,
        .kv_dtype = DTYPE_BF16};
    struct driver driver = {0};
    struct table table = {0};
    struct trace *trace = NULL;
    if (!values->model_path)
        return fail(err, SERVERD_INVALID, "--model-path: names the model");
    serverd_status status = table_init(&table, sizeof headers / sizeof *headers, headers, err);
    if (status == SERVERD_OK)
        status = driver_open(&driver, &options, err);
    if (status == SERVERD_OK)
        status = runtime_create_trace(driver.runtime, LIMIT_TRACE_ALL_EVENTS, 64, &trace, err);
    if (status == SERVERD_OK)
        status = measure(values, &driver, trace, &table, err);
    if (table.n_cells > 0)
        table_print(&table, stdout);
    table_deinit(&table);
    driver_close(&driver);
    trace_destroy(trace);
    return status;
}

#define AT(field) offsetof(struct values, field)

static const struct command_option rows[] = {
    {"model-path", 'm', COMMAND_STRING, AT(model_path), "FILE", NULL, 0, 0, "Model to measure"},
    {"threads", 't', COMMAND_COUNT, AT(threads), "N", "0", 0, 1024,
     "Threads that compute; 0: one for each processor"},
    {"device", 0, COMMAND_STRING, AT(device), "NAME", "auto", 0, 0, "Back-end, as the daemon's"},
    {"prompt", 'p', COMMAND_COUNT, AT(prompt), "N", "512", 0, 8192,
     "Tokens of a step of prefill; 0: none"},
    {"depth", 'd', COMMAND_COUNT, AT(depth), "N", "128", 0, 1u << 20,
     "Tokens that the context holds in a step of decode"},
    {"pairs", 'n', COMMAND_COUNT, AT(pairs), "N", "1000", 1, 1000000, "Pairs of steps of decode"},
    {"prompt-pairs", 0, COMMAND_COUNT, AT(prompt_pairs), "N", "40", 1, 1000000,
     "Pairs of steps of prefill"},
};

const struct command bench_trace_cost = {
    .name = "trace-cost",
    .summary = "What a trace of operations costs, and how much of a step it explains",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
    .bare = {"model-path"},
    .run = run,
    .values_bytes = sizeof(struct values),
};
