/* What a simulated run comes to: tables, JSON lines. */
#include "tools/bench/simulate.h"

#include <inttypes.h>

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static double hit_rate(const struct simulated_group *g)
{
    return ratio((double)g->n_cached, (double)g->n_prompt);
}

/* ---- groups by name -------------------------------------------------------------------------- */

/* Calls for all, every class and every key; one that is of all requests says nothing new. */
struct visitor {
    serverd_status (*visit)(void *context, const char *kind, const char *name,
                            const struct simulated_group *group, serverd_error *err);
    void *context;
};

static serverd_status visit_list(const struct visitor *visitor, const struct trace *trace,
                                 const char *kind, struct simulated_group *const *groups,
                                 const uint32_t *names, uint32_t n, serverd_error *err)
{
    serverd_status status = SERVERD_OK;
    for (uint32_t i = 0; i < n && n > 1 && status == SERVERD_OK; i++) {
        const char *name = names[i] == UINT32_MAX ? "(others)"
                           : names[i] == 0        ? "(none)"
                                                  : trace_name_text(trace, names[i]);
        status = visitor->visit(visitor->context, kind, name, groups[i], err);
    }
    return status;
}

static serverd_status visit_groups(const struct visitor *visitor, const struct trace *trace,
                                   const struct simulation_result *r, serverd_error *err)
{
    serverd_status status = visitor->visit(visitor->context, "all", "", r->all, err);
    if (status == SERVERD_OK)
        status = visit_list(visitor, trace, "class", r->class, r->class_name, r->n_classes, err);
    if (status == SERVERD_OK)
        status = visit_list(visitor, trace, "key", r->key, r->key_name, r->n_keys, err);
    return status;
}

/* ---- tables ---------------------------------------------------------------------------------- */

static serverd_status add_counts(void *context, const char *kind, const char *name,
                                 const struct simulated_group *g, serverd_error *err)
{
    (void)err;
    struct table *table = context;
    table_cell(table, "%s %.40s", kind, name);
    table_cell(table, "%u", g->n);
    table_cell(table, "%u", g->n_done);
    table_cell(table, "%u", g->n_refused);
    table_cell(table, "%u", g->n_failed);
    table_cell(table, "%u", g->n_cancelled);
    table_cell(table, "%.1f", 100 * hit_rate(g));
    table_cell(table, "%.2f", ratio(durations_max_ms(&g->queue), durations_mean_ms(&g->queue)));
    return SERVERD_OK;
}

static void add_measure(struct table *table, const char *kind, const char *name,
                        const char *measure, const struct durations *d)
{
    if (d->n == 0)
        return;
    table_cell(table, "%s %.40s", kind, name);
    table_cell(table, "%s", measure);
    table_cell(table, "%.2f", durations_mean_ms(d));
    table_cell(table, "%.2f", durations_percentile_ms(d, 0.50));
    table_cell(table, "%.2f", durations_percentile_ms(d, 0.99));
    table_cell(table, "%.2f", durations_max_ms(d));
    table_cell(table, "%" PRIu64, d->n);
}

static serverd_status add_times(void *context, const char *kind, const char *name,
                                const struct simulated_group *g, serverd_error *err)
{
    (void)err;
    add_measure(context, kind, name, "queue", &g->queue);
    add_measure(context, kind, name, "TTFT", &g->ttft);
    add_measure(context, kind, name, "ITL", &g->itl);
    return SERVERD_OK;
}

static void print_totals(const struct simulation_result *r, FILE *to)
{
    const struct simulated_group *all = r->all;
    double n_steps = (double)r->n_steps,
           optimum = ratio((double)r->n_optimum, (double)all->n_prompt);
    (void)fprintf(to,
                  "\n%.2f s of virtual time, %.1f %% in %" PRIu64
                  " steps of %.1f rows and %.2f ms; "
                  "simulated in %.2f s\n",
                  r->makespan_s, 100 * ratio(r->busy_s, r->makespan_s), r->n_steps,
                  ratio((double)r->n_rows, n_steps), ratio(r->busy_s * 1e3, n_steps), r->wall_s);
    (void)fprintf(to, "output %.1f tok/s, total %.1f tok/s, %.2f requests/s\n",
                  ratio((double)all->n_output, r->makespan_s),
                  ratio((double)(all->n_output + all->n_prompt), r->makespan_s),
                  ratio(all->n_done, r->makespan_s));
    (void)fprintf(to,
                  "hit rate %.2f %% of %" PRIu64 " prompt tokens; in arrival order with a pool "
                  "without end %.2f %%\n",
                  100 * hit_rate(all), all->n_prompt, 100 * optimum);
    (void)fprintf(to, "%" PRIu64 " preemptions; the scheduler took %.2f us of real time per step\n",
                  r->n_preemptions, r->scheduler_us);
    if (r->first_error[0])
        (void)fprintf(to, "first error: %s\n", r->first_error);
}

serverd_status simulate_print(const struct simulate_options *options, const struct trace *trace,
                              const struct simulation_result *result, FILE *to, serverd_error *err)
{
    static const char *const count_headers[] = {
        "<", "requests", "done", "refused", "failed", "cancelled", "hit %", "longest wait/mean"};
    static const char *const time_headers[] = {"<", "<ms", "mean", "p50", "p99", "max", "n"};
    struct table counts, times;
    if (table_init(&counts, 8, count_headers, err))
        return err->code;
    serverd_status status = table_init(&times, 7, time_headers, err);
    if (status == SERVERD_OK) {
        (void)visit_groups(&(struct visitor){add_counts, &counts}, trace, result, err);
        (void)visit_groups(&(struct visitor){add_times, &times}, trace, result, err);
        if (options->label)
            (void)fprintf(to, "%s\n\n", options->label);
        table_print(&counts, to);
        (void)fputc('\n', to);
        table_print(&times, to);
        print_totals(result, to);
        table_deinit(&times);
    }
    table_deinit(&counts);
    return status;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static json_t *json_of_durations(const struct durations *d)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:I}", "mean", durations_mean_ms(d), "p50",
                     durations_percentile_ms(d, 0.50), "p99", durations_percentile_ms(d, 0.99),
                     "max", durations_max_ms(d), "n", (json_int_t)d->n);
}

static json_t *json_of_group(const char *label, const char *kind, const char *name,
                             const struct simulated_group *g)
{
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o, s:o, s:o}",
                     "kind", kind, "label", label ? label : "", "name", name, "n", (json_int_t)g->n,
                     "done", (json_int_t)g->n_done, "refused", (json_int_t)g->n_refused, "failed",
                     (json_int_t)g->n_failed, "cancelled", (json_int_t)g->n_cancelled,
                     "prompt_tokens", (json_int_t)g->n_prompt, "cached_tokens",
                     (json_int_t)g->n_cached, "output_tokens", (json_int_t)g->n_output, "hit_rate",
                     hit_rate(g), "queue_ms", json_of_durations(&g->queue), "ttft_ms",
                     json_of_durations(&g->ttft), "itl_ms", json_of_durations(&g->itl));
}

struct json_context {
    const char *label;
    struct json_lines *lines;
};

static serverd_status write_group(void *context, const char *kind, const char *name,
                                  const struct simulated_group *g, serverd_error *err)
{
    const struct json_context *json = context;
    if (g->n == 0 || kind[0] == 'a') /* all: in the last line */
        return SERVERD_OK;
    return json_lines_add(json->lines, json_of_group(json->label, kind, name, g), err);
}

static json_t *json_of_run(const struct simulate_options *o, const struct simulation_result *r)
{
    json_t *all = json_of_group(o->label, "simulate", "", r->all);
    json_t *more =
        json_pack("{s:s, s:f, s:f, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, "
                  "s:f, s:f, s:b}",
                  "version", PROJECT_VERSION, "makespan_s", r->makespan_s, "busy_s", r->busy_s,
                  "steps", (json_int_t)r->n_steps, "rows", (json_int_t)r->n_rows, "preemptions",
                  (json_int_t)r->n_preemptions, "optimum_hit_rate",
                  ratio((double)r->n_optimum, (double)r->all->n_prompt), "output_tok_s",
                  ratio((double)r->all->n_output, r->makespan_s), "total_tok_s",
                  ratio((double)(r->all->n_output + r->all->n_prompt), r->makespan_s),
                  "scheduler_us_per_step", r->scheduler_us, "wall_s", r->wall_s, "ctx_size",
                  (json_int_t)o->context_size, "kv_pages", (json_int_t)o->n_pages, "max_running",
                  (json_int_t)o->max_running, "prefill_chunk", (json_int_t)o->prefill_chunk,
                  "itl_target_ms", o->itl_target_ms, "queue_wait_bound", o->wait_bound,
                  "prefix_cache", (int)o->has_prefix_cache);
    bool is_good = all && more && json_object_update(all, more) == 0;
    json_decref(more);
    if (is_good)
        return all;
    json_decref(all);
    return NULL;
}

serverd_status simulate_write_jsonl(const struct simulate_options *options,
                                    const struct trace *trace,
                                    const struct simulation_result *result,
                                    struct json_lines *lines, serverd_error *err)
{
    if (!lines->file)
        return SERVERD_OK;
    struct json_context context = {options->label, lines};
    serverd_status status =
        visit_groups(&(struct visitor){write_group, &context}, trace, result, err);
    return status == SERVERD_OK ? json_lines_add(lines, json_of_run(options, result), err) : status;
}
